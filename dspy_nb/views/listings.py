"""Presets, versions and histories as tables, what changed between two versions, and advice on what was decided."""

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
from dspy_nb.core.registry.diff import VersionDiff
from dspy_nb.views.documents import Block, Cell, Changes, Document, Note, Score, Table, document
from dspy_nb.views.wording import UNKNOWN, moment, say_rest

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
    """How one kind of item is listed; of more than ``limit`` only the first are shown; ``spare``: see ``Table``."""

    title: str
    columns: Sequence[str]
    row: Callable[[Any], tuple[Cell, ...]]
    numbers: frozenset[int] = frozenset()
    limit: int | None = None
    spare: Sequence[str] = ()


@document.register
def _(items: Listing) -> Document:  # type: ignore[type-arg]  # no dispatch on what is in a list
    if not items:
        return Document(items.title, [Note(items.nothing)])
    kind = _KINDS[type(items[0])]
    limit = kind.limit or len(items)
    rows = [kind.row(item) for item in items[:limit]]
    caption = say_rest(limit, len(items), kind.title.lower())
    return Document(items.title or kind.title, [Table(kind.columns, rows, kind.numbers, caption, kind.spare)])


def _list_preset(preset: Preset) -> tuple[Cell, ...]:
    uses = f"for {', '.join(preset.recommended_for)}" if preset.recommended_for else ""
    name = preset.name if preset.source == "package" else f"{preset.name} (yours)"
    options = ", ".join(f"{option}={value!r}" for option, value in preset.options.items())
    return name, f"{preset.optimizer}: {options}", "; ".join(filter(None, (preset.description, uses)))


def _list_version(version: ModelVersion) -> tuple[Cell, ...]:
    v, score = version, Score(version.score, version.interval)
    return v.ref, v.stage, score, v.score_kind, v.optimizer, v.base_model, moment(v.created_at)


def _list_decision(entry: HistoryEntry) -> tuple[Cell, ...]:
    versions = ", ".join(entry.versions if entry.version is None else (entry.version,))
    return _list_line(entry, decision_text(entry), versions, _stages(entry))


def _list_deployment(line: Deployment) -> tuple[Cell, ...]:
    way_back = "yes" if line.rollback_available else "no"
    return _list_line(line, line.action, line.ref, _instead(line), way_back)


def _list_line(line: HistoryEntry | Deployment, *what: str) -> tuple[Cell, ...]:
    at, why = moment(line.at, seconds=True), evidence_text(line.evidence)
    return str(line.number), at, *what, line.by, line.reason or "", why


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


_WHEN: Final = ("no", "when (UTC)", "what")
_WHY: Final = ("who", "why", "evidence")
_KINDS: Final[dict[type, _Kind]] = {
    Preset: _Kind("Presets", ("name", "optimizer and options", "what for"), _list_preset),
    ModelVersion: _Kind(
        "Versions",
        ("version", "stage", "score", "measured on", "optimizer", "language model", "created (UTC)"),
        _list_version,
        limit=50,
        spare=("language model", "optimizer", "created (UTC)"),
    ),
    HistoryEntry: _Kind("History", (*_WHEN, "version", "stage", *_WHY), _list_decision, frozenset([0])),
    Deployment: _Kind(
        "Deployment", (*_WHEN, "live", "instead of", "way back", *_WHY), _list_deployment, frozenset([0])
    ),
}
for _kind in _KINDS:
    document.register(_kind, lambda item: document(Listing([item])))


@document.register
def _(diff: VersionDiff) -> Document:
    sections: list[Block] = [
        Changes([(change.sign, change.text) for change in changes], section)
        for section, changes in diff.sections().items()
    ]
    return Document("", [Changes([("---", diff.a), ("+++", diff.b)]), *(sections or [Note("no difference")])])


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
    of_it = [entry.evidence for entry in history if entry.version == made.version]
    if any(evidence and "ab" in evidence.answers for evidence in of_it):
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


def decision_text(entry: HistoryEntry) -> str:
    """Return what was done, and whether a rule was overridden for it."""
    return f"{entry.action} (FORCED)" if entry.forced else entry.action


def evidence_text(evidence: Evidence | None) -> str:
    """Return evidence in a few words."""
    return "" if evidence is None else evidence.summary()
