"""What is live in an environment, and who changed it: deploying, rolling back, the history.

Nothing is locked: the log of the environment decides who was first.
"""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from dspy_nb.core.arguments import check_texts
from dspy_nb.core.deployment.canary_log import Canary
from dspy_nb.core.deployment.history import (
    Deployment,
    EnvironmentState,
    decide_canary_change,
    decide_deployment,
    decide_rollback,
    deployment_requirements,
)
from dspy_nb.core.deployment.restrictions import Restrictions, load_restrictions
from dspy_nb.core.errors import Corrupt, InputError, Refused, RegistryError
from dspy_nb.core.evidence import Evidence
from dspy_nb.core.models.conditions import Conditions
from dspy_nb.core.models.requirements import Requirement
from dspy_nb.core.models.subject import take_evidence
from dspy_nb.core.models.version import ModelVersion, verified_files
from dspy_nb.core.storage.entry import Entry
from dspy_nb.core.storage.files import TEMPORARY_PREFIX
from dspy_nb.core.storage.log import Log
from dspy_nb.core.storage.place import Place, is_link, storage_of
from dspy_nb.core.text import error_text, value_text

if TYPE_CHECKING:
    import dspy

    from dspy_nb.core.models.catalogue import Catalogue

    Decide: TypeAlias = Callable[[EnvironmentState], dict[str, Any]]
    Program: TypeAlias = dspy.Module | type[dspy.Module] | None
    Smoke: TypeAlias = (
        Mapping[str, Any] | Sequence[Mapping[str, Any]] | Callable[[dspy.Module], object] | None
    )

T = TypeVar("T")


