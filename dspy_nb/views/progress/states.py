"""The states of evaluations and pipelines, and which state follows the events of which call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from dspy_nb.core.events import (
    CandidateScored,
    Compared,
    Completed,
    Evaluated,
    Event,
    Progress,
    Started,
    StepEnded,
    StepStarted,
)
from dspy_nb.core.sweep_events import CellEnded, CellStarted, SweepEnded, SweepStarted
from dspy_nb.core.text import excerpt
from dspy_nb.views.documents import Bar, Block, Facts, Table
from dspy_nb.views.findings import finding_notes
from dspy_nb.views.progress.call_state import CallState, Meter, counted, left, passed
from dspy_nb.views.progress.comparison import ComparisonState
from dspy_nb.views.progress.line import Form, Part
from dspy_nb.views.progress.run_state import RunState
from dspy_nb.views.progress.sweep import SweepState
from dspy_nb.views.wording import count, duration, percent, roughly, time_left


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
                self.interrupted = event.interrupted

    @property
    def left_s(self) -> float | None:
        """Seconds until it is over, if no further answer comes from a cache; ``None`` while that is not known."""
        last = self.last
        if self.status != "running":
            return None
        return time_left(last.elapsed_s, last.done, last.cached, last.total - last.done, last.at_once)

    @property
    def headline(self) -> str:
        """That it is an evaluation, and how it ended unless it is complete."""
        if self.failed:
            return f"Evaluation failed: {self.failed}"
        return f"Evaluation {self._ending}" if self.status == "stopped" else "Evaluation"

    def text(self) -> str:
        """Return everything in one line."""
        failed = [self.headline] if self.failed else []
        return "; ".join([*failed, ", ".join([f"Evaluated {self._how_far}", *self._found])])

    @property
    def blocks(self) -> Sequence[Block]:
        """The bar, and what was found so far."""
        colour = "warn" if self.last.errors and self.status == "completed" else self.colour
        bar = Bar(self.last.done / max(self.last.total, 1), self._how_far, colour)
        facts = [("score", score) for score in self._scores[:1]]
        facts += [("errors", f"{self.last.errors:,}")] if self.last.errors else []
        return [bar, *([Facts(facts, tiles=True)] if facts else []), *finding_notes(self.last.findings)]

    @property
    def meter(self) -> Meter:
        """How far it is, and what was found so far."""
        last = self.last
        titles = [Form("evaluate", 4)]
        if self.failed:
            titles = [Form(self.headline, -1)]
        elif self.status == "stopped":
            titles = [Form(f"evaluation {self._ending}")]
        ranks = zip([f"score {score}" for score in self._scores], (3, 1), strict=False)
        score: Part = [Form(text, rank) for text, rank in ranks]
        errors: Part = [Form(count(last.errors, "error"), 2)] if last.errors else []
        time = [passed(last.elapsed_s), left(self.left_s, at_most=bool(last.cached))]
        done = counted(last.done, last.total, "examples")
        return Meter(titles, last.done / max(last.total, 1), [done, *time, score, errors])

    @property
    def _ending(self) -> str:
        return "interrupted" if self.interrupted else "stopped"

    @property
    def _how_far(self) -> str:
        last = self.last
        text = f"{last.done:,} of {count(last.total, 'example')}, {duration(last.elapsed_s)}"
        if self.status == "stopped":
            return f"{text}, {self._ending}"
        if self.left_s is None:
            return text
        return f"{text}, {'at most' if last.cached else 'about'} {roughly(self.left_s)} left"

    @property
    def _scores(self) -> list[str]:
        """The score with its interval, and without."""
        if self.last.mean is None:
            return []
        score, interval = percent(self.last.mean), self.last.interval
        return [score] if interval is None else [f"{score} [{', '.join(map(percent, interval))}]", score]

    @property
    def _found(self) -> list[str]:
        found = [f"score {score}" for score in self._scores[:1]]
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
        if self.interrupted:
            return "Pipeline interrupted: the same call goes on from here"
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
            rows.append((self._step, self._how, "", ""))
        table = Table(("step", "", "what it found", "time"), rows, frozenset([3]))
        return [table] if self.inner is None else [table, *self.inner.blocks]

    @property
    def _how(self) -> str:
        return "interrupted" if self.interrupted else "failed" if self.failed else "under way"


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
