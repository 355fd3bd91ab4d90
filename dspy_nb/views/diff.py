"""What changed between two versions, as HTML."""

from __future__ import annotations

from typing import Final

from dspy_nb.core.registry.diff import VersionDiff
from dspy_nb.views.documents import markup

__all__ = ["diff_html"]

_COLOURS: Final = {"+": "#2ea04340", "-": "#f8514940", " ": "transparent"}  # a tint of a light or a dark page


def diff_html(diff: VersionDiff) -> str:
    """Return the diff as HTML that needs no style sheet, with everything escaped."""
    parts = [f"<h4>{markup(diff.a)} → {markup(diff.b)}</h4>"]
    for section, changes in diff.sections().items():
        rows = "".join(
            f'<div style="background:{_COLOURS[change.sign]};white-space:pre-wrap">'
            f"{change.sign} {markup(change.text)}</div>"
            for change in changes
        )
        parts.append(f"<h5>{markup(section)}</h5><div style='font-family:monospace'>{rows}</div>")
    return "".join(parts if diff.changes else [*parts, "<p>no difference</p>"])
