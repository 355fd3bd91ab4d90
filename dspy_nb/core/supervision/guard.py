"""The guard that holds any DSPy optimizer to its budget.

The guard is a DSPy callback. To stop, it raises :class:`StopRun`, a BaseException, from the next call, and
goes on raising it from every call after that: DSPy's optimizers swallow an Exception, and some of them then
return a wrong program as if they had succeeded; and their thread pools go on with the queued work after one
worker has raised.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final

import dspy
from dspy.utils import BaseCallback

from dspy_nb.core.programs.interrupts import in_event_loop
from dspy_nb.core.programs.lm_call import AnswerCount, lm_call
from dspy_nb.core.programs.meter import CallTimeout, Meter
from dspy_nb.core.programs.seams import answer_of, current_call
from dspy_nb.core.programs.usage import Usage
from dspy_nb.core.supervision.broken import NOT_BROKEN, ProgramCalls, mendable, no_prediction
from dspy_nb.core.supervision.budget import Budget, ErrorCount, Spent
from dspy_nb.core.supervision.candidates import Recorder
from dspy_nb.core.text import repaired, sayable


class StopRun(BaseException):
    """Ends a run from inside; ``reason`` says why. Not an Exception, so that no optimizer swallows it."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass
class _Call:
    """One LM call under way.

    Attributes:
        n: completions that are reserved for it.
        sent: completions that it asked for so far, those of its retries included.
        sent_within: the same of LM calls that it is made of.
        paid: whether an answer has come.
    """

    n: int
    sent: int = 0
    sent_within: int = 0
    paid: bool = False
    prompt_tokens: int | None = 0
    completion_tokens: int | None = 0
    usd: float | None = 0.0

    @property
    def asked(self) -> int:
        return max(self.sent, self.sent_within)


GUARD_SETTING: Final = "dspy_nb_guard"
"""The DSPy setting that holds the guard in force."""
SCORING: ContextVar[bool] = ContextVar("dspy_nb_scoring", default=False)
"""Whether a metric is at work, whose LM calls are none of the program."""


