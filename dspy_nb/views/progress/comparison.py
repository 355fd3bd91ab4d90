"""How a comparison goes, as a document: the interval closing in, what changed so far, what is left."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from dspy_nb.core.ab.comparison import Flip, Step
from dspy_nb.core.ab.duel import A, B, Duel, examples_compared
from dspy_nb.views.comparison import flip_cells
from dspy_nb.views.documents import Bar, Block, Document, Drawing, Facts, Table
from dspy_nb.views.progress.sequence_chart import sequence_svg, sequence_text
from dspy_nb.views.wording import count, duration, points, say_rest

__all__ = ["ComparisonState", "TerminalComparisonProgress", "most_answers"]

_FLIPS_SHOWN = 8


@dataclass
class ComparisonState:
    """What is known of a comparison under way; fed with its duels, read as a document.

    Attributes:
        names: Of the baseline, then of the candidates.
        margin: Largest difference that makes no practical difference.
        planned: Examples that there are at most.
        ended: Why nothing more comes, in words; ``""`` while it works.
    """

    names: Sequence[str]
    margin: float
    planned: int
    ended: str = ""
    _duels: Sequence[Duel] = ()
    _started: float = field(default_factory=time.monotonic)

    def add(self, duels: Sequence[Duel], planned: int) -> None:
        """Take in how far the duels are."""
        self._duels, self.planned = duels, planned

    @property
    def done(self) -> bool:
        """Whether every duel has its verdict, or has had every example."""
        return bool(self._duels) and all(
            duel.verdict != "inconclusive" or duel.n >= self.planned for duel in self._duels
        )

    def text(self) -> str:
        """Return everything in one line."""
        leader = self._leader
        parts = [self.headline, self._used]
        if leader is not None and leader.path:
            parts.append(sequence_text(leader.path))
        return "; ".join(parts)

    @property
    def headline(self) -> str:
        """What is compared, and the verdict if there is one."""
        settled = [
            (name, duel) for name, duel in zip(self.names[1:], self._duels, strict=False) if duel.n_at_verdict
        ]
        if len(self.names) == 2:
            title = f"A/B: {self.names[0]} (A) and {self.names[1]} (B)"
            if settled:
                verdict, n = settled[0][1].verdict, settled[0][1].n_at_verdict or 0
                return f"{title}: {verdict} after {count(n, 'example')}"
        else:
            title = f"A/B: {count(len(self.names) - 1, 'candidate')} against {self.names[0]} (A)"
            if settled:
                return f"{title}: {len(settled)} settled"
        return f"{title}: {self.ended or ('no verdict' if self.done else 'comparing')}"

    def document(self) -> Document:
        """Return everything, with the latest flips while it works."""
        leader = self._leader
        if leader is None:
            return Document(self.headline, [Bar(None, "waiting for the first answers")])
        working = not (self.ended or self.done)
        blocks: list[Block] = [Bar(examples_compared(self._duels) / self.planned, self._used, self._state)]
        if leader.path:
            svg = sequence_svg(leader.path, self.margin, self.planned)
            blocks.append(Drawing(svg, sequence_text(leader.path)))
        blocks.append(Facts(self._facts(leader), tiles=True))
        if len(self._duels) > 1:
            blocks.append(self._candidates())
        if working and (flips := leader.flips(_FLIPS_SHOWN)):
            blocks.append(_flips(flips, sum(leader.wins)))
        subtitle = f"the chart is that of {self._leader_name}" if len(self._duels) > 1 else ""
        return Document(self.headline, blocks, subtitle)

    @property
    def _leader(self) -> Duel | None:
        """The duel of the candidate that is ahead."""
        begun = [duel for duel in self._duels if duel.n]
        return max(begun, key=lambda duel: sum(duel.differences) / duel.n, default=None)

    @property
    def _leader_name(self) -> str:
        return next(
            name for name, duel in zip(self.names[1:], self._duels, strict=True) if duel is self._leader
        )

    @property
    def _state(self) -> str:
        if any(duel.verdict != "inconclusive" for duel in self._duels) and self.done:
            return "good"
        return "warn" if self.ended or self.done else ""

    @property
    def _used(self) -> str:
        n = examples_compared(self._duels)
        spent = time.monotonic() - self._started
        text = f"{n:,} of at most {count(self.planned, 'example')} compared, {duration(spent)}"
        left = self.planned - n
        if self.ended or self.done or not n or not left:
            return text
        return f"{text}; {left:,} left, at most {duration(spent / n * left)} at this rate"

    def _facts(self, duel: Duel) -> list[tuple[str, str]]:
        b_wins, a_wins = duel.wins
        verdict = (
            duel.verdict
            if duel.n_at_verdict
            else "none yet"
            if not (self.done or self.ended)
            else duel.verdict
        )
        facts = [("verdict", verdict), ("difference, points", _difference(duel))]
        facts += [("B better on", f"{b_wins:,}"), ("A better on", f"{a_wins:,}")]
        if any(duel.errors):
            facts.append(("errors", f"A {duel.errors[A]:,}, B {duel.errors[B]:,}"))
        return facts

    def _candidates(self) -> Table:
        rows = [
            (name, duel.verdict if duel.n_at_verdict else "open", _difference(duel), f"{duel.n:,}")
            for name, duel in zip(self.names[1:], self._duels, strict=True)
        ]
        return Table(("candidate", "verdict", "difference to A, points", "examples"), rows, frozenset([3]))


def _difference(duel: Duel) -> str:
    if not duel.n:
        return ""
    last = duel.path[-1] if duel.path else Step(duel.n, sum(duel.differences) / duel.n, -1.0, 1.0)
    text = f"{100 * last.effect:+.1f}"
    return f"{text} {points(last.low, last.high)}" if duel.path and last.low == last.low else text


def _flips(flips: Sequence[Flip], total: int) -> Table:
    rows = [("fixed" if flip.difference > 0 else "broke", *flip_cells(flip)) for flip in flips]
    caption = say_rest(_FLIPS_SHOWN, total, "examples on which they differ")
    return Table(("B", "input", "expected", "A said", "B said"), rows, caption=caption)


# -- in a terminal ----------------------------------------------------------------------------------------------


class TerminalComparisonProgress:
    """A bar on stderr where that is a terminal, nothing elsewhere; a context that closes the bar."""

    def __init__(self) -> None:
        self._bar: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def __call__(self, duels: Sequence[Duel], planned: int) -> None:
        """Show how many examples all that are still asked have answered, and how many verdicts are in."""
        if not sys.stderr.isatty():
            return
        from tqdm import tqdm

        if self._bar is None:
            self._bar = tqdm(
                total=planned, desc="compare", unit="example", dynamic_ncols=True, file=sys.stderr
            )
        self._bar.n = examples_compared(duels)
        self._bar.set_postfix_str(_standing(duels), refresh=False)
        self._bar.refresh()


def most_answers(planned: int, programs: int) -> str:
    """Return what a comparison takes at most, in words."""
    by = "both" if programs == 2 else "all"
    return f"at most {planned:,} examples, each answered by {by}: {programs * planned:,} answers"


def _standing(duels: Sequence[Duel]) -> str:
    if len(duels) > 1:
        return f"{sum(duel.over for duel in duels)} of {len(duels)} settled"
    if not duels[0].path:
        return ""
    _, effect, low, high = duels[0].path[-1]
    return f"B − A {100 * effect:+.1f} {points(low, high)}"
