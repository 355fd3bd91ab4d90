"""How many more it takes: the figure against what the very sequence then took."""

import math
import statistics
from functools import cache
from typing import NamedTuple

import numpy as np
import pytest

from dspy_nb.core.statistics.forecast import more_examples, more_units
from dspy_nb.core.statistics.sequences import PairedSequence
from dspy_nb.core.statistics.two_arm import TwoArmSequence
from dspy_nb.core.statistics.verdicts import decide

_BLOCK = 64
_MOST = 60_000  # a comparison that takes longer counts as this long


def ends(margin):
    return (-margin, margin) if margin else ()


class Paired(NamedTuple):
    """Differences of -1, 0 or 1, or graded ones: normal, within [-1, 1]."""

    n: int
    margin: float = 0.0
    b_wins: float = 0.0
    a_wins: float = 0.0
    graded: tuple[float, float] | None = None
    confidence: float = 0.95

    def begin(self):
        return PairedSequence(self.confidence, self.graded is None, points=ends(self.margin))

    def draw(self, rng, n):
        if self.graded:
            return (np.clip(rng.normal(*self.graded, n), -1, 1),)
        shares = [self.b_wins, self.a_wins, 1 - self.b_wins - self.a_wins]
        return (rng.choice([1.0, -1.0, 0.0], p=shares, size=n),)

    def said(self, sequence, answers):
        return more_examples(sequence, answers[0], self.margin)


class TwoArm(NamedTuple):
    """Outcomes of two arms: yes or no, or graded ones with these means."""

    n: int
    rates: tuple[float, float]
    split: float
    margin: float = 0.0
    graded: bool = False
    confidence: float = 0.95

    def begin(self):
        return TwoArmSequence(self.confidence, points=ends(self.margin))

    def draw(self, rng, n):
        is_b = rng.random(n) < self.split
        rate = np.where(is_b, *self.rates[::-1])
        outcome = rng.beta(5 * rate, 5 * (1 - rate)) if self.graded else rng.random(n) < rate
        return is_b, outcome.astype(float), np.full(n, self.split)

    def said(self, sequence, answers):
        is_b, outcome, _ = answers
        units = int((~is_b).sum()), int(is_b.sum())
        totals = float(outcome[~is_b].sum()), float(outcome[is_b].sum())
        return more_units(sequence, units, totals, self.split, self.margin, graded=self.graded)


def needed(scenario, sequence, rng):
    """Go on with the sequence until it decides, and return after how many more it did."""
    while sequence.n < scenario.n + _MOST:
        before, answers = sequence.to_state(), scenario.draw(rng, _BLOCK)
        if decide(*sequence.update_many(*answers), scenario.margin) == "inconclusive":
            continue
        sequence = type(sequence).from_state(before)
        for one in zip(*answers, strict=True):
            if decide(*sequence.update(*one), scenario.margin) != "inconclusive":
                break
        return sequence.n - scenario.n
    return _MOST


def ratios(scenario, comparisons, seed=14):
    """Return needed over said of so many comparisons that have no verdict after ``n``."""
    rng = np.random.default_rng(seed)
    found = []
    while len(found) < comparisons:
        sequence, answers = scenario.begin(), scenario.draw(rng, scenario.n)
        if decide(*sequence.update_many(*answers), scenario.margin) == "inconclusive":
            said = scenario.said(sequence, answers)
            found.append(needed(scenario, sequence, rng) / (math.inf if said is None else said))
    return found


# Each stops where most have no verdict yet: of those few that are left when most have one, the figure is up to a
# third too large, for they saw the least of the difference.
_DEAR = pytest.mark.slow
SCENARIOS = [
    pytest.param(Paired(60, b_wins=0.2, a_wins=0.1), id="ten points, after 60"),
    pytest.param(Paired(100, b_wins=0.2, a_wins=0.1), id="ten points, after 100"),
    pytest.param(Paired(150, b_wins=0.2, a_wins=0.1), id="ten points, after 150"),
    pytest.param(Paired(60, b_wins=0.25, a_wins=0.05), id="twenty points, after 60"),
    pytest.param(Paired(100, 0.02, 0.2, 0.1), id="ten points with a margin"),
    pytest.param(Paired(60, b_wins=0.1, a_wins=0.2, confidence=0.975), id="one of two candidates"),
    pytest.param(Paired(100, 0.05, 0.05, 0.05), id="as good, one in ten differs"),
    pytest.param(Paired(200, 0.02, 0.02, 0.02), id="as good, one in 25 differs", marks=_DEAR),
    pytest.param(Paired(400, 0.05, 0.15, 0.15), id="as good, three in ten differ", marks=_DEAR),
    pytest.param(Paired(40, graded=(0.05, 0.2)), id="graded, five points", marks=_DEAR),
    pytest.param(Paired(40, graded=(0.1, 0.3)), id="graded, ten points"),
    pytest.param(Paired(60, 0.05, graded=(0.0, 0.2)), id="graded, as good", marks=_DEAR),
    pytest.param(TwoArm(100, (0.6, 0.8), 0.5), id="two arms, twenty points, half"),
    pytest.param(TwoArm(200, (0.6, 0.8), 0.1), id="two arms, twenty points, a tenth"),
    pytest.param(TwoArm(300, (0.6, 0.7), 0.5), id="two arms, ten points, half"),
    pytest.param(TwoArm(100, (0.6, 0.7), 0.5, graded=True), id="two arms, graded"),
    pytest.param(TwoArm(500, (0.9, 0.9), 0.5, 0.05), id="two arms, as good"),
]


@pytest.mark.slow
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_of_200_comparisons_the_median_takes_what_was_said(scenario):
    found = ratios(scenario, 200)
    print(f"needed over said, median of 200: {statistics.median(found):.2f}")
    assert 0.8 <= statistics.median(found) <= 1.25


