"""What a run used: LM calls, cache hits, tokens and dollars, counted exactly under threads.

DSPy's own ``track_usage`` reports nothing for threaded work, because its tracker is deep-copied into each
worker; and its history does not tell a cache hit from a call without usage. A :class:`Meter` is both the
tracker that DSPy notifies of every answer that was not cached, and a listener on DSPy's history, where the
price of a call appears. DSPy tells nobody of the requests that it sends again after an error, so those are
watched where it sends them.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import dspy
from dspy.clients import execution
from dspy.utils.usage_tracker import UsageTracker

from dspy_nb.core.programs.interrupts import TookTooLong, within

__all__ = ["CallTimeout", "Meter", "Usage", "watch_requests"]


@dataclass(frozen=True)
class Usage:
    """What was used. ``None`` means unknown, which is not the same as 0.

    Attributes:
        lm_calls: completions asked of a language model and not found in a cache. A request for n
            completions counts as n, one that failed as one, and so does each time that DSPy tried again.
        cache_hits: requests answered from a cache.
        prompt_tokens: tokens sent, ``None`` if any call did not report them.
        completion_tokens: tokens received, likewise.
        usd: price in US dollars as DSPy estimates it, ``None`` if it is unknown for any call.
    """

    lm_calls: int = 0
    cache_hits: int = 0
    prompt_tokens: int | None = 0
    completion_tokens: int | None = 0
    usd: float | None = 0.0

    @property
    def tokens(self) -> int | None:
        """Tokens sent and received together, ``None`` if either is unknown."""
        return _add(self.prompt_tokens, self.completion_tokens)

    def __add__(self, other: Usage) -> Usage:
        """Return the sum; what is unknown in either is unknown in the sum."""
        return Usage(
            self.lm_calls + other.lm_calls,
            self.cache_hits + other.cache_hits,
            _add(self.prompt_tokens, other.prompt_tokens),
            _add(self.completion_tokens, other.completion_tokens),
            _add(self.usd, other.usd),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a dict that JSON can hold."""
        return asdict(self)


def _add(a: Any, b: Any) -> Any:
    return None if a is None or b is None else a + b


class Meter(UsageTracker):
    """Receives from DSPy what each uncached call used and cost.

    Install both halves: ``dspy.context(usage_tracker=meter, caller_modules=[*others, meter])``.

    Args:
        on_usage: called with (prompt tokens or None, completion tokens or None) for each uncached call,
            in the thread and context of the call, before it ends.
        on_price: called with (dollars or None) for each call that ended well, cached or not, likewise.
        parent: a tracker that was active outside, which goes on being notified.
        call_seconds: how long an answer may take.
    """

    def __init__(
        self,
        on_usage: Callable[[int | None, int | None], None],
        on_price: Callable[[float | None], None],
        parent: Any = None,
        call_seconds: float | None = None,
    ) -> None:
        super().__init__()
        self._on_usage = on_usage
        self._parent = parent
        limits = [
            limit for limit in (call_seconds, getattr(parent, "call_seconds", None)) if limit is not None
        ]
        self.call_seconds = min(limits, default=None)
        self.history = _PriceListener(on_price)  # DSPy appends each call to its caller modules' history

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


class _PriceListener(list):  # type: ignore[type-arg]
    """Looks like a module's history to DSPy and keeps nothing."""

    def __init__(self, on_price: Callable[[float | None], None]) -> None:
        super().__init__()
        self._on_price = on_price

    def append(self, entry: Any) -> None:
        self._on_price(entry.get("cost"))


class CallTimeout(dspy.LMError):
    """A request was not answered in time. DSPy does not try it again."""


def watch_requests() -> None:
    """Let the :class:`Meter` in force hear of every request, retries included, and hold its time limit.

    Calling it again does no harm.
    """
    attempt, attempt_async = execution._attempt, execution._aattempt
    if hasattr(attempt, "dspy_nb"):
        return

    def watched(lm: Any, call: Any, backend: Any, request: Any, *rest: Any) -> None:
        meter = dspy.settings.usage_tracker
        if not isinstance(meter, Meter):
            return attempt(lm, call, backend, request, *rest)
        completions = call.n if request is None else 1
        meter.sending(completions)
        work = functools.partial(attempt, lm, call, backend, request, *rest)
        try:
            work() if meter.call_seconds is None else within(meter.call_seconds, work)
        except TookTooLong as error:
            meter.failed(completions)
            raise CallTimeout(str(error)) from None
        except Exception:
            meter.failed(completions)
            raise

    async def watched_async(lm: Any, call: Any, backend: Any, request: Any, *rest: Any) -> None:
        meter = dspy.settings.usage_tracker
        if not isinstance(meter, Meter):
            return await attempt_async(lm, call, backend, request, *rest)
        completions = call.n if request is None else 1
        meter.sending(completions)
        try:
            async with asyncio.timeout(meter.call_seconds) as limit:
                await attempt_async(lm, call, backend, request, *rest)
        except Exception:
            meter.failed(completions)
            if limit.expired():
                raise CallTimeout(f"no answer within {meter.call_seconds:g} s") from None
            raise

    watched.dspy_nb = True  # type: ignore[attr-defined]
    execution._attempt, execution._aattempt = watched, watched_async
