"""Tests of intervals, tests and sample sizes; published values are named with their source."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.special import xlogy
from scipy.stats import binom, binomtest, bootstrap, permutation_test

from dspy_nb.core.errors import InputError
from dspy_nb.core.statistics import assignment, means, proportions, sample_sizes, verdicts
from dspy_nb.core.statistics.sample_sizes import more_needed, more_needed_paired
from tests import ROOT
from tests.properties import tries


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
    assert_close(proportions.critical_value(confidence), expected)


@pytest.mark.parametrize(
    ("successes", "n", "expected"), [(81, 263, (0.255289, 0.366210)), (0, 20, (0, 0.161125))]
)
def test_wilson_gives_the_values_of_newcombe_1998(successes, n, expected):
    assert_close(proportions.wilson_interval(successes, n), expected)


def test_wilson_knows_nothing_without_trials():
    assert proportions.wilson_interval(0, 0) == (0.0, 1.0)


@given(successes_and_n(minimum=1), st.floats(0.5, 0.999))
def test_wilson_holds_the_rate_lies_in_the_unit_interval_and_mirrors(counts, confidence):
    successes, n = counts
    low, high = proportions.wilson_interval(successes, n, confidence)
    assert 0 <= low <= successes / n <= high <= 1
    assert high - low > 0
    assert proportions.wilson_interval(n - successes, n, confidence) == pytest.approx((1 - high, 1 - low))


@pytest.mark.parametrize(
    ("successes", "n"), [(3, 2), (-1, 2), (0, -1), (1.5, 2), (1, float("nan")), ("1", 2)]
)
def test_counts_that_cannot_be_are_refused_in_one_line(successes, n):
    with pytest.raises(InputError) as error:
        proportions.wilson_interval(successes, n)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("confidence", [0, 1, -0.1, 95, float("nan"), "high", None])
def test_a_confidence_outside_0_to_1_is_refused(confidence):
    with pytest.raises(InputError, match="confidence must be a finite number in"):
        proportions.wilson_interval(1, 2, confidence)


def test_whole_floats_and_numpy_integers_are_counts():
    assert proportions.wilson_interval(3.0, np.int64(5)) == proportions.wilson_interval(3, 5)


# Two arms


def test_the_pooled_z_test_gives_the_values_of_both_worked_examples():
    z, p = proportions.two_proportion_z(120, 200, 140, 200)
    assert_close((z, p), (2.096570, 0.036032))
    test = proportions.two_proportion_z(450, 500, 480, 500)
    assert_close(test.z, 3.718183)
    assert_close(test.p_value, 0.00020066, digits=8)


def test_z_is_positive_when_b_is_better():
    assert (
        proportions.two_proportion_z(140, 200, 120, 200).z
        == -proportions.two_proportion_z(120, 200, 140, 200).z
        < 0
    )


@pytest.mark.parametrize("counts", [(0, 0, 0, 0), (0, 0, 3, 5), (5, 5, 9, 9), (0, 5, 0, 9)])
def test_without_trials_or_variance_nothing_is_significant(counts):
    assert proportions.two_proportion_z(*counts) == (0.0, 1.0)


NEWCOMBE_1998 = [  # Table II of Newcombe (1998), Statistics in Medicine 17, 873-890: methods 10 and 2
    ((56, 70, 48, 80), (0.0524, 0.3339), (0.0528, 0.3382)),
    ((9, 10, 3, 10), (0.1705, 0.8090), (0.1700, 0.8406)),
    ((6, 7, 2, 7), (0.0582, 0.8062), (0.0342, 0.8534)),
    ((5, 56, 0, 29), (-0.0381, 0.1926), (-0.0326, 0.1933)),
    ((0, 10, 0, 20), (-0.1611, 0.2775), (-0.1658, 0.2844)),
    ((0, 10, 0, 10), (-0.2775, 0.2775), (-0.2879, 0.2879)),
    ((10, 10, 0, 20), (0.6791, 1.0), (0.7156, 1.0)),
    ((10, 10, 0, 10), (0.6075, 1.0), (0.6636, 1.0)),
]


@pytest.mark.parametrize(("counts", "newcombe", "miettinen_nurminen"), NEWCOMBE_1998)
def test_intervals_of_two_arms_give_the_published_values(counts, newcombe, miettinen_nurminen):
    assert_close(proportions.newcombe_interval(*counts), newcombe, digits=4)
    assert_close(proportions.miettinen_nurminen_interval(*counts), miettinen_nurminen, digits=4)


def test_intervals_of_two_arms_give_the_acceptance_values():
    assert_close(proportions.newcombe_interval(56, 70, 48, 80, 0.95), (0.052431, 0.333873))
    assert_close(proportions.miettinen_nurminen_interval(56, 70, 48, 80, 0.95), (0.052830, 0.338173))
    assert_close(proportions.miettinen_nurminen_interval(0, 16, 15, 72, 0.95), (-0.316370, -0.005574))


@pytest.mark.parametrize("interval", [proportions.newcombe_interval, proportions.miettinen_nurminen_interval])
def test_an_arm_without_trials_leaves_every_difference_possible(interval):
    assert interval(0, 0, 3, 4) == (-1, 1)
    assert interval(3, 4, 0, 0) == (-1, 1)


@given(successes_and_n(minimum=1, maximum=60), successes_and_n(minimum=1, maximum=60), st.floats(0.5, 0.999))
def test_intervals_of_two_arms_hold_the_difference_and_mirror(a, b, confidence):
    for interval in (proportions.newcombe_interval, proportions.miettinen_nurminen_interval):
        low, high = interval(*a, *b, confidence)
        assert -1 <= low <= a[0] / a[1] - b[0] / b[1] <= high <= 1
        assert low < high
        assert interval(*b, *a, confidence) == pytest.approx((-high, -low), abs=1e-7)


@tries(0.5)
@given(successes_and_n(minimum=1, maximum=80), successes_and_n(minimum=1, maximum=80))
def test_the_ends_of_miettinen_and_nurminens_interval_are_where_the_score_test_is_critical(a, b):
    (x, m), (y, n) = a, b

    def score(difference):
        def loss(q):
            p = min(max(q + difference, 0.0), 1.0)
            return -(xlogy(x, p) + xlogy(m - x, 1 - p) + xlogy(y, q) + xlogy(n - y, 1 - q))

        ends = (max(0.0, -difference), min(1.0, 1 - difference))
        q = minimize_scalar(loss, bounds=ends, method="bounded", options={"xatol": 1e-12}).x
        p = q + difference
        variance = (p * (1 - p) / m + q * (1 - q) / n) * (m + n) / (m + n - 1)
        return (x / m - y / n - difference) / np.sqrt(variance)

    low, high = proportions.miettinen_nurminen_interval(x, m, y, n)
    if low > -0.999:
        assert score(low) == pytest.approx(1.959964, abs=2e-3)
    if high < 0.999:
        assert score(high) == pytest.approx(-1.959964, abs=2e-3)


# Paired answers

CAVO_2012 = (59, 6, 16, 80)


def test_mcnemar_gives_the_published_values():
    test = proportions.mcnemar(*CAVO_2012)
    assert_close((test.exact_p, test.mid_p), (0.05247879, 0.03468966), digits=8)


@given(st.integers(0, 200), st.integers(0, 200))
def test_mcnemar_agrees_with_the_binomial_test(a_only, b_only):
    exact_p, mid_p = proportions.mcnemar(7, a_only, b_only, 5)
    n = a_only + b_only
    if n == 0:
        assert (exact_p, mid_p) == (1, 1)
        return
    assert exact_p == pytest.approx(binomtest(a_only, n).pvalue, rel=1e-9)
    point = binom.pmf(a_only, n, 0.5)
    assert mid_p == pytest.approx(exact_p - (point / 2 if a_only == b_only else point), rel=1e-6)
    assert 0 < mid_p < exact_p <= 1


def test_mcnemar_takes_large_counts():
    assert proportions.mcnemar(0, 400_000, 402_000, 0).exact_p == pytest.approx(0.0255, abs=1e-3)
    assert proportions.mcnemar(0, 10_000, 0, 0) == (0, 0)


def test_intervals_of_paired_answers_give_the_published_values():
    assert_close(proportions.paired_difference_interval(*CAVO_2012), (-0.124023, -0.005433))
    assert_close(
        proportions.paired_difference_interval(*CAVO_2012, 0.95, method="newcombe"), (-0.118621, -0.004625)
    )
    # Newcombe (1998), Statistics in Medicine 17, 2635-2650, and Tango (1998)
    assert_close(
        proportions.paired_difference_interval(36, 12, 2, 0, method="newcombe"), (0.0569, 0.3404), digits=4
    )
    assert_close(proportions.paired_difference_interval(1, 1, 7, 12), (-0.517, -0.026), digits=3)


def test_tango_keeps_its_width_when_the_programs_never_disagree():
    assert proportions.paired_difference_interval(5, 0, 0, 5) == pytest.approx(
        (-0.277533, 0.277533), abs=1e-6
    )
    assert proportions.paired_difference_interval(0, 0, 0, 0) == (-1, 1)


@given(*[st.integers(0, 60)] * 4, st.floats(0.5, 0.999), st.sampled_from(["tango", "newcombe"]))
def test_paired_intervals_hold_the_difference_and_mirror(both, a_only, b_only, neither, confidence, method):
    low, high = proportions.paired_difference_interval(both, a_only, b_only, neither, confidence, method)
    n = both + a_only + b_only + neither
    difference = (a_only - b_only) / n if n else 0
    assert -1 <= low <= difference <= high <= 1
    assert low < high
    mirrored = proportions.paired_difference_interval(both, b_only, a_only, neither, confidence, method)
    assert mirrored == pytest.approx((-high, -low), abs=1e-7)


def test_an_unknown_method_is_refused_by_name():
    with pytest.raises(InputError, match="method must be 'tango' or 'newcombe', got 'wald'"):
        proportions.paired_difference_interval(1, 2, 3, 4, 0.95, "wald")


@pytest.mark.parametrize("counts", [(-1, 0, 0, 0), (0, 0.5, 0, 0), (0, 0, float("nan"), 0), (0, 0, 0, None)])
def test_paired_counts_that_cannot_be_are_refused(counts):
    for function in (proportions.mcnemar, proportions.paired_difference_interval):
        with pytest.raises(InputError, match="must be a whole number of at least 0"):
            function(*counts)


# Sample sizes


@pytest.mark.parametrize(("p_b", "equal", "tenth"), [(0.65, 1471, 8230), (0.70, 356, 2010), (0.80, 82, 470)])
def test_unpaired_sizes_are_those_of_the_acceptance_table(p_b, equal, tenth):
    assert sample_sizes.sample_size_unpaired(0.6, p_b) == equal
    assert sample_sizes.sample_size_unpaired(0.6, p_b, 0.8, 0.95, 9) * (1 + 9) == tenth


@pytest.mark.parametrize(("effect", "pairs"), [(0.05, 940), (0.10, 234), (0.20, 57), (-0.20, 57)])
def test_paired_sizes_are_those_of_the_acceptance_table(effect, pairs):
    assert sample_sizes.sample_size_paired(effect, 0.3) == pairs


def test_what_is_still_needed_is_what_the_test_takes_less_what_was_counted():
    fixed = 126  # ((1.96 + .8416) .2/.05)², rounded up
    assert more_needed(100, -0.05, 0.2**2, 0.0, 0.95) == fixed - 100
    assert more_needed(10_000, 0.05, 0.2**2, 0.0, 0.95) == 1
    assert more_needed(100, 0.0, 0.2**2, 0.05, 0.95) == fixed - 100
    assert more_needed(100, 0.0, 0.2**2, 0.0, 0.95) is None


@pytest.mark.parametrize(
    ("n", "b_wins", "a_wins", "margin"),
    [(60, 9, 3, 0.0), (60, 3, 9, 0.0), (100, 20, 10, 0.1), (100, 15, 15, 0.05), (50, 5, 5, 0.02)],
)
def test_what_one_look_still_needs_gives_the_exact_test_a_power_of_80_percent(n, b_wins, a_wins, margin):
    size = n + more_needed_paired(n, b_wins, a_wins, margin, 0.95)
    rng = np.random.default_rng(1)
    shares = [b_wins / n, a_wins / n, 1 - (b_wins + a_wins) / n]
    settled = 0
    for b, a, _ in rng.multinomial(size, shares, 200).tolist():
        interval = proportions.paired_difference_interval(size - a - b, a, b, 0)
        exact = proportions.mcnemar(size - a - b, a, b, 0).exact_p <= 0.05
        verdict = verdicts.decide(*interval, margin)
        settled += verdict == "no practical difference" or (verdict != "inconclusive" and exact)
    assert 0.7 <= settled / 200 <= 0.93


@pytest.mark.parametrize("margin", [0.01, 0.05])
def test_one_look_at_programs_that_never_differ_needs_what_tangos_interval_takes(margin):
    size = 20 + more_needed_paired(20, 0, 0, margin, 0.95)
    assert proportions.paired_difference_interval(size, 0, 0, 0)[1] <= margin
    assert proportions.paired_difference_interval(size - 1, 0, 0, 0)[1] > margin


def test_one_look_without_a_difference_or_a_margin_never_settles_anything():
    assert more_needed_paired(20, 0, 0, 0.0, 0.95) is None
    assert more_needed_paired(20, 4, 4, 0.0, 0.95) is None
    assert more_needed_paired(1000, 101, 100, 0.001, 0.95) is None


@pytest.mark.parametrize(
    "call",
    [
        lambda: sample_sizes.sample_size_paired(0, 0.3),
        lambda: sample_sizes.sample_size_paired(0.4, 0.3),
        lambda: sample_sizes.sample_size_paired(1e-200, 0.3),
        lambda: assignment.srm_p_value((1, 2), None),
        lambda: sample_sizes.sample_size_paired(0.1, 1.2),
        lambda: sample_sizes.sample_size_paired(0.1, 0.3, power=1),
        lambda: sample_sizes.sample_size_unpaired(0.6, 0.6),
        lambda: sample_sizes.sample_size_unpaired(0.6, 1.6),
        lambda: sample_sizes.sample_size_unpaired(0.6, 0.7, ratio=0),
    ],
)
def test_sizes_that_make_no_sense_are_refused_in_one_line(call):
    with pytest.raises(InputError) as error:
        call()
    assert "\n" not in str(error.value)


# Means


def test_bca_agrees_with_scipy():
    values = np.random.default_rng(3).beta(2, 1, 60)
    reference = bootstrap((values,), np.mean, method="BCa", n_resamples=20_000, rng=1).confidence_interval
    ours = means.bca_interval(values, resamples=20_000)
    np.testing.assert_allclose(ours, (reference.low, reference.high), atol=0.03 * np.ptp(reference))


def test_bca_repeats_itself_and_follows_its_seed():
    values = np.random.default_rng(0).random(40)
    assert means.bca_interval(values) == means.bca_interval(list(values))
    assert means.bca_interval(values) != means.bca_interval(values, seed=1)


@pytest.mark.parametrize(("n", "a", "b"), [(30, 2, 1), (60, 5, 1), (60, 0.5, 0.5)])
def test_bca_covers_the_true_mean_about_as_often_as_it_says(n, a, b):
    rng = np.random.default_rng(7)
    intervals = [means.bca_interval(rng.beta(a, b, n), resamples=500, seed=seed) for seed in range(400)]
    covered = np.mean([low <= a / (a + b) <= high for low, high in intervals])
    assert 0.91 <= covered <= 0.98


def test_bca_never_has_zero_width():
    assert means.bca_interval([]) == (0.0, 1.0)
    assert means.bca_interval([1.0] * 20) == proportions.wilson_interval(20, 20)
    low, high = means.bca_interval([0.1 + 0.2] * 50)
    assert low < 0.3 < high


def test_bca_of_differences_uses_their_bounds():
    assert means.bca_interval([], bounds=(-1, 1)) == (-1, 1)
    low, high = means.bca_interval([0.0] * 30, bounds=(-1, 1))
    assert (low, high) == pytest.approx((-high, high))
    assert low < 0 < high


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40))
@example([1.6471658948610325e-15])
def test_bca_stays_within_the_bounds_and_has_width(values):
    low, high = means.bca_interval(values, resamples=200)
    assert 0 <= low < high <= 1


@pytest.mark.parametrize("values", [[0.5, 1.2], [float("nan")], [-0.1], ["high"], [None], [[0.1], [0.2]]])
def test_scores_that_cannot_be_are_refused_in_one_line(values):
    with pytest.raises(InputError, match="values must") as error:
        means.bca_interval(values)
    assert "\n" not in str(error.value)


def test_clustered_errors_equal_the_plain_one_when_every_cluster_has_one_value():
    values = np.random.default_rng(0).normal(size=30)
    plain = values.std(ddof=1) / np.sqrt(30)
    assert means.clustered_standard_error(values, range(30)) == pytest.approx((plain, 30))


def test_repeating_every_value_does_not_narrow_the_clustered_error():
    values = np.random.default_rng(0).normal(size=30)
    once = means.clustered_standard_error(values, range(30))
    repeated = means.clustered_standard_error(np.repeat(values, 5), np.repeat(range(30), 5))
    assert repeated == pytest.approx(once)


def test_the_clustered_interval_uses_students_t_and_stays_within_bounds():
    low, high = means.clustered_interval([0.1, 0.3, 0.2, 0.2, 0.6, 0.4], "aabbcc")
    # Cluster sums of the deviations are -.2, -.2, .4: the error is sqrt(3/2 * .24)/6 = .1, and t is 4.3027.
    assert (low, high) == pytest.approx((0.3 - 0.43027, 0.3 + 0.43027), abs=1e-5)
    assert means.clustered_interval([0, 1, 1, 1, 0, 0], "aabbcc", bounds=(0, 1)) == (0, 1)


def test_the_clustered_interval_never_has_zero_width():
    expected = proportions.wilson_interval(4, 4)
    assert means.clustered_interval([1] * 12, [1, 2, 3, 4] * 3, bounds=(0, 1)) == expected


def test_clusters_must_be_two_and_name_every_value():
    with pytest.raises(InputError, match="clusters must be at least two, got 1"):
        means.clustered_standard_error(np.array([1, 2]), "aa")
    with pytest.raises(InputError, match="clusters must be at least two, got 0"):
        means.clustered_interval([], "")
    with pytest.raises(InputError, match="one for each of the 2 values, got 3"):
        means.clustered_standard_error(np.array([1, 2]), "aab")


def test_sign_flips_are_exact_for_few_differences():
    assert means.sign_flip_p_value([0.2] * 5) == 2 / 32
    assert means.sign_flip_p_value([0.3, -0.1, 0.2]) == 4 / 8
    assert means.sign_flip_p_value([]) == means.sign_flip_p_value([0.0] * 30) == 1


def test_sign_flips_agree_with_scipy_for_many_differences():
    differences = np.random.default_rng(5).normal(0.08, 0.3, 60)
    reference = permutation_test(
        (differences,),
        lambda values, axis: np.abs(values.mean(axis=axis)),
        permutation_type="samples",
        alternative="greater",
        n_resamples=20_000,
        rng=1,
    ).pvalue
    assert means.sign_flip_p_value(differences, resamples=20_000) == pytest.approx(reference, abs=0.01)
    assert 0 < means.sign_flip_p_value([0.5] * 100) < 0.001


def test_sign_flips_of_clusters_flip_together():
    assert means.sign_flip_p_value([0.2] * 20, [i % 5 for i in range(20)]) == 2 / 32


def test_the_median_ratio_has_the_exact_interval_of_order_statistics():
    a = np.ones(10)
    assert means.ratio_interval(a, np.arange(1, 11)).low == 2  # ranks 2 and 9 of 10 at 95 %, as in tables
    assert means.ratio_interval(a, np.arange(1, 11)).high == 9
    assert means.ratio_interval([1] * 5, [2] * 5) == pytest.approx((2, 0, np.inf))
    assert means.ratio_interval([1] * 6, [2] * 6) == pytest.approx((2, 2, 2))
    assert np.isnan(means.ratio_interval([], []).median)


@given(st.lists(st.tuples(*[st.floats(0.001, 1000)] * 2), min_size=1, max_size=40))
def test_the_median_ratio_inverts_when_the_arms_swap(pairs):
    a, b = zip(*pairs, strict=True)
    median, low, high = means.ratio_interval(a, b)
    assert low <= median * (1 + 1e-9)
    assert median <= high * (1 + 1e-9)
    inverse = means.ratio_interval(b, a)
    assert inverse.median == pytest.approx(1 / median)
    assert inverse.high == pytest.approx(1 / low if low else np.inf)


@pytest.mark.parametrize(("a", "b"), [([1], [1, 2]), ([0], [1]), ([1], [-1]), ([1], [float("nan")])])
def test_ratios_need_positive_numbers_in_pairs(a, b):
    with pytest.raises(InputError, match="must be"):
        means.ratio_interval(a, b)


# Decisions


@pytest.mark.parametrize(
    ("low", "high", "margin", "verdict"),
    [
        (0.01, 0.20, 0.02, "B better"),
        (-0.20, -0.01, 0.02, "A better"),
        (-0.02, 0.02, 0.02, "no practical difference"),
        (0.005, 0.015, 0.02, "no practical difference"),  # the first that holds
        (-0.01, 0.03, 0.02, "inconclusive"),
        (0.0, 0.03, 0.02, "inconclusive"),
        (0.0, 0.0, 0.0, "no practical difference"),
        (float("nan"), float("nan"), 0.02, "inconclusive"),
    ],
)
def test_decisions_follow_the_first_rule_that_holds(low, high, margin, verdict):
    assert verdicts.decide(low, high, margin) == verdict


@pytest.mark.parametrize(
    ("low", "high", "margin"),
    [(0.2, 0.1, 0.02), (0.1, float("nan"), 0.02), (0, 1, -0.1), (0, 1, float("nan"))],
)
def test_decisions_need_an_interval_and_a_margin(low, high, margin):
    with pytest.raises(InputError):
        verdicts.decide(low, high, margin)


def test_holm_gives_the_textbook_values_in_the_order_given():
    assert verdicts.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert verdicts.holm([0.9, 0.6]) == [1.0, 1.0]
    assert verdicts.holm([]) == []
    with pytest.raises(InputError, match="p_values"):
        verdicts.holm([0.5, 1.5])


@given(st.lists(st.floats(0, 1), max_size=8), st.randoms())
def test_holm_never_lowers_a_p_value_and_does_not_depend_on_the_order(p_values, random):
    adjusted = verdicts.holm(p_values)
    assert all(p <= q <= 1 for p, q in zip(p_values, adjusted, strict=True))
    order = random.sample(range(len(p_values)), len(p_values))
    assert verdicts.holm([p_values[i] for i in order]) == [adjusted[i] for i in order]


def test_a_sample_ratio_mismatch_is_found_however_the_split_is_given():
    for split in (0.1, (0.9, 0.1), (9, 1), [9000.0, 1000.0]):
        assert_close(assignment.srm_p_value((8900, 1100), split), 0.00085812, digits=8)
    assert assignment.srm_p_value((9000, 1000), 0.1) == 1
    assert assignment.srm_p_value((0, 0), 0.5) == 1
    assert assignment.srm_p_value((30, 30, 60), (1, 1, 2)) == 1


@pytest.mark.parametrize(
    ("counts", "split"), [((1, 2), 1.0), ((1, 2), (1, 1, 1)), ((1, 2), (1, 0)), ((-1, 2), 0.5), ((5,), (1,))]
)
def test_counts_and_splits_that_do_not_fit_are_refused(counts, split):
    with pytest.raises(InputError):
        assignment.srm_p_value(counts, split)


# The module


@pytest.mark.heavy
def test_importing_the_statistics_brings_in_neither_numpy_nor_scipy():
    modules = "assignment, means, proportions, sample_sizes, verdicts"
    script = (
        f"import sys\nfrom dspy_nb.core.statistics import {modules}\n"
        "print({'numpy', 'scipy'} & set(sys.modules))"
    )
    root = ROOT
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=root)
    assert run.stdout.strip() == "set()"


def test_a_running_interval_is_wilsons_or_that_of_the_mean():
    running, wilson = means.running_interval, proportions.wilson_interval
    assert running(7, 7, 10, 10) == wilson(7, 10)
    assert running(14, 14, 20, 10) == wilson(7, 10)  # each of them twice
    assert running(2.5, 1.25, 5, 5) == means.bca_interval([0.5] * 5)
    scores = [0.2, 0.4, 0.6, 0.8] * 25
    found = running(sum(scores), sum(score**2 for score in scores), 100, 100)
    assert found == pytest.approx(means.bca_interval(scores), abs=0.01)
    assert running(0.0, 0.0, 3, 3)[0] == 0.0
