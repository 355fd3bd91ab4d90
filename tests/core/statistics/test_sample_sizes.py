"""Planning: how many examples, and that as many have the power that was asked for."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

import dspy_nb as nb
from dspy_nb.core.statistics.proportions import mcnemar
from dspy_nb.core.statistics.sample_sizes import sample_size_paired, sample_size_unpaired


def test_a_paired_plan_is_the_formula_of_connor():
    plan = nb.plan(0.05, discordance=0.15)
    assert plan.n == sample_size_paired(0.05, 0.15)
    assert plan.program_calls == 2 * plan.n
    assert not plan.assumed
    assert str(plan) == (
        f"{plan.n} examples, each answered by both programs, show a difference of 5.0% with a power of 80% "
        "at 95% confidence, if they disagree on 15% of them"
    )


def test_an_unpaired_plan_is_the_formula_of_fleiss():
    plan = nb.plan(0.05, rate=0.7, design="unpaired", power=0.9, confidence=0.99)
    assert plan.n == sample_size_unpaired(0.7, 0.75, 0.9, 0.99)
    assert "if the first one scores 70%" in str(plan)


def test_what_is_not_known_is_assumed_and_said():
    assert nb.plan(0.05) == nb.Plan(sample_size_paired(0.05, 0.2), 0.05, "paired", 0.8, 0.95, 0.2, None, True)
    assert str(nb.plan(0.05)).endswith("(assumed)")
    assert nb.plan(0.3).discordance == 0.3
    worst = nb.plan(0.1, design="unpaired").n
    assert worst >= max(nb.plan(0.1, rate=rate / 20, design="unpaired").n for rate in range(19))


def test_pairing_needs_fewer_examples():
    assert nb.plan(0.05).program_calls < nb.plan(0.05, design="unpaired").program_calls


@given(st.floats(0.01, 0.5), st.floats(0.5, 0.95))
def test_smaller_effects_and_more_power_take_more_examples(effect, power):
    plan = nb.plan(effect, discordance=0.5, power=power)
    assert nb.plan(effect / 2, discordance=0.5, power=power).n >= plan.n
    assert nb.plan(effect, discordance=0.5, power=power + 0.04).n >= plan.n


def test_the_plan_has_the_power_that_it_promises():
    plan = nb.plan(0.1, discordance=0.3)
    rng = random.Random(0)
    found = 0
    for _ in range(600):
        wins = losses = 0
        for _ in range(plan.n):
            drawn = rng.random()
            wins += drawn < 0.2
            losses += 0.2 <= drawn < 0.3
        found += mcnemar(0, losses, wins, 0).mid_p < 0.05
    assert 0.74 < found / 600 < 0.86


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"effect": 0}, "effect must be a finite number in \\(0, 1\\)"),
        ({"effect": 1.5}, "effect must be"),
        ({"effect": 0.2, "discordance": 0.1}, "effect must be"),
        ({"effect": 0.1, "rate": 0.5}, "rate goes with design='unpaired'"),
        ({"effect": 0.1, "discordance": 0.5, "design": "unpaired"}, "discordance goes with design='paired'"),
        ({"effect": 0.1, "rate": 0.95, "design": "unpaired"}, "no score is that high"),
        ({"effect": 0.1, "design": "crossed"}, "design must be 'paired' or 'unpaired'"),
        ({"effect": 0.1, "power": 1}, "power must be"),
        ({"effect": 0.1, "confidence": 0}, "confidence must be"),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(options, message):
    with pytest.raises(nb.InputError, match=message):
        nb.plan(**options)
