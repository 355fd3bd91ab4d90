"""The status of an online experiment as a document: the verdict first."""

from __future__ import annotations

import math

from dspy_nb.core.ab.status import Arm, Conclusion, ExperimentStatus
from dspy_nb.views.documents import Block, Cell, Document, Facts, Note, Score, Table, document, warn
from dspy_nb.views.wording import (
    count,
    describe_margin,
    describe_verdict,
    duration,
    format_or_dash,
    level,
    percent,
)


@document.register
def _(found: ExperimentStatus) -> Document:
    columns = (
        "", "program", f"success rate [{level(found.confidence)} interval]", "requests", "units", "counted",
        "errors", "mean ms", "median ms", "95% within ms",
    )  # fmt: skip
    blocks: list[Block] = [
        Note(_verdict(found)),
        *([] if found.conclusion is None else [Note(_ending(found.conclusion))]),
        *warn((*found.blocked, *found.warnings)),
        Table(columns, [_arm("A", found.a), _arm("B", found.b)], frozenset(range(3, 10))),
        Facts(_facts(found)),
    ]
    subtitle = f"{count(found.total, 'request')} · {percent(found.split)} of new units go to B"
    title = f"Experiment {found.name}: {found.a.name} (A) and {found.b.name} (B)"
    return Document(title, blocks, subtitle, f"{title}: {_verdict(found)}")


def _verdict(found: ExperimentStatus) -> str:
    if not found.n:
        return "Inconclusive: no outcome counts yet."
    if math.isnan(found.effect):
        return f"Inconclusive: after {count(found.n, 'unit')} one of the two has no outcome that counts yet."
    text = describe_verdict(found.verdict, found.effect, found.interval, found.confidence, found.p_value)
    if found.n_at_verdict is not None:
        return f"{text}; settled after {found.n_at_verdict:,} of {count(found.n, 'unit')}."
    text += f", after {count(found.n, 'unit')}."
    if found.more_needed is not None:
        text += f" If it goes on like this, about {found.more_needed:,} more units would settle it."
    return text


def _ending(ended: Conclusion) -> str:
    text = f"Concluded: {ended.winner} is served"
    if ended.forced:
        text += ", without a verdict"
    return f"{text}, because: {ended.reason}." if ended.reason else f"{text}."


def _arm(letter: str, arm: Arm) -> tuple[Cell, ...]:
    latency = arm.latency
    times = (None, None, None) if latency is None else (latency.mean_ms, latency.p50_ms, latency.p95_ms)
    rate = Score(arm.success_rate, arm.interval) if arm.counted else Score(None)
    known = (arm.requests, arm.units, arm.counted, arm.errors)
    return letter, arm.name, rate, *known, *(format_or_dash(ms, "{:,.1f}") for ms in times)


def _facts(found: ExperimentStatus) -> list[tuple[str, str]]:
    waiting, expired = found.a.waiting + found.b.waiting, found.a.expired + found.b.expired
    cached = found.a.cached + found.b.cached
    outcomes = (
        f"{count(waiting, 'unit')} without one, {found.held_back:,} more that wait for those to count; "
    )
    outcomes += (
        f"{expired:,} that got none within {duration(found.outcome_within_s)}, counted as {found.missing:g}"
    )
    sizes = f"their sizes against the split: p {found.srm_p_value:.2g} (below .001 nothing would be said)"
    margin = describe_margin(found.margin, "none: equal programs would never be told to be equal")
    facts = [("outcomes", outcomes), ("margin", margin), ("arms", sizes)]
    if cached:
        facts.append(("cache", f"{count(cached, 'answer')} came from it and are left out of the times"))
    return [*facts, ("method", found.method), ("z-test", _fixed(found))]


def _fixed(found: ExperimentStatus) -> str:
    fixed = found.fixed
    if fixed.refused is not None:
        return f"not made: {fixed.refused}"
    text = f"z {fixed.z:.2f}, p {fixed.p_value:.2g}, "
    if fixed.significant:
        text += f"significant at {level(fixed.confidence)} confidence, winner: {fixed.winner}"
    elif min(found.a.counted, found.b.counted) < fixed.min_samples:
        text += f"not significant: each arm needs {count(fixed.min_samples, 'unit')}"
    else:
        text += f"not significant at {level(fixed.confidence)} confidence"
    return f"{text}; {fixed.warning}"
