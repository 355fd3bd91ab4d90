"""Putting a version in place: its folder staged and renamed, flushed, then its log entry.

Files, folders and log entry are flushed together, before the entry gets its name. A power cut in between leaves
what any crash leaves there: a folder that no entry names, which nobody sees and ``check`` reports.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from dspy_nb.core.errors import Conflict, InputError, RegistryError
from dspy_nb.core.models.names import next_version
from dspy_nb.core.models.stages import ModelState
from dspy_nb.core.storage.disk import STAGING_PREFIX, remove_folder
from dspy_nb.core.storage.files import TEMPORARY_PREFIX, explain_failure, make_folders, replace_file
from dspy_nb.core.storage.flushing import Unflushed
from dspy_nb.core.storage.log import Log
from dspy_nb.core.storage.place import Place, storage_of

_GIT_FILES: Final = {
    ".gitattributes": b"# The log holds hashes of these files: no line-ending conversion.\n* -text\n",
    ".gitignore": f"{STAGING_PREFIX}*\n{TEMPORARY_PREFIX}*\nexperiments/*.sqlite3*\n".encode(),
}


def free_version(folder: Place, state: ModelState, bump: str) -> str:
    """Return the next version of a model that neither the log nor a folder on the disk has.

    Raises:
        InputError: ``bump`` is not known.
        RegistryError: It cannot be told.
    """
    version = next_version([state.ordered[-1][1]] if state.ordered else [], bump)
    with explain_failure(f"read {folder}"):
        while state.is_taken(version) or storage_of(folder).exists(folder / version):
            version = next_version([version], bump)
    return version


def publish(
    root: Place,
    log: Log[ModelState],
    version: str,
    files: Mapping[str, bytes],
    summary: Mapping[str, Any],
    *,
    reason: str | None,
    by: str | None,
) -> bool:
    """Publish a version: its folder, then the log entry that makes it visible.

    Returns:
        False, with nothing written, if the version exists, in the log or only as a folder.

    Raises:
        RegistryError: It cannot be written; nothing is visible.
    """
    folder = log.folder.parent
    table = {
        name: {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
        for name, content in files.items()
    }

    def decide(state: ModelState) -> dict[str, Any]:
        if state.is_taken(version):  # its folder was deleted by hand
            raise Conflict(f"{folder.name}@{version} exists in the log: check() tells what is wrong with it")
        return {"version": version, "files": table, "summary": summary, "reason": reason}

    if log.read().is_taken(version):
        return False
    storage = storage_of(folder)
    with Unflushed() as unflushed:
        with explain_failure(f"write {folder / version}"):
            make_root(root)
            if not storage.add_folder(folder / version, files, unflushed):
                return False
        try:
            log.append(decide, "register", by=by, after=unflushed)
        except BaseException:
            with contextlib.suppress(RegistryError):  # what cannot be told stays: an orphan at worst
                if isinstance(folder, Path) and version not in log.read().records:
                    remove_folder(folder / version)
            raise
    return True


def check_writable(root: Place) -> None:
    """Check that a registry can be written where it is, or is to be.

    Raises:
        InputError: It cannot.
    """
    if not isinstance(root, Path):
        root.storage.check_writes()
        return
    there = next(place for place in (root, *root.parents) if place.exists())
    if not os.access(there, os.W_OK):
        raise InputError(f"the registry {root} cannot be written: {there} is read-only")


def make_root(root: Place) -> None:
    """Make the root on a disk, and tell git to leave hashed files alone and temporary ones out.

    Raises:
        InputError: On object storage it cannot be.
    """
    if not isinstance(root, Path):
        check_writable(root)
        return
    make_folders(root)
    for name, content in _GIT_FILES.items():
        if not os.path.lexists(f"{root}{os.sep}{name}"):
            replace_file(root / name, content)  # whole or not at all, also if this process is killed
