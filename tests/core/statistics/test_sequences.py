"""Tests of the anytime-valid sequences: their values, what always holds, and how often they are wrong."""

from __future__ import annotations

import json
import math
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import betaln
from scipy.stats import binom

from dspy_nb.core.errors import InputError
from dspy_nb.core.statistics.sequences import PairedSequence, paired_evalue
from dspy_nb.core.statistics.two_arm import TwoArmSequence
from dspy_nb.core.statistics.verdicts import decide
from tests.properties import tries

few = tries(0.4)
wins = st.lists(st.sampled_from([-1, 0, 1]), max_size=120)
graded = st.lists(st.floats(-1, 1), max_size=60)
outcomes = st.lists(
    st.tuples(st.booleans(), st.sampled_from([0.0, 0.5, 1.0]), st.sampled_from([0.1, 0.3, 0.5])), max_size=80
)


def sequence_of(kind):
    return {
        "wins": lambda: PairedSequence(),
        "graded": lambda: PairedSequence(binary=False),
        "arms": lambda: TwoArmSequence(),
    }[kind]()


def add(sequence, kind, items):
    """Add items in one go."""
    if kind == "arms":
        columns = list(zip(*items, strict=True)) or [(), (), ()]
        return sequence.update_many(*columns)
    return sequence.update_many(items)


def items_of(kind, n, seed=0):
    rng = np.random.default_rng(seed)
    if kind == "wins":
        return [int(d) for d in rng.choice([-1, 0, 1], n, p=[0.1, 0.6, 0.3])]
    if kind == "graded":
        return [float(d) for d in np.clip(rng.normal(0.1, 0.3, n), -1, 1)]
    return [(bool(rng.random() < 0.4), float(rng.random() < 0.7), 0.4) for _ in range(n)]


KINDS = ["wins", "graded", "arms"]


# Values


@pytest.mark.parametrize(("b", "c", "expected"), [(10, 0, 22.505495), (15, 5, 3.635587), (17, 3, 29.604066)])
def test_evalues_are_those_of_the_acceptance_table(b, c, expected):
    assert paired_evalue(b, c) == pytest.approx(expected, abs=6e-7)  # the third is 29.6040654997
    assert paired_evalue(c, b, a=3.0) == paired_evalue(b, c)


@pytest.mark.parametrize(
    ("disagreements", "fewest"), [(9, None), (10, 10), (20, 17), (50, 36), (100, 66), (200, 123)]
)
def test_the_fewest_wins_that_decide_are_those_of_the_acceptance_table(disagreements, fewest):
    deciding = [b for b in range(disagreements + 1) if paired_evalue(b, disagreements - b) >= 20]
    more_than_half = [b for b in deciding if 2 * b > disagreements]
    assert min(more_than_half, default=None) == fewest


def test_evalues_of_any_size_are_finite_or_infinite_but_never_an_error():
    assert paired_evalue(0, 0) == 1
    assert paired_evalue(10_000, 0) == math.inf
    assert 0 < paired_evalue(500_000, 500_000) < 1


def test_the_two_arm_wealth_against_no_difference_is_that_of_the_acceptance_table():
    sequence = TwoArmSequence()
    for _ in range(20):
        sequence.update(True, 1, 0.5)
        sequence.update(False, 0, 0.5)
    assert 1 / sequence.p_value == pytest.approx(1918.406454, abs=5e-7)
    assert sequence.n == 40


def test_ten_wins_in_a_row_decide_and_nine_do_not():
    sequence = PairedSequence()
    for _ in range(9):
        low, high = sequence.update(1)
        assert low < 0 < high
    low, _ = sequence.update(1)
    assert low > 0
    assert sequence.p_value == pytest.approx(1 / 22.505495)


def log_wealth_of(sequence):
    """Return the log-wealth against each cell that is tracked, and the index of that of 0 alone."""
    return np.logaddexp.reduce(sequence._log_wealth, axis=1), np.flatnonzero(
        sequence._rows == sequence._zero
    )[0]


