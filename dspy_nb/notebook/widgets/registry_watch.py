"""What is in a registry now: read again where something was written, and told where it is damaged."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from dspy_nb.core.deployment.history import Deployment
from dspy_nb.core.deployment.serving import LiveIn
from dspy_nb.core.errors import Corrupt, DspyNbError, NotFound, Refused
from dspy_nb.core.models.stages import HistoryEntry
from dspy_nb.core.models.version import ModelVersion
from dspy_nb.core.registry.registry import Registry
from dspy_nb.core.storage.place import Place, storage_of


@dataclass(frozen=True)
class Contents:
    """What could be read of a registry.

    Attributes:
        versions: Those of the models whose logs are sound, in the registry's own order.
        live: Where versions are live or a canary, by reference.
        damage: A line for each model and environment that cannot be read.
    """

    versions: list[ModelVersion]
    live: dict[str, list[LiveIn]]
    damage: list[str]


@dataclass(frozen=True)
class _Damage:
    """What is wrong with a log, and how its folder was before that was read; ``None`` if nobody looked."""

    line: str
    folder: object = field(compare=False)


class RegistryWatch:
    """A registry to look at again and again: where nothing is new, a look takes a few file operations a log.

    Damage to one log does not hide the others, and a damaged log is left alone until its folder changes.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._seen: object = None
        self._damaged: dict[Place, _Damage] = {}

    def look(self) -> Contents | None:
        """Return what is in the registry, or ``None`` if that is what the last look found."""
        heads: dict[tuple[str, str], object] = {}
        found = Contents([], {}, [])
        try:
            for kind, find in (
                ("model", self._registry.folder_names),
                ("environment", self._registry.environments),
            ):
                heads.update({(kind, name): self._head(kind, name) for name in find()})
        except DspyNbError as error:
            found.damage.append(str(error))
        seen = heads, [*found.damage]
        if seen == self._seen:
            return None
        self._seen = seen
        for (_, name), head in heads.items():
            if isinstance(head, _Damage):
                found.damage.append(head.line)
            elif isinstance(head, Deployment):
                found.live.setdefault(head.ref, []).append(LiveIn(name))
                if head.candidate is not None and head.action in ("canary-start", "canary-step"):
                    found.live.setdefault(head.candidate, []).append(LiveIn(name, head.share))
            elif isinstance(head, HistoryEntry):
                try:
                    found.versions.extend(self._registry.list(name))
                except DspyNbError:
                    self._seen = None  # damaged since: the next look tells
        return found

    def _head(self, kind: str, name: str) -> object:
        """Return the last line of a log, ``None`` if it has none, or the damage to it."""
        folder = self._registry.root / f"{kind}s" / name / "log"
        known = self._damaged.get(folder)
        now = None if known is None else _signature(folder)
        if known is not None and known.folder == now:
            return known
        try:
            head = self._last_line(kind, name)
        except DspyNbError as error:
            damage = _Damage(f"{kind} {name}: {error}", now)
            # Only what stays the same until a file changes is kept.
            if isinstance(error, Corrupt | Refused):
                self._damaged[folder] = damage
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


def _signature(folder: Place) -> object:
    """Return something that is another after any change in a folder."""
    if not isinstance(folder, Path):
        try:
            return storage_of(folder).list(folder)
        except OSError as error:
            return str(error)
    try:
        with os.scandir(folder) as files:
            found = {file.name: file.stat(follow_symlinks=False) for file in files}
    except OSError as error:
        return str(error)
    return {
        name: (status.st_ino, status.st_ctime_ns, status.st_mtime_ns, status.st_size)
        for name, status in found.items()
    }
