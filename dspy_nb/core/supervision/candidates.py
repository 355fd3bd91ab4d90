"""What an optimizer tries: the candidates it scores, kept so that the best one outlives a stop.

DSPy has no event for a candidate. Optimizers that call ``dspy.Evaluate`` are observed there; SIMBA, which
does not, is observed where it calls the metric.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, NamedTuple

import dspy

from dspy_nb.core.data.identity import example_id
from dspy_nb.core.doors import Shown
from dspy_nb.core.evaluation.attempts import Failure, split_fields
from dspy_nb.core.evaluation.diagnosis import Finding, diagnose
from dspy_nb.core.evaluation.examples import ExampleResult, ExampleTable, HasExamples
from dspy_nb.core.programs.copies import copy_of
from dspy_nb.core.programs.spec import parameters_of
from dspy_nb.core.programs.usage import Usage
from dspy_nb.core.supervision.racing import Abandoned, Racing

_MOST_KEPT: Final = 20_000_000  # characters of answers of all candidates of a run


@dataclass(frozen=True)
class Prompt:
    """What an optimizer changes in a program: each predictor's signature and demos.

    Attributes:
        signatures: predictor name to signature.
        demos: predictor name to demos.
    """

    signatures: Mapping[str, Any]
    demos: Mapping[str, Sequence[Any]]

    @classmethod
    def of(cls, program: dspy.Module) -> Prompt:
        """Take the prompt out of ``program``; later changes to the program do not show in it."""
        predictors = _tuned(program)
        return cls(
            {name: predictor.signature for name, predictor in predictors},
            {name: tuple(predictor.demos) for name, predictor in predictors},
        )

    def applied_to(self, program: dspy.Module) -> dspy.Module:
        """Return a copy of ``program`` with this prompt; pinned language models stay those of ``program``."""
        models = {name: predictor.lm for name, predictor in _tuned(program)}
        copy = copy_of(program)
        for name, predictor in _tuned(copy):
            predictor.lm = models[name]
            predictor.signature = self.signatures[name]
            predictor.demos = list(self.demos[name])
        return copy

    @property
    def instructions(self) -> dict[str, str]:
        """Predictor name to instruction."""
        return {name: signature.instructions for name, signature in self.signatures.items()}

    @property
    def key(self) -> str:
        """What tells two prompts apart, as text."""
        demos = {name: [sorted(dict(d).items()) for d in demos] for name, demos in self.demos.items()}
        return repr((self.instructions, demos))


def _tuned(program: dspy.Module) -> list[tuple[str, dspy.Predict]]:
    """Return the predictors that an optimizer tunes, by name."""
    parameters = parameters_of(program, frozen=False)
    return [(name, part) for name, part in parameters if isinstance(part, dspy.Predict)]


class Scored(NamedTuple):
    """An example that a candidate was scored on: its place in the set, the fields of the answer, the score."""

    place: int
    example: dspy.Example
    answer: dict[str, Any]
    score: bool | float


@dataclass(frozen=True)
class Candidate(Shown, HasExamples):
    """One program that the optimizer scored.

    Attributes:
        number: from 0, in the order in which candidates were first scored.
        score: mean of the metric, as a fraction; from all ``n`` examples it was scored on. Of one that a race gave
            up it is an estimate for the whole set.
        n: how many.
        full: True when it was scored on the whole set that candidates are compared on.
        prompt: its instructions and demos.
        program: the candidate itself, ready to call.
        scored: the examples it was scored on, each as it was answered last; empty while the search goes on, and of
            the worst candidates where the answers of all would fill the memory.
        abandoned: what is known of it, if a race gave it up.
    """

    number: int
    score: float
    n: int
    full: bool
    prompt: Prompt
    program: dspy.Module
    abandoned: Abandoned | None = None
    scored: tuple[Scored, ...] = field(default=(), repr=False, compare=False)

    @property
    def instructions(self) -> dict[str, str]:
        """Predictor name to instruction."""
        return self.prompt.instructions

    @property
    def num_demos(self) -> int:
        """Demos of all predictors together."""
        return sum(len(demos) for demos in self.prompt.demos.values())

    def example_table(self) -> ExampleTable:
        """Return the examples that it was scored on; what each took is not known."""
        note = "" if self.scored else "The answers of this candidate were not kept."
        return ExampleTable.of(
            f"Candidate {self.number}", {"answer": [_result(one) for one in self.scored]}, note=note
        )


def _result(scored: Scored) -> ExampleResult:
    inputs, expected = split_fields(scored.example)
    error = None if scored.answer else Failure("NoAnswer", "the program failed on it")
    score = None if error else scored.score
    return ExampleResult(
        index=scored.place,
        repeat=0,
        example_id=example_id(scored.example),
        inputs=inputs,
        expected=expected,
        predicted=scored.answer,
        score=score,
        scores={"score": score},
        latency_ms=math.nan,
        cached=False,
        error=error,
        usage=Usage(),
        metric_usage=Usage(),
    )


class Recorder:
    """Follows an optimizer: which candidate it scores, with what result, and what it is doing.

    Args:
        student: the program under optimization; candidates are rebuilt on copies of it.
        full_n: size of the set that candidates are compared on, ``None`` if they are not compared.
        on_scored: called with each candidate when it was scored, and whether it is the best so far.
        compared_on: the set that candidates are compared on, where some may be scored on another one (a step
            of BetterTogether may compare on the training set); those scores are partial, however many they are.
        examples: the set that candidates are scored on, to tell the places of its examples.
        racing: the races of its candidates, if they race.

    Attributes:
        phase: what the optimizer is doing.
    """

    def __init__(
        self,
        student: dspy.Module,
        full_n: int | None,
        on_scored: Callable[[Candidate, bool], None] = lambda candidate, best: None,
        compared_on: Sequence[dspy.Example] = (),
        examples: Sequence[dspy.Example] = (),
        racing: Racing | None = None,
    ) -> None:
        self.phase = "starting"
        self._student = student
        self._full_n = full_n
        self._on_scored = on_scored
        self._compared_on = {id(example): example for example in compared_on}
        self.racing = racing
        self._lock = threading.RLock()
        self._candidates: dict[str, Candidate] = {}
        self._open: dict[str, tuple[Prompt, int, bool]] = {}  # prompt, examples, comparable
        self._compiling: dict[str, str] = {}
        self._places = {id(example): index for index, example in enumerate(examples)}
        self._answers: dict[str, dict[int, Scored]] = {}  # by prompt, then by place
        self._size = 0  # of the answers, in characters

    @property
    def races(self) -> dict[str, int]:
        """Answers that races have saved ("skipped"), and those that the same takes without races ("raced")."""
        skipped, answers = (0, 0) if self.racing is None else (self.racing.skipped, self.racing.answers)
        return {"skipped": skipped, "raced": answers + skipped}

    @property
    def candidates(self) -> list[Candidate]:
        """All candidates, in the order in which they were first scored."""
        with self._lock:
            return list(self._candidates.values())

    def with_examples(self) -> list[Candidate]:
        """Return all candidates, each with the examples that it was scored on."""
        with self._lock:
            return [
                replace(
                    candidate, scored=tuple(found for _, found in sorted(self._answers.get(key, {}).items()))
                )
                for key, candidate in self._candidates.items()
            ]

    @property
    def best(self) -> Candidate | None:
        """The best of the candidates scored in full, the earliest of equals; ``None`` before there is one."""
        full = [c for c in self.candidates if c.full]
        return max(full, key=lambda c: (c.score, -c.number)) if full else None

    def find(self, program: dspy.Module) -> Candidate | None:
        """Return the candidate with the prompt of ``program``, if it was scored in full."""
        with self._lock:
            found = self._candidates.get(Prompt.of(program).key)
        return found if found is not None and found.full else None

    def add(self, prompt: Prompt, score: float, n: int, comparable: bool = True) -> None:
        """Take note that ``prompt`` reached mean ``score`` on ``n`` examples of the set compared on, or not."""
        with self._lock:
            known = self._candidates.get(prompt.key)
            full = comparable and self._full_n is not None and n >= self._full_n
            if known is not None and not full:
                if known.full:  # minibatches do not dilute a score on the full set
                    score, n, full = known.score, known.n, True
                else:
                    score, n = (known.score * known.n + score * n) / (known.n + n), known.n + n
            self._put(prompt, score, n, full)

    def give_up(self, prompt: Prompt, abandoned: Abandoned) -> None:
        """Take note that a race gave ``prompt`` up."""
        with self._lock:
            known = self._candidates.get(prompt.key)
            if known is None or not known.full:
                self._put(prompt, abandoned.score, abandoned.n, full=False, abandoned=abandoned)

    def _put(
        self,
        prompt: Prompt,
        score: float,
        n: int,
        full: bool,
        *,
        announce: bool = True,
        abandoned: Abandoned | None = None,
    ) -> None:
        best_before = self.best
        known = self._candidates.get(prompt.key)
        if known is None:
            number, program = len(self._candidates), prompt.applied_to(self._student)
            candidate = Candidate(number, score, n, full, prompt, program, abandoned)
        else:
            candidate = replace(known, score=score, n=n, full=full, abandoned=abandoned)
        self._candidates[prompt.key] = candidate
        best = self.best
        if announce:
            is_best = best is not None and (best_before is None or best.number != best_before.number)
            self._on_scored(candidate, is_best)

    def keep(self, prompt: Prompt, results: Sequence[tuple[dspy.Example, Any, bool | float]]) -> None:
        """Keep what a candidate made of examples; where that becomes too much, the worst candidate keeps nothing.

        What gave the score on the whole set replaces what was there, and stays.
        """
        with self._lock:
            candidate, kept = self._candidates[prompt.key], self._answers.setdefault(prompt.key, {})
            whole = len(results) >= (self._full_n or len(results))
            if candidate.full and not whole and len(kept) >= (self._full_n or 0):
                return
            if candidate.full and whole:
                self._size -= _size_of(kept)
                kept.clear()
            for example, prediction, score in results:
                place = self._places.get(id(example), len(kept))
                answer = dict(prediction.items()) if isinstance(prediction, dspy.Example) else {}
                scored = Scored(place, example, answer, score if isinstance(score, bool) else float(score))
                self._size += _size(answer) - (_size(kept[place].answer) if place in kept else 0)
                kept[place] = scored
            while self._size > _MOST_KEPT and self._answers:
                worst = min(self._answers, key=lambda key: self._candidates[key].score)
                self._size -= _size_of(self._answers.pop(worst))

    # -- what the guard hands on ----------------------------------------------------------------------

    def on_program_start(self, program: Any) -> None:
        """Nothing to take note of: the evaluation said which program it is."""

    def on_compile_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        """Take note of what the optimizer, or an optimizer within it, begins to do."""
        self._compiling[call_id] = type(instance).__name__
        if self.racing is not None:
            self.racing.enter_optimizer(type(instance).__name__.lstrip("_"))
        if len(self._compiling) == 1:
            self.phase = f"{type(instance).__name__}: preparing"
        else:
            self.phase = f"collecting demos ({type(instance).__name__})"

    def on_compile_end(self, call_id: str) -> None:
        """Take note that it ended."""
        self._compiling.pop(call_id, None)
        if self.racing is not None:
            self.racing.leave_optimizer()
        if self._compiling:
            self.phase = "writing instructions or building the next candidate"

    def on_evaluate_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        """Take note of the candidate, before its program can be changed."""
        devset = inputs.get("devset")
        examples = instance.devset if devset is None else devset
        comparable = not self._compared_on or all(id(example) in self._compared_on for example in examples)
        self._open[call_id] = Prompt.of(inputs["program"]), len(examples), comparable
        self.phase = f"scoring a candidate on {len(examples)} examples"

    def on_evaluate_end(self, call_id: str, outputs: Any, exception: BaseException | None) -> None:
        """Keep the candidate with its score; one whose scoring was cut short has none."""
        opened = self._open.pop(call_id, None)
        self.phase = "building the next candidate"
        abandoned = None if self.racing is None else self.racing.end(call_id)
        if opened is None or exception is not None or not outputs.results:
            return
        if abandoned is not None:
            self.give_up(opened[0], abandoned)
            self.keep(opened[0], [result for result in outputs.results if len(result[1])])
            return
        # outputs.score is rounded to two decimals of a percent
        score = sum(float(result[2]) for result in outputs.results) / len(outputs.results)
        prompt, n, comparable = opened
        self.add(prompt, score, n, comparable)
        if comparable:
            self.keep(prompt, outputs.results)

    def findings_of(self, program: dspy.Module) -> tuple[Finding, ...]:
        """Return what stands out in the answers of a candidate that was scored in full; nothing if it was not."""
        found, kept = self.find(program), self._answers.get(Prompt.of(program).key, {})
        results = [] if found is None else [_result(kept[place]) for place in sorted(kept)]
        return diagnose([result for result in results if result.error is None])  # those are counted elsewhere


class BatchRecorder(Recorder):
    """For an optimizer that scores candidates without ``dspy.Evaluate``: sums up metric calls.

    A candidate counts as scored in full once it has met ``full_n`` examples.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._running = threading.local()
        self._sums: dict[str, tuple[float, int]] = {}

    def on_program_start(self, program: Any) -> None:
        """Remember which candidate this thread is running."""
        if isinstance(program, type(self._student)) and hasattr(program, "simba_idx"):
            self._running.prompt = Prompt.of(program)

    def add_score(self, score: float, example: dspy.Example, prediction: Any) -> None:
        """Add one metric value for the candidate that this thread ran last."""
        prompt = getattr(self._running, "prompt", None)
        if prompt is None or self._full_n is None:
            return
        self._running.prompt = None
        with self._lock:
            total, n = self._sums.get(prompt.key, (0.0, 0))
            total, n = total + score, n + 1
            self._sums[prompt.key] = (total, n)
            self._put(prompt, total / n, n, n >= self._full_n, announce=n % self._full_n == 0)
        self.keep(prompt, [(example, prediction, score)])


def _size_of(kept: Mapping[int, Scored]) -> int:
    return sum(_size(scored.answer) for scored in kept.values())


def _size(value: Any) -> int:
    """Return about how many characters a value has."""
    if isinstance(value, str | bytes):
        return len(value)
    if isinstance(value, dict):
        return sum(map(_size, value.values()))
    return sum(map(_size, value)) if isinstance(value, list | tuple) else 8
