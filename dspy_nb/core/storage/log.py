"""A numbered, append-only commit log: the only place that decides who won a race.

A log is a folder of files ``000001.json``, ``000002.json``, ...; each is one entry, complete and flushed to
the disk before it gets its name, and it gets its name only if nobody else has it (put-if-absent, as in the
Delta Lake protocol). Two writers who both want number 17: one gets it, the other reads 17 and tries 18.
Nothing is locked, nothing is overwritten, and state is a fold over the entries.

Each entry carries its number, the checksum of the entry before it, and its own checksum, so that a torn,
edited, renamed, missing or foreign file is found when the log is read.
"""

from __future__ import annotations

import contextlib
import errno
import getpass
import hashlib
import os
import random
import re
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Generic, Protocol, TypeVar

from dspy_nb.core.errors import Conflict, Corrupt, InputError, Refused
from dspy_nb.core.storage.files import (
    LARGEST_FILE,
    dump_json,
    explained,
    make_folders,
    parse_json,
    read_file,
    sync_folder,
    write_file,
)
from dspy_nb.core.storage.flushing import Unflushed
from dspy_nb.core.text import repaired

__all__ = [
    "SCHEMA_VERSION",
    "TEMPORARY_PREFIX",
    "Entry",
    "Log",
    "LogState",
    "current_user",
    "is_entry_name",
    "utc_now",
]

SCHEMA_VERSION: Final = 1
TEMPORARY_PREFIX: Final = ".tmp-"

_NAME: Final = re.compile(r"(?:[0-9]{6}|[1-9][0-9]{6,11})\.json", re.ASCII)
_SEAL: Final = b',\n "checksum": "'
_SEAL_END: Final = b'"\n}\n'
_HEAD: Final = ("schema_version", "number", "previous", "action", "at", "by")
_PATIENCE_S: Final = 60.0
_TORN_AFTER_S: Final = 1.0  # an entry that is not complete so long after it was begun will not be

# What os.link raises where the file system has no hard links (FAT, some network and container mounts).
_NO_LINKS: Final = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV}


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


class LogState(Protocol):
    """What a log folds into."""

    def check(self, entry: Entry) -> None:
        """Raise Corrupt if ``entry`` cannot follow; called before ``apply``, changes nothing."""

    def apply(self, entry: Entry) -> None:
        """Take ``entry`` into the state; must not raise after ``check`` has passed."""


S = TypeVar("S", bound=LogState)


