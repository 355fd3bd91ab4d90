"""One entry of a log as a file: how it is sealed, read and verified, and what a torn one looks like."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from dspy_nb.core.errors import Corrupt, InputError
from dspy_nb.core.storage.files import LARGEST_FILE, dump_json, parse_json
from dspy_nb.core.storage.shapes import fit, fit_file
from dspy_nb.core.text import one_line

SCHEMA_VERSION: Final = 1

_NAME: Final = re.compile(r"(?:[0-9]{6}|[1-9][0-9]{6,11})\.json", re.ASCII)
_SEAL: Final = b',\n "checksum": "'
_SEAL_END: Final = b'"\n}\n'


class _Head(msgspec.Struct):
    schema_version: int
    number: int
    previous: str
    action: str
    at: str
    by: str


_HEAD: Final = _Head.__struct_fields__
_COMMON: Final = (*_HEAD, "checksum")


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


class Change(msgspec.Struct, forbid_unknown_fields=True):
    """What the body of an entry holds, for one action; a log folds into a state that it changes."""

    def problem(self, state: Any, action: str) -> str | None:
        """Return why it cannot follow, ``None`` if it can; an InputError says it too."""
        raise NotImplementedError


def check_change(entry: Entry, changes: Mapping[str, type[Change]], state: object) -> None:
    """Check that an entry has the shape of its action, and can follow.

    Args:
        entry: The entry.
        changes: Action -> the shape of the body.
        state: What the entries before it fold into.

    Raises:
        Corrupt: It cannot be right.
    """
    try:
        if entry.action not in changes:
            raise InputError(f"the action {entry.action!r:.40} is none of {', '.join(changes)}")
        problem = fit(entry.body, changes[entry.action]).problem(state, entry.action)
    except InputError as error:
        problem = str(error)
    if problem is not None:
        words = f"log entry {entry.number} cannot be right: {one_line(problem, 300)}"
        raise Corrupt(f"{words}: restore the log from git or a backup")


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
    if clash := set(body) & {*_COMMON}:
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
    head = fit_file(values, _Head, path, "a log entry", SCHEMA_VERSION)
    if head.number != number:
        raise Corrupt(f"{path} says that it is entry {head.number}: it was renamed or copied")
    if head.previous != previous:
        words = f"{path} does not continue the entry before it"
        raise Corrupt(f"{words}: two histories were mixed, keep one branch's log")
    return Entry(number, head.action, head.at, head.by, _body(values), checksum)


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


def _body(values: dict[str, Any]) -> dict[str, Any]:
    """Return what was parsed without what each entry has; that takes a tenth of the time of a copy."""
    for key in _COMMON:
        values.pop(key, None)
    return values
