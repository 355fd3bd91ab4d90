"""The entries of a log on object storage once more, in one object: who opens a log anew reads that, not a thousand.

It is derived, and no second truth: each entry in it stands with the signature that its own object had, counts only
where the list of the log shows that signature still, and is verified like the object. A bundle that is missing,
stale, cut short or foreign costs requests and changes nothing; ``check`` never looks at it::

    bundles/models/<model>.bundle       sha256 of the rest; length and signature of each entry; the entries
    bundles/environments/<name>.bundle

A disk needs none: there opening a thousand files takes a tenth of the time that their entries take.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Sequence
from itertools import accumulate
from typing import Final, NamedTuple

import msgspec

from dspy_nb.core.errors import Corrupt
from dspy_nb.core.storage.files import LARGEST_FILE
from dspy_nb.core.storage.place import Place, Signature, storage_of

BUNDLES: Final = "bundles"


class Bundled(NamedTuple):
    """An entry as its file held it.

    Attributes:
        signature: Of the file, from before it was read.
        content: Of the file.
    """

    signature: Signature
    content: bytes


_INDEX: Final = msgspec.json.Decoder(list[tuple[int, tuple[int | str, ...]]])


def bundle_of(root: Place, log: Place) -> Place:
    """Return the file in which the entries of the log in the folder ``log`` stand once more."""
    owner = log.parent
    return root / BUNDLES / owner.parent.name / f"{owner.name}.bundle"


def read_bundle(place: Place) -> list[Bundled]:
    """Return the entries in a bundle, the first one first; none if it is not whole."""
    try:
        content = storage_of(place).read(place)
        seal, _, rest = content.partition(b"\n")
        if hashlib.sha256(rest).hexdigest().encode() != seal:
            return []
        index, _, entries = rest.partition(b"\n")
        lines = _INDEX.decode(index)
        ends = accumulate(length for length, _ in lines)
        return [
            Bundled(signature, entries[end - length : end])
            for (length, signature), end in zip(lines, ends, strict=True)
        ]
    except (OSError, Corrupt, msgspec.DecodeError, UnicodeDecodeError):
        return []


def write_bundle(place: Place, entries: Sequence[Bundled]) -> None:
    """Write a bundle anew; whatever fails here fails silently."""
    index = msgspec.json.encode([(len(content), signature) for signature, content in entries])
    rest = b"".join((index, b"\n", *(content for _, content in entries)))
    content = hashlib.sha256(rest).hexdigest().encode() + b"\n" + rest
    if len(content) > LARGEST_FILE:
        return
    with contextlib.suppress(OSError, Corrupt):
        storage_of(place).update(place, content)
