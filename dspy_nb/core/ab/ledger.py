"""The verdict of an online experiment, brought forward unit by unit in the order of assignment."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np

from dspy_nb.core.ab.comparison import Step
from dspy_nb.core.statistics.two_arm import TwoArmSequence
from dspy_nb.core.statistics.verdicts import Verdict, decide

if TYPE_CHECKING:
    from numpy.typing import NDArray

_PATH_LENGTH: Final = 500


class Ledger:
    """The confidence sequence of B − A, the first verdict that it gave, and the path that led there.

    Everything in it depends on the units alone and their order, not on how many were added at a time: whoever
    looks seldom sees what they would have seen who look always.

    Args:
        confidence: 1 − α.
        margin: Largest difference that makes no practical difference.

    Attributes:
        verdict: The first one that was not inconclusive; it stays.
        n_at_verdict: After how many units.
        path: The interval after every so many units, 250 to 500 of them from 500 units on.
        graded: Whether an outcome was neither 0 nor 1.
    """

    def __init__(self, confidence: float, margin: float) -> None:
        self.sequence = TwoArmSequence(confidence, points=(-margin, margin) if margin else ())
        self._margin = margin
        self.verdict: Verdict = "inconclusive"
        self.n_at_verdict: int | None = None
        self.path: list[Step] = []
        self.graded = False
        # For each split: units and sum of outcomes of A, the same of B.
        self._tallies: dict[float, NDArray[Any]] = {}

    @property
    def n(self) -> int:
        """Units counted."""
        return self.sequence.n

    @property
    def splits(self) -> list[float]:
        """The splits of the units counted."""
        return list(self._tallies)

    @property
    def units(self) -> tuple[int, int]:
        """Units counted in A and in B."""
        a, _, b, _ = self._total()
        return int(a), int(b)

    @property
    def successes(self) -> tuple[float, float]:
        """Sum of the outcomes in A and in B."""
        _, a, _, b = self._total()
        return float(a), float(b)

    @property
    def effect(self) -> float:
        """Difference of the mean outcomes; NaN while an arm is empty.

        Where the split changed, the mean of the differences at each split, weighted by units: the arms then
        hold different shares of early and late units, and the difference of their overall means says nothing
        of the programs.
        """
        weight = total = 0.0
        for n_a, sum_a, n_b, sum_b in self._tallies.values():
            if n_a and n_b:
                weight += n_a + n_b
                total += (n_a + n_b) * (sum_b / n_b - sum_a / n_a)
        return float(total / weight) if weight else math.nan

    def add(self, is_b: NDArray[Any], outcome: NDArray[Any], split: NDArray[Any]) -> None:
        """Add units, in the order of assignment; arrays of one dimension and the same length."""
        stride = _stride(self.n + len(outcome))
        start = 0
        while start < len(outcome):
            stop = min(start + stride - self.n % stride, len(outcome))
            self._add_block(is_b[start:stop], outcome[start:stop], split[start:stop])
            start = stop
            if self.n % stride == 0:
                self.path.append(self.step())
        self.path = [step for step in self.path if step.n % stride == 0]

    def step(self) -> Step:
        """Return where it is now."""
        return Step(self.n, self.effect, *self.sequence.interval)

    def _add_block(self, is_b: NDArray[Any], outcome: NDArray[Any], split: NDArray[Any]) -> None:
        before = self.sequence.to_state() if self.verdict == "inconclusive" else None
        self.sequence.update_many(is_b, outcome, split)
        if before is not None and self._settled(self.sequence):
            self._find_verdict(before, is_b, outcome, split)
        self.graded = self.graded or bool(((outcome > 0) & (outcome < 1)).any())
        for value in np.unique(split):
            at = split == value
            b, a = at & is_b, at & ~is_b
            tally = np.array([a.sum(), outcome[a].sum(), b.sum(), outcome[b].sum()])
            self._tallies[float(value)] = self._tallies.get(float(value), 0) + tally

    def _find_verdict(
        self, before: dict[str, Any], is_b: NDArray[Any], outcome: NDArray[Any], split: NDArray[Any]
    ) -> None:
        """Find the very unit at which the sequence was settled, by halving."""
        low, high = 0, len(outcome)
        while high - low > 1:
            middle = (low + high) // 2
            tried = TwoArmSequence.from_state(before)
            tried.update_many(is_b[low:middle], outcome[low:middle], split[low:middle])
            if self._settled(tried):
                high = middle
            else:
                low, before = middle, tried.to_state()
        tried = TwoArmSequence.from_state(before)
        verdict = decide(*tried.update_many(is_b[low:high], outcome[low:high], split[low:high]), self._margin)
        if verdict != "inconclusive":
            self.verdict, self.n_at_verdict = verdict, tried.n

    def _settled(self, sequence: TwoArmSequence) -> bool:
        low, high = sequence.interval
        return math.isnan(low) or decide(low, high, self._margin) != "inconclusive"

    def _total(self) -> NDArray[Any]:
        return sum(self._tallies.values(), np.zeros(4))

    def to_state(self) -> dict[str, Any]:
        """Return what ``from_state`` continues from, as plain JSON values."""
        return {
            "margin": self._margin,
            "sequence": self.sequence.to_state(),
            "verdict": self.verdict,
            "n_at_verdict": self.n_at_verdict,
            "graded": self.graded,
            "path": [[None if x != x else x for x in step] for step in self.path],  # JSON has no NaN
            "tallies": [[split, *tally.tolist()] for split, tally in self._tallies.items()],
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        """Return a ledger that goes on exactly where the one of this state was."""
        ledger = cls(state["sequence"]["confidence"], state["margin"])
        ledger.sequence = TwoArmSequence.from_state(state["sequence"])
        ledger.verdict, ledger.n_at_verdict = state["verdict"], state["n_at_verdict"]
        ledger.graded = state["graded"]
        ledger.path = [Step(n, *(math.nan if x is None else x for x in rest)) for n, *rest in state["path"]]
        ledger._tallies = {split: np.array(tally) for split, *tally in state["tallies"]}
        return ledger


def _stride(n: int) -> int:
    """Return the least power of two of which at most 500 multiples are up to ``n``."""
    stride = 1
    while n > _PATH_LENGTH * stride:
        stride *= 2
    return stride
