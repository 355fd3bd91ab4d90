"""The statistics against other computations of the same thing: scipy, exact fractions, brute force.

Inputs are drawn anew by hypothesis, so no table of expected values can be what agrees.
"""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.optimize import brentq, minimize_scalar
from scipy.special import xlogy
from scipy.stats import beta as beta_distribution
from scipy.stats import binomtest, chi2_contingency, chisquare, norm, quantile_test

from dspy_nb.core.errors import InputError
from dspy_nb.core.statistics import assignment, means, proportions, sample_sizes, sequences, two_arm, verdicts
from tests.properties import tries

few = tries(0.4)
confidences = st.sampled_from([0.8, 0.9, 0.95, 0.99, 0.999])
counts = st.integers(0, 40)


@st.composite
def rates(draw, minimum=1, maximum=120):
    n = draw(st.integers(minimum, maximum))
    return draw(st.integers(0, n)), n


# -- one rate, two arms -------------------------------------------------------------------------------------


@few
@given(rates(), confidences)
def test_wilson_is_scipys(rate, confidence):
    ours = proportions.wilson_interval(*rate, confidence)
    theirs = binomtest(*rate).proportion_ci(confidence, method="wilson")
    assert ours == pytest.approx((theirs.low, theirs.high), abs=1e-12)


@few
@given(rates(), rates())
def test_the_pooled_z_test_is_the_chi_square_test_without_correction(a, b):
    (x, m), (y, n) = a, b
    assume(0 < x + y < m + n)
    z, p = proportions.two_proportion_z(x, m, y, n)
    table = chi2_contingency([[x, m - x], [y, n - y]], correction=False)
    assert z**2 == pytest.approx(table.statistic, abs=1e-9)
    assert p == pytest.approx(table.pvalue, rel=1e-9)
    assert np.sign(z) == np.sign(Fraction(y, n) - Fraction(x, m))


@few
@given(rates(), rates(), confidences)
def test_newcombes_interval_squares_and_adds_the_distances_of_wilsons(a, b, confidence):
    (x, m), (y, n) = a, b
    ends_a = binomtest(x, m).proportion_ci(confidence, method="wilson")
    ends_b = binomtest(y, n).proportion_ci(confidence, method="wilson")
    d = x / m - y / n
    low = d - math.hypot(x / m - ends_a.low, ends_b.high - y / n)
    high = d + math.hypot(ends_a.high - x / m, y / n - ends_b.low)
    assert proportions.newcombe_interval(x, m, y, n, confidence) == pytest.approx((low, high), abs=1e-9)


@few
@given(rates(2, 60), rates(2, 60), confidences)
def test_miettinen_and_nurminens_interval_is_where_their_score_is_critical(a, b, confidence):
    (x, m), (y, n) = a, b
    z = norm.isf((1 - confidence) / 2)

    def score(d):
        def loss(q):
            p = q + d
            return -float(xlogy(x, p) + xlogy(m - x, 1 - p) + xlogy(y, q) + xlogy(n - y, 1 - q))

        ends = max(0.0, -d) + 1e-12, min(1.0, 1 - d) - 1e-12
        q = minimize_scalar(loss, bounds=ends, method="bounded", options={"xatol": 1e-11}).x
        variance = ((q + d) * (1 - q - d) / m + q * (1 - q) / n) * (m + n) / (m + n - 1)
        return (x / m - y / n - d) / math.sqrt(variance)

    for end, side in zip(
        proportions.miettinen_nurminen_interval(x, m, y, n, confidence), (1, -1), strict=True
    ):
        if abs(end) < 0.999:
            assert score(end) == pytest.approx(side * z, abs=5e-3)


@pytest.mark.parametrize("interval", [proportions.newcombe_interval, proportions.miettinen_nurminen_interval])
@pytest.mark.parametrize("counts", [(5, 5, 7, 7), (0, 5, 0, 7), (5, 5, 0, 7), (0, 5, 7, 7), (1, 1, 0, 1)])
@pytest.mark.parametrize("confidence", [0.9, 0.99])
def test_arms_that_all_succeed_or_all_fail_still_have_an_interval_with_a_width(interval, counts, confidence):
    low, high = interval(*counts, confidence)
    d = counts[0] / counts[1] - counts[2] / counts[3]
    assert -1 <= low <= d <= high <= 1
    assert high - low > 0.1
    narrower = interval(*counts, 0.8)
    assert low <= narrower[0] + 1e-12
    assert narrower[1] <= high + 1e-12


