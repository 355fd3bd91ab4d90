"""The cells of a sweep while it works: each goes on from rung to rung until it ends or is dropped."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, cast

import dspy

from dspy_nb.core.errors import DspyNbError, failure_text
from dspy_nb.core.evaluation.evaluate import evaluate
from dspy_nb.core.evaluation.scorecard import Evaluation
from dspy_nb.core.events import Event, Failed, Progress
from dspy_nb.core.optimization.ending import Voice, speaking
from dspy_nb.core.optimization.optimize import optimize
from dspy_nb.core.optimization.run import OptimizationRun
from dspy_nb.core.programs.usage import Usage
from dspy_nb.core.supervision.budget import Budget
from dspy_nb.core.sweep.grid import Cell, Grid
from dspy_nb.core.sweep.ledger import Ledger, Limits

_ENDINGS = {
    "stop": "stopped on request",
    "interrupt": "interrupted",
    "errors": "its program kept failing",
    "metric": "the metric returned what is no score",
    "failure": "its optimizer failed",
}


@dataclass
class Entry:
    """A cell and how far it is.

    Attributes:
        cell: What it is.
        status: "waiting", "running", then "done", "dropped" or "failed".
        reason: Why it is no further, in words.
        rung: How many rungs it has had.
        over: Whether more budget would change nothing.
        run: The optimization so far.
        program: The best program so far.
        evaluation: Of that one, on the validation examples.
        usage: What it used, in all rungs.
    """

    cell: Cell
    status: str = "waiting"
    reason: str = ""
    rung: int = 0
    over: bool = False
    run: OptimizationRun | None = None
    program: Any = None
    evaluation: Evaluation | None = None
    usage: Usage = field(default_factory=Usage)

    @property
    def score(self) -> float | None:
        """Of the best program so far on the validation examples."""
        if self.evaluation is not None and self.evaluation.complete:
            return float(self.evaluation.score)
        return None if self.run is None else self.run.score


class Runner:
    """Gives entries their share of the budget.

    Args:
        grid: The sweep.
        ledger: Its budget.
        settings: DSPy settings of all cells, such as the cache of answers.
        num_threads: Program calls at a time.
        send: Gets the events of the calls within.
    """

    def __init__(
        self,
        grid: Grid,
        ledger: Ledger,
        settings: Mapping[str, Any],
        num_threads: int | None,
        send: Callable[[Event], object],
    ) -> None:
        self._grid, self._ledger, self._settings = grid, ledger, settings
        self._num_threads, self._send = num_threads, send

    def advance(self, entry: Entry, share: Budget | str) -> None:
        """Let an entry go on with its share of the budget; a failure is its own and nobody else's."""
        entry.rung += 1
        entry.status = "running"
        before = self._ledger.used
        try:
            if isinstance(share, str):
                entry.reason = _out_of(share)
            elif share.lm_calls is not None and share.lm_calls < entry.cell.least:
                entry.reason = f"its share of {share.lm_calls:,} LM calls is too small to begin with"
            elif entry.cell.task is not None:
                self._optimize(entry, share)
            else:
                entry.program, entry.over = entry.cell.model.program, True
                entry.reason = "as it was given"
            if entry.program is not None:
                self._score(entry)
            entry.status = "waiting" if entry.program is None else "done"
        except Exception as failure:
            entry.status, entry.reason = "failed", failure_text(failure)
            entry.over = True
            if not isinstance(failure, DspyNbError):
                entry.reason = f"it failed: {entry.reason}"
        finally:
            entry.usage += _difference(self._ledger.used, before)

    def _optimize(self, entry: Entry, share: Budget) -> None:
        cell, last = entry.cell, Progress(0, "")
        assert cell.task is not None

        def hear(event: Event) -> None:
            nonlocal last
            if isinstance(event, Progress):
                last = event
            if not isinstance(event, Failed):  # the sweep goes on, and says itself that the cell has failed
                self._send(event)

        try:
            with speaking(Voice(silent=True)), dspy.context(lm=cell.model.lm, **self._settings):
                task = replace(cell.task, budget=share)
                run = optimize(task, on_event=hear, stop=self._ledger.stop)
        finally:
            names = ("lm_calls", "cache_hits", "prompt_tokens", "completion_tokens", "usd")
            self._ledger.used += Usage(**{name: last.metrics[name] for name in names if name in last.metrics})
        entry.reason = _ending(run.stopped_by)
        if run.stopped_by in ("stop", "interrupt") and entry.run is not None:
            return  # it was on its way to where it had been
        entry.evaluation = None
        entry.run, entry.program = run, run.program
        entry.over = run.stopped_by not in ("lm_calls", "seconds", "tokens", "usd")

    def _score(self, entry: Entry) -> None:
        """Score its best program on the validation examples; most answers are there already."""
        if not self._grid.valset or (entry.evaluation is not None and entry.evaluation.complete):
            return

        def score(limits: Limits) -> Evaluation:
            return evaluate(
                entry.program,
                self._grid.valset,
                self._grid.metric,
                num_threads=self._num_threads,
                stop=cast("threading.Event", limits),
            )

        settings = {"lm": entry.cell.model.lm, **self._settings}
        found = self._ledger.held(self._ledger.left(), score, settings)
        if found is not None and found.complete:
            entry.evaluation = found


def _difference(now: Usage, before: Usage) -> Usage:
    def less(name: str) -> Any:
        a, b = getattr(now, name), getattr(before, name)
        return None if a is None or b is None else a - b

    return Usage(*map(less, ("lm_calls", "cache_hits", "prompt_tokens", "completion_tokens", "usd")))


def _ending(stopped_by: str | None) -> str:
    if stopped_by is None:
        return "completed"
    return _ENDINGS.get(stopped_by) or _out_of(stopped_by)


def _out_of(limit: str) -> str:
    words = {"lm_calls": "LM calls", "seconds": "time", "tokens": "tokens", "usd": "dollars"}
    return f"its share of the {words.get(limit, limit)} is used up"
