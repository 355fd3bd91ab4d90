"""Counts what a run uses, exactly under threads.

DSPy's own ``track_usage`` reports nothing for threaded work, because its tracker is deep-copied into each
worker; and its history does not tell a cache hit from a call without usage. A :class:`Meter` is both the
tracker that DSPy notifies of every answer that was not cached, and a listener on DSPy's history, where the
price of a call appears. DSPy tells nobody of the requests that it sends again after an error, so those are
watched where it sends them.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import dspy
from dspy.clients import execution
from dspy.utils.usage_tracker import UsageTracker

from dspy_nb.core.programs.interrupts import TookTooLong, within


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


@contextlib.contextmanager
def _count(completions: int) -> Iterator[float | None]:
    """Let the meter in force, if there is one, hear of a request within; yield how long that may take."""
    meter = dspy.settings.usage_tracker
    if not isinstance(meter, Meter):
        yield None
        return
    meter.sending(completions)
    try:
        yield meter.call_seconds
    except Exception:
        meter.failed(completions)
        raise


def watch_requests() -> None:
    """Let the :class:`Meter` in force hear of every request, retries included, and hold its time limit.

    Calling it again does no harm.
    """
    attempt, attempt_async = execution._attempt, execution._aattempt
    if hasattr(attempt, "dspy_nb"):
        return

    def watched(lm: Any, call: Any, backend: Any, request: Any, *rest: Any) -> None:
        work = functools.partial(attempt, lm, call, backend, request, *rest)
        with _count(call.n if request is None else 1) as limit_s:
            try:
                work() if limit_s is None else within(limit_s, work)
            except TookTooLong as error:
                raise CallTimeout(str(error)) from None

    async def watched_async(lm: Any, call: Any, backend: Any, request: Any, *rest: Any) -> None:
        with _count(call.n if request is None else 1) as limit_s:
            try:
                async with asyncio.timeout(limit_s) as limit:
                    await attempt_async(lm, call, backend, request, *rest)
            except Exception:
                if limit.expired():
                    raise CallTimeout(f"no answer within {limit_s:g} s") from None
                raise

    watched.dspy_nb = True  # type: ignore[attr-defined]
    execution._attempt, execution._aattempt = watched, watched_async
