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

How a file gets a name that nobody else has is the matter of the storage (disk.py, objects.py).

Older versions wrote into the named file itself where there were no links, and a kill could leave it torn. A torn
last entry that its anchor does not know was never acknowledged: readers take it for absent, and the next writer
moves it out of the way, as soon as it has not grown for a second. A lock on the file itself makes sure that only a
torn file is ever moved. Any other entry that is not whole is damage.
"""

from __future__ import annotations

import contextlib
import getpass
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Generic, Protocol, TypeVar

import msgspec

from dspy_nb.core.errors import Conflict, Corrupt
from dspy_nb.core.storage.anchor import anchor_of, confirm, read_anchor
from dspy_nb.core.storage.disk import may_be_torn, move_away, refuse_links
from dspy_nb.core.storage.entry import Entry, entry_name, is_entry_name, is_torn, seal, verified
from dspy_nb.core.storage.files import NOT_FLUSHED, explain_failure
from dspy_nb.core.storage.flushing import Unflushed
from dspy_nb.core.storage.place import Address, Place, Signature, storage_of
from dspy_nb.core.storage.snapshot import read_snapshot, snapshot_of, step_of, write_snapshot
from dspy_nb.core.text import repaired

_PATIENCE_S: Final = 60.0
_AT_ONCE: Final = 16
_UNKNOWN: Final[Signature] = ()


class LogState(Protocol):
    """What a log folds into."""

    def check(self, entry: Entry) -> None:
        """Raise Corrupt if ``entry`` cannot follow; called before ``apply``, changes nothing."""

    def apply(self, entry: Entry) -> None:
        """Take ``entry`` into the state; must not raise after ``check`` has passed."""

    def kept(self) -> object:
        """Return all of it as data, for a snapshot."""

    def take_up(self, kept: msgspec.Raw) -> None:
        """Become the state that said what is kept; called of a new one only.

        Raises:
            msgspec.DecodeError: It did not.
        """


S = TypeVar("S", bound=LogState)


class Log(Generic[S]):
    """The log in one folder and the state that it folds into.

    Reading costs two ``stat`` when nothing is new, and one file per new entry; a long log that is opened anew comes
    from its snapshot. The state belongs to the log: callers read it and hold ``lock`` while they do, and never
    change it.

    Attributes:
        folder: Of the log.
        owner: The folder of what it is the log of.
        lock: Held while the state is read.
        torn: The path of a last entry that somebody did not finish, as of the last ``read``; it does not count.
    """

    def __init__(
        self, folder: Place, new_state: Callable[[], S], root: Place | None = None, *, afresh: bool = False
    ) -> None:
        """Open the log in ``folder``, which need not exist yet.

        Args:
            folder: Of the log.
            new_state: Makes the state of an empty log.
            root: Of the registry that the log belongs to, where its anchor is; without it there is none.
            afresh: Whether every entry is read from its own file, and none from a snapshot.
        """
        self.folder = folder
        self.owner = folder.parent
        self.lock = threading.RLock()
        self.torn: str | None = None
        self._root = root
        self._storage = storage_of(folder)
        self._anchor = None if root is None else anchor_of(root, folder)
        self._new_state = new_state
        self._checksums: list[str] = []  # of each entry
        self._state = new_state()
        self._signatures: list[Signature] = []  # of the file of each entry, from before it was read
        self._snapshot = None if root is None or afresh else snapshot_of(root, folder)
        # pathlib takes longer to join a path than the system to open it
        self._prefix = str(folder / " ")[:-1]

    @property
    def checksums(self) -> tuple[str, ...]:
        """Those of the entries as of the last ``read`` or ``append``, the first one first."""
        return tuple(self._checksums)

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
            if self._checksums and self._signature(len(self._checksums)) != self._signatures[-1]:
                self._forget()  # another branch was checked out, or a backup was restored
            self.torn = None
            try:
                if not self._checksums:
                    if isinstance(self.folder, Path):
                        refuse_links(self.folder, self._root if isinstance(self._root, Path) else None)
                    self._read_all()
                while self._read_next():
                    pass
                if self._signatures and not self._signatures[-1]:  # of an entry that is a folder
                    self._signatures[-1] = self._signature(len(self._checksums)) or _UNKNOWN
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
                number = len(self._checksums) + 1
                previous = self._checksums[-1] if self._checksums else ""
                body = decide(state)
                if body is None:
                    return None
                content, entry = seal(number, previous, action, utc_now(), repaired(by), repaired(body))
                state.check(entry)
                torn, target = self.torn, self._path(entry_name(number))
                with explain_failure(f"write {target}"):
                    written = torn is None and self._storage.create(target, content, unflushed, name)
                if written:
                    self._know(entry)
                    with explain_failure(f"flush {target}, which {NOT_FLUSHED}"):
                        name.flush()
                    if self._anchor is not None:
                        confirm(self._anchor, self._checksums)
                    if number % step_of(self.folder, number) == 0:  # of several writers one does
                        self._save()
                    return entry
            if torn is not None:
                with explain_failure(f"move {torn}, which is torn, out of the way"):
                    move_away(torn)
            attempt += 1
            if time.monotonic() > deadline:
                raise Conflict(f"{self.folder}: other writers were faster for {_PATIENCE_S:.0f} s: try again")
            time.sleep(random.uniform(0, min(0.05, 0.001 * 2 ** min(attempt, 6))))

    def _know(self, entry: Entry) -> None:
        """Take in an entry that this process has just written, from memory."""
        signature: Signature | None = None
        with contextlib.suppress(OSError):
            signature = self._signature(entry.number)
        try:
            self._take(entry, signature or _UNKNOWN)
        except BaseException:
            self._forget()
            raise

    def _path(self, name: str) -> str:
        return f"{self._prefix}{name}"

    def _forget(self) -> None:
        self._checksums, self._signatures = [], []
        self._state = self._new_state()

    def _signature(self, number: int) -> Signature | None:
        return self._storage.stat(self._path(entry_name(number)))

    def _read_all(self) -> None:
        """Take in the entries that there are, from the snapshot where that holds what their files hold."""
        found = self._storage.list(self.folder, signed=True)
        names: list[str] = []
        signatures: list[Signature] = []
        while (name := entry_name(len(names) + 1)) in found:
            names.append(name)
            signatures.append(found.pop(name))
        if any(map(is_entry_name, found)):
            words = f"{self.folder / name} is missing, but later entries exist"
            raise Corrupt(f"{words}: restore it from git or a backup")
        step = step_of(self.folder, len(names))
        if self._snapshot is None or len(names) <= step:
            self._read_from(0, names, signatures)
            return
        try:
            self._restore(self._snapshot, names, signatures)
            known = len(self._checksums)
            self._read_from(known, names, signatures)
        except (Corrupt, msgspec.DecodeError):
            self._forget()  # the entries themselves tell whether it is so
            known = 0
            self._read_from(known, names, signatures)
        if len(self._checksums) - known > step:
            self._save()

    def _restore(self, snapshot: Place, names: Sequence[str], signatures: Sequence[Signature]) -> None:
        """Begin with the state in the snapshot, if the files that it folds are those that are there.

        Raises:
            Corrupt: The last of them holds another entry, or none.
        """
        saved = read_snapshot(snapshot)
        number = len(saved.checksums) if saved else 0
        if saved is None or saved.signatures != signatures[:number]:
            return
        path = self._path(names[number - 1])
        before = saved.checksums[-2] if number > 1 else ""
        if verified(self._storage.read(path), path, number, before).checksum != saved.checksums[-1]:
            raise Corrupt(f"{snapshot} is of another history")
        self._state.take_up(saved.state)
        self._checksums, self._signatures = saved.checksums, saved.signatures

    def _read_from(self, known: int, names: Sequence[str], signatures: Sequence[Signature]) -> None:
        """Take in the entries from the files themselves, but for the first ones, which are known."""
        for content, signature in zip(self._read_many(names[known:]), signatures[known:], strict=True):
            if not self._take_content(content, signature):
                return

    def _read_many(self, names: Sequence[str]) -> Iterator[bytes]:
        paths = [self._path(name) for name in names]
        if len(paths) < _AT_ONCE or isinstance(self.folder, Path):
            yield from map(self._storage.read, paths)
            return
        # One after the other a thousand requests take half a minute.
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            yield from pool.map(self._storage.read, paths)

    def _read_next(self) -> bool:
        """Take in the entry after the last one that is known; return whether there is one."""
        number = len(self._checksums) + 1
        # before the content: a file that is replaced in between is read again
        signature = self._signature(number)
        if signature is None:
            return False
        try:
            content = self._storage.read(self._path(entry_name(number)))
        except FileNotFoundError:
            return False
        return self._take_content(content, signature)

    def _take_content(self, content: bytes, signature: Signature) -> bool:
        """Take in what the next entry's file holds; return False if it was not finished."""
        number = len(self._checksums) + 1
        path = self._path(entry_name(number))
        previous = self._checksums[-1] if self._checksums else ""
        try:
            entry = verified(content, path, number, previous)
        except Corrupt:
            if is_torn(content) and self._may_be_torn(number):
                self.torn = path
                return False
            raise
        self._state.check(entry)
        self._take(entry, signature)
        return True

    def _save(self) -> None:
        """Write the snapshot anew, for whoever opens the log next."""
        if self._snapshot is not None and all(self._signatures):
            write_snapshot(self._snapshot, self._signatures, self._checksums, self._state.kept())

    def _may_be_torn(self, number: int) -> bool:
        """Return whether nobody was told of an entry that is not whole: else it is damage.

        It is the last one, its anchor does not know it, and it is a file on a disk.
        """
        if isinstance(self.folder, Address) or not may_be_torn(
            self._path(entry_name(number)), self._path(entry_name(number + 1))
        ):
            return False
        anchor = None
        if self._anchor is not None:
            with contextlib.suppress(Corrupt):
                anchor = read_anchor(self._anchor)
        return anchor is None or anchor.number < number

    def _take(self, entry: Entry, signature: Signature) -> None:
        self._state.apply(entry)
        self._checksums.append(entry.checksum)
        self._signatures.append(signature)


def current_user() -> str:
    """Return the name of the user of this process, or ``unknown``."""
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        return "unknown"


def utc_now() -> str:
    """Return the time now, ISO 8601 in UTC to the microsecond."""
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
