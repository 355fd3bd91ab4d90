"""One cache of answers for all cells of a sweep, which knows what each answer took when it was paid for.

An answer that an earlier, killed call of the same sweep has paid for is taken from the disk, and counts once as if
it were paid for now. So a sweep that is resumed spends its budget on the same calls, and ends with the same table,
as one that was never killed; only that the answers which are there cost nothing.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import dspy

from dspy_nb.core.programs.lms import mark_of, told_apart
from dspy_nb.core.programs.meter import Meter
from dspy_nb.core.programs.rate_limit import clock_without_waits
from dspy_nb.core.programs.seams import Took, what_it_took
from dspy_nb.core.supervision.guard import StopRun

Prices = Mapping[str, tuple[float, float]]


@dataclass(frozen=True)
class Mark:
    """What a language model of a sweep is marked with.

    Attributes:
        model: Tells apart models of one name; "" where the name does.
        arm: On whose account its answers go, "" for nobody's.
    """

    model: str = ""
    arm: str = ""


@dataclass
class Account:
    """What the answers for one program took when they were asked for; ``None`` is not known.

    Attributes:
        answers: How many.
        tokens: Sent and received, together.
        usd: Their price.
        ms: How long the language model took, in milliseconds.
        characters: Of the prompts.
    """

    answers: int = 0
    tokens: int | None = 0
    usd: float | None = 0.0
    ms: float | None = 0.0
    characters: int = 0

    def add(self, took: Took, usd: float | None, ms: float | None, characters: int) -> None:
        """Add one answer."""
        unknown = None in (took.prompt_tokens, took.completion_tokens)
        tokens = None if unknown else (took.prompt_tokens or 0) + (took.completion_tokens or 0)
        self.answers += 1
        self.tokens = None if None in (self.tokens, tokens) else (self.tokens or 0) + (tokens or 0)
        self.usd = None if None in (self.usd, usd) else (self.usd or 0.0) + (usd or 0.0)
        self.ms = None if None in (self.ms, ms) else (self.ms or 0.0) + (ms or 0.0)
        self.characters += characters


@dataclass
class SharedAnswers:
    """Stands where DSPy's cache stands while a sweep works.

    Args:
        cache: The cache that keeps the answers, as ``seams.answer_cache`` makes it.
        prices: By model, US dollars for a million tokens sent, and received; they win over DSPy's own.

    Attributes:
        replayed: LM calls that an earlier call of the sweep had paid for.
        closed: Whether to end whatever asks for an answer that is not there.
        accounts: What the answers for each arm took.
    """

    cache: Any
    prices: Prices = field(default_factory=dict)
    replayed: int = 0
    closed: bool = False
    accounts: dict[str, Account] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._known: set[str] = set()  # paid for, or replayed, in this call of the sweep
        self._began: dict[tuple[int, str], float] = {}

    def get(self, request: dict[str, Any], ignored: list[str] | None = None) -> Any:
        """Return an answer, ``None`` if it must be asked for (DSPy calls this)."""
        mark = mark_of(dspy.settings.lm)
        request = told_apart(request, mark)
        answer = self.cache.get(request, ignored)
        try:
            key = self.cache.cache_key(request, ignored)
        except Exception:  # DSPy caches no such request
            return None
        if answer is None:
            if self.closed:
                raise StopRun("lm_calls")
            self._began[threading.get_ident(), key] = clock_without_waits()
            return None
        took = what_it_took(self.cache, key)
        with self._lock:
            first = key not in self._known
            self._known.add(key)
        if first:
            self._pay_again(request, key, took)
        self._book(request, took, self.cache.disk_cache.get(f"{key} ms"), mark)
        return answer

    def put(self, request: dict[str, Any], value: Any, ignored: list[str] | None = None, **more: Any) -> None:
        """Keep an answer that was asked for (DSPy calls this)."""
        mark = mark_of(dspy.settings.lm)
        request = told_apart(request, mark)
        with contextlib.suppress(Exception):  # DSPy caches no such request
            key = self.cache.cache_key(request, ignored)
            began = self._began.pop((threading.get_ident(), key), None)
            ms = None if began is None else 1000 * (clock_without_waits() - began)
            if ms is not None:  # before the answer, so that no kill leaves an answer without it
                self.cache.disk_cache.set(f"{key} ms", ms)
            self.cache.put(request, value, ignored, **more)
            with self._lock:
                self._known.add(key)
            self._book(request, what_it_took(self.cache, key), ms, mark)

    def bring(
        self, request: dict[str, Any], ignored: list[str] | None, value: Any, ms: float | None, mark: Any
    ) -> None:
        """Keep what a worker was answered by a language model with this mark; ``None`` if it knew the answer."""
        request = told_apart(request, mark)
        with contextlib.suppress(Exception):  # DSPy caches no such request
            key = self.cache.cache_key(request, ignored)
            if value is None:
                ms = self.cache.disk_cache.get(f"{key} ms")
            else:
                if ms is not None:
                    self.cache.disk_cache.set(f"{key} ms", ms)
                self.cache.put(request, value, ignored)
            with self._lock:
                self._known.add(key)
            self._book(request, what_it_took(self.cache, key), ms, mark)

    def _pay_again(self, request: Mapping[str, Any], key: str, took: Took) -> None:
        """Count an answer of an earlier call as paid for now."""
        meter = dspy.settings.usage_tracker
        try:
            if isinstance(meter, Meter):
                meter.sending(took.completions)
                used = {"prompt_tokens": took.prompt_tokens, "completion_tokens": took.completion_tokens}
                meter.add_usage(str(request.get("model", "")), used)
        except BaseException:  # there is no budget left for it
            with self._lock:
                self._known.discard(key)
            raise
        with self._lock:
            self.replayed += took.completions

    def _book(self, request: Mapping[str, Any], took: Took, ms: float | None, mark: Any) -> None:
        if not isinstance(mark, Mark) or not mark.arm:
            return
        usd, price = took.usd, self.prices.get(str(_model(request)))
        if price is not None and took.prompt_tokens is not None and took.completion_tokens is not None:
            usd = (price[0] * took.prompt_tokens + price[1] * took.completion_tokens) / 1e6
        with self._lock:
            self.accounts.setdefault(mark.arm, Account()).add(took, usd, ms, _characters(request))


def _model(request: Mapping[str, Any]) -> Any:
    inner = request.get("request")
    return inner.get("model") if isinstance(inner, Mapping) else request.get("model")


def _characters(value: Any) -> int:
    """Return how many characters of text the messages of a request hold."""
    if isinstance(value, Mapping):
        if "messages" in value:
            return _characters(value["messages"])
        return sum(
            _characters(value[name]) for name in ("request", "content", "parts", "text") if name in value
        )
    if isinstance(value, str):
        return len(value)
    return sum(map(_characters, value)) if isinstance(value, list | tuple) else 0
