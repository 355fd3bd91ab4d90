"""Presets, versions and histories as tables, what changed between two versions, and advice on what was decided."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, TypeAlias, TypeVar

from dspy_nb.core.deployment.history import Deployment
from dspy_nb.core.deployment.serving import LiveIn
from dspy_nb.core.doors import Shown
from dspy_nb.core.errors import InputError
from dspy_nb.core.evidence import Evidence
from dspy_nb.core.models.requirements import Requirement
from dspy_nb.core.models.stages import HistoryEntry
from dspy_nb.core.models.version import ModelVersion
from dspy_nb.core.optimization.presets import Preset
from dspy_nb.core.storage.place import Place
from dspy_nb.core.text import did_you_mean, value_text
from dspy_nb.views.documents import Block, Cell, Document, Note, Score, Table, Toned, document, import_view
from dspy_nb.views.wording import UNKNOWN, moment, say_rest

T = TypeVar("T")


class Listing(Shown, list[T]):
    """Presets, versions or lines of a history: a list that shows as one table under a title.

    Args:
        items: All of one kind.
        title: The title; that of their kind if it is left out.
        nothing: What is said where there are none.
        columns: Of versions: names of columns, as ``check_columns`` returns them; by default the usual ones.
        live: Of versions: where those are live that are, by reference.
    """

    def __init__(
        self,
        items: Iterable[T],
        title: str = "",
        nothing: str = "Nothing yet.",
        *,
        columns: Sequence[str] | None = None,
        live: Live | None = None,
    ) -> None:
        super().__init__(items)
        self.title, self.nothing = title, nothing
        self.columns, self.live = columns, live or {}

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:  # IPython's printer of lists would come first
        printer.text(self.report())


@dataclass(frozen=True)
class Kind:
    """How one kind of item is listed.

    Of more than ``limit`` only the first are shown, or those of highest ``standing``; for ``spare`` see ``Table``.
    """

    title: str
    columns: Sequence[str]
    row: Callable[[Any], tuple[Cell, ...]]
    numbers: frozenset[int] = frozenset()
    limit: int | None = None
    standing: Callable[[Any], Any] | None = None
    note: Callable[[Iterable[Any]], str] = lambda items: ""
    spare: Sequence[str] = ()


@document.register
def _(items: Listing) -> Document:  # type: ignore[type-arg]  # no dispatch on what is in a list
    if not items:
        return Document(
            items.title, [Note(items.nothing)], headline=f"{items.title or 'A list'}: {items.nothing}"
        )
    of = type(items[0])
    import_view(of)
    kind = _version_kind(items.columns, items.live) if of is ModelVersion else _KINDS[of]
    limit = kind.limit or len(items)
    shown = items[:limit] if kind.standing is None else _foremost(items, kind.standing, limit)
    rows = [kind.row(item) for item in shown]
    caption = say_rest(limit, len(items), kind.title.lower())
    title = items.title or kind.title
    note = kind.note(shown)
    blocks: list[Block] = [
        Table(kind.columns, rows, kind.numbers, caption, kind.spare),
        *([Note(note)] if note else []),
    ]
    return Document(title, blocks, headline=f"{title}: {len(items):,} in all")


def _foremost(items: Sequence[T], standing: Callable[[T], Any], limit: int) -> list[T]:
    """Return those of highest standing, in the order in which they are listed."""
    ranked = sorted(range(len(items)), key=lambda place: standing(items[place]), reverse=True)
    return [items[place] for place in sorted(ranked[:limit])]


def _alone(item: object) -> Document:
    """Return the document of one item, whose line is its row."""
    cells = (str(cell) for cell in _KINDS[type(item)].row(item) if cell is not None)
    return replace(
        document(Listing([item])), headline=", ".join(text for text in cells if text not in ("", UNKNOWN))
    )


def _list_preset(preset: Preset) -> tuple[Cell, ...]:
    uses = f"for {', '.join(preset.recommended_for)}" if preset.recommended_for else ""
    name = preset.name if preset.source == "package" else f"{preset.name} (yours)"
    options = ", ".join(f"{option}={value!r}" for option, value in preset.options.items())
    return name, f"{preset.optimizer}: {options}", "; ".join(filter(None, (preset.description, uses)))


Live: TypeAlias = Mapping[str, Sequence[LiveIn]]


@dataclass(frozen=True)
class Column:
    """What a table of versions says of each: its title, and the cell of a version and of where that is live."""

    title: str
    cell: Callable[[ModelVersion, Sequence[LiveIn]], Cell]
    number: bool = False


COLUMNS: Final[Mapping[str, Column]] = {
    "version": Column("version", lambda version, live: version.ref),
    "stage": Column("stage", lambda version, live: version.stage),
    "live": Column("live", lambda version, live: ", ".join(map(str, live)) or UNKNOWN),
    "score": Column("score", lambda version, live: Score(version.score, version.interval)),
    "measured": Column("measured on", lambda version, live: version.score_kind),
    "optimizer": Column("optimizer", lambda version, live: version.optimizer),
    "model": Column("language model", lambda version, live: version.base_model),
    "created": Column("created (UTC)", lambda version, live: moment(version.created_at)),
    "parent": Column("made from", lambda version, live: version.parent),
    "size": Column("size", lambda version, live: _size(version.size_bytes), number=True),
}
"""What can be said of a version, by the name that chooses it."""

_USUAL: Final = ("version", "stage", "live", "score", "measured", "optimizer", "model", "created")


def check_columns(text: str) -> list[str]:
    """Return the names of columns in a comma-separated list.

    Raises:
        InputError: One is not known or occurs twice, or there is none.
    """
    chosen = [name.strip().lower() for name in text.split(",")]
    for name in chosen:
        if name not in COLUMNS:
            hint = did_you_mean(name, COLUMNS)
            words = f"{hint}? There are" if hint else "use"
            raise InputError(f"column {value_text(name, 80)} is not known: {words} {', '.join(COLUMNS)}")
        if chosen.count(name) > 1:
            raise InputError(f"column {name!r} is given twice")
    return chosen


def _version_kind(columns: Sequence[str] | None, live: Live) -> Kind:
    """Return how versions are listed: in the usual columns by default, where they are live only if one is."""
    spare: tuple[str, ...] = ()
    if columns is None:
        columns = [name for name in _USUAL if live or name != "live"]
        spare = ("language model", "optimizer", "created (UTC)")
    chosen = [COLUMNS[name] for name in columns]
    return Kind(
        "Versions",
        [column.title for column in chosen],
        lambda version: tuple(column.cell(version, live.get(version.ref, ())) for column in chosen),
        frozenset(place for place, column in enumerate(chosen) if column.number),
        limit=50,
        spare=spare,
    )


def _size(size_bytes: int) -> str:
    return f"{size_bytes / 1e3:.1f} kB" if size_bytes < 1e6 else f"{size_bytes / 1e6:.1f} MB"


def _list_requirement(one: Requirement) -> tuple[Cell, ...]:
    return one.name, Toned("✓ met", "good") if one.met else Toned("✗ not met", "bad"), one.evidence


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
_KINDS: Final[dict[type, Kind]] = {
    Preset: Kind("Presets", ("name", "optimizer and options", "what for"), _list_preset),
    ModelVersion: _version_kind(None, {}),
    Requirement: Kind("Requirements", ("requirement", "met", "by what"), _list_requirement),
    HistoryEntry: Kind("History", (*_WHEN, "version", "stage", *_WHY), _list_decision, frozenset([0])),
    Deployment: Kind(
        "Deployment", (*_WHEN, "live", "instead of", "way back", *_WHY), _list_deployment, frozenset([0])
    ),
}
for _type in _KINDS:
    document.register(_type, _alone)


def add_kind(items: type, kind: Kind) -> None:
    """Let items of a type be listed; the view that says how is theirs in ``documents``."""
    _KINDS[items] = kind
    document.register(items, _alone)


def short_path(path: Place) -> str:
    """Return a path as short as it can be said from here; an address on object storage as it is."""
    if not isinstance(path, Path):
        return str(path)
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
