"""One example: ask the program, score its answer, and tell what that took."""

from __future__ import annotations

import asyncio
import copy
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import dspy

from dspy_nb.core.arguments import returns_later
from dspy_nb.core.data.copying import own_copy
from dspy_nb.core.data.identity import input_names
from dspy_nb.core.data.metrics import Metric, MetricError
from dspy_nb.core.errors import InputError, NoField, NoPrediction
from dspy_nb.core.programs.calls import check_answer
from dspy_nb.core.programs.lm_call import AnswerCount, LMCall, lm_call
from dspy_nb.core.programs.meter import Meter
from dspy_nb.core.programs.quiet import TRUNCATION_IS_TOLD
from dspy_nb.core.programs.rate_limit import Waited
from dspy_nb.core.programs.usage import Usage
from dspy_nb.core.text import error_text, repaired

if TYPE_CHECKING:
    from dspy_nb.core.programs.spec import Program

PROMPTS_KEPT = 2000
"""Examples, the first ones, of which prompts and answers of LM calls are kept: an evaluation stays bounded. What
the calls took is kept of all."""

_MESSAGE_LENGTH = 300
_HANDFUL = 5  # answers that show a mistake of the program itself, and not of the examples they are for
_NOTHING = Usage()
# A command line tool within a program ends by SystemExit, and would end a Dask worker.
_FAILURES = (Exception, SystemExit)


@dataclass(frozen=True, slots=True)
class Job:
    """One example to be evaluated.

    Attributes:
        example: The example, with its inputs set.
        repeat: Which of the repeats this is, from 0.
        keep_text: Whether to keep what its LM calls sent and what came back.
    """

    example: dspy.Example
    repeat: int = 0
    keep_text: bool = True


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an example has no answer, or no score.

    Attributes:
        kind: The name of the exception type; ``Timeout`` and ``WorkerLost`` are our own.
        message: What it said, on one line.
    """

    kind: str
    message: str

    @classmethod
    def of(cls, error: BaseException, where: str = "") -> Failure:
        """Describe an exception."""
        return cls(type(error).__name__, f"{where}{error_text(error)}"[:_MESSAGE_LENGTH])


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one job.

    Attributes:
        predicted: The fields of the answer; empty if there is none.
        scores: One per metric; ``None`` where there is no score.
        failure: Set if the program or a metric raised, or time ran out.
        latency_ms: Of the program alone, without the metrics.
        cached: Whether every LM answer that the program got came from a cache.
        usage: What the program used.
        metric_usage: What the metrics used, where they ask a language model.
        hopeless_after: How many such outcomes in a row, from the first example on, show that there will be no
            score; 0 if they do not, as errors that a program raises do not.
        repaired: Whether the answer held half of a surrogate pair, which no file can hold.
        calls: The LM calls of the program, in the order in which they ended.
    """

    predicted: dict[str, Any]
    scores: tuple[bool | float | None, ...]
    failure: Failure | None
    latency_ms: float
    cached: bool
    usage: Usage
    metric_usage: Usage = _NOTHING
    hopeless_after: int = 0
    repaired: bool = False
    calls: tuple[LMCall, ...] = ()


@dataclass(slots=True)
class Tally:
    """How far a run is: the outcomes so far, counted.

    Attributes:
        done: How many there are.
        failed: How many of them are failures.
        cached: How many of them came from a cache alone.
        score: Sum of the scores of the first metric, none as 0.
        squares: Sum of their squares.
        answers: What is wrong with the answers of language models.
    """

    done: int = 0
    failed: int = 0
    cached: int = 0
    score: float = 0.0
    squares: float = 0.0
    answers: AnswerCount = field(default_factory=AnswerCount)

    def take(self, outcome: Outcome) -> None:
        """Count an outcome."""
        self.done += 1
        self.failed += outcome.failure is not None
        self.cached += outcome.cached
        score = float(outcome.scores[0] or 0)
        self.score += score
        self.squares += score * score
        for call in outcome.calls:
            self.answers.take(call)


class Abandoned(BaseException):
    """Ends the program of an example that nobody waits for any more, at its next LM answer."""


