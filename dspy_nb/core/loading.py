"""From the verified files of a version back to a program: nothing in them is trusted, no code is run."""

from __future__ import annotations

import threading
import warnings
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from dspy_nb.core import program_spec
from dspy_nb.core.durable import parse_json
from dspy_nb.core.errors import InputError
from dspy_nb.core.model_version import ModelVersion, verified_files, verified_metadata
from dspy_nb.core.provenance import package_versions

if TYPE_CHECKING:
    import dspy

__all__ = ["Loader", "RegistryWarning"]

_PROGRAMS_KEPT: Final = 32
_warned: set[tuple[str, str, str]] = set()


class RegistryWarning(UserWarning):
    """A version was made with another DSPy or Python than the one that loads it."""


class Loader:
    """Loads programs and keeps the last ones, by the hash of their files; callers get copies."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, str], dspy.Module] = OrderedDict()
        self._lock = threading.Lock()

    def load(self, version: ModelVersion, program: dspy.Module | type[dspy.Module] | None) -> dspy.Module:
        """Return the program of ``version``; ``Registry.load`` says what it raises."""
        files = verified_files(version.path, version.files, version.ref)
        if program is not None:
            return _load_into(_instance(program), version, files)
        key = version.files["model.json"][0], version.files["metadata.json"][0]
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key].deepcopy()
        loaded = _load_into(None, version, files)
        with self._lock:
            self._kept[key] = loaded.deepcopy()
            while len(self._kept) > _PROGRAMS_KEPT:
                self._kept.popitem(last=False)
        return loaded


def _instance(program: dspy.Module | type[dspy.Module]) -> dspy.Module:
    """Return a copy of the caller's program, or an instance of the caller's class.

    A copy, because two versions loaded into one object would both be the second one.
    """
    import dspy

    if isinstance(program, dspy.Module):
        return program.deepcopy()
    if isinstance(program, type) and issubclass(program, dspy.Module):
        return program()
    raise InputError(f"program= must be a dspy.Module or its class, not a {type(program).__name__}")


def _load_into(program: dspy.Module | None, version: ModelVersion, files: dict[str, bytes]) -> dspy.Module:
    where = version.path / "metadata.json"
    metadata = verified_metadata(files["metadata.json"], where, version.model_id, version.version)
    spec = metadata["signature"]
    state = parse_json(files["model.json"], version.path / "model.json")
    program_spec.check_state(state, spec, str(version.path / "model.json"))
    _warn_of_other_versions(version.ref, metadata.get("packages"))
    loaded = program_spec.rebuild(spec, version.ref) if program is None else program
    program_spec.compare_specs(spec, program_spec.spec_of(loaded), version.ref)
    program_spec.load_state(loaded, state)
    return loaded


def _warn_of_other_versions(ref: str, packages: object) -> None:
    """Warn once per process and difference; DSPy itself logs it on every load."""
    now = package_versions()
    for name, significant in (("dspy", 3), ("python", 2)):
        saved = packages.get(name) if isinstance(packages, dict) else None
        if not isinstance(saved, str) or saved.split(".")[:significant] == now[name].split(".")[:significant]:
            continue
        if (name, saved, now[name]) not in _warned:
            _warned.add((name, saved, now[name]))
            warnings.warn(
                f"{ref} was made with {name} {saved}, this is {name} {now[name]}: its prompts may differ",
                RegistryWarning,
                stacklevel=5,
            )
