"""An evaluation as HTML; its text is ``Evaluation.report()``."""

from __future__ import annotations

from dspy_nb.core.classification import Classification, Confusion
from dspy_nb.core.evaluation import Evaluation
from dspy_nb.core.usage import Usage
from dspy_nb.documents import Block, Details, Document, Facts, Note, Score, Table, to_html
from dspy_nb.wording import count, duration, excerpt, known, percent, shown, usage_facts

__all__ = ["evaluation_html"]

_ROWS_SHOWN = 20


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
