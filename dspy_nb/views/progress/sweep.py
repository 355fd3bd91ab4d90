"""How a sweep goes: all its cells in one table, and the call within the one that is under way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dspy_nb.core.events import CandidateScored, Compared, Completed, Event, Progress, Started
from dspy_nb.core.sweep_events import CellEnded, CellStarted, SweepEnded, SweepStarted
from dspy_nb.core.text import excerpt
from dspy_nb.views.documents import Bar, Block, Note, Table
from dspy_nb.views.progress.call_state import CallState, Meter, counted
from dspy_nb.views.progress.comparison import ComparisonState
from dspy_nb.views.progress.line import Form, Part
from dspy_nb.views.progress.run_state import RunState
from dspy_nb.views.wording import count, duration, percent

_SHOWN = 30
_WITHIN: Mapping[type[Event], type[CallState]] = {
    **dict.fromkeys((Started, Progress, CandidateScored, Completed), RunState),
    Compared: ComparisonState,
}


class SweepState(CallState):
    """What is known of a sweep.

    Attributes:
        lines: What its cells have said, a line each.
        inner: The state of the optimization, or of the comparison, that is under way.
    """

    keeps = "the best of each cell so far"

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.inner: CallState | None = None
        self._started = SweepStarted(())
        self._begun: CellStarted | None = None
        self._cells: dict[str, CellEnded] = {}
        self._rungs: dict[str, int] = {}
        self._usage: Mapping[str, Any] = {}
        self._ended: SweepEnded | None = None

    def add(self, event: Event) -> None:
        """Take in an event of the sweep, or of a call within it."""
        if isinstance(event, SweepStarted):
            self._started = event
            where = f" ({event.folder})" if event.folder else ""
            self.lines.append(f"sweep of {count(len(event.cells), 'cell')}{where}")
        elif isinstance(event, CellStarted):
            self._begun, self.inner = event, None
            if event.name:
                self._rungs[event.name] = event.rung
        elif isinstance(event, CellEnded):
            self._cells[event.name] = event
            self._usage = event.usage or self._usage
            self._begun, self.inner = None, None
            score = "" if event.score is None else f"{percent(event.score)}, "
            self.lines.append(excerpt(f"{event.name}: {event.status}, {score}{event.reason}", 2000))
        elif isinstance(event, SweepEnded):
            self._ended, self._begun, self.inner = event, None, None
            self.status = "stopped" if event.stopped_by else "completed"
            self.lines.append(excerpt(f"best: {event.best}", 2000))
        elif type(event) in _WITHIN:
            self._follow(event)
        else:
            super().add(event)
            if self.failed:
                self._begun, self.inner = None, None

    def _follow(self, event: Event) -> None:
        kind = _WITHIN[type(event)]
        if self.inner is None or (type(self.inner) is not kind) or self.inner.status != "running":
            self.inner = kind()
        self.inner.add(event)

    @property
    def stage(self) -> object:
        """What a display shows at once when it changes."""
        return len(self.lines), self.status, self._begun, None if self.inner is None else self.inner.stage

    @property
    def headline(self) -> str:
        """What is under way, or what was found."""
        if self.failed:
            return f"Sweep failed: {self.failed}"
        if self._ended is not None:
            return f"Sweep: {'no best cell' if self._ended.best is None else f'best is {self._ended.best}'}"
        if self._begun is None:
            return "Sweep"
        if not self._begun.name:
            return "Sweep: comparing the finalists on the test examples"
        rungs = len(self._started.rungs)
        rung = f", rung {self._begun.rung} of {rungs}" if rungs > 1 else ""
        return f"Sweep: {self._begun.name}{rung}"

    def text(self) -> str:
        """Return everything in one line."""
        inner = [] if self.inner is None else [self.inner.text()]
        return "; ".join([self.headline, *inner])

    @property
    def blocks(self) -> Sequence[Block]:
        """The bar, all cells, and the call that is under way."""
        blocks: list[Block] = [Bar(self._share, self._used, self.colour)]
        if self._ended is not None:  # the result says the rest
            return blocks
        names = list(self._started.cells)
        # Those that were worked on last, if there are too many.
        shown = sorted(names, key=lambda name: (name not in self._rungs, names.index(name)))[:_SHOWN]
        rows = [self._row(name) for name in names if name in shown]
        if rows:
            caption = "" if len(names) <= _SHOWN else f"{_SHOWN} of {len(names):,} cells are shown"
            columns = ("cell", "", "rung", "validation", "LM calls")
            blocks.append(Table(columns, rows, frozenset([2, 3, 4]), caption))
        if self.inner is not None:
            blocks += [Note(f"{self.headline.removeprefix('Sweep: ')}:"), *self.inner.blocks]
        return blocks

    def _row(self, name: str) -> tuple[str, str, str, str, str]:
        ended = self._cells.get(name)
        under_way = self._begun is not None and self._begun.name == name
        status = "under way" if under_way else "waiting" if ended is None else ended.status
        if status == "failed" and ended is not None:
            status = f"failed: {excerpt(ended.reason, 80)}"
        score = "" if ended is None or ended.score is None else percent(ended.score)
        calls = "" if ended is None else f"{ended.lm_calls:,}"
        return name, status, str(self._rungs.get(name, "")), score, calls

    @property
    def _calls(self) -> int:
        if self._ended is not None:
            return self._ended.lm_calls
        inner = self.inner.progress.metrics.get("lm_calls", 0) if isinstance(self.inner, RunState) else 0
        return int(self._usage.get("lm_calls", 0)) + int(inner)

    @property
    def _share(self) -> float | None:
        if self._ended is not None:
            return 1.0
        limit = self._started.budget.get("lm_calls")
        return None if not limit else min(self._calls / limit, 1.0)

    @property
    def _used(self) -> str:
        limit = self._started.budget.get("lm_calls")
        of = f" of at most {limit:,}" if limit else ""
        ended = f", {duration(self._ended.duration_s)}" if self._ended is not None else ""
        over = sum(name in self._cells for name in self._started.cells)
        cells = count(len(self._started.cells), "cell")
        return f"{self._calls:,}{of} LM calls, {over} of {cells} begun{ended}"

    @property
    def meter(self) -> Meter:
        """LM calls of the budget, and the cell under way."""
        limit = self._started.budget.get("lm_calls")
        title = [Form(self.headline, -1)] if self.failed else [Form("sweep", 4)]
        cell: Part = [] if self._begun is None else [Form(self._begun.name or "comparing the finalists", 6)]
        done = counted(self._calls, None if limit is None else int(limit), "LM calls", at_most=True)
        return Meter(title, self._share, [done, cell])