@pytest.mark.parametrize("a_wins_first", [False, True])
def test_the_wealth_against_a_mean_is_the_integral_over_the_beta_mixture(a_wins_first):
    b, c, ties = 14, 6, 30
    differences = [1] * b + [-1] * c + [0] * ties
    sequence = PairedSequence(confidence=1 - 1e-15)  # rejects nothing here but the ends
    sequence.update_many(differences[::-1] if a_wins_first else differences)
    low, high = sequence._cells.low[sequence._rows], sequence._cells.high[sequence._rows]
    mu = (1 + np.where(high <= 0, high, low)) / 2
    # Exact: expand the ties, (u/2μ + (1-u)/2(1-μ))^ties, and integrate term by term.
    k = np.arange(ties + 1)[:, None]
    choose = -betaln(k + 1, ties - k + 1) - np.log(ties + 1)
    terms = choose + betaln(6 * mu + b + k, 6 * (1 - mu) + c + ties - k) - betaln(6 * mu, 6 * (1 - mu))
    terms -= (b + k) * np.log(mu) + (c + ties - k) * np.log(1 - mu) + ties * np.log(2)
    exact = np.logaddexp.reduce(terms, axis=0)
    ours, zero = log_wealth_of(sequence)
    assert ours[zero] == pytest.approx(exact[zero], abs=1e-9)
    assert exact[zero] == pytest.approx(math.log(paired_evalue(b, c)), abs=1e-9)
    against_it = (high <= 0) | (low >= 0.3)  # where the bets that win are made against the edge nearer to 0
    np.testing.assert_allclose(ours[against_it], exact[against_it], atol=0.05)


# What always holds


@few
@given(wins)
def test_the_paired_p_value_is_one_over_the_largest_evalue(differences):
    sequence = PairedSequence()
    largest = 1.0
    b = c = 0
    for difference in differences:
        sequence.update(difference)
        b, c = b + (difference > 0), c + (difference < 0)
        largest = max(largest, paired_evalue(b, c))
        assert sequence.p_value == pytest.approx(1 / largest, rel=1e-9)
    assert (sequence.n, sequence.b_wins, sequence.a_wins) == (len(differences), b, c)


@few
@given(wins, graded, outcomes, st.integers(1, 30))
def test_adding_many_is_adding_one_after_the_other(differences, scores, units, size):
    for kind, items in zip(KINDS, (differences, scores, units), strict=True):
        singly, together = sequence_of(kind), sequence_of(kind)
        for item in items:
            singly.update(*item) if kind == "arms" else singly.update(item)
        for start in range(0, len(items), size):
            add(together, kind, items[start : start + size])
        assert together.interval == singly.interval
        assert together.p_value == pytest.approx(singly.p_value)
        assert together.n == singly.n


@few
@given(wins, graded, outcomes)
def test_intervals_only_ever_shrink_and_exclude_0_only_with_a_small_p_value(differences, scores, units):
    for kind, items in zip(KINDS, (differences, scores, units), strict=True):
        sequence = sequence_of(kind)
        low, high = sequence.interval
        assert (low, high) == (-1, 1)
        for item in items:
            new_low, new_high = add(sequence, kind, [item])
            if math.isnan(new_low):
                assert math.isnan(new_high)
                break
            assert low <= new_low <= new_high <= high
            low, high = new_low, new_high
            if not low <= 0 <= high:
                assert sequence.p_value <= 0.05 + 1e-12


@few
@given(graded)
def test_swapping_programs_mirrors_the_paired_interval(scores):
    there, back = PairedSequence(binary=False), PairedSequence(binary=False)
    low, high = there.update_many(scores)
    assert back.update_many([-score for score in scores]) == pytest.approx((-high, -low), nan_ok=True)
    assert back.p_value == pytest.approx(there.p_value, rel=1e-6)


@few
@given(outcomes)
def test_swapping_arms_mirrors_the_two_arm_interval(units):
    there, back = TwoArmSequence(), TwoArmSequence()
    low, high = add(there, "arms", units)
    swapped = add(back, "arms", [(not is_b, outcome, 1 - split) for is_b, outcome, split in units])
    assert swapped == pytest.approx((-high, -low), nan_ok=True)
    assert back.p_value == pytest.approx(there.p_value)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [0, 5, 400])