class ExampleMeter(Meter):
    """Counts what one example uses, and can be closed, which ends the example.

    DSPy notifies the meter within each LM call: of a call that was paid for by ``add_usage`` and then,
    in the same thread, by an entry in the history; of a cache hit by the entry alone. So the meter needs no
    callback (a single one, even empty, costs 240 µs a call), and once it is closed it can stop a program
    before its next request.

    Args:
        parent: A tracker that was active outside, which goes on being notified.
        keep_text: Whether ``take_calls`` is to return what was sent and what came back.
    """

    def __init__(self, parent: Any = None, *, keep_text: bool = False) -> None:
        super().__init__(self._paid, self._answered, parent)
        self._lock = threading.Lock()
        self._awaiting_price: set[int] = set()
        self._closed = False
        self._usage = _NOTHING
        self._waited = Waited()
        self._keep_text = keep_text
        self._calls: list[LMCall] = []

    def close(self) -> None:
        """Let no further LM call of this example begin."""
        self._closed = True

    def take(self) -> Usage:
        """Return what was used since the last time."""
        with self._lock:
            usage, self._usage = self._usage, _NOTHING
        return usage

    def latency_ms(self, started: float) -> float:
        """Return the milliseconds since ``started`` (perf_counter), without those of waiting for a rate limit."""
        return max(time.perf_counter() - started - self._waited.total_s, 0.0) * 1e3

    def take_calls(self) -> tuple[LMCall, ...]:
        """Return the calls that ended since the last time."""
        with self._lock:
            calls, self._calls = self._calls, []
        return tuple(calls)

    def add_usage(self, lm: str, usage_entry: dict[str, Any]) -> None:
        """Take note of one call that was paid for (DSPy calls this)."""
        super().add_usage(lm, usage_entry)
        self.keep_usage(lm, usage_entry)  # for get_total_tokens
        if self._closed:
            raise Abandoned

    def sending(self, completions: int) -> None:
        """Let no request be sent for an example that nobody waits for."""
        super().sending(completions)
        if self._closed:
            raise Abandoned

    def waiting(self, wait_s: float, new_s: float) -> None:
        """Let no request wait for an example that nobody waits for."""
        super().waiting(wait_s, new_s)
        if self._closed:
            raise Abandoned
        with self._lock:
            self._waited.add(wait_s, time.perf_counter())
            self._usage += Usage(waited_s=new_s)

    def failed(self, completions: int) -> None:
        """Count a request that failed, whether it is tried again or not."""
        super().failed(completions)
        with self._lock:
            self._usage += Usage(1)

    def _paid(self, prompt_tokens: int | None, completion_tokens: int | None) -> None:
        with self._lock:
            self._usage += Usage(1, 0, prompt_tokens, completion_tokens)
            self._awaiting_price.add(threading.get_ident())  # it is known a moment later: see _answered

    def _answered(self, entry: Mapping[str, Any]) -> None:
        cached = (thread := threading.get_ident()) not in self._awaiting_price
        call = lm_call(entry, cached=cached, keep_text=self._keep_text)
        with self._lock:
            self._awaiting_price.discard(thread)
            self._usage += Usage(cache_hits=1) if cached else Usage(usd=call.usd)
            self._calls.append(call)
        if self._closed:
            raise Abandoned


