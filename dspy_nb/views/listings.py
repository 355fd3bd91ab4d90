"""Presets and versions as tables, in text and HTML."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from dspy_nb.core.deployment.history import Deployment
from dspy_nb.core.evidence import Evidence
from dspy_nb.core.models.stages import HistoryEntry
from dspy_nb.core.models.version import ModelVersion
from dspy_nb.core.optimization.presets import Preset
from dspy_nb.views.documents import Document, Note, Score, Table, to_html, to_text
from dspy_nb.views.wording import UNKNOWN, shown

__all__ = [
    "Decisions",
    "Deployments",
    "Presets",
    "Versions",
    "advice_on_deployment",
    "advice_on_promotion",
    "decisions_html",
    "decisions_text",
    "deployments_html",
    "deployments_text",
    "evidence_text",
    "presets_html",
    "presets_text",
    "short_path",
    "versions_html",
    "versions_text",
]

_VERSIONS_SHOWN = 50


class Presets(list[Preset]):
    """A list that shows as a table in a notebook."""

    def _repr_html_(self) -> str:
        return presets_html(self)

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(presets_text(self))


class Versions(list[ModelVersion]):
    """A list that shows as a table under a title in a notebook."""

    def __init__(self, versions: Iterable[ModelVersion], title: str = "Versions") -> None:
        super().__init__(versions)
        self.title = title

    def _repr_html_(self) -> str:
        return versions_html(self, self.title)

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(versions_text(self, self.title))


def presets_text(presets: Iterable[Preset]) -> str:
    """Return presets as a table in text."""
    return to_text(_presets(presets))


def presets_html(presets: Iterable[Preset]) -> str:
    """Return presets as a table in HTML."""
    return to_html(_presets(presets))


def _presets(presets: Iterable[Preset]) -> Document:
    rows = [
        (
            preset.name if preset.source == "package" else f"{preset.name} (yours)",
            f"{preset.optimizer}: {', '.join(f'{k}={v!r}' for k, v in preset.options.items())}",
            _purpose(preset),
        )
        for preset in presets
    ]
    return Document("Presets", [Table(("name", "optimizer and options", "what for"), rows)])


def _purpose(preset: Preset) -> str:
    uses = f"for {', '.join(preset.recommended_for)}" if preset.recommended_for else ""
    return "; ".join(part for part in (preset.description, uses) if part)


def versions_text(versions: Sequence[ModelVersion], title: str = "Versions") -> str:
    """Return versions of models as a table in text."""
    return to_text(_versions(versions, title))


def versions_html(versions: Sequence[ModelVersion], title: str = "Versions") -> str:
    """Return versions of models as a table in HTML."""
    return to_html(_versions(versions, title))


def _versions(versions: Sequence[ModelVersion], title: str) -> Document:
    rows = [
        (
            version.ref,
            version.stage,
            Score(version.score, version.interval),
            version.score_kind or UNKNOWN,
            version.optimizer or UNKNOWN,
            version.base_model or UNKNOWN,
            version.created_at[:16].replace("T", " "),
        )
        for version in versions[:_VERSIONS_SHOWN]
    ]
    if not rows:
        return Document(title, [Note("No versions yet.")])
    caption = shown(_VERSIONS_SHOWN, len(versions), "versions")
    columns = ("version", "stage", "score", "measured on", "optimizer", "language model", "created (UTC)")
    return Document(title, [Table(columns, rows, caption=caption)])


def short_path(path: Path) -> str:
    """Return a path as short as it can be said from here."""
    here = os.path.relpath(path)
    return str(path) if here.startswith("..") else here


# -- advice -----------------------------------------------------------------------------------------------------


def advice_on_promotion(history: Sequence[HistoryEntry]) -> str | None:
    """Return what to know about the promotion that was just made, ``None`` if nothing.

    Args:
        history: Of the model, the promotion last.
    """
    made = history[-1]
    if made.demoted is None:
        return None
    compared = [
        entry
        for entry in history
        if entry.version == made.version and entry.evidence and "ab" in entry.evidence.answers
    ]
    if compared:
        return None
    return (
        f"{made.version} replaces {made.demoted} in production, and the two were never compared: dspy-nb ab-test, "
        "or %dspy_ab in a notebook, says which is better"
    )


def advice_on_deployment(made: Deployment) -> str | None:
    """Return what to know about the deployment that was just made, ``None`` if nothing."""
    if made.action == "deploy" and not made.rollback_available:
        return "nothing was live there before, so there is nothing to roll back to yet"
    return None


# -- histories --------------------------------------------------------------------------------------------------


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


def evidence_text(evidence: Evidence | None) -> str:
    """Return evidence in a few words."""
    return "" if evidence is None else evidence.summary()
