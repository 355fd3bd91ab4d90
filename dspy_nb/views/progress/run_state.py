"""What a run has said so far: the one fold of its events, and how it reads.

A step is an LM call answered, cache hits included. The bar compares it with the estimate, which is an upper
bound, so it says "at most"; nothing here is a guess of how far the optimizer is.
"""

from __future__ import annotations

from dspy_nb.core.events import CandidateScored, Completed, Event, Progress, Started
from dspy_nb.core.supervision.racing import Abandoned
from dspy_nb.views.documents import Bar, Block, Code, Details, Document, Drawing, Facts, Note, Table
from dspy_nb.views.ending import (
    describe_change,
    describe_evidence,
    describe_flattery,
    describe_verdict,
    say_next,
    verdict_colour,
)
from dspy_nb.views.findings import finding_notes
from dspy_nb.views.progress.call_state import CallState, Meter, counted, left, passed
from dspy_nb.views.progress.charts import ScoreTrail, score_svg, score_text
from dspy_nb.views.progress.line import Form, Part
from dspy_nb.views.run import CANDIDATE_COLUMNS, candidate_cells, prompt_blocks, say_given_up, say_saved
from dspy_nb.views.wording import (
    count,
    describe_ending,
    duration,
    format_or_dash,
    percent,
    roughly,
    time_left,
)

_LAST_CANDIDATES = 5
_BEST_CANDIDATES = 12
_UNFOLDED = 5
_LIMITS = {
    "lm_calls": ("{:,.0f}", ""),
    "tokens": ("{:,.0f}", " tokens"),
    "usd": ("${:,.4f}", ""),
    "seconds": ("{:,.0f}", " s"),
}


