"""A sweep as a document: the best and the cheapest first, then a row for each cell."""

from __future__ import annotations

import math
from collections.abc import Sequence

from dspy_nb.core.sweep.grid import SweepEstimate
from dspy_nb.core.sweep.result import Final, SweepCell, SweepResult
from dspy_nb.core.text import excerpt
from dspy_nb.views.documents import Block, Cell, Details, Document, Facts, Note, Score, Table, document, warn
from dspy_nb.views.wording import (
    count,
    dollars,
    duration,
    format_or_dash,
    level,
    percent,
    points,
    usage_facts,
)

MARGIN = 0.02  # what "not worse" means where nobody says


@document.register
def _(found: SweepResult) -> Document:
    blocks: list[Block] = [Note(sentence) for sentence in summary(found)]
    blocks += warn(found.warnings)
    if found.finalists:
        blocks.append(_finalists(found))
    blocks.append(_cells(found))
    facts = [*usage_facts(found.usage), ("time", duration(found.duration_s))]
    if found.replayed:
        facts.insert(
            1, ("paid before", f"{found.replayed:,} of these calls, by an earlier call of this sweep")
        )
    if found.rungs:
        facts.append(("race", f"{' → '.join(map(str, found.rungs))} cells"))
    if found.comparisons is not None:
        facts.append(("method", _method(found)))
    blocks.append(Facts(facts))
    if found.evidence is not None:
        blocks.append(Note(_against_given(found)))
    cells = [cell for cell in found if cell.number]
    subtitle = f"{found.metric} · {count(len(cells), 'cell')} over {', '.join(found.axes)}"
    if found.n_validation:
        subtitle += f" · raced on {count(found.n_validation, 'validation example')}"
    return Document(_title(found), blocks, f"{subtitle} · compared on {count(found.n_test, 'test example')}")


@document.register
def _(expected: SweepEstimate) -> Document:
    return Document("", [], describe_sweep(expected))


def describe_sweep(expected: SweepEstimate) -> str:
    """Return what a sweep takes at most, in words."""
    cells, comparison = count(len(expected.cells), "cell"), f"{expected.comparison:,}"
    text = f"{cells}, at most {expected.lm_calls:,} LM calls, and {comparison} to compare the finalists"
    if not expected.lm_calls:
        text = f"{cells}, at most {comparison} LM calls to compare them"
    limits = expected.budget.limits()
    return f"{text}; the budget is {expected.budget}" if limits else f"{text}; there is no limit"


def _title(found: SweepResult) -> str:
    stopped = f", ended by {found.stopped_by}" if found.stopped_by else ""
    return f"Sweep: {'no cell has a program' if found.best_name is None else f'best is {found.best_name}'}{stopped}"


def summary(found: SweepResult) -> list[str]:
    """Return what a sweep found in a few sentences."""
    if not found.finalists:
        return ["Which cell is best is not known: the finalists were not compared on the test examples."]
    best = found.best
    final = best.final
    assert final is not None
    lines = [
        f"Best: {best.name}, {Score(final.score, final.interval)}{_price(found, best)}. {_why_best(found, final)}"
    ]
    if found.cost is not None:
        cheap = found.cheapest(MARGIN)
        if cheap.name == best.name:
            lines.append(_no_cheaper(found))
        else:
            assert cheap.final is not None
            low = cheap.final.difference_interval[0]
            lines.append(
                f"Cheapest that is at most {100 * MARGIN:g} points worse: {cheap.name}{_price(found, cheap)}, "
                f"{100 * cheap.final.difference:+.1f} points, at worst {100 * low:+.1f}."
            )
    return lines


def _no_cheaper(found: SweepResult) -> str:
    """Return that no cheaper finalist is shown to be good enough, and how much worse the closest one may be."""
    own = found.cost_of(found.best) or 0.0
    cheaper = [cell for cell in found.finalists if (found.cost_of(cell) or 0.0) < own]
    closest = max(cheaper, key=_lowest, default=None)
    if closest is None:
        return "It is also the cheapest of the finalists."
    low = 100 * _lowest(closest)
    none = f"No cheaper one is shown to be at most {100 * MARGIN:g} points worse"
    return (
        f"{none}: {closest.name}{_price(found, closest)}, may be up to {abs(min(low, 0.0)):.1f} points worse."
    )


