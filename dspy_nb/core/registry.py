"""The registry: immutable versions of programs, their stages, and the history of every decision.

On disk, under the root::

    models/<model>/<version>/   model.json  metadata.json  README.md  [evaluation.json]
    models/<model>/log/         000001.json  000002.json  ...
    config.toml                 optional: what promotions require

A version's folder is staged, flushed and renamed, and becomes visible only through a log entry that carries
the sha256 of each of its files. It never changes. Everything else is a fold over the log.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from dspy_nb.core.durable import explained, make_folders, write_file
from dspy_nb.core.errors import Conflict, InputError, NotFound, Refused
from dspy_nb.core.loading import Loader, RegistryWarning
from dspy_nb.core.log import Log
from dspy_nb.core.model_version import ModelVersion
from dspy_nb.core.publishing import Candidate, file_table, publish, unpublish
from dspy_nb.core.stages import (
    HistoryEntry,
    ModelState,
    Record,
    check_promotion,
    evidence_dict,
    load_requirements,
)
from dspy_nb.core.versions import (
    STAGES,
    Reference,
    check_model_id,
    check_version,
    matches,
    next_version,
    parse_reference,
    rank,
)

if TYPE_CHECKING:
    import dspy

__all__ = ["Registry", "RegistryWarning"]

_GIT_FILES: Final = {
    ".gitattributes": b"# The log holds hashes of these files: no line-ending conversion.\n* -text\n",
    ".gitignore": b".staging-*\n.tmp-*\nexperiments/*.sqlite3*\n",
}
Versions = list[ModelVersion]  # in the class below, list is the method
Names = list[str]
History = list[HistoryEntry]


class Registry:
    """A registry of programs in a folder of plain files; made for git, many writers and crashes.

    Safe to share between threads and processes. Creating the object touches no file.
    """

    def __init__(self, root: str | os.PathLike[str] = "registry") -> None:
        """Open the registry in the folder ``root``, which need not exist yet."""
        self.root = Path(root).absolute()
        self._logs: dict[str, Log[ModelState]] = {}
        self._loader = Loader()
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"Registry({str(self.root)!r})"

    # -- writing ------------------------------------------------------------------------------------------

    def register(
        self,
        what: object,
        model_id: str,
        *,
        version: str | None = None,
        bump: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        evaluation: Mapping[str, Any] | None = None,
        notes: str | None = None,
        parent: str | None = None,
        by: str | None = None,
    ) -> ModelVersion:
        """Store a program as a new version, in the stage development.

        Args:
            what: A ``dspy.Module``, or an object whose ``registration()`` returns a dict with ``program`` and
                optionally ``metadata`` and ``evaluation`` (a run, an evaluation).
            model_id: Name of the model; it comes into being with its first version.
            version: An exact version; without it, the next one by ``bump``.
            bump: ``major``, ``minor`` (the default), ``patch`` or ``prerelease``. The first version is 1.0.0.
            metadata: Facts about the program, over those of ``what``.
            evaluation: The report of an evaluation, over that of ``what``.
            notes: What a person wants to say about it.
            parent: The version that it was made from; the latest one by default.
            by: Who registers; the user of the process by default.

        Raises:
            InputError: Something given is wrong; nothing was written.
            Conflict: The version exists.
            RegistryError: It cannot be written; nothing is visible.
        """
        check_model_id(model_id)
        if version is not None and bump is not None:
            raise InputError("give either version= or bump=, not both")
        if version is not None:
            check_version(version)
        if not isinstance(notes, str | None):
            raise InputError(f"notes must be text, not a {type(notes).__name__}")
        candidate = Candidate(what, model_id, metadata=metadata, evaluation=evaluation, notes=notes)
        log = self._log(model_id)
        while True:
            state = log.read()
            if not state.records:
                self._check_case(model_id)
            if parent is not None and parent not in state.records:
                raise NotFound(f"parent {parent!r} is not a version of {model_id}")
            chosen = version or self._free_version(model_id, state, bump or "minor")
            ancestor = parent or _latest(state)
            summary = {**candidate.summary, "parent": ancestor}
            if self._publish(model_id, chosen, candidate.files(chosen, ancestor), summary, notes, by):
                return self.get(f"{model_id}@{chosen}")
            if version is not None:
                raise Conflict(
                    f"{model_id}@{version} exists on disk but not in the log: a process is registering it "
                    "now, or one stopped half-way (check() tells)"
                )

    def promote(
        self,
        ref: str | ModelVersion,
        stage: str,
        *,
        evidence: object = None,
        force: bool = False,
        reason: str | None = None,
        by: str | None = None,
    ) -> ModelVersion:
        """Move a version to another stage; the version that was in production becomes deprecated.

        Args:
            ref: The version.
            stage: Where to.
            evidence: A gate result, a comparison, an evaluation (``to_evidence()``), or such a dict.
            force: Override the order of stages and the required evidence. The history shows it for ever.
            reason: Why; required with ``force``.
            by: Who promotes; the user of the process by default.

        Raises:
            NotFound: There is no such version.
            Refused: The transition is not legal, or evidence is missing.
            InputError: Something given is wrong.
        """
        if stage not in STAGES:
            raise InputError(f"stage {stage!r} is not known: use one of {', '.join(STAGES)}")
        if force and not (isinstance(reason, str) and reason.strip()):
            raise InputError("force=True needs a reason: it is kept in the history")
        reference = _reference(ref)
        proof = None if evidence is None else evidence_dict(evidence)
        requirements = load_requirements(self.root / "config.toml").get(stage, ())

        def decide(state: ModelState) -> dict[str, Any]:
            record = self._find(reference, state)
            _check_subject(proof, f"{reference.model_id}@{record.version}")
            if record.stage == stage:
                raise Refused(f"{reference.model_id}@{record.version} is in {stage} already")
            if not force:
                check_promotion(record, stage, requirements, proof)
            return {
                "version": record.version,
                "from": record.stage,
                "to": stage,
                "demoted": state.production if stage == "production" else None,
                "evidence": proof,
                "forced": force,
                "reason": reason,
            }

        entry = self._existing(reference.model_id).append(decide, "promote", by=by)
        assert entry is not None
        return self.get(f"{reference.model_id}@{entry.body['version']}")

    def attach(
        self, ref: str | ModelVersion, evidence: object, *, reason: str | None = None, by: str | None = None
    ) -> ModelVersion:
        """Record evidence about a version in the log; the version itself never changes.

        Raises:
            NotFound: There is no such version.
            InputError: The evidence is not valid, or about another version.
        """
        reference, proof = _reference(ref), evidence_dict(evidence)

        def decide(state: ModelState) -> dict[str, Any]:
            record = self._find(reference, state)
            _check_subject(proof, f"{reference.model_id}@{record.version}")
            return {"version": record.version, "evidence": proof, "reason": reason}

        entry = self._existing(reference.model_id).append(decide, "attach", by=by)
        assert entry is not None
        return self.get(f"{reference.model_id}@{entry.body['version']}")

    def archive(
        self,
        what: str | ModelVersion,
        *,
        keep_latest: int | None = None,
        staging: bool = False,
        reason: str | None = None,
        by: str | None = None,
    ) -> Versions:
        """Archive one version, or all but the latest ones of a model; production is never touched.

        Args:
            what: A reference such as ``sentiment@1.0.0``, or a model id together with ``keep_latest``.
            keep_latest: How many of the model's versions to keep, counted from the latest one.
            staging: Whether versions in staging may be archived too.
            reason: Why.
            by: Who archives; the user of the process by default.

        Returns:
            The versions that were archived now.
        """
        reference = _reference(what)
        is_model = reference.text == reference.model_id
        if is_model and (type(keep_latest) is not int or keep_latest < 0):
            raise InputError("archive(model, keep_latest=N) needs N >= 0; one version is model@1.0.0")
        if not is_model and keep_latest is not None:
            raise InputError("keep_latest= goes with a model id, not with one version")

        def decide(state: ModelState) -> dict[str, Any] | None:
            if is_model:
                assert keep_latest is not None
                alive = [version for version in state.records if state.records[version].stage != "archived"]
                alive.sort(key=rank, reverse=True)
                spared = ("production",) if staging else ("production", "staging")
                chosen = [item for item in alive[keep_latest:] if state.records[item].stage not in spared]
            else:
                record = self._find(reference, state)
                check_promotion(record, "archived", (), None)
                chosen = [record.version]
            return {"versions": chosen, "reason": reason} if chosen else None

        entry = self._existing(reference.model_id).append(decide, "archive", by=by)
        return [
            self.get(f"{reference.model_id}@{item}") for item in (entry.body["versions"] if entry else ())
        ]

    def delete(self, ref: str | ModelVersion) -> None:
        """Refuse: nothing is ever deleted from a registry.

        Raises:
            Refused: Always; archive the version instead.
        """
        version = self.get(_reference(ref).text)
        raise Refused(f"{version.ref} cannot be deleted, versions are for ever: use archive({version.ref!r})")

    # -- reading ------------------------------------------------------------------------------------------

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
        reference = _reference(ref)
        log = self._existing(reference.model_id)
        with log.lock:
            return self._version(reference.model_id, self._find(reference, log.read()))

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
            Refused: The class is needed, or ``program`` has other predictors, fields, roles or types.
        """
        return self._loader.load(self.get(ref), program)

    def models(self) -> Names:
        """Return the ids of all models, sorted."""
        return [model_id for model_id in self._folders() if self._log(model_id).read().records]

    def list(self, model_id: str | None = None) -> Versions:
        """Return the versions of one model, or of all, the newest of each model first.

        Raises:
            NotFound: There is no such model.
        """
        if model_id is None:
            return [version for name in self.models() for version in self.list(name)]
        log = self._existing(check_model_id(model_id))
        with log.lock:
            state = log.read()
            return [self._version(model_id, state.records[version]) for _, version in reversed(state.ordered)]

    def latest(self, model_id: str) -> ModelVersion:
        """Return the highest release that is not archived; a prerelease only where there is no release."""
        return self.get(f"{check_model_id(model_id)}@latest")

    def production(self, model_id: str) -> ModelVersion | None:
        """Return the version in production, or None."""
        log = self._existing(check_model_id(model_id))
        with log.lock:
            state = log.read()
            return self._version(model_id, state.records[state.production]) if state.production else None

    def history(self, model_id: str) -> History:
        """Return everything that was ever done to a model, oldest first."""
        log = self._existing(check_model_id(model_id))
        with log.lock:
            return [*log.read().history]

    # -- inside -------------------------------------------------------------------------------------------

    def _log(self, model_id: str) -> Log[ModelState]:
        with self._lock:
            if model_id not in self._logs:
                self._logs[model_id] = Log(self._folder(model_id) / "log", ModelState)
            return self._logs[model_id]

    def _existing(self, model_id: str) -> Log[ModelState]:
        log = self._log(model_id)
        if not log.read().records:
            known = self.models()
            hint = f"there are {', '.join(known[:8])}" if known else f"{self.root} has no models yet"
            raise NotFound(f"no model {model_id!r}: {hint}")
        return log

    def _folder(self, model_id: str) -> Path:
        return self.root / "models" / model_id

    def _folders(self) -> Names:
        """Return the names in ``models/`` that can be models, sorted."""
        names: Names = []
        with explained(f"read {self.root}"):
            try:
                found = sorted(os.listdir(self.root / "models"))  # noqa: PTH208 (names only)
            except FileNotFoundError:
                return []
        for name in found:
            try:
                names.append(check_model_id(name))
            except InputError:
                continue
        return names

    def _check_case(self, model_id: str) -> None:
        for other in self._folders():
            if other != model_id and other.lower() == model_id.lower():
                raise Conflict(
                    f"model {model_id!r} differs only in case from {other!r}, and some disks know no case"
                )

    def _free_version(self, model_id: str, state: ModelState, bump: str) -> str:
        highest = [state.ordered[-1][1]] if state.ordered else []
        version = next_version(highest, bump)
        while state.taken(version) or (self._folder(model_id) / version).exists():
            version = next_version([version], bump)
        return version

    def _publish(
        self,
        model_id: str,
        version: str,
        files: Mapping[str, bytes],
        summary: Mapping[str, Any],
        reason: str | None,
        by: str | None,
    ) -> bool:
        """Publish a folder and its log entry; return False if the name was taken in between."""
        folder, log = self._folder(model_id), self._log(model_id)
        body = {"version": version, "files": file_table(files), "summary": summary, "reason": reason}

        def decide(state: ModelState) -> dict[str, Any]:
            if state.taken(version):
                raise Conflict(f"{model_id}@{version} exists: versions never change, register the next one")
            return body

        decide(log.read())
        with explained(f"write {folder / version}"):
            self._prepare()
            if not publish(folder, version, files):
                return False
        try:
            log.append(decide, "register", by=by)
        except BaseException:
            if version not in log.read().records:
                unpublish(folder, version)
            raise
        return True

    def _prepare(self) -> None:
        """Make the root, and tell git to leave hashed files alone and temporary ones out."""
        make_folders(self.root)
        for name, content in _GIT_FILES.items():
            if not (self.root / name).exists():
                try:
                    write_file(self.root / name, content)
                except FileExistsError:
                    continue

    def _find(self, reference: Reference, state: ModelState) -> Record:
        """Return the record that ``reference`` means in ``state``."""
        version: str | None = None
        if reference.version is not None:
            version = reference.version if reference.version in state.records else None
        elif reference.bounds is not None:
            bounds = reference.bounds
            found = (v for v in reversed(state.between(*bounds)) if matches(bounds, v))
            version = next((v for v in found if state.records[v].stage != "archived"), None)
        elif reference.stage == "production":
            version = state.production
        elif reference.stage == "staging":
            version = state.staged[-1] if state.staged else None
        else:
            version = _latest(state)
        if version is None:
            newest = ", ".join(v for _, v in reversed(state.ordered[-5:]))
            raise NotFound(f"no version {reference.text!r}: {reference.model_id} has {newest or 'none'}")
        return state.records[version]

    def _version(self, model_id: str, record: Record) -> ModelVersion:
        summary = record.summary
        interval = summary.get("interval")
        return ModelVersion(
            model_id=model_id,
            version=record.version,
            stage=record.stage,
            created_at=summary["created_at"],
            path=self._folder(model_id) / record.version,
            score=summary.get("score"),
            interval=(interval[0], interval[1]) if interval else None,
            score_kind=summary.get("score_kind"),
            optimizer=summary.get("optimizer"),
            base_model=summary.get("base_model"),
            parent=summary.get("parent"),
            size_bytes=sum(size for _, size in record.files.values()),
            files=record.files,
        )


def _reference(ref: str | ModelVersion) -> Reference:
    return parse_reference(ref.ref if isinstance(ref, ModelVersion) else ref)


def _latest(state: ModelState) -> str | None:
    """Return the highest release that is not archived, else the highest such prerelease, else None."""
    prerelease: str | None = None
    for key, version in reversed(state.ordered):
        if state.records[version].stage != "archived":
            if key[3]:
                return version
            prerelease = prerelease or version
    return prerelease


def _check_subject(evidence: Mapping[str, Any] | None, ref: str) -> None:
    subject = evidence.get("ref") if evidence else None
    if subject is not None and subject != ref:
        raise InputError(f"this evidence is about {subject}, not about {ref}")