# -- paired answers -----------------------------------------------------------------------------------------


@few
@given(counts, counts, counts, counts)
def test_mcnemars_p_values_are_sums_of_exact_probabilities(both, a_only, b_only, neither):
    n, k = a_only + b_only, min(a_only, b_only)
    tail = Fraction(sum(math.comb(n, i) for i in range(k + 1)), 2**n)
    point = Fraction(math.comb(n, k), 2**n)
    exact_p, mid_p = proportions.mcnemar(both, a_only, b_only, neither)
    assert exact_p == pytest.approx(float(min(Fraction(1), 2 * tail)), rel=1e-12)
    # Half of the point in each tail; where the tails are one point, it is in both.
    expected = 1 - point / 2 if 2 * k == n else 2 * tail - point
    assert mid_p == pytest.approx(float(expected) if n else 1.0, rel=1e-12)


def test_mcnemar_gives_the_published_values_of_bentur_2009():
    # Fagerland, Lydersen and Laake (2013): airway hyper-responsiveness before and after transplantation
    test = proportions.mcnemar(both=1, a_only=1, b_only=7, neither=12)
    assert test.exact_p == pytest.approx(0.0703, abs=5e-5)
    assert test.mid_p == pytest.approx(0.0391, abs=5e-5)
    assert test._fields == ("exact_p", "mid_p")


def test_the_values_of_fagerland_lydersen_and_laake_2017_are_met_to_their_digits():
    # Statistical Analysis of Contingency Tables, as their R package contingencytables prints them
    assert proportions.wilson_interval(13, 16) == pytest.approx((0.5699, 0.9341), abs=5e-5)
    assert proportions.newcombe_interval(7, 34, 1, 34) == pytest.approx((0.0189, 0.3404), abs=5e-5)
    assert proportions.miettinen_nurminen_interval(0, 16, 15, 72) == pytest.approx(
        (-0.3164, -0.0056), abs=5e-5
    )
    z, p = proportions.two_proportion_z(1, 4, 3, 4)
    assert (z**2, p) == pytest.approx((2.0, 0.15730), abs=5e-6)
    exact_p, mid_p = proportions.mcnemar(0, 13, 3, 0)  # 13 of 16 against a half
    assert (exact_p, mid_p) == pytest.approx((0.02127, 0.01273), abs=5e-6)
    paired = proportions.paired_difference_interval(59, 6, 16, 80, method="newcombe")
    assert paired == pytest.approx((-0.1186, -0.0046), abs=5e-5)


@few
@given(counts, counts, counts, counts, confidences)
def test_tangos_interval_is_where_his_score_is_critical(both, a_only, b_only, neither, confidence):
    n = both + a_only + b_only + neither
    assume(n > 2)
    z = norm.isf((1 - confidence) / 2)

    def score(d):
        def loss(q):  # of the probabilities: A only q + d, B only q, the same the rest
            return -float(xlogy(a_only, q + d) + xlogy(b_only, q) + xlogy(both + neither, 1 - 2 * q - d))

        ends = max(0.0, -d), (1 - d) / 2
        q = minimize_scalar(loss, bounds=ends, method="bounded", options={"xatol": 1e-12}).x
        variance = n * (2 * q + d - d * d)
        return (a_only - b_only - n * d) / math.sqrt(max(variance, 1e-30))

    low, high = proportions.paired_difference_interval(both, a_only, b_only, neither, confidence)
    for end, side in ((low, 1), (high, -1)):
        if abs(end) < 0.999:
            assert score(end) == pytest.approx(side * z, rel=2e-3)