class RunState(CallState):
    """What a run said so far, kept small however long the run is.

    Attributes:
        started: what it said when it began.
        progress: how far it was when it said so last.
        completed: how it ended, if it has.
        first: score of the first candidate that was scored in full.
        best: the best such score so far.
        candidates: how many were scored.
        last: the latest few of them, the newest last.
        best_few: the best of them and the newest, by number.
        trail: the scores of all, for a chart.
    """

    keeps = "the best so far"

    def __init__(self) -> None:
        super().__init__()
        self.started = Started("")
        self.progress = Progress(0, "waiting to start")
        self.completed: Completed | None = None
        self.first: float | None = None
        self.best: float | None = None
        self.candidates = 0
        self.last: list[CandidateScored] = []
        self.best_few: dict[int, CandidateScored] = {}
        self.trail = ScoreTrail()

    def add(self, event: Event) -> None:
        """Take in one event."""
        super().add(event)
        if isinstance(event, Started):
            self.started, self.progress = event, Progress(0, "starting")
        elif isinstance(event, Progress):
            self.progress = event
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
            self.interrupted = event.stopped_by == "interrupt"

    @property
    def colour(self) -> str:
        """That of its bar: once it has ended, that of the verdict on held-out examples."""
        over = None if self.interrupted or self.status not in ("completed", "stopped") else self.completed
        return super().colour if over is None else verdict_colour(over.held_out)

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
        value = self.progress.metrics.get("baseline_score")
        return None if value is None else float(value)

    @property
    def eta_s(self) -> float | None:
        """Seconds until the estimate is used up at the rate of uncached calls so far; the run may end sooner."""
        step, total, metrics = self.progress.step, self.started.total_steps, self.progress.metrics
        if total is None:
            return None
        return time_left(metrics.get("elapsed_s") or 0.0, step, metrics.get("cache_hits") or 0, total - step)

    @property
    def steps(self) -> str:
        """LM calls answered, against the estimate."""
        step, total = self.progress.step, self.started.total_steps
        if total is None:
            return f"{step:,} LM calls answered"
        if step > total:
            return f"{step:,} LM calls answered, more than the {total:,} expected at most"
        return f"{step:,} of at most {total:,} LM calls answered"

    @property
    def headline(self) -> str:
        """State and phase in one line."""
        optimizer = self.started.optimizer
        if self.failed:
            return f"{optimizer or 'run'} failed: {self.failed}"
        if self.completed is None:
            return f"{optimizer}: {self.progress.message}" if optimizer else self.progress.message
        ended = describe_ending(self.completed.stopped_by, self.started.budget)
        return f"{optimizer} {ended} after {duration(self.completed.duration_s)}"

    @property
    def verdict(self) -> str:
        """What it changed on held-out examples, ``""`` before it has ended and where there are none."""
        held = None if self.completed is None else self.completed.held_out
        return "" if held is None else describe_verdict(held)

    @property
    def _score_name(self) -> str:
        return "best search score" if self.verdict else "best score"

    @property
    def score(self) -> str:
        """The best score so far beside that before, ``""`` before there is one."""
        if self.best is None or self.first is None:
            return ""
        name, other = ("first candidate", self.first) if self.baseline is None else ("before", self.baseline)
        return f"{percent(self.best)} ({name}: {percent(other)})"

    def text(self) -> str:
        """Return everything in one line."""
        score = [f"{self._score_name} {self.score}"] if self.score else []
        if self.completed is None:
            return "; ".join([self.headline, self.steps, *score])
        step = [say_next(self.completed.next_step)] if self.completed.next_step else []
        verdict = [self.verdict] if self.verdict else []
        return "; ".join([*verdict, self.headline, self.steps, *score, *step])

    @property
    def blocks(self) -> list[Block]:
        """All but the candidates; when it has ended, the verdict first."""
        return [*([Note(self.verdict)] if self.verdict else []), *self._blocks]

    @property
    def _blocks(self) -> list[Block]:
        label, share = self.steps, None
        if self.status == "running" and self.eta_s is not None:
            label += f" · at most {roughly(self.eta_s)} left at this rate"
        if self.started.total_steps:
            share = self.progress.step / self.started.total_steps
        bar = Bar(1.0 if self.status == "completed" else share, label, self.colour)
        blocks: list[Block] = [*self._ending(), bar]
        if self.trail.points:
            chart = score_svg(self.trail, self.baseline)
            blocks.append(Drawing(chart, score_text(self.trail, self.baseline)))
        findings = () if self.completed is None else self.completed.findings
        return [*blocks, *finding_notes(findings), Facts(self._facts(), tiles=True)]

    @property
    def meter(self) -> Meter:
        """LM calls answered, best score and budget; the total is an estimate, and none at the end."""
        done, total, metrics = self.progress.step, self.started.total_steps, self.progress.metrics
        running = self.status == "running"
        bound = total if running and total is not None and done <= total else None
        score: Part = []
        held = None if self.completed is None else self.completed.held_out
        if held is not None:
            score = [Form(describe_change(held), 5)]
        elif self.best is not None:
            long = [Form(f"best score {self.score}", 10)] if self.score else []
            score = [*long, Form(f"best {percent(self.best)}", 1)]
        errors: Part = [Form(count(metrics["errors"], "error"), 3)] if metrics.get("errors") else []
        time = [passed(metrics.get("elapsed_s") or 0.0), left(self.eta_s, at_most=True)] if running else []
        share = (
            (1.0 if self.status == "completed" or total is None else done / total) if not running else None
        )
        parts = [counted(done, bound, "LM calls", at_most=True), *time, score, self._budget, errors]
        return Meter(self._titles, done / bound if bound else share, parts)

    @property
    def _titles(self) -> Part:
        optimizer = self.started.optimizer
        if self.failed:
            return [Form(self.headline, -1)]
        if self.status == "running":
            return [Form(self.headline, 6), Form(optimizer, 2)]
        how = "interrupted" if self.interrupted else self.status
        return [
            Form(self.headline, 6),
            Form(self.headline.split(" after ")[0], 5),
            Form(f"{optimizer} {how}", 2),
            Form(how),
        ]

    def document(self) -> Document:
        """Return everything: with the latest candidates while it runs, with the best ones when it has ended."""
        blocks = self._blocks
        if self.status == "running" and self.last:
            rows = [event_cells(event, " (new best)" if event.best else "") for event in reversed(self.last)]
            caption = f"the latest of {self.candidates:,} candidates" if self.candidates > len(rows) else ""
            blocks.append(Table(CANDIDATE_COLUMNS, rows, frozenset([1, 2, 3]), caption))
        elif self.best_few:
            best = self.ranked[:_UNFOLDED]
            title = "Prompts of the best candidates" if self.candidates > len(best) else "Prompts tried"
            blocks.append(Details(title, [Details(candidate_title(e), prompt_of(e)) for e in best]))
        if self.verdict:
            return Document(self.verdict, blocks, self.headline)
        return Document(self.headline, blocks)

    def _ending(self) -> list[Block]:
        """Return what the verdict rests on and what to do next, when it has ended."""
        if self.completed is None:
            return []
        end = self.completed
        if end.held_out is not None:
            said = describe_evidence(end.held_out)
        else:
            said = describe_flattery(end.score, self.baseline, self.candidates)
        return [Note(text) for text in (said, say_next(end.next_step) if end.next_step else "") if text]

    def _facts(self) -> list[tuple[str, str]]:
        """Return what was found and used, beside the limits."""
        metrics = self.progress.metrics
        facts = [
            (self._score_name, self.score),
            ("candidates", f"{self.candidates:,}" if self.candidates else ""),
            ("races saved", say_saved(metrics.get("skipped", 0), metrics.get("raced", 0))),
            ("uncached calls", self._spent("lm_calls", "{:,.0f}")),
            ("cache hits", format_or_dash(metrics.get("cache_hits", 0), "{:,.0f}")),
            ("tokens", self._spent("tokens", "{:,.0f}")),
            ("cost", self._spent("usd", "${:,.4f}")),
            ("errors", f"{metrics['errors']:,}" if metrics.get("errors") else ""),
            ("time", self._spent("seconds", "{:,.0f} s") if metrics.get("elapsed_s") else ""),
        ]
        return [(name, text) for name, text in facts if text]

    def _spent(self, name: str, form: str) -> str:
        """Return what was used of ``name``, and its limit if there is one."""
        spent = format_or_dash(self._used(name), form)
        limit = self.started.budget.get(name)
        return spent if limit is None else f"{spent} of {format_or_dash(limit, form)}"

    def _used(self, name: str) -> float | None:
        """Return how much was used of what a budget may limit, ``None`` where that is not known."""
        metrics = self.progress.metrics
        if name == "tokens":
            parts = [metrics.get("prompt_tokens", 0), metrics.get("completion_tokens", 0)]
            return None if None in parts else sum(parts)
        if name == "seconds":
            return self.completed.duration_s if self.completed else metrics.get("elapsed_s", 0)
        used: float | None = metrics.get(name, 0)
        return used

    @property
    def _budget(self) -> Part:
        """Return what was used of each limit; shorter, of the one that will be reached first."""
        limits = self.started.budget
        spent = {name: self._used(name) for name in limits}
        used = {name: n / limits[name] for name, n in spent.items() if n is not None and limits[name]}
        texts = {
            name: self._spent(name, form) + unit for name, (form, unit) in _LIMITS.items() if name in used
        }
        if not texts:
            return []
        nearest = max(texts, key=lambda name: used[name])
        every = [Form(f"budget {', '.join(texts.values())}", 7)] if len(texts) > 1 else []
        return [*every, Form(f"budget {texts[nearest]}", 4), Form(f"budget {used[nearest]:.0%}", 3)]


