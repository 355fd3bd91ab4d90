"""What a long call says while it works: frozen events, and how they reach listeners that cannot harm it.

A listener is any callable that takes one event, whatever call it comes from. A call sends its events through a
:class:`Broadcaster`, which gives the guarantees that all calls share.
"""

from __future__ import annotations

import logging
import threading
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Self, TypeAlias

from dspy_nb.core.errors import InputError, failure_text
from dspy_nb.core.text import value_text

logger = logging.getLogger(__name__)

_SEND_EVERY_S = 0.25
_IN_PROCESS: Final = {"in_process": True}  # of fields that no log holds
EVENT_KINDS: dict[str, type[Event]] = {}  # by name


def now() -> str:
    """Return the present moment as ISO 8601 in UTC, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


@dataclass(frozen=True)
class Event:
    """What a call says at one moment. Each kind is a subclass; logs know it by the name of its class.

    Attributes:
        timestamp: when, ISO 8601 in UTC.
    """

    timestamp: str = field(default_factory=now, kw_only=True)

    def __init_subclass__(cls) -> None:
        EVENT_KINDS[cls.__name__] = cls


Listener: TypeAlias = Callable[[Event], object]


# -- of every call ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Failed(Event):
    """The call ended without a result; ``error`` is the one-line reason."""

    error: str


# -- of an optimization -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Started(Event):
    """A run began.

    Attributes:
        optimizer: name of the optimizer.
        total_steps: LM calls expected, from the estimate; ``None`` where none can be given.
        budget: the limits in force, ``{}`` for none.
        run_id: of the run, by which a version that was registered from it is recognised.
    """

    optimizer: str
    total_steps: int | None = None
    budget: Mapping[str, int | float] = field(default_factory=dict)
    run_id: str = ""


@dataclass(frozen=True)
class Progress(Event):
    """The run moved on; sent a few times a second at most.

    Attributes:
        step: LM calls answered so far, cache hits included.
        message: what the optimizer is doing, in words.
        metrics: lm_calls, cache_hits, errors, prompt_tokens, completion_tokens, usd, best_score,
            baseline_score, elapsed_s, skipped (examples that a race did not ask), raced (those, and those that
            were asked in the same evaluations).
    """

    step: int
    message: str
    metrics: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class CandidateScored(Event):
    """The optimizer scored one candidate program.

    Attributes:
        candidate: number of the candidate, from 0, in the order in which they were scored.
        score: mean of the metric over ``n`` examples, as a fraction.
        n: how many examples it was scored on.
        full: True when ``n`` is the whole set that candidates are compared on.
        best: True when it is the best candidate so far.
        instruction: beginning of its first predictor's instruction.
        demos: how many demos its predictors carry together.
        abandoned: how many examples there are, if a race gave it up after ``n``; its score is then an estimate.
        interval: of such a score.
        certain: whether the score is for certain in that interval.
        prompt: its whole prompt (a ``Prompt``) for listeners in the process; not in the log.
    """

    candidate: int
    score: float
    n: int
    full: bool
    best: bool
    instruction: str = ""
    demos: int = 0
    abandoned: int | None = None
    interval: tuple[float, float] | None = None
    certain: bool = False
    prompt: Any = field(default=None, repr=False, compare=False, kw_only=True, metadata=_IN_PROCESS)


@dataclass(frozen=True)
class HeldOut:
    """What a run has changed on examples that its search never saw.

    Attributes:
        before: score of the program as it was given, a fraction; ``None`` where it was not scored.
        after: score of the program that the run ended with; ``None`` as well.
        before_interval: in which the score before lies.
        after_interval: in which the score after lies.
        n: examples that were scored: after, or before where there is no score after.
        planned: examples that there are.
        verdict: "better", "worse" or "no clear difference"; "unchanged" where the program is the one that was
            given; "" where a score is missing, or is of a part of the examples.
        difference: score after less that before, paired by example; ``None`` without a verdict.
        interval: in which the difference lies.
        confidence: of all intervals.
        gained: examples that scored higher than before.
        lost: examples that scored lower.
        errors: examples that failed before, and after.
        validation: True where they are the validation set, which the search did not use.
    """

    before: float | None = None
    after: float | None = None
    before_interval: tuple[float, float] | None = None
    after_interval: tuple[float, float] | None = None
    n: int = 0
    planned: int = 0
    verdict: str = ""
    difference: float | None = None
    interval: tuple[float, float] | None = None
    confidence: float = 0.95
    gained: int = 0
    lost: int = 0
    errors: tuple[int, int] = (0, 0)
    validation: bool = False


@dataclass(frozen=True)
class Completed(Event):
    """The run ended with a program.

    Attributes:
        score: score of that program on the validation set, ``None`` where there was none.
        duration_s: wall-clock seconds.
        stopped_by: ``None`` when the optimizer finished by itself, else what ended it early.
        origin: where the program comes from, as in ``OptimizationRun.origin``.
        held_out: what changed on examples that the search never saw; ``None`` where there were none.
        next_step: what to do next, a sentence.
        findings: what stands out in the answers of the run, in words.
    """

    score: float | None
    duration_s: float
    stopped_by: str | None = None
    origin: str = "optimizer"
    held_out: HeldOut | None = None
    next_step: str = ""
    findings: tuple[str, ...] = field(default=(), kw_only=True)


# -- of an evaluation -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Evaluated(Event):
    """An evaluation began, moved on or ended; sent a few times a second at most.

    Attributes:
        done: answers that were scored so far.
        total: answers to score, if nothing stops it.
        errors: how many of those so far failed.
        mean: mean of the first metric over them, a failure as 0; ``None`` before the first.
        elapsed_s: wall-clock seconds since it began.
        over: True for the last one.
        findings: what stands out in the answers so far, in words; all of it in the last one.
        interval: in which that mean lies, at the confidence of the call; ``None`` before the first.
        cached: how many of those so far came from a cache alone.
        at_once: how many are answered at the same time, at most.
        interrupted: True where an interrupt ended it.
    """

    done: int
    total: int
    errors: int = 0
    mean: float | None = None
    elapsed_s: float = 0.0
    over: bool = False
    findings: tuple[str, ...] = field(default=(), kw_only=True)
    interval: tuple[float, float] | None = None
    cached: int = 0
    at_once: int = 1
    interrupted: bool = False


# -- of a comparison --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Standing:
    """How one candidate (B) stands against the baseline (A) so far.

    Attributes:
        name: of the candidate.
        n: examples that both have answered and that are counted.
        verdict: "inconclusive" until there is one.
        n_at_verdict: after how many examples there was one, ``None`` as long as there is none.
        effect: mean difference, B less A; ``None`` before the first example.
        interval: of the difference; ``None`` where nothing is looked at before the end.
        wins: on how many examples B is better, and on how many A is.
        errors: on how many of them A failed, and on how many B did.
        path: (n, effect, low, high) as examples came in, thinned out, the last one always; not in the log.
        flips: the latest examples on which the two differ, newest first, a few; not in the log.
    """

    name: str
    n: int = 0
    verdict: str = "inconclusive"
    n_at_verdict: int | None = None
    effect: float | None = None
    interval: tuple[float, float] | None = None
    wins: tuple[int, int] = (0, 0)
    errors: tuple[int, int] = (0, 0)
    path: Sequence[tuple[int, float, float, float]] = field(
        default=(), repr=False, compare=False, metadata=_IN_PROCESS
    )
    flips: Sequence[Any] = field(default=(), repr=False, compare=False, metadata=_IN_PROCESS)


@dataclass(frozen=True)
class Compared(Event):
    """A comparison began, moved on or ended; sent a few times a second at most.

    Attributes:
        done: examples that every candidate still asked has answered.
        total: examples that there are at most.
        baseline: name of the program that the others are compared with.
        candidates: how each of them stands.
        margin: largest difference that makes no practical difference.
        elapsed_s: wall-clock seconds since it began.
        over: True for the last one.
        findings: what stands out in the answers of the programs, in words; in the last one.
        interrupted: True where an interrupt ended it.
    """

    done: int
    total: int
    baseline: str
    candidates: tuple[Standing, ...]
    margin: float = 0.0
    elapsed_s: float = 0.0
    over: bool = False
    findings: tuple[str, ...] = field(default=(), kw_only=True)
    interrupted: bool = False


# -- of a pipeline, besides those of the calls within its steps ---------------------------------------------------


@dataclass(frozen=True)
class StepStarted(Event):
    """A step of a pipeline began.

    Attributes:
        name: of the step.
        folder: where the pipeline keeps what it finds.
    """

    name: str
    folder: str = ""


@dataclass(frozen=True)
class StepEnded(Event):
    """A step of a pipeline is over.

    Attributes:
        name: of the step.
        status: "passed", "refused" or "skipped".
        message: what it found, in one line.
        duration_s: wall-clock seconds.
        over: True when no step follows.
    """

    name: str
    status: str
    message: str
    duration_s: float = 0.0
    over: bool = False


# -- sending ----------------------------------------------------------------------------------------------------


class Broadcaster:
    """Hands the events of one call to its listeners; a context, as long as the call takes.

    Listeners hear in order and one event at a time, whatever threads the events come from. One that raises is
    logged the first time, and the call goes on. A call that raises says so with :class:`Failed`. When it has
    ended nobody hears any more, not even of threads that it left behind.

    Args:
        on_event: A listener, several of them, or ``None``.

    Raises:
        InputError: One of them cannot be called.
    """

    def __init__(self, on_event: Listener | Sequence[Listener] | None) -> None:
        given = on_event if isinstance(on_event, Sequence) else [] if on_event is None else [on_event]
        if wrong := [listener for listener in given if not callable(listener)]:
            found = value_text(wrong[0])
            raise InputError(f"on_event must be a function of an event, or a list of such, got {found}")
        self.listeners = list(given)
        self._broken: set[int] = set()
        self._lock = threading.RLock()
        self._sent_at = 0.0
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Say that the call failed, if it did, and let nobody hear any more."""
        try:
            if error is not None:
                self.send(Failed(failure_text(error)))
        finally:
            with self._lock:
                self._closed = True

    def send(self, event: Event) -> None:
        """Hand ``event`` to every listener."""
        with self._lock:
            if self._closed:
                return
            self._sent_at = time.monotonic()
            for position, listener in enumerate(self.listeners):
                self._tell(position, listener, event)

    def _tell(self, position: int, listener: Listener, event: Event) -> None:
        try:
            listener(event)
        except Exception:
            if position not in self._broken:
                self._broken.add(position)
                logger.warning("listener %r failed; the call goes on", listener, exc_info=True)

    def join(self, listener: Listener, said: Sequence[Event]) -> None:
        """Hand ``said`` to one more listener, and then all that follows, with nothing in between left out."""
        with self._lock:
            self.listeners.append(listener)
            for event in said:
                self._tell(len(self.listeners) - 1, listener, event)

    def update(self, make: Callable[[], Event]) -> None:
        """Send ``make()``, unless an event has just been sent or is being sent by another thread."""
        if not self.listeners or time.monotonic() - self._sent_at < _SEND_EVERY_S:
            return
        if self._lock.acquire(blocking=False):
            try:
                self.send(make())
            finally:
                self._lock.release()


def warn_of(message: str) -> None:
    """Warn of what cost something; where warnings are errors it is logged, for a warning must not cost the rest."""
    try:
        warnings.warn(message, stacklevel=3)
    except UserWarning:
        logger.warning(message)
