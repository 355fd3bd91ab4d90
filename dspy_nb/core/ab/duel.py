"""Programs on the same examples, side by side, with the evidence counted as it comes in."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from dspy_nb.core.ab.comparison import Step
from dspy_nb.core.evaluation.pairing import Flip
from dspy_nb.core.events import Standing
from dspy_nb.core.execution.attempts import PROMPTS_KEPT, ExampleMeter, Job, Outcome, Work, split_fields
from dspy_nb.core.statistics.verdicts import Verdict, decide

if TYPE_CHECKING:
    from dspy_nb.core.statistics.sequences import PairedSequence

A, B = 0, 1
_CHUNK = 8
_STEPS_TOLD = 200
_FLIPS_TOLD = 8


class DuelWork(Work):
    """A job's ``repeat`` says which of the programs answers.

    Where they take turns, no two answer one example at the same moment: an LM call that both make alike is
    then in the cache when the second one makes it, and is paid for once. Not with a timeout: a program that
    hangs would hold up the others.
    """

    def __init__(self, *args: Any, turns: bool) -> None:
        super().__init__(*args)
        self._turns = turns
        self._locks: dict[int, threading.Lock] = {}
        self._lock = threading.Lock()

    def __reduce__(self) -> Any:
        # In a worker, too, programs take turns: they are asked about some examples in one task.
        return _duel_work, (self.programs, self.settings, self.metrics, self._turns)

    def attempt(self, job: Job, meter: ExampleMeter) -> Outcome:
        """Evaluate one example with one of the programs."""
        if not self._turns:
            return super().attempt(job, meter)
        with self._lock:
            turn = self._locks.setdefault(id(job.example), threading.Lock())
        with turn:
            return super().attempt(job, meter)


def _duel_work(programs: Any, settings: Any, metrics: Any, turns: bool) -> DuelWork:
    return DuelWork(programs, settings, metrics, {}, turns=turns)


class DuelJobs:
    """The jobs in their order: a few examples by one program, the same by the next, and so on.

    Which of them begins rotates, so that none is always the one that finds a warm cache or a tired provider.
    A candidate whose duel is over is asked no more, and when all are, or one cannot be judged, it ends.

    Args:
        examples: In the order in which their evidence counts.
        duels: That of each candidate with the baseline, which is asked once for all of them.

    Attributes:
        places: Which example and which program each job was: 0 is the baseline, 1 the first candidate.
        together: How many jobs make up a few examples by all programs.
    """

    def __init__(self, examples: Sequence[Any], duels: Sequence[Duel]) -> None:
        self._examples, self._duels = examples, duels
        self.places: list[tuple[int, int]] = []
        self.together = _CHUNK * (len(duels) + 1)

    def __len__(self) -> int:
        """Return how many jobs there can be."""
        return len(self._examples) * (len(self._duels) + 1)

    def __iter__(self) -> Iterator[Job]:
        """Go through the jobs until it is over."""
        arms = range(len(self._duels) + 1)
        for number, start in enumerate(range(0, len(self._examples), _CHUNK)):
            first = number % len(arms)
            for arm in (*arms[first:], *arms[:first]):
                for index in range(start, min(start + _CHUNK, len(self._examples))):
                    if self.over:
                        return
                    if arm > 0 and self._duels[arm - 1].over:
                        break
                    self.places.append((index, arm))
                    yield Job(self._examples[index], arm, index < PROMPTS_KEPT)

    def land(self, place: int, outcome: Outcome) -> None:
        """Hand the outcome of a job to the duels that it counts in."""
        index, arm = self.places[place]
        if arm > 0:
            self._duels[arm - 1].take(index, B, outcome)
        else:
            for duel in self._duels:
                duel.take(index, A, outcome)

    @property
    def over(self) -> bool:
        """Whether nothing more needs to be asked."""
        return all(duel.over for duel in self._duels) or any(duel.bad_metric for duel in self._duels)


class Duel:
    """Takes the outcomes of two programs in any order, and counts examples in theirs.

    Only the order that was drawn beforehand is fair: examples that are answered sooner may be easier, and
    would be over-represented at every look.

    Args:
        size: How many examples there can be.
        binary: As the attribute.
        confidence: 1 − α of the interval.
        margin: Largest difference that makes no practical difference.
        sequential: Whether to look after each example.
        examples: The examples in their order, for ``flips``.

    Attributes:
        binary: Whether scores are right or wrong; found out at the first one if it is not known.
        verdict: The first one that was not inconclusive; it stays.
        n_at_verdict: After how many examples.
        differences: Score of B less that of A, of each example counted.
        path: The interval after each example, if looked at.
        errors: On how many of them A failed, and on how many B did.
        bad_metric: What a metric returned that is no score.
    """

    def __init__(
        self,
        size: int,
        binary: bool | None,
        confidence: float,
        margin: float,
        *,
        sequential: bool,
        examples: Sequence[Any] = (),
    ) -> None:
        self._examples = examples
        self._pairs: list[dict[int, Outcome]] = [{} for _ in range(size)]
        self._confidence, self._margin, self._sequential = confidence, margin, sequential
        self._sequence: PairedSequence | None = None
        self.binary = binary
        self.verdict: Verdict = "inconclusive"
        self.n_at_verdict: int | None = None
        self.differences: list[float] = []
        self.path: list[Step] = []
        self.errors = [0, 0]
        self.bad_metric: str | None = None
        self._total = 0.0

    @property
    def n(self) -> int:
        """Examples counted."""
        return len(self.differences)

    @property
    def wins(self) -> tuple[int, int]:
        """On how many examples B scored higher, and on how many A did."""
        return sum(d > 0 for d in self.differences), sum(d < 0 for d in self.differences)

    @property
    def over(self) -> bool:
        """Whether nothing more needs to be asked."""
        return self.bad_metric is not None or self.verdict != "inconclusive"

    @property
    def sequence(self) -> PairedSequence:
        """The confidence sequence; an unknown metric is graded, which is valid for any."""
        if self._sequence is None:
            from dspy_nb.core.statistics.sequences import PairedSequence  # imports numpy

            ends = (-self._margin, self._margin) if self._margin else ()
            self._sequence = PairedSequence(self._confidence, bool(self.binary), points=ends)
        return self._sequence

    def flips(self, most: int) -> list[Flip]:
        """Return the latest examples on which the two differ, newest first, at most so many.

        The place of each is that in the order drawn.
        """
        found: list[Flip] = []
        for index in range(min(self.n, len(self._examples)) - 1, -1, -1):
            if len(found) == most:
                break
            if self.differences[index]:
                inputs, expected = split_fields(self._examples[index])
                a, b = (self._pairs[index][arm].predicted for arm in (A, B))
                found.append(Flip(index, inputs, expected, a, b, self.differences[index]))
        return found

    def standing(self, name: str) -> Standing:
        """Return how the candidate stands, for listeners."""
        effect = self._total / self.n if self.n else None
        interval = self.path[-1][2:] if self.path else None
        errors = self.errors[A], self.errors[B]
        path, flips = thin(self.path, _STEPS_TOLD), self.flips(_FLIPS_TOLD)
        facts = self.verdict, self.n_at_verdict, effect, interval, self.wins, errors, path, flips
        return Standing(name, self.n, *facts)

    def outcomes(self, arm: int) -> list[Outcome]:
        """Return the answers of one program to the examples counted."""
        return [pair[arm] for pair in self._pairs[: self.n]]

    def take(self, index: int, arm: int, outcome: Outcome) -> None:
        """Take an answer, and count all examples that are now complete."""
        if outcome.failure is not None and outcome.failure.kind == "MetricError":
            self.bad_metric = self.bad_metric or outcome.failure.message
            return
        self._pairs[index][arm] = outcome
        while self.bad_metric is None and self.n < len(self._pairs) and len(self._pairs[self.n]) == 2:
            self._count(self._pairs[self.n])

    def _count(self, pair: dict[int, Outcome]) -> None:
        scores = [pair[arm].scores[0] for arm in (A, B)]
        if self.binary is None and (known := [score for score in scores if score is not None]):
            self.binary = isinstance(known[0], bool)
        a, b = (float(score or 0) for score in scores)
        if self.binary and {a, b} - {0.0, 1.0}:
            self.bad_metric = "the metric returned True or False before, and now a grade"
            return
        self.differences.append(b - a)
        for arm in (A, B):
            self.errors[arm] += pair[arm].failure is not None
        self._total += b - a
        if not self._sequential:
            return
        low, high = self.sequence.update(b - a)
        self.path.append(Step(self.n, self._total / self.n, low, high))
        if self.verdict == "inconclusive":
            self.verdict = decide(low, high, self._margin)
            if self.verdict != "inconclusive":
                self.n_at_verdict = self.n


def thin(path: Sequence[Step], most: int) -> tuple[Step, ...]:
    """Return at most some ``most`` of the steps, evenly spaced, the last one always."""
    every = -(-len(path) // most) or 1
    return (*path[every - 1 :: every], *(path[-1:] if len(path) % every else ()))


def examples_compared(duels: Sequence[Duel]) -> int:
    """Return how far a comparison is: the examples counted for every candidate that is still asked.

    A candidate that settled early says nothing of what is left, nor does one that is ahead of another. When
    none is asked any more, it is the most that any of them took.
    """
    asked = [duel.n for duel in duels if not duel.over]
    return min(asked) if asked else max((duel.n for duel in duels), default=0)
