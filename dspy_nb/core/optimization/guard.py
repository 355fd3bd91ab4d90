"""The guard that holds any DSPy optimizer to its budget.

The guard is a DSPy callback. To stop, it raises :class:`StopRun`, a BaseException, from the next call, and
goes on raising it from every call after that: DSPy's optimizers swallow an Exception, and some of them then
return a wrong program as if they had succeeded; and their thread pools go on with the queued work after one
worker has raised.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, fields
from typing import Any, Protocol

import dspy
from dspy import AdapterParseError, ContextWindowExceededError, LMError
from dspy.utils import BaseCallback

from dspy_nb.core.data.metrics import Metric, MetricError
from dspy_nb.core.errors import NoPrediction
from dspy_nb.core.optimization.budget import Budget, ErrorCount
from dspy_nb.core.programs.seams import answer_of, current_call
from dspy_nb.core.programs.usage import Meter, Usage
from dspy_nb.core.text import error_text, repaired, sayable

__all__ = ["Follower", "Guard", "StopRun", "ending_on_no_score"]


class StopRun(BaseException):
    """Ends a run from inside; ``reason`` says why. Not an Exception, so that no optimizer swallows it."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass
class _Call:
    """One LM request under way."""

    n: int
    paid: bool = False
    prompt_tokens: int | None = 0
    completion_tokens: int | None = 0
    usd: float | None = 0.0


# A run whose calls break on more than half of the occasions has nothing to learn from, and one whose calls all
# break has lost its language model: it is ended instead of being paid for to the end. What breaks half of the
# time by chance breaks 25 times in a row once in 33 million.
_ERRORS_BEFORE_GIVING_UP = 10
_HOPELESS_ERROR_RATE = 0.5
_FAILURES_IN_A_ROW = 25
_SCORING: ContextVar[bool] = ContextVar("dspy_nb_scoring", default=False)
_NOT_BROKEN = (AdapterParseError, ContextWindowExceededError)  # answers that better prompts may mend


class Follower(Protocol):
    """What a guard hands DSPy's other events to.

    DSPy asks each callback for a handler at each event, which takes longer than most handlers: two callbacks
    cost 100 µs an LM call more than one.
    """

    def on_compile_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        """An optimizer begins."""

    def on_compile_end(self, call_id: str) -> None:
        """An optimizer ended."""

    def on_evaluate_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        """An evaluation begins."""

    def on_evaluate_end(self, call_id: str, outputs: Any, exception: BaseException | None) -> None:
        """An evaluation ended."""

    def on_program_start(self, program: Any) -> None:
        """A program call begins, in this thread."""


