"""The requests that an environment has served, in one SQLite file: by which version, and what came of them.

The file is ``traffic.sqlite3`` in the folder of the environment: traffic, not an artefact, so git ignores it.
Requests are numbered in the order in which they came. Tests read them in that order and not in that of outcomes,
since bad outcomes may come first; a request without outcome holds up those behind it for ``wait_s`` at most.
"""

from __future__ import annotations

import json
import logging
import time
import uuid
import zlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from dspy_nb.core.arguments import check_text, number_between
from dspy_nb.core.errors import Corrupt, InputError, NotFound
from dspy_nb.core.storage.files import parse_json
from dspy_nb.core.storage.sqlite import TrafficFile

if TYPE_CHECKING:
    import sqlite3

__all__ = ["TRAFFIC_FILE", "Bin", "Event", "LiveTraffic", "Route"]

logger = logging.getLogger(__name__)

TRAFFIC_FILE: Final = "traffic.sqlite3"

# units: the share at which a unit's outcome last counted in a canary. tests: how far each test has read, and its
# state. alerts: what was raised, once for each deployment and objective.
_SCHEMA: Final = """
CREATE TABLE events (
    number INTEGER PRIMARY KEY, deployment INTEGER NOT NULL, canary INTEGER, is_b INTEGER NOT NULL, share REAL,
    chance REAL, outcome REAL, finished INTEGER NOT NULL, error TEXT, cached INTEGER NOT NULL DEFAULT 0,
    latency_us INTEGER, at REAL NOT NULL, recorded_at REAL, ref TEXT NOT NULL, request_id TEXT NOT NULL UNIQUE,
    unit TEXT);
CREATE INDEX by_deployment ON events (deployment, number);
CREATE INDEX by_canary ON events (canary, number) WHERE canary IS NOT NULL;
CREATE TABLE units (canary INTEGER, unit TEXT, share REAL NOT NULL, is_b INTEGER NOT NULL,
    PRIMARY KEY (canary, unit)) WITHOUT ROWID;
CREATE TABLE tests (name TEXT PRIMARY KEY, seen INTEGER NOT NULL, state TEXT NOT NULL);
CREATE TABLE alerts (deployment INTEGER, objective TEXT, at REAL NOT NULL, facts TEXT NOT NULL,
    PRIMARY KEY (deployment, objective));
PRAGMA user_version = 1;
"""
_READ_AT_ONCE: Final = 20_000
_NO_STATE: Final = (TypeError, ValueError, LookupError, AttributeError, ArithmeticError)
_LEAST_BIN: Final = 10


class Route(NamedTuple):
    """Where a request goes.

    Attributes:
        deployment: Number of the log entry that made the live version live.
        ref: The version that answers.
        unit: Who asks; None if that is not known.
        canary: Number of the canary that is running, if any.
        is_b: Whether the candidate answers.
        share: The candidate's share of the traffic.
        randomised: Whether the unit's place decided; else the request says nothing about the difference.
    """

    deployment: int
    ref: str
    unit: str | None = None
    canary: int | None = None
    is_b: bool = False
    share: float | None = None
    randomised: bool = False


class Event(NamedTuple):
    """What a test reads of a request: ``value`` is what it tests, None if the request has none."""

    number: int
    value: float | None
    is_b: bool
    chance: float | None
    share: float | None


class Bin(NamedTuple):
    """Neighbouring requests: how many have a value, the sum of the values, and when the first one came."""

    n: int
    total: float
    at: float


