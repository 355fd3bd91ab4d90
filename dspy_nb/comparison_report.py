"""A comparison as text, Markdown and HTML: the verdict first."""

from __future__ import annotations

import math
from collections.abc import Sequence

from dspy_nb.core.comparison_result import Comparison, Flip
from dspy_nb.core.evaluation import Evaluation
from dspy_nb.documents import (
    Block,
    Details,
    Document,
    Facts,
    Note,
    Score,
    Table,
    to_html,
    to_markdown,
    to_text,
)
from dspy_nb.wording import count, duration, excerpt, known, shown

__all__ = ["comparison_html", "comparison_markdown", "comparison_text"]

_FLIPS_SHOWN = 20
_EXCERPT = 120


def comparison_text(comparison: Comparison) -> str:
    """Return what a comparison found, as text."""
    return to_text(_document(comparison))


def comparison_markdown(comparison: Comparison) -> str:
    """Return what a comparison found, as Markdown."""
    return to_markdown(_document(comparison))


def comparison_html(comparison: Comparison) -> str:
    """Return what a comparison found, as HTML."""
    return to_html(_document(comparison))


def _document(found: Comparison) -> Document:
    blocks: list[Block] = [Note(_verdict(found))]
    blocks += [Note(text[0].upper() + text[1:] + ".", warning=True) for text in found.warnings]
    blocks += [
        Table(
            (
                "",
                "program",
                f"score [{found.confidence:.0%} interval]",
                "errors",
                "p50 ms",
                "LM calls",
                "cost",
            ),
            [_arm("A", found.a_name, found.a), _arm("B", found.b_name, found.b)],
            frozenset([3, 4, 5, 6]),
        ),
        Facts(_facts(found)),
        *_flips("fixed", found.fixed),
        *_flips("broke", found.broken),
    ]
    subtitle = f"{found.metric} · {found.n:,} of {count(found.n_planned, 'example')} · seed {found.seed}"
    return Document(f"A/B: {found.a_name} (A) and {found.b_name} (B)", blocks, subtitle)


def _verdict(found: Comparison) -> str:
    if not found.n:
        return "Inconclusive: no example was answered by both."
    low, high = found.interval
    points = f"B − A is {100 * found.effect:+.1f} points"
    if not math.isnan(low):
        points += f" [{100 * low:+.1f}, {100 * high:+.1f}] at {found.confidence:.0%} confidence"
    text = f"{found.verdict[0].upper()}{found.verdict[1:]}: {points}, p {found.p_value:.2g}"
    if found.n_at_verdict is not None:
        return f"{text}, after {count(found.n_at_verdict, 'example')}."
    if not found.complete:
        return f"{text}. Interrupted after {found.n:,} of {count(found.n_planned, 'example')}."
    if found.more_needed is not None:
        return f"{text}. If that is the true difference, about {found.more_needed:,} more examples would settle it."
    return f"{text}, after all {count(found.n, 'example')}."


def _arm(letter: str, name: str, arm: Evaluation) -> tuple[str, str, Score, str, str, str, str]:
    latency = None if arm.latency is None else arm.latency.p50_ms
    calls = f"{arm.usage.lm_calls:,}"
    return (
        letter,
        f"{name} · {arm.base_model}" if arm.base_model else name,
        Score(arm.score, arm.interval),
        f"{arm.errors.count:,}",
        known(latency, "{:,.0f}"),
        f"{calls} + {arm.usage.cache_hits:,} cached" if arm.usage.cache_hits else calls,
        known(arm.usage.usd, "${:,.4f}"),
    )


def _facts(found: Comparison) -> list[tuple[str, str]]:
    same = found.n - found.b_wins - found.a_wins
    facts = [
        ("examples", f"B scored higher on {found.b_wins:,}, A on {found.a_wins:,}, the same on {same:,}"),
        ("margin", f"differences of up to {100 * found.margin:g} points make no practical difference"),
    ]
    if found.latency_ratio is not None:
        median, low, high = found.latency_ratio
        ends = f" [{low:.2f}, {high:.2f}]" if low > 0 and math.isfinite(high) else ""
        facts.append(("latency", f"B takes {median:.2f}{ends} times as long, cache hits left out"))
    ratios = [
        f"{ratio:.2f} times the {what}"
        for ratio, what in ((found.usd_ratio, "price"), (found.tokens_ratio, "tokens"))
        if ratio is not None
    ]
    if ratios:
        facts.append(("cost", f"B takes {' and '.join(ratios)}"))
    return [*facts, ("method", found.method), ("time", duration(found.duration_s))]


def _flips(did: str, flips: Sequence[Flip]) -> list[Block]:
    if not flips:
        return []
    rows = [
        tuple(map(_fields, (flip.inputs, flip.expected, flip.a, flip.b))) for flip in flips[:_FLIPS_SHOWN]
    ]
    table = Table(("input", "expected", "A", "B"), rows, caption=shown(_FLIPS_SHOWN, len(flips), "examples"))
    return [Details(f"What B {did} ({len(flips):,})", [table])]


def _fields(values: dict[str, object]) -> str:
    if not values:
        return "(no answer)"
    if len(values) == 1:
        return excerpt(next(iter(values.values())), _EXCERPT)
    return excerpt(", ".join(f"{name}: {value}" for name, value in values.items()), _EXCERPT)
