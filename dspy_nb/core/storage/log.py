"""A numbered, append-only commit log: the only place that decides who won a race.

A log is a folder of files ``000001.json``, ``000002.json``, ...; each is one entry, complete and flushed to
the disk before it gets its name, and it gets its name only if nobody else has it (put-if-absent, as in the
Delta Lake protocol). Two writers who both want number 17: one gets it, the other reads 17 and tries 18.
Nothing is locked, nothing is overwritten, and state is a fold over the entries.

Each entry carries its number, the checksum of the entry before it, and its own checksum, so that a torn, edited,
renamed, missing or foreign file is found when the log is read: no crash leaves one. An anchor outside the log
(anchor.py) says how far it goes.

The name is what decides. Before an entry has it, a failure leaves nothing that anybody sees, and the error says so;
once it has it, the entry is written, whatever the disk says when it is asked again, and nothing is read from it any
more to answer the writer.

How a file gets a name that nobody else has:

- by a hard link, wherever there are such links;
- elsewhere (FAT, some network and container mounts) the entry is a folder with that name, which holds the file:
  renaming a folder never replaces a file, nor a folder that holds something. So an entry is never seen half-written
  there either, and a slow writer needs no protection: until its rename it has nothing that could be taken away.

Older versions wrote into the named file itself where there were no links, and a kill could leave it torn. A torn
last entry that its anchor does not know was never acknowledged: readers take it for absent, and the next writer
moves it out of the way, as soon as it has not grown for a second. A lock on the file itself makes sure that only a
torn file is ever moved. Any other entry that is not whole is damage.
"""

from __future__ import annotations

import contextlib
import errno
import getpass
import os
import random
import shutil
import stat
import sys
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Generic, Protocol, TypeVar

from dspy_nb.core.errors import Conflict, Corrupt
from dspy_nb.core.storage.anchor import anchor_of, confirm, read_anchor
from dspy_nb.core.storage.entry import Entry, entry_name, is_entry_name, is_torn, seal, verified
from dspy_nb.core.storage.files import (
    NOT_FLUSHED,
    TEMPORARY_PREFIX,
    explain_failure,
    make_folders,
    put_in_place,
    read_file,
    stage_folder,
)
from dspy_nb.core.storage.flushing import Unflushed
from dspy_nb.core.text import repaired

_INSIDE: Final = "entry.json"  # the file of an entry that is a folder
_PATIENCE_S: Final = 60.0
_TORN_AFTER_S: Final = 1.0  # an entry that is not complete and has not grown for so long will not be
_LONG_AGO_S: Final = 60.0  # by the clock of a file server, which may be another one

# What os.link raises where the file system has no hard links (FAT, some network and container mounts).
_NO_LINKS: Final = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV}

