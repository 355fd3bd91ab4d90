"""A registry copied whole to another place, verified: every history, entry by entry, as it is.

The entries keep numbers, times, names and checksums: what was decided elsewhere is still what was decided. A copy
that stopped half-way, or whose source has grown since, is gone on with by the same call.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Final

from dspy_nb.core.deployment.history import EnvironmentState
from dspy_nb.core.deployment.releases import update_link
from dspy_nb.core.errors import Conflict, Corrupt, InputError, NotFound
from dspy_nb.core.models.publishing import make_root
from dspy_nb.core.models.stages import ModelState
from dspy_nb.core.models.version import verified_files
from dspy_nb.core.registry.check import check_registry
from dspy_nb.core.storage.anchor import anchor_of, confirm
from dspy_nb.core.storage.entry import entry_name, verified
from dspy_nb.core.storage.files import explain_failure
from dspy_nb.core.storage.flushing import Unflushed
from dspy_nb.core.storage.log import Log, LogState
from dspy_nb.core.storage.place import Place, storage_of

_CONFIG: Final = "config.toml"


@dataclass(frozen=True, slots=True)
class Copied:
    """What a copied registry holds.

    Attributes:
        models: How many models.
        versions: How many versions of them.
        environments: How many environments.
        entries: How many log entries.
        new: How many of those were not there before.
    """

    models: int
    versions: int
    environments: int
    entries: int
    new: int

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON data."""
        return asdict(self)


def copy_registry(source: Place, target: Place, models: Iterable[str], environments: Iterable[str]) -> Copied:
    """Copy models and environments, and check what has become of them.

    Versions come before the entries that name them, and environments after the models that they serve, so whoever
    reads the copy meanwhile sees something that once was. Traffic and experiments stay where they are.

    Args:
        source: The root of a registry.
        target: Where to; another place, which may hold a part of the copy already.
        models: The names of the models.
        environments: The names of the environments.

    Raises:
        Conflict: There is another history of one of them at the target, or another ``config.toml``.
        NotFound: There is nothing to copy.
        Corrupt: Something in the source, or in the copy, is damaged.
        RegistryError: One of them cannot be read or written.
    """
    names, places = [*models], [*environments]
    if not names and not places:
        raise NotFound(f"there is nothing to copy in {source}")
    _check(source)
    with explain_failure(f"write {target}"):
        make_root(target)
        _copy_config(source, target)
    entries = new = versions = 0
    for name in names:
        log = Log(source / "models" / name / "log", ModelState, source, afresh=True)
        for version, record in log.read().records.items():
            files = verified_files(log.folder.parent / version, record.files, f"{name}@{version}")
            _copy_version(target / "models" / name / version, files)
            versions += 1
        new += _copy_log(log, target / "models" / name / "log", ModelState, target)
        entries += len(log.checksums)
    for name in places:
        place = Log(source / "environments" / name / "log", EnvironmentState, source, afresh=True)
        live = place.read().live
        new += _copy_log(place, target / "environments" / name / "log", EnvironmentState, target)
        entries += len(place.checksums)
        if live:
            update_link(target / "environments" / name, lambda live=live: live[-1])  # type: ignore[misc]
    _check(target)
    return Copied(len(names), versions, len(places), entries, new)


def check_places(source: Place, target: Place) -> None:
    """Check that a registry is not copied to itself, nor into itself.

    Raises:
        InputError: It is.
    """
    a, b = str(source), str(target)
    if a == b or f"{a}/".startswith(f"{b}/") or f"{b}/".startswith(f"{a}/"):
        raise InputError(f"{a} cannot be copied to {b}: name a place that is no part of it")


def _check(root: Place) -> None:
    for problem in check_registry(root, None):
        if problem.kind == "corrupt":
            raise Corrupt(f"{problem.message} (nothing is copied from or to a damaged registry)")


def _copy_config(source: Place, target: Place) -> None:
    try:
        content = storage_of(source).read(source / _CONFIG, links=True)
    except FileNotFoundError:
        return
    with Unflushed() as unflushed:
        there = not storage_of(target).create(str(target / _CONFIG), content, unflushed)
    if there and storage_of(target).read(target / _CONFIG, links=True) != content:
        raise Conflict(f"{target / _CONFIG} is another one than {source / _CONFIG}: make them alike first")


def _copy_version(folder: Place, files: dict[str, bytes]) -> None:
    storage = storage_of(folder)
    with explain_failure(f"write {folder}"), Unflushed() as unflushed:
        if storage.add_folder(folder, files, unflushed):
            unflushed.flush()
            return
        for name, content in files.items():  # what a copy that stopped half-way has left is completed
            place = folder / name
            if not storage.create(str(place), content, unflushed) and storage.read(place) != content:
                raise Conflict(f"{place} exists, and is another one: copy to an empty place")


def _copy_log(log: Log[Any], folder: Place, new_state: type[LogState], target: Place) -> int:
    """Append the entries that the target lacks; return how many."""
    known = Log(folder, new_state, target, afresh=True)
    known.read()
    there, wanted = known.checksums, log.checksums
    if there != wanted[: len(there)]:
        words = f"{folder.parent} has another history than {log.folder.parent}"
        raise Conflict(f"{words}: copy to a place that has none of it")
    for number in range(len(there) + 1, len(wanted) + 1):
        _copy_entry(log, number, folder)
    known = Log(folder, new_state, target)  # whose reader also leaves a snapshot
    known.read()
    if known.checksums != wanted:
        raise Conflict(
            f"{folder.parent} was written to while it was copied: copy to a place that nobody uses"
        )
    confirm(anchor_of(target, folder), wanted)
    return len(wanted) - len(there)


def _copy_entry(log: Log[Any], number: int, folder: Place) -> None:
    name = entry_name(number)
    place, path = folder / name, log.folder / name
    with explain_failure(f"copy {path}"), Unflushed() as unflushed, Unflushed() as flushed:
        content = storage_of(log.folder).read(path)
        verified(content, str(path), number, log.checksums[number - 2] if number > 1 else "")
        if not storage_of(folder).create(str(place), content, unflushed, flushed):
            raise Conflict(f"{place} was written while it was copied: copy to a place that nobody uses")
        flushed.flush()
