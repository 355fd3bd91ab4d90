"""What is in a registry now: read again where something was written, and told where it is damaged."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dspy_nb.core.deployment.history import Deployment
from dspy_nb.core.errors import Corrupt, DspyNbError, NotFound, Refused
from dspy_nb.core.models.stages import HistoryEntry
from dspy_nb.core.models.version import ModelVersion
from dspy_nb.core.registry.registry import Registry

__all__ = ["Contents", "RegistryWatch"]


@dataclass(frozen=True)
class Contents:
    """What could be read of a registry.

    Attributes:
        versions: Those of the models whose logs are sound, in the registry's own order.
        live: Names of environments, each with the reference of what is live there.
        damage: A line for each model and environment that cannot be read.
    """

    versions: list[ModelVersion]
    live: list[tuple[str, str]]
    damage: list[str]


@dataclass(frozen=True)
class _Damage:
    line: str


class RegistryWatch:
    """A registry to look at again and again: where nothing is new, a look takes a few file operations a log.

    Damage to one log does not hide the others, and a damaged log is left alone until its folder changes.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._heads: object = None
        self._damaged: dict[Path, tuple[object, _Damage]] = {}

    def look(self) -> Contents | None:
        """Return what is in the registry, or ``None`` if that is what the last look found."""
        models: Mapping[str, object] = {}
        places: Mapping[str, object] = {}
        found = Contents([], [], [])
        try:
            models = {name: self._head("model", name) for name in self._registry.folder_names()}
            places = {name: self._head("environment", name) for name in self._registry.environments()}
        except DspyNbError as error:
            found.damage.append(str(error))
        heads = (models, places, [*found.damage])
        if heads == self._heads:
            return None
        self._heads = heads
        found.damage.extend(
            head.line for head in (*models.values(), *places.values()) if isinstance(head, _Damage)
        )
        found.live.extend((name, head.ref) for name, head in places.items() if isinstance(head, Deployment))
        for name, head in models.items():
            if isinstance(head, HistoryEntry):
                try:
                    found.versions.extend(self._registry.list(name))
                except DspyNbError:
                    self._heads = None  # damaged since: the next look tells
        return found

    def _head(self, kind: str, name: str) -> object:
        """Return the last line of a log, ``None`` if it has none, or the damage to it."""
        folder = self._registry.root / f"{kind}s" / name / "log"
        before, damage = self._damaged.get(folder, (None, None))
        if damage is not None:
            now = _signature(folder)
            if now == before:
                return damage
            before = now
        try:
            head = self._last_line(kind, name)
        except DspyNbError as error:
            damage = _Damage(f"{kind} {name}: {error}")
            # Only what stays the same until a file changes is kept. The first time nothing is known of how
            # the folder was before it was read, so that it is read once more.
            if isinstance(error, Corrupt | Refused):
                self._damaged[folder] = before, damage
            return damage
        self._damaged.pop(folder, None)
        return head

    def _last_line(self, kind: str, name: str) -> HistoryEntry | Deployment | None:
        if kind == "environment":
            place = self._registry.environment(name)
            return place.read(lambda state: state.history[-1] if state.history else None)
        try:
            return self._registry.last_entry(name)
        except NotFound:
            return None  # its first version is being registered


def _signature(folder: Path) -> object:
    """Return something that is another after any change in a folder."""
    try:
        with os.scandir(folder) as files:
            found = {file.name: file.stat(follow_symlinks=False) for file in files}
    except OSError as error:
        return str(error)
    return {
        name: (status.st_ino, status.st_ctime_ns, status.st_mtime_ns, status.st_size)
        for name, status in found.items()
    }
