from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dspy_nb.core.errors import InputError
from dspy_nb.core.statistics.degradation import DegradationTest, running_interval

OUTCOMES = st.lists(st.one_of(st.sampled_from([0.0, 1.0]), st.floats(0, 1)), max_size=60)
LEVELS = st.sampled_from([0.02, 0.5, 0.88, 0.98])
LOSSES = (0.02, 0.04, 0.08, 0.16, 0.32, 0.64)


def evalue_by_definition(level: float, outcomes: list[float]) -> float:
    """The sum over bets and moments of their beginning, written down as the docstring says it."""
    held = [0.5 * math.log(200) / math.log(200 + n) for n in range(len(outcomes) + 1)]
    total = held[-1] + (0 if outcomes else 0.5)
    for loss in LOSSES:
        q = level * (1 - loss)
        for begin in range(len(outcomes)):
            stake = held[begin] - held[begin + 1] + (0.5 if begin == 0 else 0)
            factors = [x * q / level + (1 - x) * (1 - q) / (1 - level) for x in outcomes[begin:]]
            total += stake / len(LOSSES) * math.prod(factors)
    return total


@given(LEVELS, OUTCOMES)
def test_the_evalue_is_the_sum_over_bets_and_moments(level: float, outcomes: list[float]) -> None:
    test = DegradationTest(level)
    assert test.update_many(outcomes) == pytest.approx(evalue_by_definition(level, outcomes), rel=1e-9)


@given(LEVELS, OUTCOMES, st.integers(0, 60))
def test_reading_in_pieces_or_from_a_stored_state_changes_nothing(
    level: float, outcomes: list[float], cut: int
) -> None:
    whole, piecewise, one_by_one = (DegradationTest(level, 0.3) for _ in range(3))
    whole.update_many(outcomes)
    piecewise.update_many(outcomes[:cut])
    piecewise = DegradationTest.from_state(piecewise.to_state())
    piecewise.update_many(outcomes[cut:])
    for outcome in outcomes:
        one_by_one.update(outcome)
    for other in (piecewise, one_by_one):
        assert other.n == whole.n
        assert other.alarm_at == whole.alarm_at
        assert other.p_value == pytest.approx(whole.p_value, rel=1e-9)
        assert other.evalue == pytest.approx(whole.evalue, rel=1e-9)


@given(st.sampled_from([0.02, 0.5, 0.88, 0.98]), st.sampled_from([0, 1, 50, 5000]))
def test_the_game_is_fair_at_the_level_and_against_it_above(level: float, before: int) -> None:
    test = DegradationTest(level)
    test.update_many(np.arange(before) % 7 > 0)
    state, now = test.to_state(), test.evalue
    after = [DegradationTest.from_state(state).update(outcome) for outcome in (0.0, 1.0)]
    assert (1 - level) * after[0] + level * after[1] == pytest.approx(now, rel=1e-9)
    assert after[1] <= now + 1e-12  # a higher mean only lowers what is expected


def test_the_alarm_stays_when_it_gets_better_again() -> None:
    test = DegradationTest(0.9)
    test.update_many([0.0] * 20)
    assert test.degraded
    first = test.alarm_at
    assert first is not None
    assert first < 20
    test.update_many([1.0] * 2000)
    assert (test.alarm_at, test.degraded) == (first, True)
    assert test.evalue < 1 < 1 / test.p_value


def test_a_long_life_stays_finite() -> None:
    test = DegradationTest(0.9)
    test.update_many(np.ones(300_000))
    assert 0 < test.evalue < 1
    test.update_many(np.zeros(5000))
    assert math.isfinite(test.evalue)
    assert test.alarm_at is not None
    assert test.alarm_at < 300_020


@pytest.mark.parametrize("wrong", [0, 1, 1.5, math.nan, "x"])
def test_levels_and_alphas_are_checked(wrong: float) -> None:
    for arguments in ((wrong, 0.05), (0.9, wrong)):
        with pytest.raises(InputError, match=r"\(0, 1\)"):
            DegradationTest(*arguments)


