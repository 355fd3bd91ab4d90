"""Reading a registry: which versions there are, what is in them, what was ever done to them."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from dspy_nb.core.errors import Conflict, DspyNbError, InputError, NotFound
from dspy_nb.core.models.loading import Loader
from dspy_nb.core.models.names import (
    ENVIRONMENTS,
    Reference,
    check_environment,
    check_model_id,
    parse_reference,
)
from dspy_nb.core.models.promotion import find_record
from dspy_nb.core.models.stages import HistoryEntry, ModelState, Record
from dspy_nb.core.models.version import FACTS, ModelVersion
from dspy_nb.core.storage.anchor import anchor_of
from dspy_nb.core.storage.files import explain_failure
from dspy_nb.core.storage.log import Log
from dspy_nb.core.storage.objects import local_folder, open_root
from dspy_nb.core.storage.place import storage_of
from dspy_nb.core.text import did_you_mean

if TYPE_CHECKING:
    import dspy
    import pandas as pd

Versions = list[ModelVersion]  # in the class below, list is the method
Names = list[str]
History = list[HistoryEntry]
Errors = list[DspyNbError]


class Catalogue:
    """What can be read from a registry; ``Registry`` adds what can be done to it."""

    def __init__(self, root: str | os.PathLike[str] = "registry") -> None:
        """Open the registry in the folder ``root``, which need not exist yet; ``~`` is the user's home.

        ``root`` may be a URL, as ``Registry`` says; traffic and experiments are in the folder ``local`` then (on
        Linux in ``~/.local/share/dspy-nb/registries``).

        Raises:
            InputError: It is neither a path nor such a URL, or the extra is not installed.
        """
        self.root = open_root(root)
        self.local = local_folder(self.root)
        self._logs: dict[str, Log[ModelState]] = {}
        self._loader = Loader()
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"Registry({str(self.root)!r})"

    def get(self, ref: str | ModelVersion) -> ModelVersion:
        """Return the version that a reference names now.

        Args:
            ref: ``model`` (its latest version), ``model@1.2.0``, ``model@^1.1``, ``model@~1.2``,
                ``model@latest``, ``model@staging`` or ``model@production``. Archived versions answer to
                their exact number only; ``latest`` and ranges prefer releases to prereleases.

        Raises:
            NotFound: There is none.
            InputError: The reference is not valid.
            Corrupt: The log is damaged.
        """
        reference = as_reference(ref)
        with self._reading(reference.model_id) as state:
            return self._version(reference.model_id, find_record(reference, state))

    def load(
        self, ref: str | ModelVersion, program: dspy.Module | type[dspy.Module] | None = None
    ) -> dspy.Module:
        """Return the program of a version, after verifying the hash of each of its files.

        A program of one plain predictor is rebuilt from its spec. One with a class of its own is loaded into
        a copy of ``program``. No language model and no code is ever taken from the files.

        Args:
            ref: A reference.
            program: An instance of the program's class, or the class.

        Raises:
            NotFound: There is no such version.
            Corrupt: A file of it was changed, added or removed.
            Refused: The class is needed, or ``program`` has other predictors, fields, roles or types, or a type
                that is made of other parts.

        Warns (``RegistryWarning``), once for each version and difference: DSPy, Python, adapter or language model
        are others than those that it was made with.
        """
        return self._loader.load(self.get(ref), program)

    def models(self) -> Names:
        """Return the ids of all models, sorted."""
        return [model_id for model_id in self.folder_names() if self._log(model_id).read().records]

    def exists(self) -> bool:
        """Return whether there is a folder of that name, or anything at the address on object storage.

        Raises:
            InputError: That cannot be reached: no such bucket, no credentials, or others.
        """
        return self.root.is_dir() if isinstance(self.root, Path) else self.root.storage.look()

    def folder_names(self, kind: str = "models") -> Names:
        """Return the names in ``models/`` that can be models, sorted; the same for ``environments/``.

        Nothing below them is read, so damage to one does not hide the others.
        """
        names: Names = []
        with explain_failure(f"read {self.root}"):
            found = sorted(storage_of(self.root).list(self.root / kind))
        for name in found:
            try:
                names.append(check_model_id(name))
            except InputError:
                continue
        return names

    def list(self, model_id: str | None = None) -> Versions:
        """Return the versions of one model, or of all, the newest of each model first.

        Raises:
            NotFound: There is no such model.
        """
        if model_id is None:
            return [version for name in self.models() for version in self.list(name)]
        with self._reading(model_id) as state:
            return [self._version(model_id, state.records[version]) for _, version in reversed(state.ordered)]

    def survey(self) -> tuple[Versions, Errors]:
        """Return the versions of all models that can be read, and what is wrong with the others.

        Raises:
            RegistryError: The folder of the models cannot be read.
        """
        versions, damage = Versions(), Errors()
        for name in self.folder_names():
            try:
                versions += self.list(name)
            except NotFound:
                continue  # a folder without a version
            except DspyNbError as error:
                damage.append(error)
        return versions, damage

    def latest(self, model_id: str) -> ModelVersion:
        """Return the highest release that is not archived; a prerelease only where there is no release."""
        return self.get(f"{check_model_id(model_id)}@latest")

    def production(self, model_id: str) -> ModelVersion | None:
        """Return the version in production, or None."""
        with self._reading(model_id) as state:
            return self._version(model_id, state.records[state.production]) if state.production else None

    def history(self, model_id: str) -> History:
        """Return everything that was ever done to a model, oldest first."""
        with self._reading(model_id) as state:
            return [*state.history]

    def last_entry(self, model_id: str) -> HistoryEntry:
        """Return what was done to a model last; cheap, however long its history is."""
        with self._reading(model_id) as state:
            return state.history[-1]

    def environments(self) -> Names:
        """Return the names of all environments in which something was ever deployed, sorted."""
        with explain_failure(f"read {self.root}"):
            names, folder = self.folder_names("environments"), self.root / "environments"
            return [name for name in names if storage_of(folder).exists(folder / name / "log")]

    def check_environment(self, name: str, create: bool = False) -> str:
        """Return the name of an environment, if there is one of that name or it is to be made.

        There is development, staging and production, and whatever something was ever deployed to. Nothing is
        written.

        Raises:
            NotFound: There is no such environment; the message says which may be meant, and how to make a new one.
            InputError: It cannot be the name of a folder.
            Conflict: A new one differs only in case from another one.
        """
        if isinstance(name, str) and name in ENVIRONMENTS and not create:
            return name
        there = self.environments()
        known = dict.fromkeys([*ENVIRONMENTS, *there])
        hint = did_you_mean(name, known)
        try:
            check_environment(name)
        except InputError as error:
            raise InputError(f"{error}; {hint}?") if hint else error from None
        anchor = anchor_of(self.root, self.root / "environments" / name / "log")
        with explain_failure(f"read {anchor}"):
            if name in there or storage_of(anchor).exists(anchor):
                return name
        if not create:
            way = f"new one is made by deploy --create, in Python by environment({name!r}, create=True)"
            words = f"{hint}? A {way}" if hint else f"there are {', '.join([*known][:8])}; a {way}"
            raise NotFound(f"no environment {name!r}: {words}")
        for other in known:
            if other != name and other.lower() == name.lower():
                words = f"environment {name!r} differs only in case from {other!r}"
                raise Conflict(f"{words}, and some disks know no case")
        return name

    def to_frame(self, model_id: str | None = None) -> pd.DataFrame:
        """Return the versions as a table, one row each, the newest of each model first."""
        import pandas as pd

        rows = [[getattr(version, name) for name in FACTS] for version in self.list(model_id)]
        return pd.DataFrame(rows, columns=[*FACTS])

    def _log(self, model_id: str) -> Log[ModelState]:
        with self._lock:
            if model_id not in self._logs:
                self._logs[model_id] = Log(self.root / "models" / model_id / "log", ModelState, self.root)
            return self._logs[model_id]

    @contextlib.contextmanager
    def _reading(self, model_id: str) -> Iterator[ModelState]:
        """Give the state of a model that has versions, as it is at one moment."""
        log = self._log(check_model_id(model_id))
        with log.lock:
            state = log.read()
            if not state.records:
                known = self.folder_names()  # names only: damage to another model is not this one's
                hint = f"there are {', '.join(known[:8])}" if known else f"{self.root} has no models yet"
                raise NotFound(f"no model {model_id!r}: {hint}")
            yield state

    def _existing(self, model_id: str) -> Log[ModelState]:
        with self._reading(model_id):
            return self._log(model_id)

    def _check_case(self, model_id: str) -> None:
        for other in self.folder_names():
            if other != model_id and other.lower() == model_id.lower():
                words = f"model {model_id!r} differs only in case from {other!r}"
                raise Conflict(f"{words}, and some disks know no case")

    def _version(self, model_id: str, record: Record) -> ModelVersion:
        """Return the version of a record; made once, and again after the record has changed."""
        made = record.version_made
        if made is None:
            summary, interval = record.summary, record.summary["interval"]
            made = record.version_made = ModelVersion(
                model_id, record.version, record.stage, summary["created_at"], summary["score"],
                interval and (interval[0], interval[1]), summary["score_kind"], summary["optimizer"],
                summary["base_model"], summary["parent"], sum([size for _, size in record.files.values()]),
                record.files, self._logs[model_id].owner,
            )  # fmt: skip
        return made


def as_reference(ref: str | ModelVersion) -> Reference:
    """Return the parsed reference; a version that was handed out stands for its exact reference."""
    return parse_reference(ref.ref if isinstance(ref, ModelVersion) else ref)
