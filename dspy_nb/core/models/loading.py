"""From the verified files of a version back to a program: nothing in them is trusted, no code is run."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from dspy_nb.core.errors import InputError
from dspy_nb.core.models.conditions import Conditions, warn_once
from dspy_nb.core.models.submission import package_versions
from dspy_nb.core.models.version import ModelVersion, verified_files, verified_metadata
from dspy_nb.core.programs.copies import copy_of
from dspy_nb.core.programs.spec import compare_specs, different_schemas, rebuild, spec_of
from dspy_nb.core.programs.state import check_state, load_state
from dspy_nb.core.storage.files import parse_json
from dspy_nb.core.text import error_text

if TYPE_CHECKING:
    import dspy

_PROGRAMS_KEPT: Final = 32


@dataclass(frozen=True, slots=True)
class StoredProgram:
    """What the files of a version say, verified and checked.

    Attributes:
        ref: The version.
        metadata: The content of metadata.json.
        state: The content of model.json.
    """

    ref: str
    metadata: Mapping[str, Any]
    state: Mapping[str, Any]

    @property
    def predictors(self) -> dict[str, tuple[Mapping[str, Any], Mapping[str, Any]]]:
        """Path of each predictor -> its spec and its state."""
        items = self.metadata["signature"]["predictors"]
        paths = [item["path"] for item in items]
        states = [self.state if path == "self" else self.state[path] for path in paths]
        return dict(zip(paths, zip(items, states, strict=True), strict=True))


def stored_program(version: ModelVersion, files: Mapping[str, bytes] | None = None) -> StoredProgram:
    """Return what is stored of a version; ``files`` are its verified files, if they were read already.

    Raises:
        Corrupt: The files are not what the log recorded, or not what they should hold.
        Refused: They were written by a newer dspy_nb.
    """
    files = verified_files(version.path, version.files, version.ref) if files is None else files
    where = version.path / "metadata.json"
    metadata = verified_metadata(files["metadata.json"], where, version.model_id, version.version)
    where = version.path / "model.json"
    state = parse_json(files["model.json"], where)
    check_state(state, metadata["signature"], str(where))
    return StoredProgram(version.ref, metadata, state)


class Loader:
    """Loads programs and keeps the last ones, by the hash of their files; callers get copies."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, str], tuple[dspy.Module, Mapping[str, Any]]] = OrderedDict()
        self._lock = threading.Lock()

    def load(self, version: ModelVersion, program: dspy.Module | type[dspy.Module] | None) -> dspy.Module:
        """Return the program of ``version``; ``Registry.load`` says what it raises."""
        loaded, metadata = self._load(version, program)
        Conditions.of(version, metadata).compare(loaded, stacklevel=4)
        return loaded

    def _load(
        self, version: ModelVersion, program: dspy.Module | type[dspy.Module] | None
    ) -> tuple[dspy.Module, Mapping[str, Any]]:
        files = verified_files(version.path, version.files, version.ref)
        if program is not None:
            stored = stored_program(version, files)
            return _build(_instance(program), stored), stored.metadata
        key = version.files["model.json"][0], version.files["metadata.json"][0]
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                kept, metadata = self._kept[key]
                return copy_of(kept), metadata
        stored = stored_program(version, files)
        loaded = _build(None, stored)
        with self._lock:
            self._kept[key] = copy_of(loaded), stored.metadata
            while len(self._kept) > _PROGRAMS_KEPT:
                self._kept.popitem(last=False)
        return loaded, stored.metadata


def _instance(program: dspy.Module | type[dspy.Module]) -> dspy.Module:
    """Return a copy of the caller's program, or an instance of the caller's class.

    A copy, because two versions loaded into one object would both be the second one.
    """
    import dspy

    if isinstance(program, dspy.Module):
        return copy_of(program)
    if isinstance(program, type) and issubclass(program, dspy.Module):
        try:
            return program()
        except Exception as error:
            words = f"program={program.__name__} cannot be made without arguments: {error_text(error, 200)}"
            raise InputError(f"{words}: give an instance of it") from error
    raise InputError(f"program= must be a dspy.Module or its class, not a {type(program).__name__}")


def _build(program: dspy.Module | None, stored: StoredProgram) -> dspy.Module:
    _warn_of_other_versions(stored)
    spec = stored.metadata["signature"]
    loaded = rebuild(spec, stored.ref) if program is None else program
    _check_fits(loaded, stored)
    load_state(loaded, stored.state)
    return loaded


def _check_fits(program: dspy.Module, stored: StoredProgram) -> None:
    """Check that a program is the one that was stored.

    Versions without an adapter were stored before predictors were looked for deeper than DSPy does, and those
    deeper ones are left as the class makes them. Another pydantic may write another schema of the same types,
    which is no reason to refuse.
    """
    spec, own = stored.metadata["signature"], spec_of(program)
    if "adapter" not in stored.metadata:
        known = {item["path"] for item in spec["predictors"]}
        known |= {name for name, _ in program.named_parameters()}
        own = {**own, "predictors": [item for item in own["predictors"] if item["path"] in known]}
    packages, now = stored.metadata.get("packages"), package_versions().get("pydantic", "")
    saved = packages.get("pydantic") if isinstance(packages, Mapping) else None
    same_pydantic = not isinstance(saved, str) or saved.split(".")[:2] == now.split(".")[:2]
    compare_specs(spec, own, stored.ref, schemas=same_pydantic)
    for field, text in () if same_pydantic else different_schemas(spec, own):
        made_with = f"{stored.ref} was made with pydantic {saved}, this is pydantic {now}"
        words = f"{made_with}: what {text} is made of, the type of field {field}, may have changed"
        warn_once(words, stored.ref, field, now, stacklevel=6)


def _warn_of_other_versions(stored: StoredProgram) -> None:
    """Warn once per process and difference; DSPy itself logs it on every load."""
    now, packages = package_versions(), stored.metadata.get("packages")
    for name, significant in (("dspy", 3), ("python", 2)):
        saved = packages.get(name) if isinstance(packages, dict) else None
        if isinstance(saved, str) and saved.split(".")[:significant] != now[name].split(".")[:significant]:
            words = f"{stored.ref} was made with {name} {saved}, this is {name} {now[name]}: its prompts may differ"
            warn_once(words, name, saved, now[name], stacklevel=6)