class Releases:
    """The part of an environment that changes what is live, and tells what was."""

    def __init__(self, registry: Catalogue, name: str, *, create: bool = False) -> None:
        self.name = registry.check_environment(name, create)
        self.registry = registry
        self.folder = registry.root / "environments" / name
        self._log = Log(self.folder / "log", EnvironmentState, registry.root)

    def __repr__(self) -> str:
        """Return the name and the folder of the registry."""
        return f"Environment({self.name!r}, {str(self.registry.root)!r})"

    @property
    def current(self) -> ModelVersion | None:
        """The version that is live, or None."""
        live = self.read(lambda state: state.now)
        return None if live is None else self.registry.get(live.ref)

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
        seen = self.read(lambda state: len(state.history))
        version = self._accepted(ref)
        self.restrictions.check_lm(self.name)
        loaded = self.registry.load(version, program)
        try_out(loaded, smoke, f"{version.ref} is not deployed to {self.name}")
        return Prepared(self, version, loaded, seen)

    def requirements(self, ref: str | ModelVersion) -> list[Requirement]:
        """Return what the deployment of a version requires, each with whether it is met; nothing is changed.

        ``deploy`` refuses what one of them says no to.

        Raises:
            NotFound: There is no such version.
        """
        version = self.registry.get(ref)
        return [
            *self.restrictions.requirements(version, self.name),
            *self.read(lambda state: deployment_requirements(state, self.name, version.ref)),
        ]

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
            raise InputError(f"steps must be a whole number from 1, not {value_text(steps)}")
        canary = self.read(lambda state: state.canary)
        if canary is not None and steps == 1:
            return self._change_canary(canary, "canary-abort", None, reason, by)
        return self._roll_back(steps, by, reason)

    def _roll_back(
        self,
        steps: int,
        by: str | None,
        reason: str | None,
        evidence: Evidence | None = None,
        expected: int | None = None,
    ) -> Deployment:
        with self._log.lock:
            state = self._log.read()
            seen = len(state.history) if expected is None else expected
            state.expect(seen, self.name)
            body = decide_rollback(state, self.name, steps, reason, evidence)
        version = self.registry.get(f"{body['model_id']}@{body['version']}")
        if version.stage == "archived":
            way = f"steps={steps + 1} goes further back, promote() takes it out"
            raise Refused(f"{version.ref} is archived: {way}")
        verified_files(version.path, version.files, version.ref)

        def decide(state: EnvironmentState) -> dict[str, Any]:
            state.expect(seen, self.name)
            return body

        return self._append(decide, "rollback", by)

    def roll_back_on_evidence(self, seen: int, evidence: Evidence, reason: str) -> Deployment:
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
        return self.read(lambda state: state.live[-1])

    def _conditions(self, version: ModelVersion, evidence: Evidence | None) -> Conditions:
        """Return what a version was made under, and what the last evidence about it was gathered with."""
        lines = self.registry.history(version.model_id)
        known = [line.evidence for line in lines if line.version == version.version]
        return Conditions.of(version, version.metadata, [*known, evidence])

    def _accepted(self, ref: str | ModelVersion) -> ModelVersion:
        version = self.registry.get(ref)
        self.restrictions.check_version(version, self.name)
        return version

    def _deploy(
        self, version: ModelVersion, seen: int | None, by: str | None, reason: str | None, evidence: object
    ) -> Deployment:
        check_texts(by=by, reason=reason)
        proof = None if evidence is None else take_evidence(version, evidence)
        verified_files(version.path, version.files, version.ref)
        self.registry.check_environment(self.name, create=True)
        self._conditions(version, proof).compare_evidence(stacklevel=4)

        def decide(state: EnvironmentState) -> dict[str, Any]:
            if seen is not None:
                state.expect(seen, self.name)
            self._accepted(version)
            return decide_deployment(state, self.name, version.ref, proof, reason)

        return self._append(decide, "deploy", by)

    def _change_canary(
        self, canary: Canary, action: str, evidence: Evidence | None, reason: str | None, by: str | None
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

    def _append(self, decide: Decide, action: str, by: str | None) -> Deployment:
        return self._line(self._write(decide, action, by))

    def _write(self, decide: Decide, action: str, by: str | None) -> Entry:
        """Append to the log; once that is done, nothing that fails can make it undone."""
        entry = self._log.append(decide, action, by=by)
        assert entry is not None
        made = self._line(entry)

        def live() -> str:
            try:
                return self._live()
            except (RegistryError, IndexError):
                return made.ref

        update_link(self.folder, live)
        self._changed()
        return entry

    def _line(self, entry: Entry) -> Deployment:
        """Return the line of an entry that this process has just written, from memory."""
        with self._log.lock:
            history = self._log.state.history
            if len(history) >= entry.number:
                return history[entry.number - 1]
        return self.history()[entry.number - 1]  # git has just put another history in its place


# -- trying out -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Prepared:
    """A version that was loaded and tried out, and waits to go live.

    Attributes:
        environment: Where.
        version: The version.
        program: The loaded program.
    """

    environment: Releases
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


_SMOKE_S = 300.0


def try_out(program: dspy.Module, smoke: Smoke, failed: str) -> None:
    """Run a smoke test.

    Raises:
        Refused: It failed, or was not over after five minutes.
        InputError: ``smoke`` is none of what it may be, or the program does not take its inputs.
    """
    if smoke is None:
        return
    from dspy_nb.core.programs.calls import check_answer
    from dspy_nb.core.programs.inputs import check_call
    from dspy_nb.core.programs.interrupts import within

    samples = [smoke] if isinstance(smoke, Mapping) else smoke
    if not callable(samples):
        if (
            not isinstance(samples, list | tuple)
            or not samples
            or not all(isinstance(s, Mapping) for s in samples)
        ):
            raise InputError(
                "smoke must be inputs such as {'review': 'Nice.'}, a list of such, or a function"
            )
        for sample in samples:
            check_call(program, sample)

    def fits() -> bool:
        if callable(samples):
            return samples(program) is not False
        for sample in samples:
            check_answer(program, program(**sample))
        return True

    try:
        fit = within(_SMOKE_S, fits)
    except Exception as error:
        words = error_text(error, 200)
        raise Refused(f"{failed}: its smoke test failed: {type(error).__name__}: {words}") from error
    if not fit:
        raise Refused(f"{failed}: its smoke test said no")


# -- the link ---------------------------------------------------------------------------------------------------

LINK = "current"


def link_target(ref: str) -> str:
    """Return what the link in an environment's folder says for a version."""
    model_id, _, version = ref.partition("@")
    return f"../../models/{model_id}/{version}"


def read_link(folder: Place) -> str | None:
    """Return what the link says, None if there is none.

    Where git knows no links, it checks them out as files that hold the target; on object storage it is such a file.
    """
    link = folder / LINK
    if is_link(link):
        with contextlib.suppress(OSError):
            return os.readlink(str(link)).replace(os.sep, "/")  # noqa: PTH115 (text, not a path)
    with contextlib.suppress(OSError, UnicodeDecodeError, Corrupt):
        return storage_of(link).read(link).decode().strip()
    return None


def update_link(folder: Place, live: Callable[[], str]) -> bool:
    """Let the link name what is live, as ``live`` reads it; readers see the old link or the new one, never none.

    Whoever writes the link looks at the log again afterwards, so that of several writers the last one leaves
    it right, in whatever order they come.

    Returns:
        False if the system has no links, or the folder does not take one.
    """
    wanted = link_target(live())
    while True:
        if not _write_link(folder, wanted):
            return False
        latest = link_target(live())
        if latest == wanted:
            return True
        wanted = latest


def _write_link(folder: Place, target: str) -> bool:
    if not isinstance(folder, Path):
        with contextlib.suppress(OSError):
            storage_of(folder).update(folder / LINK, f"{target}\n".encode())
            return True
        return False
    temporary = folder / f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}"
    try:
        temporary.symlink_to(target, target_is_directory=True)
        temporary.replace(folder / LINK)
    except (OSError, NotImplementedError):
        with contextlib.suppress(OSError):
            temporary.unlink()
        return False
    return True
