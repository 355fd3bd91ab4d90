"""The store of an online experiment: sticky units, outcomes recorded once, order of assignment."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from dspy_nb.core.ab.assignment import Assignments
from dspy_nb.core.errors import Corrupt, InputError
from dspy_nb.core.traffic.columns import CACHED, ERROR, FIRST, IS_B, LATE, Columns
from dspy_nb.core.traffic.store import Request


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def traffic(tmp_path: Path, clock: Clock) -> Iterator[Assignments]:
    store = Assignments(tmp_path / "experiments" / "t.sqlite3", clock)
    store.within_s = 60
    store.set_split(0.5)
    yield store
    store.close()


def assign_many(traffic: Assignments, requests: list[tuple[str, float]]) -> list[Request]:
    with traffic.file.writing() as connection:
        return [traffic._assign(connection, unit, place, None) for unit, place in requests]


def columns(traffic: Assignments) -> Columns:
    read = Columns()
    read.refresh(traffic)
    return read


def test_a_unit_keeps_the_arm_and_the_split_of_its_first_request(traffic: Assignments) -> None:
    first = traffic.assign("u", 0.6)
    traffic.set_split(0.7)
    again, other = traffic.assign("u", 0.6), traffic.assign("v", 0.6)
    assert [first.is_b, again.is_b, other.is_b] == [False, False, True]
    read = columns(traffic)
    assert read.flags.tolist() == [FIRST, 0, FIRST | IS_B]
    assert read.share.tolist() == [0.5, 0.5, 0.7]
    assert [split for split, _ in traffic.splits()] == [0.5, 0.7]


def test_the_same_split_again_is_not_stored_twice(traffic: Assignments) -> None:
    traffic.set_split(0.5)
    traffic.set_split(0.9, only_first=True)
    assert [split for split, _ in traffic.splits()] == [0.5]


@pytest.mark.parametrize("split", [0, 1, -0.1, float("nan"), "half"])
def test_a_split_must_leave_both_arms_a_chance(traffic: Assignments, split: float) -> None:
    with pytest.raises(InputError, match="split must be"):
        traffic.set_split(split)


def test_a_request_that_is_known_is_not_added_again(traffic: Assignments) -> None:
    first = traffic.assign("u", 0.1, request_id="r")
    assert traffic.assign("u", 0.1, request_id="r") == first
    with pytest.raises(InputError, match="request 'r' is one of unit 'u', not of 'v'"):
        traffic.assign("v", 0.1, request_id="r")
    assert len(columns(traffic)) == 1


def test_a_request_needs_a_unit(traffic: Assignments) -> None:
    with pytest.raises(InputError, match="unit must be"):
        traffic.assign(None, 0.1)  # type: ignore[arg-type]
    assert len(columns(traffic)) == 0


def test_a_failure_has_the_outcome_0_and_says_so(traffic: Assignments) -> None:
    made = traffic.assign("u", 0.1)
    traffic.finish(made.request_id, 12.5, error="TimeoutError")
    traffic.finish(made.request_id, 99.0)  # a retry
    read = columns(traffic)
    assert read.flags.tolist() == [IS_B | FIRST | ERROR]
    assert (read.outcome[0], read.latency_us[0]) == (0, 12_500)
    with pytest.raises(InputError, match="has the outcome 0 already, because it failed with TimeoutError"):
        traffic.record(made.request_id, 1)


def test_an_outcome_after_its_time_is_late_and_nothing_waits_for_it(
    traffic: Assignments, clock: Clock
) -> None:
    in_time, late, never = assign_many(traffic, [("a", 0.1), ("b", 0.1), ("c", 0.1)])
    clock.now += 60
    traffic.record(in_time.request_id, 1)
    assert traffic.expire() == 0
    clock.now += 1
    traffic.record(late.request_id, 1)
    assert traffic.expire() == 1
    assert traffic.expire() == 0
    traffic.record(never.request_id, 1)
    assert (columns(traffic).flags & LATE > 0).tolist() == [False, True, True]


def test_columns_read_what_is_new_and_what_changed(traffic: Assignments) -> None:
    read = Columns()
    read.refresh(traffic)
    made = assign_many(traffic, [(f"u{i}", i / 10) for i in range(10)])
    read.refresh(traffic)
    assert np.isnan(read.outcome).all()
    traffic.finish(made[2].request_id, 1.5, cached=True)
    traffic.record_many([(made[7].request_id, 0.25), (made[2].request_id, 1), (made[3].request_id, 0.5)])
    traffic.set_split(0.01)
    traffic.record(traffic.assign("u0", 0.99).request_id, 0)
    traffic.record(traffic.assign("new", 0.99).request_id, 0.125)
    read.refresh(traffic)
    once = columns(traffic)
    for name in ("flags", "outcome", "share", "latency_us"):
        np.testing.assert_array_equal(getattr(read, name), getattr(once, name))
    assert read.outcome[[2, 3, 7, 10, 11]].tolist() == [1, 0.5, 0.25, 0, 0.125]
    assert read.share.tolist() == [0.5] * 11 + [0.01]
    assert read.flags[[2, 10, 11]].tolist() == [IS_B | FIRST | CACHED, IS_B, FIRST]
    assert read.latency_us[[2, 3]].tolist() == [1500, -1]


def test_a_fact_that_is_no_json_is_corrupt(traffic: Assignments) -> None:
    traffic.set_fact("definition", 1)
    with sqlite3.connect(traffic.path) as connection:
        connection.execute("UPDATE facts SET value = '{'")
    connection.close()
    with pytest.raises(Corrupt, match="no JSON under 'definition'"):
        traffic.fact("definition")


def test_missing_events_are_corrupt(traffic: Assignments) -> None:
    assign_many(traffic, [("a", 0.1), ("b", 0.1), ("c", 0.1)])
    with sqlite3.connect(traffic.path) as connection:
        connection.execute("DELETE FROM events WHERE number = 2")
    connection.close()
    with pytest.raises(Corrupt, match="events are missing"):
        columns(traffic)
