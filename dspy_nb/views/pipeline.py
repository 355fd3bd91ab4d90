"""A pipeline as a document: shipped or refused first, then each step."""

from __future__ import annotations

from dspy_nb.core.pipeline.folder import PipelineResult
from dspy_nb.views.documents import Block, Document, Note, Table, document
from dspy_nb.views.wording import duration

_SIGNS = {"passed": "ok", "refused": "NO", "skipped": "–"}


@document.register
def _(result: PipelineResult) -> Document:
    rows = [
        (_SIGNS[step.status], step.name, step.message, duration(step.duration_s)) for step in result.steps
    ]
    blocks: list[Block] = [Table(("", "step", "what it found", "time"), rows, frozenset([3]))]
    if result.reason is not None:
        blocks.append(Note(f"Nothing was deployed beyond {_reached(result)}.", warning=True))
    against = f" against {result.baseline}" if result.baseline else ""
    return Document(f"Pipeline: {_outcome(result)}", blocks, f"{result.ref or 'no version'}{against}")


def _outcome(result: PipelineResult) -> str:
    if result.shipped is None:
        return f"{result.steps[-1].name} is done, more is to come"
    return f"{result.ref} is live" if result.shipped else f"refused by {result.steps[-1].name}"


def _reached(result: PipelineResult) -> str:
    staged = any(step.name == "staging" and step.status == "passed" for step in result.steps)
    return "staging" if staged else "the registry"
