"""How a canary stands: both versions, the difference, and what is to be done."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from dspy_nb.core.deployment.canary_log import CanaryRules
from dspy_nb.core.deployment.history import Deployment
from dspy_nb.core.doors import Shown
from dspy_nb.core.evidence import CanaryEvidence

if TYPE_CHECKING:
    from dspy_nb.core.statistics.verdicts import Verdict

Decision = Literal["wait", "step", "finish", "rollback"]


@dataclass(frozen=True, slots=True)
class VersionOutcomes:
    """One of the two versions, and what came of its requests.

    Attributes:
        ref: The version.
        n: Its outcomes that counted.
        mean: Their mean; None without outcomes.
    """

    ref: str
    n: int
    mean: float | None


@dataclass(frozen=True, slots=True)
class CanaryStatus(Shown):
    """How a canary stands.

    Attributes:
        environment: Where it runs.
        baseline: The version that is live.
        candidate: The version that is tried.
        share: Share of the traffic that the candidate gets.
        next_share: What it would get next.
        interval: Confidence sequence of the difference of the mean outcomes, candidate − baseline.
        verdict: What that says, where B is the candidate, given the margin.
        p_value: Anytime-valid, of no difference.
        n_step: Outcomes of the candidate since it got its present share.
        decision: ``wait``, ``step``, ``finish`` or ``rollback``.
        reason: Why.
        rules: Those of the canary.
        number: Number of the log entry that started it.
        started_at: When, ISO 8601 in UTC.
        made: The line of the history that this look has made, if it made one.
        missing: What could not be counted: a sentence about each damaged file of traffic.
    """

    environment: str
    baseline: VersionOutcomes
    candidate: VersionOutcomes
    share: float
    next_share: float
    interval: tuple[float, float]
    verdict: Verdict
    p_value: float
    n_step: int
    decision: Decision
    reason: str
    rules: CanaryRules
    number: int
    started_at: str
    made: Deployment | None = None
    missing: tuple[str, ...] = ()

    def to_evidence(self) -> CanaryEvidence:
        """Return what the log keeps with a step."""
        return CanaryEvidence.of(
            self,
            ref=self.candidate.ref,
            baseline=self.baseline.ref,
            passed=self.decision in ("step", "finish"),
            n=self.baseline.n + self.candidate.n,
            n_b=self.candidate.n,
            score=self.candidate.mean,
            baseline_score=self.baseline.mean,
            margin=self.rules.margin,
            confidence=self.rules.confidence,
            method="two-arm betting sequence",
            missing=self.missing or None,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON data."""
        return {
            **asdict(self),
            "interval": [None if math.isnan(end) else end for end in self.interval],
            "rules": self.rules.to_dict(),
            "made": None if self.made is None else self.made.to_dict(),
        }