class Guard(BaseCallback):
    """Counts what a piece of work uses and stops it at its budget.

    Install it with :meth:`settings` inside ``dspy.context``. It stays in force in every thread that the
    work started, also after the work has ended.

    Args:
        budget: the limits.
        stop: when set, from any thread, the work stops at the next call.
        on_call: called after each LM call, in the thread of the call.
        follower: told of programs, evaluations and optimizers.
        program: class of the program, of which each call must return a prediction.
    """

    def __init__(
        self,
        budget: Budget,
        stop: threading.Event,
        on_call: Callable[[], None] = lambda: None,
        follower: Follower | None = None,
        program: type[dspy.Module] | None = None,
    ) -> None:
        self.budget = budget
        self.usage = Usage()
        self.errors = ErrorCount()
        self.reason: str | None = None
        self._stop = stop
        self._on_call = on_call
        self._follower = follower
        self._program = program
        self._deadline = None if budget.seconds is None else time.monotonic() + budget.seconds
        self._settled = threading.Condition()
        self._calls: dict[str, _Call] = {}
        self._modules: set[str] = set()
        self._answering: set[str] = set()
        self._program_calls = 0
        self._broken = 0
        self._broken_in_a_row = 0
        self._meter = Meter(self._on_usage, self._on_price)

    def settings(self) -> dict[str, Any]:
        """Return the DSPy settings that put this guard in force, for ``dspy.context``."""
        self._meter = Meter(self._on_usage, self._on_price, parent=dspy.settings.usage_tracker)
        return {
            "callbacks": [self, *dspy.settings.callbacks],
            "usage_tracker": self._meter,
            "caller_modules": [*(dspy.settings.caller_modules or []), self._meter],
            "disable_history": False,
            "max_history_size": max(1, dspy.settings.max_history_size),
        }

    def halt(self, reason: str) -> StopRun:
        """Stop the work for good; returns the exception to raise. The first reason stays."""
        if self.reason is None:
            self.reason = reason
        return StopRun(self.reason)

    @property
    def hopeless(self) -> bool:
        """True when most program calls break: not on an answer in the wrong format, but without an answer."""
        return (
            self._broken >= _ERRORS_BEFORE_GIVING_UP
            and self._broken > _HOPELESS_ERROR_RATE * self._program_calls
        )

    @property
    def nothing_worked(self) -> bool:
        """True when the program was called, and broke every time."""
        return 0 < self._program_calls <= self._broken

    def add_error(self, error: BaseException, where: str = "") -> None:
        """Count an error that does not end the work, unless there have been too many.

        Args:
            error: What was raised.
            where: What to say before its message.

        Raises:
            StopRun: most program calls break, or all of the last ones did.
        """
        sayable(error)
        error = _mendable(error) or error
        with self._settled:
            self.errors.add(error, where)
            if isinstance(error, _NOT_BROKEN):
                return
            self._broken += 1
            self._broken_in_a_row += 1
        if self.hopeless or self._broken_in_a_row >= _FAILURES_IN_A_ROW:
            raise self.halt("errors")

    def wait_for_calls(self, timeout_s: float) -> None:
        """Wait until no LM call is in flight, at most ``timeout_s`` seconds."""
        with self._settled:
            self._settled.wait_for(lambda: not self._calls, timeout_s)

    def _check(self) -> None:
        if self.reason is not None:
            raise StopRun(self.reason)
        if self._stop.is_set():
            raise self.halt("stop")
        if self._deadline is not None and time.monotonic() >= self._deadline:
            raise self.halt("seconds")

    # -- what DSPy calls ------------------------------------------------------------------------------

    def on_module_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        """Refuse to start anything once stopped; tell program calls from the calls within them."""
        self._check()
        if self._is_outermost():
            self._program_calls += 1
            if self._program is not None and isinstance(instance, self._program):
                self._answering.add(call_id)
            if self._follower is not None:
                self._follower.on_program_start(instance)
        self._modules.add(call_id)

    def on_module_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        """Count a program call that failed."""
        self._modules.discard(call_id)
        if exception is None and (call_id in self._answering or (outputs is None and self._is_outermost())):
            exception = _no_prediction(answer_of(outputs))
        self._answering.discard(call_id)
        if exception is None:
            self._broken_in_a_row = 0
        elif isinstance(exception, Exception) and self._is_outermost():
            self.add_error(exception)

    def _is_outermost(self) -> bool:
        """Tell whether this is no call within a program, nor within a metric that asks a language model."""
        return current_call() not in self._modules and not _SCORING.get()

    def on_lm_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        """Reserve the call's share of the budget, or stop."""
        n = inputs.get("kwargs", {}).get("n") or getattr(instance, "kwargs", {}).get("n") or 1
        with self._settled:
            self._check()  # in here: once wait_for_calls has found none in flight, a stop lets none begin
            if current_call() in self._calls:
                return  # a language model made of another one: the outer call is the one that counts
            self._check_spent()
            while not self._fits(n):
                self._settled.wait(0.05)  # calls in flight may turn out to be cache hits
                self._check()
            self._calls[call_id] = _Call(n)

    def on_lm_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        """Settle the call: free what it reserved and add what it used."""
        with self._settled:
            call = self._calls.pop(call_id, None)
            if call is None:
                return
            if call.paid:
                self.usage += Usage(call.n, 0, call.prompt_tokens, call.completion_tokens, call.usd)
            elif exception is not None:
                self.usage += Usage(lm_calls=1)
            else:
                self.usage += Usage(cache_hits=1)
            self._settled.notify_all()
        self._on_call()

    def on_adapter_parse_end(
        self, call_id: str, outputs: dict[str, Any] | None, exception: BaseException | None = None
    ) -> None:
        """Make text of half of a surrogate pair in an answer that may become a demo: DSPy sends none."""
        if self._follower is not None and isinstance(outputs, dict):
            outputs.update(repaired(outputs))

    def on_compile_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        """Tell the follower."""
        if self._follower is not None:
            self._follower.on_compile_start(call_id, instance, inputs)

    def on_compile_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        """Tell the follower."""
        if self._follower is not None:
            self._follower.on_compile_end(call_id)

    def on_evaluate_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        """Refuse to start it once stopped, and tell the follower."""
        self._check()
        if self._follower is not None:
            self._follower.on_evaluate_start(call_id, instance, inputs)

    def on_evaluate_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        """Tell the follower."""
        if self._follower is not None:
            self._follower.on_evaluate_end(call_id, outputs, exception)

    def _fits(self, n: int) -> bool:
        limit = self.budget.lm_calls
        if limit is None:
            return True
        reserved = sum(call.n for call in self._calls.values())
        if self.usage.lm_calls + reserved + n <= limit:
            return True
        if self.usage.lm_calls + n > limit or not reserved or _in_event_loop():
            raise self.halt("lm_calls")
        return False

    def _check_spent(self) -> None:
        for name, spent in (("tokens", self.usage.tokens), ("usd", self.usage.usd)):
            limit = getattr(self.budget, name)
            if limit is None:
                continue
            if spent is None:
                raise self.halt(f"unknown {name}")
            if spent >= limit:
                raise self.halt(name)

    def _on_usage(self, prompt_tokens: int | None, completion_tokens: int | None) -> None:
        call = self._calls.get(current_call() or "")
        if call is not None:
            call.paid = True
            call.prompt_tokens, call.completion_tokens = prompt_tokens, completion_tokens

    def _on_price(self, usd: float | None) -> None:
        call = self._calls.get(current_call() or "")
        if call is not None and call.paid:
            call.usd = usd


