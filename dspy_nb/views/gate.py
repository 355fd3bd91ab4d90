"""What a gate says, as a document: whether it passed, then each condition."""

from __future__ import annotations

from dspy_nb.core.pipeline.gate import GateCheck, GateResult
from dspy_nb.views.documents import Document, Table, document


@document.register
def _(result: GateResult) -> Document:
    rows = [
        ("ok" if check.passed else "NO", check.condition, _found(check) if check.passed else check.reason)
        for check in result.checks
    ]
    failed = f"{len(result.reasons)} of {len(rows)} conditions do not hold"
    said = "passed" if result.passed else f"said no: {failed}"
    return Document(f"Gate {said}", [Table(("", "condition", "what it found"), rows)])


def _found(check: GateCheck) -> str:
    what = {"complete": "examples ", "reliable": "error rate "}.get(check.condition, "")
    bound = "at most" if check.condition == "reliable" or check.condition.startswith("max_") else "at least"
    return f"{what}{_figure(check.measured)}, {bound} {_figure(check.required)} required"


def _figure(value: float | None) -> str:
    return "unknown" if value is None else f"{value:,.4g}"
