"""The entries of a log once more, in one file: who opens a long log anew reads that, not a thousand.

It is derived, and no second truth: each entry in it stands with the signature that its own file had, and counts
only while that file still has it. The last entry is always read itself, and names the one before. A snapshot that
is missing, stale, cut short, of another history or of another version costs time and changes nothing; ``check``
never looks at it. Whoever reads or writes a log leaves one where there is too much to read beside it, if it can::

    snapshots/models/<model>.snapshot          sha256 of the rest; its format; the signatures; the entries
    snapshots/environments/<name>.snapshot

It is written in place, as anchors are, and is for this machine: git leaves it out.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from dspy_nb.core.errors import Corrupt
from dspy_nb.core.storage.entry import SCHEMA_VERSION, Entry
from dspy_nb.core.storage.files import LARGEST_FILE
from dspy_nb.core.storage.place import Place, Signature, storage_of

SNAPSHOTS: Final = "snapshots"

_FORMAT: Final = f"1 of schema {SCHEMA_VERSION}"
_ON_DISK: Final = (
    64,
    16,
)  # entries that are read one by one at least, or one in so many: it is written as a whole
_ELSEWHERE: Final = 8, 256  # where each is a request


class _Snapshot(msgspec.Struct, array_like=True):
    format: str
    signatures: list[Signature]
    entries: list[Entry]


_DECODER: Final = msgspec.msgpack.Decoder(_Snapshot)
_ENCODER: Final = msgspec.msgpack.Encoder()


def snapshot_of(root: Place, log: Place) -> Place:
    """Return the file in which the entries of the log in the folder ``log`` stand once more."""
    owner = log.parent
    return root / SNAPSHOTS / owner.parent.name / f"{owner.name}.snapshot"


def step_of(log: Place, number: int) -> int:
    """Return after how many further entries a log of so many gets a new snapshot."""
    least, share = _ON_DISK if isinstance(log, Path) else _ELSEWHERE
    return max(least, (1 << number.bit_length()) // share)


def read_snapshot(place: Place) -> Iterable[tuple[Entry, Signature]]:
    """Return the entries in a snapshot with the signatures of their files, the first one first.

    There are none if it is not whole, or was written by a version that writes others.
    """
    with contextlib.suppress(OSError, Corrupt, msgspec.DecodeError, UnicodeDecodeError):
        seal, _, rest = storage_of(place).read(place).partition(b"\n")
        if hashlib.sha256(rest).hexdigest().encode() == seal:
            found = _DECODER.decode(rest)
            if found.format == _FORMAT:
                return zip(found.entries, found.signatures, strict=True)
    return ()


def write_snapshot(place: Place, entries: Sequence[Entry], signatures: Sequence[Signature]) -> None:
    """Write a snapshot anew; whatever fails here fails silently."""
    with contextlib.suppress(OSError, Corrupt, OverflowError):
        rest = _ENCODER.encode(_Snapshot(_FORMAT, [*signatures], [*entries]))
        content = hashlib.sha256(rest).hexdigest().encode() + b"\n" + rest
        if len(content) > LARGEST_FILE:
            return
        storage_of(place).update(place, content)
        if isinstance(place, Path) and not storage_of(place).exists(ignored := place.parent / ".gitignore"):
            storage_of(place).update(ignored, b"*\n")
