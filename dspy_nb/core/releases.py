"""What is live in an environment, and who changed it: deploying, rolling back, the history.

Nothing is locked: the log of the environment decides who was first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from dspy_nb.core.attaching import check_evidence
from dspy_nb.core.blue_green import Prepared, try_out
from dspy_nb.core.canary_log import Canary
from dspy_nb.core.current_link import update_link
from dspy_nb.core.deployment_log import (
    Deployment,
    EnvironmentState,
    decide_canary_change,
    decide_deployment,
    decide_rollback,
)
from dspy_nb.core.errors import Conflict, InputError, Refused
from dspy_nb.core.log import Log
from dspy_nb.core.model_version import ModelVersion, verified_files
from dspy_nb.core.promotion import evidence_dict
from dspy_nb.core.restrictions import Restrictions, load_restrictions
from dspy_nb.core.versions import check_environment

if TYPE_CHECKING:
    import dspy

    from dspy_nb.core.blue_green import Smoke
    from dspy_nb.core.registry import Registry

    Program: TypeAlias = dspy.Module | type[dspy.Module] | None

__all__ = ["Releases", "check_texts", "proof_of"]

T = TypeVar("T")


class Releases:
    """The part of an environment that changes what is live, and tells what was."""

    def __init__(self, registry: Registry, name: str) -> None:
        self.name = check_environment(name)
        self.registry = registry
        self.folder = registry.root / "environments" / name
        self._log = Log(self.folder / "log", EnvironmentState)

    def __repr__(self) -> str:
        """Return the name and the folder of the registry."""
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
        """Return every deployment, every roll-back and every step of a canary, oldest first."""
        return self.read(lambda state: [*state.history])

    def read(self, look: Callable[[EnvironmentState], T]) -> T:
        """Return what ``look`` finds in the state of the environment, which it must not change or keep."""
        with self._log.lock:
            return look(self._log.read())

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
            Refused: The environment does not accept it, it is live already, or a canary is running.
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
        try_out(loaded, smoke, f"{version.ref} is not deployed to {self.name}")
        return Prepared(self, version, loaded, seen)

    def rollback(self, *, by: str | None = None, reason: str | None = None, steps: int = 1) -> Deployment:
        """Make live again what was live before; doing it again goes further back.

        What was live was accepted once, so only an archived version is refused now. While a canary is running
        this takes its candidate back, as ``abort_canary`` does, and the live version stays.

        Args:
            by: Who rolls back; the user of the process by default.
            reason: Why.
            steps: How many deployments to take back; 1 while a canary is running.

        Raises:
            Refused: There is nothing that far back, or it is archived.
            Conflict: Somebody else deployed or rolled back at the same moment.
            Corrupt: A file of the version was changed.
        """
        check_texts(by=by, reason=reason)
        if type(steps) is not int or steps < 1:
            raise InputError(f"steps must be a whole number from 1, not {steps!r}")
        canary = self.read(lambda state: state.canary)
        if canary is not None and steps == 1:
            return self._change_canary(canary, "canary-abort", None, reason, by)
        return self._roll_back(steps, by, reason)

    def _roll_back(
        self,
        steps: int,
        by: str | None,
        reason: str | None,
        evidence: Mapping[str, Any] | None = None,
        expected: int | None = None,
    ) -> Deployment:
        with self._log.lock:
            state = self._log.read()
            seen = len(state.history) if expected is None else expected
            state.expect(seen, self.name)
            body = decide_rollback(state, self.name, steps, reason, evidence)
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

    def roll_back_on_evidence(self, seen: int, evidence: Mapping[str, Any], reason: str) -> Deployment:
        """Roll back one step because of ``evidence``, unless the log has grown beyond entry ``seen``.

        A canary that is running is taken back first: it was compared with a version that is no longer good.

        Raises:
            Conflict: Somebody else was faster; nothing has changed.
            Refused, Corrupt: As for ``rollback``.
        """
        canary = self.read(lambda state: state.canary)
        if canary is not None:
            self.read(lambda state: state.expect(seen, self.name))
            self._change_canary(canary, "canary-abort", None, reason, None)
            seen += 1
        return self._roll_back(1, None, reason, evidence, seen)

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
        proof = proof_of(version, evidence, by=by, reason=reason)
        verified_files(version.path, version.files, version.ref)
        _check_case(self)

        def decide(state: EnvironmentState) -> dict[str, Any]:
            if seen is not None:
                state.expect(seen, self.name)
            self._accepted(version)
            return decide_deployment(state, self.name, version.ref, proof, reason)

        return self._append(decide, "deploy", by)

    def _change_canary(
        self,
        canary: Canary,
        action: str,
        evidence: Mapping[str, Any] | None,
        reason: str | None,
        by: str | None,
    ) -> Deployment:
        version = self.registry.get(canary.candidate)
        if action == "canary-finish":
            verified_files(version.path, version.files, version.ref)

        def decide(state: EnvironmentState) -> dict[str, Any]:
            if action == "canary-finish":
                self._accepted(version)
            return decide_canary_change(state, canary, action, evidence, reason)

        return self._append(decide, action, by)

    def _changed(self) -> None:
        """Take note that this process has changed what is live."""

    def _append(
        self, decide: Callable[[EnvironmentState], dict[str, Any]], action: str, by: str | None
    ) -> Deployment:
        entry = self._log.append(decide, action, by=by)
        assert entry is not None
        update_link(self.folder, self._live)
        self._changed()
        return self.history()[entry.number - 1]


def proof_of(version: ModelVersion, evidence: object, **texts: object) -> dict[str, Any] | None:
    """Return evidence as the log keeps it.

    Raises:
        InputError: It is not valid, or about another version.
    """
    check_texts(**texts)
    proof = None if evidence is None else evidence_dict(evidence)
    if proof is not None:
        check_evidence(version, proof)
    return proof


def _check_case(environment: Releases) -> None:
    """Refuse a new environment whose name differs only in case from another one."""
    for other in environment.registry.environments():
        if other != environment.name and other.lower() == environment.name.lower():
            raise Conflict(
                f"environment {environment.name!r} differs only in case from {other!r}, and some disks know no case"
            )


def check_texts(**texts: object) -> None:
    """Check optional texts.

    Raises:
        InputError: One is neither text nor None.
    """
    for name, text in texts.items():
        if not isinstance(text, str | None):
            raise InputError(f"{name} must be text, not a {type(text).__name__}")
