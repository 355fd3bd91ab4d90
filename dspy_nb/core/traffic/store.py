"""The requests that an experiment or an environment has answered, in one SQLite file, and what came of them.

Writers wait for each other, in threads and processes alike. The file is in WAL mode with synchronous=NORMAL:
what a call has written when it returns survives the death of the process; a power cut may take the last
moments, and leaves the file whole. Requests are numbered in the order in which they came, and whoever judges
programs reads them in that order (``reading``, ``columns``), not in that of outcomes: bad ones may come first.
"""

from __future__ import annotations

import math
import os
import time
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, NamedTuple

from dspy_nb.core.arguments import check_text, number_between
from dspy_nb.core.errors import InputError, NotFound
from dspy_nb.core.traffic.file import TrafficFile

if TYPE_CHECKING:
    import sqlite3

TRAFFIC_FILE: Final = "traffic.sqlite3"
"""The file of an environment, in its folder: traffic, not an artefact, so git ignores it."""


class Route(NamedTuple):
    """Where a request goes.

    Attributes:
        unit: Who asks; None if that is not known.
        is_b: Whether program B, or the candidate of a canary, answers.
        share: B's share of the traffic, if there are two programs.
        randomised: Whether the unit's place decided; else the request says nothing about the difference.
        deployment: Number of the log entry that made the live version live; None in an experiment.
        canary: Number of the canary that is running, if any.
        ref: The version that answers; None in an experiment.
    """

    unit: str | None = None
    is_b: bool = False
    share: float | None = None
    randomised: bool = False
    deployment: int | None = None
    canary: int | None = None
    ref: str | None = None


class Request(NamedTuple):
    """One request as it is stored.

    Attributes:
        request_id: What its outcome is recorded under.
        is_b: Whether program B answers.
    """

    request_id: str
    is_b: bool


class Bin(NamedTuple):
    """Neighbouring requests: how many have a value, the sum of the values, and when the first one came."""

    n: int
    total: float
    at: float


class Traffic:
    """One file of traffic, for any number of threads and processes.

    Args:
        path: The file; it and its folders come into being with the first use.
        clock: Seconds since 1970.

    Attributes:
        more: What the file has besides, see ``TrafficFile``.
        within_s: An outcome that is recorded later than so many seconds after its request is marked as late.
    """

    more: ClassVar[str] = ""

    def __init__(self, path: str | os.PathLike[str], clock: Callable[[], float] = time.time) -> None:
        self.path, self.clock, self.within_s = Path(path), clock, math.inf
        self.file = TrafficFile(path, self.more)

    # -- requests -------------------------------------------------------------------------------------------

    def begin(self, route: Route, request_id: str | None = None) -> Request:
        """Add a request that was just received; one that is known already is not added again.

        Args:
            route: Where it goes.
            request_id: Of the caller's own; a new one by default.

        Raises:
            InputError: The id or the unit is not valid, or the request is known with another unit; nothing was
                added.
            RegistryError: The file cannot be written.
        """
        return self.file.serve(
            lambda connection: (
                find_request(connection, request_id, route.unit)
                or self.add_request(connection, route, _work_out_chance(connection, route), request_id)
            )
        )

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

        def add(connection: sqlite3.Connection) -> str:
            if (known := find_request(connection, request_id, route.unit)) is not None:
                if outcome is not None:
                    self._record(connection, known.request_id, outcome)
                return known.request_id
            if error is not None and outcome not in (None, 0):
                raise InputError(f"a request that failed has the outcome 0, not {outcome:g}")
            ended = (0.0 if error is not None else outcome), error, _microseconds(latency), 1
            chance = _work_out_chance(connection, route)
            return self.add_request(connection, route, chance, request_id, ended).request_id

        return self.file.serve(add)

    def add_request(
        self,
        connection: sqlite3.Connection,
        route: Route,
        chance: float | None,
        request_id: str | None,
        ended: tuple[float | None, str | None, int | None, int] = (None, None, None, 0),
    ) -> Request:
        """Add a request within a transaction, with its outcome, error, latency, and whether it has ended."""
        if route.unit is not None:
            check_text("unit", route.unit)
        chosen = uuid.uuid4().hex if request_id is None else request_id
        now = self.clock()
        connection.execute(
            "INSERT INTO events (is_b, chance, share, outcome, error, latency_us, finished, at, recorded_at, "
            "deployment, canary, ref, request_id, unit) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                int(route.is_b), chance, route.share, *ended, now, None if ended[0] is None else now,
                route.deployment, route.canary, route.ref, chosen, route.unit,
            ),
        )  # fmt: skip
        return Request(chosen, route.is_b)

    def finish(
        self, request_id: str, latency_ms: float, *, cached: bool = False, error: str | None = None
    ) -> None:
        """Store how a request ended; a failed one has the outcome 0. Its first end counts, later ones do not.

        Args:
            request_id: Of the request; one that is not there, because its file was set aside, is passed over.
            latency_ms: Of the program.
            cached: Whether all its LM answers came from a cache.
            error: Name of the exception.
        """
        query = (
            "UPDATE events SET finished = 1, latency_us = ?, cached = ?, error = ? "
            "WHERE request_id = ? AND NOT finished"
        )
        values = (_microseconds(latency_ms), int(cached), error, request_id)

        def end(connection: sqlite3.Connection) -> None:
            if connection.execute(query, values).rowcount and error is not None:
                self._record(connection, request_id, 0.0, keep=True)

        self.file.serve(end)

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

        def update(connection: sqlite3.Connection) -> None:
            for request_id, outcome in rows:
                self._record(connection, request_id, outcome)

        self.file.serve(update)

    def _record(
        self, connection: sqlite3.Connection, request_id: str, outcome: float, *, keep: bool = False
    ) -> None:
        """Store an outcome; another one that is known is kept, or an error."""
        query = "SELECT number, outcome, error, late, at FROM events WHERE request_id = ?"
        found = connection.execute(query, (request_id,)).fetchone()
        if found is None:
            lost = "".join(f"; {sentence}" for sentence in self.file.missing())
            raise NotFound(f"no request {request_id!r:.80} in {self.path}: was it served here?{lost}")
        number, known, error, late, at = found
        if known is not None and known != outcome and not keep:
            why = f", because it failed with {error}" if error else ""
            raise InputError(f"request {request_id} has the outcome {known:g} already{why}, not {outcome:g}")
        if known is None:
            now = self.clock()
            connection.execute(
                "UPDATE events SET late = ?, recorded_at = ?, outcome = ? WHERE number = ?",
                (int(late or now - at > self.within_s), now, outcome, number),
            )

    # -- looking --------------------------------------------------------------------------------------------

    def count(self, which: str, values: Iterable[Any] = ()) -> int:
        """Return the number of requests for which an SQL condition holds."""
        with self.file.reading() as connection:
            query = f"SELECT count(*) FROM events WHERE {which}"
            return int(connection.execute(query, tuple(values)).fetchone()[0])

    def close(self) -> None:
        """Close the file; it opens again when it is needed."""
        self.file.close()