def _mendable(error: BaseException) -> BaseException | None:
    """Return the wrong format behind ``error``, if it was raised while DSPy handled that.

    GEPA's own handling of such an answer fails in DSPy 3.4.1 (it divides two lists). What the language model
    raises when it is asked again is an error of its own.
    """
    cause = error.__context__
    return cause if isinstance(cause, AdapterParseError) and not isinstance(error, LMError) else None


def _no_prediction(answer: Any) -> NoPrediction | None:
    """Return the error of a program whose answer is none; DSPy's own stand-ins are left to DSPy."""
    is_answer = isinstance(answer, dspy.Example | Mapping) or type(answer).__module__.startswith("dspy.")
    return None if is_answer else NoPrediction.of(answer)


def _in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


# -- metrics ----------------------------------------------------------------------------------------------------


def ending_on_no_score(metric: Metric | None, guard: Guard) -> Metric | None:
    """Return ``metric`` in a form that stops ``guard`` when it returns what is no score between 0 and 1.

    DSPy would take such a value for a 0, or fail at the very end. Whatever else the metric raises is counted:
    the guard ends a run in which most calls break.
    """
    if metric is None:
        return None

    def end(error: MetricError) -> StopRun:
        guard.errors.fatal = error
        return guard.halt("metric")

    def count(error: Exception) -> None:
        guard.add_error(error, "" if metric.label in error_text(error) else f"metric {metric.label}: ")

    return _Watched(**{f.name: getattr(metric, f.name) for f in fields(metric)}, end=end, count=count)


@dataclass(frozen=True, repr=False, eq=False)
class _Watched(Metric):
    """The metric, what makes the exception that ends the run, and what hears of all others."""

    end: Callable[[MetricError], StopRun] = lambda error: StopRun("metric")
    count: Callable[[Exception], None] = lambda error: None

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        outside = _SCORING.set(True)
        try:
            score = super().__call__(*arguments, **named)
            if 0 <= float(score) <= 1:
                return score
            raise MetricError(f"metric {self.label} returned {float(score):g}; a score is between 0 and 1")
        except MetricError as error:
            raise self.end(error) from None
        except NoPrediction:
            raise  # counted when the program returned it
        except Exception as error:
            self.count(error)
            raise
        finally:
            _SCORING.reset(outside)
