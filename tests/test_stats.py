"""Tests of intervals, tests and sample sizes; published values are named with their source."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspy_nb.core import stats
from dspy_nb.core.errors import InputError


def assert_close(actual, expected, digits=6):
    """Compare to the printed digits."""
    np.testing.assert_allclose(actual, expected, rtol=0, atol=0.5000001 * 10**-digits)


@st.composite
def successes_and_n(draw, minimum=0, maximum=500):
    n = draw(st.integers(minimum, maximum))
    return draw(st.integers(0, n)), n


# One rate


@pytest.mark.parametrize(("confidence", "expected"), [(0.90, 1.644854), (0.95, 1.959964), (0.99, 2.575829)])
def test_critical_values_are_those_of_the_tables(confidence, expected):
    assert_close(stats.critical_value(confidence), expected)


@pytest.mark.parametrize(
    ("successes", "n", "expected"), [(81, 263, (0.255289, 0.366210)), (0, 20, (0, 0.161125))]
)
def test_wilson_gives_the_values_of_newcombe_1998(successes, n, expected):
    assert_close(stats.wilson_interval(successes, n), expected)


def test_wilson_knows_nothing_without_trials():
    assert stats.wilson_interval(0, 0) == (0.0, 1.0)


@given(successes_and_n(minimum=1), st.floats(0.5, 0.999))
def test_wilson_holds_the_rate_lies_in_the_unit_interval_and_mirrors(counts, confidence):
    successes, n = counts
    low, high = stats.wilson_interval(successes, n, confidence)
    assert 0 <= low <= successes / n <= high <= 1
    assert high - low > 0
    assert stats.wilson_interval(n - successes, n, confidence) == pytest.approx((1 - high, 1 - low))


@pytest.mark.parametrize(
    ("successes", "n"), [(3, 2), (-1, 2), (0, -1), (1.5, 2), (1, float("nan")), ("1", 2)]
)
def test_counts_that_cannot_be_are_refused_in_one_line(successes, n):
    with pytest.raises(InputError) as error:
        stats.wilson_interval(successes, n)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("confidence", [0, 1, -0.1, 95, float("nan"), "high", None])
def test_a_confidence_outside_0_to_1_is_refused(confidence):
    with pytest.raises(InputError, match="confidence must be a number in"):
        stats.wilson_interval(1, 2, confidence)


def test_whole_floats_and_numpy_integers_are_counts():
    assert stats.wilson_interval(3.0, np.int64(5)) == stats.wilson_interval(3, 5)


# Means


def test_bca_agrees_with_scipy():
    from scipy.stats import bootstrap

    values = np.random.default_rng(3).beta(2, 1, 60)
    reference = bootstrap((values,), np.mean, method="BCa", n_resamples=20_000, rng=1).confidence_interval
    ours = stats.bca_interval(values, resamples=20_000)
    np.testing.assert_allclose(ours, (reference.low, reference.high), atol=0.03 * np.ptp(reference))


def test_bca_repeats_itself_and_follows_its_seed():
    values = np.random.default_rng(0).random(40)
    assert stats.bca_interval(values) == stats.bca_interval(list(values))
    assert stats.bca_interval(values) != stats.bca_interval(values, seed=1)


def test_bca_never_has_zero_width():
    assert stats.bca_interval([]) == (0.0, 1.0)
    assert stats.bca_interval([1.0] * 20) == stats.wilson_interval(20, 20)
    low, high = stats.bca_interval([0.1 + 0.2] * 50)
    assert low < 0.3 < high


def test_bca_of_differences_uses_their_bounds():
    assert stats.bca_interval([], bounds=(-1, 1)) == (-1, 1)
    low, high = stats.bca_interval([0.0] * 30, bounds=(-1, 1))
    assert (low, high) == pytest.approx((-high, high))
    assert low < 0 < high


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40))
def test_bca_stays_within_the_bounds_and_has_width(values):
    low, high = stats.bca_interval(values, resamples=200)
    assert 0 <= low < high <= 1


@pytest.mark.parametrize("values", [[0.5, 1.2], [float("nan")], [-0.1], ["high"], [None], [[0.1], [0.2]]])
def test_scores_that_cannot_be_are_refused_in_one_line(values):
    with pytest.raises(InputError, match="values must") as error:
        stats.bca_interval(values)
    assert "\n" not in str(error.value)


# The module


def test_importing_the_statistics_brings_in_neither_numpy_nor_scipy():
    script = "import sys, dspy_nb.core.stats; print({'numpy', 'scipy'} & set(sys.modules))"
    output = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert output.strip() == "set()"
