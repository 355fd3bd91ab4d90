"""The events of an experiment as columns in memory, brought up to date with what has changed since."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from dspy_nb.core.ab.traffic import Traffic
from dspy_nb.core.errors import Corrupt

if TYPE_CHECKING:
    import sqlite3

    from numpy.typing import NDArray

__all__ = ["CACHED", "ERROR", "FIRST", "IS_B", "LATE", "Columns"]

# What is yes or no about an event, as bits of one number.
IS_B, FIRST, LATE, ERROR, CACHED = 1, 2, 4, 8, 16
_OUTCOME: Final = 32  # times 0: none, 1: failure, 2: success, 3: a grade between

_EVENTS_AT_ONCE: Final = 500_000

# SQLite puts a column together as one text, several times faster than Python fetches it row by row. An event's
# text is one character; of ordinary events it is a literal, twice as fast as one that is computed.
_CODE: Final = f"""char(256 + {IS_B} * is_b + {FIRST} * first + {LATE} * late
    + {ERROR} * (error IS NOT NULL) + {CACHED} * ifnull(cached, 0)
    + {_OUTCOME} * CASE WHEN outcome IS NULL THEN 0 WHEN outcome = 0 THEN 1 WHEN outcome = 1 THEN 2 ELSE 3 END)"""
_ORDINARY: Final = " ".join(
    f"WHEN {outcome} THEN iif(is_b, '{chr(256 + FIRST + kind + IS_B)}', '{chr(256 + FIRST + kind)}')"
    for outcome, kind in ((0, _OUTCOME), (1, 2 * _OUTCOME))
)
_TEXTS: Final = f"""count(*), group_concat(
    CASE CASE WHEN NOT first OR late OR cached OR error IS NOT NULL THEN NULL ELSE outcome END {_ORDINARY}
    ELSE {_CODE} END, ''),
    group_concat(ifnull(latency_us, -1)), min(split_id), max(split_id)"""
_SPLITS: Final = "group_concat(char(65536 + split_id), '')"
_CHANGED: Final = "number <= :end AND number IN (SELECT number FROM changes WHERE id > :seen)"
# A range of the table's key is read in its order; a list of keys is only if told so.
_NEW_ROWS: Final = "events WHERE number > :start AND number <= :end"
_CHANGED_ROWS: Final = f"(SELECT * FROM events WHERE {_CHANGED} ORDER BY number) WHERE 1"


class Columns:
    """All events of a file in the order of assignment; one array each for what status() needs.

    Attributes:
        flags: Sum of ``IS_B``, ``FIRST``, ``LATE``, ``ERROR``, ``CACHED`` where they hold, uint8.
        outcome: In [0, 1], NaN while there is none.
        split: Probability of arm B of the unit.
        latency_us: -1 while there is none.
        latencies: Of A and of B, ascending: of the answers that did not come from a cache.
    """

    def __init__(self) -> None:
        self.flags: NDArray[Any] = np.empty(0, np.uint8)
        self.outcome: NDArray[Any] = np.empty(0)
        self.split: NDArray[Any] = np.empty(0)
        self.latency_us: NDArray[Any] = np.empty(0, np.int64)
        self.latencies: list[NDArray[Any]] = [np.empty(0, np.int64), np.empty(0, np.int64)]
        self._seen = 0  # the last change

    def __len__(self) -> int:
        """Return the number of events."""
        return len(self.flags)

    def refresh(self, traffic: Traffic) -> None:
        """Read what is new and what has changed.

        Raises:
            Corrupt: Events are missing.
        """
        with traffic.file.reading() as connection:
            seen, end = connection.execute(
                "SELECT (SELECT ifnull(max(id), 0) FROM changes), (SELECT ifnull(max(number), 0) FROM events)"
            ).fetchone()
            rows = connection.execute("SELECT id, split FROM splits").fetchall()
            splits = np.full(1 + max((row[0] for row in rows), default=0), np.nan)
            for key, split in rows:
                splits[key] = split
            changed = None
            if self._seen < seen and len(self):
                where = {"end": len(self), "seen": self._seen}
                query = f"SELECT number FROM events WHERE {_CHANGED} ORDER BY number"
                numbers = [row[0] for row in connection.execute(query, where)]
                changed = np.array(numbers, np.int64) - 1, _parts(connection, _CHANGED_ROWS, where, splits)
            new = []
            for start in range(len(self), end, _EVENTS_AT_ONCE):
                where = {"start": start, "end": min(start + _EVENTS_AT_ONCE, end)}
                new.append(_parts(connection, _NEW_ROWS, where, splits))
                if len(new[-1][0]) != where["end"] - start:
                    raise Corrupt(
                        f"{traffic.path}: events are missing between {start + 1} and {where['end']}"
                    )
        self._seen = seen
        if changed is not None:
            places, parts = changed
            fresh = self.latency_us[places] < 0
            self.flags[places], self.outcome[places], self.split[places], self.latency_us[places] = parts
            self._take_latencies(parts[0][fresh], parts[3][fresh])
        if new:
            columns = [np.concatenate(column) for column in zip(*new, strict=True)]
            self._take_latencies(columns[0], columns[3])
            for name, column in zip(("flags", "outcome", "split", "latency_us"), columns, strict=True):
                setattr(self, name, np.concatenate([getattr(self, name), column]))

    def _take_latencies(self, flags: NDArray[Any], latency_us: NDArray[Any]) -> None:
        for arm in (0, 1):
            wanted = ((flags & (IS_B | ERROR | CACHED)) == IS_B * arm) & (latency_us >= 0)
            known, more = self.latencies[arm], np.sort(latency_us[wanted])
            if len(more):
                self.latencies[arm] = np.insert(known, np.searchsorted(known, more), more)


def _parts(
    connection: sqlite3.Connection, source: str, values: dict[str, int], splits: NDArray[Any]
) -> tuple[NDArray[Any], ...]:
    """Return flags, outcomes, splits and latencies of some events, in the order of their numbers."""
    query = f"SELECT {_TEXTS} FROM {source}"
    count, codes, latencies, lowest, highest = connection.execute(query, values).fetchone()
    if not count:
        return np.empty(0, np.uint8), np.empty(0), np.empty(0), np.empty(0, np.int64)
    code = np.frombuffer(codes.encode("utf-16-le"), np.uint16) - 256
    kind = code // _OUTCOME
    outcome = np.array([np.nan, 0.0, 1.0, np.nan])[kind]
    if (kind == 3).any():
        query = f"SELECT outcome FROM {source} AND outcome > 0 AND outcome < 1 ORDER BY number"
        grades = (row[0] for row in connection.execute(query, values))
        outcome[kind == 3] = np.fromiter(grades, float, int((kind == 3).sum()))
    split = np.full(count, splits[lowest])
    if lowest < highest:
        (ids,) = connection.execute(f"SELECT {_SPLITS} FROM {source}", values).fetchone()
        split = splits[np.frombuffer(ids.encode("utf-32-le"), np.uint32) - 65536]
    return (
        (code % _OUTCOME).astype(np.uint8),
        outcome,
        split,
        np.fromstring(latencies, np.int64, sep=","),
    )
