"""What an optimization gives back: a handle while it runs, and then its result."""

from __future__ import annotations

import contextlib
import secrets
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dspy

from dspy_nb.core.doors import Shown, through
from dspy_nb.core.errors import InputError
from dspy_nb.core.evaluation.diagnosis import Finding
from dspy_nb.core.evaluation.examples import ExampleTable, HasExamples
from dspy_nb.core.evaluation.pairing import Difference, paired_difference
from dspy_nb.core.events import Broadcaster, Event, HeldOut, Listener, Progress, now
from dspy_nb.core.optimization.ending import NOT_REGISTRABLE, Ending, Voice, advise
from dspy_nb.core.optimization.estimates import Estimate
from dspy_nb.core.optimization.optimizers import get_optimizer
from dspy_nb.core.programs.adapters import describe_adapter, describe_value
from dspy_nb.core.programs.usage import Usage
from dspy_nb.core.secrecy import without_secrets
from dspy_nb.core.supervision.budget import Budget, ErrorCount
from dspy_nb.core.supervision.candidates import Candidate

if TYPE_CHECKING:
    from dspy_nb.core.evaluation.scorecard import Evaluation


@dataclass(frozen=True)
class RunSettings:
    """What a run is, known before it starts.

    Attributes:
        optimizer: name.
        options: every option with its effective value.
        preset: name of the preset it was made from, if any.
        metric: the metric, as text.
        base_model: name of the language model.
        seed: for whatever is drawn at random.
        num_threads: program calls at a time.
        budget: limits.
        estimate: LM calls expected.
        datasets: "train", "val", "test" (those given) to {"n", "fingerprint"}.
        given: the options that were given, those of the preset included; the others have their defaults.
        adapter: class and options of the DSPy adapter in force.
        voice: how what to do next is said where the run was started.
        run_dir: the run directory, if there is one.
        run_id: twelve characters, others for each run; its log and versions that are registered from it have it.
        race: the rule by which candidates race; ``None`` if they do not.
    """

    optimizer: str
    options: Mapping[str, Any]
    preset: str | None
    metric: str
    base_model: str
    seed: int
    num_threads: int
    budget: Budget
    estimate: Estimate
    datasets: Mapping[str, Mapping[str, Any]]
    given: Mapping[str, Any] = field(default_factory=dict)
    adapter: Mapping[str, Any] = field(default_factory=describe_adapter)
    voice: Voice = field(default_factory=Voice)
    run_dir: Path | None = None
    run_id: str = field(default_factory=lambda: secrets.token_hex(6))
    race: str | None = None

    @property
    def has_unseen_valset(self) -> bool:
        """Whether there are validation examples that the search does not use."""
        return "val" in self.datasets and not get_optimizer(self.optimizer).needs_valset


@dataclass(frozen=True)
class Result:
    """How a run ended; see the properties of :class:`OptimizationRun`.

    Attributes:
        unseen_before: the program as it was given on validation examples that the search does not use.
        unseen_after: the program that the run ended with on those examples.
        changed: False where that has the prompts of the program as it was given.
    """

    program: Any
    score: float | None = None
    baseline_score: float | None = None
    candidates: tuple[Candidate, ...] = ()
    usage: Usage = field(default_factory=Usage)
    errors: ErrorCount = field(default_factory=ErrorCount)
    stopped_by: str | None = None
    duration_s: float = 0.0
    test_before: Evaluation | None = None
    test_after: Evaluation | None = None
    origin: str = "optimizer"
    left_behind: tuple[str, ...] = ()
    unseen_before: Evaluation | None = None
    unseen_after: Evaluation | None = None
    changed: bool = True
    findings: tuple[Finding, ...] = ()
    skipped: int = 0
    raced: int = 0


