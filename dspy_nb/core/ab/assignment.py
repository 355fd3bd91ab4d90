"""The traffic of an online experiment: who was assigned where, at which split, and what is fixed about it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from dspy_nb.core.arguments import check_text, probability
from dspy_nb.core.errors import Corrupt, InputError
from dspy_nb.core.traffic.damaged import read_aside
from dspy_nb.core.traffic.schema import EXPERIMENT
from dspy_nb.core.traffic.store import Request, Route, Traffic, count_unit, find_request, find_unit

if TYPE_CHECKING:
    import sqlite3


_KNOWN_FACTS: Final = """SELECT name, value FROM facts
    WHERE name != 'checkpoint' AND json_type(value) = 'object' OR value = 'true'"""


class Assignments(Traffic):
    """The store of one experiment, which also keeps its definition, its splits and how it ended."""

    more = EXPERIMENT

    def continue_as(self, definition: dict[str, Any], split: float) -> None:
        """Say what a new file begins with, should this one be damaged and set aside.

        What the damaged file still tells of its facts and splits comes first.

        Args:
            definition: The fact of this name.
            split: The present one.
        """

        def fill(connection: sqlite3.Connection, damaged: Path | None) -> None:
            facts, splits = [("definition", json.dumps(definition))], [(split, self.clock())]
            if damaged is not None:
                known = read_aside(damaged, _KNOWN_FACTS)
                facts = [
                    *(fact for fact in known if fact[0] != "definition" or _is_like(fact[1], definition)),
                    *facts,
                ]
                query = "SELECT split, set_at FROM splits WHERE split > 0 AND split < 1 ORDER BY id"
                splits = read_aside(damaged, query) or splits
            connection.executemany("INSERT OR IGNORE INTO facts VALUES (?, ?)", facts)
            connection.executemany("INSERT INTO splits (split, set_at) VALUES (?, ?)", splits)

        self.file.fill = fill

    def fact(self, name: str) -> Any:
        """Return what was stored under a name as JSON, ``None`` if nothing was."""
        with self.file.reading() as connection:
            return _read_fact(connection, name)

    def read_definition(self, *, or_begin: bool) -> Any:
        """Return the definition, of a new file if there is none or a damaged one; ``None`` where there is none.

        Args:
            or_begin: Whether to begin with what ``continue_as`` was told; else a damaged file is an error.
        """

        def begin(connection: sqlite3.Connection) -> Any:
            if _read_fact(connection, "definition") is None and self.file.fill is not None:
                self.file.fill(connection, None)
            return _read_fact(connection, "definition")

        try:
            stored = self.fact("definition")
        except Corrupt:
            if not or_begin:
                raise
            stored = None
        return self.file.serve(begin) if stored is None and or_begin else stored

    def set_fact(self, name: str, value: Any, *, replace: bool = False) -> None:
        """Store JSON under a name; the first value stays, unless told to replace it."""
        query = f"INSERT OR {'REPLACE' if replace else 'IGNORE'} INTO facts VALUES (?, ?)"
        with self.file.writing() as connection:
            connection.execute(query, (name, json.dumps(value, allow_nan=False)))

    def do_once(self, name: str, action: Callable[[], object]) -> None:
        """Act, unless a fact of that name is stored, and store it; other processes wait meanwhile."""
        with self.file.writing() as connection:
            if _read_fact(connection, name) is None:
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
            now = _read_split(connection)
            if now is None or (not only_first and now != split):
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
        self, unit: str, place: float, *, request_id: str | None = None, unless: str | None = None
    ) -> Request | None:
        """Add one request of a unit: to B if its place is below the split; else as ``begin`` does.

        A unit known already keeps the arm and the split of its first request.

        Args:
            unit: Who asks.
            place: Where the unit's hash lies in [0, 1).
            request_id: Of the caller's own; a new one by default.
            unless: Name of a fact; once that is stored nothing is added, and ``None`` returned.

        Raises:
            InputError, RegistryError: As for ``begin``; or no split was set.
        """

        def add(connection: sqlite3.Connection) -> Request | None:
            if unless is not None and _read_fact(connection, unless) is not None:
                return None
            return self._assign(connection, unit, place, request_id)

        return self.file.serve(add)

    def _assign(
        self, connection: sqlite3.Connection, unit: str, place: float, request_id: str | None
    ) -> Request:
        if (known := find_request(connection, request_id, unit)) is not None:
            return known
        split = _read_split(connection)
        if split is None:
            raise InputError(f"{self.path.name} has no split yet: set_split(p)")
        before = find_unit(connection, None, check_text("unit", unit))
        is_b, share = before or (place < split, split)
        route = Route(unit, bool(is_b), share)
        if before is None:
            count_unit(connection, route)
        return self.add_request(connection, route, share if before is None else None, request_id)

    def expire(self) -> int:
        """Close the books on units of an experiment whose outcome is overdue: what is recorded later is late.

        Returns:
            How many.
        """
        overdue = "chance IS NOT NULL AND outcome IS NULL AND late = 0 AND at < ?"
        deadline = (self.clock() - self.within_s,)
        with self.file.reading() as connection:
            query = f"SELECT 1 FROM events WHERE {overdue} LIMIT 1"
            if connection.execute(query, deadline).fetchone() is None:
                return 0
        with self.file.writing() as connection:
            return connection.execute(f"UPDATE events SET late = 1 WHERE {overdue}", deadline).rowcount


def _read_fact(connection: sqlite3.Connection, name: str) -> Any:
    found = connection.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
    try:
        return None if found is None else json.loads(found[0])
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"no JSON under {name!r}") from error


def _is_like(text: str, definition: dict[str, Any]) -> bool:
    """Tell whether a text, which is JSON, has the fields of a definition."""
    found = json.loads(text)
    return isinstance(found, dict) and set(found) == set(definition)


def _read_split(connection: sqlite3.Connection) -> float | None:
    found = connection.execute("SELECT split FROM splits ORDER BY id DESC LIMIT 1").fetchone()
    return None if found is None else found[0]
