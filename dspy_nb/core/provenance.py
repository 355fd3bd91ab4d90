"""Where a version comes from: package versions and the git commit, without starting a process."""

from __future__ import annotations

import contextlib
import os
import platform
import re
from pathlib import Path
from typing import Final

__all__ = ["git_commit", "package_versions"]

_COMMIT: Final = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_REF: Final = re.compile(r"ref: (refs/[^\s]+)")


def package_versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that decide how a program behaves."""
    import dspy
    import pydantic

    import dspy_nb

    return {
        "python": platform.python_version(),
        "dspy": dspy.__version__,
        "dspy_nb": dspy_nb.__version__,
        "pydantic": pydantic.VERSION,
    }


def git_commit(start: Path | None = None) -> str | None:
    """Return the commit that is checked out around ``start`` (the working directory), or None.

    Reads the files of git itself (a call of git costs more than a whole registration): HEAD, the branch it
    names, packed branches, and the indirection of a worktree. Uncommitted changes are not seen.
    """
    try:
        folder = _git_folder(start or os.getcwd())
        head = _text(f"{folder}/HEAD")
        branch = _REF.fullmatch(head)
        if not branch:
            return head if _COMMIT.fullmatch(head) else None
        shared = folder
        with contextlib.suppress(FileNotFoundError):
            shared = os.path.join(folder, _text(f"{folder}/commondir"))
        try:
            commit = _text(f"{shared}/{branch[1]}")
        except FileNotFoundError:
            commit = _packed(_text(f"{shared}/packed-refs"), branch[1])
        return commit if _COMMIT.fullmatch(commit) else None
    except (OSError, UnicodeDecodeError):
        return None


def _git_folder(start: str | Path) -> str:
    """Return the folder that ``.git`` around ``start`` is, or names, as it does in a worktree."""
    place = str(start)
    while not os.path.exists(git := os.path.join(place, ".git")):
        parent = os.path.dirname(place)
        if parent == place:
            raise FileNotFoundError
        place = parent
    if os.path.isfile(git):
        return os.path.join(place, _text(git).removeprefix("gitdir:").strip())
    return git


def _packed(refs: str, wanted: str) -> str:
    lines = (line.partition(" ") for line in refs.splitlines())
    return next((commit for commit, _, name in lines if name == wanted), "")


def _text(path: str) -> str:
    with open(path, "rb") as file:
        return file.read().decode().strip()
