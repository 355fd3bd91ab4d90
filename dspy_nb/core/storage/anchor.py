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
import errno
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import msgspec

from dspy_nb.core.errors import Corrupt, InputError
from dspy_nb.core.storage.entry import Entry
from dspy_nb.core.storage.files import explain_failure, parse_json, read_file
from dspy_nb.core.storage.shapes import fit

ANCHORS: Final = "anchors"

_FLAGS: Final = (
    os.O_RDWR | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
)
_LONGEST: Final = 4096
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

    def is_held_by(self, entries: Sequence[Entry]) -> bool:
        """Return whether a log still goes as far, with the same entry there."""
        return self.number <= len(entries) and entries[self.number - 1].checksum == self.checksum


def anchor_of(root: Path, log: Path) -> Path:
    """Return the file that says how far the log in the folder ``log`` goes."""
    owner = log.parent.relative_to(root)
    return root / ANCHORS / owner.parent / f"{owner.name}.json"


def read_anchor(path: Path) -> Anchor | None:
    """Return what an anchor says; None if there is none, or none that is whole.

    Raises:
        Corrupt: It is no anchor.
        RegistryError: It cannot be read.
    """
    with explain_failure(f"read {path}"):
        try:
            return _parsed(read_file(path), path)
        except FileNotFoundError:
            return None


def confirm(path: Path, entries: Sequence[Entry]) -> None:
    """Let an anchor say that the log goes as far as ``entries``.

    The entries are on the disk already, so whatever fails here fails silently.
    """
    anchor = Anchor(entries[-1].number, entries[-1].checksum)
    with contextlib.suppress(OSError, Corrupt):
        descriptor = _opened(path)
        try:
            content = os.read(descriptor, _LONGEST)
            known = _parsed(content, path)
            if known is None or known.is_held_by(entries):
                os.lseek(descriptor, 0, os.SEEK_SET)
                os.write(descriptor, anchor.to_bytes())
                if len(content) > len(anchor.to_bytes()):
                    os.ftruncate(descriptor, len(anchor.to_bytes()))
        finally:
            os.close(descriptor)


def _opened(path: Path) -> int:
    """Open an anchor of this registry alone: neither a link, nor a file that a copy of the registry shares."""
    try:
        descriptor = os.open(path, _FLAGS)
    except FileNotFoundError:
        descriptor = -1
    if descriptor >= 0:
        if os.fstat(descriptor).st_nlink == 1:
            return descriptor
        os.close(descriptor)
        os.unlink(path)
    if os.path.islink(path.parent) or os.path.islink(path.parent.parent):
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    os.makedirs(path.parent, exist_ok=True)
    return os.open(path, _FLAGS | os.O_CREAT, 0o644)


def _parsed(content: bytes, path: Path) -> Anchor | None:
    content = content.rstrip(b"\0")  # a power cut may leave those
    if _BEGINS.startswith(content[: len(_BEGINS)]) and not content.rstrip().endswith(b"}"):
        return None  # nothing, or the beginning of a first one
    values = parse_json(content, path)
    try:
        anchor = fit(values, Anchor)
    except InputError as error:
        raise Corrupt(f"{path} is no anchor of a log: {error}") from error
    return anchor if values.get("seal") == anchor.seal else None
