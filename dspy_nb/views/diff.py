"""What changed between two versions, as a document: a diff for each section."""

from __future__ import annotations

from dspy_nb.core.registry.diff import VersionDiff
from dspy_nb.views.documents import Block, Changes, Document, Note, document


@document.register
def _(diff: VersionDiff) -> Document:
    sections: list[Block] = [
        Changes([(change.sign, change.text) for change in changes], section)
        for section, changes in diff.sections().items()
    ]
    return Document("", [Changes([("---", diff.a), ("+++", diff.b)]), *(sections or [Note("no difference")])])
