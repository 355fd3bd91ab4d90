"""Where a log ended, said outside of it, so that a lost end or a lost log is found.

Each entry vouches for the one before it, and nothing in a log for its last one. So whoever has written an entry
says in another folder how far the log goes::

    anchors/models/<model>.json            {"number": 6, "checksum": "<sha256 of entry 6>", "seal": ...}
    anchors/environments/<name>.json

An anchor is behind its log where a process stopped in between or several wrote at once: that is no finding. A log
that does not hold what its anchor says has lost something. An anchor is never in the way of reading or writing, and
one that its log contradicts stays: the finding lasts until the log is restored, or a person removes the anchor. It
is a file for each log, so branches merge in git as their logs do.

It is written in place, which takes a tenth of the time of replacing it, is not flushed, and may be half-written for
a moment: the seal tells, and then it says nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Final

import msgspec

from dspy_nb.core.errors import Corrupt, InputError
from dspy_nb.core.storage.files import explain_failure, parse_json
from dspy_nb.core.storage.place import Place, storage_of
from dspy_nb.core.storage.shapes import fit

ANCHORS: Final = "anchors"

_BEGINS: Final = b'{"number": '


@dataclass(frozen=True, slots=True)
class Anchor:
    """How far a log went.

    Attributes:
        number: Of its last entry.
        checksum: Of that entry.
    """

    number: Annotated[int, msgspec.Meta(ge=1)]
    checksum: str

    @property
    def seal(self) -> str:
        """What tells a whole anchor from a half-written one."""
        return hashlib.sha256(f"{self.number} {self.checksum}".encode()).hexdigest()[:16]

    def to_bytes(self) -> bytes:
        """Return the content of the file: of the same length for each entry."""
        return b'{"number": %12d, "checksum": "%b", "seal": "%b"}\n' % (
            self.number, self.checksum.encode(), self.seal.encode(),
        )  # fmt: skip

    def is_held_by(self, checksums: Sequence[str]) -> bool:
        """Return whether a log whose entries have these checksums still goes as far, with the same entry there."""
        return self.number <= len(checksums) and checksums[self.number - 1] == self.checksum


def anchor_of(root: Place, log: Place) -> Place:
    """Return the file that says how far the log in the folder ``log`` goes."""
    owner = log.parent
    return root / ANCHORS / owner.parent.name / f"{owner.name}.json"


def read_anchor(path: Place) -> Anchor | None:
    """Return what an anchor says; None if there is none, or none that is whole.

    Raises:
        Corrupt: It is no anchor.
        RegistryError: It cannot be read.
    """
    with explain_failure(f"read {path}"):
        try:
            return _parsed(storage_of(path).read(path), path)
        except FileNotFoundError:
            return None


def confirm(path: Place, checksums: Sequence[str]) -> None:
    """Let an anchor say that the log goes as far as the entries that have these checksums.

    The entries are written already, so whatever fails here fails silently.
    """

    def change(content: bytes) -> bytes | None:
        known = _parsed(content, path)
        if known is None or known.is_held_by(checksums):
            return Anchor(len(checksums), checksums[-1]).to_bytes()
        return None

    with contextlib.suppress(OSError, Corrupt):
        storage_of(path).update(path, change)


def _parsed(content: bytes, path: Place) -> Anchor | None:
    content = content.rstrip(b"\0")  # a power cut may leave those
    if _BEGINS.startswith(content[: len(_BEGINS)]) and not content.rstrip().endswith(b"}"):
        return None  # nothing, or the beginning of a first one
    values = parse_json(content, path)
    try:
        anchor = fit(values, Anchor)
    except InputError as error:
        raise Corrupt(f"{path} is no anchor of a log: {error}") from error
    return anchor if values.get("seal") == anchor.seal else None
