"""Where a log ended, said outside of it, so that a lost end or a lost log is found.

Each entry vouches for the one before it, and nothing in a log for its last one. So whoever has written an entry
says in another folder how far the log goes::

    anchors/models/<model>.json            {"number": 6, "checksum": "<sha256 of entry 6>"}
    anchors/environments/<name>.json

An anchor is behind its log where a process stopped in between, an older dspy_nb wrote, or several wrote at once:
that is no finding. A log that does not hold what its anchor says has lost something. An anchor is never in the way
of reading or writing, and one that its log contradicts is left as it is: the finding lasts until the log is
restored, or a person removes the anchor. It is a file for each log, so branches merge in git as their logs do.
"""

from __future__ import annotations

import contextlib
import json
import os
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dspy_nb.core.errors import Corrupt, RegistryError
from dspy_nb.core.storage.entry import Entry
from dspy_nb.core.storage.files import explained, parse_json, read_file
from dspy_nb.core.storage.flushing import Unflushed

__all__ = ["ANCHORS", "Anchor", "anchor_of", "confirm", "read_anchor"]

ANCHORS: Final = "anchors"


@dataclass(frozen=True, slots=True)
class Anchor:
    """How far a log went.

    Attributes:
        number: Of its last entry.
        checksum: Of that entry.
    """

    number: int
    checksum: str

    def is_held_by(self, entries: Sequence[Entry]) -> bool:
        """Return whether a log still goes as far, with the same entry there."""
        return self.number <= len(entries) and entries[self.number - 1].checksum == self.checksum


def anchor_of(root: Path, log: Path) -> Path:
    """Return the file that says how far the log in the folder ``log`` goes."""
    owner = log.parent.relative_to(root)
    return root / ANCHORS / owner.parent / f"{owner.name}.json"


def read_anchor(path: Path) -> Anchor | None:
    """Return what an anchor says; None if there is none, or nothing in it, as a power cut may leave it.

    Raises:
        Corrupt: It is no anchor.
        RegistryError: It cannot be read.
    """
    with explained(f"read {path}"):
        try:
            content = read_file(path).strip(b"\0")
        except FileNotFoundError:
            return None
    values = parse_json(content, path) if content else {"number": None}
    number, checksum = (
        (values.get("number"), values.get("checksum")) if isinstance(values, dict) else ("", None)
    )
    if number is None and not checksum:
        return None
    if type(number) is not int or number < 1 or not isinstance(checksum, str):
        raise Corrupt(f"{path} is no anchor")
    return Anchor(number, checksum)


def confirm(path: Path, entries: Sequence[Entry]) -> None:
    """Let an anchor say that the log goes as far as ``entries``.

    The entries are on the disk already, so whatever fails here fails silently; and nothing is flushed, for after a
    power cut an anchor may be behind.
    """
    try:
        known = read_anchor(path)
    except Corrupt:
        known = None  # half of a merge, say: the log is what counts
    except RegistryError:
        return
    if known is not None and not known.is_held_by(entries):
        return
    if os.path.islink(path.parent) or os.path.islink(path.parent.parent):
        return  # to wherever a clone may say
    temporary = f"{path.parent}{os.sep}.tmp-{uuid.uuid4().hex}"
    content = json.dumps({"number": entries[-1].number, "checksum": entries[-1].checksum}) + "\n"
    with contextlib.suppress(OSError):
        os.makedirs(path.parent, exist_ok=True)
        try:
            with Unflushed() as unflushed:
                unflushed.create(temporary, content.encode())
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