@cache
def a_few(scenario):
    return ratios(scenario, 12)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_few_comparisons_of_a_kind_take_about_what_was_said(scenario):
    assert 0.4 <= statistics.median(a_few(scenario)) <= 2.5  # a median of so few is rough


def test_of_150_comparisons_of_most_kinds_the_median_takes_what_was_said():
    found = [ratio for scenario in SCENARIOS if not scenario.marks for ratio in a_few(scenario.values[0])]
    assert len(found) >= 150
    assert 0.8 <= statistics.median(found) <= 1.25


@pytest.mark.parametrize("margin", [0.02, 0.05, 0.015])
@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("n", [1, 5, 50])
def test_of_identical_programs_it_is_exactly_what_it_takes(margin, binary, n):
    sequence = PairedSequence(binary=binary, points=(-margin, margin))
    sequence.update_many([0.0] * n)
    said = more_examples(sequence, [0.0] * n, margin)
    sequence.update_many([0.0] * (said - 1))
    assert decide(*sequence.interval, margin) == "inconclusive"
    sequence.update(0.0)
    assert decide(*sequence.interval, margin) == "no practical difference"


@pytest.mark.parametrize(("binary", "difference"), [(True, 1.0), (True, -1.0), (False, 0.3), (False, -0.3)])
def test_where_one_always_wins_it_is_exactly_what_it_takes(binary, difference):
    sequence = PairedSequence(binary=binary)
    sequence.update_many([difference] * 3)
    said = more_examples(sequence, [difference] * 3, 0.0)
    sequence.update_many([difference] * (said - 1))
    assert decide(*sequence.interval, 0.0) == "inconclusive"
    assert decide(*sequence.update(difference), 0.0) != "inconclusive"


@pytest.mark.parametrize("differences", [[], [0.0] * 30, [1.0, -1.0] * 20, [1.0, 0.0, -1.0]])
def test_without_a_difference_or_a_margin_nothing_can_be_said(differences):
    sequence = PairedSequence()
    sequence.update_many(differences)
    assert more_examples(sequence, differences, 0.0) is None


def test_where_no_verdict_is_in_sight_nothing_is_said():
    differences = [0.0] * 50
    sequence = PairedSequence(points=(-1e-7, 1e-7))
    sequence.update_many(differences)
    assert more_examples(sequence, differences, 1e-7) is None


def test_an_empty_arm_or_arms_that_do_as_well_say_nothing():
    sequence = TwoArmSequence()
    sequence.update_many([True] * 4, [1.0] * 4, [0.5] * 4)
    assert more_units(sequence, (0, 4), (0.0, 4.0), 0.5, 0.0) is None
    sequence.update_many([False] * 4, [1.0] * 4, [0.5] * 4)
    assert more_units(sequence, (4, 4), (4.0, 4.0), 0.5, 0.0) is None


def test_the_first_few_examples_already_give_a_figure():
    for differences in ([1.0, 0.0], [0.0, 1.0, 1.0, -1.0], [0.0, 0.0, 0.0, 1.0]):
        sequence = PairedSequence(points=(-0.02, 0.02))
        sequence.update_many(differences)
        for margin in (0.0, 0.02):
            assert 1 <= more_examples(sequence, differences, margin) < 1_000_000


def test_the_same_data_give_the_same_figure_and_a_turned_one_about_the_same():
    rng = np.random.default_rng(3)
    (differences,) = Paired(80, b_wins=0.2, a_wins=0.1).draw(rng, 80)
    figures = []
    for turned in (differences, differences, -differences):
        sequence = PairedSequence()
        sequence.update_many(turned)
        figures.append(more_examples(sequence, turned, 0.0))
    assert figures[0] == figures[1] == pytest.approx(figures[2], rel=0.3)


def test_more_confidence_takes_more_examples():
    rng = np.random.default_rng(4)
    (differences,) = Paired(60, b_wins=0.2, a_wins=0.1).draw(rng, 60)
    said = []
    for confidence in (0.9, 0.95, 0.99):
        sequence = PairedSequence(confidence)
        sequence.update_many(differences)
        said.append(more_examples(sequence, differences, 0.0))
    assert said == sorted(set(said))


@pytest.mark.parametrize(("p", "margin"), [(0.5, 0.0), (0.1, 0.02), (0.02, 0.05)])
@pytest.mark.parametrize("graded", [False, True])
def test_the_bets_of_the_forecast_are_those_of_the_two_arm_sequence(p, margin, graded):
    scenario = TwoArm(50, (0.5, 0.7), p, margin, graded)
    sequence, rng = scenario.begin(), np.random.default_rng(5)
    sequence.update_many(*scenario.draw(rng, 50))
    cells = [sequence.zero - 1, sequence.zero, sequence.zero + 1]
    before, _ = sequence.standing(cells)
    for is_b, outcome in ((True, 0.3), (False, 1.0)):
        past = np.array([[sequence.n], *([part] for part in sequence.past)], float)
        kinds = np.array([is_b]), np.array([outcome])
        gain = sequence.fresh().log_factors(kinds, p, past, cells)[0, 0]
        sequence.update(is_b, outcome, p)
        after, _ = sequence.standing(cells)
        assert after == pytest.approx(before + gain)
        before = after


def test_a_restored_sequence_says_what_the_one_it_was_stored_from_said():
    rng = np.random.default_rng(6)
    (differences,) = Paired(60, 0.02, 0.2, 0.1).draw(rng, 60)
    sequence = PairedSequence(points=(-0.02, 0.02))
    sequence.update_many(differences)
    again = PairedSequence.from_state(sequence.to_state())
    assert more_examples(again, differences, 0.02) == more_examples(sequence, differences, 0.02)
