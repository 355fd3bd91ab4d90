"""An evaluation as HTML, and as text for a terminal."""

from __future__ import annotations

import math

from dspy_nb.core.evaluation.classification import Classification, Confusion
from dspy_nb.core.evaluation.scorecard import Evaluation
from dspy_nb.core.programs.usage import Usage
from dspy_nb.core.text import visible
from dspy_nb.views.documents import Block, Details, Document, Facts, Note, Score, Table, to_html
from dspy_nb.views.wording import count, duration, excerpt, known, percent, shown, usage_facts

__all__ = ["evaluation_html", "evaluation_text"]

_ROWS_SHOWN = 20
_SLICES_SHOWN = 10


def evaluation_html(evaluation: Evaluation) -> str:
    """Return what an evaluation found, as HTML."""
    blocks: list[Block] = [_scores(evaluation), *_notes(evaluation), *_classes(evaluation.classification)]
    if evaluation.slices:
        rows = [
            (key, Score(part.score, part.interval), f"{part.n:,}", f"{part.errors:,}")
            for key, part in list(evaluation.slices.items())[:_ROWS_SHOWN]
        ]
        caption = shown(_ROWS_SHOWN, len(evaluation.slices), "slices")
        columns = (evaluation.by or "slice", "score", "n", "errors")
        blocks.append(Table(columns, rows, frozenset([2, 3]), caption))
    facts = []
    if evaluation.latency is not None:
        latency = evaluation.latency
        facts.append(
            (
                "latency",
                f"p50 {latency.p50_ms:,.0f} ms, p95 {latency.p95_ms:,.0f} ms, p99 {latency.p99_ms:,.0f} ms "
                f"(n {latency.n:,}, cache hits left out)",
            )
        )
    facts += usage_facts(evaluation.usage)
    if evaluation.metric_usage != Usage():
        facts += [(f"{name} of the metric", value) for name, value in usage_facts(evaluation.metric_usage)]
    facts.append(("time", duration(evaluation.duration_s)))
    blocks.append(Facts(facts))
    model = f" · {evaluation.base_model}" if evaluation.base_model else ""
    title = f"{evaluation.program} on {count(evaluation.n_examples, 'example')}"
    return to_html(Document(title, blocks, f"{evaluation.metric}{model}"))


def _scores(evaluation: Evaluation) -> Table:
    rows = [
        (name, Score(m.score, m.interval), f"{m.n:,}", known(m.correct))
        for name, m in evaluation.metrics.items()
    ]
    confidence = f"score [{evaluation.confidence:.0%} interval]"
    return Table(("metric", confidence, "n", "right"), rows, frozenset([2, 3]))


def _notes(evaluation: Evaluation) -> list[Block]:
    blocks: list[Block] = []
    if not evaluation.complete:
        text = f"Interrupted after {evaluation.n:,} of {evaluation.n_planned:,}."
        blocks.append(Note(text, warning=True))
    errors = evaluation.errors
    if errors.count:
        reliable = "" if evaluation.reliable else " With so many errors the score is not reliable."
        text = (
            f"{count(errors.count, 'error')} ({percent(errors.rate)}) count as failures; without them the score "
            f"is {Score(evaluation.score_without_errors)}.{reliable}"
        )
        blocks.append(Note(text, warning=True))
        kinds = ", ".join(f"{n:,} {kind}" for kind, n in errors.kinds.items())
        messages = [Note(message) for message in errors.messages]
        blocks.append(Details(f"Errors: {excerpt(kinds, 200)}", messages))
    if evaluation.repaired:
        blocks.append(Note(_repaired(evaluation.repaired)))
    if evaluation.n_distinct < evaluation.n_examples:
        text = (
            f"{evaluation.n_distinct:,} of the examples differ in their inputs; the interval allows for it."
        )
        blocks.append(Note(text))
    return blocks


def _classes(found: Classification | None) -> list[Block]:
    if found is None:
        return []
    rows = [
        (label, f"{s.precision:.3f}", f"{s.recall:.3f}", f"{s.f1:.3f}", f"{s.support:,}", f"{s.predicted:,}")
        for label, s in [
            *list(found.per_class.items())[:_ROWS_SHOWN],
            ("macro average", found.macro),
            ("weighted average", found.weighted),
        ]
    ]
    caption = shown(_ROWS_SHOWN, len(found.per_class), "labels")
    columns = (found.field, "precision", "recall", "F1", "support", "predicted")
    return [
        Table(columns, rows, frozenset(range(1, 6)), caption),
        Details("Confusion matrix", [_confusion(found.confusion, caption)]),
    ]


def _confusion(matrix: Confusion, caption: str) -> Table:
    rows = [
        (label, *(f"{n:,}" for n in row[:_ROWS_SHOWN]), f"{unanswered:,}")
        for label, row, unanswered in zip(matrix.labels, matrix.matrix, matrix.unanswered, strict=True)
    ]
    columns = ("expected ↓ answered →", *matrix.labels[:_ROWS_SHOWN], "(no answer)")
    return Table(columns, rows[:_ROWS_SHOWN], frozenset(range(1, len(columns))), caption)