def _microseconds(milliseconds: float | None) -> int | None:
    return None if milliseconds is None else round(milliseconds * 1000)


def find_request(connection: sqlite3.Connection, request_id: str | None, unit: str | None) -> Request | None:
    """Return the request of an id of the caller's own, if it was added before.

    Raises:
        InputError: It was, by another unit; or the id is not valid.
    """
    if request_id is None:
        return None
    query = "SELECT is_b, unit FROM events WHERE request_id = ?"
    found = connection.execute(query, (check_text("request_id", request_id),)).fetchone()
    if found is None:
        return None
    is_b, known = found
    if None not in (known, unit) and known != unit:
        raise InputError(f"request {request_id!r} is one of unit {known!r}, not of {unit!r:.80}")
    return Request(request_id, bool(is_b))


def find_unit(connection: sqlite3.Connection, canary: int | None, unit: str) -> tuple[int, float] | None:
    """Return with which program a unit last counted, and at which share."""
    query = "SELECT is_b, share FROM units WHERE canary = ? AND unit = ?"
    return connection.execute(query, (canary or 0, unit)).fetchone()


def _work_out_chance(connection: sqlite3.Connection, route: Route) -> float | None:
    """Return the probability with which this request went to B; None where it says nothing new.

    A unit counts when it first comes, and again, if it was not with the candidate of a canary, at its first request
    after the share s has grown to t: then it went over with the probability (t − s)/(1 − s). Else its place was
    settled before, or it counts already.
    """
    if not route.randomised or route.share is None:
        return None
    share: float = route.share
    if route.unit is None:
        return share
    was_b, before = find_unit(connection, route.canary, route.unit) or (False, 0.0)
    if was_b or share <= before:
        return None
    count_unit(connection, route)
    return float((share - before) / (1 - before))


def count_unit(connection: sqlite3.Connection, route: Route) -> None:
    """Store that a unit counts from now on, with the program and the share of its route."""
    row = (route.canary or 0, route.unit, route.share, int(route.is_b))
    connection.execute("INSERT OR REPLACE INTO units VALUES (?, ?, ?, ?)", row)
