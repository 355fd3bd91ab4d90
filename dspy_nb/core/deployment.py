"""Environments: which version is live where, since when, why, and the way back.

On disk, under the root of the registry::

    environments/<name>/log/      000001.json  000002.json  ...
    environments/<name>/current   a link to the version that is live, for other tools
    config.toml                   optional: what each environment accepts

An environment serves one version of one model at a time, as the one link says; several models are several
environments (``production-sentiment``). A stage says what a version is approved for, an environment what runs:
promoting does not deploy, and rolling back does not change a stage. Nothing is locked: the log decides who was
first.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from dspy_nb.core.current_link import update_link
from dspy_nb.core.deployment_log import Deployment, EnvironmentState, decide_deployment, decide_rollback
from dspy_nb.core.errors import Conflict, InputError, NotFound, Refused
from dspy_nb.core.log import Log
from dspy_nb.core.model_version import ModelVersion, verified_files
from dspy_nb.core.promotion import evidence_dict
from dspy_nb.core.restrictions import Restrictions, load_restrictions
from dspy_nb.core.versions import check_environment

if TYPE_CHECKING:
    import dspy

    from dspy_nb.core.registry import Registry

    Program: TypeAlias = dspy.Module | type[dspy.Module] | None
    Smoke: TypeAlias = (
        Mapping[str, Any] | Sequence[Mapping[str, Any]] | Callable[[dspy.Module], object] | None
    )

__all__ = ["Deployment", "Environment", "Prepared"]

_LOOK_EVERY_S: Final = 0.25
"""How long ``load`` serves without looking at the log: well below the second that it promises."""


class Environment:
    """Where versions are live: ``development``, ``staging``, ``production`` or any name.

    ``Registry.environment`` makes it. Safe to share between threads; creating it touches no file.
    """

    def __init__(self, registry: Registry, name: str) -> None:
        """Open the environment ``name`` of ``registry``, which need not exist yet."""
        self.name = check_environment(name)
        self.registry = registry
        self.folder = registry.root / "environments" / name
        self._log = Log(self.folder / "log", EnvironmentState)
        self._serving = threading.Lock()
        self._served: _Served | None = None

    def __repr__(self) -> str:
        return f"Environment({self.name!r}, {str(self.registry.root)!r})"

    @property
    def current(self) -> ModelVersion | None:
        """The version that is live, or None."""
        with self._log.lock:
            live = self._log.read().live
            ref = live[-1] if live else None
        return self.registry.get(ref) if ref else None

    @property
    def restrictions(self) -> Restrictions:
        """What the environment accepts, as ``registry/config.toml`` says now."""
        return load_restrictions(self.registry.root / "config.toml", self.name)

    def history(self) -> list[Deployment]:
        """Return every deployment and every roll-back, oldest first."""
        with self._log.lock:
            return [*self._log.read().history]

    def deploy(
        self,
        ref: str | ModelVersion,
        *,
        by: str | None = None,
        reason: str | None = None,
        evidence: object = None,
    ) -> Deployment:
        """Make a version live, after verifying the hash of each of its files.

        Args:
            ref: The version.
            by: Who deploys; the user of the process by default.
            reason: Why.
            evidence: What the decision rests on, as for ``Registry.promote``; it is kept in the history.

        Raises:
            NotFound: There is no such version.
            Refused: The environment does not accept it, or it is live already.
            Corrupt: A file of it was changed.
            InputError: Something given is wrong.
        """
        return self._deploy(self._accepted(ref), None, by, reason, evidence)

    def prepare(self, ref: str | ModelVersion, *, program: Program = None, smoke: Smoke = None) -> Prepared:
        """Load a version and try it out while the one that is live keeps serving (blue-green).

        Args:
            ref: The version.
            program: An instance of the program's class, or the class, where it has one of its own.
            smoke: Inputs that the program must answer, or a list of such; or a function that gets the program
                and raises, or returns False, if it is not fit to go live.

        Returns:
            What ``switch()`` makes live.

        Raises:
            Refused: The environment does not accept it, or the smoke test failed; nothing has changed.
            NotFound, Corrupt, InputError: As for ``deploy``.
        """
        with self._log.lock:
            seen = len(self._log.read().history)
        version = self._accepted(ref)
        self.restrictions.check_lm(self.name)
        loaded = self.registry.load(version, program)
        _try_out(loaded, smoke, f"{version.ref} is not deployed to {self.name}")
        return Prepared(self, version, loaded, seen)

    def rollback(self, *, by: str | None = None, reason: str | None = None, steps: int = 1) -> Deployment:
        """Make live again what was live before; doing it again goes further back.

        What was live was accepted once, so only an archived version is refused now.

        Args:
            by: Who rolls back; the user of the process by default.
            reason: Why.
            steps: How many deployments to take back.

        Raises:
            Refused: There is nothing that far back, or it is archived.
            Conflict: Somebody else deployed or rolled back at the same moment.
            Corrupt: A file of the version was changed.
        """
        _check_texts(by=by, reason=reason)
        if type(steps) is not int or steps < 1:
            raise InputError(f"steps must be a whole number from 1, not {steps!r}")
        with self._log.lock:
            state = self._log.read()
            seen, body = len(state.history), decide_rollback(state, self.name, steps, reason)
        version = self.registry.get(f"{body['model_id']}@{body['version']}")
        if version.stage == "archived":
            raise Refused(
                f"{version.ref} is archived: steps={steps + 1} goes further back, promote() takes it out"
            )
        verified_files(version.path, version.files, version.ref)

        def decide(state: EnvironmentState) -> dict[str, Any]:
            state.expect(seen, self.name)
            return body

        return self._append(decide, "rollback", by)

    def load(self, program: Program = None) -> dspy.Module:
        """Return the program that is live, for serving: call this for every request.

        The program is kept, and the log is looked at four times a second at most, so this costs next to nothing
        and notices a deployment within a second, whoever made it. Callers share the program: call it, do not
        change it. Whoever holds one goes on with that version until the next ``load``.

        Args:
            program: An instance of the program's class, or better the class, where it has one of its own. Give
                the same object each time: another one loads the program again.

        Raises:
            NotFound: Nothing is live.
            Refused: The configured language model is not accepted here; or as ``Registry.load`` does.
            Corrupt: The log, or a file of the version, was changed.
        """
        with self._serving:
            now = time.monotonic()
            served = self._served
            if served is not None and served.given is program and now < served.look_at:
                served.restrictions.check_lm(self.name)
                return served.program
            with self._log.lock:
                history = self._log.read().history
                live = history[-1] if history else None
            if live is None:
                raise NotFound(f"nothing is live in {self.name}: deploy a version first")
            restrictions = self.restrictions
            restrictions.check_lm(self.name)
            if served is not None and served.given is program and served.live == live:
                loaded = served.program
            else:
                loaded = self.registry.load(live.ref, program)
            self._served = _Served(live, program, loaded, restrictions, now + _LOOK_EVERY_S)
            return loaded

    def relink(self) -> bool:
        """Let the link ``current`` name what is live, where a crash or a merge left it behind.

        Returns:
            Whether there is a right link now: False where nothing is live or links are not possible.
        """
        return bool(self.history()) and update_link(self.folder, self._live)

    def _live(self) -> str:
        with self._log.lock:
            return self._log.read().live[-1]

    def _accepted(self, ref: str | ModelVersion) -> ModelVersion:
        version = self.registry.get(ref)
        self.restrictions.check_version(version, self.name)
        return version

    def _deploy(
        self, version: ModelVersion, seen: int | None, by: str | None, reason: str | None, evidence: object
    ) -> Deployment:
        _check_texts(by=by, reason=reason)
        proof = None if evidence is None else evidence_dict(evidence)
        if proof and proof.get("ref") not in (None, version.ref):
            raise InputError(f"this evidence is about {proof['ref']!s:.80}, not about {version.ref}")
        verified_files(version.path, version.files, version.ref)
        _check_case(self)

        def decide(state: EnvironmentState) -> dict[str, Any]:
            if seen is not None:
                state.expect(seen, self.name)
            self._accepted(version)
            return decide_deployment(state, self.name, version.ref, proof, reason)

        return self._append(decide, "deploy", by)

    def _append(
        self, decide: Callable[[EnvironmentState], dict[str, Any]], action: str, by: str | None
    ) -> Deployment:
        entry = self._log.append(decide, action, by=by)
        assert entry is not None
        update_link(self.folder, self._live)
        with self._serving:
            self._served = None  # this process need not wait for its own deployment
        return self.history()[entry.number - 1]


@dataclass(frozen=True, slots=True)
class Prepared:
    """A version that was loaded and tried out, and waits to go live.

    Attributes:
        environment: Where.
        version: The version.
        program: The loaded program.
    """

    environment: Environment
    version: ModelVersion
    program: dspy.Module
    _seen: int

    def switch(
        self, *, by: str | None = None, reason: str | None = None, evidence: object = None
    ) -> Deployment:
        """Make it live; ``Environment.deploy`` says what the arguments are and what it raises.

        Raises:
            Conflict: Somebody else deployed or rolled back since ``prepare``; nothing has changed.
        """
        return self.environment._deploy(self.version, self._seen, by, reason, evidence)


@dataclass(frozen=True, slots=True)
class _Served:
    """The program that ``load`` returns: of which deployment, for which argument, until when without a look."""

    live: Deployment
    given: Program
    program: dspy.Module
    restrictions: Restrictions
    look_at: float


def _try_out(program: dspy.Module, smoke: Smoke, failed: str) -> None:
    """Run a smoke test.

    Raises:
        Refused: It failed.
        InputError: ``smoke`` is none of what it may be.
    """
    if smoke is None:
        return
    samples = [smoke] if isinstance(smoke, Mapping) else smoke
    if not callable(samples) and not (
        isinstance(samples, list | tuple) and samples and all(isinstance(item, Mapping) for item in samples)
    ):
        raise InputError("smoke must be inputs such as {'review': 'Nice.'}, a list of such, or a function")
    try:
        if callable(samples):
            fit = samples(program) is not False
        else:
            fit = all(program(**sample) is not None for sample in samples)
    except Exception as error:
        words = " ".join(str(error).split())[:200]
        raise Refused(f"{failed}: its smoke test failed: {type(error).__name__}: {words}") from error
    if not fit:
        raise Refused(f"{failed}: its smoke test said no")


def _check_case(environment: Environment) -> None:
    """Refuse a new environment whose name differs only in case from another one."""
    for other in environment.registry.environments():
        if other != environment.name and other.lower() == environment.name.lower():
            raise Conflict(
                f"environment {environment.name!r} differs only in case from {other!r}, and some disks know no case"
            )


def _check_texts(**texts: object) -> None:
    for name, text in texts.items():
        if not isinstance(text, str | None):
            raise InputError(f"{name} must be text, not a {type(text).__name__}")
