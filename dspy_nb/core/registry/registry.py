"""The registry: immutable versions of programs, their stages, and the history of every decision.

On disk, under the root::

    models/<model>/<version>/   model.json  metadata.json  README.md  [evaluation.json]
    models/<model>/log/         000001.json  000002.json  ...
    environments/<name>/        log/  current
    anchors/                    models/<model>.json  environments/<name>.json: how far each log goes
    config.toml                 optional: what promotions require, what environments accept

A version's folder is staged, renamed and flushed, and only then becomes visible, through a log entry that carries
the sha256 of each of its files. It never changes. Everything else is a fold over the log.
"""

from __future__ import annotations

import builtins
import contextlib
import os
import warnings
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from dspy_nb.core.arguments import check_texts, user_path
from dspy_nb.core.deployment.environment import Environment
from dspy_nb.core.deployment.serving import LiveIn
from dspy_nb.core.errors import Conflict, Corrupt, DspyNbError, InputError, NotFound, RegistryWarning
from dspy_nb.core.models.catalogue import Catalogue, as_reference
from dspy_nb.core.models.loading import stored_program
from dspy_nb.core.models.names import check_bump, check_model_id, check_stage, check_version
from dspy_nb.core.models.promotion import (
    decide_archive,
    decide_promotion,
    find_record,
    load_requirements,
    promotion_requirements,
)
from dspy_nb.core.models.publishing import check_writable, free_version, publish
from dspy_nb.core.models.requirements import Requirement
from dspy_nb.core.models.stages import ModelState
from dspy_nb.core.models.subject import take_evidence
from dspy_nb.core.models.submission import Submission, summary_of
from dspy_nb.core.models.version import ModelVersion
from dspy_nb.core.registry.archive import export_version, read_archive
from dspy_nb.core.registry.check import Problem, check_registry
from dspy_nb.core.registry.copying import Copied, check_places, copy_registry
from dspy_nb.core.registry.diff import VersionDiff, compare_versions, render_prompt
from dspy_nb.core.storage.files import parse_json


