"""The purse: what is handed out never exceeds what is left, and what comes back is counted once."""

from __future__ import annotations

import threading
from random import Random

import cloudpickle
import dspy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspy_nb.core.execution.attempts import Outcome
from dspy_nb.core.programs.lm_call import AnswerCount
from dspy_nb.core.programs.usage import Usage
from dspy_nb.core.supervision.budget import Budget, ErrorCount, ProgramCalls, Spent
from dspy_nb.core.supervision.guard import Guard
from dspy_nb.core.supervision.leases import BudgetLease, GuardPurse
from tests.properties import tries
from tests.scripted import ScriptedEngine, classifier, scripted_lm


def spent(
    calls: int, *, tokens: int = 0, programs: ProgramCalls | None = None, reason: str | None = None
) -> Spent:
    usage = Usage(calls, 0, tokens, 0, 0.0)
    return Spent(usage, ErrorCount(), AnswerCount(), programs or ProgramCalls(calls), reason)


def outcome(calls: int) -> Outcome:
    return Outcome({}, (True,), None, 1.0, False, Usage(calls, 0, 10 * calls, 0, 0.0))


@tries(0.3)
@given(st.integers(1, 300), st.integers(1, 5), st.integers(1, 6), st.randoms(use_true_random=False))
def test_all_leases_together_are_never_more_than_what_is_left(
    limit: int, most: int, tasks: int, random: Random
) -> None:
    guard = Guard(Budget(lm_calls=limit), threading.Event())
    purse = GuardPurse(guard)
    out: list[tuple[int, BudgetLease]] = []
    while guard.reason is None:
        leased = purse.lease(random.randint(1, 40), tasks) if len(out) < tasks else None
        out += [] if leased is None else [leased]
        assert guard.usage.lm_calls + sum(lease.budget.lm_calls or 0 for _, lease in out) <= limit
        if leased is None and out:
            jobs, lease = out.pop(random.randrange(len(out)))
            mine, done = lease.budget.lm_calls or 0, []
            for calls in (random.randint(1, most) for _ in range(jobs)):
                if calls > mine:
                    mine = 0  # the last one was cut off
                    break
                mine -= calls
                done.append(outcome(calls))
            purse.settle(lease, spent((lease.budget.lm_calls or 0) - mine), done)
    assert guard.reason == "lm_calls"
    assert guard.usage.lm_calls == limit


def test_a_lost_lease_is_free_again() -> None:
    purse = GuardPurse(Guard(Budget(lm_calls=10), threading.Event()))
    leased = purse.lease(5, 1)
    assert leased is not None
    assert purse.lease(5, 1) is None
    purse.settle(leased[1], None, [])
    assert purse.lease(5, 1) is not None


def test_a_lease_travels_and_keeps_what_happens_within_to_it() -> None:
    engine = ScriptedEngine()
    guard = Guard(Budget(lm_calls=3, call_seconds=60), threading.Event())
    leased = GuardPurse(guard).lease(9, 1)
    assert leased is not None
    lease = cloudpickle.loads(cloudpickle.dumps(leased[1]))
    with dspy.context(lm=scripted_lm(engine)):
        with lease.spend() as spending:
            for number in range(9):
                classifier()(review=f"{number} is good")
        receipt = spending.spent()
        classifier()(review="after it nothing is counted")
    assert (engine.calls, receipt.usage.lm_calls, receipt.reason) == (4, 3, "lm_calls")
    assert receipt.programs.calls == 3  # the one that was refused is none
    guard.take_in(receipt)
    assert guard.usage == receipt.usage
    assert guard.reason is None


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ([spent(9, programs=ProgramCalls(9, 9, 9))], None),
        ([spent(9, programs=ProgramCalls(9, 6, 0)), spent(9, programs=ProgramCalls(9, 6, 0))], "errors"),
        (
            [spent(20, programs=ProgramCalls(40, 13, 13)), spent(9, programs=ProgramCalls(12, 12, 12))],
            "errors",
        ),
        ([spent(20, programs=ProgramCalls(40, 13, 13)), spent(9, programs=ProgramCalls(13, 12, 12))], None),
        ([spent(1, reason="metric")], "metric"),
        ([spent(1, reason="unknown usd")], "unknown usd"),
        ([spent(1, reason="lm_calls")], None),
    ],
)
def test_what_is_seen_in_parts_ends_the_run_as_if_it_were_seen_at_once(
    parts: list[Spent], reason: str | None
) -> None:
    guard = Guard(Budget(), threading.Event())
    for part in parts:
        guard.take_in(part)
    assert guard.reason == reason
