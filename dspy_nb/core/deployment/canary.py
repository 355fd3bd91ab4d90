"""Canaries: a new version gets a small share of the traffic, then more, as long as it is not worse.

While a canary runs, each unit (a user, a session) is with one of two versions: with the candidate if its place, a
hash in [0, 1), is below the candidate's share. So a unit that has got the candidate keeps it, and more units get it
as the share grows. Outcomes are compared by a sequence that may be looked at all the time (``two_arm``), each with
the probability with which its unit went where it did.

The rule has one number, the margin: the loss over all traffic that is accepted. The next share is given as soon as
the largest loss that the evidence leaves possible, times that share, is below the margin; so 25 % of the traffic
needs little evidence, and all of it needs what "not worse by the margin" means. The candidate is taken back as soon
as it is shown to be worse (and by more than no practical difference). One of the two happens in the end, whatever
is true. With 90 % good outcomes, a margin of .05 and the default plan, one that is as good is deployed after
2,300 requests (median), and one that is 10 points worse taken back after 1,900, of which it got 5 %.

State is the log of the environment alone: a process that dies in the middle has taken a step or it has not.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

from dspy_nb.core.deployment.canary_log import Canary, CanaryRules
from dspy_nb.core.deployment.canary_state import CanaryStatus, Decision, VersionOutcomes
from dspy_nb.core.deployment.objectives import MonitorSettings, error_objective, run_test
from dspy_nb.core.statistics.two_arm import TwoArmSequence
from dspy_nb.core.statistics.verdicts import Verdict, decide
from dspy_nb.core.traffic.reading import Units, read_on
from dspy_nb.core.traffic.store import Traffic


def canary_status(
    environment: str, traffic: Traffic, settings: MonitorSettings, canary: Canary
) -> CanaryStatus:
    """Take in the outcomes that are new and return how the canary stands; nothing else happens."""
    rules = canary.rules

    state = read_on(
        traffic,
        f"canary {canary.number} of {canary.started_at}",
        "canary = ?",
        (canary.number,),
        "CASE WHEN chance IS NULL THEN NULL ELSE outcome END",
        "chance IS NULL OR outcome IS NOT NULL",
        rules.wait_s,
        lambda state, units: _count(_new_state(rules) if state is None else state, units),
    )
    sequence = TwoArmSequence.from_state(state["sequence"])
    low, high = sequence.interval
    verdict = decide(low, high, rules.margin)
    n_step = state["by_share"].get(f"{canary.share!r}", 0)
    broken = _broken_objective(traffic, settings, canary)
    decision, reason = _decide(broken, canary, (low, high), verdict, n_step)
    (n_a, sum_a), (n_b, sum_b) = state["a"], state["b"]
    return CanaryStatus(
        environment=environment,
        baseline=VersionOutcomes(canary.baseline, n_a, sum_a / n_a if n_a else None),
        candidate=VersionOutcomes(canary.candidate, n_b, sum_b / n_b if n_b else None),
        share=canary.share,
        next_share=canary.next_share,
        interval=(low, high),
        verdict=verdict,
        p_value=sequence.p_value,
        n_step=n_step,
        decision=decision,
        reason=reason,
        rules=rules,
        number=canary.number,
        started_at=canary.started_at,
        missing=traffic.file.missing(canary.started_at),
    )


def _new_state(rules: CanaryRules) -> dict[str, Any]:
    # The interval can end exactly where the rule looks at it.
    points = {-rules.margin, rules.margin, *(max(-rules.margin / share, -1.0) for share in rules.shares[1:])}
    sequence = TwoArmSequence(rules.confidence, points=sorted(points))
    return {"sequence": sequence.to_state(), "a": [0, 0.0], "b": [0, 0.0], "by_share": {}}


def _count(state: dict[str, Any], units: Units) -> dict[str, Any]:
    """Return the state after more requests; those that say nothing of the difference have no value."""
    sequence = TwoArmSequence.from_state(state["sequence"])
    # A unit that was sure to go where it did would say nothing; chances are inside (0, 1) by construction.
    sequence.update_many(units.is_b, units.value, units.chance)
    arms = {
        arm: [state[arm][0] + int(mine.sum()), state[arm][1] + float(units.value[mine].sum())]
        for arm, mine in (("a", ~units.is_b), ("b", units.is_b))
    }
    by_share = Counter(state["by_share"])
    by_share.update(f"{share!r}" for share in units.share[units.is_b].tolist())
    return {"sequence": sequence.to_state(), **arms, "by_share": dict(by_share)}


def _decide(
    broken: str | None, canary: Canary, interval: tuple[float, float], verdict: Verdict, n_step: int
) -> tuple[Decision, str]:
    """Return what to do now, and why."""
    rules, (low, high) = canary.rules, interval
    if broken is not None:
        return "rollback", broken
    if math.isnan(low):
        return "wait", "the outcomes contradict each other: does what is recorded depend on who recorded it?"
    seen = f"candidate − live is in [{low:+.3f}, {high:+.3f}] at {rules.confidence:.0%}"
    if verdict == "A better":
        return "rollback", f"{canary.candidate} is worse: {seen}"
    if n_step < rules.min_requests:
        seen = f"{n_step:,} of {rules.min_requests:,} outcomes of {canary.candidate}"
        return "wait", f"{seen} at {canary.share:.0%}"
    share = canary.next_share
    needed = rules.margin / share
    if low <= -needed:
        return "wait", f"{seen}; {share:.0%} of the traffic needs it above {-needed:.3f}"
    return ("finish" if share == 1 else "step"), f"{canary.candidate} is not worse: {seen}"


def _broken_objective(traffic: Traffic, settings: MonitorSettings, canary: Canary) -> str | None:
    """Return what is wrong if the candidate fails more often than the monitor of the environment allows."""
    objective = error_objective(settings)
    if objective is None:
        return None
    which = "canary = ? AND is_b"
    name = f"canary {canary.number} of {canary.started_at}"
    test = run_test(traffic, name, objective, which, (canary.number,), canary.rules.wait_s)
    if not test.degraded:
        return None
    rate = 1 - test.total / test.n
    return (
        f"{rate:.1%} of {test.n:,} requests to {canary.candidate} failed, {1 - objective.tolerated:.1%} may"
    )