class Log(Generic[S]):
    """The log in one folder and the state that it folds into.

    Reading costs one ``stat`` and one failed ``open`` when nothing is new, and one file per new entry. The
    state belongs to the log: callers read it and hold ``lock`` while they do, and never change it.
    """

    def __init__(self, folder: Path, new_state: Callable[[], S]) -> None:
        """Open the log in ``folder``, which need not exist yet."""
        self.folder = folder
        self.lock = threading.RLock()
        self._new_state = new_state
        self._entries: list[Entry] = []
        self._state = new_state()
        self._last_signature: tuple[int, int, int] | None = None
        self._prefix = f"{folder}{os.sep}"  # pathlib takes longer to join a path than the system to open it

    @property
    def entries(self) -> tuple[Entry, ...]:
        """The entries as of the last ``read``."""
        return tuple(self._entries)

    @property
    def state(self) -> S:
        """The state as of the last ``read`` or ``append``."""
        return self._state

    def read(self) -> S:
        """Take in what is new and return the state.

        Raises:
            Corrupt: An entry is missing, torn, edited or foreign, or its action cannot follow.
            Refused: An entry was written by a newer dspy_nb.
            RegistryError: The folder cannot be read.
        """
        with self.lock, explained(f"read {self.folder}"):
            if self._entries and self._signature(len(self._entries)) != self._last_signature:
                self._forget()  # another branch was checked out, or a backup was restored
            try:
                if not self._entries:
                    self._check_gapless()
                known = len(self._entries)
                while self._take_in(len(self._entries) + 1):
                    pass
                if len(self._entries) > known:
                    self._last_signature = self._signature(len(self._entries))
            except BaseException:
                self._forget()
                raise
            return self._state

    def append(
        self,
        decide: Callable[[S], Mapping[str, Any] | None],
        action: str,
        *,
        by: str | None = None,
        after: Unflushed | None = None,
    ) -> Entry | None:
        """Append what ``decide`` returns, and decide again whenever somebody else was first.

        Args:
            decide: Gets the state up to the last entry and returns the body of the next one, or None to
                write nothing, or raises. It may be called more than once.
            action: The verb of the entry.
            by: Who does it; the user of the process by default.
            after: What must be on the disk before the entry is: it is flushed together with it.

        Returns:
            The new entry; None if ``decide`` returned None.

        Raises:
            Conflict: Other writers were faster for a whole minute.
            InputError: The body is no JSON, or too large.
            Corrupt: As ``read`` does.
            RegistryError: The entry cannot be written (disk full, read-only, ...); nothing has changed,
                unless the message says that it is written and could not be flushed.
        """
        with after or Unflushed() as unflushed:
            return self._append(decide, action, current_user() if by is None else by, unflushed)

    def _append(
        self,
        decide: Callable[[S], Mapping[str, Any] | None],
        action: str,
        by: str,
        unflushed: Unflushed,
    ) -> Entry | None:
        deadline = time.monotonic() + _PATIENCE_S
        attempt = 0
        while True:
            with self.lock:
                state = self.read()
                number = len(self._entries) + 1
                previous = self._entries[-1].checksum if self._entries else ""
                body = decide(state)
                if body is None:
                    return None
                content, entry = _seal(number, previous, action, utc_now(), repaired(by), repaired(body))
                state.check(entry)
                with explained(f"write {self.folder / _name(number)}"):
                    make_folders(self.folder)
                    if self._put(_name(number), content, unflushed):
                        self.read()
                        return entry
            attempt += 1
            if time.monotonic() > deadline:
                raise Conflict(f"{self.folder}: other writers were faster for {_PATIENCE_S:.0f} s: try again")
            time.sleep(random.uniform(0, min(0.05, 0.001 * 2 ** min(attempt, 6))))

    def _put(self, name: str, content: bytes, unflushed: Unflushed) -> bool:
        """Create the complete, flushed file ``name``, or return False if it exists."""
        target, temporary = self._path(name), self._path(f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}")
        try:
            unflushed.create(temporary, content)
            unflushed.flush()
            try:
                os.link(temporary, target)
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                # Exclusive as well, but not complete at once: readers allow for that, see _read_entry.
                write_file(target, content)
        except FileExistsError:
            return False
        finally:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        with explained(f"flush {target}, which is written but might not survive a power cut"):
            sync_folder(self.folder)
        return True

    def _path(self, name: str) -> str:
        return f"{self._prefix}{name}"

    def _forget(self) -> None:
        self._entries = []
        self._state = self._new_state()
        self._last_signature = None

    def _signature(self, number: int) -> tuple[int, int, int] | None:
        try:
            status = os.stat(self._path(_name(number)), follow_symlinks=False)
        except FileNotFoundError:
            return None
        return status.st_ino, status.st_mtime_ns, status.st_size

    def _check_gapless(self) -> None:
        try:
            names = {name for name in os.listdir(self.folder) if is_entry_name(name)}
        except FileNotFoundError:
            return
        for number in range(1, len(names) + 1):
            if _name(number) not in names:
                raise Corrupt(
                    f"{self.folder / _name(number)} is missing, but later entries exist: restore it from git "
                    "or a backup"
                )

    def _take_in(self, number: int) -> bool:
        path = self._path(_name(number))
        try:
            entry = _read_entry(path, number, self._entries[-1].checksum if self._entries else "")
        except FileNotFoundError:
            return False
        self._state.check(entry)
        self._state.apply(entry)
        self._entries.append(entry)
        return True


def is_entry_name(name: str) -> bool:
    """Return whether ``name`` is the file name of an entry, such as ``000017.json``."""
    return _NAME.fullmatch(name) is not None and name != "000000.json"


def current_user() -> str:
    """Return the name of the user of this process, or ``unknown``."""
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        return "unknown"


def utc_now() -> str:
    """Return the time now, ISO 8601 in UTC to the microsecond."""
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _name(number: int) -> str:
    return f"{number:06d}.json"


def _seal(
    number: int, previous: str, action: str, at: str, by: str, body: Mapping[str, Any]
) -> tuple[bytes, Entry]:
    """Return the file content of an entry, and the entry as a reader will see it."""
    if clash := set(body) & {*_HEAD, "checksum"}:
        raise ValueError(f"a log entry's body must not hold {sorted(clash)}")
    head = dict(zip(_HEAD, (SCHEMA_VERSION, number, previous, action, at, by), strict=True))
    sealed = dump_json(head | dict(body), "the log entry").removesuffix(b"\n}\n")
    checksum = hashlib.sha256(sealed).hexdigest()
    content = sealed + _SEAL + checksum.encode() + _SEAL_END
    if len(content) > LARGEST_FILE:
        raise InputError(f"the log entry has {len(content):,} bytes: it may have {LARGEST_FILE:,}")
    return content, Entry(number, action, at, by, _body(parse_json(content, "the log entry")), checksum)


def _body(values: Mapping[str, Any]) -> dict[str, Any]:
    body = dict(values)
    for key in (*_HEAD, "checksum"):
        body.pop(key, None)
    return body


def _read_entry(path: str, number: int, previous: str) -> Entry:
    """Read and verify one entry."""
    content = read_file(path)
    late = time.monotonic() + _TORN_AFTER_S  # by our own clock as well: a file server may have another one
    while not content.endswith(_SEAL_END) and time.monotonic() < late:
        # Without hard links a writer's file grows in place; a torn one is a prefix of what it will be.
        if time.time() - Path(path).stat().st_mtime > _TORN_AFTER_S:
            break
        time.sleep(0.01)
        content = read_file(path)
    sealed, _, seal = content.rpartition(_SEAL)
    checksum = hashlib.sha256(sealed).hexdigest()
    if seal != checksum.encode() + _SEAL_END:
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