class LiveTraffic:
    """The store of one environment, for any number of threads and processes.

    Args:
        path: The file; it comes into being with the first request.
        clock: Seconds since 1970.
    """

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.time) -> None:
        self.path, self.clock = path, clock
        self.file = TrafficFile(path, schema=_SCHEMA)

    def begin(self, route: Route, request_id: str | None = None) -> str:
        """Add a request that was just received and return its id.

        Raises:
            InputError: The id or the unit is not valid, or the id is known; nothing was added.
            RegistryError: The file cannot be written.
        """
        return self._add(route, request_id, finished=False)

    def finish(self, request_id: str, latency_ms: float, *, cached: bool, error: str | None) -> None:
        """Store how a request ended; one that failed has the outcome 0."""
        query = (
            "UPDATE events SET finished = 1, latency_us = ?1, cached = ?2, error = ?3, outcome = "
            "CASE WHEN ?3 IS NULL THEN outcome ELSE 0 END WHERE request_id = ?4 AND NOT finished"
        )
        values = (round(latency_ms * 1000), int(cached), error, request_id)
        self.file.serve(lambda connection: connection.execute(query, values))

    def add(
        self,
        route: Route,
        *,
        outcome: float | None,
        latency_ms: float | None,
        error: str | None,
        request_id: str | None = None,
    ) -> str:
        """Add a request that was answered elsewhere, with all that is known of it, and return its id.

        The same request again changes nothing, but its outcome may come later.

        Raises:
            InputError: A value is not valid, or contradicts what is known; nothing was added.
            RegistryError: The file cannot be written.
        """
        outcome = None if outcome is None else number_between("outcome", outcome, 0, 1)
        latency = None if latency_ms is None else number_between("latency_ms", latency_ms, 0, 1e12)
        if request_id is not None and self._knows(request_id):
            if outcome is not None:
                self.record(request_id, outcome)
            return request_id
        if error is not None and outcome not in (None, 0):
            raise InputError(f"a request that failed has the outcome 0, not {outcome:g}")
        outcome = 0.0 if error is not None else outcome
        return self._add(
            route, request_id, finished=True, outcome=outcome, error=error,
            latency_us=None if latency is None else round(latency * 1000),
        )  # fmt: skip

    def record(self, request_id: str, outcome: float) -> None:
        """Store the outcome of a request; the same outcome again changes nothing.

        Raises:
            InputError: It is not in [0, 1], or another one is known; nothing was changed.
            NotFound: There is no such request.
            RegistryError: The file cannot be written.
        """
        check_text("request_id", request_id)
        value = number_between("outcome", outcome, 0, 1)

        def update(connection: sqlite3.Connection) -> None:
            query = "SELECT outcome, error FROM events WHERE request_id = ?"
            found = connection.execute(query, (request_id,)).fetchone()
            if found is None:
                lost = "".join(f"; {sentence}" for sentence in self.file.missing())
                raise NotFound(f"no request {request_id!r:.80} in {self.path}: was it served here?{lost}")
            known, error = found
            if known is not None and known != value:
                why = f", because it failed with {error}" if error else ""
                raise InputError(
                    f"request {request_id} has the outcome {known:g} already{why}, not {value:g}"
                )
            if known is None:
                connection.execute(
                    "UPDATE events SET outcome = ?, recorded_at = ? WHERE request_id = ?",
                    (value, self.clock(), request_id),
                )

        self.file.serve(update)

    def take_in(
        self,
        name: str,
        which: str,
        values: Sequence[Any],
        value: str,
        ready: str,
        wait_s: float,
        update: Callable[[dict[str, Any] | None, list[Event]], dict[str, Any]],
    ) -> dict[str, Any]:
        """Let a test read on, and return its new state.

        It reads, once and in order, what it has not read yet, up to the first request that is not ready and not
        older than ``wait_s``. Where two processes do this at once, one waits for the other and goes on from there.

        Args:
            name: Of the test.
            which: SQL: which requests it is about.
            values: Parameters of ``which``.
            value: SQL: what it tests.
            ready: SQL: whether that is known.
            wait_s: How long a request may hold up others, in seconds.
            update: Gets the state (None at first) and requests, and returns the new state.
        """
        query = (
            f"SELECT number, {value}, is_b, chance, share, ({ready}) OR at < ? FROM events "
            f"WHERE {which} AND number > ? ORDER BY number LIMIT {_READ_AT_ONCE}"
        )
        while True:
            with self.file.writing() as connection:
                seen, state = self._state(connection, name)
                overdue = self.clock() - wait_s
                rows = connection.execute(query, (overdue, *values, seen)).fetchall()
                blocked = next((index for index, row in enumerate(rows) if not row[5]), len(rows))
                events = [Event(n, v, bool(b), c, s) for n, v, b, c, s, _ in rows[:blocked]]
                try:
                    updated = update(state, events)
                except _NO_STATE as error:
                    if state is None:  # it is the events
                        raise
                    self._forget(connection, name, error)
                    continue
                if blocked or state is None:
                    seen = rows[blocked - 1][0] if blocked else seen
                    sealed = json.dumps({**updated, "checksum": _checksum(updated)}, allow_nan=False)
                    connection.execute("INSERT OR REPLACE INTO tests VALUES (?, ?, ?)", (name, seen, sealed))
            if blocked < _READ_AT_ONCE:
                return updated

    def _state(self, connection: sqlite3.Connection, name: str) -> tuple[int, dict[str, Any] | None]:
        """Return how far a test has read and its state; where that is damaged, as if it had not begun."""
        query = "SELECT seen, CAST(state AS BLOB) FROM tests WHERE name = ?"
        if (found := connection.execute(query, (name,)).fetchone()) is None:
            return 0, None
        try:
            state = dict(parse_json(found[1], "the state"))
            if state.pop("checksum", None) not in (None, _checksum(state)):  # older versions wrote none
                raise ValueError("its checksum is another")
            return int(found[0]), state
        except (*_NO_STATE, Corrupt) as error:
            self._forget(connection, name, error)
            return 0, None

    def _forget(self, connection: sqlite3.Connection, name: str, error: Exception) -> None:
        """Let a test begin again: its state is made of the requests, which are still there."""
        logger.warning("%s: the state of %r is damaged, so it reads all again: %s", self.path, name, error)
        connection.execute("DELETE FROM tests WHERE name = ?", (name,))

    def bins(self, which: str, values: Sequence[Any], value: str, count: int = 40) -> tuple[Bin, ...]:
        """Return requests that have a value, in order, in at most ``count`` groups of equal size but the first."""
        chosen = f"FROM events WHERE {which} AND ({value}) IS NOT NULL"
        with self.file.reading() as connection:
            n = int(connection.execute(f"SELECT count(*) {chosen}", tuple(values)).fetchone()[0])
            size = max(_LEAST_BIN, -(-n // count))
            query = (
                "SELECT count(*), sum(x), min(at) FROM (SELECT x, at, (row_number() OVER (ORDER BY number) "
                f"+ {-n % size - 1}) / {size} AS bin FROM (SELECT {value} AS x, at, number {chosen})) "
                "GROUP BY bin ORDER BY bin"
            )
            rows = connection.execute(query, tuple(values)).fetchall()
            return tuple(Bin(number, float(total), float(at)) for number, total, at in rows)

    def recent(self, which: str, values: Sequence[Any], value: str, count: int = 100) -> float | None:
        """Return the mean of the last ``count`` requests that have a value, None if none has."""
        query = (
            f"SELECT avg(x) FROM (SELECT {value} AS x FROM events WHERE {which} AND ({value}) IS NOT NULL "
            f"ORDER BY number DESC LIMIT {count})"
        )
        with self.file.reading() as connection:
            found = connection.execute(query, tuple(values)).fetchone()[0]
            return None if found is None else float(found)

    def count(self, which: str, values: Iterable[Any] = ()) -> int:
        """Return the number of requests."""
        with self.file.reading() as connection:
            query = f"SELECT count(*) FROM events WHERE {which}"
            return int(connection.execute(query, tuple(values)).fetchone()[0])

    def missing(self, since: str = "") -> tuple[str, ...]:
        """Return what verdicts miss: a sentence about each damaged file that was set aside, since a time."""
        return self.file.missing(since)

    def close(self) -> None:
        """Close the file; it opens again when it is needed."""
        self.file.close()

    def _knows(self, request_id: str) -> bool:
        query, values = "SELECT 1 FROM events WHERE request_id = ?", (check_text("request_id", request_id),)
        return self.file.serve(lambda connection: connection.execute(query, values).fetchone()) is not None

    def _add(
        self,
        route: Route,
        request_id: str | None,
        *,
        finished: bool,
        outcome: float | None = None,
        error: str | None = None,
        latency_us: int | None = None,
    ) -> str:
        if route.unit is not None:
            check_text("unit", route.unit)
        chosen = uuid.uuid4().hex if request_id is None else check_text("request_id", request_id)

        def insert(connection: sqlite3.Connection) -> None:
            added = connection.execute(
                "INSERT OR IGNORE INTO events (deployment, canary, is_b, share, chance, outcome, finished, error, "
                "latency_us, at, recorded_at, ref, request_id, unit) "
                "VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, iif(?6 IS NULL, NULL, ?10), ?11, ?12, ?13)",
                (
                    route.deployment, route.canary, int(route.is_b), route.share, _chance(connection, route),
                    outcome, int(finished), error, latency_us, self.clock(), route.ref, chosen, route.unit,
                ),
            )  # fmt: skip
            if added.rowcount != 1:
                raise InputError(f"request {chosen!r:.80} is known already")

        self.file.serve(insert)
        return chosen


def _checksum(state: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(state, sort_keys=True).encode())


def _chance(connection: sqlite3.Connection, route: Route) -> float | None:
    """Return the probability with which this request went to the candidate; None where it says nothing new.

    A unit counts when it first comes, and again, if it was not with the candidate, at its first request after the
    share s has grown to t: then it went over with the probability (t − s)/(1 − s). Else its place was settled
    before, or it counts already.
    """
    if not route.randomised or route.share is None:
        return None
    share: float = route.share
    if route.unit is None:
        return share
    query = "SELECT share, is_b FROM units WHERE canary = ? AND unit = ?"
    known = connection.execute(query, (route.canary, route.unit)).fetchone()
    before, was_b = known or (0.0, False)
    if was_b or share <= before:
        return None
    row = (route.canary, route.unit, share, int(route.is_b))
    connection.execute("INSERT OR REPLACE INTO units VALUES (?, ?, ?, ?)", row)
    return float((share - before) / (1 - before))
