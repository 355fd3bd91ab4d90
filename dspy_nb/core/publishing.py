"""Putting a version in place: its folder staged, flushed and renamed, then its log entry."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from dspy_nb.core.durable import explained, make_folders, sync_folder, write_file, write_folder
from dspy_nb.core.errors import Conflict
from dspy_nb.core.log import Log
from dspy_nb.core.stages import ModelState
from dspy_nb.core.versions import next_version

__all__ = ["STAGING_PREFIX", "free_version", "publish"]

STAGING_PREFIX: Final = ".staging-"

_TAKEN: Final = {errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR}
_GIT_FILES: Final = {
    ".gitattributes": b"# The log holds hashes of these files: no line-ending conversion.\n* -text\n",
    ".gitignore": b".staging-*\n.tmp-*\nexperiments/*.sqlite3*\n",
}


def free_version(folder: Path, state: ModelState, bump: str) -> str:
    """Return the next version of a model that neither the log nor a folder on the disk has.

    Raises:
        InputError: ``bump`` is not known.
    """
    version = next_version([state.ordered[-1][1]] if state.ordered else [], bump)
    while state.taken(version) or (folder / version).exists():
        version = next_version([version], bump)
    return version


def publish(
    root: Path,
    folder: Path,
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
    table = {
        name: {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
        for name, content in files.items()
    }

    def decide(state: ModelState) -> dict[str, Any]:
        if state.taken(version):  # its folder was deleted by hand
            raise Conflict(f"{folder.name}@{version} exists in the log: check() tells what is wrong with it")
        return {"version": version, "files": table, "summary": summary, "reason": reason}

    if log.read().taken(version):
        return False
    with explained(f"write {folder / version}"):
        _make_root(root)
        if not _put_folder(folder, version, files):
            return False
    try:
        log.append(decide, "register", by=by)
    except BaseException:
        if version not in log.read().records:
            _remove_folder(folder, version)
        raise
    return True


def _make_root(root: Path) -> None:
    """Make the root, and tell git to leave hashed files alone and temporary ones out."""
    make_folders(root)
    for name, content in _GIT_FILES.items():
        if not (root / name).exists():
            with contextlib.suppress(FileExistsError):
                write_file(root / name, content)


def _put_folder(folder: Path, version: str, files: Mapping[str, bytes]) -> bool:
    """Put the complete, flushed folder of a version in place, or return False if its name is taken."""
    make_folders(folder)
    staging = folder / f"{STAGING_PREFIX}{uuid.uuid4().hex}"
    try:
        write_folder(staging, files)
        try:
            staging.rename(folder / version)
        except OSError as error:
            if error.errno not in _TAKEN:
                raise
            shutil.rmtree(staging, ignore_errors=True)
            return False
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    try:
        sync_folder(folder)
    except BaseException:
        _remove_folder(folder, version)
        raise
    return True


def _remove_folder(folder: Path, version: str) -> None:
    """Remove the folder of a version that never got its log entry, as far as that is possible."""
    staging = folder / f"{STAGING_PREFIX}{uuid.uuid4().hex}"
    with contextlib.suppress(OSError):
        (folder / version).rename(staging)
        shutil.rmtree(staging, ignore_errors=True)
