"""Putting a version in place: its folder staged and renamed, flushed, then its log entry.

Files, folders and log entry are flushed together, before the entry gets its name. A power cut in between leaves
what any crash leaves there: a folder that no entry names, which nobody sees and ``check`` reports.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from dspy_nb.core.errors import Conflict, RegistryError
from dspy_nb.core.models.names import next_version
from dspy_nb.core.models.stages import ModelState
from dspy_nb.core.storage.files import explain_failure, make_folders, put_in_place, replace_file, stage_folder
from dspy_nb.core.storage.flushing import Unflushed
from dspy_nb.core.storage.log import Log

STAGING_PREFIX: Final = ".staging-"

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
    while state.is_taken(version) or os.path.exists(f"{folder}{os.sep}{version}"):
        version = next_version([version], bump)
    return version


def publish(
    root: Path,
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
    with Unflushed() as unflushed:
        with explain_failure(f"write {folder / version}"):
            _make_root(root)
            make_folders(folder)
            staging = f"{folder}{os.sep}{STAGING_PREFIX}{uuid.uuid4().hex}"
            stage_folder(staging, files, unflushed)
            if not put_in_place(staging, f"{folder}{os.sep}{version}"):
                return False
        try:
            with explain_failure(f"write {folder / version}"):
                unflushed.add_folder(folder)
            log.append(decide, "register", by=by, after=unflushed)
        except BaseException:
            with contextlib.suppress(RegistryError):  # what cannot be told stays: an orphan at worst
                if version not in log.read().records:
                    _remove_folder(folder, version)
            raise
    return True


def _make_root(root: Path) -> None:
    """Make the root, and tell git to leave hashed files alone and temporary ones out."""
    make_folders(root)
    for name, content in _GIT_FILES.items():
        if not os.path.lexists(f"{root}{os.sep}{name}"):
            replace_file(root / name, content)  # whole or not at all, also if this process is killed


def _remove_folder(folder: Path, version: str) -> None:
    """Remove the folder of a version that never got its log entry, as far as that is possible."""
    staging = folder / f"{STAGING_PREFIX}{uuid.uuid4().hex}"
    with contextlib.suppress(OSError):
        (folder / version).rename(staging)
        shutil.rmtree(staging, ignore_errors=True)
