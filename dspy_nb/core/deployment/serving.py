"""Where a request goes: to which version, and whether its unit's place decided that."""

from __future__ import annotations

import random
from typing import NamedTuple

from dspy_nb.core.arguments import check_text
from dspy_nb.core.deployment.canary_log import Canary
from dspy_nb.core.deployment.history import MAKES_LIVE, EnvironmentState, Live
from dspy_nb.core.errors import InputError, NotFound
from dspy_nb.core.statistics.assignment import place_of
from dspy_nb.core.traffic.store import Route


class LiveIn(NamedTuple):
    """Where a version is served.

    Attributes:
        environment: The environment.
        share: The share of the traffic that it gets as the candidate of a canary; None where it is live.
    """

    environment: str
    share: float | None = None

    def __str__(self) -> str:
        """Return ``live in production``, or ``canary 5% in production``."""
        what = "live" if self.share is None else f"canary {100 * self.share:g}%"
        return f"{what} in {self.environment}"


def choose_route(environment: str, live: Live, unit: str | None, *, drawn: bool = False) -> Route:
    """Return which version a request goes to.

    Args:
        environment: Name of the environment.
        live: What is live there.
        unit: Who asks.
        drawn: Whether the place of a request without a unit is drawn; else it stays with the live version.
    """
    canary = live.canary
    if canary is None:
        return Route(unit, deployment=live.since, ref=live.ref)
    randomised = unit is not None or drawn
    is_b = randomised and _place(environment, canary, unit) < canary.share
    ref = canary.candidate if is_b else live.ref
    return Route(unit, is_b, canary.share, randomised, live.since, canary.number, ref)


def find_route(environment: str, state: EnvironmentState, unit: str | None, ref: str | None) -> Route:
    """Return the route of a request that a certain version has answered, by default the one for the unit.

    Raises:
        NotFound: Nothing is live.
        InputError: The version was never live there.
    """
    live = state.now
    if live is None:
        raise NotFound(f"nothing is live in {environment}: deploy a version first")
    found = choose_route(environment, live, unit)
    if ref is None or found.ref == ref:
        return found
    if live.canary is not None and ref in (live.canary.candidate, live.ref):
        return found._replace(ref=ref, is_b=ref == live.canary.candidate, randomised=False)
    made_live = [line.number for line in state.history if line.ref == ref and line.action in MAKES_LIVE]
    if not made_live:
        raise InputError(f"{ref} was never live in {environment}: {live.ref} is")
    return Route(unit, deployment=made_live[-1], ref=ref)


def _place(environment: str, canary: Canary, unit: str | None) -> float:
    """Return where a unit lies in [0, 1) for this canary: always the same, and no two canaries alike."""
    if unit is None:
        return random.random()
    return place_of(f"{environment}\n{canary.number}\n{canary.started_at}", check_text("unit", unit))