# -- text -------------------------------------------------------------------------------------------------------


def evaluation_text(evaluation: Evaluation) -> str:
    """Return the result as lines of at most about 100 characters."""
    parts = [
        [f"{evaluation.program} on {evaluation.n:,} examples, {evaluation.metric}"],
        _score_lines(evaluation),
        _class_lines(evaluation),
        _slice_lines(evaluation),
        _cost_lines(evaluation),
    ]
    return "\n".join(visible(line).replace("\n", " ") for part in parts for line in part)


def _repaired(n: int) -> str:
    return f"{count(n, 'answer')} held half of a surrogate pair, such as \\ud83d; it was made text."


def _score_lines(evaluation: Evaluation) -> list[str]:
    low, high = evaluation.interval
    right = "" if evaluation.correct is None else f", {evaluation.correct:,} of {evaluation.n:,} right"
    lines = [
        f"  score {_percent(evaluation.score)}  "
        f"[{_percent(low)}, {_percent(high)}] at {evaluation.confidence:.0%} confidence{right}"
    ]
    for name, score in list(evaluation.metrics.items())[1:]:
        low, high = score.interval
        lines.append(f"  {name} {_percent(score.score)}  [{_percent(low)}, {_percent(high)}]")
    errors = evaluation.errors
    if errors.count:
        kinds = ", ".join(f"{n} {kind}" for kind, n in errors.kinds.items())
        lines.append(
            f"  {errors.count} errors ({errors.rate:.1%}) count as failures: {kinds}; "
            f"{_without(evaluation.score_without_errors)}"
        )
        lines.extend(f"    {message}" for message in errors.messages)
    if evaluation.repaired:
        lines.append(f"  {_repaired(evaluation.repaired)}")
    if not evaluation.complete:
        lines.append(f"  PARTIAL: interrupted after {evaluation.n:,} of {evaluation.n_planned:,}")
    if not evaluation.reliable:
        reason = (
            f"more than {evaluation.max_error_rate:.0%} errors" if evaluation.n else "nothing was finished"
        )
        lines.append(f"  NOT RELIABLE: {reason}")
    if evaluation.n_distinct < evaluation.n_examples:
        lines.append(
            f"  {evaluation.n_distinct:,} of the {evaluation.n_examples:,} examples differ in their inputs; "
            "the interval allows for it"
        )
    return lines


def _class_lines(evaluation: Evaluation) -> list[str]:
    found = evaluation.classification
    if found is None:
        return []
    rows = [(label, score) for label, score in found.per_class.items()]
    rows += [("macro average", found.macro), ("weighted average", found.weighted)]
    width = min(30, max(len(label) for label, _ in rows))
    lines = [f"  {found.field:{width}.{width}}  precision  recall     f1  support  predicted"]
    for label, score in rows:
        lines.append(
            f"  {label:{width}.{width}}  {score.precision:9.3f}  {score.recall:6.3f}  {score.f1:5.3f}"
            f"  {score.support:7,}  {score.predicted:9,}"
        )
    lines.append(f"  accuracy {_percent(found.accuracy)}")
    return lines


def _slice_lines(evaluation: Evaluation) -> list[str]:
    if not evaluation.slices:
        return []
    first = list(evaluation.slices.items())[:_SLICES_SHOWN]
    width = min(30, max(len(key) for key, _ in first))
    lines = [f"  by {evaluation.by}:"]
    for key, part in first:
        low, high = part.interval
        lines.append(
            f"    {key:{width}.{width}}  {_percent(part.score)}  [{_percent(low)}, {_percent(high)}]  n {part.n:,}"
        )
    if len(evaluation.slices) > _SLICES_SHOWN:
        lines.append(f"    and {len(evaluation.slices) - _SLICES_SHOWN} more")
    return lines


def _cost_lines(evaluation: Evaluation) -> list[str]:
    latency = evaluation.latency
    lines = []
    if latency:
        lines.append(
            f"  latency mean {latency.mean_ms:,.0f} ms, p50 {latency.p50_ms:,.0f}, p95 {latency.p95_ms:,.0f}, "
            f"p99 {latency.p99_ms:,.0f} (n {latency.n:,}, cache hits left out)"
        )
    lines.append(f"  {_usage_line(evaluation.usage)}; {evaluation.duration_s:,.1f} s")
    if evaluation.metric_usage != Usage():
        lines.append(f"  the metric used {_usage_line(evaluation.metric_usage)}")
    return lines


def _usage_line(usage: Usage) -> str:
    tokens = ["unknown" if n is None else f"{n:,}" for n in (usage.prompt_tokens, usage.completion_tokens)]
    price = "price unknown" if usage.usd is None else f"${usage.usd:,.4f}"
    return (
        f"{usage.lm_calls:,} LM calls, {usage.cache_hits:,} cache hits, "
        f"{tokens[0]} + {tokens[1]} tokens, {price}"
    )


def _without(score: float) -> str:
    return "there is no other" if math.isnan(score) else f"without them the score is {_percent(score)}"


def _percent(share: float) -> str:
    return f"{share:.1%}"