def _lowest(cell: SweepCell) -> float:
    assert cell.final is not None
    return cell.final.difference_interval[0]


def _why_best(found: SweepResult, final: Final) -> str:
    if not found.n_validation:
        first = "It is the first of them, and no other one is shown to be better."
        return first if final.verdict == "leader" else "It is shown to be better than the first of them."
    if final.verdict == "leader":
        return "It led on the validation examples, and no other finalist is shown to be better."
    return "It is shown to be better than the one that led on the validation examples."


def _price(found: SweepResult, cell: SweepCell) -> str:
    cost = found.cost_of(cell)
    if cost is None:
        return ""
    return f", {_usd(cost)} for 1,000 calls" if found.cost == "usd" else f", {cost:,.0f} tokens a call"


def _usd(cost: float) -> str:
    """Return the price of 1,000 calls."""
    return f"${1000 * cost:,.3g}"


def _finalists(found: SweepResult) -> Table:
    columns = (
        "finalist", f"score [{level(found.confidence)} interval]", "to the leader", "to the best, points",
        "$ / 1,000 calls", "tokens", "ms", "prompt",
    )  # fmt: skip
    rows = [_finalist(found, cell) for cell in found.finalists if cell.like is None]
    caption = "tokens, milliseconds of the language model, and characters of the prompts are those of a call"
    return Table(columns, rows, frozenset([4, 5, 6, 7]), caption)


def _finalist(found: SweepResult, cell: SweepCell) -> Sequence[Cell]:
    final = cell.final
    assert final is not None
    best = cell.name == found.best_name
    low, high = final.difference_interval
    gap = "best" if best else f"{100 * final.difference:+.1f} {points(low, high)}"
    usd = None if final.usd_per_call is None else f"{1000 * final.usd_per_call:,.3g}"
    tokens, ms = (None if n is None else round(n) for n in (final.tokens_per_call, final.latency_ms))
    score = Score(final.score, final.interval)
    return (
        f"{cell.name} ★" if best else cell.name,
        score,
        final.verdict,
        gap,
        usd,
        tokens,
        ms,
        round(final.prompt_characters),
    )


def _cells(found: SweepResult) -> Block:
    columns = ("cell", "validation", "rung", "LM calls", "cached", "tokens", "cost", "how it ended")
    rows = [_row(found, cell) for cell in found if cell.number]
    table = Table(columns, rows, frozenset([1, 2, 3, 4, 5, 6]))
    return table if found.rungs or not found.finalists else Details("What each cell took", [table], wide=True)


def _row(found: SweepResult, cell: SweepCell) -> Sequence[Cell]:
    validation = None if cell.validation_score is None else percent(cell.validation_score)
    rung = f"{cell.rung} of {len(found.rungs)}" if found.rungs else None
    used = cell.usage
    alike = "" if cell.like is None else f"; the same program as {cell.like}"
    ended = excerpt(f"{cell.status}: {cell.reason}{alike}", 200)
    calls = used.lm_calls, used.cache_hits, format_or_dash(used.tokens), dollars(used.usd)
    return cell.name, validation, rung, *calls, ended


def _method(found: SweepResult) -> str:
    assert found.comparisons is not None
    final = next(cell.final for cell in found.finalists if cell.final is not None)
    others = len(found.comparisons)
    return (
        f"one look at {found.n_test:,} test examples; verdicts by Holm for {others} against the leader, "
        f"intervals to the best at {level(final.difference_confidence)} each, so that all hold together at "
        f"{level(found.confidence)}"
    )


def _against_given(found: SweepResult) -> str:
    evidence = found.evidence
    assert evidence is not None
    words = {"B better": "better", "A better": "worse"}
    verdict = words.get(evidence.verdict or "", "not shown to be better")
    effect, interval = evidence.effect or 0.0, evidence.interval or (math.nan, math.nan)
    low, high = (math.nan if end is None else end for end in interval)
    shown = f" {points(low, high)}" if not math.isnan(low) else ""
    points_more = f"{100 * effect:+.1f} points{shown}"
    return f"Against the program as given ({evidence.baseline}) the best is {verdict}: {points_more}."
