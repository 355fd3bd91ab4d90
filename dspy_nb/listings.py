"""Presets and versions as tables, in text and HTML."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from dspy_nb.core.model_version import ModelVersion
from dspy_nb.core.presets import Preset
from dspy_nb.documents import Document, Note, Score, Table, to_html, to_text
from dspy_nb.wording import UNKNOWN, shown

__all__ = [
    "Presets", "Versions", "presets_html", "presets_text", "short_path", "versions_html", "versions_text",
]  # fmt: skip

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
