"""The traffic of an online experiment in one SQLite file: who was assigned where, and what came of it.

Writers wait for each other, in threads and processes alike. The file is in WAL mode with synchronous=NORMAL:
what a call has written when it returns survives the death of the process; a power cut may take the last
moments, and leaves the file whole.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from dspy_nb.core.arguments import number_between, probability
from dspy_nb.core.durable import explained, make_folders
from dspy_nb.core.errors import InputError, NotFound, RegistryError

if TYPE_CHECKING:
    import sqlite3

__all__ = ["Assignment", "Traffic"]

_BUSY_S = 60.0
_SCHEMA = """
CREATE TABLE IF NOT EXISTS units (unit TEXT PRIMARY KEY, is_b INTEGER NOT NULL, split REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS events (
    number INTEGER PRIMARY KEY, request_id TEXT NOT NULL UNIQUE, unit TEXT NOT NULL, first INTEGER NOT NULL,
    is_b INTEGER NOT NULL, split REAL NOT NULL, assigned_at REAL NOT NULL, outcome REAL, recorded_at REAL);
"""


class Assignment(NamedTuple):
    """One request: its number in the order of assignment, and the arm and split of its unit."""

    number: int
    request_id: str
    is_b: bool
    split: float
    first: bool


class Traffic:
    """The store of one experiment; one connection for each thread of each process.

    Args:
        path: The file; it and its folders come into being with the first use.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._local = threading.local()

    def assign(self, unit: str, is_b: bool, split: float) -> Assignment:
        """Add one request of a unit; a unit known already keeps the arm and the split of its first request.

        Raises:
            InputError: The split is not in (0, 1); nothing was added.
            RegistryError: The file cannot be written.
        """
        return self.add_many([(unit, is_b, split)])[0]

    def add_many(self, requests: Iterable[tuple[str, bool, float]]) -> list[Assignment]:
        """Add many requests (unit, is_b, split) at once, in this order of assignment: all of them or none.

        Raises:
            InputError: A split is not in (0, 1); nothing was added.
            RegistryError: The file cannot be written.
        """
        rows = [(unit, bool(is_b), probability("split", split)) for unit, is_b, split in requests]
        made = []
        with self._writing() as connection:
            for unit, is_b, split in rows:
                new = connection.execute("INSERT OR IGNORE INTO units VALUES (?, ?, ?)", (unit, is_b, split))
                first = new.rowcount == 1
                if not first:
                    query = "SELECT is_b, split FROM units WHERE unit = ?"
                    is_b, split = connection.execute(query, (unit,)).fetchone()
                request_id = uuid.uuid4().hex
                number = connection.execute(
                    "INSERT INTO events (request_id, unit, first, is_b, split, assigned_at) "
                    "VALUES (?, ?, ?, ?, ?, ?)",
                    (request_id, unit, first, is_b, split, time.time()),
                ).lastrowid
                made.append(Assignment(int(number or 0), request_id, bool(is_b), split, first))
        return made

    def record(self, request_id: str, outcome: float) -> None:
        """Store the outcome of a request; the same outcome again changes nothing."""
        self.record_many([(request_id, outcome)])

    def record_many(self, outcomes: Iterable[tuple[str, float]]) -> None:
        """Store the outcomes of many requests (request id, outcome): all of them or none.

        Raises:
            InputError: An outcome is not in [0, 1], or another one was recorded; nothing was changed.
            NotFound: There is no such request; nothing was changed.
            RegistryError: The file cannot be written.
        """
        rows = [(request_id, number_between("outcome", value, 0, 1)) for request_id, value in outcomes]
        with self._writing() as connection:
            for request_id, outcome in rows:
                query = "SELECT outcome FROM events WHERE request_id = ?"
                found = connection.execute(query, (request_id,)).fetchone()
                if found is None:
                    raise NotFound(
                        f"no request {request_id!r:.80} in {self.path.name}: was it assigned here?"
                    )
                if found[0] is not None and found[0] != outcome:
                    raise InputError(
                        f"request {request_id} has the outcome {found[0]:g} already, not {outcome:g}"
                    )
                connection.execute(
                    "UPDATE events SET outcome = ?, recorded_at = ? WHERE request_id = ? AND outcome IS NULL",
                    (outcome, time.time(), request_id),
                )

    def matured(self, after: int = 0) -> list[tuple[int, bool, float, float]]:
        """Return (number, is_b, outcome, split) of first requests of units, up to the first without outcome.

        Args:
            after: Only requests with a greater number.
        """
        query = (
            "SELECT number, is_b, outcome, split FROM events WHERE first AND number > ?1 AND number < ifnull("
            "(SELECT min(number) FROM events WHERE first AND number > ?1 AND outcome IS NULL), 1 << 62) "
            "ORDER BY number"
        )
        rows = self._connection().execute(query, (after,)).fetchall()
        return [(number, bool(is_b), outcome, split) for number, is_b, outcome, split in rows]

    @contextlib.contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        import sqlite3

        connection = self._connection()
        try:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            raise RegistryError(f"cannot write {self.path}: {error}") from error

    def _connection(self) -> sqlite3.Connection:
        if getattr(self._local, "pid", None) == os.getpid():
            return self._local.connection
        import sqlite3

        with explained(f"create {self.path}"):
            make_folders(self.path.absolute().parent)
        try:
            connection = sqlite3.connect(self.path, timeout=_BUSY_S, isolation_level=None)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.executescript(_SCHEMA)
        except sqlite3.Error as error:
            raise RegistryError(f"cannot open {self.path}: {error}") from error
        # A connection inherited by a fork is left alone, not closed: that would drop the parent's locks.
        self._local.inherited = getattr(self._local, "connection", None)
        self._local.connection, self._local.pid = connection, os.getpid()
        return connection