@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
@pytest.mark.parametrize("n", [1, 10, 100])
def test_without_disagreement_tangos_interval_has_its_closed_form(confidence, n):
    # d² n² = z² n d (1 - d) with q at its bound: d = z²/(n + z²)
    z2 = norm.isf((1 - confidence) / 2) ** 2
    low, high = proportions.paired_difference_interval(n, 0, 0, 0, confidence)
    assert (low, high) == pytest.approx((-z2 / (n + z2), z2 / (n + z2)), abs=1e-9)


@few
@given(counts, counts, counts, counts, confidences)
def test_newcombes_paired_interval_is_method_10(both, a_only, b_only, neither, confidence):
    n = both + a_only + b_only + neither
    assume(n > 0)
    x, y = both + a_only, both + b_only
    ends = [binomtest(k, n).proportion_ci(confidence, method="wilson") for k in (x, y)]
    margins = x * (n - x) * y * (n - y)
    c = both * neither - a_only * b_only
    c = max(c - n / 2, 0) if c > 0 else c
    phi = c / math.sqrt(margins) if margins else 0.0
    (la, ua), (lb, ub) = ((p.low, p.high) for p in ends)
    pa, pb = x / n, y / n
    down = math.sqrt(max(0, (pa - la) ** 2 - 2 * phi * (pa - la) * (ub - pb) + (ub - pb) ** 2))
    up = math.sqrt(max(0, (ua - pa) ** 2 - 2 * phi * (ua - pa) * (pb - lb) + (pb - lb) ** 2))
    ours = proportions.paired_difference_interval(both, a_only, b_only, neither, confidence, "newcombe")
    assert ours == pytest.approx((pa - pb - down, pa - pb + up), abs=1e-7)


# -- evidence -----------------------------------------------------------------------------------------------


@few
@given(st.integers(0, 60), st.integers(0, 60), st.integers(1, 5))
def test_the_paired_evalue_is_a_ratio_of_factorials(b, c, a):
    def beta(x, y):
        return Fraction(math.factorial(x - 1) * math.factorial(y - 1), math.factorial(x + y - 1))

    exact = beta(a + b, a + c) / beta(a, a) * 2 ** (b + c)
    assert sequences.paired_evalue(b, c, a) == pytest.approx(float(exact), rel=1e-9)


@pytest.mark.parametrize(("b", "c", "a"), [(12, 5, 3.0), (4, 9, 0.5), (30, 22, 7.3)])
def test_the_paired_evalue_is_the_mean_likelihood_ratio_over_the_prior(b, c, a):
    integral, _ = quad(
        lambda u: beta_distribution.pdf(u, a, a) * (2 * u) ** b * (2 * (1 - u)) ** c, 0, 1, epsabs=1e-12
    )
    assert sequences.paired_evalue(b, c, a) == pytest.approx(integral, rel=1e-6)


def naive_two_arm_wealth(units, m):
    """The wealth against a difference of m, one bet after the other, as the procedure is written down."""
    effects, shares = (0.01, 0.02, 0.04, 0.08, 0.15, 0.30), (0.05, 0.10, 0.20, 0.25, 0.25, 0.15)
    wealth = {(e, sign): share / 2 for e, share in zip(effects, shares, strict=True) for sign in (1, -1)}
    total = squares = 0.0
    for n, (is_b, y, p) in enumerate(units):
        c = (total + 2) / (n + 4)
        v = max((squares + 1) / (n + 4), 1e-4)
        x = (y - c) / p if is_b else -(y - c) / (1 - p)
        largest = max((1 - c) / p, c / (1 - p))
        smallest = -max(c / p, (1 - c) / (1 - p))
        for e, sign in wealth:
            most = 0.9 / ((m - smallest) if sign > 0 else (largest - m))
            bet = sign * min(e * p * (1 - p) / v, most)
            wealth[e, sign] *= 1 + bet * (x - m)
        total, squares = total + y, squares + (y - c) ** 2
    return sum(wealth.values())


