"""What an online experiment has found so far: the verdict, the arms, and the classical test beside it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from dspy_nb.core.ab.comparison import Step
from dspy_nb.core.doors import Shown
from dspy_nb.core.errors import Corrupt, Refused
from dspy_nb.core.evaluation.scorecard import Latency
from dspy_nb.core.evidence import Evidence, ExperimentEvidence, read_evidence
from dspy_nb.core.statistics.verdicts import Verdict
from dspy_nb.core.storage.plain import plain

_SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Arm:
    """One of the two programs and its traffic.

    Attributes:
        name: Reference or name of the program.
        requests: All that went to it.
        units: Those who asked; only the first request of each is evidence.
        counted: Units whose outcome counts by now: see ``ExperimentStatus.n``.
        successes: Sum of their outcomes.
        success_rate: Mean of their outcomes; NaN while there are none.
        interval: Wilson's, of the rate, at the confidence of the experiment, for one look.
        waiting: Units without an outcome whose time is not over.
        expired: Units whose outcome did not come in time, counted as the experiment says.
        errors: Requests on which the program failed; a failure counts as outcome 0.
        cached: Requests answered from a cache.
        latency: Of answers that did not come from a cache; ``None`` while there are none.
    """

    name: str
    requests: int
    units: int
    counted: int
    successes: float
    success_rate: float
    interval: tuple[float, float]
    waiting: int
    expired: int
    errors: int
    cached: int
    latency: Latency | None


@dataclass(frozen=True)
class FixedTest:
    """The pooled two-proportion z-test: valid for a single look, at a size fixed beforehand.

    Looked at again and again it finds a winner between equal programs in 25 to 46 % of experiments.

    Attributes:
        significant: Whether both arms have ``min_samples`` units and |z| is above the critical value.
        winner: Name of the program with the higher rate if it is significant, else ``None``.
        z: Of B against A.
        p_value: Two-sided.
        interval: Newcombe's, of B − A.
        min_samples: Units that each arm needs.
        confidence: Of the test.
        refused: Why the test cannot be made at all; ``None`` if it can.
        warning: What a reader must know.
    """

    significant: bool
    winner: str | None
    z: float
    p_value: float
    interval: tuple[float, float]
    min_samples: int
    confidence: float
    refused: str | None
    warning: str


@dataclass(frozen=True)
class Conclusion:
    """How an experiment ended.

    Attributes:
        verdict: The one at that time.
        winner: Name of the program that is served since.
        n: Units counted.
        concluded_at: Seconds since 1970.
        reason: What a person said.
        forced: Whether it was ended without a verdict.
        evidence: What was written into the registry's log, if B is a version.
    """

    verdict: Verdict
    winner: str
    n: int
    concluded_at: float
    reason: str | None
    forced: bool
    evidence: Evidence

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON data."""
        return {**vars(self), "evidence": self.evidence.to_dict()}

    @classmethod
    def from_dict(cls, values: Any, where: object) -> Conclusion:
        """Return the conclusion that a file holds.

        Raises:
            Corrupt: It is none.
        """
        names = {field.name for field in fields(cls)}
        if not isinstance(values, dict) or set(values) != names or not isinstance(values["evidence"], dict):
            raise Corrupt(f"{where} holds no conclusion of an experiment: restore it from a backup")
        return cls(**{**values, "evidence": read_evidence(values["evidence"])})


