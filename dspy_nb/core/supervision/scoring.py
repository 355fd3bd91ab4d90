"""Candidates of an optimizer scored on an executor, as they would be in threads of this process."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Sequence
from concurrent.futures import Executor
from typing import Any, NamedTuple

import dspy

from dspy_nb.core.data.metrics import Metric
from dspy_nb.core.errors import InputError
from dspy_nb.core.execution.attempts import Job, Outcome, Work
from dspy_nb.core.execution.executors import run_on
from dspy_nb.core.supervision.guard import Guard
from dspy_nb.core.supervision.racing import Race, Racing


class WorkerLost(Exception):
    """An example of which its worker died."""


class RemoteScoring:
    """Routes the evaluations of a search to an executor; races go on as in threads.

    Args:
        executor: Where candidates are asked.
        num_threads: Examples under way at once in each of its tasks.
        guard: What keeps the search to its budget.
        metric: What scores an answer.
        given_metric: The same as the optimizer got it: an evaluation by another one stays here.
        optimizers: Names of those whose evaluations may run elsewhere; others want more than scores.
        racing: The races of the candidates, if they race.
    """

    def __init__(
        self,
        executor: Executor,
        num_threads: int,
        guard: Guard,
        metric: Metric,
        given_metric: Callable[..., Any],
        optimizers: Container[str],
        racing: Racing | None,
    ) -> None:
        self._executor, self._num_threads, self._guard = executor, num_threads, guard
        self._metric, self._given_metric, self._optimizers = metric, given_metric, optimizers
        self._racing = racing
        self._candidates: dict[str, dspy.Module] = {}  # by evaluation

    def note(self, call_id: str, program: Any, metric: Any, optimizer: str) -> None:
        """Take note of an evaluation that begins."""
        if (
            metric is self._given_metric
            and optimizer in self._optimizers
            and isinstance(program, dspy.Module)
        ):
            self._candidates[call_id] = program

    def begin(self, call_id: str, data: Sequence[dspy.Example]) -> Any:
        """Return what carries an evaluation out, ``None`` for DSPy itself; see ``route_evaluations``."""
        race = None if self._racing is None else self._racing.begin(call_id, data)
        program = self._candidates.pop(call_id, None)
        return race if program is None else _Elsewhere(self, program, race)

    def score(self, program: dspy.Module, data: Sequence[dspy.Example], race: Race | None) -> list[Any]:
        """Return a prediction and a score, or ``None`` where there is no answer, for each example.

        Raises:
            StopRun: The run is to stop.
        """
        order = range(len(data)) if race is None else race.order

        def land(place: int, outcome: Outcome) -> None:
            if outcome.failure is not None and outcome.failure.kind == WorkerLost.__name__:
                self._guard.add_error(WorkerLost(outcome.failure.message))  # no receipt tells of it
            if race is not None:
                race.take(order[place], float(outcome.scores[0] or 0))

        try:
            outcomes = run_on(
                self._executor,
                Work((program,), ({},), (self._metric,), {}),
                _JobsOfRace(data, order, race),
                num_threads=self._num_threads,
                stop=self._guard,
                landed=land,
                early=race is not None,
            )
        except InputError as error:
            self._guard.errors.fatal = error
            raise self._guard.halt("failure") from None
        if self._guard.is_set():
            raise self._guard.halt("stop")
        found = {
            order[place]: _as_dspy_has_it(outcome)
            for place, outcome in enumerate(outcomes)
            if outcome is not None
        }
        given_up = race is not None and race.over
        if len(found) < len(data) and not given_up:
            self._guard.errors.fatal = InputError("the executor has lost its workers")
            raise self._guard.halt("failure")
        return [found[place] for place in order] if race is None else race.settle(found, len(data))


class _Elsewhere(NamedTuple):
    """One evaluation that runs on the executor."""

    scoring: RemoteScoring
    program: dspy.Module
    race: Race | None

    def run(self, execute: Any, ask: Any, data: Sequence[dspy.Example]) -> list[Any]:
        return self.scoring.score(self.program, data, self.race)


class _JobsOfRace:
    """The examples in the order of a race, until that is over."""

    def __init__(self, data: Sequence[dspy.Example], order: Sequence[int], race: Race | None) -> None:
        self._data, self._order, self._race = data, order, race

    def __len__(self) -> int:
        return len(self._order)

    @property
    def over(self) -> bool:
        return self._race is not None and self._race.over

    def __iter__(self) -> Iterator[Job]:
        for position in self._order:
            if self.over:
                return
            yield Job(self._data[position], keep_text=False)


def _as_dspy_has_it(outcome: Outcome) -> Any:
    if outcome.failure is not None:
        return None
    return dspy.Prediction(**outcome.predicted), outcome.scores[0]
