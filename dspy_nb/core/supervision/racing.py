"""Racing: a candidate that cannot win, or very probably will not, is not asked any further.

Two rules. With *exact* a candidate is given up when right answers to all that remain would not take it to the best
score so far: whatever picks the first of the best ends with the same program. It is asked first what earlier
candidates failed on most, so that this shows early; the guarantee holds in any order. It rests on scores between 0
and 1, and a search accepts no others: the first one outside ends it (``watched_metric``).

With *paired* a candidate is given up as well when it does worse than the best one on the examples that both have
answered: when the mean paired difference is more than 2.8 standard errors below zero, looked at every 4 answers
from the 20th on. The standard error is that of the difference on all examples, of which those answered are a part
(it shrinks to nothing as they become all). The examples then come in one random order, the same for all, so that
those answered are a fair sample.

``benchmarks/racing.py`` measures what each saves and loses.
"""

from __future__ import annotations

import contextlib
import math
import random
import threading
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias, get_args

import dspy

from dspy_nb.core.programs.seams import route_evaluations

Rule: TypeAlias = Literal["exact", "paired"]
RULES: Final[tuple[Rule, ...]] = get_args(Rule)

_LOOK_EVERY: Final = 4  # answers
_FIRST_LOOK: Final = 20
_STANDARD_ERRORS: Final = 2.8
_AHEAD: Final = 12  # answers
_PATIENCE_S: Final = 1.0  # then an answer that is late holds nobody up any more
_LEAST_DEVIATION: Final = 0.3  # of a paired difference: few answers that all agree say little
RACING_SETTING: Final = "dspy_nb_racing"
"""The DSPy setting that holds the races of a search."""


@dataclass(frozen=True)
class Abandoned:
    """What is known of a candidate that was given up.

    Attributes:
        n: Examples that it has answered.
        score: Its estimated score on all of them, below the best one's.
        interval: Of that score. With the exact rule the true one lies in it for certain; with the paired rule it
            is the 95 % interval of the paired difference, added to the best score.
        certain: Whether the rule was the exact one.
        of: How many examples there are.
        skipped: Those that were not asked.
    """

    n: int
    score: float
    interval: tuple[float, float]
    certain: bool
    of: int
    skipped: int


class Race:
    """The scoring of one candidate against the best one so far.

    Args:
        rule: When to give up.
        order: Positions of the examples, as they are to be asked.
        best: Scores of the best candidate by position, ``None`` as long as there is none.

    Attributes:
        result: How it was given up, if it was.
        scores: What it has scored, by position, once it is over.
    """

    def __init__(self, rule: Rule, order: Sequence[int], best: Sequence[float] | None) -> None:
        self._rule, self._order, self._best = rule, order, best
        self._top = math.fsum(best or ())
        self._scores: dict[int, float] = {}
        self._sum = self._best_sum = 0.0  # over what is answered
        self._prefix = 0
        self._rank = {position: rank for rank, position in enumerate(order)}
        self._lock = threading.Condition()
        self._given_up: tuple[int, float, tuple[float, float]] | None = None
        self.result: Abandoned | None = None
        self.scores: Mapping[int, float] = {}

    def run(
        self, execute: Callable[[Any, Any], Sequence[Any]], ask: Callable[[Any], Any], data: Sequence[Any]
    ) -> list[Any]:
        """Score the candidate: as ``execute(ask, data)`` would, until it is given up.

        Args:
            execute: Calls a function for each item, in several threads; returns what it returned, or ``None``
                where it raised.
            ask: Returns the prediction for an example, and its score.
            data: The examples.

        Returns:
            A prediction and a score, or ``None``, for each example. What was not asked has an empty prediction
            and such a score that the mean of all is the estimate.
        """

        def ask_unless_given_up(position: int) -> Any:
            self._wait_for_prefix(position)
            if self._given_up is not None:
                return _SKIPPED
            try:
                outcome = ask(data[position])
            except Exception:
                self.take(position, 0.0)
                raise
            self.take(position, float(outcome[1]))
            return outcome

        found: list[Any] = [None] * len(data)
        for position, outcome in zip(
            self._order, execute(ask_unless_given_up, list(self._order)), strict=True
        ):
            found[position] = outcome
        skipped = [position for position, outcome in enumerate(found) if outcome is _SKIPPED]
        # An answer that was late may still come in, or be another one than that which DSPy has taken.
        self.scores = {
            position: 0.0 if outcome is None else float(outcome[1])
            for position, outcome in enumerate(found)
            if outcome is not _SKIPPED
        }
        if self._given_up is not None and skipped:
            n, score, interval = self._given_up
            certain = self._rule == "exact"
            self.result = Abandoned(n, score, interval, certain, len(data), len(skipped))
            filling = (score * len(data) - math.fsum(self.scores.values())) / len(skipped)
            for position in skipped:
                found[position] = dspy.Prediction(), filling
        return found

    def take(self, position: int, score: float) -> None:
        """Take note of a score, and look whether to give up."""
        with self._lock:
            if position in self._scores:  # DSPy asks again what takes long
                return
            self._scores[position] = score
            self._sum += score
            if self._best is None or self._given_up is not None:
                return
            self._best_sum += self._best[position]
            if self._rule == "exact":
                self._give_up_if_beaten(len(self._scores), self._sum, self._best_sum)
            else:
                self._follow_prefix()

    def _give_up_if_beaten(self, n: int, total: float, best: float) -> None:
        assert self._best is not None
        size, top = len(self._best), self._top
        if total + (size - n) < top - _ROUNDING:
            # On the rest, which is easier, it is taken to be as good as the best one.
            interval = total / size, (total + size - n) / size
            self._given_up = n, (top - best + total) / size, interval

    def _wait_for_prefix(self, position: int) -> None:
        """Let no thread run far ahead of an answer that the next look waits for: it may ask for nothing."""
        if self._rule == "paired" and self._best is not None:
            with self._lock:
                self._lock.wait_for(
                    lambda: self._given_up is not None or self._rank[position] <= self._prefix + _AHEAD,
                    _PATIENCE_S,
                )

    def _follow_prefix(self) -> None:
        """Look at the answers in their order, so that the verdict does not depend on which thread was faster."""
        assert self._best is not None
        self._lock.notify_all()
        while self._prefix < len(self._order) and self._order[self._prefix] in self._scores:
            self._prefix += 1
            n = self._prefix
            if n < _FIRST_LOOK or n % _LOOK_EVERY:
                continue
            seen = self._order[:n]
            differences = [self._scores[position] - self._best[position] for position in seen]
            mean, deviation = mean_and_deviation(differences)
            size, top = len(self._best), self._top
            error = deviation * math.sqrt((1 - n / size) / n)
            beaten = math.fsum(self._scores[position] for position in seen) + size - n < top - _ROUNDING
            if beaten or is_worse(differences, mean, error):
                score = top / size + mean
                low, high = score - 1.96 * error, score + 1.96 * error
                self._given_up = n, max(score, 0.0), (max(low, 0.0), min(high, 1.0))
                return


