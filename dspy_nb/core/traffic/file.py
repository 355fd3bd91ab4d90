"""A SQLite file of traffic: who may write at a time, which file it is, and what becomes of a damaged one."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import stat
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from dspy_nb.core.errors import Corrupt, DspyNbError, InputError, Refused, RegistryError
from dspy_nb.core.storage.files import explain_failure, make_folders
from dspy_nb.core.text import one_line
from dspy_nb.core.traffic.damaged import (
    ENDS,
    Identity,
    alone_in,
    connect,
    find_aside,
    identity_of,
    is_damage,
    list_asides,
    set_aside,
    signature_of,
)
from dspy_nb.core.traffic.schema import VERSION, make_tables, migrate

if TYPE_CHECKING:
    import sqlite3

logger = logging.getLogger(__name__)

_T = TypeVar("_T")

_BUSY_S: Final = 60.0
_OTHERS_WRITE_WITHIN_S: Final = 0.1


class TrafficFile:
    """Connections of this process to the file: one that writes and one that reads, each used by one at a time.

    Args:
        path: The file; it and its folders come into being with the first use.
        more: Statements that make what it has besides the tables of every file, such as ``EXPERIMENT``.

    Attributes:
        fill: Writes what a new file begins with; it gets the damaged file that this one stands in for, if any.
        generation: How many files this process has used, one after the other.
    """

    def __init__(self, path: str | os.PathLike[str], more: str = "") -> None:
        self.path, self._more = Path(path), more
        self.fill: Callable[[sqlite3.Connection, Path | None], None] | None = None
        self.generation = 0
        self._writer, self._reader = _Slot(self._open), _Slot(self._open)
        self._identity: Identity | None = None  # of the file that was opened
        self._replaces: Path | None = None  # what was set aside for it
        self._setting_aside = threading.Lock()

    def writing(self) -> AbstractContextManager[sqlite3.Connection]:
        """Give a connection whose changes are stored together at the end, or none of them if the block raises.

        Raises:
            RegistryError: The file cannot be written, or is not the one any more that was opened.
            Refused: A newer dspy_nb wrote it.
            Corrupt: It is no file of traffic.
        """
        return self._use(self._writer, "BEGIN IMMEDIATE", "write")

    def reading(self) -> AbstractContextManager[sqlite3.Connection]:
        """Give a connection that sees the file as it is at one moment.

        Raises:
            RegistryError, Refused, Corrupt: As for ``writing``.
        """
        return self._use(self._reader, "BEGIN", "read")

    def serve(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        """Do for a request what writes, all of it or nothing, so that a damaged file holds up no request.

        A file that SQLite finds damaged, again when it is opened anew, and that nobody else writes to meanwhile,
        is set aside: it gets another name, nothing in it is changed, and a new one takes its place.

        Raises:
            RegistryError, Refused, Corrupt: As for ``writing``; also for a damaged file that others write to.
        """
        try:
            with self.writing() as connection:
                return work(connection)
        except Corrupt as error:
            damage = error
        with self._setting_aside:
            fresh, found, before = _Slot(self._open), identity_of(self.path), signature_of(self.path)
            try:
                time.sleep(_OTHERS_WRITE_WITHIN_S)
                with self._use(fresh, "BEGIN IMMEDIATE", "write") as connection:
                    return work(connection)
            except Corrupt as error:
                untouched = before == signature_of(self.path) or found != identity_of(self.path)
                if not is_damage(error) or not untouched:
                    raise damage from None
                with explain_failure(f"set {self.path} aside"), alone_in(self.path.parent):
                    aside = set_aside(self.path, found)
                if aside is not None:
                    logger.error("%s; it is kept as %s, and a new file goes on", damage, aside.name)
                self._identity, self._replaces = None, find_aside(self.path, found)
            finally:
                fresh.close()  # after it has moved: a file that is closed is tidied up
        with self.writing() as connection:
            return work(connection)

    def missing(self, since: str = "") -> tuple[str, ...]:
        """Return a sentence about each file that was set aside, since a time in ISO 8601, and is still there."""
        return tuple(aside.sentence() for aside in list_asides(self.path) if aside.at >= since)

    @contextlib.contextmanager
    def _use(self, slot: _Slot, begin: str, doing: str) -> Iterator[sqlite3.Connection]:
        """Use a connection, but not to a file that took the place of the one that was opened.

        What the system still writes to that one is lost. If it was set aside, by whichever process, this one goes
        on with the new one.
        """
        identity = identity_of(self.path)
        if self._identity is not None and self._identity != identity:
            self._replaces = find_aside(self.path, self._identity)
            if self._replaces is None:
                raise RegistryError(
                    f"{self.path} was deleted or replaced while this process used it: put it back, or restart to "
                    "go on with what is there now"
                )
            self._identity = None
        if slot.identity != identity:
            slot.close()
        with slot.using(self.path, begin, doing) as connection:
            yield connection
        if self._identity is None:
            self._identity = slot.identity
            self.generation += 1

    def _open(self) -> tuple[sqlite3.Connection, Identity | None]:
        return _open(self.path, self._make)

    def _make(self, connection: sqlite3.Connection) -> None:
        make_tables(connection, self._more)
        if self.fill is not None:
            self.fill(connection, self._replaces)

    def close(self) -> None:
        """Close the connections; they open again when they are needed."""
        self._writer.close()
        self._reader.close()


class _Slot:
    """A connection that is opened when it is needed, anew in a process that was forked.

    Attributes:
        identity: Which file was opened last.
    """

    def __init__(self, open_one: Callable[[], tuple[sqlite3.Connection, Identity | None]]) -> None:
        self.identity: Identity | None = None
        self._open = open_one
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._inherited: sqlite3.Connection | None = None
        self._finalizer: weakref.finalize | None = None  # type: ignore[type-arg]

    @contextlib.contextmanager
    def using(self, path: Path, begin: str, doing: str) -> Iterator[sqlite3.Connection]:
        import sqlite3

        if self._pid != os.getpid():
            # An inherited connection is left alone, not closed: that would drop the parent's locks.
            self._inherited, self._connection = self._connection, None
            if self._finalizer is not None:
                self._finalizer.detach()
            self._lock, self._pid = threading.Lock(), os.getpid()
        with self._lock:
            try:
                if self._connection is None:
                    self._connection, self.identity = self._open()
                    self._finalizer = weakref.finalize(self, self._connection.close)
                connection = self._connection
                connection.execute(begin)
                try:
                    yield connection
                    connection.execute("COMMIT")
                except BaseException:
                    if connection.in_transaction:
                        connection.execute("ROLLBACK")
                    raise
            except sqlite3.Error as error:
                raise _explain(error, path, doing) from error
            except DspyNbError:
                raise
            except UnicodeEncodeError as error:
                raise InputError(f"a text with half of a surrogate pair cannot be stored: {error}") from None
            except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
                # Arguments were checked before: it is what a row holds.
                why = f"{type(error).__name__}: {one_line(error, 200)}"
                raise Corrupt(
                    f"{path} holds what no file of traffic does ({why}): restore it from a backup"
                ) from error

    def close(self) -> None:
        with self._lock:
            if self._connection is not None and self._pid == os.getpid():
                self._connection.close()
                self._connection = None


def _open(
    path: Path, make: Callable[[sqlite3.Connection], None]
) -> tuple[sqlite3.Connection, Identity | None]:
    """Return a connection to the file, which is made if there is none, and which file it is."""
    connection, version, identity = _connect(path, make)
    try:
        if version > VERSION:
            raise Refused(f"{path} was written by a newer dspy_nb: upgrade to read it")
        if version == 0 and connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            raise Corrupt(f"{path} is not a file of traffic, but another database: move it away")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        if version < VERSION:
            # A file that turns out to be damaged stays as it is.
            connection.execute("PRAGMA cache_spill = OFF")
            connection.execute("BEGIN IMMEDIATE")
            if (version := _read_version(connection)) == 0:  # nobody else has made the tables since
                make(connection)
            elif version < VERSION:
                migrate(connection)
            connection.execute("COMMIT")
    except BaseException:
        connection.close()
        raise
    return connection, identity


def _connect(
    path: Path, make: Callable[[sqlite3.Connection], None]
) -> tuple[sqlite3.Connection, int, Identity | None]:
    """Return a connection that has its file and log open, the version of the file, and which file it is."""
    with explain_failure(f"create {path}"):
        make_folders(path.absolute().parent)
        with alone_in(path.parent):
            if not _is_there(path):
                _create(path, make)
            connection = connect(path, "rw", timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
            try:
                return connection, _read_version(connection), identity_of(path)
            except BaseException:
                connection.close()
                raise


def _is_there(path: Path) -> bool:
    """Tell whether there is a file; one that is empty, which SQLite would take for a new one, is set aside."""
    log = path.with_name(f"{path.name}-wal")
    try:
        status = path.stat()
    except FileNotFoundError:
        if log.is_file() and log.stat().st_size:
            set_aside(path, None)  # SQLite would remove it: nothing is left that it belongs to
        return False
    if not stat.S_ISREG(status.st_mode):
        raise Corrupt(f"{path} is not a file of traffic, and no file at all: move it away")
    if status.st_size == 0:
        set_aside(path, (status.st_dev, status.st_ino))
        return False
    return True


def _create(path: Path, make: Callable[[sqlite3.Connection], None]) -> None:
    """Make a new file: whole, or not there."""
    import sqlite3

    temporary = path.with_name(f".tmp-{secrets.token_hex(8)}.{path.name}")
    try:
        connection = sqlite3.connect(temporary, isolation_level=None)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("BEGIN IMMEDIATE")
            make(connection)
            connection.execute("COMMIT")
        finally:
            connection.close()
        try:
            os.link(temporary, path)
        except FileExistsError:  # where a disk knows no locks, another process was faster
            return
        except OSError:  # a disk that knows no hard links
            os.rename(temporary, path)  # noqa: PTH104
    finally:
        for end in ENDS:
            with contextlib.suppress(OSError):
                temporary.with_name(f"{temporary.name}{end}").unlink()


def _read_version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _explain(error: sqlite3.Error, path: Path, doing: str) -> RegistryError:
    text = one_line(error, 200)
    if is_damage(error) or any(words in text for words in ("already exists", "no such", "not decode")):
        return Corrupt(f"{path} is not a file of traffic: {text}")
    cause = {"database is locked": f"another process held it for {_BUSY_S:g} s"}.get(text, text)
    return RegistryError(f"cannot {doing} {path}: {cause}")


def verify_traffic(path: Path) -> None:
    """Read a whole file of traffic, if there is one; nothing is changed.

    Raises:
        Corrupt: It is damaged, or none.
        RegistryError: It cannot be read.
    """
    import sqlite3

    with explain_failure(f"read {path}"):
        if not path.exists():
            return
        if not path.is_file() or not path.stat().st_size:
            raise Corrupt(f"{path} is not a file of traffic: it is empty, or no file at all")
    try:
        with contextlib.closing(connect(path, "ro")) as connection:
            found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    except sqlite3.Error as error:
        raise _explain(error, path, "read") from error
    except UnicodeDecodeError as error:
        raise Corrupt(f"{path} is not a file of traffic: its tables have no readable names") from error
    if found != "ok":
        raise Corrupt(f"{path} is not a file of traffic: {one_line(found, 200)}")
