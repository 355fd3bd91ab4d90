"""The status of an online experiment: what counts, what it says, and how often it is wrong."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspy_nb.core.ab import watch
from dspy_nb.core.ab.comparison import Step
from dspy_nb.core.ab.experiment import Experiment
from dspy_nb.core.ab.ledger import Ledger
from dspy_nb.core.statistics.proportions import newcombe_interval, two_proportion_z, wilson_interval
from dspy_nb.core.statistics.two_arm import TwoArmSequence
from dspy_nb.core.statistics.verdicts import decide
from tests.core.ab.test_assignment import Clock, assign_many
from tests.core.ab.test_experiment import a, b
from tests.properties import tries


def begin(folder: Path, **options) -> Experiment:
    return Experiment("t", a, b, registry=folder, **{"split": 0.5, **options})


def traffic(experiment: Experiment, is_b: list[bool], outcomes: list[float]) -> list[str]:
    """Assign units to these arms, whatever their hash, and record these outcomes."""
    places = [(f"u{i}", 0.0 if arm else 0.999) for i, arm in enumerate(is_b)]
    made = assign_many(experiment._traffic, places)
    experiment.record_many([(one.request_id, y) for one, y in zip(made, outcomes, strict=True)])
    return [one.request_id for one in made]


def arms(n: int, rate_a: float, rate_b: float, split: float = 0.5, seed: int = 0):
    rng = np.random.default_rng(seed)
    is_b = rng.random(n) < split
    return is_b, (rng.random(n) < np.where(is_b, rate_b, rate_a)).astype(float), np.full(n, split)


def test_the_classical_test_is_the_pooled_z_test_with_its_two_conditions(tmp_path: Path) -> None:
    is_b = [i % 2 == 1 for i in range(400)]
    outcomes = [float(i // 2 < (140 if arm else 120)) for i, arm in enumerate(is_b)]
    order = np.random.default_rng(1).permutation(400)
    experiment = begin(tmp_path)
    traffic(experiment, [is_b[i] for i in order], [outcomes[i] for i in order])
    status = experiment.status()
    assert (status.a.requests, status.b.requests, status.total) == (200, 200, 400)
    assert (status.a.success_rate, status.b.success_rate) == (0.6, 0.7)
    assert status.a.interval == wilson_interval(120, 200)
    fixed = status.fixed
    assert (fixed.z, fixed.p_value) == two_proportion_z(120, 200, 140, 200)
    assert fixed.z == pytest.approx(2.096570, abs=1e-6)
    assert fixed.p_value == pytest.approx(0.036032, abs=1e-6)
    assert fixed.interval == newcombe_interval(140, 200, 120, 200)
    assert (fixed.significant, fixed.winner) == (True, "b")
    assert status.effect == pytest.approx(0.1)
    more = begin(tmp_path / "more", min_samples=201)
    traffic(more, [is_b[i] for i in order], [outcomes[i] for i in order])
    assert (more.status().fixed.significant, more.status().fixed.winner) == (False, None)
    stricter = begin(tmp_path / "stricter", confidence=0.99)
    traffic(stricter, [is_b[i] for i in order], [outcomes[i] for i in order])
    assert not stricter.status().fixed.significant


def test_without_variance_nothing_is_significant(tmp_path: Path) -> None:
    experiment = begin(tmp_path)
    traffic(experiment, [i % 2 == 0 for i in range(300)], [1.0] * 300)
    status = experiment.status()
    assert (status.fixed.z, status.fixed.p_value, status.fixed.significant) == (0, 1, False)
    assert status.p_value == 1
    assert status.interval[0] < 0 < status.interval[1]


def test_where_the_split_changed_the_classical_test_is_refused_and_the_effect_is_stratified(
    tmp_path: Path,
) -> None:
    experiment = begin(tmp_path)
    traffic(experiment, [True, False, True, False], [1, 1, 1, 0])
    experiment.set_split(0.8)
    made = assign_many(experiment._traffic, [("x", 0.1), ("y", 0.1), ("z", 0.1), ("w", 0.9)])
    experiment.record_many([(one.request_id, 0.0) for one in made])
    status = experiment.status()
    assert "the split changed" in (status.fixed.refused or "")
    assert (status.fixed.significant, status.fixed.winner) == (False, None)
    assert status.effect == pytest.approx((4 * 0.5 + 4 * 0.0) / 8)
    assert status.b.success_rate - status.a.success_rate != pytest.approx(status.effect)


def test_graded_outcomes_have_a_verdict_and_no_z_test(tmp_path: Path) -> None:
    experiment = begin(tmp_path)
    is_b = [i % 2 == 0 for i in range(300)]
    traffic(experiment, is_b, [0.75 if arm else 0.25 for arm in is_b])
    status = experiment.status()
    assert status.verdict == "B better"
    assert status.effect == pytest.approx(0.5)
    assert "graded" in (status.fixed.refused or "")


def test_grades_that_add_up_to_a_whole_number_are_grades(tmp_path: Path) -> None:
    experiment = begin(tmp_path)
    traffic(experiment, [True, False] * 2, [0.5] * 4)
    assert "graded" in (experiment.status().fixed.refused or "")


@pytest.mark.parametrize("changes", [False, True])
def test_how_many_more_units_settle_it_is_worked_out_once_for_the_same_units(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: bool
) -> None:
    experiment = begin(tmp_path)
    is_b, outcomes, _ = arms(120, 0.6, 0.75, seed=3)
    traffic(experiment, is_b.tolist(), outcomes.tolist())
    first = experiment.status()
    assert first.verdict == "inconclusive"
    assert 50 < (first.more_needed or 0) < 5000
    worked_out = []
    forecast = watch.more_units
    monkeypatch.setattr(watch, "more_units", lambda *a, **k: worked_out.append(a) or forecast(*a, **k))
    if changes:
        experiment.set_split(0.1)  # what is to come has less of B
        assert (experiment.status().more_needed or 0) > (first.more_needed or 0)
    assert experiment.status().more_needed == experiment.status().more_needed
    assert len(worked_out) == changes
    assert Experiment.open("t", registry=tmp_path).status().more_needed == experiment.status().more_needed


def test_arms_that_never_fail_are_told_to_be_alike_after_about_as_many_units_as_were_said(
    tmp_path: Path,
) -> None:
    experiment = begin(tmp_path, margin=0.05)
    is_b, _, _ = arms(2000, 1, 1, seed=4)
    traffic(experiment, is_b[:100].tolist(), [1.0] * 100)
    said = experiment.status().more_needed
    ledger = Ledger(0.95, 0.05)
    ledger.add(is_b, np.ones(2000), np.full(2000, 0.5))
    assert ledger.n_at_verdict is not None
    assert 0.5 < (ledger.n_at_verdict - 100) / (said or 1) < 1.5


def test_a_sample_ratio_mismatch_blocks_the_verdict(tmp_path: Path) -> None:
    experiment = begin(tmp_path)
    is_b = [i % 3 > 0 for i in range(600)]
    traffic(experiment, is_b, [float(arm) for arm in is_b])
    status = experiment.status()
    assert status.srm_p_value < 0.001
    assert status.verdict == "inconclusive"
    assert "sample-ratio mismatch: 400 of 600 units are in B" in status.blocked[0]
    assert status.to_evidence().verdict == "inconclusive"
    assert not status.not_worse


def test_the_expected_sizes_follow_the_split_of_each_event(tmp_path: Path) -> None:
    experiment = begin(tmp_path, split=0.1)
    traffic(experiment, [i % 10 == 0 for i in range(1000)], [1.0] * 1000)
    experiment.set_split(0.5)
    places = [(f"late {i}", 0.0 if i % 2 else 0.99) for i in range(1000)]
    assign_many(experiment._traffic, places)
    assert experiment.status().srm_p_value == pytest.approx(1.0)


@pytest.mark.heavy
def test_a_drifting_difference_empties_the_interval_and_blocks_the_verdict(tmp_path: Path) -> None:
    experiment = begin(tmp_path)
    is_b = [i % 2 == 0 for i in range(6000)]
    traffic(experiment, is_b, [float(arm) if i < 1500 else float(not arm) for i, arm in enumerate(is_b)])
    status = experiment.status()
    assert math.isnan(status.interval[0])
    assert status.verdict == "inconclusive"
    assert status.n_at_verdict is None
    assert "drift" in status.blocked[0]
    json.dumps(status.to_dict(), allow_nan=False)


def test_errors_that_differ_are_a_warning(tmp_path: Path) -> None:
    experiment = begin(tmp_path)
    made = assign_many(experiment._traffic, [(f"u{i}", i % 2 * 0.9) for i in range(100)])
    for one in made:
        experiment._traffic.finish(one.request_id, 1.0, error="ValueError" if one.is_b else None)
    status = experiment.status()
    assert (status.a.errors, status.b.errors) == (0, 50)
    assert "B on 50" in status.warnings[-1]
    assert "may explain the verdict" in status.warnings[-1]


def test_more_requests_of_a_unit_are_no_more_evidence(tmp_path: Path) -> None:
    experiment = begin(tmp_path)
    for _ in range(3):
        traffic(experiment, [True, False], [1.0, 0.0])
    status = experiment.status()
    assert (status.total, status.n, status.a.units, status.a.counted) == (6, 2, 1, 1)


def test_whoever_looks_often_sees_what_is_seen_by_who_looks_once(tmp_path: Path) -> None:
    """Also with outcomes that come late, from another process, and a split that changes."""
    clock = Clock()
    experiment = begin(tmp_path, outcome_within_s=50, clock=clock, margin=0.02)
    rng = np.random.default_rng(3)
    pending: list[tuple[float, str, bool]] = []
    for i in range(1500):
        clock.now += 1
        if i == 500:
            experiment.set_split(0.3)
        one = experiment._traffic.assign(f"u{i}", rng.random())
        success = bool(rng.random() < 0.4 + 0.25 * one.is_b)
        pending.append((clock.now + (1 if success else 60 * rng.random()), one.request_id, success))
        for due, request_id, happened in [row for row in pending if row[0] <= clock.now]:
            experiment.record(request_id, success=happened)
            pending.remove((due, request_id, happened))
        if i % 100 == 0:
            experiment.status()
    clock.now += 100
    often, once = experiment.status(), Experiment("t", registry=tmp_path, clock=clock).status()
    assert often == once
    assert often.n == 1500
    assert often.a.expired + often.b.expired > 0
    assert often.verdict == "B better"


def test_a_checkpoint_is_gone_on_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dspy_nb.core.ab.watch._UNITS_PER_CHECKPOINT", 50)
    experiment = begin(tmp_path)
    is_b, outcomes, _ = arms(400, 0.3, 0.6)
    traffic(experiment, is_b[:300].tolist(), outcomes[:300].tolist())
    first = experiment.status()
    other = Experiment("t", registry=tmp_path)
    assert other.status() == first
    places = [(f"more {i}", 0.0 if arm else 0.9) for i, arm in enumerate(is_b[300:])]
    experiment.record_many(
        [
            (one.request_id, y)
            for one, y in zip(assign_many(experiment._traffic, places), outcomes[300:], strict=True)
        ]
    )
    assert other.status() == experiment.status() == Experiment("t", registry=tmp_path).status()
    assert other.status().n == 400


def test_the_fingerprint_is_that_of_the_units_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_b, outcomes, _ = arms(100, 0.5, 0.5)
    prints = []
    for name, block in (("x", 65_536), ("y", 7), ("z", 7)):
        monkeypatch.setattr("dspy_nb.core.ab.watch._UNITS_PER_DIGEST", block)
        experiment = begin(tmp_path / name)
        traffic(experiment, is_b.tolist(), (outcomes if name != "z" else 1 - outcomes).tolist())
        experiment.status()
        prints.append(experiment.status().data_fingerprint)
    assert len(set(prints)) == 3  # a block size is part of what is hashed
    assert len(prints[0]) == 64


# -- the ledger ---------------------------------------------------------------------------------------------


@tries(0.1)
@given(st.lists(st.integers(1, 400), max_size=8), st.sampled_from([0.0, 0.05]))
def test_it_does_not_matter_how_many_units_are_added_at_a_time(sizes: list[int], margin: float) -> None:
    is_b, outcome, split = arms(1300, 0.4, 0.55, seed=2)
    at_once, bit_by_bit = Ledger(0.95, margin), Ledger(0.95, margin)
    at_once.add(is_b, outcome, split)
    start = 0
    for size in [*sizes, 1300]:
        stop = min(start + size, 1300)
        bit_by_bit.add(is_b[start:stop], outcome[start:stop], split[start:stop])
        bit_by_bit = Ledger.from_state(json.loads(json.dumps(bit_by_bit.to_state(), allow_nan=False)))
        start = stop
    assert bit_by_bit.to_state() == at_once.to_state()


@pytest.mark.parametrize(("rate_b", "margin"), [(0.6, 0.0), (0.2, 0.0), (0.4, 0.15)])
def test_the_verdict_is_that_of_the_first_unit_that_settles_it(rate_b: float, margin: float) -> None:
    is_b, outcome, split = arms(1500, 0.4, rate_b, seed=5)
    ledger, sequence = Ledger(0.95, margin), TwoArmSequence(0.95, points=(-margin, margin) if margin else ())
    ledger.add(is_b, outcome, split)
    path, found = [], None
    for n, unit in enumerate(zip(is_b, outcome, split, strict=True), 1):
        low, high = sequence.update(*unit)
        if found is None and decide(low, high, margin) != "inconclusive":
            found = n, decide(low, high, margin)
        path.append((n, low, high))
    assert (ledger.n_at_verdict, ledger.verdict) == found
    assert [(step.n, step.low, step.high) for step in ledger.path] == [row for row in path if row[0] % 4 == 0]


def test_the_path_is_thinned(tmp_path: Path) -> None:
    experiment = begin(tmp_path)
    is_b, outcomes, _ = arms(1003, 0.5, 0.5)
    traffic(experiment, is_b.tolist(), outcomes.tolist())
    path = experiment.status().path
    assert [step.n for step in path] == [*range(4, 1001, 4), 1003]
    assert path[-1] == Step(1003, experiment.status().effect, *experiment.status().interval)


# -- how often it is wrong ----------------------------------------------------------------------------------


def false_verdicts(runs: int, n: int, seed: int, *, in_order: bool = True) -> int:
    """Count A/A experiments with a verdict: the split ramps from 5 to 50 % while both get worse, .9 to .3.

    Failures of B come 400 units later than its successes and all outcomes of A. In order, units count when
    theirs and all before them have come; else as they come.
    """
    found = 0
    for run in range(runs):
        rng = np.random.default_rng((seed, run))
        split = np.repeat([0.05, 0.1, 0.25, 0.5], n // 4)
        is_b = rng.random(n) < split
        outcome = (rng.random(n) < np.linspace(0.9, 0.3, n)).astype(float)
        arrival = np.arange(n) + np.where(is_b & (outcome == 0), 400, 0)
        ledger = Ledger(0.95, 0.0)
        counted = 0
        for now in (*range(n // 4, n + 1, n // 4), math.inf):
            if in_order:
                here = np.flatnonzero(arrival > now)
                ready = slice(counted, int(here[0]) if len(here) else n)
                counted = ready.stop
            else:
                ready = np.argsort(arrival, kind="stable")[counted : int((arrival <= now).sum())]
                counted += len(ready)
            ledger.add(is_b[ready], outcome[ready], split[ready])
        found += ledger.verdict != "inconclusive"
    return found


@pytest.mark.heavy
def test_it_is_hardly_ever_wrong_under_ramps_drift_and_delays() -> None:
    assert false_verdicts(20, 1200, 1) <= 3  # 5 % at most: more than 3 of 20 have a chance of 2 %


@pytest.mark.heavy
def test_counting_outcomes_as_they_come_is_wrong_most_of_the_time() -> None:
    assert false_verdicts(5, 1600, 2, in_order=False) >= 3


@pytest.mark.slow
def test_it_is_hardly_ever_wrong_in_the_long_run() -> None:
    wrong = false_verdicts(500, 2000, 3)
    print(f"false verdicts: {wrong / 5:.1f} % of 500")
    assert wrong <= 0.05 * 500


def test_a_status_cannot_be_changed(tmp_path: Path) -> None:
    status = begin(tmp_path).status()
    with pytest.raises(dataclasses.FrozenInstanceError):
        status.verdict = "B better"
    assert repr(status) == (
        "<ExperimentStatus: Experiment t: a (A) and b (B): Inconclusive: no outcome counts yet.>"
    )
    assert (status.a.success_rate != status.a.success_rate, status.path, status.more_needed) == (
        True,
        (),
        None,
    )
