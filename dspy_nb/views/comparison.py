"""Comparisons, of two programs or of several with a baseline, as documents: the verdict first."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from dspy_nb.core.ab.comparison import Comparison, Comparisons
from dspy_nb.core.evaluation.pairing import Flip
from dspy_nb.core.evaluation.scorecard import Evaluation
from dspy_nb.views.documents import (
    Block,
    Cell,
    Details,
    Document,
    Facts,
    Interactive,
    Note,
    Score,
    Table,
    document,
    warn,
)
from dspy_nb.views.examples.blocks import examples_block
from dspy_nb.views.examples.columns import FOLDED, SMALL, Cap, fields_text
from dspy_nb.views.findings import finding_blocks
from dspy_nb.views.wording import (
    count,
    describe_margin,
    describe_verdict,
    dollars,
    duration,
    level,
    points,
    say_rest,
)

_FLIPS_SHOWN = 20
_EXCERPT = 120


@document.register
def _(found: Comparison) -> Document:
    score = f"score [{level(found.a.confidence)} interval]"
    columns = ("arm", "program", score, "errors", "median ms", "LM calls", "cost")
    arms = [_arm("A", found.a_name, found.a), _arm("B", found.b_name, found.b)]
    blocks: list[Block] = [
        Note(_verdict(found)),
        *warn(found.warnings),
        Table(columns, arms, frozenset([3, 4, 5, 6])),
        *_findings(found),
        Facts(_facts(found)),
        *_examples_of(found, FOLDED),
    ]
    subtitle = f"{found.metric} · {found.n:,} of {count(found.n_planned, 'example')} · seed {found.seed}"
    title = f"A/B: {found.a_name} (A) and {found.b_name} (B)"
    return Document(title, blocks, subtitle, f"{title}: {_verdict(found)}")


def without_examples(found: Comparison | Comparisons) -> Document:
    """Return the document of a comparison for a place that shows its examples elsewhere."""
    shown = document(found)
    return replace(shown, blocks=_leave_out(shown.blocks))


def _leave_out(blocks: Sequence[Block]) -> list[Block]:
    return [
        replace(block, blocks=_leave_out(block.blocks)) if isinstance(block, Details) else block
        for block in blocks
        if not isinstance(block, Interactive)
    ]


def _verdict(found: Comparison) -> str:
    if not found.n:
        return "Inconclusive: no example was answered by both."
    text = describe_verdict(found.verdict, found.effect, found.interval, found.confidence, found.p_value)
    if found.n_at_verdict is not None:
        return f"{text}, after {count(found.n_at_verdict, 'example')}."
    if not found.complete:
        return f"{text}. Interrupted after {found.n:,} of {count(found.n_planned, 'example')}."
    if found.more_needed is not None:
        return f"{text}. If it goes on like this, about {found.more_needed:,} more examples would settle it."
    return f"{text}, after all {count(found.n, 'example')}."


@document.register
def _(found: Comparisons) -> Document:
    ranking = found.ranking
    most = max(ranking, key=lambda one: one.n)
    rows = [_row(one) for one in ranking]
    baseline = (f"{found.baseline} (A)", "baseline", "", "", *_measured(most.a, most.n))
    columns = (
        "program", "verdict", "difference to A, points", "p",
        f"score [{level(found.confidence)} interval]", "examples", "errors", "LM calls", "cost",
    )  # fmt: skip
    blocks: list[Block] = [
        Note(_winner(found)),
        *warn(found.warnings),
        Table(columns, [*rows, baseline], frozenset([3, 5, 6, 7, 8])),
        *_findings(most, "A"),
        Facts([_margin(found.margin), ("method", _method(found)), ("time", duration(found.duration_s))]),
    ]
    for one in ranking:
        details = warn(text for text in one.warnings if text not in found.warnings)
        details += [Note(_verdict(one)), Facts(_examples(one) + _ratios(one)), *_findings(one, "B")]
        details += _examples_of(one, SMALL)
        blocks.append(Details(one.b_name, details))
    subtitle = f"{found.metric} · at most {count(found.n_planned, 'example')} · seed {found.seed}"
    title = f"A/B: {count(len(found), 'candidate')} against {found.baseline} (A)"
    return Document(title, blocks, subtitle, f"{title}: {_winner(found)}")


def _winner(found: Comparisons) -> str:
    better = [one for one in found if one.verdict == "B better"]
    cut_short = "" if found.complete else " Interrupted before every verdict was in."
    if not better:
        ends = ", ".join(f"{n} {text}" for text, n in Counter(one.verdict for one in found).items())
        return f"No candidate is shown to be better: {ends}.{cut_short}"
    winner = better[0] if len(better) == 1 else found.winner
    assert winner is not None
    text = f"{winner.b_name} is better than {found.baseline} by {100 * winner.effect:.1f} points"
    if len(better) > 1:
        text += f"; {len(better)} candidates are, and which of those is best was not tested"
    return f"{text}.{cut_short}"


def _row(one: Comparison) -> tuple[Cell, ...]:
    low, high = one.interval
    difference = f"{100 * one.effect:+.1f}" if one.n else None
    if one.n and not math.isnan(low):
        difference = f"{difference} {points(low, high)}"
    verdict = one.verdict.removeprefix("B ").replace("A better", "worse")
    return one.b_name, verdict, difference, f"{one.p_value:.2g}", *_measured(one.b, one.n)


def _measured(arm: Evaluation, n: int) -> tuple[Cell, ...]:
    score, usage = Score(arm.score, arm.interval), arm.usage
    return score, n, arm.errors.count, usage.lm_calls, dollars(usage.usd)


def _method(found: Comparisons) -> str:
    each = level(found.ranking[0].confidence)
    if found.sequential:
        return (
            f"a paired betting confidence sequence for each candidate at {each}, so that all hold together at "
            f"{level(found.confidence)} at every look"
        )
    return (
        f"one look: p-values adjusted by Holm for {count(len(found), 'candidate')}, held against "
        f"{1 - found.confidence:.2g}; intervals at the confidence of each candidate's step"
    )


def _arm(letter: str, name: str, arm: Evaluation) -> tuple[Cell, ...]:
    score, _, errors, calls, cost = _measured(arm, arm.n)
    program = f"{name} · {arm.base_model}" if arm.base_model else name
    latency = None if arm.latency is None else round(arm.latency.p50_ms)
    if arm.usage.cache_hits:
        calls = f"{calls:,} + {arm.usage.cache_hits:,} cached"
    return letter, program, score, errors, latency, calls, cost


def _facts(found: Comparison) -> list[tuple[str, str]]:
    method = [("method", found.method), ("time", duration(found.duration_s))]
    return [*_examples(found), _margin(found.margin), *_ratios(found), *method]


def _examples(found: Comparison) -> list[tuple[str, str]]:
    same = found.n - found.b_wins - found.a_wins
    return [("examples", f"B scored higher on {found.b_wins:,}, A on {found.a_wins:,}, the same on {same:,}")]


def _margin(margin: float) -> tuple[str, str]:
    return "margin", describe_margin(margin, "none, so equal programs are never told to be equal")


def _ratios(found: Comparison) -> list[tuple[str, str]]:
    facts = []
    if found.latency_ratio is not None:
        median, low, high = found.latency_ratio
        ends = f" [{low:.2f}, {high:.2f}]" if low > 0 and math.isfinite(high) else ""
        text = f"B takes {median:.2f}{ends} times as long, answers from a cache left out"
        facts.append(("time per answer", text))
    ratios = [
        f"{ratio:.2f} times the {what}"
        for ratio, what in ((found.usd_ratio, "price"), (found.tokens_ratio, "tokens"))
        if ratio is not None
    ]
    if ratios:
        facts.append(("cost", f"B takes {' and '.join(ratios)}"))
    return facts


def _examples_of(found: Comparison, cap: Cap) -> list[Block]:
    """Return the examples side by side; in text and Markdown those on which the two differ."""
    flips = _flips("fixed", found.fixed) + _flips("broke", found.broken)
    table = found.example_table()
    return [examples_block(table, cap, plain_blocks=flips)] if len(table) else flips


def _findings(found: Comparison, *arms: str) -> list[Block]:
    """Return what stands out in the answers; of the baseline among several it is said once, with all of them."""
    results = {"A": found.a.results, "B": found.b.results}
    told = [finding for finding in found.findings if finding.where in (arms or results)]
    return finding_blocks(told, lambda finding: results[finding.where])


def _flips(did: str, flips: Sequence[Flip]) -> list[Block]:
    if not flips:
        return []
    rows = [flip_cells(flip) for flip in flips[:_FLIPS_SHOWN]]
    caption = say_rest(_FLIPS_SHOWN, len(flips), "examples")
    table = Table(("input", "expected", "A", "B"), rows, caption=caption)
    return [Details(f"What B {did} ({len(flips):,})", [table])]


def flip_cells(flip: Flip) -> tuple[str, str, str, str]:
    """Return what a row says of an example on which the two differ: input, expected, A's answer, B's."""
    return _fields(flip.inputs), _fields(flip.expected), _fields(flip.a), _fields(flip.b)


def _fields(values: dict[str, object]) -> str:
    return fields_text(values, _EXCERPT) if values else "(no answer)"
