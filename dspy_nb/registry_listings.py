"""What was decided in a registry, and what was live where, as tables in text and HTML."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dspy_nb.core.deployment_log import Deployment
from dspy_nb.core.stages import HistoryEntry
from dspy_nb.documents import Document, Note, Score, Table, to_html, to_text
from dspy_nb.wording import UNKNOWN

__all__ = [
    "Decisions",
    "Deployments",
    "decisions_html",
    "decisions_text",
    "deployments_html",
    "deployments_text",
    "evidence_text",
]  # fmt: skip


class Decisions(list[HistoryEntry]):
    """The history of a model, which shows as a table under a title in a notebook."""

    def __init__(self, entries: Iterable[HistoryEntry], title: str) -> None:
        super().__init__(entries)
        self.title = title

    def _repr_html_(self) -> str:
        return decisions_html(self, self.title)

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(decisions_text(self, self.title))


class Deployments(list[Deployment]):
    """The history of an environment, which shows as a table under a title in a notebook."""

    def __init__(self, deployments: Iterable[Deployment], title: str) -> None:
        super().__init__(deployments)
        self.title = title

    def _repr_html_(self) -> str:
        return deployments_html(self, self.title)

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(deployments_text(self, self.title))


def decisions_text(entries: Sequence[HistoryEntry], title: str) -> str:
    """Return the history of a model as a table in text."""
    return to_text(_decisions(entries, title))


def decisions_html(entries: Sequence[HistoryEntry], title: str) -> str:
    """Return the history of a model as a table in HTML."""
    return to_html(_decisions(entries, title))


def deployments_text(deployments: Sequence[Deployment], title: str = "Deployment") -> str:
    """Return the history of an environment as a table in text."""
    return to_text(_deployments(deployments, title))


def deployments_html(deployments: Sequence[Deployment], title: str = "Deployment") -> str:
    """Return the history of an environment as a table in HTML."""
    return to_html(_deployments(deployments, title))


def _decisions(entries: Sequence[HistoryEntry], title: str) -> Document:
    rows = [
        (
            str(entry.number),
            _when(entry.at),
            f"{entry.action} (FORCED)" if entry.forced else entry.action,
            ", ".join(entry.versions if entry.version is None else (entry.version,)),
            _stages(entry),
            entry.by,
            entry.reason or "",
            evidence_text(entry.evidence),
        )
        for entry in entries
    ]
    columns = ("no", "when (UTC)", "what", "version", "stage", "who", "why", "evidence")
    return _document(title, columns, rows)


def _deployments(deployments: Sequence[Deployment], title: str) -> Document:
    rows = [
        (
            str(line.number),
            _when(line.at),
            line.action,
            line.ref,
            _instead(line),
            "yes" if line.rollback_available else "no",
            line.by,
            line.reason or "",
            evidence_text(line.evidence),
        )
        for line in deployments
    ]
    columns = ("no", "when (UTC)", "what", "live", "instead of", "way back", "who", "why", "evidence")
    return _document(title, columns, rows)


def _instead(line: Deployment) -> str:
    """Return what was live before, or what a canary has come to."""
    if line.candidate is None or line.action == "canary-finish":
        return line.replaced or UNKNOWN
    return f"{line.share:.0%} to {line.candidate}" if line.share else f"without {line.candidate}"


def _document(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Document:
    return Document(title, [Table(columns, rows, frozenset([0]))] if rows else [Note("Nothing yet.")])


def _when(at: str) -> str:
    return at[:19].replace("T", " ")


def _stages(entry: HistoryEntry) -> str:
    if entry.to_stage is None:
        return ""
    text = f"{entry.from_stage} → {entry.to_stage}" if entry.from_stage else entry.to_stage
    return f"{text}; {entry.demoted} → deprecated" if entry.demoted else text


def evidence_text(evidence: Mapping[str, Any] | None) -> str:
    """Return evidence in a few words; it may come from anybody, so nothing in it is taken for granted."""
    if evidence is None:
        return ""
    words = [str(evidence.get("kind"))]
    if "passed" in evidence:
        words.append("passed" if evidence["passed"] is True else "said no")
    if isinstance(evidence.get("verdict"), str):
        words.append(evidence["verdict"])
    score, interval, n = (evidence.get(key) for key in ("score", "interval", "n"))
    if isinstance(score, int | float):
        ends = [end for end in interval if isinstance(end, int | float)] if isinstance(interval, list) else []
        known = (ends[0], ends[1]) if len(ends) == 2 else None
        if evidence.get("kind") != "ab":
            words.append(str(Score(score, known)))
        elif known is not None:  # the interval of a comparison is that of the difference
            words.append(f"difference [{known[0]:+.3f}, {known[1]:+.3f}]")
    if isinstance(n, int):
        words.append(f"n = {n:,}")
    return ", ".join(words)
