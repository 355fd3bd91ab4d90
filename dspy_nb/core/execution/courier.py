"""A run's cache of answers, as it is in a worker: what the run knows goes along, what is new comes home.

Where a run keeps its answers, so that it pays for none twice, an example is first tried at home with those
alone. One whose answers are all there is done then. Another one travels with those that are, and what it is
answered in the worker is kept at home when it is back.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final, NamedTuple

import dspy

from dspy_nb.core.execution import threads
from dspy_nb.core.execution.attempts import ExampleMeter, Job, Outcome, Work
from dspy_nb.core.execution.leases import Lease
from dspy_nb.core.programs.lms import mark_of, told_apart
from dspy_nb.core.programs.meter import Meter
from dspy_nb.core.programs.seams import CACHE_SETTING, memory_cache, route_cache
from dspy_nb.core.programs.usage import Usage


class Answer(NamedTuple):
    """An answer of a language model on its way home.

    Attributes:
        request: What was asked, as DSPy gives it to its cache.
        ignored: What of that does not tell requests apart.
        value: The answer, ``None`` if the worker knew it.
        ms: How long it took, in milliseconds, if that is known.
        mark: That of the language model.
    """

    request: dict[str, Any]
    ignored: list[str] | None
    value: Any
    ms: float | None
    mark: Any


class Known(NamedTuple):
    """An answer of a language model on its way to a worker."""

    request: dict[str, Any]
    ignored: list[str] | None
    value: Any


@dataclass
class Courier:
    """Stands where the run's cache stands, in one task of a worker.

    Args:
        run: Tells runs apart: tasks of one run in one process share what they know.

    Attributes:
        new: What was answered, in order.
    """

    run: str
    new: list[Answer] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._cache = _answers_of(self.run)
        self._began: dict[int, float] = {}

    def get(self, request: dict[str, Any], ignored: list[str] | None = None) -> Any:
        """Return an answer, ``None`` if it must be asked for (DSPy calls this)."""
        mark = mark_of(dspy.settings.lm)
        answer = self._cache.get(told_apart(request, mark), ignored)
        if answer is None:
            self._began[threading.get_ident()] = time.perf_counter()
        else:
            self.new.append(Answer(request, ignored, None, None, mark))
        return answer

    def put(self, request: dict[str, Any], value: Any, ignored: list[str] | None = None, **_: Any) -> None:
        """Keep an answer that was asked for (DSPy calls this)."""
        began = self._began.pop(threading.get_ident(), None)
        ms = None if began is None else 1000 * (time.perf_counter() - began)
        mark = mark_of(dspy.settings.lm)
        self._cache.put(told_apart(request, mark), value, ignored)
        self.new.append(Answer(request, ignored, value, ms, mark))

    def learn(self, known: Iterable[Known]) -> None:
        """Take in what the run knows."""
        for request, ignored, value in known:
            self._cache.put(request, value, ignored)

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Let calls within use this cache."""
        route_cache(CACHE_SETTING)
        with dspy.context(**{CACHE_SETTING: self}):
            yield


@lru_cache(maxsize=2)
def _answers_of(run: str) -> Any:
    return memory_cache()


# -- at home --------------------------------------------------------------------------------------------------


def take_home(cache: Any, answers: Iterable[Answer]) -> None:
    """Keep answers that come from a worker in the run's cache."""
    bring = getattr(cache, "bring", None)
    for answer in answers:
        if bring is not None:
            bring(*answer)
        elif answer.value is not None:
            cache.put(answer.request, answer.value, answer.ignored)


class NotKnown(BaseException):
    """Ends an example that needs an answer which is not known. No Exception, so that no program catches it."""


class _KnownAlone:
    """Stands where the run's cache stands, and asks for nothing."""

    def __init__(self, cache: Any) -> None:
        self._cache = cache
        self._found: dict[int, list[Known]] = {}
        self.looking: set[int] = set()  # threads

    def get(self, request: dict[str, Any], ignored: list[str] | None = None) -> Any:
        """Return an answer, or end the example (DSPy calls this)."""
        self.looking.add(threading.get_ident())
        try:
            answer = self._cache.get(request, ignored)
        finally:
            self.looking.discard(threading.get_ident())
        if answer is None:
            raise NotKnown
        known = Known(told_apart(request, mark_of(dspy.settings.lm)), ignored, answer)
        self._found.setdefault(threading.get_ident(), []).append(known)
        return answer

    def take(self) -> list[Known]:
        """Return what this thread has found since the last time."""
        return self._found.pop(threading.get_ident(), [])


class _NoRequests(Meter):
    """Lets no request out; a cache may count an answer of an earlier run as one."""

    def __init__(self, known: _KnownAlone) -> None:
        super().__init__(lambda *tokens: None, lambda entry: None, dspy.settings.usage_tracker)
        self._known = known

    def sending(self, completions: int) -> None:
        """Refuse it."""
        if threading.get_ident() not in self._known.looking:
            raise NotKnown
        super().sending(completions)


class _FromKnown(Work):
    """Does the work as far as known answers go."""

    def __init__(self, work: Work, known: _KnownAlone) -> None:
        super().__init__(work.programs, work.settings, work.metrics, {})
        self._known = known
        self.to_ask: dict[int, list[Known]] = {}  # by the id of the job

    def attempt(self, job: Job, meter: ExampleMeter) -> Outcome:
        """Do it, or keep what is known."""
        self._known.take()
        try:
            return super().attempt(job, meter)
        except NotKnown:
            return self._leave(job)

    async def attempt_async(self, job: Job, meter: ExampleMeter, timeout_s: float | None) -> Outcome:
        """Do it, or leave it."""
        try:
            return await super().attempt_async(job, meter, timeout_s)
        except NotKnown:
            return self._leave(job)

    def _leave(self, job: Job) -> Outcome:
        self.to_ask[id(job)] = self._known.take()
        return _LEFT


_LEFT: Final = Outcome({}, (None,), None, 0.0, False, Usage())


def answer_from(
    cache: Any, work: Work, jobs: Sequence[Job], lease: Lease | None
) -> tuple[list[Outcome | list[Known]], Any]:
    """Do the work as far as the answers in a cache go.

    Args:
        cache: Where the answers are.
        work: What to do.
        jobs: The examples.
        lease: What it may spend: an answer that was paid for in an earlier run may count as paid for now.

    Returns:
        What came of each job, or what is known for one that needs another answer; and the receipt of the lease.

    Raises:
        KeyboardInterrupt: It was interrupted.
    """
    known = _KnownAlone(cache)
    here = _FromKnown(work, known)
    found: list[Outcome | None] = [None] * len(jobs)
    leased = nullcontext() if lease is None else lease.spend()
    with leased as spending, dspy.context(**{CACHE_SETTING: known}, **_NoRequests(known).settings()):
        threads.run(here, jobs, landed=found.__setitem__)
        if None in found:
            raise KeyboardInterrupt  # which ended it; it is to end the whole run
    outcomes = [
        here.to_ask.get(id(job), []) if outcome is None or outcome is _LEFT else outcome
        for job, outcome in zip(jobs, found, strict=True)
    ]
    return outcomes, None if spending is None else spending.spent()
