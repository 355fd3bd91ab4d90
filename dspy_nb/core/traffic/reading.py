"""How tests read the requests of an environment: once, in order, up to the first whose outcome is open.

How far a test has read, and its state, are kept in the file beside the requests that they were made of.
"""

from __future__ import annotations

import json
import logging
import zlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from dspy_nb.core.errors import Corrupt
from dspy_nb.core.storage.files import parse_json
from dspy_nb.core.traffic.columns import count_ready
from dspy_nb.core.traffic.store import Bin, Traffic

if TYPE_CHECKING:
    import sqlite3

    from numpy.typing import NDArray

logger = logging.getLogger(__name__)

_READ_AT_ONCE: Final = 20_000
_NO_STATE: Final = (TypeError, ValueError, LookupError, AttributeError, ArithmeticError)
_LEAST_BIN: Final = 10


class Units(NamedTuple):
    """What a test reads of requests that have a value.

    Attributes:
        value: What is tested.
        is_b: Whether B answered.
        chance: With which probability it did; NaN where the request says nothing of the difference.
        share: B's share of the traffic; NaN where there is one program.
    """

    value: NDArray[Any]
    is_b: NDArray[Any]
    chance: NDArray[Any]
    share: NDArray[Any]


def read_on(
    traffic: Traffic,
    name: str,
    which: str,
    values: Sequence[Any],
    value: str,
    ready: str,
    wait_s: float,
    update: Callable[[dict[str, Any] | None, Units], dict[str, Any]],
) -> dict[str, Any]:
    """Let a test read on, and return its new state.

    It reads, once and in order, what it has not read yet, up to the first request that is not ready and not older
    than ``wait_s``. Where two processes do this at once, one waits for the other and goes on from there.

    Args:
        traffic: What it reads.
        name: Of the test.
        which: SQL: which requests it is about.
        values: Parameters of ``which``.
        value: SQL: what it tests; a request without is passed over.
        ready: SQL: whether that is known.
        wait_s: How long a request may hold up others, in seconds.
        update: Gets the state (None at first) and requests, and returns the new state.
    """
    query = (
        f"SELECT number, {value}, is_b, chance, share, NOT ifnull(({ready}) OR at < ?, 0) FROM events "
        f"WHERE {which} AND number > ? ORDER BY number LIMIT {_READ_AT_ONCE}"
    )
    while True:
        with traffic.file.writing() as connection:
            seen, state = _state(traffic, connection, name)
            overdue = traffic.clock() - wait_s
            rows = connection.execute(query, (overdue, *values, seen)).fetchall()
            columns = np.array(rows, float).reshape(-1, 6).T
            taken = count_ready(columns[5] > 0)
            with_value = columns[1:5, :taken][:, ~np.isnan(columns[1, :taken])]
            try:
                updated = update(state, Units(with_value[0], with_value[1] > 0, with_value[2], with_value[3]))
            except _NO_STATE as error:
                if state is None:  # it is the requests
                    raise
                _forget(traffic, connection, name, error)
                continue
            if taken or state is None:
                seen = rows[taken - 1][0] if taken else seen
                sealed = json.dumps({**updated, "checksum": _checksum(updated)}, allow_nan=False)
                connection.execute("INSERT OR REPLACE INTO tests VALUES (?, ?, ?)", (name, seen, sealed))
        if taken < _READ_AT_ONCE:
            return updated


def _state(traffic: Traffic, connection: sqlite3.Connection, name: str) -> tuple[int, dict[str, Any] | None]:
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
        _forget(traffic, connection, name, error)
        return 0, None


def _forget(traffic: Traffic, connection: sqlite3.Connection, name: str, error: Exception) -> None:
    """Let a test begin again: its state is made of the requests, which are still there."""
    logger.warning("%s: the state of %r is damaged, so it reads all again: %s", traffic.path, name, error)
    connection.execute("DELETE FROM tests WHERE name = ?", (name,))


def _checksum(state: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(state, sort_keys=True).encode())


def read_bins(
    traffic: Traffic, which: str, values: Sequence[Any], value: str, count: int = 40
) -> tuple[Bin, ...]:
    """Return requests that have a value, in order, in at most ``count`` groups of equal size but the first."""
    chosen = f"FROM events WHERE {which} AND ({value}) IS NOT NULL"
    with traffic.file.reading() as connection:
        n = int(connection.execute(f"SELECT count(*) {chosen}", tuple(values)).fetchone()[0])
        size = max(_LEAST_BIN, -(-n // count))
        query = (
            "SELECT count(*), sum(x), min(at) FROM (SELECT x, at, (row_number() OVER (ORDER BY number) "
            f"+ {-n % size - 1}) / {size} AS bin FROM (SELECT {value} AS x, at, number {chosen})) "
            "GROUP BY bin ORDER BY bin"
        )
        rows = connection.execute(query, tuple(values)).fetchall()
        return tuple(Bin(number, float(total), float(at)) for number, total, at in rows)


def average_recent(
    traffic: Traffic, which: str, values: Sequence[Any], value: str, count: int = 100
) -> float | None:
    """Return the mean of the last ``count`` requests that have a value, None if none has."""
    query = (
        f"SELECT avg(x) FROM (SELECT {value} AS x FROM events WHERE {which} AND ({value}) IS NOT NULL "
        f"ORDER BY number DESC LIMIT {count})"
    )
    with traffic.file.reading() as connection:
        found = connection.execute(query, tuple(values)).fetchone()[0]
        return None if found is None else float(found)
