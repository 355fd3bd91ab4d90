"""Progress of a run, as listeners to its events: a bar in a terminal, one display in a notebook.

A step is an LM call answered, cache hits included. The bar compares it with the estimate, which is an upper
bound, so it says "at most"; nothing here is a guess of how far the optimizer is.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from contextvars import Context
from typing import Any

from dspy_nb.core.events import CandidateScored, Completed, Event, Listener, Progress, Started
from dspy_nb.documents import Bar, Block, Document, Facts, Table, to_html
from dspy_nb.wording import duration, excerpt, known, percent, stopped

__all__ = ["NotebookProgress", "ProgressState", "TerminalProgress", "auto_progress"]

_UPDATE_EVERY_S = 0.25
_LAST_CANDIDATES = 5

# tqdm's own format would show a percentage of the estimate, which is an upper bound.
_RUNNING = "{desc} |{bar}| {n_fmt} of at most {total_fmt} LM calls, {elapsed}{postfix}"
_ENDED = "{desc} |{bar}| {n_fmt} LM calls{postfix}"
_NO_END = "{desc}, {n_fmt} LM calls, {elapsed}{postfix}"


def auto_progress(*, background: bool = False) -> Listener | None:
    """Return the listener that suits where the process runs: a kernel, a terminal, or neither.

    Args:
        background: the run goes on while the user types, so a bar in a terminal would get in the way.
    """
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if getattr(shell, "kernel", None) is not None:
        progress = NotebookProgress()
        if background:
            progress.show()
        return progress
    if sys.stderr.isatty() and not background:
        return TerminalProgress()
    return None


class ProgressState:
    """What a run said so far, kept small however long the run is.

    Attributes:
        optimizer: name.
        total: LM calls expected at most, ``None`` if unknown.
        budget: limits in force.
        step: LM calls answered.
        phase: what the optimizer is doing.
        metrics: of the last ``Progress``.
        first: score of the first candidate that was scored in full.
        best: the best such score so far.
        candidates: how many were scored.
        last: the latest few of them, the newest last.
        completed: how the run ended, if it has.
        failed: why it failed, if it has.
    """

    def __init__(self) -> None:
        self.optimizer = ""
        self.total: int | None = None
        self.budget: Mapping[str, float] = {}
        self.step = 0
        self.phase = "waiting to start"
        self.metrics: Mapping[str, Any] = {}
        self.first: float | None = None
        self.best: float | None = None
        self.candidates = 0
        self.last: list[CandidateScored] = []
        self.completed: Completed | None = None
        self.failed: str | None = None

    def add(self, event: Event) -> None:
        """Take in one event."""
        if isinstance(event, Started):
            self.optimizer, self.total, self.budget = event.optimizer, event.total_steps, event.budget
            self.phase = "starting"
        elif isinstance(event, Progress):
            self.step, self.phase, self.metrics = event.step, event.message, event.metrics
            self.best = event.metrics.get("best_score", self.best)  # one may be scored again
        elif isinstance(event, CandidateScored):
            self.candidates = max(self.candidates, event.candidate + 1)
            self.last = [*self.last, event][-_LAST_CANDIDATES:]
            if event.full and self.first is None:
                self.first = event.score
            if event.best:
                self.best = event.score
        elif isinstance(event, Completed):
            self.completed = event
        else:
            self.failed = event.error

    @property
    def eta_s(self) -> float | None:
        """Seconds until the estimate is used up at the rate observed so far; the run may end sooner."""
        elapsed = self.metrics.get("elapsed_s")
        if not elapsed or not self.step or self.total is None or self.step >= self.total:
            return None
        return float(elapsed) / self.step * (self.total - self.step)

    @property
    def status(self) -> str:
        """One of "running", "completed", "stopped" and "failed"."""
        if self.failed is not None:
            return "failed"
        if self.completed is None:
            return "running"
        return "stopped" if self.completed.stopped_by else "completed"

    @property
    def steps(self) -> str:
        """LM calls answered, against the estimate."""
        if self.total is None:
            return f"{self.step:,} LM calls answered"
        if self.step > self.total:
            return f"{self.step:,} LM calls answered, more than the {self.total:,} expected at most"
        return f"{self.step:,} of at most {self.total:,} LM calls answered"

    @property
    def headline(self) -> str:
        """State and phase in one line."""
        if self.failed is not None:
            return f"{self.optimizer or 'run'} failed: {excerpt(self.failed, 200)}"
        if self.completed is None:
            return f"{self.optimizer}: {self.phase}" if self.optimizer else self.phase
        ended = stopped(self.completed.stopped_by, self.budget)
        return f"{self.optimizer} {ended} after {duration(self.completed.duration_s)}"

    @property
    def score(self) -> str:
        """The best score so far, ``""`` before there is one."""
        if self.best is None or self.first is None:
            return ""
        return f"{percent(self.best)} (first candidate: {percent(self.first)})"

    def text(self) -> str:
        """Return everything in one line."""
        parts = [self.headline, self.steps]
        if self.score:
            parts.append(f"best score {self.score}")
        return "; ".join(parts)

    def html(self) -> str:
        """Return everything as HTML: with the latest candidates while it runs, short when it has ended."""
        state = {"completed": "good", "stopped": "warn", "failed": "bad", "running": ""}[self.status]
        label = self.steps
        if self.status == "running" and self.eta_s is not None:
            label += f" · at most {duration(self.eta_s)} left at this rate"
        share = 1.0 if self.status == "completed" else self.step / self.total if self.total else None
        blocks: list[Block] = [Bar(share, label, state), Facts(self._facts(), tiles=True)]
        if self.status == "running" and self.last:
            rows = [
                (
                    f"{event.candidate}{' (new best)' if event.best else ''}",
                    percent(event.score),
                    f"{event.n:,}{'' if event.full else ' (partial)'}",
                    str(event.demos),
                    event.instruction,
                )
                for event in reversed(self.last)
            ]
            shown = f"the latest of {self.candidates:,} candidates" if self.candidates > len(rows) else ""
            columns = ("candidate", "score", "n", "demos", "instruction")
            blocks.append(Table(columns, rows, frozenset([1, 2, 3]), shown))
        return to_html(Document(self.headline, blocks))

    def _facts(self) -> list[tuple[str, str]]:
        metrics = self.metrics
        facts = [("best score", self.score)] if self.score else []
        if self.candidates:
            facts.append(("candidates", f"{self.candidates:,}"))
        facts.append(("uncached calls", self._spent("lm_calls", "{:,.0f}")))
        facts.append(("cache hits", known(metrics.get("cache_hits", 0), "{:,.0f}")))
        facts.append(("tokens", self._spent("tokens", "{:,.0f}")))
        facts.append(("cost", self._spent("usd", "${:,.4f}")))
        if metrics.get("errors"):
            facts.append(("errors", f"{metrics['errors']:,}"))
        if metrics.get("elapsed_s"):
            facts.append(("time", self._spent("seconds", "{:,.0f} s")))
        return facts

    def _spent(self, name: str, form: str) -> str:
        """Return what was used of ``name``, and its limit if there is one."""
        metrics = dict(self.metrics)
        parts = [metrics.get("prompt_tokens", 0), metrics.get("completion_tokens", 0)]
        metrics["tokens"] = None if None in parts else sum(parts)
        metrics["seconds"] = self.completed.duration_s if self.completed else metrics.get("elapsed_s")
        spent = known(metrics.get(name, 0), form)
        limit = self.budget.get(name)
        return spent if limit is None else f"{spent} of {known(limit, form)}"


class _Display:
    """A listener that shows its state at most four times a second, and always at the end of the run."""

    def __init__(self) -> None:
        self.state = ProgressState()
        self._shown_at = 0.0

    def __call__(self, event: Event) -> None:
        """Take in one event of one run."""
        self.state.add(event)
        now = time.monotonic()
        if self.state.status != "running" or now - self._shown_at >= _UPDATE_EVERY_S:
            self._shown_at = now
            self._show()

    def _show(self) -> None:
        raise NotImplementedError


class TerminalProgress(_Display):
    """A bar on stderr: phase, LM calls against the estimate, best score, budget.

    It stays when the run has ended: green, yellow after a stop, red after a failure.
    """

    def __init__(self) -> None:
        super().__init__()
        self._bar: Any = None

    def _show(self) -> None:
        from tqdm import tqdm

        state = self.state
        if self._bar is None:
            # The tiny delay keeps tqdm from drawing an empty bar at once.
            self._bar = tqdm(total=state.total, dynamic_ncols=True, file=sys.stderr, delay=1e-9)
        bounded = state.total is not None and state.step <= state.total
        self._bar.n = state.step
        self._bar.bar_format = _RUNNING if bounded else _NO_END
        self._bar.set_description_str(excerpt(state.headline, 50), refresh=False)
        self._bar.set_postfix_str(self._postfix(), refresh=False)
        if state.status == "completed":
            self._bar.total = state.step  # the estimate was an upper bound
        if state.status != "running":
            self._bar.bar_format = _ENDED
            self._bar.colour = {"completed": "green", "stopped": "yellow", "failed": "red"}[state.status]
        self._bar.refresh()
        if state.status != "running":
            self._bar.close()

    def _postfix(self) -> str:
        state = self.state
        parts = [f"best {percent(state.best)}"] if state.best is not None else []
        if "lm_calls" in state.budget:
            parts.append(f"budget {state.metrics.get('lm_calls', 0):,} of {state.budget['lm_calls']:,}")
        return ", ".join(parts)


class NotebookProgress(_Display):
    """One display in the cell that starts it, updated in place from any thread, and left as static HTML.

    It starts with the first event. Where that comes from another thread, call :meth:`show` before.
    """

    def __init__(self) -> None:
        super().__init__()
        self._handle: Any = None

    def show(self) -> None:
        """Start the display, in the cell that is running now."""
        from IPython.display import display

        self._handle = display(self._bundle(), raw=True, display_id=True)  # type: ignore[no-untyped-call]

    def _show(self) -> None:
        if self._handle is None:
            self.show()
            return
        # Out of the thread's context, the kernel takes the cell that runs now for the sender. An update finds
        # its display by id all the same, and whoever executes a notebook only listens to that cell.
        Context().run(self._handle.update, self._bundle(), raw=True)

    def _bundle(self) -> dict[str, str]:
        return {"text/html": self.state.html(), "text/plain": self.state.text()}
