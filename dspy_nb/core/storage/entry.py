"""One entry of a log as a file: how it is sealed, read and verified, and what a torn one looks like."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from dspy_nb.core.errors import Corrupt, InputError, Refused
from dspy_nb.core.storage.files import LARGEST_FILE, dump_json, parse_json

__all__ = ["SCHEMA_VERSION", "Entry", "entry_name", "is_entry_name", "is_torn", "seal", "verified"]

SCHEMA_VERSION: Final = 1

_NAME: Final = re.compile(r"(?:[0-9]{6}|[1-9][0-9]{6,11})\.json", re.ASCII)
_SEAL: Final = b',\n "checksum": "'
_SEAL_END: Final = b'"\n}\n'
_HEAD: Final = ("schema_version", "number", "previous", "action", "at", "by")


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of a log.

    Attributes:
        number: 1, 2, 3, ...
        action: What was done, a verb such as ``register``.
        at: When, ISO 8601 in UTC.
        by: Who.
        body: Everything else, as parsed from JSON; not to be changed.
        checksum: sha256 of the entry, in hex.
    """

    number: int
    action: str
    at: str
    by: str
    body: Mapping[str, Any]
    checksum: str


def entry_name(number: int) -> str:
    """Return the file name of an entry."""
    return f"{number:06d}.json"


def is_entry_name(name: str) -> bool:
    """Return whether ``name`` is the file name of an entry, such as ``000017.json``."""
    return _NAME.fullmatch(name) is not None and name != "000000.json"


def seal(
    number: int, previous: str, action: str, at: str, by: str, body: Mapping[str, Any]
) -> tuple[bytes, Entry]:
    """Return the file content of an entry, and the entry as a reader will see it.

    Raises:
        InputError: The body is no JSON, or too large.
    """
    if clash := set(body) & {*_HEAD, "checksum"}:
        raise ValueError(f"a log entry's body must not hold {sorted(clash)}")
    head = dict(zip(_HEAD, (SCHEMA_VERSION, number, previous, action, at, by), strict=True))
    sealed = dump_json(head | dict(body), "the log entry").removesuffix(b"\n}\n")
    checksum = hashlib.sha256(sealed).hexdigest()
    content = sealed + _SEAL + checksum.encode() + _SEAL_END
    if len(content) > LARGEST_FILE:
        raise InputError(f"the log entry has {len(content):,} bytes: it may have {LARGEST_FILE:,}")
    return content, Entry(number, action, at, by, _body(parse_json(content, "the log entry")), checksum)


def verified(content: bytes, path: str, number: int, previous: str) -> Entry:
    """Return the entry that a file holds.

    Raises:
        Corrupt: It is torn, edited or foreign, or does not continue the entry before it.
        Refused: A newer dspy_nb wrote it.
    """
    sealed, _, sealing = content.rpartition(_SEAL)
    checksum = hashlib.sha256(sealed).hexdigest()
    if sealing != checksum.encode() + _SEAL_END:
        raise Corrupt(f"{path} is torn or was edited: restore it from git or a backup")
    values = parse_json(content, path)
    if not isinstance(values, dict):
        raise Corrupt(f"{path} is not a log entry")
    schema, number_inside, previous_inside, action, at, by = (values.get(key) for key in _HEAD)
    if not isinstance(schema, int) or schema < 1:
        raise Corrupt(f"{path} is not a log entry")
    if schema > SCHEMA_VERSION:
        raise Refused(
            f"{path} was written by a newer dspy_nb (schema {schema}, this reads {SCHEMA_VERSION}): upgrade"
        )
    if number_inside != number or isinstance(number_inside, bool):
        raise Corrupt(f"{path} says that it is entry {number_inside!r}: it was renamed or copied")
    if previous_inside != previous:
        raise Corrupt(
            f"{path} does not continue the entry before it: two histories were mixed, keep one branch's log"
        )
    if not (isinstance(action, str) and isinstance(at, str) and isinstance(by, str)):
        raise Corrupt(f"{path} is not a log entry")
    return Entry(number, action, at, by, _body(values), checksum)


def is_torn(content: bytes) -> bool:
    """Return whether a file is the beginning of an entry and not a whole one, nor one that was edited.

    A power cut may leave zeros in place of the rest.
    """
    content = content.rstrip(b"\0")
    beginning = b'{\n "schema_version": '[: len(content)]
    sealed, seal, sealing = content.rpartition(_SEAL)
    if not seal:  # the last line of an entry, and no other one, begins with the brace
        return content.startswith(beginning) and b"\n}" not in content
    whole = hashlib.sha256(sealed).hexdigest().encode() + _SEAL_END
    return content.startswith(beginning) and len(sealing) < len(whole) and whole.startswith(sealing)


def _body(values: Mapping[str, Any]) -> dict[str, Any]:
    body = dict(values)
    for key in (*_HEAD, "checksum"):
        body.pop(key, None)
    return body