def test_a_wrong_outcome_adds_nothing() -> None:
    test = DegradationTest(0.9)
    for wrong in (-0.1, 1.1, math.nan):
        with pytest.raises(InputError, match="outcomes"):
            test.update_many([1.0, wrong])
    assert test.n == 0


# -- the running interval ---------------------------------------------------------------------------------------


@example(70, 0.001953125, 0.95)  # an end at 1e-21
@given(st.integers(1, 3000), st.floats(0, 1), st.sampled_from([0.8, 0.95, 0.999]))
def test_the_running_interval_ends_where_the_evidence_reaches_the_bound(
    n: int, share: float, confidence: float
) -> None:
    from scipy.special import betaln

    total = share * n
    low, high = running_interval(total, n, confidence)
    assert 0 <= low <= total / n <= high <= 1
    for end in (low, high):
        if 1e-300 < end < 1 - 1e-9:  # elsewhere neighbouring numbers are too far apart
            log_evidence = (
                betaln(0.5 + total, 0.5 + n - total) - betaln(0.5, 0.5)
                - total * math.log(end) - (n - total) * math.log1p(-end)
            )  # fmt: skip
            assert log_evidence == pytest.approx(-math.log(1 - confidence), abs=1e-4)


def test_without_outcomes_the_mean_can_be_anything() -> None:
    assert running_interval(0, 0) == (0.0, 1.0)
    with pytest.raises(InputError):
        running_interval(3, 2)


# -- what is promised: simulations ------------------------------------------------------------------------------


def lives(kind: str, mean: float, n: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if kind == "yes/no":
        return rng.random(n) < mean
    return rng.beta(5 * mean, 5 * (1 - mean), n)


def false_alarms(kind: str, mean: float, n: int, runs: int, alpha: float) -> float:
    alarms = 0
    for seed in range(runs):
        test = DegradationTest(mean, alpha)  # the hardest case: the mean is exactly what is tolerated
        test.update_many(lives(kind, mean, n, seed))
        alarms += test.degraded
    return alarms / runs


def at_most(alpha: float, runs: int) -> float:
    return alpha + 3 * math.sqrt(alpha * (1 - alpha) / runs)


@pytest.mark.parametrize(("kind", "mean"), [("yes/no", 0.9), ("graded", 0.6)])
def test_no_change_raises_no_more_false_alarms_than_stated(kind: str, mean: float) -> None:
    assert false_alarms(kind, mean, 4000, 200, 0.2) <= at_most(0.2, 200)


@pytest.mark.slow
@pytest.mark.parametrize("mean", [0.9, 0.6, 0.98])
@pytest.mark.parametrize("kind", ["yes/no", "graded"])
def test_a_year_without_change_raises_no_more_false_alarms_than_stated(kind: str, mean: float) -> None:
    """365 days of 600 requests, looked at after each of them."""
    assert false_alarms(kind, mean, 365 * 600, 300, 0.05) <= at_most(0.05, 300)


def requests_to_alarm(good: int, runs: int, tolerated: float = 0.88) -> list[int]:
    """How many requests at .80 it takes after ``good`` ones at .90; runs with a false alarm are left out."""
    found = []
    for seed in range(runs):
        rng = np.random.default_rng(seed)
        test = DegradationTest(tolerated)
        test.update_many(rng.random(good) < 0.9)
        if not test.degraded:
            test.update_many(rng.random(4000) < 0.8)
            found.append((test.alarm_at or math.inf) - good)
    return found


@pytest.mark.parametrize(("good", "stated"), [(0, 340), (1000, 590), (10_000, 710)])
def test_a_loss_of_ten_points_is_found_within_the_documented_number_of_requests(
    good: int, stated: int
) -> None:
    """9 of 10 cases within the number in the docstring of ``monitor``."""
    found = requests_to_alarm(good, 100)
    assert len(found) > 90
    assert np.mean([n <= stated for n in found]) >= 0.9 - 3 * math.sqrt(0.09 / len(found))
    assert np.median(found) < stated