@tries(0.15)
@given(st.integers(0, 10_000), st.sampled_from([0.1, 0.3, 0.5]), st.sampled_from([0.0, 0.2]))
def test_the_two_arm_sequence_is_the_procedure_step_by_step(seed, split, effect):
    rng = np.random.default_rng(seed)
    units = []
    for _ in range(250):
        is_b = bool(rng.random() < split)
        units.append((is_b, float(rng.random() < 0.5 + effect * is_b), split))
    sequence = two_arm.TwoArmSequence(0.95)
    best = dict.fromkeys((-0.4, -0.2, 0.0, 0.1, 0.3), 0.0)
    for k, unit in enumerate(units, 1):
        sequence.update(*unit)
        if k % 50 == 0:
            for m in best:
                best[m] = max(best[m], naive_two_arm_wealth(units[:k], m))
    assert 1 / sequence.p_value >= best[0.0] - 1e-9
    low, high = sequence.interval
    for m, wealth in best.items():
        if wealth >= 20 * 1.05:  # rejected by a clear margin: not inside, but for the width of a cell
            assert not low + 0.01 < m < high - 0.01


def test_the_two_arm_evidence_after_each_unit_is_the_procedures():
    rng = np.random.default_rng(4)
    units = [(bool(rng.random() < 0.3), float(rng.random()), 0.3) for _ in range(60)]
    sequence, largest = two_arm.TwoArmSequence(0.99), 1.0
    for k, unit in enumerate(units, 1):
        sequence.update(*unit)
        largest = max(largest, naive_two_arm_wealth(units[:k], 0.0))
        assert 1 / sequence.p_value == pytest.approx(largest, rel=1e-9)


@pytest.mark.parametrize("a_is_worse", [True, False])
def test_the_paired_interval_holds_exactly_the_means_that_are_not_rejected(a_is_worse):
    rng = np.random.default_rng(2)
    differences = rng.choice([-1, 0, 1], 150, p=[0.08, 0.6, 0.32] if a_is_worse else [0.32, 0.6, 0.08])

    u, width = (1 + np.arange(-0.9995, 1, 0.001)) / 2, 0.0005

    def largest_wealth(m):  # by numerical integration over the mixture, after each example
        mu = (1 + m) / 2
        weight = width * beta_distribution.pdf(u, 6 * mu, 6 * (1 - mu))
        x = (1 + differences[:, None]) / 2
        paths = np.cumsum(np.log(x * u / mu + (1 - x) * (1 - u) / (1 - mu)), axis=0)
        return float((np.exp(paths) * weight).sum(axis=1).max())

    low, high = sequences.PairedSequence(0.95, True).update_many(differences)
    ends = [
        brentq(lambda m: largest_wealth(m) - 20, outer, float(differences.mean())) for outer in (-0.95, 0.95)
    ]
    assert (low, high) == pytest.approx(ends, abs=0.011)  # the width of a cell of the grid
    assert low <= ends[0] + 1e-9
    assert ends[1] - 1e-9 <= high


# -- several at once, sizes, the rest -----------------------------------------------------------------------


@few
@given(st.lists(st.floats(0, 1), min_size=1, max_size=7))
def test_holm_is_the_closed_test_of_bonferroni(p_values):
    k = range(len(p_values))
    sets = [s for size in range(1, len(p_values) + 1) for s in itertools.combinations(k, size)]
    closed = [max(min(1, len(s) * min(p_values[j] for j in s)) for s in sets if i in s) for i in k]
    assert verdicts.holm(p_values) == pytest.approx(closed)


@few
@given(st.floats(0.01, 0.5), st.floats(0.05, 1), st.floats(0.5, 0.99), confidences)
def test_paired_sizes_are_the_least_with_their_power(effect, discordance, power, confidence):
    assume(effect < discordance)
    z = norm.isf((1 - confidence) / 2)

    def power_at(n):
        return norm.cdf(
            (math.sqrt(n) * effect - z * math.sqrt(discordance)) / math.sqrt(discordance - effect**2)
        )

    n = sample_sizes.sample_size_paired(effect, discordance, power, confidence)
    assert power_at(n) >= power - 1e-9
    assert n == 1 or power_at(n - 1) < power + 1e-9


