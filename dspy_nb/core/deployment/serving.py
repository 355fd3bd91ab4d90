"""Serving requests so that what came of them is known: by which version, how long, with what outcome."""

from __future__ import annotations

import logging
import random
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from dspy_nb.core.arguments import check_text
from dspy_nb.core.deployment.canary_log import Canary
from dspy_nb.core.deployment.history import MAKES_LIVE, EnvironmentState, Live
from dspy_nb.core.deployment.traffic import LiveTraffic, Route
from dspy_nb.core.errors import InputError, NotFound, RegistryError
from dspy_nb.core.statistics.assignment import place_of

if TYPE_CHECKING:
    import dspy

__all__ = ["Answer", "ask", "route", "route_to"]

logger = logging.getLogger(__name__)


class Answer(NamedTuple):
    """What ``Environment.predict`` returns.

    Attributes:
        prediction: What the program returned.
        request_id: What its outcome is recorded under.
    """

    prediction: Any
    request_id: str


def route(environment: str, live: Live, unit: str | None, *, drawn: bool = False) -> Route:
    """Return which version a request goes to.

    Args:
        environment: Name of the environment.
        live: What is live there.
        unit: Who asks.
        drawn: Whether the place of a request without a unit is drawn; else it stays with the live version.
    """
    canary = live.canary
    if canary is None:
        return Route(live.since, live.ref, unit)
    randomised = unit is not None or drawn
    is_b = randomised and place(environment, canary, unit) < canary.share
    ref = canary.candidate if is_b else live.ref
    return Route(live.since, ref, unit, canary.number, is_b, canary.share, randomised)


def route_to(environment: str, state: EnvironmentState, unit: str | None, ref: str | None) -> Route:
    """Return the route of a request that a certain version has answered, by default the one for the unit.

    Raises:
        NotFound: Nothing is live.
        InputError: The version was never live there.
    """
    live = state.now
    if live is None:
        raise NotFound(f"nothing is live in {environment}: deploy a version first")
    found = route(environment, live, unit)
    if ref is None or found.ref == ref:
        return found
    if live.canary is not None and ref in (live.canary.candidate, live.ref):
        return found._replace(ref=ref, is_b=ref == live.canary.candidate, randomised=False)
    made_live = [line.number for line in state.history if line.ref == ref and line.action in MAKES_LIVE]
    if not made_live:
        raise InputError(f"{ref} was never live in {environment}: {live.ref} is")
    return Route(made_live[-1], ref, unit)


def place(environment: str, canary: Canary, unit: str | None) -> float:
    """Return where a unit lies in [0, 1) for this canary: always the same, and no two canaries alike."""
    if unit is None:
        return random.random()
    return place_of(f"{environment}\n{canary.number}\n{canary.started_at}", check_text("unit", unit))


def ask(traffic: LiveTraffic, to: Route, program: dspy.Module, inputs: dict[str, Any]) -> Answer:
    """Answer a request and store how that went.

    Where the file of traffic cannot be written, that is logged and the request is answered all the same.

    Raises:
        InputError: The unit is no valid name, or the program does not take these inputs; nothing was stored.
        NoPrediction: The program returned no prediction; that is stored as an error.
        Exception: Whatever the program raises; it is stored as an error.
    """
    import dspy

    from dspy_nb.core.evaluation.attempts import ExampleMeter, is_asynchronous, meter_settings
    from dspy_nb.core.programs.calls import check_answer, check_call

    check_call(program, inputs, own=("unit",))
    if is_asynchronous(program):
        raise InputError(
            f"{to.ref} has only aforward, and predict calls forward: await load().acall(...), and observe() it"
        )

    request_id = ""
    try:
        request_id = traffic.begin(to)
    except RegistryError as error:
        logger.error("a request is served but not counted: %s", error)
    meter = ExampleMeter(dspy.settings.usage_tracker)

    def ended(error: str | None) -> None:
        latency_ms = (time.perf_counter() - started) * 1e3
        usage = meter.take()
        cached = usage.cache_hits > 0 and usage.lm_calls == 0
        if request_id:
            try:
                traffic.finish(request_id, latency_ms, cached=cached, error=error)
            except RegistryError as failure:
                logger.error("how request %s ended is not stored: %s", request_id, failure)

    started = time.perf_counter()
    try:
        with dspy.context(**meter_settings(meter)):
            prediction = program(**inputs)
            check_answer(program, prediction)
    except Exception as error:
        ended(type(error).__name__)
        raise
    ended(None)
    return Answer(prediction, request_id)
