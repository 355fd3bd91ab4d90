"""What a log folds into, once more in one file: who opens a long log anew reads that, not a thousand entries.

It is derived, and no second truth: it stands with the signatures of the files that it folds, and counts only while
each of them still has its own; the last one is read again all the same, and its checksum compared. A snapshot that
is missing, stale, cut short, of another history or of another version costs time and changes nothing; ``check``
never looks at it. Whoever reads or writes a log leaves one where there is too much to read beside it, if it can::

    snapshots/models/<model>.snapshot          sha256 of the rest; format, signatures, checksums, state
    snapshots/environments/<name>.snapshot

It is written in place, as anchors are, and is for this machine: git leaves it out.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from dspy_nb.core.errors import Corrupt
from dspy_nb.core.storage.entry import SCHEMA_VERSION
from dspy_nb.core.storage.files import LARGEST_FILE
from dspy_nb.core.storage.place import Place, Signature, storage_of

SNAPSHOTS: Final = "snapshots"

_FORMAT: Final = f"1 of schema {SCHEMA_VERSION}"  # another one whenever a state keeps other things
# How many entries are read one by one at least, or one in so many: a snapshot is written as a whole.
_ON_DISK: Final = 32, 64
_ELSEWHERE: Final = 6, 256  # where each is a request


class Snapshot(msgspec.Struct, array_like=True):
    """What the first entries of a log fold into.

    Attributes:
        format: What a version must know to read it.
        signatures: Of the files of the entries.
        checksums: Of the entries.
        state: What they fold into, as ``LogState.kept`` says.
    """

    format: str
    signatures: list[Signature]
    checksums: list[str]
    state: msgspec.Raw


_DECODER: Final = msgspec.msgpack.Decoder(Snapshot)
_ENCODER: Final = msgspec.msgpack.Encoder()


def snapshot_of(root: Place, log: Place) -> Place:
    """Return the file in which the entries of the log in the folder ``log`` stand once more."""
    owner = log.parent
    return root / SNAPSHOTS / owner.parent.name / f"{owner.name}.snapshot"


def step_of(log: Place, number: int) -> int:
    """Return after how many further entries a log of so many gets a new snapshot."""
    least, share = _ON_DISK if isinstance(log, Path) else _ELSEWHERE
    return max(least, (1 << number.bit_length()) // share)


def read_snapshot(place: Place) -> Snapshot | None:
    """Return a snapshot; ``None`` if there is none, or none that is whole and of this version."""
    with contextlib.suppress(OSError, Corrupt, msgspec.DecodeError, UnicodeDecodeError):
        seal, _, rest = storage_of(place).read(place).partition(b"\n")
        if hashlib.sha256(rest).hexdigest().encode() == seal:
            found = _DECODER.decode(rest)
            if found.format == _FORMAT and 0 < len(found.checksums) == len(found.signatures):
                return found
    return None


def write_snapshot(
    place: Place, signatures: Sequence[Signature], checksums: Sequence[str], state: object
) -> None:
    """Write a snapshot anew; whatever fails here fails silently."""
    with contextlib.suppress(OSError, Corrupt, OverflowError):
        kept = msgspec.Raw(_ENCODER.encode(state))
        rest = _ENCODER.encode(Snapshot(_FORMAT, [*signatures], [*checksums], kept))
        content = hashlib.sha256(rest).hexdigest().encode() + b"\n" + rest
        if len(content) > LARGEST_FILE:
            return
        storage_of(place).update(place, content)
        if isinstance(place, Path) and not storage_of(place).exists(ignored := place.parent / ".gitignore"):
            storage_of(place).update(ignored, b"*\n")
