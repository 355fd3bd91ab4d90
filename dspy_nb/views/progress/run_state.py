"""What a run has said so far: the one fold of its events, and how it reads.

A step is an LM call answered, cache hits included. The bar compares it with the estimate, which is an upper
bound, so it says "at most"; nothing here is a guess of how far the optimizer is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dspy_nb.core.events import CandidateScored, Completed, Event, Progress, Started
from dspy_nb.views.documents import Bar, Block, Code, Details, Document, Drawing, Facts, Table
from dspy_nb.views.progress.call_state import CallState, Meter
from dspy_nb.views.progress.score_chart import ScoreTrail, score_svg, score_text
from dspy_nb.views.run import prompt_blocks
from dspy_nb.views.wording import count, describe_ending, duration, excerpt, format_or_dash, percent

__all__ = ["RunState", "candidate_title", "prompt_of"]

_LAST_CANDIDATES = 5
_BEST_CANDIDATES = 12
_UNFOLDED = 5


class RunState(CallState):
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
        best_few: the best of them and the newest, by number.
        trail: the scores of all, for a chart.
        completed: how the run ended, if it has.
    """

    keeps = "the best so far"

    def __init__(self) -> None:
        super().__init__()
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
        self.best_few: dict[int, CandidateScored] = {}
        self.trail = ScoreTrail()
        self.completed: Completed | None = None

    def add(self, event: Event) -> None:
        """Take in one event."""
        super().add(event)
        if isinstance(event, Started):
            self.optimizer, self.total, self.budget = event.optimizer, event.total_steps, event.budget
            self.phase = "starting"
        elif isinstance(event, Progress):
            self.step, self.phase, self.metrics = event.step, event.message, event.metrics
            self.best = event.metrics.get("best_score", self.best)  # one may be scored again
        elif isinstance(event, CandidateScored):
            self.candidates = max(self.candidates, event.candidate + 1)
            self.last = [*self.last, event][-_LAST_CANDIDATES:]
            self._rank(event)
            self.trail.add(event.candidate, event.score, event.full)
            if event.full and self.first is None:
                self.first = event.score
            if event.best:
                self.best = event.score
        elif isinstance(event, Completed):
            self.completed = event
            self.status = "stopped" if event.stopped_by else "completed"

    def _rank(self, event: CandidateScored) -> None:
        self.best_few[event.candidate] = event
        if len(self.best_few) > _BEST_CANDIDATES:
            others = [number for number in self.best_few if number != event.candidate]
            del self.best_few[min(others, key=lambda number: _rank(self.best_few[number]))]

    @property
    def ranked(self) -> list[CandidateScored]:
        """The best candidates and the newest, the best first; those scored in full before the others."""
        return sorted(self.best_few.values(), key=_rank, reverse=True)

    @property
    def baseline(self) -> float | None:
        """Score of the program as it was given, ``None`` as long as it is not known."""
        value = self.metrics.get("baseline_score")
        return None if value is None else float(value)

    @property
    def eta_s(self) -> float | None:
        """Seconds until the estimate is used up at the rate observed so far; the run may end sooner."""
        elapsed = self.metrics.get("elapsed_s")
        if not elapsed or not self.step or self.total is None or self.step >= self.total:
            return None
        return float(elapsed) / self.step * (self.total - self.step)

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
        if self.failed:
            return f"{self.optimizer or 'run'} failed: {self.failed}"
        if self.completed is None:
            return f"{self.optimizer}: {self.phase}" if self.optimizer else self.phase
        ended = describe_ending(self.completed.stopped_by, self.budget)
        return f"{self.optimizer} {ended} after {duration(self.completed.duration_s)}"

    @property
    def score(self) -> str:
        """The best score so far beside that before, ``""`` before there is one."""
        if self.best is None or self.first is None:
            return ""
        name, other = ("first candidate", self.first) if self.baseline is None else ("before", self.baseline)
        return f"{percent(self.best)} ({name}: {percent(other)})"

    def text(self) -> str:
        """Return everything in one line."""
        parts = [self.headline, self.steps]
        if self.score:
            parts.append(f"best score {self.score}")
        return "; ".join(parts)

    @property
    def blocks(self) -> list[Block]:
        """All but the candidates."""
        return [self.bar, *self.chart, self.facts]

    @property
    def meter(self) -> Meter:
        """LM calls answered, best score and budget."""
        parts = [f"best {percent(self.best)}"] if self.best is not None else []
        if "lm_calls" in self.budget:
            parts.append(f"budget {self.metrics.get('lm_calls', 0):,} of {self.budget['lm_calls']:,}")
        title = excerpt(self.headline, 50)
        return Meter(title, self.step, self.total, "LM calls", ", ".join(parts), bound=True)

    def document(self) -> Document:
        """Return everything: with the latest candidates while it runs, with the best ones when it has ended."""
        blocks = self.blocks
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
        elif self.best_few:
            best = self.ranked[:_UNFOLDED]
            title = "Prompts of the best candidates" if self.candidates > len(best) else "Prompts tried"
            blocks.append(Details(title, [Details(candidate_title(e), prompt_of(e)) for e in best]))
        return Document(self.headline, blocks)

    @property
    def bar(self) -> Bar:
        """How far the run is."""
        label = self.steps
        if self.status == "running" and self.eta_s is not None:
            label += f" · at most {duration(self.eta_s)} left at this rate"
        share = 1.0 if self.status == "completed" else self.step / self.total if self.total else None
        return Bar(share, label, self.colour)

    @property
    def chart(self) -> list[Drawing]:
        """The scores so far, ``[]`` before there are any."""
        if not self.trail.points:
            return []
        return [Drawing(score_svg(self.trail, self.baseline), score_text(self.trail, self.baseline))]

    @property
    def facts(self) -> Facts:
        """What was found and used, beside the limits."""
        metrics = self.metrics
        facts = [("best score", self.score)] if self.score else []
        if self.candidates:
            facts.append(("candidates", f"{self.candidates:,}"))
        facts.append(("uncached calls", self._spent("lm_calls", "{:,.0f}")))
        facts.append(("cache hits", format_or_dash(metrics.get("cache_hits", 0), "{:,.0f}")))
        facts.append(("tokens", self._spent("tokens", "{:,.0f}")))
        facts.append(("cost", self._spent("usd", "${:,.4f}")))
        if metrics.get("errors"):
            facts.append(("errors", f"{metrics['errors']:,}"))
        if metrics.get("elapsed_s"):
            facts.append(("time", self._spent("seconds", "{:,.0f} s")))
        return Facts(facts, tiles=True)

    def _spent(self, name: str, form: str) -> str:
        """Return what was used of ``name``, and its limit if there is one."""
        metrics = dict(self.metrics)
        parts = [metrics.get("prompt_tokens", 0), metrics.get("completion_tokens", 0)]
        metrics["tokens"] = None if None in parts else sum(parts)
        metrics["seconds"] = self.completed.duration_s if self.completed else metrics.get("elapsed_s")
        spent = format_or_dash(metrics.get(name, 0), form)
        limit = self.budget.get(name)
        return spent if limit is None else f"{spent} of {format_or_dash(limit, form)}"


def candidate_title(event: CandidateScored) -> str:
    """Return a candidate's number and score in words."""
    part = "" if event.full else " (a part of them)"
    score = f"{percent(event.score)} on {count(event.n, 'example')}{part}"
    return f"Candidate {event.candidate}: {score}, {count(event.demos, 'demo')}"


def prompt_of(event: CandidateScored) -> list[Block]:
    """Return a candidate's whole prompt, or the beginning of it where the event came from a log."""
    return [Code(event.instruction)] if event.prompt is None else prompt_blocks(event.prompt)


def _rank(event: CandidateScored) -> tuple[bool, float, int]:
    return event.full, event.score, -event.candidate
