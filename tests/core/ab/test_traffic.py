"""The store of an online experiment: sticky units, outcomes recorded once, order of assignment."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from dspy_nb.core.ab.columns import CACHED, ERROR, FIRST, IS_B, LATE, Columns
from dspy_nb.core.ab.traffic import Traffic
from dspy_nb.core.errors import Corrupt, InputError, NotFound, Refused, RegistryError


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def traffic(tmp_path: Path, clock: Clock) -> Iterator[Traffic]:
    store = Traffic(tmp_path / "experiments" / "t.sqlite3", within_s=60, clock=clock)
    store.set_split(0.5)
    yield store
    store.close()


def columns(traffic: Traffic) -> Columns:
    read = Columns()
    read.refresh(traffic)
    return read


def test_a_unit_keeps_the_arm_and_the_split_of_its_first_request(traffic: Traffic) -> None:
    first = traffic.assign("u", 0.6)
    traffic.set_split(0.7)
    again, other = traffic.assign("u", 0.6), traffic.assign("v", 0.6)
    assert (first.number, first.is_b, first.split, first.first) == (1, False, 0.5, True)
    assert (again.number, again.is_b, again.split, again.first) == (2, False, 0.5, False)
    assert (other.is_b, other.split) == (True, 0.7)
    assert [split for split, _ in traffic.splits()] == [0.5, 0.7]


def test_the_same_split_again_is_not_stored_twice(traffic: Traffic) -> None:
    traffic.set_split(0.5)
    traffic.set_split(0.9, only_first=True)
    assert [split for split, _ in traffic.splits()] == [0.5]


@pytest.mark.parametrize("split", [0, 1, -0.1, float("nan"), "half"])
def test_a_split_must_leave_both_arms_a_chance(traffic: Traffic, split: float) -> None:
    with pytest.raises(InputError, match="split must be"):
        traffic.set_split(split)


def test_a_request_that_is_known_is_not_added_again(traffic: Traffic) -> None:
    first = traffic.assign("u", 0.1, request_id="r")
    assert traffic.assign("u", 0.1, request_id="r") == first
    with pytest.raises(InputError, match="request 'r' is one of unit 'u', not of 'v'"):
        traffic.assign("v", 0.1, request_id="r")
    assert len(columns(traffic)) == 1


@pytest.mark.parametrize("unit", ["", "x" * 501, "\ud800", "a\nb", "a\0b", 7, None])
def test_a_unit_is_text_without_control_characters(traffic: Traffic, unit: str) -> None:
    with pytest.raises(InputError, match="unit must be"):
        traffic.assign(unit, 0.1)
    assert len(columns(traffic)) == 0


@pytest.mark.parametrize("unit", ["user 1", "é", "مى\u200cخواهم", "👩\u200d🔬", "a\xa0b"])
def test_a_unit_may_hold_the_invisible_characters_of_names(traffic: Traffic, unit: str) -> None:
    assert traffic.assign(unit, 0.1).first
    assert not traffic.assign(unit, 0.1).first


def test_the_same_outcome_again_changes_nothing_and_another_is_refused(traffic: Traffic) -> None:
    request_id = traffic.assign("u", 0.1).request_id
    traffic.record(request_id, 1)
    traffic.record(request_id, 1.0)
    with pytest.raises(InputError, match="has the outcome 1 already, not 0"):
        traffic.record(request_id, 0)
    assert columns(traffic).outcome.tolist() == [1.0]


@pytest.mark.parametrize("outcome", [-0.1, 1.1, float("nan"), "yes"])
def test_an_outcome_out_of_range_is_refused(traffic: Traffic, outcome: float) -> None:
    request_id = traffic.assign("u", 0.1).request_id
    with pytest.raises(InputError, match="outcome must be"):
        traffic.record(request_id, outcome)
    assert np.isnan(columns(traffic).outcome).all()


def test_many_outcomes_are_recorded_all_or_none(traffic: Traffic) -> None:
    request_id = traffic.assign("u", 0.1).request_id
    with pytest.raises(NotFound, match="no request 'nobody'"):
        traffic.record_many([(request_id, 1), ("nobody", 1)])
    assert np.isnan(columns(traffic).outcome).all()


def test_a_failure_has_the_outcome_0_and_says_so(traffic: Traffic) -> None:
    made = traffic.assign("u", 0.1)
    traffic.finish(made.number, 12.5, error="TimeoutError")
    traffic.finish(made.number, 99.0)  # a retry
    read = columns(traffic)
    assert read.flags.tolist() == [IS_B | FIRST | ERROR]
    assert (read.outcome[0], read.latency_us[0]) == (0, 12_500)
    with pytest.raises(InputError, match="has the outcome 0 already, because it failed with TimeoutError"):
        traffic.record(made.request_id, 1)


def test_an_outcome_after_its_time_is_late_and_nothing_waits_for_it(traffic: Traffic, clock: Clock) -> None:
    in_time, late, never = traffic.assign_many([("a", 0.1), ("b", 0.1), ("c", 0.1)])
    clock.now += 60
    traffic.record(in_time.request_id, 1)
    assert traffic.expire() == 0
    clock.now += 1
    traffic.record(late.request_id, 1)
    assert traffic.expire() == 1
    assert traffic.expire() == 0
    traffic.record(never.request_id, 1)
    assert (columns(traffic).flags & LATE > 0).tolist() == [False, True, True]


def test_columns_read_what_is_new_and_what_changed(traffic: Traffic) -> None:
    read = Columns()
    read.refresh(traffic)
    made = traffic.assign_many([(f"u{i}", i / 10) for i in range(10)])
    read.refresh(traffic)
    assert np.isnan(read.outcome).all()
    traffic.finish(made[2].number, 1.5, cached=True)
    traffic.record_many([(made[7].request_id, 0.25), (made[2].request_id, 1), (made[3].request_id, 0.5)])
    traffic.set_split(0.01)
    traffic.record(traffic.assign("u0", 0.99).request_id, 0)
    traffic.record(traffic.assign("new", 0.99).request_id, 0.125)
    read.refresh(traffic)
    once = columns(traffic)
    for name in ("flags", "outcome", "split", "latency_us"):
        np.testing.assert_array_equal(getattr(read, name), getattr(once, name))
    assert read.outcome[[2, 3, 7, 10, 11]].tolist() == [1, 0.5, 0.25, 0, 0.125]
    assert read.split.tolist() == [0.5] * 11 + [0.01]
    assert read.flags[[2, 10, 11]].tolist() == [IS_B | FIRST | CACHED, IS_B, FIRST]
    assert read.latency_us[[2, 3]].tolist() == [1500, -1]


def test_a_file_of_a_newer_version_is_refused(traffic: Traffic) -> None:
    traffic.close()
    with sqlite3.connect(traffic.path) as connection:
        connection.execute("PRAGMA user_version = 2")
    connection.close()
    with pytest.raises(Refused, match="newer dspy_nb"):
        traffic.assign("u", 0.1)


def test_a_file_that_is_something_else_is_corrupt(tmp_path: Path) -> None:
    path = tmp_path / "t.sqlite3"
    path.write_text("this is not a database, but is long enough to be taken for one" * 20)
    with pytest.raises(Corrupt, match="not a file of traffic"):
        Traffic(path).set_split(0.5)


@pytest.mark.parametrize("replaced", [False, True])
def test_a_file_that_was_deleted_or_replaced_meanwhile_is_not_written_unseen(
    traffic: Traffic, replaced: bool
) -> None:
    request_id = traffic.assign("u", 0.1).request_id
    kept = traffic.path.rename(traffic.path.with_suffix(".kept"))
    if replaced:
        traffic.path.write_bytes(b"")
    for call in (lambda: traffic.assign("v", 0.1), lambda: traffic.record(request_id, 1), traffic.splits):
        with pytest.raises(RegistryError, match="was deleted or replaced while this process used it"):
            call()
    kept.replace(traffic.path)
    traffic.record(request_id, 1)


def test_a_fact_that_is_no_json_is_corrupt(traffic: Traffic) -> None:
    traffic.set_fact("definition", 1)
    with sqlite3.connect(traffic.path) as connection:
        connection.execute("UPDATE facts SET value = '{'")
    connection.close()
    with pytest.raises(Corrupt, match="no JSON under 'definition'"):
        traffic.fact("definition")


def test_missing_events_are_corrupt(traffic: Traffic) -> None:
    traffic.assign_many([("a", 0.1), ("b", 0.1), ("c", 0.1)])
    with sqlite3.connect(traffic.path) as connection:
        connection.execute("DELETE FROM events WHERE number = 2")
    connection.close()
    with pytest.raises(Corrupt, match="events are missing"):
        columns(traffic)
