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
    caption = "tokens, milliseconds of the language model, and characters of the prompts are those of a call"
    return _filled([_finalist(found, cell) for cell in found.finalists if cell.like is None], 4, caption)


def _finalist(found: SweepResult, cell: SweepCell) -> dict[str, Cell]:
    final = cell.final
    assert final is not None
    best, led = cell.name == found.best_name, found.best.final
    low, high = final.difference_interval
    gap = "best" if best else f"{100 * final.difference:+.1f} {points(low, high)}"
    to_leader = None
    if led is not None and led.verdict != "leader":
        to_leader = final.verdict
    elif not best:
        gap = f"{gap} {final.verdict}"
    return {
        "finalist": f"{cell.name} ★" if best else cell.name,
        f"score [{level(found.confidence)} interval]": Score(final.score, final.interval),
        "to the best, points": gap,
        "to the leader": to_leader,
        "$ / 1,000": None if final.usd_per_call is None else f"{1000 * final.usd_per_call:,.3g}",
        "tokens": None if final.tokens_per_call is None else round(final.tokens_per_call),
        "ms": None if final.latency_ms is None else round(final.latency_ms),
        "prompt": round(final.prompt_characters),
    }


def _filled(rows: Sequence[dict[str, Cell]], words: int, caption: str = "") -> Table:
    """Return a table without the columns that hold nothing; the first so many are words, the others numbers."""
    names = [name for name in rows[0] if any(row[name] is not None for row in rows)]
    numbers = set(list(rows[0])[words:])
    right = frozenset(place for place, name in enumerate(names) if name in numbers)
    return Table(tuple(names), [tuple(row[name] for name in names) for row in rows], right, caption)


def _cells(found: SweepResult) -> Block:
    table = _filled([_row(cell) for cell in found if cell.number], 2)
    return table if found.rungs or not found.finalists else Details("What each cell took", [table], wide=True)


def _row(cell: SweepCell) -> dict[str, Cell]:
    used = cell.usage
    alike = "" if cell.like is None else f"; the same program as {cell.like}"
    return {
        "cell": cell.name,
        "how it ended": excerpt(f"{cell.status}: {cell.reason}{alike}", 200),
        "validation": None if cell.validation_score is None else percent(cell.validation_score),
        "LM calls": used.lm_calls,
        "cached": used.cache_hits,
        "tokens": None if used.tokens is None else f"{used.tokens:,}",
        "cost": None if used.usd is None else dollars(used.usd),
    }


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