def mean_and_deviation(differences: Sequence[float]) -> tuple[float, float]:
    """Return the mean of paired differences and their standard deviation, which is taken to be 0.3 at least."""
    n = len(differences)
    mean = math.fsum(differences) / n
    variance = math.fsum((value - mean) ** 2 for value in differences) / (n - 1)
    return mean, max(math.sqrt(variance), _LEAST_DEVIATION)


def is_worse(differences: Sequence[float], mean: float, error: float) -> bool:
    """Return whether a candidate is given up for its paired differences to the best one, of this mean and error."""
    return mean + _STANDARD_ERRORS * error < 0


_SKIPPED: Final = (dspy.Prediction(), 0.0)
_ROUNDING: Final = 1e-9  # of sums of scores


class Racing:
    """The races of one search, one after the other.

    A step of BetterTogether races by itself: what it hands on is its own best.

    Args:
        rule: When to give up.
        examples: Those that candidates are compared on; what is scored on others is not raced.
        full_n: How many of them a candidate must be scored on to be compared; what is scored on fewer is not raced.
        seed: Of the order of the examples.
        optimizers: Names of the optimizers whose candidates may race; another one may be a step of BetterTogether.

    Attributes:
        answers: How many were scored.
        skipped: How many were not asked.
    """

    def __init__(
        self, rule: Rule, examples: Sequence[dspy.Example], full_n: int, seed: int, optimizers: Container[str]
    ) -> None:
        self._rule, self._full_n, self._seed, self._optimizers = rule, full_n, seed, optimizers
        self._examples = {id(example): example for example in examples}
        self._fields: dict[tuple[int, ...], _Field] = {}  # by the examples in their order
        # Each optimizer that is at work, with its best scores.
        self._at_work: list[tuple[str, dict[_Field, Sequence[float]]]] = []
        self._races: dict[str, tuple[_Field, Race]] = {}
        self.answers = self.skipped = 0

    def enter_optimizer(self, name: str) -> None:
        """Begin to race within an optimizer."""
        self._at_work.append((name, {}))

    def leave_optimizer(self) -> None:
        """Go on where the optimizer around it was."""
        self._at_work.pop()

    def begin(self, call_id: str, data: Sequence[dspy.Example]) -> Race | None:
        """Return the race of the evaluation with this id, ``None`` if it is of other examples."""
        key = tuple(map(id, data))
        if len(data) < self._full_n or not self._examples.keys() >= set(key):
            return None
        name, best = self._at_work[-1]
        if name not in self._optimizers:
            return None
        field = self._fields.setdefault(key, _Field(len(data), self._seed))
        race = Race(self._rule, field.order_for(self._rule), best.get(field))
        self._races[call_id] = field, race
        return race

    def end(self, call_id: str) -> Abandoned | None:
        """Return how the candidate of that evaluation was given up, if it was; else its scores may be the best."""
        field, race = self._races.pop(call_id, (None, None))
        if field is None or race is None:
            return None
        self.answers += len(race.scores)
        field.learn(race.scores)
        if race.result is not None:
            self.skipped += race.result.skipped
        elif len(race.scores) == field.n:
            scores = [race.scores[position] for position in range(field.n)]
            _, best = self._at_work[-1]
            if field not in best or math.fsum(scores) > math.fsum(best[field]):
                best[field] = scores
        return race.result


@contextlib.contextmanager
def in_force(racing: Racing | None) -> Iterator[None]:
    """Let what DSPy evaluates race; with ``None`` nothing does."""
    if racing is None:
        yield
        return
    route_evaluations(RACING_SETTING)
    with dspy.context(**{RACING_SETTING: racing}):
        yield


class _Field:
    """Examples that candidates race on, and how hard they were so far.

    Args:
        n: How many there are.
        seed: Of their order.
    """

    def __init__(self, n: int, seed: int) -> None:
        self.n = n
        self._order = random.Random(seed).sample(range(n), n)
        self._missed, self._asked = [0.0] * n, [0] * n

    def order_for(self, rule: Rule) -> Sequence[int]:
        """Return the positions as they are to be asked: at random, or the hardest first."""
        if rule == "paired":
            return self._order
        return sorted(self._order, key=lambda i: self._missed[i] / max(self._asked[i], 1), reverse=True)

    def learn(self, scores: Mapping[int, float]) -> None:
        """Take note of what a candidate has scored, by position."""
        for position, score in scores.items():
            self._missed[position] += 1 - score
            self._asked[position] += 1