class Guard(BaseCallback):
    """Counts what a piece of work uses and stops it at its budget.

    Install it with :meth:`settings` inside ``dspy.context``. It stays in force in every thread that the
    work started, also after the work has ended.

    Args:
        budget: the limits.
        stop: when set, from any thread, the work stops at the next call.
        on_call: called after each LM call, in the thread of the call.
        follower: told of programs, evaluations and optimizers: DSPy asks each callback for a handler at each
            event, so that a second callback would cost 100 µs an LM call.
        program: class of the program, of which each call must return a prediction.

    Attributes:
        gives_up: whether it stops work in which most calls break.
    """

    gives_up = True

    def __init__(
        self,
        budget: Budget,
        stop: threading.Event,
        on_call: Callable[[], None] = lambda: None,
        follower: Recorder | None = None,
        program: type[dspy.Module] | None = None,
    ) -> None:
        self.budget = budget
        self.usage = Usage()
        self.errors = ErrorCount()
        self.answers = AnswerCount()
        self.reason: str | None = None
        self._stop = stop
        self._on_call = on_call
        self._follower = follower
        self.program = program
        self._deadline = None if budget.seconds is None else time.monotonic() + budget.seconds
        self._settled = threading.Condition()
        self._calls: dict[str, _Call] = {}
        self._within: dict[str, str] = {}
        self._modules: set[str] = set()
        self._busy: dict[object, threading.Thread] = {}
        self._answering: set[str] = set()
        self._programs = ProgramCalls()
        self._reserved = 0  # LM calls that others may make

    def settings(self) -> dict[str, Any]:
        """Return the DSPy settings that put this guard in force, for ``dspy.context``."""
        return {
            "callbacks": [self, *dspy.settings.callbacks],
            GUARD_SETTING: self,
            **_GuardMeter(self).settings(),
        }

    def halt(self, reason: str) -> StopRun:
        """Stop the work for good; returns the exception to raise. The first reason stays."""
        if self.reason is None:
            self.reason = reason
        return StopRun(self.reason)

    @property
    def hopeless(self) -> bool:
        """True when most program calls break: not on an answer in the wrong format, but without an answer."""
        return self._programs.hopeless

    @property
    def nothing_worked(self) -> bool:
        """True when the program was called, and broke every time."""
        return 0 < self._programs.calls <= self._programs.broken

    def add_error(self, error: BaseException, where: str = "") -> None:
        """Count an error that does not end the work, unless there have been too many.

        Args:
            error: What was raised.
            where: What to say before its message.

        Raises:
            StopRun: most program calls break, or all of the last ones did.
        """
        sayable(error)
        error = mendable(error) or error
        with self._settled:
            if not isinstance(error, CallTimeout):  # counted when the language model raised it
                self.errors.add(error, where)
            if isinstance(error, NOT_BROKEN):
                return
            self._programs += ProgramCalls(0, 1, 1)
        if self._programs.are_in_vain:
            raise self.halt("errors")

    def wait_for_calls(self, timeout_s: float) -> None:
        """Wait until no call of a model, a program or a metric is under way, at most ``timeout_s`` seconds."""
        with self._settled:
            self._settled.wait_for(lambda: not self._busy, timeout_s)

    def release(self) -> list[threading.Thread]:
        """Leave what is still under way: its requests are counted, and what it does later counts no more.

        Returns:
            The threads that it keeps busy.
        """
        with self._settled:
            self.usage += Usage(lm_calls=sum(call.asked for call in self._calls.values()))
            self._calls.clear()
            left = list(dict.fromkeys(self._busy.values()))
        self._on_call, self._follower = lambda: None, None
        return left

    @property
    def seconds_left(self) -> float | None:
        """Seconds until the deadline, ``None`` without one."""
        return None if self._deadline is None else max(self._deadline - time.monotonic(), 1e-3)

    def reserve(self, lm_calls: int) -> None:
        """Keep so many LM calls for those that spend on this guard's account elsewhere."""
        with self._settled:
            self._reserved = lm_calls
            self._settled.notify_all()

    def spent(self) -> Spent:
        """Return what was counted."""
        return Spent(self.usage, self.errors, self.answers, self._programs, self.reason)

    def take_in(self, spent: Spent) -> None:
        """Add what another guard has counted on this one's account, and stop where that is to stop the work."""
        with self._settled:
            self.usage += spent.usage
            self.errors += spent.errors
            self.answers += spent.answers
            self._programs += spent.programs
        reason = spent.reason or ""
        if reason == "metric" or reason.startswith("unknown "):
            self.halt(reason)
        elif self.gives_up and spent.programs.broken and self._programs.are_in_vain:
            self.halt("errors")
        self._on_call()

    def is_set(self) -> bool:
        """Tell whether the work is to stop, also when no call comes that could be refused."""
        with contextlib.suppress(StopRun):
            self._check()
        return self.reason is not None

    @contextlib.contextmanager
    def busy(self) -> Iterator[None]:
        """Take note that this thread is at work."""
        key = object()
        self._busy[key] = threading.current_thread()
        try:
            yield
        finally:
            self._rest(key)

    def _rest(self, key: object) -> None:
        with self._settled:
            self._busy.pop(key, None)
            self._settled.notify_all()

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
            self._programs.calls += 1
            if self.program is not None and isinstance(instance, self.program):
                self._answering.add(call_id)
            if self._follower is not None:
                self._follower.on_program_start(instance)
        self._modules.add(call_id)
        self._busy[call_id] = threading.current_thread()

    def on_module_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        """Count a program call that failed."""
        self._modules.discard(call_id)
        self._rest(call_id)
        if exception is None and (call_id in self._answering or (outputs is None and self._is_outermost())):
            exception = no_prediction(answer_of(outputs))
        self._answering.discard(call_id)
        if exception is None:
            self._programs.broken_in_a_row = 0
        elif isinstance(exception, Exception) and self._is_outermost():
            self.add_error(exception)
        elif self._is_outermost():
            self._programs.calls -= 1  # it was cut off, so neither did it work nor did it break

    def _is_outermost(self) -> bool:
        """Tell whether this is no call within a program, nor within a metric that asks a language model."""
        return current_call() not in self._modules and not SCORING.get()

    def on_lm_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        """Reserve the call's share of the budget, or stop."""
        n = inputs.get("kwargs", {}).get("n") or getattr(instance, "kwargs", {}).get("n") or 1
        with self._settled:
            self._check()  # in here: once wait_for_calls has found none in flight, a stop lets none begin
            outer = current_call() or ""
            if (outer := self._within.get(outer, outer)) in self._calls:
                self._within[call_id] = outer
                return  # a language model made of another one: the outer call is the one that counts
            self._check_spent()
            self._wait_until_fits(n)
            self._calls[call_id] = _Call(n)
            self._busy[call_id] = threading.current_thread()

    def on_lm_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        """Settle the call: free what it reserved and add what it used."""
        with self._settled:
            self._rest(call_id)
            if isinstance(exception, CallTimeout) and call_id not in self._within:
                self.errors.add(exception)  # here, for an optimizer may go on without the answer
            self._within.pop(call_id, None)
            call = self._calls.pop(call_id, None)
            if call is None:
                return
            if call.paid:
                asked = call.asked or call.n
                self.usage += Usage(asked, 0, call.prompt_tokens, call.completion_tokens, call.usd)
            elif exception is not None:
                # A stop may come between the beginning of a call and its request, which is then never sent.
                refused = not isinstance(exception, Exception) and not call.asked
                self.usage += Usage(lm_calls=0 if refused else max(1, call.asked))
            else:
                self.usage += Usage(cache_hits=1)
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

    def on_request(self, completions: int) -> None:
        """Refuse a request for which there is no budget left; the first one of a call has its share reserved."""
        with self._settled:
            call, within = self._request()
            if call is None:
                return
            self._check()
            if call.asked:
                self._check_spent()
            asked = max(call.sent, call.sent_within + completions) if within else call.sent + completions
            if asked > call.n:
                self._wait_until_fits(asked - call.n)
                call.n = asked
            self._add_request(completions)

    def on_wait(self, new_s: float) -> None:
        """Let no request wait any longer once the work is to stop; count the seconds."""
        with self._settled:
            self._check()
            self._check_spent()
            self.usage += Usage(waited_s=new_s)
        self._on_call()

    def on_failed_request(self, completions: int) -> None:
        """Count a request that failed as one, for however many completions it asked."""
        with self._settled:
            self._add_request(1 - completions)

    def _request(self) -> tuple[_Call | None, bool]:
        """Return the call that counts, and whether this one is within it."""
        this = current_call() or ""
        return self._calls.get(self._within.get(this, this)), this in self._within

    def _add_request(self, completions: int) -> None:
        call, within = self._request()
        if call is not None and within:
            call.sent_within += completions
        elif call is not None:
            call.sent += completions

    def _wait_until_fits(self, n: int) -> None:
        while not self._fits(n):
            self._settled.wait(0.05)
            self._check()

    def _fits(self, n: int) -> bool:
        limit = self.budget.lm_calls
        if limit is None:
            return True
        left = limit - self.usage.lm_calls - self._reserved - n
        if sum(call.n for call in self._calls.values()) <= left:
            return True
        if sum(call.n for call in self._calls.values() if call.asked) > left or in_event_loop():
            raise self.halt("lm_calls")
        return False  # some may turn out to be cache hits

    def _check_spent(self) -> None:
        for name, spent in (("tokens", self.usage.tokens), ("usd", self.usage.usd)):
            limit = getattr(self.budget, name)
            if limit is None:
                continue
            if spent is None:
                raise self.halt(f"unknown {name}")
            if spent >= limit:
                raise self.halt(name)

    def on_usage(self, prompt_tokens: int | None, completion_tokens: int | None) -> None:
        """Take note of what a call took that was not in a cache."""
        call = self._calls.get(current_call() or "")
        if call is not None:
            call.paid = True
            call.prompt_tokens, call.completion_tokens = prompt_tokens, completion_tokens

    def on_answer(self, entry: Mapping[str, Any]) -> None:
        """Take note of what it cost, and of what is wrong with the answer."""
        call = self._calls.get(current_call() or "")
        if call is None:
            return
        if call.paid:
            call.usd = entry.get("cost")
        with self._settled:
            self.answers.take(lm_call(entry, cached=not call.paid, keep_text=False))


class _GuardMeter(Meter):
    """Tells the guard of every request, besides what was used."""

    def __init__(self, guard: Guard) -> None:
        outside, limit_s = dspy.settings.usage_tracker, guard.budget.call_seconds
        super().__init__(guard.on_usage, guard.on_answer, outside, limit_s)
        self._guard = guard

    def sending(self, completions: int) -> None:
        """Reserve it, or stop."""
        super().sending(completions)
        self._guard.on_request(completions)

    def waiting(self, wait_s: float, new_s: float) -> None:
        """Count it, or stop."""
        super().waiting(wait_s, new_s)
        self._guard.on_wait(new_s)

    def failed(self, completions: int) -> None:
        """Count it."""
        super().failed(completions)
        self._guard.on_failed_request(completions)
