"""The link ``current`` of an environment: for other tools; the log is the truth."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Callable
from pathlib import Path

from dspy_nb.core.log import TEMPORARY_PREFIX

__all__ = ["LINK", "link_target", "read_link", "update_link"]

LINK = "current"


def link_target(ref: str) -> str:
    """Return what the link in an environment's folder says for a version."""
    model_id, _, version = ref.partition("@")
    return f"../../models/{model_id}/{version}"


def read_link(folder: Path) -> str | None:
    """Return what the link says, None if there is none.

    Where git knows no links, it checks them out as files that hold the target.
    """
    link = folder / LINK
    try:
        return os.readlink(link).replace(os.sep, "/")  # noqa: PTH115 (text, not a path)
    except OSError:
        with contextlib.suppress(OSError, UnicodeDecodeError):
            return link.read_text("utf-8").strip()
    return None


def update_link(folder: Path, live: Callable[[], str]) -> bool:
    """Let the link name what is live; readers see the old link or the new one, never none.

    Whoever writes the link looks at the log again afterwards, so that of several writers the last one leaves
    it right, in whatever order they come.

    Args:
        folder: Of the environment.
        live: Reads the log and returns the reference of what is live.

    Returns:
        False if the system has no links, or the folder does not take one.
    """
    wanted = link_target(live())
    while True:
        temporary = folder / f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}"
        try:
            temporary.symlink_to(wanted, target_is_directory=True)
            temporary.replace(folder / LINK)
        except (OSError, NotImplementedError):
            with contextlib.suppress(OSError):
                temporary.unlink()
            return False
        latest = link_target(live())
        if latest == wanted:
            return True
        wanted = latest
