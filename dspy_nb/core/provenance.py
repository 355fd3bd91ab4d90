"""Where a version comes from: package versions and the git commit, without starting a process."""

from __future__ import annotations

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
        start = start or Path.cwd()
        folder = next(parent for parent in (start, *start.parents) if (parent / ".git").exists()) / ".git"
        if folder.is_file():
            folder = folder.parent / folder.read_text("utf-8").removeprefix("gitdir:").strip()
        head = (folder / "HEAD").read_text("utf-8").strip()
        branch = _REF.fullmatch(head)
        if not branch:
            return head if _COMMIT.fullmatch(head) else None
        common = folder / "commondir"
        shared = folder / common.read_text("utf-8").strip() if common.exists() else folder
        loose = shared / branch[1]
        if loose.exists():
            commit = loose.read_text("utf-8").strip()
            return commit if _COMMIT.fullmatch(commit) else None
        for line in (shared / "packed-refs").read_text("utf-8").splitlines():
            commit, _, name = line.partition(" ")
            if name == branch[1] and _COMMIT.fullmatch(commit):
                return commit
    except (OSError, UnicodeDecodeError, StopIteration):
        pass
    return None