class Registry(Catalogue):
    """A registry of programs in a folder of plain files, or on object storage; for many writers and crashes.

    Safe to share between threads and processes. Creating the object touches no file. On object storage, traffic and
    experiments, which are SQLite, stay on this machine: in the folder ``local``, below the user's data folder.
    """

    def __init__(self, root: str | os.PathLike[str] = "registry") -> None:
        """Open the registry in the folder ``root``, which need not exist yet, or at ``s3://bucket/prefix``.

        ``gs://``, ``az://`` and ``memory://name`` are such URLs too; they need the extra ``object-store``.
        """
        super().__init__(root)
        self._environments: dict[str, Environment] = {}

    def environment(self, name: str, *, create: bool = False) -> Environment:
        """Return the environment of that name: where versions are deployed, rolled back, served from.

        Args:
            name: ``development``, ``staging``, ``production``, or another one to which something was deployed.
                The same object each time, so that what it serves is kept.
            create: Whether another one may be new; it comes into being with its first deployment.

        Raises:
            NotFound: There is no such environment, and it is not to be made; the message says which may be meant.
            InputError: ``name`` cannot be the name of a folder.
            Conflict: A new name differs only in case from another one.
        """
        with self._lock:
            known = self._environments.get(name) if isinstance(name, str) else None
        if known is not None:
            return known
        found = Environment(self, name, create=create)
        with self._lock:
            return self._environments.setdefault(name, found)

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

        The adapter and the language model that the version records are those of the run, else those that DSPy is
        configured with; without an adapter DSPy uses ChatAdapter.
        """
        check_model_id(model_id)
        if version is not None and bump is not None:
            raise InputError("give either version= or bump=, not both")
        if version is not None:
            check_version(version)
        check_bump(bump := "minor" if bump is None else bump)
        check_texts(notes=notes, parent=parent, by=by)
        if not isinstance(self.root, Path):
            check_writable(self.root)
        submission = Submission(what, model_id, metadata=metadata, evaluation=evaluation, notes=notes)
        log = self._log(model_id)
        while True:
            state = log.read()
            if not state.records:
                self._check_case(model_id)
            if parent is not None and parent not in state.records:
                raise NotFound(f"parent {parent!r} is not a version of {model_id}")
            chosen = free_version(log.folder.parent, state, bump) if version is None else version
            ancestor = state.latest if parent is None else parent
            files, summary = submission.files(chosen, ancestor), submission.summary(ancestor)
            if publish(self.root, log, chosen, files, summary, reason=notes, by=by):
                return self._written(model_id, chosen)
            if version is not None:
                raise self._conflict(model_id, version)

    def check_registrable(self, program: object, model_id: str) -> None:
        """Check, before anything is spent on it, that a program can become a version of a model.

        Raises:
            InputError: The name is not valid, the program cannot be stored, or the registry cannot be written.
            Corrupt: What is known of the model cannot be read.
        """
        check_model_id(model_id)
        check_writable(self.root)
        with contextlib.suppress(NotFound):  # it becomes a new model
            self.list(model_id)
        if not isinstance(program, list):  # of programs, for Ensemble: what it makes of them is not known yet
            Submission(program, model_id, metadata=None, evaluation=None, notes=None)

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
            evidence: A gate result, a comparison, an evaluation, or what their ``to_evidence()`` returns; or a dict
                as ``to_evidence().to_dict()`` returns.
            force: Override the order of stages and the required evidence. The history shows it for ever.
            reason: Why; required with ``force``.
            by: Who promotes; the user of the process by default.

        Raises:
            NotFound: There is no such version.
            Refused: The transition is not legal, or evidence is missing.
            InputError: Something given is wrong; or the evidence is about another version, or about a program with
                other prompts or demos.
        """
        check_stage(stage)
        check_texts(reason=reason, by=by)
        if force and not (reason and reason.strip()):
            raise InputError("force=True needs a reason: it is kept in the history")
        reference, proof = as_reference(ref), None
        if evidence is not None:
            version = self.get(ref)
            reference, proof = as_reference(version), take_evidence(version, evidence)
        decide = partial(
            decide_promotion, reference=reference, stage=stage, requirements=self._required(stage),
            evidence=proof, force=force, reason=reason, live=self._live()[0] if stage == "archived" else {},
        )  # fmt: skip
        entry = self._existing(reference.model_id).append(decide, "promote", by=by)
        assert entry is not None
        return self._written(reference.model_id, entry.body["version"])

    def requirements(
        self, ref: str | ModelVersion, stage: str, *, evidence: object = None
    ) -> builtins.list[Requirement]:
        """Return what the promotion of a version to ``stage`` requires, each with whether it is met and by what.

        ``promote`` refuses what one of them says no to; ``Environment.requirements`` tells the same of a
        deployment. Nothing is changed.

        Args:
            ref: The version.
            stage: Where to.
            evidence: What would be given with the promotion, as for ``promote``.

        Raises:
            NotFound: There is no such version.
            InputError: The stage is not known, or the evidence is not valid or about something else.
        """
        check_stage(stage)
        version = self.get(ref)
        proof = None if evidence is None else take_evidence(version, evidence)
        required = self._required(stage)
        live = self._live()[0] if stage == "archived" else {}
        with self._reading(version.model_id) as state:
            return promotion_requirements(state, as_reference(version), stage, required, proof, live)

    def _required(self, stage: str) -> tuple[str, ...]:
        return load_requirements(self.root / "config.toml").get(stage, ())

    def attach(
        self, ref: str | ModelVersion, evidence: object, *, reason: str | None = None, by: str | None = None
    ) -> ModelVersion:
        """Record evidence about a version in the log; the version itself never changes.

        Raises:
            NotFound: There is no such version.
            InputError: The evidence is not valid, or about another version or program.
        """
        check_texts(reason=reason, by=by)
        version = self.get(ref)
        proof = take_evidence(version, evidence).to_dict()

        def decide(state: ModelState) -> dict[str, Any]:
            record = find_record(as_reference(version), state)
            return {"version": record.version, "evidence": proof, "reason": reason}

        entry = self._existing(version.model_id).append(decide, "attach", by=by)
        assert entry is not None
        return self._written(version.model_id, entry.body["version"])

    def archive(
        self,
        what: str | ModelVersion,
        *,
        keep_latest: int | None = None,
        staging: bool = False,
        reason: str | None = None,
        by: str | None = None,
    ) -> list[ModelVersion]:
        """Archive one version, or all but the latest ones of a model.

        What is in production is never touched, nor what an environment serves. What a roll-back of an environment
        would return to is archived only where it is named, with a warning (``RegistryWarning``): until it is
        promoted to another stage, the roll-back will be refused.

        Args:
            what: A reference such as ``sentiment@1.0.0``, or a model id together with ``keep_latest``.
            keep_latest: How many of the model's versions to keep, counted from the latest one.
            staging: Whether versions in staging may be archived too.
            reason: Why.
            by: Who archives; the user of the process by default.

        Returns:
            The versions that were archived now.

        Raises:
            NotFound: There is no such version.
            Refused: The version that was named is in production, archived already, or live in an environment.
            InputError: Something given is wrong.
        """
        check_texts(reason=reason, by=by)
        reference = as_reference(what)
        is_model = reference.text == reference.model_id
        if is_model and (type(keep_latest) is not int or keep_latest < 0):
            raise InputError("archive(model, keep_latest=N) needs N >= 0; one version is model@1.0.0")
        if not is_model and keep_latest is not None:
            raise InputError("keep_latest= goes with a model id, not with one version")

        live, next_live = self._live()

        def decide(state: ModelState) -> dict[str, Any] | None:
            body = decide_archive(state, reference, keep_latest, staging, reason, live, next_live)
            for version in body["versions"] if body else ():
                if where := next_live.get(ref := f"{reference.model_id}@{version}"):
                    words = f"a roll-back of {where} would return to {ref}"
                    warnings.warn(
                        f"{words}, and is refused once that is archived", RegistryWarning, stacklevel=5
                    )
            return body

        entry = self._existing(reference.model_id).append(decide, "archive", by=by)
        versions = entry.body["versions"] if entry else ()
        return [self._written(reference.model_id, version) for version in versions]

    def diff(
        self,
        a: str | ModelVersion,
        b: str | ModelVersion,
        *,
        inputs: Mapping[str, Any] | None = None,
        predictor: str | None = None,
    ) -> VersionDiff:
        """Return what changed from the older of two versions to the newer, in whichever order they are named.

        Of one model the lower version is the older, of two models the one that was made earlier. With ``inputs``
        the rendered prompts are compared too. Where both have an evaluation of the same examples stored with
        them, their scores are compared example by example.

        Raises:
            NotFound: There is no such version.
            Corrupt: A file of one was changed.
        """
        versions = self.get(a), self.get(b)
        stored_a, stored_b = ((version, stored_program(version)) for version in versions)
        return compare_versions(stored_a, stored_b, inputs, predictor)

    def rendered_prompt(
        self, ref: str | ModelVersion, /, *, predictor: str | None = None, **inputs: Any
    ) -> str:
        """Return the exact prompt of a version for ``inputs``, with the adapter that DSPy is configured with.

        That is the one which would serve it here; the one that it was made with is in ``metadata["adapter"]``, as a
        name, from which no adapter is ever built.

        Raises:
            InputError: ``inputs`` are not the input fields, or a predictor must be named.
            Refused: The predictor's types are not known without its class.
        """
        return render_prompt(stored_program(self.get(ref)), inputs, predictor)

    def check(self) -> list[Problem]:
        """Verify every log and every file of the registry; return what is wrong and what to do about it."""
        return check_registry(self.root, self.local)

    def export_version(self, ref: str | ModelVersion, path: str | os.PathLike[str]) -> Path:
        """Write a version as one zip file (in the folder ``path``, if it is one); return the file's path.

        Raises:
            Conflict: The file exists.
            Corrupt: The version was changed.
        """
        return export_version(self.get(ref), user_path("path", path))

    def import_version(self, path: str | os.PathLike[str], *, by: str | None = None) -> ModelVersion:
        """Take in a version that ``export_version`` wrote, in the stage development.

        The file may come from anybody: only the files of a version are read from it, within limits, and they
        must agree with its manifest. Its evidence and stages stay behind: they were decisions elsewhere.

        Raises:
            Conflict: The version exists.
            Corrupt: It is no archive of a version.
        """
        check_texts(by=by)
        model_id, version, files, metadata = read_archive(user_path("path", path))
        self._check_case(model_id)
        evaluation = parse_json(files.get("evaluation.json", b"null"), path)
        if not isinstance(evaluation, dict | None):
            raise Corrupt(f"{path}: evaluation.json is not an evaluation")
        summary = summary_of(metadata, evaluation, metadata.get("parent"))
        reason, log = f"imported from {Path(path).name}", self._log(model_id)
        if not publish(self.root, log, version, files, summary, reason=reason, by=by):
            raise self._conflict(model_id, version)
        return self._written(model_id, version)

    def copy_to(self, target: str | os.PathLike[str] | Registry) -> Copied:
        """Copy every model and environment with its whole history to another place, and verify the copy.

        Made again it goes on where it stopped, or copies what is new. Traffic and experiments stay behind.

        Raises:
            InputError: The place is this registry, or a part of it.
            Conflict: There is another history at the target already.
            Corrupt: Something here, or in the copy, is damaged.
        """
        root = (target if isinstance(target, Registry) else Registry(target)).root
        check_places(self.root, root)
        return copy_registry(self.root, root, self.folder_names(), self.environments())

    def live(self) -> tuple[dict[str, builtins.list[LiveIn]], builtins.list[DspyNbError]]:
        """Return where each version is live or a canary, by reference, and what is wrong with other environments.

        A version that is live nowhere is left out.

        Raises:
            RegistryError: The folder of the environments cannot be read.
        """
        damage: builtins.list[DspyNbError] = []
        return self._served(damage)[0], damage

    def _live(self) -> tuple[dict[str, str], dict[str, str]]:
        """Return what is served now, live or as a canary, and what a roll-back would make live.

        Both are references, each with the name of an environment that does.
        """
        served, next_live = self._served()
        return {ref: places[-1].environment for ref, places in served.items()}, next_live

    def _served(
        self, damage: builtins.list[DspyNbError] | None = None
    ) -> tuple[dict[str, builtins.list[LiveIn]], dict[str, str]]:
        """Return where each version is served, and those that a roll-back would make live, each with where.

        What is wrong with an environment is raised, or noted in ``damage`` where that is given.
        """
        served: dict[str, builtins.list[LiveIn]] = {}
        next_live: dict[str, str] = {}
        for name in self.environments():
            try:
                now, before = self.environment(name).read(lambda state: (state.now, state.live[-2:-1]))
            except DspyNbError as error:
                if damage is None:
                    raise
                damage.append(error)
                continue
            next_live.update(dict.fromkeys(before, name))
            if now is not None:
                served.setdefault(now.ref, []).append(LiveIn(name))
                if now.canary is not None:
                    served.setdefault(now.canary.candidate, []).append(LiveIn(name, now.canary.share))
        return served, next_live

    def _written(self, model_id: str, version: str) -> ModelVersion:
        """Return a version about which this process has just written to the log."""
        log = self._log(model_id)
        with log.lock:
            record = log.state.records.get(version)
            if record is not None:
                return self._version(model_id, record)
        return self.get(f"{model_id}@{version}")  # git has just put another history in its place

    def _conflict(self, model_id: str, version: str) -> Conflict:
        if self._log(model_id).read().is_taken(version):
            return Conflict(f"{model_id}@{version} exists: versions never change, register the next one")
        words = f"{model_id}@{version} exists on disk but not in the log"
        return Conflict(f"{words}: a process is registering it now, or one stopped half-way (check() tells)")
