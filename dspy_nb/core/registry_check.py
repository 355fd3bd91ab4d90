"""Verification of a whole registry: every log, every hash, and whatever does not belong there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dspy_nb.core.durable import explained
from dspy_nb.core.errors import DspyNbError, InputError
from dspy_nb.core.log import TEMPORARY_PREFIX, Log, is_entry_name
from dspy_nb.core.model_version import verified_files, verified_metadata
from dspy_nb.core.promotion import load_requirements
from dspy_nb.core.publishing import STAGING_PREFIX
from dspy_nb.core.stages import ModelState
from dspy_nb.core.versions import check_model_id, check_version

__all__ = ["Problem", "check_registry"]


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is not as it should be.

    Attributes:
        kind: ``corrupt`` (a log or a version cannot be trusted), ``orphan`` (left by a process that stopped
            half-way; nobody sees it) or ``foreign`` (not part of a registry).
        path: Where.
        message: What is wrong and what to do about it, on one line.
    """

    kind: str
    path: Path
    message: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.message}"


def check_registry(root: Path) -> list[Problem]:
    """Verify everything under ``root`` afresh.

    Returns:
        The problems, none if all is well. Damage is reported, not raised.

    Raises:
        RegistryError: The folder cannot be read at all.
    """
    problems: list[Problem] = []
    try:
        load_requirements(root / "config.toml")
    except InputError as error:
        problems.append(Problem("corrupt", root / "config.toml", f"{error}: correct it"))
    seen: dict[str, str] = {}
    for name in _names(root / "models"):
        folder = root / "models" / name
        try:
            check_model_id(name)
        except InputError:
            problems.append(Problem("foreign", folder, f"{folder} is not a model: remove it"))
            continue
        if name.lower() in seen:
            other = seen[name.lower()]
            message = (
                f"the models {other} and {name} differ only in case, and some disks know no case: keep one"
            )
            problems.append(Problem("corrupt", folder, message))
        seen[name.lower()] = name
        problems += _check_model(name, folder)
    return problems


def _check_model(model_id: str, folder: Path) -> Iterator[Problem]:
    log = Log(folder / "log", ModelState)
    try:
        records = log.read().records
    except DspyNbError as error:
        yield Problem("corrupt", log.folder, str(error))
        return
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
    for name in _names(log.folder):
        if not is_entry_name(name):
            yield _stray(log.folder / name)


def _stray(path: Path) -> Problem:
    if path.name.startswith((STAGING_PREFIX, TEMPORARY_PREFIX)):
        return Problem("orphan", path, f"{path} was left by a process that stopped half-way: remove it")
    try:
        check_version(path.name)
    except InputError:
        return Problem("foreign", path, f"{path} is not part of a registry: remove it")
    return Problem(
        "orphan",
        path,
        f"{path} has no log entry, so nobody sees it: remove it if no registration is running",
    )


def _names(folder: Path) -> list[str]:
    with explained(f"read {folder}"):
        try:
            return sorted(os.listdir(folder))  # noqa: PTH208 (names only)
        except (FileNotFoundError, NotADirectoryError):
            return []
