"""What a look at an environment found: one line for each objective, and what was done about it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import msgspec

from dspy_nb.core.deployment.history import Deployment
from dspy_nb.core.doors import Shown
from dspy_nb.core.evidence import HealthEvidence
from dspy_nb.core.traffic.store import Bin

Health = Literal["healthy", "degraded", "too early"]


@dataclass(frozen=True, slots=True)
class ObjectiveHealth:
    """How one objective is met by what is live.

    Attributes:
        name: ``quality``, ``latency`` or ``errors``.
        meaning: What ``observed`` is the mean of, in words.
        verdict: ``healthy``, ``degraded`` (it stays so until another version is live) or ``too early``.
        level: The mean that is promised.
        tolerated: The mean below which it is a degradation.
        observed: The mean since the deployment, None without requests.
        recent: The mean of the last 100 requests.
        interval: Where a constant mean can lie, 95 % at all times at once.
        n: Requests that counted.
        p_value: Anytime-valid, of "the mean is at least what is tolerated".
        alpha: The p-value that raises the alarm: the chance that it ever does so by mistake.
        alarm_at: Number of the request, among those that counted, at which it did.
        bins: The requests in order, in groups.
    """

    name: str
    meaning: str
    verdict: Health
    level: float
    tolerated: float
    observed: float | None
    recent: float | None
    interval: tuple[float, float]
    n: int
    p_value: float
    alpha: float
    alarm_at: int | None
    bins: tuple[Bin, ...] = ()

    def to_evidence(self) -> HealthEvidence:
        """Return what the log keeps of a degradation."""
        return HealthEvidence.of(
            self, objective=self.name, verdict=f"{self.name} {self.verdict}", score=self.observed
        )


@dataclass(frozen=True, slots=True)
class HealthReport(Shown):
    """What a look at an environment found.

    Attributes:
        environment: Its name.
        ref: The version that was live.
        deployment: Number of the log entry that made it live.
        live_since: When that was, ISO 8601 in UTC.
        at: When the look was.
        level_source: Where the level of the quality comes from, or why there is none.
        objectives: One for each objective.
        alerts: Names of the objectives of which this look was the first to find a degradation.
        alert_id: What the alert of that is known by, to receivers that may get it twice; None without one.
        rolled_back: The roll-back that this look made.
        rollback_error: Why it made none although it was to.
        missing: What it could not count: a sentence about each damaged file of traffic.
    """

    environment: str
    ref: str
    deployment: int
    live_since: str
    at: str
    level_source: str
    objectives: tuple[ObjectiveHealth, ...]
    alerts: tuple[str, ...] = ()
    alert_id: str | None = None
    rolled_back: Deployment | None = None
    rollback_error: str | None = None
    missing: tuple[str, ...] = ()

    @property
    def verdict(self) -> Health:
        """``degraded`` if an objective is, else ``too early`` if one is, else ``healthy``."""
        found = [objective.verdict for objective in self.objectives]
        verdicts: tuple[Health, ...] = ("degraded", "too early")
        return next((verdict for verdict in verdicts if verdict in found), "healthy")

    @property
    def degraded(self) -> tuple[ObjectiveHealth, ...]:
        """The objectives that are no longer met."""
        return tuple(objective for objective in self.objectives if objective.verdict == "degraded")

    def __getitem__(self, name: str) -> ObjectiveHealth:
        """Return the objective of that name."""
        if found := [objective for objective in self.objectives if objective.name == name]:
            return found[0]
        raise KeyError(f"{name!r} is not watched in {self.environment}")

    def to_dict(self, *, bins: bool = True) -> dict[str, Any]:
        """Return everything as JSON data."""
        rolled_back = None if self.rolled_back is None else self.rolled_back.to_dict()
        shown = self.objectives if bins else [replace(objective, bins=()) for objective in self.objectives]
        data = msgspec.to_builtins(replace(self, rolled_back=None, objectives=tuple(shown)))
        return {"verdict": self.verdict, **data, "rolled_back": rolled_back}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Return the report that ``to_dict`` wrote."""
        found = msgspec.convert({**data, "rolled_back": None}, cls)
        rolled_back = data["rolled_back"]
        return found if rolled_back is None else replace(found, rolled_back=Deployment.from_dict(rolled_back))

    def sentence(self) -> str:
        """Return the finding on one line, for logs and alerts."""
        what = f"{self.ref} in {self.environment} is {self.verdict}"
        parts = [describe(item) for item in self.degraded]
        if self.rolled_back is not None:
            parts.append(f"rolled back to {self.rolled_back.ref}")
        if self.rollback_error is not None:
            parts.append(f"not rolled back: {self.rollback_error}")
        parts += self.missing
        return f"{what}: {'; '.join(parts)}" if parts else what


def describe(item: ObjectiveHealth) -> str:
    """Return what was promised and what was seen, in words."""
    if item.observed is None:
        return "no requests yet"
    recent = "" if item.recent is None else f", {item.recent:.1%} of the last 100"
    return (
        f"{item.meaning} {item.observed:.1%} over {item.n:,} requests{recent}, {item.tolerated:.1%} is tolerated "
        f"(p {_p(item.p_value)})"
    )


def _p(p_value: float) -> str:
    if p_value >= 1e-4:
        return f"{p_value:.2g}"
    return f"< {10.0 ** math.ceil(math.log10(max(p_value, 1e-300))):.0e}"
