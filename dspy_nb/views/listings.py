"""Presets, versions and histories as tables, and advice on what was just decided."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from dspy_nb.core.deployment.history import Deployment
from dspy_nb.core.doors import Shown
from dspy_nb.core.evidence import Evidence
from dspy_nb.core.models.stages import HistoryEntry
from dspy_nb.core.models.version import ModelVersion
from dspy_nb.core.optimization.presets import Preset
from dspy_nb.views.documents import Cell, Document, Note, Score, Table, document
from dspy_nb.views.wording import UNKNOWN, moment, say_rest

__all__ = ["Listing", "advice_on_deployment", "advice_on_promotion", "evidence_text", "short_path"]

T = TypeVar("T")


class Listing(Shown, list[T]):
    """Presets, versions or lines of a history: a list that shows as one table under a title.

    Args:
        items: All of one kind.
        title: The title; that of their kind if it is left out.
        nothing: What is said where there are none.
    """

    def __init__(self, items: Iterable[T], title: str = "", nothing: str = "Nothing yet.") -> None:
        super().__init__(items)
        self.title, self.nothing = title, nothing

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:  # IPython's printer of lists would come first
        printer.text(self.report())


@dataclass(frozen=True)
class _Kind:
    """How one kind of item is listed; of more than ``limit`` only the first are shown."""

    title: str
    columns: Sequence[str]
    row: Callable[[Any], tuple[Cell, ...]]
    numbers: frozenset[int] = frozenset()
    limit: int | None = None


@document.register
def _(items: Listing) -> Document:  # type: ignore[type-arg]  # no dispatch on what is in a list
    if not items:
        return Document(items.title, [Note(items.nothing)])
    kind = _KINDS[type(items[0])]
    limit = kind.limit or len(items)
    rows = [kind.row(item) for item in items[:limit]]
    caption = say_rest(limit, len(items), kind.title.lower())
    return Document(items.title or kind.title, [Table(kind.columns, rows, kind.numbers, caption)])


def _list_preset(preset: Preset) -> tuple[str, ...]:
    uses = f"for {', '.join(preset.recommended_for)}" if preset.recommended_for else ""
    return (
        preset.name if preset.source == "package" else f"{preset.name} (yours)",
        f"{preset.optimizer}: {', '.join(f'{k}={v!r}' for k, v in preset.options.items())}",
        "; ".join(part for part in (preset.description, uses) if part),
    )


def _list_version(version: ModelVersion) -> tuple[Cell, ...]:
    return (
        version.ref,
        version.stage,
        Score(version.score, version.interval),
        version.score_kind or UNKNOWN,
        version.optimizer or UNKNOWN,
        version.base_model or UNKNOWN,
        moment(version.created_at),
    )


def _list_decision(entry: HistoryEntry) -> tuple[str, ...]:
    return (
        str(entry.number),
        moment(entry.at, seconds=True),
        f"{entry.action} (FORCED)" if entry.forced else entry.action,
        ", ".join(entry.versions if entry.version is None else (entry.version,)),
        _stages(entry),
        entry.by,
        entry.reason or "",
        evidence_text(entry.evidence),
    )


def _list_deployment(line: Deployment) -> tuple[str, ...]:
    return (
        str(line.number),
        moment(line.at, seconds=True),
        line.action,
        line.ref,
        _instead(line),
        "yes" if line.rollback_available else "no",
        line.by,
        line.reason or "",
        evidence_text(line.evidence),
    )


def _instead(line: Deployment) -> str:
    """Return what was live before, or what a canary has come to."""
    if line.candidate is None or line.action == "canary-finish":
        return line.replaced or UNKNOWN
    return f"{line.share:.0%} to {line.candidate}" if line.share else f"without {line.candidate}"


def _stages(entry: HistoryEntry) -> str:
    if entry.to_stage is None:
        return ""
    text = f"{entry.from_stage} → {entry.to_stage}" if entry.from_stage else entry.to_stage
    return f"{text}; {entry.demoted} → deprecated" if entry.demoted else text


_FIRST: Final = frozenset([0])
_KINDS: Final[dict[type, _Kind]] = {
    Preset: _Kind("Presets", ("name", "optimizer and options", "what for"), _list_preset),
    ModelVersion: _Kind(
        "Versions",
        ("version", "stage", "score", "measured on", "optimizer", "language model", "created (UTC)"),
        _list_version,
        limit=50,
    ),
    HistoryEntry: _Kind(
        "History",
        ("no", "when (UTC)", "what", "version", "stage", "who", "why", "evidence"),
        _list_decision,
        _FIRST,
    ),
    Deployment: _Kind(
        "Deployment",
        ("no", "when (UTC)", "what", "live", "instead of", "way back", "who", "why", "evidence"),
        _list_deployment,
        _FIRST,
    ),
}
for _kind in _KINDS:
    document.register(_kind, lambda item: document(Listing([item])))


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


def evidence_text(evidence: Evidence | None) -> str:
    """Return evidence in a few words."""
    return "" if evidence is None else evidence.summary()
