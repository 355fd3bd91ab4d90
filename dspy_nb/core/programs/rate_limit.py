"""How many requests and tokens a minute a run may take, whatever threads and event loops it works in.

The limiter is our own. None of the libraries for this (``limits``, ``pyrate-limiter``, ``throttled-py``,
``aiolimiter``) does all that is needed: wait in threads and in event loops alike, so that a stop ends the wait;
take note of tokens when they are known, above the limit too; and be paused by a Retry-After. What they would be
left to do is a window of a minute.
"""

from __future__ import annotations

import contextlib
import heapq
import math
import threading
import time
import uuid
import weakref
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from types import TracebackType
from typing import Any, Final, Self

import dspy

from dspy_nb.core.arguments import whole_number
from dspy_nb.core.errors import InputError
from dspy_nb.core.text import value_text

_MINUTE_S: Final = 60.0
_TICK_S: Final = 0.05  # how long a stop takes to end a wait, at most
_SETTING: Final = "dspy_nb_rate_limits"
"""The DSPy setting that holds the rate limits in force."""


class RateLimit:
    """The most requests and tokens that a run may take in a minute; a request that is too early waits.

    It counts every request to a language model, also each that DSPy sends again after an error, of all threads and
    event loops; answers from a cache are none. In no 60 seconds are there more than ``requests_per_minute``. A wait
    ends at once where the run is interrupted or stopped, or its time is over; a request that a budget refuses takes
    nothing. Seconds of waiting are part of ``timeout_s`` of an example, and neither of its latency nor of
    ``Budget.call_seconds``.

    The tokens of a request are known only when it has been answered: until then it is taken to need as many as
    those before it on average, or without any its own prompt. So requests under way can exceed
    ``tokens_per_minute``, and later ones wait the longer for it: a request of three times the limit takes three
    minutes. Where a language model reports no tokens, one is counted for four bytes of prompt and answer.

    An error that says when to try again (``Retry-After``) holds up all requests of the run for so long, the one
    that DSPy tries again with them; on workers of an executor all those of one worker, for the others hear it
    themselves with their next request. Without such a hint DSPy waits as it always does, 1, 2, 4 ... seconds.

    One object is one limit: runs that are given the same one share it, at the same time or one after the other. It
    makes no difference between language models.

    Args:
        requests_per_minute: Requests in any 60 seconds, at most; ``None`` for no limit.
        tokens_per_minute: Tokens sent and received in 60 seconds; ``None`` for no limit.

    Raises:
        InputError: There is no limit, or it is no positive whole number.
    """

    def __init__(self, requests_per_minute: int | None = None, tokens_per_minute: int | None = None) -> None:
        limits = {"requests_per_minute": requests_per_minute, "tokens_per_minute": tokens_per_minute}
        for name, limit in limits.items():
            if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
                raise InputError(f"rate limit: {name}={value_text(limit)} is not a positive whole number")
        if requests_per_minute is None and tokens_per_minute is None:
            raise InputError("rate limit: give requests_per_minute, tokens_per_minute or both")
        self.requests_per_minute = requests_per_minute
        self.tokens_per_minute = tokens_per_minute
        self._lock = threading.Lock()  # of everything below
        self._requests, self._tokens = _Window(requests_per_minute), _Window(tokens_per_minute)
        self._answers = self._spent = 0
        self._paused_until = -math.inf
        self._waited = Waited()
        self._key = uuid.uuid4().hex

    def share(self, parts: int) -> RateLimit:
        """Return a limit for one of so many workers, such that all of them together keep to this one.

        It can be pickled; what is unpickled of it in one process is one limit there.

        Args:
            parts: How many workers there are, 1 or more.

        Raises:
            InputError: A share would be less than one request, or one token, a minute.
        """
        parts = whole_number("parts", parts, minimum=1)
        least = min(
            limit for limit in (self.requests_per_minute, self.tokens_per_minute) if limit is not None
        )
        if least < parts:
            raise InputError(f"a rate limit of {self} is too small to be shared by {parts:,} workers")
        shares = [limit and limit // parts for limit in (self.requests_per_minute, self.tokens_per_minute)]
        return RateLimit(*shares)

    @property
    def waited_s(self) -> float:
        """Seconds in which any request was waiting for it, since it was made."""
        return self._waited.total_s

    def __str__(self) -> str:
        """Return the limit in words."""
        said = []
        for limit, unit in ((self.requests_per_minute, "request"), (self.tokens_per_minute, "token")):
            if limit is not None:
                said.append(f"{limit:,} {unit}{'' if limit == 1 else 's'}")
        return f"{' and '.join(said)} a minute"

    def __repr__(self) -> str:
        return f"RateLimit({self})"

    def __reduce__(self) -> Any:
        return _limit_of, (self._key, self.requests_per_minute, self.tokens_per_minute)

    def __copy__(self) -> RateLimit:
        """Return self, as ``__deepcopy__`` does: a copy would be another limit."""
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> RateLimit:
        return self

    # -- what a request does: take its turn, begin or give it back, and settle it at its end -----------------------

    def _take(self, prompt_tokens: int) -> tuple[int | None, float, float]:
        """Return the tokens held for a request; if it must wait ``None``, for how long, and what of that is new.

        Seconds in which another request waits, too, are not new.
        """
        with self._lock:
            now = time.monotonic()
            tokens = -(-self._spent // self._answers) if self._answers else prompt_tokens
            wait_s = max(
                self._paused_until - now, self._requests.full_for(1, now), self._tokens.full_for(tokens, now)
            )
            if wait_s <= 0:
                self._requests.held += 1
                self._tokens.held += tokens
                return tokens, 0.0, 0.0
            wait_s = min(wait_s, _TICK_S)
            return None, wait_s, self._waited.add(wait_s, now)

    def _begin(self) -> None:
        with self._lock:
            self._requests.held -= 1
            self._requests.add(1, time.monotonic())

    def _give_back(self, tokens: int) -> None:
        with self._lock:
            self._requests.held -= 1
            self._tokens.held -= tokens

    def _settle(self, held: int, used: int | None) -> None:
        """Replace the tokens held by those used; what failed is taken to have used what was held."""
        with self._lock:
            self._tokens.held -= held
            self._tokens.add(held if used is None else used, time.monotonic())
            if used is not None:
                self._answers += 1
                self._spent += used

    def _pause(self, seconds: float) -> None:
        with self._lock:
            self._paused_until = max(self._paused_until, time.monotonic() + seconds)


_KNOWN: weakref.WeakValueDictionary[str, RateLimit] = weakref.WeakValueDictionary()
_KNOWN_LOCK: Final = threading.Lock()


def _limit_of(key: str, requests_per_minute: int | None, tokens_per_minute: int | None) -> RateLimit:
    """Return the limit that was pickled, the same one each time in one process."""
    with _KNOWN_LOCK:
        if (known := _KNOWN.get(key)) is None:
            known = _KNOWN[key] = RateLimit(requests_per_minute, tokens_per_minute)
            known._key = key
        return known


class Waited:
    """Adds up waits that may overlap: seconds in which several wait count once.

    Attributes:
        total_s: The seconds so far.
    """

    def __init__(self) -> None:
        self.total_s = 0.0
        self._until = -math.inf

    def add(self, seconds: float, now: float) -> float:
        """Add a wait that begins; return what of it is new. Waits are added in the order in which they begin."""
        new_s = max(now + seconds - max(now, self._until), 0.0)
        self._until = max(now + seconds, self._until)
        self.total_s += new_s
        return new_s


class _Window:
    """What was used of one limit in the last minute, and what is held for requests that have not ended.

    What exceeds the limit by itself stays for as many minutes as it would have taken.
    """

    def __init__(self, limit: int | None) -> None:
        self.held = 0
        self._limit = limit
        self._used = 0
        self._ends: list[tuple[float, int]] = []  # a heap: until when each amount counts

    def full_for(self, amount: int, now: float) -> float:
        """Return for how many seconds ``amount`` will not fit; what is alone always does."""
        while self._ends and self._ends[0][0] <= now:
            self._used -= heapq.heappop(self._ends)[1]
        taken = self._used + self.held
        if self._limit is None or not taken or taken + amount <= self._limit:
            return 0.0
        return self._ends[0][0] - now if self._ends else math.inf

    def add(self, amount: int, now: float) -> None:
        """Count what was used."""
        if self._limit is not None and amount:
            heapq.heappush(self._ends, (now + _MINUTE_S * max(1.0, amount / self._limit), amount))
            self._used += amount


_WAITED_S: ContextVar[float] = ContextVar("dspy_nb_waited_s", default=0.0)


def clock_without_waits() -> float:
    """Return seconds of a clock that stands still while this thread or task waits for a rate limit."""
    return time.perf_counter() - _WAITED_S.get()


_TURN: ContextVar[Turn | None] = ContextVar("dspy_nb_turn", default=None)


class Turn:
    """One request under the rate limits in force, from its wait to its end; a context.

    The request of a language model that is made of others is none: the first one within it takes over its turn.

    Args:
        prompt_tokens: About how many it sends; asked where a limit is on tokens.

    Attributes:
        used: Tokens that it took, set before its end; ``None`` where it failed.
    """

    def __init__(self, prompt_tokens: Callable[[], int]) -> None:
        self.used: int | None = None
        self._limits = limits_in_force()
        self._needs_tokens = any(limit.tokens_per_minute is not None for limit in self._limits)
        self._prompt_tokens = prompt_tokens
        self._waiting: dict[RateLimit, int] = {}  # tokens held for it, until it begins
        self._begun: dict[RateLimit, int] = {}  # likewise, since then

    def __enter__(self) -> Self:
        self._outer = _TURN.get()
        self._reset = _TURN.set(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Settle what it has used, or give back what it has not; let all wait if the error says so."""
        _TURN.reset(self._reset)
        while self._waiting:
            limit, tokens = self._waiting.popitem()
            limit._give_back(tokens)
        while self._begun:
            limit, tokens = self._begun.popitem()
            limit._settle(tokens, self.used)
        if (seconds := retry_after(error)) is not None:
            for limit in self._limits:
                limit._pause(seconds)

    @property
    def needs_tokens(self) -> bool:
        """Whether it matters how many tokens it takes."""
        return self._needs_tokens

    def waits(self, look: Callable[[float, float], None]) -> Iterator[float]:
        """Yield for how many seconds to sleep, as often as it must, until it may begin.

        Args:
            look: Called before each with the seconds, and with those of them in which no other request waits; what
                it raises ends the wait.
        """
        estimated = self._prompt_tokens() if self.needs_tokens else 0
        for limit in self._limits:
            taken_over = None if self._outer is None else self._outer._begun.pop(limit, None)
            if taken_over is not None:
                self._begun[limit] = taken_over
                continue
            tokens, wait_s, new_s = limit._take(estimated)
            while tokens is None:
                look(wait_s, new_s)
                began = time.perf_counter()
                yield wait_s
                _WAITED_S.set(_WAITED_S.get() + time.perf_counter() - began)
                tokens, wait_s, new_s = limit._take(estimated)
            self._waiting[limit] = tokens

    def begin(self) -> None:
        """Take note that the request is sent."""
        while self._waiting:
            limit, tokens = self._waiting.popitem()
            limit._begin()
            self._begun[limit] = tokens


def retry_after(error: BaseException | None) -> float | None:
    """Return after how many seconds an error says to try again, ``None`` if it does not."""
    seconds = getattr(
        error, "retry_after", None
    )  # of DSPy's errors: read from the header, LiteLLM's answers too
    return seconds if isinstance(seconds, int | float) and 0 < seconds < math.inf else None


def limits_in_force() -> tuple[RateLimit, ...]:
    """Return the rate limits that a request is held to here."""
    found: tuple[RateLimit, ...] = dspy.settings.get(_SETTING) or ()
    return found


@contextlib.contextmanager
def limited(limit: RateLimit | None) -> Iterator[Callable[[], float]]:
    """Hold the requests within to a rate limit besides those in force; give the seconds waited since."""
    limits = limits_in_force()
    if limit is not None and limit not in limits:
        limits = (*limits, limit)
    before = sum(one.waited_s for one in limits)
    with dspy.context(**{_SETTING: limits}) if limits else contextlib.nullcontext():
        yield lambda: sum(one.waited_s for one in limits) - before


def settings_for_workers(parts: int) -> dict[str, Any]:
    """Return the DSPy settings that hold each of so many workers to its share of the rate limits in force.

    Raises:
        InputError: They are too small to be shared by so many.
    """
    limits = tuple(limit.share(parts) for limit in limits_in_force())
    return {_SETTING: limits} if limits else {}


def check_rate_limit(limit: object) -> RateLimit | None:
    """Return what is given as the rate limit of a run.

    Raises:
        InputError: It is none.
    """
    if limit is not None and not isinstance(limit, RateLimit):
        example = "RateLimit(requests_per_minute=60)"
        raise InputError(
            f"rate_limit must be a dspy_nb.RateLimit, e.g. {example}, got {value_text(limit, 80)}"
        )
    return limit
