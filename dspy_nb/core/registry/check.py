"""Verification of a whole registry: every log, every hash, and whatever does not belong there."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dspy_nb.core.deployment.history import EnvironmentState
from dspy_nb.core.deployment.objectives import load_settings
from dspy_nb.core.deployment.releases import LINK, link_target, read_link
from dspy_nb.core.deployment.restrictions import load_restrictions
from dspy_nb.core.errors import DspyNbError, InputError, RegistryError
from dspy_nb.core.models.names import ENVIRONMENTS, check_environment, check_model_id, check_version
from dspy_nb.core.models.promotion import load_requirements
from dspy_nb.core.models.stages import ModelState, Record
from dspy_nb.core.models.version import verified_files, verified_metadata
from dspy_nb.core.storage.anchor import ANCHORS, Anchor, anchor_of, read_anchor
from dspy_nb.core.storage.config import read_tables
from dspy_nb.core.storage.disk import STAGING_PREFIX
from dspy_nb.core.storage.entry import is_entry_name
from dspy_nb.core.storage.files import TEMPORARY_PREFIX, explain_failure
from dspy_nb.core.storage.log import Log
from dspy_nb.core.storage.place import Place, is_link, storage_of
from dspy_nb.core.text import did_you_mean, visible
from dspy_nb.core.traffic.damaged import ENDS, is_aside
from dspy_nb.core.traffic.file import verify_traffic
from dspy_nb.core.traffic.store import TRAFFIC_FILE

_TRAFFIC_FILES: Final = tuple(f"{TRAFFIC_FILE}{end}" for end in ENDS)

_RESTORE: Final = "restore it from git or a backup, or remove {} to go on with what is there"


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is not as it should be.

    Attributes:
        kind: ``corrupt`` (a log, a version or a file of traffic cannot be trusted, or something is lost),
            ``orphan`` (left by a process that stopped half-way, or set aside because it is damaged; nobody sees
            it), ``stale`` (the link ``current`` of an environment, which is for other tools, does not say what
            its log says) or ``foreign`` (not part of a registry).
        path: Where.
        message: What is wrong and what to do about it, on one line.
    """

    kind: str
    path: Place
    message: str

    def __str__(self) -> str:
        return visible(f"{self.kind}: {self.message}")


def check_registry(root: Place, local: Path | None) -> list[Problem]:
    """Verify everything under ``root`` afresh, and the traffic under ``local`` if that is given.

    Returns:
        The problems, none if all is well. Damage is reported, not raised.

    Raises:
        RegistryError: The folder cannot be read at all.
    """
    problems: list[Problem] = []
    try:
        load_requirements(root / "config.toml")
        load_restrictions(root / "config.toml", "production")
        load_settings(root / "config.toml", "production")
    except InputError as error:
        problems.append(Problem("corrupt", root / "config.toml", f"{error}: correct it"))
    else:
        problems += _check_names(root)
    problems += [_stray(root / name) for name in _names(root) if name.startswith(TEMPORARY_PREFIX)]
    anchors = _anchors(root, problems)  # before the logs, which may grow meanwhile
    registered: dict[str, Mapping[str, Record] | None] = {}
    for name in _folders(root / "models", "model", problems):
        log = Log(root / "models" / name / "log", ModelState, root, afresh=True)
        problems += _check_model(name, log, registered)
        problems += _check_end(log, root, anchors)
    for name in _folders(root / "environments", "environment", problems):
        place = Log(root / "environments" / name / "log", EnvironmentState, root, afresh=True)
        problems += _check_environment(name, place, local and local / "environments" / name, registered)
        problems += _check_end(place, root, anchors)
    for path, anchor in anchors.items():
        lost = f"{path.name.removesuffix('.json')} had {anchor.number} log entries, and is gone"
        problems.append(Problem("corrupt", path, f"{lost}: {_RESTORE.format(path)}"))
    if local is not None:
        problems += _check_experiments(local / "experiments")
    return problems


def _check_names(root: Place) -> Iterator[Problem]:
    """Find tables of environments that nothing was deployed to, and whose names are nearly those of others."""
    config = root / "config.toml"
    known = {*ENVIRONMENTS, *_names(root / "environments")}
    for section in ("environments", "monitor"):
        for name in read_tables(config, section, check_environment, lambda table, where: None):
            hint = "" if name in known else did_you_mean(name, known)
            meant = hint.rpartition(" ")[2]
            if hint and meant not in name:  # production-eu is hardly meant to be production
                message = (
                    f"{config} has a table [{section}.{name}], and there is no such environment: {hint}?"
                )
                yield Problem("foreign", config, message)


def _anchors(root: Place, problems: list[Problem]) -> dict[Place, Anchor]:
    """Return what the anchors say, by file; add to ``problems`` what is none."""
    found: dict[Place, Anchor] = {}
    for kind in ("models", "environments"):
        folder = root / ANCHORS / kind
        if is_link(folder) or is_link(folder.parent):
            problems.append(Problem("corrupt", folder, f"{folder} is a link: make it a folder"))
            continue
        for name in _names(folder):
            path = folder / name
            if not name.endswith(".json") or name.startswith("."):
                problems.append(_stray(path))
                continue
            try:
                anchor = read_anchor(path)
            except RegistryError as error:
                message = "restore it from git, or remove it: the next entry of the log makes it anew"
                problems.append(Problem("corrupt", path, f"{error}: {message}"))
                continue
            if anchor is not None:
                found[path] = anchor
    return found