_Signature = tuple[int, ...]
_UNKNOWN: Final[_Signature] = ()


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

    Attributes:
        folder: Of the log.
        lock: Held while the state is read.
        torn: The path of a last entry that somebody did not finish, as of the last ``read``; it does not count.
    """

    def __init__(self, folder: Path, new_state: Callable[[], S], root: Path | None = None) -> None:
        """Open the log in ``folder``, which need not exist yet.

        Args:
            folder: Of the log.
            new_state: Makes the state of an empty log.
            root: Of the registry that the log belongs to, where its anchor is; without it there is none.
        """
        self.folder = folder
        self.lock = threading.RLock()
        self.torn: str | None = None
        self._root = root
        self._anchor = None if root is None else anchor_of(root, folder)
        self._new_state = new_state
        self._entries: list[Entry] = []
        self._state = new_state()
        self._last_signature: _Signature | None = None
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
            Corrupt: An entry is missing, torn, edited or foreign, its action cannot follow, or a folder is a link.
            Refused: An entry was written by a newer dspy_nb.
            RegistryError: The folder cannot be read.
        """
        with self.lock, explain_failure(f"read {self.folder}"):
            if self._entries and self._signature(len(self._entries)) != self._last_signature:
                self._forget()  # another branch was checked out, or a backup was restored
            self.torn = None
            try:
                if not self._entries:
                    self._refuse_links()
                    self._check_gapless()
                known = len(self._entries)
                while (entry := self._next()) is not None:
                    self._take(entry)
                if len(self._entries) > known:
                    self._last_signature = self._signature(len(self._entries))
            except OSError:
                raise  # what is known stays known
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
        with after or Unflushed() as unflushed, Unflushed() as name:
            return self._append(decide, action, current_user() if by is None else by, unflushed, name)

    def _append(
        self,
        decide: Callable[[S], Mapping[str, Any] | None],
        action: str,
        by: str,
        unflushed: Unflushed,
        name: Unflushed,
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
                content, entry = seal(number, previous, action, utc_now(), repaired(by), repaired(body))
                state.check(entry)
                torn, target = self.torn, self._path(entry_name(number))
                with explain_failure(f"write {target}"):
                    if attempt == 0:
                        make_folders(self.folder)
                        name.add_folder(self.folder)  # opened now: later only a flush is left
                    written = torn is None and self._put(target, content, unflushed)
                if written:
                    self._know(entry)
                    with explain_failure(f"flush {target}, which {NOT_FLUSHED}"):
                        name.flush()
                    if self._anchor is not None:
                        confirm(self._anchor, self._entries)
                    return entry
            if torn is not None:
                with explain_failure(f"move {torn}, which is torn, out of the way"):
                    _move_away(torn, self._path(f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}"))
            attempt += 1
            if time.monotonic() > deadline:
                raise Conflict(f"{self.folder}: other writers were faster for {_PATIENCE_S:.0f} s: try again")
            time.sleep(random.uniform(0, min(0.05, 0.001 * 2 ** min(attempt, 6))))

    def _put(self, target: str, content: bytes, unflushed: Unflushed) -> bool:
        """Create the complete, flushed file ``target``, or return False if it exists."""
        temporary = self._path(f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}")
        try:
            unflushed.create(temporary, content)
            unflushed.flush()
            try:
                os.link(temporary, target)
            except OSError as error:
                if error.errno in _NO_LINKS:
                    return self._put_folder(target, content)
                if _is_same_file(temporary, target):
                    return True  # it was done, and the answer of a file server was lost
                if isinstance(error, FileExistsError):
                    return False
                raise
            return True
        finally:
            with contextlib.suppress(OSError):
                os.unlink(temporary)

    def _put_folder(self, target: str, content: bytes) -> bool:
        staging = self._path(f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}")
        with Unflushed() as unflushed:
            stage_folder(staging, {_INSIDE: content}, unflushed)
            try:
                unflushed.flush()
            except BaseException:
                shutil.rmtree(staging, ignore_errors=True)
                raise
        return put_in_place(staging, target)

    def _know(self, entry: Entry) -> None:
        """Take in an entry that this process has just written, from memory."""
        try:
            self._take(entry)
        except BaseException:
            self._forget()
            raise
        self._last_signature = _UNKNOWN
        with contextlib.suppress(OSError):
            self._last_signature = self._signature(entry.number)

    def _path(self, name: str) -> str:
        return f"{self._prefix}{name}"

    def _forget(self) -> None:
        self._entries = []
        self._state = self._new_state()
        self._last_signature = None

    def _signature(self, number: int) -> _Signature | None:
        try:
            status = os.stat(self._path(entry_name(number)), follow_symlinks=False)
        except FileNotFoundError:
            return None
        return status.st_ino, status.st_mtime_ns, status.st_size

    def _refuse_links(self) -> None:
        """Refuse folders that are links: what is written would be elsewhere, and a clone may name any place."""
        below = self.folder.relative_to(self._root).parts if self._root is not None else (self.folder.name,)
        place = str(self._root or self.folder.parent)
        for part in below:
            place = f"{place}{os.sep}{part}"
            if os.path.islink(place):
                raise Corrupt(f"{place} is a link: the registry holds plain folders only")

    def _check_gapless(self) -> None:
        try:
            names = {name for name in os.listdir(self.folder) if is_entry_name(name)}
        except FileNotFoundError:
            return
        for number in range(1, len(names) + 1):
            if entry_name(number) not in names:
                words = f"{self.folder / entry_name(number)} is missing, but later entries exist"
                raise Corrupt(f"{words}: restore it from git or a backup")

    def _next(self) -> Entry | None:
        """Return the entry after the last one that is known, None if there is none."""
        number = len(self._entries) + 1
        path = self._path(entry_name(number))
        try:
            content = _content(path)
        except FileNotFoundError:
            return None
        if is_torn(content) and self._may_be_torn(number):
            self.torn = path
            return None
        entry = verified(content, path, number, self._entries[-1].checksum if self._entries else "")
        self._state.check(entry)
        return entry

    def _may_be_torn(self, number: int) -> bool:
        """Return whether nobody was told of an entry that is not whole: else it is damage.

        It is the last one, its anchor does not know it, and it is a file: a folder was whole when it got its name.
        """
        if os.path.lexists(self._path(entry_name(number + 1))) or os.path.isdir(
            self._path(entry_name(number))
        ):
            return False
        anchor = None
        if self._anchor is not None:
            with contextlib.suppress(Corrupt):
                anchor = read_anchor(self._anchor)
        return anchor is None or anchor.number < number

    def _take(self, entry: Entry) -> None:
        self._state.apply(entry)
        self._entries.append(entry)


def _content(path: str) -> bytes:
    """Return what an entry's file holds, or the file in it where it is a folder."""
    try:
        return read_file(path)
    except (Corrupt, PermissionError):
        if not stat.S_ISDIR(os.lstat(path).st_mode):
            raise
    return read_file(f"{path}{os.sep}{_INSIDE}")


def _is_same_file(a: str, b: str) -> bool:
    with contextlib.suppress(OSError):
        return os.path.samestat(os.lstat(a), os.lstat(b))
    return False


def _move_away(torn: str, aside: str) -> None:
    """Rename a torn entry, unless it grows, is whole after all, or is moved by somebody else right now.

    Only who holds the lock on a file renames it, and only while it has the name: a name that somebody else has
    given to a whole entry meanwhile is left alone.

    Raises:
        Corrupt: The file system has no locks: a person has to remove it.
    """
    late = time.monotonic() + _TORN_AFTER_S
    with contextlib.suppress(FileNotFoundError), open(torn, "rb") as file:
        before = os.fstat(file.fileno())
        while time.monotonic() < late and time.time() - before.st_mtime < _LONG_AGO_S:
            time.sleep(0.02)
            if os.fstat(file.fileno()).st_size != before.st_size:
                return
        try:
            _lock(file.fileno())
            if os.path.samestat(before, os.lstat(torn)) and is_torn(file.read()):
                os.rename(torn, aside)
        except BlockingIOError:
            return
        except FileNotFoundError:
            raise
        except OSError as error:
            raise Corrupt(
                f"{torn} was torn by a process that stopped half-way, and cannot be moved away "
                f"({error.strerror or error}): remove it"
            ) from error


def _lock(descriptor: int) -> None:
    if sys.platform == "win32":
        raise OSError(errno.ENOTSUP, "no locks")
    import fcntl

    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def current_user() -> str:
    """Return the name of the user of this process, or ``unknown``."""
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        return "unknown"


def utc_now() -> str:
    """Return the time now, ISO 8601 in UTC to the microsecond."""
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
