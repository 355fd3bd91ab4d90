"""Canaries of an environment: start one, look at it, let it go on, take it back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from dspy_nb.core.arguments import check_texts
from dspy_nb.core.deployment.canary_log import Canary, CanaryRules
from dspy_nb.core.deployment.history import Deployment, EnvironmentState, decide_canary
from dspy_nb.core.deployment.releases import Releases, try_out
from dspy_nb.core.errors import Conflict, Refused
from dspy_nb.core.models.subject import take_evidence
from dspy_nb.core.models.version import ModelVersion, verified_files
from dspy_nb.core.traffic.store import TRAFFIC_FILE, Traffic

if TYPE_CHECKING:
    from dspy_nb.core.deployment.canary_state import CanaryStatus
    from dspy_nb.core.deployment.releases import Program, Smoke
    from dspy_nb.core.models.catalogue import Catalogue


class Canaries(Releases):
    """The part of an environment that tries a version on a share of the traffic.

    Attributes:
        traffic: The requests that were served, and their outcomes.
    """

    def __init__(self, registry: Catalogue, name: str, *, create: bool = False) -> None:
        super().__init__(registry, name, create=create)
        self.traffic = Traffic(registry.local / "environments" / name / TRAFFIC_FILE)

    def canary(
        self,
        ref: str | ModelVersion,
        share: float = 0.05,
        *,
        steps: Sequence[float] | None = None,
        margin: float = 0.05,
        confidence: float = 0.95,
        min_requests: int = 20,
        wait_s: float = 3600.0,
        program: Program = None,
        smoke: Smoke = None,
        by: str | None = None,
        reason: str | None = None,
        evidence: object = None,
    ) -> Canary:
        """Give a version a small share of the traffic, and more as long as it is not worse than what is live.

        ``predict`` and ``load(unit=...)`` serve it to its share of the units. Outcomes that are recorded, by any
        process, take it further: to the next share as soon as the loss over all traffic that they leave possible is
        below ``margin``, in the end to all of it, which deploys it; or back as soon as it is shown to be worse, or
        fails more often than ``max_error_rate`` of the monitor allows. Every step is an entry in the history. Until
        the end nothing else can be deployed: ``abort_canary`` or ``rollback`` takes the candidate back.

        Args:
            ref: The version.
            share: Its share of the traffic at first.
            steps: The shares after that, rising to 1; by default those of .25, .5 and 1 that are above ``share``.
            margin: Loss of the mean outcome, over all traffic, that is accepted, in (0, 1).
            confidence: 1 − the chance that a version that is not worse is ever taken back.
            min_requests: Outcomes of the candidate that each step waits for at least.
            wait_s: How long a request waits for its outcome before it is left out, in seconds.
            program: An instance of the program's class, or the class, where it has one of its own.
            smoke: What it must answer before it gets any traffic, as for ``prepare``.
            by: Who decides; the user of the process by default.
            reason: Why.
            evidence: What the decision rests on, as for ``deploy``.

        Raises:
            NotFound: There is no such version.
            Refused: The environment does not accept it, nothing is live to compare it with, it is live already, a
                canary is running, or the smoke test failed.
            Corrupt: A file of it was changed.
            InputError: Something given is wrong.
        """
        rules = CanaryRules.checked(share, steps, margin, confidence, min_requests, wait_s)
        version = self._accepted(ref)
        check_texts(by=by, reason=reason)
        proof = None if evidence is None else take_evidence(version, evidence)
        verified_files(version.path, version.files, version.ref)
        try_out(self.registry.load(version, program), smoke, f"no canary of {version.ref} in {self.name}")

        def decide(state: EnvironmentState) -> dict[str, Any]:
            self._accepted(version)
            return decide_canary(state, self.name, version.ref, rules, proof, reason)

        return Canary.started(self._write(decide, "canary-start", by))

    def canary_status(self) -> CanaryStatus | None:
        """Return how the canary stands, None if none is running; nothing is changed by this.

        Raises:
            RegistryError: The traffic cannot be read.
        """
        return self._status(self.read(lambda state: state.canary))

    def advance_canary(self) -> CanaryStatus | None:
        """Let the canary take the step that its outcomes call for, if any, at most one.

        Recording outcomes does this once a second at most, in every process that records; this is for those who do
        not want to wait, and for cron.

        Returns:
            How it stood before, with ``made`` for the entry in the history; None if no canary is running.

        Raises:
            Refused: It is to be deployed, and the environment does not accept it any more.
            RegistryError: The traffic or the log cannot be read or written.
        """
        canary = self.read(lambda state: state.canary)
        status = self._status(canary)
        if canary is None or status is None or status.decision == "wait":
            return status
        action = f"canary-{status.decision}"
        try:
            made = self._change_canary(canary, action, status.to_evidence(), f"canary: {status.reason}", None)
        except Conflict:  # another process was faster
            return status
        return replace(status, made=made)

    def abort_canary(self, *, by: str | None = None, reason: str | None = None) -> Deployment:
        """Take the candidate back; all of the traffic is with the live version again.

        Raises:
            Refused: No canary is running.
            Conflict: It was changed at the same moment.
        """
        check_texts(by=by, reason=reason)
        canary = self.read(lambda state: state.canary)
        if canary is None:
            raise Refused(f"no canary is running in {self.name}")
        return self._change_canary(canary, "canary-abort", None, reason, by)

    def _status(self, canary: Canary | None) -> CanaryStatus | None:
        if canary is None:
            return None
        from dspy_nb.core.deployment.canary import canary_status
        from dspy_nb.core.deployment.objectives import load_settings

        settings = load_settings(self.registry.root / "config.toml", self.name)
        return canary_status(self.name, self.traffic, settings, canary)
