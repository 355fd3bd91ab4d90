"""The states of evaluations and pipelines, and which state follows the events of which call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from dspy_nb.core.events import (
    CandidateScored,
    CellEnded,
    CellStarted,
    Compared,
    Completed,
    Evaluated,
    Event,
    Progress,
    Started,
    StepEnded,
    StepStarted,
    SweepEnded,
    SweepStarted,
)
from dspy_nb.views.documents import Bar, Block, Table
from dspy_nb.views.progress.call_state import CallState, Meter
from dspy_nb.views.progress.comparison import ComparisonState
from dspy_nb.views.progress.run_state import RunState
from dspy_nb.views.progress.sweep import SweepState
from dspy_nb.views.wording import count, duration, excerpt, percent


class EvaluationState(CallState):
    """What is known of an evaluation."""

    keeps = "what was evaluated so far"

    def __init__(self) -> None:
        super().__init__()
        self.last = Evaluated(0, 0)

    def add(self, event: Event) -> None:
        """Take in an event."""
        super().add(event)
        if isinstance(event, Evaluated):
            self.last = event
            if event.over:
                self.status = "completed" if event.done == event.total else "stopped"

    @property
    def headline(self) -> str:
        """That it is an evaluation, and why it failed if it has."""
        return f"Evaluation failed: {self.failed}" if self.failed else "Evaluation"

    def text(self) -> str:
        """Return everything in one line."""
        last = self.last
        text = f"Evaluated {last.done:,} of {count(last.total, 'example')}, {duration(last.elapsed_s)}"
        if self.status == "running" and 0 < last.done < last.total:
            left = last.elapsed_s / last.done * (last.total - last.done)
            text += f", about {duration(left)} left"
        return f"{text}{''.join(f', {part}' for part in self._found)}"

    @property
    def blocks(self) -> Sequence[Block]:
        """The bar, which says everything."""
        colour = "warn" if self.last.errors and self.status == "completed" else self.colour
        return [Bar(self.last.done / max(self.last.total, 1), self.text(), colour)]

    @property
    def meter(self) -> Meter:
        """How far it is."""
        return Meter("evaluate", self.last.done, self.last.total, "example", ", ".join(self._found))

    @property
    def _found(self) -> list[str]:
        found = [] if self.last.mean is None else [f"score {percent(self.last.mean)}"]
        return [*found, count(self.last.errors, "error")] if self.last.errors else found


class PipelineState(CallState):
    """What is known of a pipeline: its steps, and the call within the one that is under way.

    Attributes:
        lines: What its steps have said, a line each.
        inner: The state of the last call within a step, if there was one.
    """

    keeps = "what is done, for the same call to go on from"

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.inner: CallState | None = None
        self._step = ""
        self._ended: list[StepEnded] = []

    def add(self, event: Event) -> None:
        """Take in an event of the pipeline, or of a call within it."""
        if isinstance(event, StepStarted):
            where = f" ({event.folder})" if event.folder and not self.lines else ""
            self.lines.append(excerpt(f"{event.name} ...{where}", 2000))
            self._step, self.inner = event.name, None
        elif isinstance(event, StepEnded):
            self.lines.append(f"{event.name}: {event.status}, {excerpt(event.message, 2000)}")
            self._step, self.inner = "", None
            self._ended.append(event)
            if event.over:
                self.status = "stopped" if event.status == "refused" else "completed"
        elif type(event) in _STATES or (self.inner is not None and self.inner.status == "running"):
            self.inner = follow(self.inner or CallState(), event)
        else:
            super().add(event)

    @property
    def innermost(self) -> CallState:
        """The state of the call within the step; its own where there is none."""
        return self if self.inner is None else self.inner.innermost

    @property
    def stage(self) -> object:
        """What a display shows at once when it changes."""
        return len(self.lines), self.status, None if self.inner is None else self.inner.stage

    @property
    def headline(self) -> str:
        """The step that is under way, or how the last one ended."""
        if self.failed:
            return f"Pipeline failed: {self.failed}"
        if self._step or not self._ended:
            return f"Pipeline: {self._step}"
        return f"Pipeline: {self._ended[-1].name} {self._ended[-1].status}"

    def text(self) -> str:
        """Return everything in one line."""
        inner = [] if self.inner is None else [self.inner.text()]
        return "; ".join([self.headline, *inner])

    @property
    def blocks(self) -> Sequence[Block]:
        """The steps, and what is known of the call within the one under way."""
        rows = [
            (step.name, step.status, excerpt(step.message, 200), duration(step.duration_s))
            for step in self._ended
        ]
        if self._step:
            rows.append((self._step, "failed" if self.failed else "under way", "", ""))
        table = Table(("step", "", "what it found", "time"), rows, frozenset([3]))
        return [table] if self.inner is None else [table, *self.inner.blocks]


# A kind of call that has its own events has its line here.
_STATES: Final[Mapping[type[Event], type[CallState]]] = {
    **dict.fromkeys((Started, Progress, CandidateScored, Completed), RunState),
    Evaluated: EvaluationState,
    Compared: ComparisonState,
    **dict.fromkeys((StepStarted, StepEnded), PipelineState),
    **dict.fromkeys((SweepStarted, CellStarted, CellEnded, SweepEnded), SweepState),
}


def follow(state: CallState, event: Event) -> CallState:
    """Return the state after an event: the same one, or a new one where a call begins."""
    if type(event) in _STATES and (type(state) is CallState or state.status != "running"):
        state = _STATES[type(event)]()
    state.add(event)
    return state
