"""What stands out in the answers behind a score: a warning each, with the first examples behind it folded away."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from dspy_nb.core.evaluation.diagnosis import Finding
from dspy_nb.core.evaluation.examples import ExampleResult
from dspy_nb.views.documents import Block, Details, Table, warn
from dspy_nb.views.examples.columns import fields_text

_EXAMPLES_SHOWN = 3
_TOLD_AT_ONCE = 6
_EXCERPT = 120


def finding_blocks(
    findings: Iterable[Finding], results: Callable[[Finding], Sequence[ExampleResult]]
) -> list[Block]:
    """Return a warning for each finding.

    Args:
        findings: What stands out.
        results: Returns the results that a finding is about; none where they are not at hand.
    """
    blocks: list[Block] = []
    for finding in findings:
        blocks += warn([finding.text])
        wanted = set(finding.examples[:_EXAMPLES_SHOWN])
        behind = [result for result in results(finding) if result.index in wanted] if wanted else []
        rows = [_row(result) for result in sorted(behind, key=lambda result: result.index)]
        if rows:
            shown = rows[:_EXAMPLES_SHOWN]
            more = f" of {len(finding.examples):,}" if len(finding.examples) > len(shown) else ""
            table = Table(("example", "input", "expected", "answer"), shown, frozenset([0]))
            blocks.append(Details(f"The examples behind it ({len(shown)}{more})", [table], wide=True))
    return blocks


def finding_notes(texts: Sequence[str]) -> list[Block]:
    """Return what an event says of findings as warnings."""
    return warn(texts[:_TOLD_AT_ONCE])


def _row(result: ExampleResult) -> tuple[int, str, str, str]:
    inputs, expected, answer = (
        fields_text(fields, _EXCERPT) for fields in (result.inputs, result.expected, result.predicted)
    )
    if not answer:
        answer = f"({result.error.kind})" if result.error else "(no answer)"
    return result.index, inputs, expected, answer