def test_a_sequence_goes_on_from_its_saved_state_exactly(kind, n):
    sequence = sequence_of(kind)
    items = items_of(kind, n + 50)
    add(sequence, kind, items[:n])
    restored = type(sequence).from_state(json.loads(json.dumps(sequence.to_state(), allow_nan=False)))
    pickled = pickle.loads(pickle.dumps(sequence))
    for other in (sequence, restored, pickled):
        add(other, kind, items[n:])
        assert other.to_state() == sequence.to_state()
        assert (other.interval, other.p_value, other.n) == (sequence.interval, sequence.p_value, n + 50)


def test_extra_points_survive_saving_and_let_a_margin_off_the_grid_be_decided():
    rng = np.random.default_rng(1)
    differences = rng.choice([-1, 0, 1], 6000, p=[0.02, 0.96, 0.02])
    margin = 0.015
    sequence = PairedSequence(points=(-margin, margin))
    sequence.update_many(differences[:3000])
    sequence = PairedSequence.from_state(sequence.to_state())
    assert decide(*sequence.update_many(differences[3000:]), margin) == "no practical difference"


def test_order_does_not_change_what_paired_wins_amount_to_in_the_end():
    differences = items_of("wins", 200)
    there, back = PairedSequence(confidence=0.999999), PairedSequence(confidence=0.999999)
    there.update_many(differences)
    back.update_many(differences[::-1])
    (wealth, zero), (wealth_back, zero_back) = log_wealth_of(there), log_wealth_of(back)
    assert wealth[zero] == pytest.approx(wealth_back[zero_back], rel=1e-9)


@pytest.mark.parametrize("effect", [-0.2, 0.1, 0.2])
def test_the_interval_excludes_0_with_the_example_that_makes_p_small(effect):
    rng = np.random.default_rng(9)
    sequence = PairedSequence()
    for difference in rng.choice([-1, 0, 1], 3000, p=[(0.3 - effect) / 2, 0.7, (0.3 + effect) / 2]):
        low, high = sequence.update(difference)
        assert (sequence.p_value <= 0.05 + 1e-12) == (low > 0 or high < 0)


def test_a_stronger_confidence_gives_a_wider_interval():
    differences = items_of("wins", 300)
    low, high = PairedSequence(0.95).update_many(differences)
    wider_low, wider_high = PairedSequence(0.99).update_many(differences)
    assert wider_low <= low <= high <= wider_high


def test_a_violated_assumption_ends_in_an_empty_interval_that_decides_nothing():
    sequence = PairedSequence()
    low, high = sequence.update_many([1] * 400 + [-1] * 4000)  # A starts winning: no constant difference
    assert math.isnan(low)
    assert math.isnan(high)
    assert decide(low, high, 0.02) == "inconclusive"
    assert sequence.p_value < 1e-9


def test_many_wins_overflow_nothing():
    sequence = PairedSequence()
    low, high = sequence.update_many(np.ones(100_000))
    assert low > 0.98
    assert high == 1
    assert 0 < sequence.p_value < 1e-300


@pytest.mark.parametrize("truth", [-0.995, -0.105, 0.005, 0.055, 0.995])
def test_a_difference_between_two_points_of_the_grid_is_never_lost(truth):
    rng = np.random.default_rng(6)
    scores = truth + 0.004 * rng.choice([-1, 1], 30_000)
    low, high = PairedSequence(binary=False).update_many(scores)
    assert low < truth < high
    assert high - low <= 0.01
    is_b = rng.random(100_000) < 0.5
    rate = (1 - abs(truth)) / 2
    outcomes = rng.random(len(is_b)) < np.where(is_b == (truth > 0), rate + abs(truth), rate)
    low, high = TwoArmSequence().update_many(is_b, outcomes, np.full(len(is_b), 0.5))
    assert low < truth < high


# Input


@pytest.mark.parametrize("difference", [1.5, -2, float("nan"), float("inf"), "1", None, 0.5])
def test_differences_of_yes_no_scores_that_cannot_be_are_refused_and_change_nothing(difference):
    sequence = PairedSequence()
    with pytest.raises(InputError, match=r"differences must be whole numbers in \[-1, 1\]") as error:
        sequence.update_many([1, difference])
    assert "\n" not in str(error.value)
    assert sequence.n == 0


def test_graded_differences_may_be_fractions_but_not_percentages():
    sequence = PairedSequence(binary=False)
    sequence.update(0.5)
    with pytest.raises(InputError, match="got 40 at index 0"):
        sequence.update(40)


