"""How a comparison goes, as a document: the interval closing in, what changed so far, what is left."""

from __future__ import annotations

from collections.abc import Sequence

from dspy_nb.core.ab.comparison import Step
from dspy_nb.core.evaluation.pairing import Flip
from dspy_nb.core.events import Compared, Event, Standing
from dspy_nb.views.comparison import flip_cells
from dspy_nb.views.documents import Bar, Block, Drawing, Facts, Note, Table
from dspy_nb.views.findings import finding_notes
from dspy_nb.views.progress.call_state import CallState, Meter, counted, left, passed, waited
from dspy_nb.views.progress.charts import sequence_svg, sequence_text
from dspy_nb.views.progress.line import Form, Part
from dspy_nb.views.wording import count, duration, points, say_rest, time_left, waiting_facts

_FLIPS_SHOWN = 8


class ComparisonState(CallState):
    """What is known of a comparison.

    Args:
        names: What to call the baseline and its candidates, if not by the names that the comparison gives.

    Attributes:
        last: What it said last.
    """

    keeps = "what was compared so far"

    def __init__(self, names: Sequence[str] = (), margin: float = 0.0, planned: int = 0) -> None:
        super().__init__()
        self._names = names
        candidates = tuple(Standing(name) for name in names[1:])
        self.last = Compared(0, planned, next(iter(names), ""), candidates, margin)

    def add(self, event: Event) -> None:
        """Take in an event."""
        super().add(event)
        if isinstance(event, Compared):
            self.last = event
            if event.over:
                self.status = "completed" if self.done else "stopped"
                self.interrupted = event.interrupted and not self.done

    @property
    def names(self) -> Sequence[str]:
        """Of the baseline, then of the candidates."""
        return self._names or (self.last.baseline, *(candidate.name for candidate in self.last.candidates))

    @property
    def done(self) -> bool:
        """Whether every candidate has its verdict, or has had every example."""
        candidates, total = self.last.candidates, self.last.total
        return any(candidate.n for candidate in candidates) and all(
            candidate.verdict != "inconclusive" or candidate.n >= total for candidate in candidates
        )

    def text(self) -> str:
        """Return everything in one line."""
        leader = self._leader
        parts = [self.headline, self._used]
        if leader is not None and leader.path:
            parts.append(sequence_text(_steps(leader)))
        return "; ".join(parts)

    @property
    def headline(self) -> str:
        """What is compared, and the verdict if there is one."""
        settled = [one for one in self.last.candidates if one.n_at_verdict]
        if len(self.names) == 2:
            title = f"A/B: {self.names[0]} (A) and {self.names[1]} (B)"
            if settled:
                return f"{title}: {settled[0].verdict} after {count(settled[0].n_at_verdict or 0, 'example')}"
        else:
            title = f"A/B: {count(len(self.names) - 1, 'candidate')} against {self.names[0]} (A)"
            if settled:
                better = sum(one.verdict == "B better" for one in settled)
                return f"{title}: {better} better, {len(settled)} settled"
        return f"{title}: {self._how}"

    @property
    def blocks(self) -> Sequence[Block]:
        """Everything, with the latest flips while it works."""
        leader = self._leader
        if leader is None:
            return [Bar(None, "waiting for the first answers")]
        blocks: list[Block] = [Bar(self.last.done / max(self.last.total, 1), self._used, self.colour)]
        if leader.path:
            steps = _steps(leader)
            svg = sequence_svg(steps, self.last.margin, self.last.total)
            blocks.append(Drawing(svg, sequence_text(steps)))
            if len(self.last.candidates) > 1:
                name = self.names[1 + self.last.candidates.index(leader)]
                blocks.append(Note(f"the chart is that of {name}"))
        if self._over and not self.failed:
            return blocks  # the comparison that is returned shows the numbers
        blocks.append(Facts(self._facts(leader), tiles=True))
        if len(self.last.candidates) > 1:
            blocks.append(self._candidates())
        blocks += finding_notes(self.last.findings)
        if not self._over and leader.flips:
            blocks.append(_flips(leader.flips[:_FLIPS_SHOWN], sum(leader.wins)))
        return blocks

    @property
    def meter(self) -> Meter:
        """Examples compared, and how the candidates stand."""
        last, candidates = self.last, self.last.candidates
        remark: Part = []
        settled = sum(one.verdict != "inconclusive" for one in candidates)
        if len(candidates) > 1:
            remark = [Form(f"{settled} of {len(candidates)} settled", 2)]
        elif candidates and candidates[0].effect is not None:
            effect = f"B − A {100 * candidates[0].effect:+.1f}"
            remark = [Form(f"B − A {_difference(candidates[0])}", 3), Form(effect, 2)]
        titles = [Form("compare", 4)]
        if self._over:
            how = candidates[0].verdict if settled and len(candidates) == 1 else self._how
            titles = [Form(self.headline, 6), Form(f"compare: {how}")]
        eta = None if self._over else time_left(last.elapsed_s, last.done, 0, last.total - last.done)
        errors = sum(max(one.errors) for one in candidates)
        failed: Part = [Form(count(errors, "error"), 2)] if errors else []
        time = [passed(last.elapsed_s), left(eta, at_most=True)]
        share = 1.0 if self.done else last.done / max(last.total, 1)
        done = counted(last.done, last.total, "examples", at_most=not self._over)
        return Meter(titles, share, [done, *time, remark, failed, waited(last.waited_s)])

    @property
    def _how(self) -> str:
        """How it is, as long as there is no verdict."""
        if self.failed:
            return f"failed: {self.failed}"
        if self.interrupted:
            return "interrupted"
        return "no verdict" if self.done else "stopped" if self._over else "comparing"

    @property
    def _leader(self) -> Standing | None:
        """The candidate that is ahead."""
        begun = [one for one in self.last.candidates if one.n]
        return max(begun, key=lambda one: one.effect or 0.0, default=None)

    @property
    def _over(self) -> bool:
        return self.done or self.status != "running"

    @property
    def colour(self) -> str:
        """Green with a verdict, yellow without one."""
        if not self.done or self.failed:
            return super().colour
        return "good" if any(one.verdict != "inconclusive" for one in self.last.candidates) else "warn"

    @property
    def _used(self) -> str:
        n, total, spent = self.last.done, self.last.total, self.last.elapsed_s
        late = "".join(f", waited {text}" for _, text in waiting_facts(self.last.waited_s))
        text = f"{n:,} of at most {count(total, 'example')} compared, {duration(spent)}{late}"
        left = total - n
        if self._over or not n or not left:
            return text
        return f"{text}; {left:,} left, at most {duration(spent / n * left)} at this rate"

    def _facts(self, candidate: Standing) -> list[tuple[str, str]]:
        b_wins, a_wins = candidate.wins
        open_yet = not (candidate.n_at_verdict or self._over)
        facts = [("verdict", "none yet" if open_yet else candidate.verdict)]
        facts += [("difference, points", _difference(candidate))]
        facts += [("B better on", f"{b_wins:,}"), ("A better on", f"{a_wins:,}")]
        failed_a, failed_b = candidate.errors
        return [*facts, ("errors", f"A {failed_a:,}, B {failed_b:,}")] if failed_a or failed_b else facts

    def _candidates(self) -> Table:
        rows = [
            (name, one.verdict if one.n_at_verdict else "open", _difference(one), one.n)
            for name, one in zip(self.names[1:], self.last.candidates, strict=True)
        ]
        return Table(("candidate", "verdict", "difference to A, points", "examples"), rows, frozenset([3]))


def _steps(candidate: Standing) -> list[Step]:
    return [Step(*step) for step in candidate.path]


def _difference(candidate: Standing) -> str:
    if candidate.effect is None:
        return ""
    text, interval = f"{100 * candidate.effect:+.1f}", candidate.interval
    return text if interval is None or interval[0] != interval[0] else f"{text} {points(*interval)}"


def _flips(flips: Sequence[Flip], total: int) -> Table:
    rows = [("fixed" if flip.difference > 0 else "broke", *flip_cells(flip)) for flip in flips]
    caption = say_rest(_FLIPS_SHOWN, total, "examples on which they differ")
    return Table(("B", "input", "expected", "A said", "B said"), rows, caption=caption)


def most_answers(planned: int, programs: int) -> str:
    """Return what a comparison takes at most, in words."""
    by = "both" if programs == 2 else "all"
    return f"at most {planned:,} examples, each answered by {by}: {programs * planned:,} answers"