def event_cells(event: CandidateScored, remark: str) -> tuple[str, ...]:
    """Return what a row says of a candidate."""
    e = event
    return candidate_cells(e.candidate, remark, e.score, e.n, e.full, e.demos, e.instruction, _given_up(e))


def candidate_title(event: CandidateScored) -> str:
    """Return a candidate's number and score in words."""
    part = "" if event.full else " (a part of them)"
    score = f"{percent(event.score)} on {count(event.n, 'example')}{part}"
    if (given_up := _given_up(event)) is not None:
        score = say_given_up(given_up)
    return f"Candidate {event.candidate}: {score}, {count(event.demos, 'demo')}"


def _given_up(e: CandidateScored) -> Abandoned | None:
    """Return how a race gave a candidate up; ``None`` if it did not."""
    if e.abandoned is None or e.interval is None:
        return None
    return Abandoned(e.n, e.score, e.interval, e.certain, e.abandoned, e.abandoned - e.n)


def prompt_of(event: CandidateScored) -> list[Block]:
    """Return a candidate's whole prompt, or the beginning of it where the event came from a log."""
    return [Code(event.instruction)] if event.prompt is None else prompt_blocks(event.prompt)


def _rank(event: CandidateScored) -> tuple[bool, float, int]:
    return event.full, event.score, -event.candidate
