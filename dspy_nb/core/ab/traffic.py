"""The traffic of an online experiment in one SQLite file: who was assigned where, and what came of it.

Writers wait for each other, in threads and processes alike. The file is in WAL mode with synchronous=NORMAL:
what a call has written when it returns survives the death of the process; a power cut may take the last
moments, and leaves the file whole.
"""

from __future__ import annotations

import json
import math
import os
import time
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from dspy_nb.core.arguments import check_text, number_between, probability
from dspy_nb.core.errors import Corrupt, InputError, NotFound
from dspy_nb.core.storage.damaged import read_aside
from dspy_nb.core.storage.sqlite import TrafficFile

if TYPE_CHECKING:
    import sqlite3

__all__ = ["Assignment", "Traffic"]


class Assignment(NamedTuple):
    """One request: its number in the order of assignment, and the arm and split of its unit.

    Attributes:
        number: From 1, without gaps.
        request_id: What its outcome is recorded under.
        is_b: Whether its unit is in arm B.
        split: The probability with which the unit was assigned to B, at its first request.
        first: Whether this is the first request of its unit.
    """

    number: int
    request_id: str
    is_b: bool
    split: float
    first: bool


class Traffic:
    """The store of one experiment, for any number of threads and processes.

    Args:
        path: The file; it and its folders come into being with the first use.
        within_s: An outcome counts if it is recorded within so many seconds after the assignment.
        clock: Seconds since 1970.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        within_s: float = math.inf,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.path = Path(path)
        self.within_s = within_s
        self.clock = clock
        self.file = TrafficFile(path)

    def goes_on_as(self, definition: dict[str, Any], split: float) -> None:
        """Say what a new file begins with, should this one be damaged and set aside.

        What the damaged file still tells of its facts and splits comes first.

        Args:
            definition: The fact of this name.
            split: The present one.
        """

        def fill(connection: sqlite3.Connection, damaged: Path | None) -> None:
            now = self.clock()
            facts, splits = [("definition", json.dumps(definition))], [(split, now)]
            if damaged is not None:
                known = (
                    "SELECT name, value FROM facts WHERE name != 'checkpoint' AND json_type(value) = 'object'"
                )
                known_facts = read_aside(damaged, f"{known} OR value = 'true'")
                facts = [
                    fact for fact in known_facts if fact[0] != "definition" or _like(fact[1], definition)
                ] + facts
                query = "SELECT split, set_at FROM splits WHERE split > 0 AND split < 1 ORDER BY id"
                splits = read_aside(damaged, query) or splits
            connection.executemany("INSERT OR IGNORE INTO facts VALUES (?, ?)", facts)
            connection.executemany("INSERT INTO splits (split, set_at) VALUES (?, ?)", splits)

        self.file.fill = fill

    # -- facts and splits -----------------------------------------------------------------------------------

    def fact(self, name: str) -> Any:
        """Return what was stored under a name as JSON, ``None`` if nothing was."""
        with self.file.reading() as connection:
            return _fact(connection, name)

    def begun(self, *, or_begin: bool) -> Any:
        """Return the definition, of a new file if there is none or a damaged one; ``None`` where there is none.

        Args:
            or_begin: Whether to begin with what ``goes_on_as`` was told; else a damaged file is an error.
        """
        try:
            stored = self.fact("definition")
        except Corrupt:
            if not or_begin:
                raise
            stored = None
        return self.file.serve(self._begin) if stored is None and or_begin else stored

    def _begin(self, connection: sqlite3.Connection) -> Any:
        if _fact(connection, "definition") is None and self.file.fill is not None:
            self.file.fill(connection, None)
        return _fact(connection, "definition")

    def set_fact(self, name: str, value: Any, *, replace: bool = False) -> Any:
        """Store JSON under a name and return what is now stored: the first value, unless told to replace it."""
        with self.file.writing() as connection:
            verb = "REPLACE" if replace else "IGNORE"
            connection.execute(
                f"INSERT OR {verb} INTO facts VALUES (?, ?)", (name, json.dumps(value, allow_nan=False))
            )
            return _fact(connection, name)

    def do_once(self, name: str, action: Callable[[], object]) -> None:
        """Act, unless a fact of that name is stored, and store it; other processes wait meanwhile."""
        with self.file.writing() as connection:
            if _fact(connection, name) is None:
                action()
                connection.execute("INSERT INTO facts VALUES (?, 'true')", (name,))

    def set_split(self, split: float, *, only_first: bool = False) -> None:
        """Let new units go to B with this probability; units known already stay where they are.

        Args:
            split: In (0, 1).
            only_first: Do nothing where a split was set before.

        Raises:
            InputError: It is not in (0, 1).
        """
        split = probability("split", split)
        with self.file.writing() as connection:
            now = _split(connection)
            if now is None or (not only_first and now[1] != split):
                query = "INSERT INTO splits (split, set_at) VALUES (?, ?)"
                connection.execute(query, (split, self.clock()))

    def splits(self) -> list[tuple[float, float]]:
        """Return each split with the time at which it was set, the present one last."""
        with self.file.reading() as connection:
            return connection.execute("SELECT split, set_at FROM splits ORDER BY id").fetchall()

    def split(self) -> float:
        """Return the present split.

        Raises:
            Corrupt: There is none.
        """
        if not (known := self.splits()):
            raise Corrupt(f"{self.path} holds no split: restore it from a backup")
        return known[-1][0]

    # -- requests -------------------------------------------------------------------------------------------

    def assign(
        self,
        unit: str,
        place: float,
        *,
        request_id: str | None = None,
        unless: str | None = None,
    ) -> Assignment | None:
        """Add one request of a unit: to B if its place is below the split.

        A unit known already keeps the arm and the split of its first request. A request known already is not
        added again.

        Args:
            unit: Who asks.
            place: Where the unit's hash lies in [0, 1).
            request_id: Of the caller's own; a new one by default.
            unless: Name of a fact; once that is stored nothing is added, and ``None`` returned.

        Raises:
            InputError: The request is known, with another unit; or no split was set. Nothing was added.
            RegistryError: The file cannot be written.
        """

        def add(connection: sqlite3.Connection) -> Assignment | None:
            if unless is not None and _fact(connection, unless) is not None:
                return None
            return self._add(connection, unit, place, request_id)

        return self.file.serve(add)

    def assign_many(self, requests: Iterable[tuple[str, float]]) -> list[Assignment]:
        """Add many requests (unit, place) at once, in this order of assignment: all of them or none."""
        rows = list(requests)
        with self.file.writing() as connection:
            return [self._add(connection, unit, place, None) for unit, place in rows]

    def _add(
        self, connection: sqlite3.Connection, unit: str, place: float, request_id: str | None
    ) -> Assignment:
        if request_id is not None:
            query = "SELECT number, unit FROM events WHERE request_id = ?"
            known = connection.execute(query, (check_text("request_id", request_id),)).fetchone()
            if known is not None and known[1] != unit:
                raise InputError(f"request {request_id!r} is one of unit {known[1]!r}, not of {unit!r:.80}")
            if known is not None:
                return _assignment(connection, known[0])
        split = _split(connection)
        if split is None:
            raise InputError(f"{self.path.name} has no split yet: set_split(p)")
        query = "SELECT is_b, split_id FROM events WHERE unit = ? AND first = 1"
        first = connection.execute(query, (check_text("unit", unit),)).fetchone()
        is_b, split_id = first or (place < split[1], split[0])
        number = connection.execute(
            "INSERT INTO events (is_b, first, split_id, assigned_at, request_id, unit) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            (int(is_b), int(first is None), split_id, self.clock(), request_id or uuid.uuid4().hex, unit),
        ).lastrowid
        return _assignment(connection, int(number or 0))

    def finish(
        self,
        number: int,
        latency_ms: float,
        *,
        cached: bool = False,
        error: str | None = None,
        request_id: str | None = None,
    ) -> None:
        """Store what a request took; a failed one has the outcome 0. Its first answer counts, later ones do not.

        Args:
            number: Of the request.
            request_id: Its id too, for in a file that took the place of a damaged one the number is another's.
            latency_ms: Of the program.
            cached: Whether all its LM answers came from a cache.
            error: Name of the exception.
        """

        def update(connection: sqlite3.Connection) -> None:
            query = (
                "SELECT assigned_at, outcome, late FROM events WHERE number = ?1 AND latency_us IS NULL "
                "AND request_id = ifnull(?2, request_id)"
            )
            found = connection.execute(query, (number, request_id)).fetchone()
            if found is None:
                return
            assigned_at, outcome, late = found
            recorded_at = None
            if error is not None and outcome is None:
                outcome, recorded_at = 0.0, self.clock()
                late = late or recorded_at - assigned_at > self.within_s
            connection.execute(
                "UPDATE events SET latency_us = ?, cached = ?, error = ?, outcome = ?, late = ?, "
                "recorded_at = coalesce(recorded_at, ?) WHERE number = ?",
                (round(latency_ms * 1000), int(cached), error, outcome, int(late), recorded_at, number),
            )
            connection.execute("INSERT INTO changes (number) VALUES (?)", (number,))

        self.file.serve(update)

    # -- outcomes -------------------------------------------------------------------------------------------

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
        rows = [
            (check_text("request_id", request_id), number_between("outcome", value, 0, 1))
            for request_id, value in outcomes
        ]
        query = "SELECT number, outcome, late, assigned_at, error FROM events WHERE request_id = ?"

        def update(connection: sqlite3.Connection) -> None:
            for request_id, outcome in rows:
                found = connection.execute(query, (request_id,)).fetchone()
                if found is None:
                    lost = "".join(f"; {sentence}" for sentence in self.file.missing())
                    raise NotFound(
                        f"no request {request_id!r:.80} in {self.path.name}: was it assigned here?{lost}"
                    )
                number, known, late, assigned_at, error = found
                if known is not None and known != outcome:
                    why = f", because it failed with {error}" if error else ""
                    raise InputError(
                        f"request {request_id} has the outcome {known:g} already{why}, not {outcome:g}"
                    )
                if known is None:
                    now = self.clock()
                    connection.execute(
                        "UPDATE events SET outcome = ?, late = ?, recorded_at = ? WHERE number = ?",
                        (outcome, int(late or now - assigned_at > self.within_s), now, number),
                    )
                    connection.execute("INSERT INTO changes (number) VALUES (?)", (number,))

        self.file.serve(update)

    def expire(self) -> int:
        """Close the books on units whose outcome is overdue: what is recorded later is late.

        Returns:
            How many.
        """
        overdue = "first = 1 AND outcome IS NULL AND late = 0 AND assigned_at < ?"
        deadline = self.clock() - self.within_s
        with self.file.reading() as connection:
            query = f"SELECT 1 FROM events WHERE {overdue} LIMIT 1"
            if connection.execute(query, (deadline,)).fetchone() is None:
                return 0
        with self.file.writing() as connection:
            query = f"INSERT INTO changes (number) SELECT number FROM events WHERE {overdue}"
            connection.execute(query, (deadline,))
            changed = connection.execute(f"UPDATE events SET late = 1 WHERE {overdue}", (deadline,))
            return changed.rowcount

    def close(self) -> None:
        """Close the file; it opens again when it is needed."""
        self.file.close()


def _fact(connection: sqlite3.Connection, name: str) -> Any:
    found = connection.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
    try:
        return None if found is None else json.loads(found[0])
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"no JSON under {name!r}") from error


def _like(text: str, definition: dict[str, Any]) -> bool:
    """Tell whether a text, which is JSON, has the fields of a definition."""
    found = json.loads(text)
    return isinstance(found, dict) and set(found) == set(definition)


def _split(connection: sqlite3.Connection) -> tuple[int, float] | None:
    return connection.execute("SELECT id, split FROM splits ORDER BY id DESC LIMIT 1").fetchone()


def _assignment(connection: sqlite3.Connection, number: int) -> Assignment:
    query = (
        "SELECT number, request_id, is_b, split, first FROM events JOIN splits ON splits.id = split_id "
        "WHERE number = ?"
    )
    number, request_id, is_b, split, first = connection.execute(query, (number,)).fetchone()
    return Assignment(number, request_id, bool(is_b), split, bool(first))
