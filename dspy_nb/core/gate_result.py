"""What a quality gate found: each condition with what was measured, and the evidence for a registry."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["GateCheck", "GateResult"]


@dataclass(frozen=True, slots=True)
class GateCheck:
    """One condition.

    Attributes:
        condition: Its name, as in ``QualityGate``; ``complete`` and ``reliable`` are always asked for.
        measured: What was found; ``None`` if it is not known, which never passes.
        required: The least or the most that is allowed.
        passed: Whether the condition holds.
        reason: What is wrong if it does not.
    """

    condition: str
    measured: float | None
    required: float
    passed: bool
    reason: str


@dataclass(frozen=True)
class GateResult:
    """What a gate says about an evaluation.

    Attributes:
        passed: Whether every condition holds.
        checks: The conditions.
        metric: Metric of the evaluation.
        score: Its score.
        interval: Of the score.
        confidence: Of the interval.
        n: Examples finished.
        data_fingerprint: Identity of the data set.
        ref: The version whose stored evaluation was checked, if it was one.
        program_sha256: Hash of the prompts and demos of the program that was evaluated, if it has them.
    """

    passed: bool
    checks: tuple[GateCheck, ...]
    metric: str
    score: float
    interval: tuple[float, float]
    confidence: float
    n: int
    data_fingerprint: str
    ref: str | None = None
    program_sha256: str | None = None

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why the gate says no, one text for each condition that does not hold."""
        return tuple(check.reason for check in self.checks if not check.passed)

    def report(self) -> str:
        """Return the conditions as text for a terminal."""
        failed = len(self.reasons)
        said = "passed" if self.passed else f"said no: {failed} of {len(self.checks)} conditions do not hold"
        lines = [f"Gate {said}"]
        width = max(len(check.condition) for check in self.checks)
        for check in self.checks:
            found = _found(check) if check.passed else check.reason
            lines.append(f"  {'ok' if check.passed else 'NO'}  {check.condition:{width}}  {found}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON data; a number that is not known becomes ``None``."""
        checks = [asdict(check) for check in self.checks]
        for check in checks:
            check["reason"] = None if check["passed"] else check["reason"]
        return {
            "passed": self.passed,
            "metric": self.metric,
            "score": None if math.isnan(self.score) else self.score,
            "interval": list(self.interval),
            "confidence": self.confidence,
            "n": self.n,
            "data_fingerprint": self.data_fingerprint,
            "checks": checks,
            "reasons": list(self.reasons),
        }

    def to_evidence(self) -> dict[str, Any]:
        """Return what a registry stores of it, see ``Registry.attach`` and ``Registry.promote``."""
        subject = {"ref": self.ref, "program_sha256": self.program_sha256}
        subject = {name: value for name, value in subject.items() if value is not None}
        return {"kind": "gate", **subject, **self.to_dict()}


def _found(check: GateCheck) -> str:
    what = {"complete": "examples ", "reliable": "error rate "}.get(check.condition, "")
    bound = "at most" if check.condition == "reliable" or check.condition.startswith("max_") else "at least"
    return f"{what}{_figure(check.measured)}, {bound} {_figure(check.required)} required"


def _figure(value: float | None) -> str:
    return "unknown" if value is None else f"{value:,.4g}"