@pytest.mark.parametrize(
    ("is_b", "outcome", "split"),
    [
        (True, 1.5, 0.5),
        (True, float("nan"), 0.5),
        (True, 1, 0),
        (False, 1, 1),
        (0.5, 1, 0.5),
        (True, None, 0.5),
    ],
)
def test_outcomes_and_splits_that_cannot_be_are_refused_and_change_nothing(is_b, outcome, split):
    sequence = TwoArmSequence()
    with pytest.raises(InputError):
        sequence.update(is_b, outcome, split)
    assert sequence.n == 0


def test_columns_of_unequal_length_are_refused():
    with pytest.raises(InputError, match="as many, got 1, 2, 1"):
        TwoArmSequence().update_many([True], [1, 0], [0.5])


@pytest.mark.parametrize("make", [PairedSequence, TwoArmSequence])
def test_a_confidence_or_a_point_out_of_range_is_refused(make):
    with pytest.raises(InputError, match="confidence"):
        make(95)
    with pytest.raises(InputError, match="points"):
        make(points=[1.5])


def test_nothing_added_says_nothing():
    for kind in KINDS:
        sequence = sequence_of(kind)
        assert add(sequence, kind, []) == (-1, 1)
        assert sequence.p_value == 1


# How often they are wrong, looking after every observation. The short versions stop at fewer observations and
# runs; a binomial test with an error of 1e-4 allows for their chance.


def rate_of_false_alarms(kind, draw, runs, seed, truth=0.0):
    """Return the number of runs whose interval ever leaves out the true difference."""
    rng = np.random.default_rng(seed)
    wrong = 0
    for _ in range(runs):
        sequence = sequence_of(kind)
        interval = sequence.update_many(*draw(rng))
        wrong += not interval[0] <= truth <= interval[1]
    return wrong


def paired_wins(n, effect=0.0, discordance=0.3):
    shares = [(discordance - effect) / 2, 1 - discordance, (discordance + effect) / 2]
    return lambda rng: (rng.choice([-1, 0, 1], n, p=shares),)


def paired_scores(n):
    """Half of the scores agree; else B gains a little often, or loses much rarely; the mean is 0."""
    return lambda rng: (rng.choice([0, 0.1, -0.9], n, p=[0.5, 0.45, 0.05]),)


def arms(n, split, rate_a, rate_b):
    def draw(rng):
        is_b = rng.random(n) < split
        return is_b, rng.random(n) < np.where(is_b, rate_b, rate_a), np.full(n, split)

    return draw


def graded_arms(n, split):
    """Both arms score low often and high rarely."""

    def draw(rng):
        return rng.random(n) < split, rng.beta(0.5, 2, n), np.full(n, split)

    return draw


def ramp_while_rates_fall(n):
    """The split goes from 5 to 50 % while the success rate of both arms falls from .9 to .3."""

    def draw(rng):
        split = np.linspace(0.05, 0.5, n)
        return rng.random(n) < split, rng.random(n) < np.linspace(0.9, 0.3, n), split

    return draw


SCENARIOS = {
    "paired wins": ("wins", paired_wins, 0.0),
    "paired wins with an effect": ("wins", lambda n: paired_wins(n, effect=0.1), 0.1),
    "paired scores": ("graded", paired_scores, 0.0),
    "even split": ("arms", lambda n: arms(n, 0.5, 0.6, 0.6), 0.0),
    "even split with an effect": ("arms", lambda n: arms(n, 0.5, 0.5, 0.7), 0.2),
    "split of .1 at a base of .95": ("arms", lambda n: arms(n, 0.1, 0.95, 0.95), 0.0),
    "graded outcomes, even split": ("arms", lambda n: graded_arms(n, 0.5), 0.0),
    "graded outcomes, split of .1": ("arms", lambda n: graded_arms(n, 0.1), 0.0),
    "ramped split with drift": ("arms", ramp_while_rates_fall, 0.0),
}


@pytest.mark.parametrize("name", SCENARIOS)
def test_looking_after_every_observation_stays_within_the_error_rate(name):
    kind, draw, truth = SCENARIOS[name]
    wrong = rate_of_false_alarms(kind, draw(200), runs=40, seed=7, truth=truth)
    assert wrong <= binom.ppf(1 - 1e-4, 40, 0.05)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", SCENARIOS)
