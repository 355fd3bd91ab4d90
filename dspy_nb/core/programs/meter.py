"""Counts what a run uses, exactly under threads.

DSPy's own ``track_usage`` reports nothing for threaded work, because its tracker is deep-copied into each
worker; and its history does not tell a cache hit from a call without usage. A :class:`Meter` is both the
tracker that DSPy notifies of every answer that was not cached, and a listener on DSPy's history, where the
price of a call appears. DSPy tells nobody of the requests that it sends again after an error, so those are
watched where it sends them; there they wait for the rate limits in force, too.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import dspy
from dspy.clients import execution
from dspy.utils.usage_tracker import UsageTracker

from dspy_nb.core.programs.interrupts import TookTooLong, within
from dspy_nb.core.programs.rate_limit import Turn, limits_in_force, retry_after


class Meter(UsageTracker):
    """Receives from DSPy what each uncached call used and cost.

    Install both halves: ``dspy.context(**meter.settings())``.

    Args:
        on_usage: called with (prompt tokens or None, completion tokens or None) for each uncached call,
            in the thread and context of the call, before it ends.
        on_answer: called with the entry of DSPy's history, which holds prompt, answer and price, for each call
            that ended well, cached or not, likewise.
        parent: a tracker that was active outside, which goes on being notified.
        call_seconds: how long an answer may take.
    """

    def __init__(
        self,
        on_usage: Callable[[int | None, int | None], None],
        on_answer: Callable[[dict[str, Any]], None],
        parent: Any = None,
        call_seconds: float | None = None,
    ) -> None:
        super().__init__()
        self._on_usage = on_usage
        self._parent = parent
        limits = (call_seconds, getattr(parent, "call_seconds", None))
        self.call_seconds = min((limit for limit in limits if limit is not None), default=None)
        self.history = _AnswerListener(on_answer)  # DSPy appends each call to its caller modules' history

    def settings(self) -> dict[str, Any]:
        """Return the DSPy settings under which this meter counts, for ``dspy.context``."""
        watch_requests()
        return {
            "usage_tracker": self,
            "caller_modules": [*(dspy.settings.caller_modules or ()), self],
            "disable_history": False,  # the meter listens to it
            "max_history_size": max(1, dspy.settings.max_history_size),
        }

    def __deepcopy__(self, memo: dict[int, Any]) -> Meter:
        """Return self: DSPy deep-copies the tracker into each worker, and the counts must stay one."""
        return self

    def add_usage(self, lm: str, usage_entry: dict[str, Any]) -> None:
        """Take note of one uncached call (DSPy calls this)."""
        self._on_usage(usage_entry.get("prompt_tokens"), usage_entry.get("completion_tokens"))
        if self._parent is not None:
            self._parent.add_usage(lm, usage_entry)

    def sending(self, completions: int) -> None:
        """Take note of a request that is about to be sent, a retry included; what this raises, the call raises.

        Args:
            completions: how many it asks for.
        """
        if isinstance(self._parent, Meter):
            self._parent.sending(completions)

    def waiting(self, wait_s: float, new_s: float) -> None:
        """Take note that a request waits for a rate limit; what this raises ends the wait.

        Args:
            wait_s: seconds that it is about to wait.
            new_s: those of them in which no other request waits.
        """
        if isinstance(self._parent, Meter):
            self._parent.waiting(wait_s, new_s)

    def failed(self, completions: int) -> None:
        """Take note that the last request of this thread or task failed."""
        if isinstance(self._parent, Meter):
            self._parent.failed(completions)

    def keep_usage(self, lm: str, usage_entry: dict[str, Any]) -> None:
        """Add one call to what DSPy's tracker tells of this one, such as its total tokens."""
        super().add_usage(lm, usage_entry)


class _AnswerListener(list):  # type: ignore[type-arg]
    """Looks like a module's history to DSPy and keeps nothing."""

    def __init__(self, on_answer: Callable[[dict[str, Any]], None]) -> None:
        super().__init__()
        self._on_answer = on_answer

    def append(self, entry: Any) -> None:
        self._on_answer(entry)


class CallTimeout(dspy.LMError):
    """A request was not answered in time. DSPy does not try it again."""


