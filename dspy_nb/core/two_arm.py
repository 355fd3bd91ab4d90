"""The anytime-valid comparison of two randomised arms: the verdict of an online experiment."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Self

import numpy as np

from dspy_nb.core.arguments import numbers_between
from dspy_nb.core.errors import InputError
from dspy_nb.core.sequences import BettingSequence, candidate_differences

# Bets of the two-arm sequence: the effects they are best at, and their shares of the first wealth (of which
# half goes to effects of either sign). Picked from sweeps of A/B tests with effects of .05 to .20; they
# decide the speed, not the validity.
_EFFECTS = np.array([0.01, 0.02, 0.04, 0.08, 0.15, 0.30])
_EFFECT_SHARES = np.array([0.05, 0.10, 0.20, 0.25, 0.25, 0.15])
_LARGEST_BET = 0.9  # of the bet that could lose everything
_LEAST_VARIANCE = 1e-4


class TwoArmSequence(BettingSequence):
    """A confidence sequence of the difference B − A of the mean outcomes of two randomised arms.

    Valid at every n at once, for outcomes in [0, 1], also when the split changes and when outcomes drift over
    time, as long as each unit went to B with the probability recorded for it and units come in the order in
    which they were assigned.

    With c the mean of past outcomes, X = (Y − c)/p for a unit of B and −(Y − c)/(1 − p) for one of A has the
    difference as its expectation. The wealth of the bets against a difference m is a weighted mean of
    ∏ (1 + λ (X − m)), with λ = e p(1 − p)/v for effects e, v the variance of past outcomes around c, and λ
    limited so that factors stay positive.

    Args:
        confidence: 1 − α, in (0, 1).
        points: Further differences to test exactly, such as ± the margin; the grid has steps of .01.

    Attributes:
        n: Number of outcomes so far.

    Source: Waudby-Smith and Ramdas (2024), "Estimating means of bounded random variables by betting", JRSS B
    86, 1-27, on inverse-probability weighted outcomes as in Waudby-Smith et al. (2024), "Anytime-valid
    off-policy inference for contextual bandits", ACM/IMS Journal of Data Science 1.
    """

    def __init__(self, confidence: float = 0.95, *, points: Iterable[float] = ()) -> None:
        grid = np.array(candidate_differences(points))
        shares = np.concatenate([_EFFECT_SHARES[::-1], _EFFECT_SHARES]) / 2
        super().__init__(confidence, grid, np.broadcast_to(np.log(shares), (len(grid), len(shares))))
        self._effects = np.concatenate([-_EFFECTS[::-1], _EFFECTS])
        self._sum = self._sum_of_squares = (
            0.0  # of past outcomes; of their distances from the c of their time
        )

    def update(self, is_b: bool, outcome: float, split: float) -> tuple[float, float]:
        """Add one unit's outcome and return the interval.

        Args:
            is_b: Whether the unit was assigned to B.
            outcome: Its outcome, in [0, 1].
            split: The probability with which it was assigned to B, in (0, 1).

        Raises:
            InputError: The outcome or the split is out of range; nothing was added.
        """
        return self.update_many((is_b,), (outcome,), (split,))

    def update_many(
        self, is_b: Iterable[bool], outcomes: Iterable[float], splits: Iterable[float]
    ) -> tuple[float, float]:
        """Add the outcomes of several units, in order of assignment, and return the interval after the last.

        The result is that of one ``update`` after the other, rejections in between included.

        Raises:
            InputError: A value is out of range or the lengths differ; nothing was added.
        """
        assigned_b = numbers_between("is_b", is_b, 0, 1, whole=True) == 1
        y = numbers_between("outcomes", outcomes, 0, 1)
        p = numbers_between("splits", splits, 0, 1)
        if not ((p > 0) & (p < 1)).all():
            raise InputError("splits must be numbers in (0, 1): each arm needs a chance")
        if not len(assigned_b) == len(y) == len(p):
            raise InputError(
                f"is_b, outcomes and splits must be as many, got {len(assigned_b)}, {len(y)}, {len(p)}"
            )
        if not len(y):
            return self.interval

        # Everything a bet depends on uses past outcomes only: sums before each outcome, prior counts added.
        n = self.n + 4 + np.arange(len(y))
        sums = np.cumsum(np.concatenate([[self._sum], y]))
        centre = (sums[:-1] + 2) / n
        squares = np.cumsum(np.concatenate([[self._sum_of_squares], (y - centre) ** 2]))
        variance = np.maximum((squares[:-1] + 1) / n, _LEAST_VARIANCE)
        x = np.where(assigned_b, (y - centre) / p, -(y - centre) / (1 - p))
        highest = np.maximum((1 - centre) / p, centre / (1 - p))
        lowest = -np.maximum(centre / p, (1 - centre) / (1 - p))
        scale = p * (1 - p) / variance
        start = 0
        while start < len(y):
            step = slice(start, start + self._steps_at_once())
            start = step.stop
            m = self._grid[self._rows]
            bets = (scale[step, None] * self._effects)[:, None, :]
            bets = np.maximum(bets, (-_LARGEST_BET / (highest[step, None] - m))[:, :, None])
            bets = np.minimum(bets, (_LARGEST_BET / (m - lowest[step, None]))[:, :, None])
            self._bet(np.log1p(bets * (x[step, None] - m)[:, :, None]))
        self._sum, self._sum_of_squares = float(sums[-1]), float(squares[-1])
        return self.interval

    def to_state(self) -> dict[str, Any]:  # noqa: D102
        return {**super().to_state(), "sum": self._sum, "sum_of_squares": self._sum_of_squares}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        """Return a sequence that goes on exactly where the one of this state was."""
        sequence = cls(state["confidence"], points=state["grid"])
        sequence._restore(state)
        sequence._sum, sequence._sum_of_squares = state["sum"], state["sum_of_squares"]
        return sequence
