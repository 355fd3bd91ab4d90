"""The store of an online experiment: sticky units, outcomes recorded once, order of assignment."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest

from dspy_nb.core.errors import InputError, NotFound
from dspy_nb.core.traffic import Traffic


@pytest.fixture
def traffic(tmp_path: Path) -> Iterator[Traffic]:
    store = Traffic(tmp_path / "experiments" / "t.sqlite3")
    yield store
    store._connection().close()
    gc.collect()


def test_a_unit_keeps_the_arm_and_the_split_of_its_first_request(traffic: Traffic) -> None:
    first = traffic.assign("u", False, 0.1)
    again = traffic.assign("u", True, 0.5)
    assert (first.is_b, first.split, first.first) == (False, 0.1, True)
    assert (again.is_b, again.split, again.first) == (False, 0.1, False)


def test_the_same_outcome_again_changes_nothing_and_another_is_refused(traffic: Traffic) -> None:
    request_id = traffic.assign("u", True, 0.5).request_id
    traffic.record(request_id, 1)
    traffic.record(request_id, 1.0)
    with pytest.raises(InputError, match="has the outcome 1 already, not 0"):
        traffic.record(request_id, 0)
    assert traffic.matured() == [(1, True, 1.0, 0.5)]


@pytest.mark.parametrize("outcome", [-0.1, 1.1, float("nan"), "yes"])
def test_an_outcome_out_of_range_is_refused(traffic: Traffic, outcome: object) -> None:
    request_id = traffic.assign("u", True, 0.5).request_id
    with pytest.raises(InputError, match="outcome must be"):
        traffic.record(request_id, outcome)  # type: ignore[arg-type]
    assert traffic.matured() == []


def test_many_outcomes_are_recorded_all_or_none(traffic: Traffic) -> None:
    request_id = traffic.assign("u", True, 0.5).request_id
    with pytest.raises(NotFound, match="no request 'nobody'"):
        traffic.record_many([(request_id, 1), ("nobody", 1)])
    assert traffic.matured() == []


def test_outcomes_count_in_order_of_assignment_up_to_the_first_that_is_pending(traffic: Traffic) -> None:
    a, b, c = traffic.add_many([("a", False, 0.5), ("b", True, 0.5), ("c", True, 0.5)])
    traffic.record_many([(c.request_id, 0.0), (a.request_id, 1.0)])
    assert [row[0] for row in traffic.matured()] == [1]
    traffic.record(b.request_id, 0.5)
    assert [row[0] for row in traffic.matured(after=1)] == [2, 3]