@dataclass(frozen=True)
class ExperimentStatus(Shown):
    """An experiment at one moment. Differences are B − A.

    Attributes:
        name: Of the experiment.
        verdict: "B better", "A better", "no practical difference" or "inconclusive"; the first one that was
            not inconclusive stays, but as long as something blocks it, it is inconclusive.
        blocked: Why there can be no verdict, whatever the numbers say; empty if nothing is wrong.
        effect: Difference of the success rates; where the split changed, the mean of the differences at each
            split, weighted by units. NaN while an arm is empty.
        interval: Of the effect, at ``confidence``, valid at every look; ``(nan, nan)`` if the data contradict
            every difference.
        p_value: Of no difference, valid at every look.
        n: Units counted: in the order of assignment, up to the first one whose outcome is still open.
        n_at_verdict: Units that the verdict took; ``None`` without one.
        more_needed: About how many more units would settle it: the sequence that decides is played on from where
            it stands, with outcomes like those seen, and half of the time it takes at most so many.
            ``None`` if it is settled, no number up to a million is enough, or nothing can be said: there is
            no difference, and no margin for it to lie within.
        a: The program in use.
        b: The one that may replace it.
        total: Requests to both.
        held_back: Units with an outcome that are not counted yet, because one before them has none.
        split: Present probability of B for new units.
        margin: Largest difference that makes no practical difference.
        confidence: 1 − α.
        fixed: The classical test beside it, for one look.
        srm_p_value: Of the arms having the sizes that the splits promise; below .001 it blocks the verdict.
        warnings: What a reader must know.
        path: The interval as units came in, at most 500 steps and the present one.
        outcome_within_s: Seconds after the assignment within which an outcome counts.
        missing: What a unit without outcome counts as after that.
        created_at: Seconds since 1970.
        method: In words.
        data_fingerprint: SHA-256 of the units counted: arm, split and outcome of each, in order.
        conclusion: How it ended; ``None`` while it runs.
    """

    name: str
    verdict: Verdict
    blocked: tuple[str, ...]
    effect: float
    interval: tuple[float, float]
    p_value: float
    n: int
    n_at_verdict: int | None
    more_needed: int | None
    a: Arm
    b: Arm
    total: int
    held_back: int
    split: float
    margin: float
    confidence: float
    fixed: FixedTest
    srm_p_value: float
    warnings: tuple[str, ...]
    path: tuple[Step, ...]
    outcome_within_s: float
    missing: float
    created_at: float
    method: str
    data_fingerprint: str
    conclusion: Conclusion | None = None

    @property
    def not_worse(self) -> bool:
        """Whether B is shown to be at most ``margin`` worse, which is enough for a cheaper program."""
        return not self.blocked and self.interval[0] > -self.margin

    def to_evidence(self, *, forced: bool = False, reason: str | None = None) -> Evidence:
        """Return what a registry records with a promotion of B.

        Args:
            forced: Whether the experiment is ended without a verdict; that never passes.
            reason: Why a person ends it.
        """
        if self.conclusion is not None:
            return self.conclusion.evidence
        return ExperimentEvidence.of(
            self,
            ref=self.b.name if "@" in self.b.name else None,
            experiment=self.name,
            baseline=self.a.name,
            metric="outcome",
            score=self.b.success_rate,
            passed=False if forced else None,
            forced=forced or None,
            reason=reason,
        )

    def conclude(self, at: float, reason: str | None, *, force: bool) -> Conclusion:
        """Return the end of the experiment that this status allows.

        Args:
            at: When, in seconds since 1970.
            reason: Why; kept with the evidence.
            force: End it without a verdict; the evidence does not pass then.

        Raises:
            Refused: There is no verdict, and it is not forced.
        """
        forced = self.verdict == "inconclusive"
        if forced and not force:
            why = "; ".join(self.blocked) or f"no verdict after {self.n:,} units"
            raise Refused(f"{self.name} cannot be concluded: {why} (force=True with a reason ends it anyway)")
        return Conclusion(
            verdict=self.verdict,
            winner=self.b.name if self.verdict == "B better" else self.a.name,
            n=self.n,
            concluded_at=at,
            reason=reason,
            forced=forced,
            evidence=self.to_evidence(forced=forced, reason=reason),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON data."""
        path = [step._asdict() for step in self.path]
        conclusion = None if self.conclusion is None else self.conclusion.to_dict()
        data = {**vars(self), "path": path, "conclusion": conclusion}
        return {"schema_version": _SCHEMA_VERSION, **plain(data)}
