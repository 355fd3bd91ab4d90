"""A SQLite file of traffic: its tables, who may write at a time, and which version it has."""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from dspy_nb.core.errors import Corrupt, Refused, RegistryError
from dspy_nb.core.storage.files import explained, make_folders

if TYPE_CHECKING:
    import sqlite3

__all__ = ["TrafficFile"]

_BUSY_S: Final = 60.0
_SCHEMA_VERSION: Final = 1

# Events are numbered 1, 2, 3, ... in the order of assignment and never deleted. What status() reads of them
# comes first in a row, because SQLite reads a row from the left.
_SCHEMA: Final = f"""
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE splits (id INTEGER PRIMARY KEY, split REAL NOT NULL, set_at REAL NOT NULL);
CREATE TABLE events (
    number INTEGER PRIMARY KEY, is_b INTEGER NOT NULL, first INTEGER NOT NULL, split_id INTEGER NOT NULL,
    outcome REAL, late INTEGER NOT NULL DEFAULT 0, error TEXT, cached INTEGER, latency_us INTEGER,
    assigned_at REAL NOT NULL, recorded_at REAL, request_id TEXT NOT NULL UNIQUE, unit TEXT NOT NULL);
CREATE UNIQUE INDEX units ON events (unit) WHERE first = 1;
CREATE INDEX waiting ON events (assigned_at) WHERE first = 1 AND outcome IS NULL AND late = 0;
CREATE TABLE changes (id INTEGER PRIMARY KEY, number INTEGER NOT NULL);
PRAGMA user_version = {_SCHEMA_VERSION};
"""


class TrafficFile:
    """Connections of this process to the file: one that writes and one that reads, each used by one at a time.

    Args:
        path: The file; it and its folders come into being with the first use.
        schema: Statements that make its tables, those of an experiment by default; they set ``user_version`` to
            1, as all files of traffic have it.
    """

    def __init__(self, path: str | os.PathLike[str], *, schema: str = _SCHEMA) -> None:
        self.path = Path(path)
        self._writer, self._reader = _Slot(self.path, schema), _Slot(self.path, schema)
        self._identity: tuple[int, int] | None = None  # of the file that was opened

    @contextlib.contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Give a connection whose changes are stored together at the end, or none of them if the block raises.

        Raises:
            RegistryError: The file cannot be written, or is not the one any more that was opened.
            Refused: A newer dspy_nb wrote it.
            Corrupt: It is no file of traffic.
        """
        with self._same_file(), self._writer.using("BEGIN IMMEDIATE", "write") as connection:
            yield connection

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Give a connection that sees the file as it is at one moment.

        Raises:
            RegistryError, Refused, Corrupt: As for ``writing``.
        """
        with self._same_file(), self._reader.using("BEGIN", "read") as connection:
            yield connection

    @contextlib.contextmanager
    def _same_file(self) -> Iterator[None]:
        """Refuse a file that took the place of the one that was opened: what the system still writes is lost."""
        if self._identity is not None and self._identity != _identity(self.path):
            raise RegistryError(
                f"{self.path} was deleted or replaced while this process used it: put it back, or restart to go "
                "on with what is there now"
            )
        yield
        self._identity = self._identity or _identity(self.path)

    def close(self) -> None:
        """Close the connections; they open again when they are needed."""
        self._writer.close()
        self._reader.close()


class _Slot:
    """A connection that is opened when it is needed, anew in a process that was forked."""

    def __init__(self, path: Path, schema: str) -> None:
        self._path, self._schema = path, schema
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._inherited: sqlite3.Connection | None = None
        self._finalizer: weakref.finalize | None = None  # type: ignore[type-arg]

    @contextlib.contextmanager
    def using(self, begin: str, doing: str) -> Iterator[sqlite3.Connection]:
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
                    self._connection = _opened(self._path, self._schema)
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
                raise _explained(error, self._path, doing) from error

    def close(self) -> None:
        with self._lock:
            if self._connection is not None and self._pid == os.getpid():
                self._connection.close()
                self._connection = None


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = os.stat(path)  # noqa: PTH116 (pathlib takes longer)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _opened(path: Path, schema: str) -> sqlite3.Connection:
    import sqlite3

    with explained(f"create {path}"):
        make_folders(path.absolute().parent)
    connection = sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        if _version(connection) == 0:
            connection.execute("BEGIN IMMEDIATE")
            if _version(connection) == 0:  # nobody else has made the tables since
                for statement in schema.split(";\n"):
                    connection.execute(statement)
            connection.execute("COMMIT")
        if _version(connection) > _SCHEMA_VERSION:
            raise Refused(f"{path} was written by a newer dspy_nb: upgrade to read it")
    except BaseException:
        connection.close()
        raise
    return connection


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _explained(error: sqlite3.Error, path: Path, doing: str) -> RegistryError:
    text = str(error)
    if "not a database" in text or "malformed" in text or "already exists" in text or "no such" in text:
        return Corrupt(f"{path} is not a file of traffic: {text}")
    cause = {"database is locked": f"another process held it for {_BUSY_S:g} s"}.get(text, text)
    return RegistryError(f"cannot {doing} {path}: {cause}")
