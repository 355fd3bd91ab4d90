"""What an optimization gives back: a handle while it runs, and then its result."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import dspy

from dspy_nb.core.doors import Shown, through
from dspy_nb.core.errors import InputError
from dspy_nb.core.evaluation.pairing import Difference, paired_difference
from dspy_nb.core.optimization.budget import Budget, ErrorCount
from dspy_nb.core.optimization.candidates import Candidate
from dspy_nb.core.optimization.estimates import Estimate
from dspy_nb.core.programs.adapters import describe_adapter, describe_value
from dspy_nb.core.programs.usage import Usage
from dspy_nb.core.secrecy import without_secrets

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
    race: str | None = None


@dataclass(frozen=True)
class Result:
    """How a run ended; see the properties of :class:`OptimizationRun`."""

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
    skipped: int = 0


class OptimizationRun(Shown):
    """One optimization: its plan, its state, and its result once there is one.

    While the run works, which only a background run does where one can see it, everything but
    :attr:`plan`, :attr:`status`, :meth:`stop` and :meth:`wait` raises an InputError.
    """

    def __init__(self, plan: RunSettings, stop: threading.Event) -> None:
        self.plan = plan
        self._stop = stop
        self._ended = threading.Event()
        self._result: Result | None = None
        self._failure: BaseException | None = None

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
        self._stop.set()

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
    def improvement(self) -> Difference | None:
        """The held-out score after against before, example by example; ``None`` unless both are complete."""
        before, after = self.test_before, self.test_after
        if before is None or after is None or not (before.complete and after.complete):
            return None
        return paired_difference(after, before)

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
        if self.plan.optimizer == "KNNFewShot":
            raise InputError(
                "a KNNFewShot program cannot be registered: it picks its demos in code, at each call"
            )
        test = self.test_after
        metadata = {
            "optimizer": self.plan.optimizer,
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
        }
        return {"program": self.program, "metadata": metadata, "evaluation": test and test.to_dict()}

    def __repr__(self) -> str:
        """Return optimizer, state and score in one line."""
        if self.status in ("running", "failed"):
            return f"<OptimizationRun {self.plan.optimizer}, {self.status}>"
        score = "" if self.score is None else f", score {self.score:.3f}"
        stopped = f" by {self.stopped_by}" if self.stopped_by else ""
        return f"<OptimizationRun {self.plan.optimizer}, {self.status}{stopped}{score}>"


def readable(value: Any) -> Any:
    """Return options as JSON can hold them: a model, program or function by its name, and no secret."""
    return without_secrets(describe_value(value))
