"""What is said of finalists is wrong no more often than it says: many sweeps of programs that answer at random."""

import random

import dspy
import pytest

from dspy_nb.core.ab.compare import compare_many
from dspy_nb.core.data.metrics import exact_match
from dspy_nb.core.sweep.finals import judge

MARGIN = 0.1
EXAMPLES = [dspy.Example(x=str(i), y="yes").with_inputs("x") for i in range(60)]


def answering(rate: float, seed: object):
    def answer(x: str) -> dspy.Prediction:
        return dspy.Prediction(y="yes" if random.Random(f"{seed} {x}").random() < rate else "no")

    return answer


def judged(rates, seed):
    """The finals of programs that are right at these rates; the first one is the leader."""
    programs = [answering(rate, (seed, place)) for place, rate in enumerate(rates)]
    found = compare_many(
        programs[0],
        programs[1:],
        EXAMPLES,
        exact_match("y"),
        sequential=False,
        max_examples=60,
        num_threads=1,
    )
    best, gaps = judge([found[0].a, *(one.b for one in found)], found, 0.95)
    return found, best, gaps


def false_verdicts(sweeps):
    return sum(
        any(one.verdict != "inconclusive" for one in judged([0.7] * 4, seed)[0]) for seed in range(sweeps)
    )


def false_equals(sweeps):
    """How often an arm that is worse than the best by just the margin is told not to be."""
    wrong = 0
    for seed in range(sweeps):
        rates = [0.8, 0.8 - MARGIN, 0.8 - MARGIN, 0.8 - MARGIN]
        _, best, gaps = judged(rates, seed)
        worse = [gap for gap, rate in zip(gaps, rates, strict=True) if rate < rates[best]]
        wrong += any(gap.interval[0] > -MARGIN for gap in worse)
    return wrong


def test_programs_that_are_alike_are_seldom_told_apart():
    assert false_verdicts(12) <= 2
    assert false_equals(12) <= 2


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_over_a_thousand_sweeps_at_most_five_percent_err():
    # three standard errors of a share of 5 % above it
    assert false_verdicts(1000) <= 50 + 21
    assert false_equals(1000) <= 50 + 21


def test_another_one_is_the_best_only_if_it_is_shown_to_be_better():
    _, best, gaps = judged([0.3, 0.9, 0.4], 1)
    assert best == 1
    assert gaps[0].interval[1] < 0
    assert gaps[0].confidence == pytest.approx(1 - 0.05 / 3)
    _, best, gaps = judged([0.6, 0.62, 0.6], 2)
    assert best == 0
    assert gaps[1].confidence == pytest.approx(1 - 0.05 / 2)
    assert gaps[0].interval == (0.0, 0.0)
