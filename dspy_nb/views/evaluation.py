"""An evaluation as a document: the scores first, then what is wrong with them."""

from __future__ import annotations

import math

from dspy_nb.core.evaluation.classification import Classification, Confusion
from dspy_nb.core.evaluation.scorecard import Evaluation
from dspy_nb.core.programs.usage import Usage
from dspy_nb.core.text import excerpt
from dspy_nb.views.documents import Block, Cell, Details, Document, Facts, Note, Score, Table, document, warn
from dspy_nb.views.examples.blocks import examples_block
from dspy_nb.views.findings import finding_blocks
from dspy_nb.views.wording import count, duration, level, percent, say_rest, usage_facts

_ROWS_SHOWN = 20


@document.register
def _(found: Evaluation) -> Document:
    blocks = [_scores(found), *_notes(found), *finding_blocks(found.findings, lambda _: found.results)]
    blocks += [*_classes(found.classification), *_slices(found)]
    model = f" · {found.base_model}" if found.base_model else ""
    examples = count(found.n_examples, "example") + (f", {found.repeats} times" if found.repeats > 1 else "")
    blocks.append(Facts(_facts(found)))
    if found.results:
        blocks.append(examples_block(found.example_table(), plain_blocks=[]))
    title = f"{found.program} on {examples}"
    return Document(title, blocks, f"{found.metric}{model}", f"{title}: {headline(found)}")


def headline(found: Evaluation) -> str:
    """Return ``exact_match 82.5% [68.1%, 91.3%], 33 of 40 right, 2 errors``."""
    said = [f"{found.metric} {Score(found.score, found.interval)}"]
    if found.correct is not None:
        said.append(f"{found.correct:,} of {found.n:,} right")
    if found.errors.count:
        said.append(count(found.errors.count, "error"))
    if not found.complete:
        said.append(f"PARTIAL: {found.n:,} of {found.n_planned:,} finished")
    return ", ".join(said)


def _scores(found: Evaluation) -> Table:
    rows = [(name, Score(m.score, m.interval), m.n, m.correct) for name, m in found.metrics.items()]
    columns = ("metric", f"score [{level(found.confidence)} interval]", "n", "right")
    return Table(columns, rows, frozenset([2, 3]))


def _notes(found: Evaluation) -> list[Block]:
    warnings = []
    if not found.complete:
        warnings.append(f"PARTIAL: interrupted after {found.n:,} of {found.n_planned:,}")
    if not found.reliable:
        reason = f"more than {found.max_error_rate:.0%} errors" if found.n else "nothing was finished"
        warnings.append(f"NOT RELIABLE: {reason}")
    details: list[Block] = []
    errors = found.errors
    if errors.count:
        kinds = ", ".join(f"{n:,} {kind}" for kind, n in errors.kinds.items())
        without = "there is no other score"
        if not math.isnan(found.score_without_errors):
            without = f"without them the score is {percent(found.score_without_errors)}"
        failed = f"{count(errors.count, 'error')} ({percent(errors.rate)})"
        warnings.append(f"{failed} count as failures; {without}")
        details.append(Details(f"Errors: {excerpt(kinds, 200)}", [Note(text) for text in errors.messages]))
    if found.repaired:
        held = f"{count(found.repaired, 'answer')} held half of a surrogate pair"
        details.append(Note(f"{held}, such as \\ud83d; it was made text."))
    if found.n_distinct < found.n_examples:
        differ = f"{found.n_distinct:,} of the {found.n_examples:,} examples differ in their inputs"
        details.append(Note(f"{differ}; the interval allows for it."))
    return warn(warnings) + details


def _classes(found: Classification | None) -> list[Block]:
    if found is None:
        return []
    classes = [*found.per_class.items()][:_ROWS_SHOWN]
    rows = [
        (label, f"{s.precision:.3f}", f"{s.recall:.3f}", f"{s.f1:.3f}", s.support, s.predicted)
        for label, s in [*classes, ("macro average", found.macro), ("weighted average", found.weighted)]
    ]
    rest = say_rest(_ROWS_SHOWN, len(found.per_class), "labels")
    accuracy = f"accuracy {percent(found.accuracy)}"
    caption = f"{accuracy}; {rest}" if rest else accuracy
    columns = (found.field, "precision", "recall", "F1", "support", "predicted")
    return [
        Table(columns, rows, frozenset(range(1, 6)), caption),
        Details("Confusion matrix", [_confusion(found.confusion, rest)], wide=True),
    ]


def _confusion(matrix: Confusion, caption: str) -> Table:
    rows: list[tuple[Cell, ...]] = [
        (label, *row[:_ROWS_SHOWN], unanswered)
        for label, row, unanswered in zip(matrix.labels, matrix.matrix, matrix.unanswered, strict=True)
    ]
    columns = ("expected ↓ answered →", *matrix.labels[:_ROWS_SHOWN], "(no answer)")
    return Table(columns, rows[:_ROWS_SHOWN], frozenset(range(1, len(columns))), caption)


def _slices(found: Evaluation) -> list[Block]:
    shown = [*found.slices.items()][:_ROWS_SHOWN]
    rows = [(key, Score(part.score, part.interval), part.n, part.errors) for key, part in shown]
    columns = (f"by {found.by}", "score", "n", "errors")
    caption = say_rest(_ROWS_SHOWN, len(found.slices), "slices")
    return [Table(columns, rows, frozenset([2, 3]), caption)] if rows else []


def _facts(found: Evaluation) -> list[tuple[str, str]]:
    facts = usage_facts(found.usage)
    if found.metric_usage != Usage():
        facts += [(f"{name} of the metric", value) for name, value in usage_facts(found.metric_usage)]
    if found.latency is not None:
        names = ("mean", "p50", "p95", "p99")
        times = ", ".join(f"{name} {getattr(found.latency, f'{name}_ms'):,.0f} ms" for name in names)
        kept = f"{count(found.latency.n, 'answer')}, waiting for the language model included"
        facts.insert(0, ("time per answer", f"{times} ({kept}, those from a cache left out)"))
    return [*facts, ("time", duration(found.duration_s))]
