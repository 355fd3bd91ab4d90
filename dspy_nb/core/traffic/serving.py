"""Answering a request with a program, so that how it ended is stored: how long it took, and whether it failed."""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import dspy

from dspy_nb.core.errors import InputError, RegistryError
from dspy_nb.core.execution.attempts import ExampleMeter, is_asynchronous, meter_settings
from dspy_nb.core.programs.calls import check_answer
from dspy_nb.core.programs.inputs import check_call
from dspy_nb.core.traffic.store import Traffic

logger = logging.getLogger(__name__)


class Answer(NamedTuple):
    """What ``predict`` returns.

    Attributes:
        prediction: What the program returned.
        request_id: What its outcome is recorded under; of an experiment that is concluded ``None``, and empty where
            the request of an environment could not be stored.
    """

    prediction: Any
    request_id: str | None


def check_served(
    programs: Iterable[tuple[str, Any]], inputs: Mapping[str, Any], own: tuple[str, ...], *, awaited: bool
) -> None:
    """Check, before a request is stored, that each program that may answer takes it.

    Args:
        programs: Name and program of each.
        inputs: Of the program.
        own: Arguments of the function that was given them.
        awaited: Whether the program is awaited, so that one with ``aforward`` only can answer.

    Raises:
        InputError: One of them does not.
    """
    for name, program in programs:
        check_call(program, inputs, own)
        if not awaited and is_asynchronous(program):
            raise InputError(f"{name} has only aforward, and predict calls forward: await apredict(...)")


class Asked(NamedTuple):
    """One request that a program is to answer.

    Attributes:
        traffic: Where it is stored.
        request_id: Under which id; none if it is not.
        program: What answers.
        settings: Those of DSPy that the program needs.
        inputs: Of the program.
        on_failure: Called after a failure was stored.
    """

    traffic: Traffic
    request_id: str | None
    program: Any
    settings: Mapping[str, Any]
    inputs: Mapping[str, Any]
    on_failure: Callable[[], None] | None = None

    def answer(self) -> Answer:
        """Ask the program, and store how that went; where that cannot be stored, the answer still counts.

        Raises:
            NoPrediction: The program returned no prediction; that is stored as a failure.
            Exception: Whatever the program raises; it is stored as a failure.
        """
        meter, started = ExampleMeter(dspy.settings.usage_tracker), time.perf_counter()
        try:
            with dspy.context(**self.settings, **meter_settings(meter)):
                prediction = self._check(self.program(**self.inputs))
        except Exception as error:  # an interrupt is no failure of the program: the request stays open
            self._finish(meter, _ms_since(started), error)
            raise
        self._finish(meter, _ms_since(started))
        return Answer(prediction, self.request_id)

    async def answer_async(self) -> Answer:
        """Do what ``answer`` does without holding up the event loop."""
        meter, started = ExampleMeter(dspy.settings.usage_tracker), time.perf_counter()
        try:
            with dspy.context(**self.settings, **meter_settings(meter)):
                prediction = self._check(await self._await_program())
        except Exception as error:
            await asyncio.to_thread(self._finish, meter, _ms_since(started), error)
            raise
        await asyncio.to_thread(self._finish, meter, _ms_since(started))
        return Answer(prediction, self.request_id)

    def _check(self, prediction: Any) -> Any:
        if self.request_id is not None:  # else the experiment is concluded, and its winner serves as it is
            check_answer(self.program, prediction)
        return prediction

    async def _await_program(self) -> Any:
        is_module = isinstance(self.program, dspy.Module)
        awaits = hasattr(type(self.program), "aforward") if is_module else is_asynchronous(self.program)
        if not awaits:
            return await asyncio.to_thread(self.program, **self.inputs)
        answer = (self.program.acall if is_module else self.program)(**self.inputs)
        return await answer if inspect.isawaitable(answer) else answer

    def _finish(self, meter: ExampleMeter, latency_ms: float, error: Exception | None = None) -> None:
        usage = meter.take()
        if self.request_id:
            cached = usage.cache_hits > 0 and usage.lm_calls == 0
            failure = None if error is None else type(error).__name__
            try:
                self.traffic.finish(self.request_id, latency_ms, cached=cached, error=failure)
            except RegistryError as why:
                logger.error(
                    "%s: how request %s ended is not stored: %s", self.traffic.path, self.request_id, why
                )
        if error is not None and self.on_failure is not None:
            self.on_failure()


def _ms_since(started: float) -> float:
    """Return the time since a moment of ``perf_counter``: taken before waiting for a thread that stores it."""
    return (time.perf_counter() - started) * 1000