class OptimizationRun(Shown, HasExamples):
    """One optimization: its plan, its state, and its result once there is one.

    While the run works, which only a background run does where one can see it, everything but
    :attr:`plan`, :attr:`status`, :meth:`stop`, :meth:`watch` and :meth:`wait` raises an InputError.

    Attributes:
        plan: what it is.
        task: what it was asked to do, ``None`` where that is not known.
        began_at: when it was made, ISO 8601 in UTC.
        stop_event: set when somebody has asked it to stop.
    """

    def __init__(
        self, plan: RunSettings, stop: threading.Event, events: Broadcaster | None = None, task: Any = None
    ) -> None:
        self.plan, self.task = plan, task
        self.began_at = now()
        self.stop_event = stop
        self._events = Broadcaster(None) if events is None else events
        self._said: list[Event] = []
        self._events.listeners.append(self._note)
        self._ended = threading.Event()
        self._result: Result | None = None
        self._failure: BaseException | None = None
        self._held_out: tuple[RunSettings, HeldOut | None] | None = None  # of this plan

    # -- state ----------------------------------------------------------------------------------------

    @property
    def status(self) -> str:
        """One of "running", "completed", "stopped" and "failed"."""
        if not self._ended.is_set():
            return "running"
        if self._failure is not None:
            return "failed"
        return "stopped" if self.result.stopped_by else "completed"

    def stop(self) -> None:
        """Stop at the next LM call and keep the best candidate so far; from any thread, at any time."""
        self.stop_event.set()

    def watch(self, listener: Listener) -> None:
        """Send a listener what the run has said so far, and then whatever it says; of progress the latest alone."""
        self._events.join(listener, self._said)

    def _note(self, event: Event) -> None:
        if self._said and isinstance(event, Progress) and isinstance(self._said[-1], Progress):
            self._said.pop()
        self._said.append(event)

    def wait(self, timeout_s: float | None = None) -> OptimizationRun:
        """Wait for a background run to end, and return it.

        Args:
            timeout_s: give up waiting after so many seconds; the run itself goes on.

        Raises:
            InputError: the time is over.
            Exception: whatever the run failed with.
        """
        if not self._ended.wait(timeout_s):
            raise InputError(f"the run is not over after {timeout_s:g} s; call stop() to end it")
        if self._failure is not None:
            raise self._failure
        return self

    @property
    def progress(self) -> Mapping[str, Any]:
        """The numbers that it said last, as in ``Progress.metrics``; ``{}`` before it said any."""
        said = [event.metrics for event in [*self._said] if isinstance(event, Progress)]
        return said[-1] if said else {}

    @property
    def failure(self) -> BaseException | None:
        """What it failed with, ``None`` if it did not."""
        return self._failure

    def end(self, result: Result | None, failure: BaseException | None = None) -> None:
        """Set how the run ended; called once, by the run itself."""
        self._result, self._failure = result, failure
        self._ended.set()

    @property
    def result(self) -> Result:
        """The result.

        Raises:
            InputError: there is none: the run is going on, or it failed before it had one.
        """
        if self._result is None:
            if self._ended.is_set():
                raise InputError(f"the run failed and has no result: {self._failure}")
            raise InputError("the run is going on: call run.wait(), or run.stop() to end it")
        return self._result

    # -- result ---------------------------------------------------------------------------------------

    @property
    def program(self) -> dspy.Module:
        """The optimized program; of a run that was stopped, the best candidate until then.

        It is the program as it was given when no candidate had been scored by then.
        """
        return self.result.program

    @property
    def score(self) -> float | None:
        """The program's score, as a fraction, on the examples that the search compared candidates on.

        The best of many such scores is too good on average; :attr:`test_after` is not. ``None`` if there
        were no such examples.
        """
        return self.result.score

    @property
    def baseline_score(self) -> float | None:
        """The same score of the program as it was given, ``None`` if it is not known."""
        return self.result.baseline_score

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """Every program that the optimizer scored, in order."""
        return self.result.candidates

    @property
    def usage(self) -> Usage:
        """What the run used, the scoring before and after included."""
        return self.result.usage

    @property
    def errors(self) -> ErrorCount:
        """Program and metric calls that failed without ending the run."""
        return self.result.errors

    @property
    def stopped_by(self) -> str | None:
        """What ended the run early, ``None`` when the optimizer finished by itself.

        One of "lm_calls", "seconds", "tokens", "usd" (the budget), "stop", "interrupt", "errors" (most calls
        failed), "metric" (it returned what is no score) and "failure" (the optimizer itself failed). After the
        last three :attr:`errors` holds what happened, and a warning has said it.
        """
        return self.result.stopped_by

    @property
    def left_behind(self) -> tuple[str, ...]:
        """Names of the threads whose calls had not returned when the run ended; what they do counts no more."""
        return self.result.left_behind

    @property
    def skipped(self) -> int:
        """Examples that were not asked of candidates, because a race had given those up."""
        return self.result.skipped

    @property
    def raced(self) -> int:
        """Examples that would have been asked in the same evaluations without a race."""
        return self.result.raced

    @property
    def origin(self) -> str:
        """Where the program comes from, which :attr:`stopped_by` alone does not tell.

        "optimizer": it is what the optimizer returned, and a run that was stopped was scoring it by then;
        "candidate": the best of those scored in full before the stop; "given": unchanged, there was none.
        """
        return self.result.origin

    @property
    def duration_s(self) -> float:
        """Wall-clock seconds."""
        return self.result.duration_s

    @property
    def test_before(self) -> Evaluation | None:
        """The program as it was given, on held-out examples; ``None`` without a testset."""
        return self.result.test_before

    @property
    def test_after(self) -> Evaluation | None:
        """The optimized program on held-out examples that the search never saw; ``None`` without any."""
        return self.result.test_after

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What stands out in the answers of the whole search and on held-out examples; often nothing."""
        return self.result.findings

    @property
    def improvement(self) -> Difference | None:
        """The held-out score after against before, example by example; ``None`` unless both are complete."""
        return _difference(self.test_before, self.test_after)

    @property
    def held_out(self) -> HeldOut | None:
        """The scores before and after on examples that the search never saw, with the verdict on them.

        These are the testset; where there is none, the valset if the search does not use it; else ``None``.
        """
        if self._held_out is None or self._held_out[0] is not self.plan:
            self._held_out = self.plan, held_out_of(self.plan, self.result)
        return self._held_out[1]

    @property
    def next_step(self) -> str:
        """What to do next, in one sentence."""
        return advise(ending_of(self.plan, self.result, self.held_out), self.plan.voice)

    def example_table(self) -> ExampleTable:
        """Return the held-out examples with what came of them before and after; one of the two if it is alone.

        Those that the search scored a candidate on are behind that candidate: ``run.candidates[0].examples()``.

        Raises:
            InputError: the run is going on, has failed, or scored no held-out examples.
        """
        arms = {"before": self.test_before, "after": self.test_after}
        scored = {name: found.results for name, found in arms.items() if found is not None}
        if not scored:
            raise InputError(
                "the run scored no held-out examples: give it a testset; run.candidates[0].examples() has those of "
                "the search"
            )
        if len(scored) == 1:
            scored = {"answer": next(iter(scored.values()))}
        return ExampleTable.of(f"Held-out examples of {self.plan.optimizer}", scored)

    def plot(self) -> Any:
        """Return a matplotlib figure: the candidates' scores over the run, and the held-out scores.

        Raises:
            InputError: the run is going on, has failed, or has nothing to draw.
        """
        return through("plot", self)

    def registration(self) -> dict[str, Any]:
        """Return what a registry stores of this run.

        Raises:
            InputError: the program cannot be stored as plain text.
        """
        if self.plan.optimizer == NOT_REGISTRABLE:
            raise InputError(
                "a KNNFewShot program cannot be registered: it picks its demos in code, at each call"
            )
        before, test, gain = self.test_before, self.test_after, self.improvement
        metadata = {
            "optimizer": self.plan.optimizer,
            "run_id": self.plan.run_id,
            "base_model": self.plan.base_model,
            "adapter": dict(self.plan.adapter),
            "num_training_examples": self.plan.datasets.get("train", {}).get("n"),
            "validation_score": self.score,
            "baseline_score": self.baseline_score,
            "hyperparameters": readable(self.plan.options),
            "given_options": readable(self.plan.given),
            "preset": self.plan.preset,
            "metric": self.plan.metric,
            "seed": self.plan.seed,
            "num_threads": self.plan.num_threads,
            "race": self.plan.race,
            "budget": self.plan.budget.to_dict(),
            "usage": self.usage.to_dict(),
            "errors": self.errors.count,
            "datasets": {name: dict(data) for name, data in self.plan.datasets.items()},
            "duration_s": round(self.duration_s, 3),
            "stopped_by": self.stopped_by,
            "candidates": len(self.candidates),
            "test": test and {"score": test.score, "interval": list(test.interval), "n": test.n},
            "test_before": before
            and {"score": before.score, "interval": list(before.interval), "n": before.n},
            "improvement": gain and {**asdict(gain), "verdict": gain.verdict},
        }
        return {"program": self.program, "metadata": metadata, "evaluation": test and test.to_dict()}


def _difference(before: Evaluation | None, after: Evaluation | None) -> Difference | None:
    """Return what changed from one evaluation to the other; ``None`` unless both are complete."""
    if before is None or after is None or not (before.complete and after.complete):
        return None
    return paired_difference(after, before)


def held_out_of(plan: RunSettings, result: Result) -> HeldOut | None:
    """Return what a run changed on examples that its search never saw; see :attr:`OptimizationRun.held_out`."""
    before, after, validation = result.test_before, result.test_after, False
    if "test" not in plan.datasets:
        if not plan.has_unseen_valset:
            return None
        before, after, validation = result.unseen_before, result.unseen_after, True
        if before is None and after is None and result.score is not None:
            return None
    if result.origin == "given":
        after = after or before
    shown, gain = after or before, None
    with contextlib.suppress(InputError):  # the program writes into its inputs: there are no pairs
        gain = _difference(before, after)
    verdict = "" if gain is None else "unchanged" if result.origin == "given" else gain.verdict
    return HeldOut(
        before=None if before is None else before.score,
        after=None if after is None else after.score,
        before_interval=None if before is None else before.interval,
        after_interval=None if after is None else after.interval,
        n=0 if shown is None else shown.n,
        planned=int(plan.datasets["val" if validation else "test"]["n"]),
        verdict=verdict,
        difference=None if gain is None else gain.difference,
        interval=None if gain is None else gain.interval,
        confidence=0.95 if shown is None else shown.confidence,
        gained=0 if gain is None else gain.better,
        lost=0 if gain is None else gain.worse,
        errors=(0 if before is None else before.errors.count, 0 if after is None else after.errors.count),
        validation=validation,
    )


def ending_of(plan: RunSettings, result: Result, held_out: HeldOut | None) -> Ending:
    """Return what decides what to do after a run."""
    steps = plan.options["steps"] if get_optimizer(plan.optimizer).made_of_steps else {}
    return Ending(
        optimizer=plan.optimizer,
        tried=[optimizer.name for optimizer, _ in steps.values()],
        sets={name: int(data["n"]) for name, data in plan.datasets.items()},
        origin=result.origin,
        stopped_by=result.stopped_by,
        held_out=held_out,
        score=result.score,
        baseline=result.baseline_score,
        candidate_scores=[candidate.score for candidate in result.candidates if candidate.full],
        changed=result.changed,
        errors=result.errors.count,
        calls=result.usage.lm_calls + result.usage.cache_hits,
    )


def readable(value: Any) -> Any:
    """Return options as JSON can hold them: a model, program or function by its name, and no secret."""
    return without_secrets(describe_value(value))
