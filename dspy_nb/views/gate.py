"""What a gate says, as a document: whether it passed, then each condition."""

from __future__ import annotations

from dspy_nb.core.evidence import GateResult
from dspy_nb.views.documents import Document, Table, document
from dspy_nb.views.wording import count


@document.register
def _(result: GateResult) -> Document:
    rows = [("ok" if check.passed else "NO", check.condition, str(check)) for check in result.checks]
    failed = f"{len(result.reasons)} of {count(len(rows), 'condition')} not met"
    said = "passed" if result.passed else f"said no: {failed}"
    return Document(f"Gate {said}", [Table(("", "condition", "what it found"), rows)])