@few
@given(st.floats(0, 1), st.floats(0, 1), st.floats(0.5, 0.99), confidences, st.sampled_from([0.25, 1, 3, 9]))
def test_unpaired_sizes_are_the_least_with_their_power(p_a, p_b, power, confidence, ratio):
    assume(abs(p_a - p_b) > 0.01)
    z = norm.isf((1 - confidence) / 2)

    def power_at(n_b):
        n_a = ratio * n_b
        pooled = (n_a * p_a + n_b * p_b) / (n_a + n_b)
        at_null = math.sqrt(pooled * (1 - pooled) * (1 / n_a + 1 / n_b))
        at_effect = math.sqrt(p_a * (1 - p_a) / n_a + p_b * (1 - p_b) / n_b)
        gap = abs(p_a - p_b) - z * at_null
        return norm.cdf(gap / at_effect) if at_effect else float(gap >= 0)

    n = sample_sizes.sample_size_unpaired(p_a, p_b, power, confidence, ratio)
    assert power_at(n) >= power - 1e-9
    assert n == 1 or power_at(n - 1) < power + 1e-9


def test_a_power_of_80_percent_is_what_it_says_when_simulated():
    n = sample_sizes.sample_size_paired(0.1, 0.3, 0.8, 0.95)
    rng = np.random.default_rng(0)
    wins = rng.multinomial(n, [0.2, 0.1, 0.7], size=20_000)
    z = (wins[:, 0] - wins[:, 1]) / np.sqrt(wins[:, 0] + wins[:, 1])
    assert np.mean(np.abs(z) > 1.959964) == pytest.approx(0.81, abs=0.01)  # .810 in exact enumeration


@few
@given(st.lists(st.integers(0, 3000), min_size=2, max_size=5), st.data())
def test_a_sample_ratio_mismatch_is_scipys_chi_square(seen, data):
    assume(sum(seen) > 0)
    shares = data.draw(st.lists(st.floats(0.01, 1), min_size=len(seen), max_size=len(seen)))
    expected = np.array(shares) / sum(shares) * sum(seen)
    assert assignment.srm_p_value(seen, shares) == pytest.approx(chisquare(seen, expected).pvalue, rel=1e-6)


@few
@given(st.lists(st.floats(0.01, 100), min_size=6, max_size=60, unique=True))
def test_the_interval_of_a_median_ratio_is_scipys(ratios):
    _, low, high = means.ratio_interval([1.0] * len(ratios), ratios)
    theirs = quantile_test(ratios, p=0.5).confidence_interval(0.95)
    assert (low, high) == pytest.approx((theirs.low, theirs.high), rel=1e-12)


@few
@given(st.lists(st.integers(-20, 20), min_size=1, max_size=9))
def test_sign_flips_are_counted_out(twentieths):
    differences = [k / 20 for k in twentieths]
    signs = itertools.product((1, -1), repeat=len(differences))
    observed = abs(math.fsum(differences))
    as_far = [
        abs(math.fsum(s * d for s, d in zip(sign, differences, strict=True))) >= observed - 1e-9
        for sign in signs
    ]
    assert means.sign_flip_p_value(differences) == pytest.approx(np.mean(as_far))


# -- how they are called ------------------------------------------------------------------------------------


def test_everything_is_called_by_position_as_it_is_documented():
    assert proportions.two_proportion_z(120, 200, 140, 200)._fields == ("z", "p_value")
    assert proportions.paired_difference_interval(59, 6, 16, 80, 0.95, "tango")[0] < 0
    assert sample_sizes.sample_size_unpaired(0.6, 0.7, 0.8, 0.95, 1) == 356
    assert sample_sizes.sample_size_paired(0.1, 0.3, 0.8, 0.95) == 234
    assert sequences.paired_evalue(10, 0, 3.0) > 20
    paired, arms = sequences.PairedSequence(0.95, True), two_arm.TwoArmSequence(0.95)
    assert paired.update(1) == paired.interval
    assert arms.update(True, 1.0, 0.5) == arms.interval
    assert paired.p_value == pytest.approx(1)
    assert arms.p_value == 1
    with pytest.raises(InputError):
        sample_sizes.sample_size_paired(0.4, 0.3, 0.8, 0.95)