class Work:
    """What is done with every example. It travels to other processes as it is.

    Args:
        programs: The program of each repeat.
        settings: The DSPy settings of each repeat, such as its LM.
        metrics: What scores an answer.
        shared: DSPy settings of all repeats.
    """

    def __init__(
        self,
        programs: tuple[Program, ...],
        settings: tuple[dict[str, Any], ...],
        metrics: tuple[Metric, ...],
        shared: dict[str, Any],
    ) -> None:
        self.programs = programs
        self.settings = tuple({**shared, **own} for own in settings)
        self.metrics = metrics
        self.asynchronous = is_asynchronous(programs[0])

    def under(self, settings: tuple[dict[str, Any], ...]) -> Self:
        """Return the same work under other settings."""
        other = copy.copy(self)
        other.settings = settings
        return other

    def attempt(self, job: Job, meter: ExampleMeter) -> Outcome:
        """Evaluate one example; an exception becomes a failure, but a stop of the run is raised."""
        with dspy.context(**self._context(job, meter)):
            started = time.perf_counter()
            try:
                program = self.programs[job.repeat]
                prediction = program(**own_copy(split_fields(job.example)[0]))
                check_answer(program, prediction)
            except (*_FAILURES, asyncio.CancelledError) as error:
                return self.fail(Failure.of(error), meter, started, _count_program_errors(error))
            latency_ms = meter.latency_ms(started)
            return self._scored(job, meter, prediction, latency_ms)

    async def attempt_async(self, job: Job, meter: ExampleMeter, timeout_s: float | None) -> Outcome:
        """Do the same with a program that has only ``aforward``."""
        with dspy.context(**self._context(job, meter)):
            program = self.programs[job.repeat]
            call = program.acall if isinstance(program, dspy.Module) else program
            started = time.perf_counter()
            try:
                async with asyncio.timeout(timeout_s) as limit:
                    prediction = await call(**own_copy(split_fields(job.example)[0]))
                check_answer(program, prediction)
            except TimeoutError as error:
                failure = timeout(timeout_s) if limit.expired() else Failure.of(error)
                return self.fail(failure, meter, started)
            except _FAILURES as error:
                return self.fail(Failure.of(error), meter, started, _count_program_errors(error))
            latency_ms = meter.latency_ms(started)
            # In a thread of its own, for a metric that asks a language model would hold up the loop.
            return await asyncio.to_thread(self._scored, job, meter, prediction, latency_ms)

    def fail(
        self, failure: Failure, meter: ExampleMeter | None, started: float, hopeless_after: int = 0
    ) -> Outcome:
        """Return the outcome of an example that has no answer, begun at ``started`` (perf_counter).

        Where its meter is lost, as with a worker, it used nothing.
        """
        latency_ms = (time.perf_counter() - started) * 1e3 if meter is None else meter.latency_ms(started)
        scores = (None,) * len(self.metrics)
        usage, calls = (_NOTHING, ()) if meter is None else (meter.take(), meter.take_calls())
        return Outcome(
            {}, scores, failure, latency_ms, False, usage, hopeless_after=hopeless_after, calls=calls
        )

    def _context(self, job: Job, meter: ExampleMeter) -> dict[str, Any]:
        return {**self.settings[job.repeat], **meter_settings(meter), **TRUNCATION_IS_TOLD}

    def _scored(self, job: Job, meter: ExampleMeter, prediction: Any, latency_ms: float) -> Outcome:
        usage, calls = meter.take(), meter.take_calls()
        if dspy.settings.track_usage and isinstance(prediction, dspy.Prediction):
            # DSPy leaves that to us where a tracker is in force.
            prediction.set_lm_usage(meter.get_total_tokens())
        repaired = _repair(prediction)
        scores: list[bool | float | None] = []
        failure = None
        hopeless_after = 0
        for metric in self.metrics:
            try:
                scores.append(_in_range(metric, metric(job.example, prediction)))
            except _FAILURES as error:
                if not scores:  # the first one gives the score
                    hopeless_after = _count_metric_errors(error)
                scores.append(None)
                where = "" if metric.label in error_text(error) else f"{metric.label}: "
                failure = failure or Failure.of(error, where)
        cached, spent = usage.cache_hits > 0 and usage.lm_calls == 0, meter.take()
        found = _fields(prediction), tuple(scores), failure, latency_ms, cached
        return Outcome(*found, usage, spent, hopeless_after, repaired, calls)


def _count_program_errors(error: BaseException) -> int:
    """Return how many such errors in a row show that the program is at fault; 0 if they do not."""
    return _HANDFUL if isinstance(error, NoPrediction | NoField) else 0


def _count_metric_errors(error: BaseException) -> int:
    """Return how many such errors in a row show that the metric is at fault.

    A mistake shows at once; a service that the metric asks may be down for a moment.
    """
    at_once = isinstance(error, InputError) or type(error).__module__ == "builtins"
    return 1 if at_once and not isinstance(error, OSError) else _HANDFUL


def meter_settings(meter: ExampleMeter) -> dict[str, Any]:
    """Return the DSPy settings under which a meter counts what a program uses."""
    # One trace for all threads, as by default, mixes theirs and keeps them alive.
    return {**meter.settings(), "trace": []}


def timeout(timeout_s: float | None) -> Failure:
    """Describe an example that took too long."""
    return Failure("Timeout", f"no answer within {timeout_s:g} s")


def is_asynchronous(program: Program) -> bool:
    """Tell whether a program can only be awaited."""
    if isinstance(program, dspy.Module):
        # Not hasattr on the object: DSPy warns of everyone who reads a module's forward.
        has_forward = hasattr(type(program), "forward") or "forward" in vars(program)
        return not has_forward and hasattr(type(program), "aforward")
    return returns_later(program) == "asynchronous"


def split_fields(example: dspy.Example) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the inputs and the labels of an example, in half the time of its own two methods."""
    inputs: dict[str, Any] = {}
    labels: dict[str, Any] = {}
    are_inputs = input_names(example) or ()
    for name, value in example.items():
        (inputs if name in are_inputs else labels)[name] = value
    return inputs, labels


def _repair(prediction: Any) -> bool:
    """Make text of each half of a surrogate pair in an answer, and tell whether there was one."""
    if not isinstance(prediction, dspy.Example):
        return False
    new = {name: made for name, value in prediction.items() if (made := repaired(value)) is not value}
    for name, value in new.items():
        prediction[name] = value
    return bool(new)


def _fields(prediction: Any) -> dict[str, Any]:
    if isinstance(prediction, dspy.Example | Mapping):
        return own_copy(dict(prediction.items()))  # the program may go on with what it holds
    return {"output": prediction}


def _in_range(metric: Metric, score: bool | float) -> bool | float:
    if 0 <= score <= 1:
        return score
    raise MetricError(f"metric {metric.label} returned {score:g}; a score is between 0 and 1")