def test_looking_2000_times_stays_within_the_error_rate(name):
    kind, draw, truth = SCENARIOS[name]
    wrong = rate_of_false_alarms(kind, draw(2000), runs=2000, seed=8, truth=truth)
    print(f"{name}: {wrong / 2000:.1%}")
    assert wrong <= 0.05 * 2000


def evidence_of_runs(runs, n, effect, seed):
    """Return log e-values after each of n examples, with 70 % agreement, shape (runs, n)."""
    rng = np.random.default_rng(seed)
    uniform = rng.random((runs, n))
    b = np.cumsum(uniform < (0.3 + effect) / 2, axis=1)
    c = np.cumsum(uniform > 1 - (0.3 - effect) / 2, axis=1)
    return betaln(3 + b, 3 + c) - betaln(3, 3) + (b + c) * np.log(2)


@pytest.mark.parametrize("runs", [2000, pytest.param(20_000, marks=pytest.mark.slow)])
def test_the_evalue_is_rarely_wrong(runs):
    ever = (evidence_of_runs(runs, 1000 if runs == 2000 else 2000, 0.0, seed=1) >= np.log(20)).any(axis=1)
    assert ever.mean() <= 0.05


@pytest.mark.parametrize(("effect", "median", "n"), [(0.05, 909, 4000), (0.10, 216, 1500), (0.20, 61, 500)])
def test_the_evalue_decides_at_the_median_size_of_the_table(effect, median, n):
    decided = np.argmax(evidence_of_runs(1500, n, effect, seed=2) >= np.log(20), axis=1) + 1
    assert np.median(decided) == pytest.approx(median, rel=0.1)


def size_at_verdict(kind, draw, block, rng):
    """Return the observations until the interval leaves out 0, counted in blocks."""
    sequence = sequence_of(kind)
    columns = draw(rng)
    for start in range(0, len(columns[0]), block):
        low, high = sequence.update_many(*(column[start : start + block] for column in columns))
        if not low <= 0 <= high:
            return sequence.n
    return math.inf


@pytest.mark.parametrize("runs", [60, pytest.param(1000, marks=pytest.mark.slow)])
def test_the_paired_interval_decides_when_the_evalue_does(runs):
    rng = np.random.default_rng(3)
    sizes = [size_at_verdict("wins", paired_wins(1000, effect=0.2), 1, rng) for _ in range(runs)]
    assert np.median(sizes) == pytest.approx(61, rel=0.1 if runs == 1000 else 0.4)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("split", "effect", "median"),
    [
        (0.5, 0.05, 2644),
        (0.5, 0.10, 712),
        (0.5, 0.20, 176),
        (0.1, 0.05, 8440),
        (0.1, 0.10, 1965),
        (0.1, 0.20, 510),
    ],
)
def test_two_arms_decide_at_the_median_size_of_the_table(split, effect, median):
    rng = np.random.default_rng(4)
    draw = arms(10 * median, split, 0.6, 0.6 + effect)
    runs = 2000 if median < 1000 else 600  # a median of 600 runs has a standard error of 4 %
    sizes = [size_at_verdict("arms", draw, max(1, median // 100), rng) for _ in range(runs)]
    print(f"split {split}, effect {effect}: median {np.median(sizes)}")
    assert np.median(sizes) == pytest.approx(median, rel=0.1)


def verdict_of(differences, margin):
    sequence = PairedSequence()
    for start in range(0, len(differences), 10):
        interval = sequence.update_many(differences[start : start + 10])
        verdict = decide(*interval, margin)
        if verdict != "inconclusive":
            return verdict, sequence.n
    return verdict, sequence.n


@pytest.mark.parametrize("runs", [40, pytest.param(600, marks=pytest.mark.slow)])
def test_equal_programs_end_early_as_no_practical_difference(runs):
    rng = np.random.default_rng(5)
    verdicts = [verdict_of(*paired_wins(4000)(rng), margin=0.10) for _ in range(runs)]
    assert sum(verdict == "no practical difference" for verdict, _ in verdicts) >= 0.9 * runs
    assert np.median([n for _, n in verdicts]) == pytest.approx(353, rel=0.1 if runs == 600 else 0.4)