class _Sending:
    """One request on its way: it waits for the rate limits in force, and the meter in force hears of it. A context.

    Args:
        call: What DSPy has prepared.
        request: What is sent; ``None`` where LiteLLM makes that of the call.
        results: Where DSPy puts what came back.

    Attributes:
        limit_s: How long it may take; ``None`` for no limit.
    """

    def __init__(self, call: Any, request: Any, results: list[Any]) -> None:
        meter = dspy.settings.usage_tracker
        self._meter = meter if isinstance(meter, Meter) else None
        self.limit_s = None if self._meter is None else self._meter.call_seconds
        self._completions = call.n if request is None else 1
        self._prompt = (call.prompt, call.messages) if request is None else request
        self._results, self._before = results, len(results)
        self._sent = False
        self._turn = Turn(lambda: _estimate_tokens(self._prompt))

    def __enter__(self) -> _Sending:
        self._turn.__enter__()
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if self._turn.needs_tokens and (found := self._results[self._before :]):
            self._turn.used = sum(self._tokens(result) for result in found)
        self._turn.__exit__(kind, error, trace)
        if self._sent and self._meter is not None and isinstance(error, Exception):
            self._meter.failed(self._completions)

    def waits(self) -> Iterator[float]:
        """Yield for how many seconds to sleep, as often as it must, until it may be sent."""
        yield from self._turn.waits(self._look)
        if self._meter is not None:
            self._meter.sending(self._completions)
        self._turn.begin()
        self._sent = True

    def _look(self, wait_s: float, new_s: float) -> None:
        if self._meter is not None:
            self._meter.waiting(wait_s, new_s)

    def _tokens(self, result: Any) -> int:
        usage = result.usage or {}
        sent, received = usage.get("prompt_tokens"), usage.get("completion_tokens")
        if sent is None or received is None:
            return _estimate_tokens((self._prompt, result.outputs))
        return int(sent + received)


def _estimate_tokens(value: Any) -> int:
    """Return about how many tokens the texts of a prompt or an answer have: one for four bytes of UTF-8.

    Source: OpenAI's rule of thumb of four characters of English text.
    """
    return -(-sum(len(text.encode(errors="replace")) for text in _texts(value)) // 4)


def _texts(value: Any) -> Iterator[str]:
    """Yield the texts in a request, messages or outputs, whether DSPy's own or plain dicts."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _texts(part)
    elif value is not None:
        for names in (["system"], ["messages"], ["parts", "content", "text"]):
            found = (value.get(n) if isinstance(value, Mapping) else getattr(value, n, None) for n in names)
            yield from _texts(next((one for one in found if one is not None), None))


def watch_requests() -> None:
    """Let every request, retries included, wait for the rate limits in force, and the meter in force hear of it.

    It holds the meter's time limit too. Calling it again does no harm.
    """
    attempt, attempt_async, delay = execution._attempt, execution._aattempt, execution._delay
    if hasattr(attempt, "dspy_nb"):
        return

    def watched(
        lm: Any, call: Any, backend: Any, request: Any, provider: Any, state: Any, results: Any
    ) -> None:
        work = functools.partial(attempt, lm, call, backend, request, provider, state, results)
        with _Sending(call, request, results) as sending:
            for seconds in sending.waits():
                time.sleep(seconds)
            try:
                work() if sending.limit_s is None else within(sending.limit_s, work)
            except TookTooLong as error:
                raise CallTimeout(str(error)) from None

    async def watched_async(
        lm: Any, call: Any, backend: Any, request: Any, provider: Any, state: Any, results: Any
    ) -> None:
        with _Sending(call, request, results) as sending:
            for seconds in sending.waits():
                await asyncio.sleep(seconds)
            try:
                async with asyncio.timeout(sending.limit_s) as limit:
                    await attempt_async(lm, call, backend, request, provider, state, results)
            except Exception:
                if limit.expired():
                    raise CallTimeout(f"no answer within {sending.limit_s:g} s") from None
                raise

    def delay_unless_paused(error: Exception, number: int) -> float:
        """Return for how long DSPy sleeps: not where the rate limits wait for it, which a stop can end."""
        if limits_in_force() and retry_after(error) is not None:
            return 0.0
        return float(delay(error, number))

    watched.dspy_nb = True  # type: ignore[attr-defined]
    execution._attempt, execution._aattempt = watched, watched_async
    execution._delay = delay_unless_paused