def _check_end(
    log: Log[ModelState] | Log[EnvironmentState], root: Place, anchors: dict[Place, Anchor]
) -> Iterator[Problem]:
    """Find what is no entry in a log, and compare its end with its anchor, which is taken out of ``anchors``."""
    path = anchor_of(root, log.folder)
    anchor = anchors.pop(path, None)
    try:
        log.read()
    except DspyNbError:
        return  # that is a problem already
    yield from (_stray(log.folder / name) for name in _names(log.folder) if not is_entry_name(name))
    if log.torn is not None:
        message = (
            f"{log.torn} was not finished by a process that stopped half-way: the next entry takes its place"
        )
        yield Problem("orphan", log.folder / log.torn, message)
    if anchor is None or anchor.is_held_by(log.checksums):
        return
    if anchor.number > len(log.checksums):
        lost = f"{log.folder} ends with entry {len(log.checksums)}, and had {anchor.number}"
    else:
        lost = f"{log.folder}: entry {anchor.number} is not the one that was written there"
    yield Problem("corrupt", log.folder, f"{lost}: {_RESTORE.format(path)}")


def _folders(parent: Place, what: str, problems: list[Problem]) -> Iterator[str]:
    """Return the names that can be models or environments; add the others to ``problems``."""
    seen: dict[str, str] = {}
    for name in _names(parent):
        folder = parent / name
        try:
            check_model_id(name)
        except InputError:
            problems.append(Problem("foreign", folder, f"{folder} is not a {what}: remove it"))
            continue
        if name.lower() in seen:
            other = seen[name.lower()]
            message = f"the {what}s {other} and {name} differ only in case, and some disks know no case"
            problems.append(Problem("corrupt", folder, f"{message}: keep one"))
        seen[name.lower()] = name
        yield name


def _check_environment(
    name: str,
    log: Log[EnvironmentState],
    local: Path | None,
    registered: Mapping[str, Mapping[str, Record] | None],
) -> Iterator[Problem]:
    folder = log.folder.parent
    try:
        state = log.read()
    except DspyNbError as error:
        yield Problem("corrupt", log.folder, str(error))
        return
    for ref in dict.fromkeys(ref for line in state.history for ref in (line.ref, line.candidate) if ref):
        model_id, _, version = ref.partition("@")
        records = registered.get(model_id, {})
        if records is not None and version not in records:
            message = f"{name} deployed {ref}, which is not registered: restore its log from git or a backup"
            yield Problem("corrupt", log.folder, message)
    if state.live and os.name != "nt" and (found := read_link(folder)) != link_target(state.live[-1]):
        message = f"{folder / LINK} says {found}, but {state.live[-1]} is live"
        yield Problem("stale", folder / LINK, f"{message}: environment({name!r}).relink() corrects it")
    if not state.live and (found := read_link(folder)) is not None:
        message = f"{folder / LINK} says {found}, and the log is empty: restore it from git or a backup"
        yield Problem("corrupt", log.folder, message)
    if local is not None:
        yield from _check_traffic(local / TRAFFIC_FILE)
    for place in [folder] if local is None or local == folder else [folder, local]:
        for stray in _names(place):
            if stray not in ("log", LINK, *_TRAFFIC_FILES):
                yield from _damaged_or_stray(place / stray)


def _check_experiments(folder: Path) -> Iterator[Problem]:
    for name in _names(folder):
        if name.endswith(".sqlite3"):
            yield from _check_traffic(folder / name)
        elif is_aside(name):
            yield from _damaged_or_stray(folder / name)


def _check_traffic(path: Path) -> Iterator[Problem]:
    try:
        verify_traffic(path)
    except DspyNbError as error:
        yield Problem("corrupt", path, f"{error}: what is served sets it aside, or restore it from a backup")


def _damaged_or_stray(path: Place) -> Iterator[Problem]:
    if not is_aside(path.name):
        yield _stray(path)
    elif not path.name.endswith(ENDS[1:]) or path.name.rpartition("-")[0] not in _names(path.parent):
        message = f"{path} was set aside because it is damaged: take from it what you need, and remove it"
        yield Problem("orphan", path, message)


def _check_model(
    model_id: str, log: Log[ModelState], registered: dict[str, Mapping[str, Record] | None]
) -> Iterator[Problem]:
    """Verify one model, and add what its log holds to ``registered``; None if it cannot be read."""
    folder = log.folder.parent
    registered[model_id] = None
    try:
        records = log.read().records
    except DspyNbError as error:
        yield Problem("corrupt", log.folder, str(error))
        return
    registered[model_id] = records
    for version, record in records.items():
        path = folder / version
        try:
            files = verified_files(path, record.files, f"{model_id}@{version}")
            verified_metadata(files["metadata.json"], path / "metadata.json", model_id, version)
        except DspyNbError as error:
            yield Problem("corrupt", path, str(error))
    for name in _names(folder):
        if name != "log" and name not in records:
            yield _stray(folder / name)


def _stray(path: Place) -> Problem:
    if path.name.startswith((STAGING_PREFIX, TEMPORARY_PREFIX)):
        return Problem("orphan", path, f"{path} was left by a process that stopped half-way: remove it")
    try:
        check_version(path.name)
    except InputError:
        return Problem("foreign", path, f"{path} is not part of a registry: remove it")
    why = f"{path} has no log entry, so nobody sees it"
    return Problem("orphan", path, f"{why}: remove it if no registration is running")


def _names(folder: Place) -> list[str]:
    with explain_failure(f"read {folder}"):
        try:
            return sorted(storage_of(folder).list(folder))
        except NotADirectoryError:
            return []
