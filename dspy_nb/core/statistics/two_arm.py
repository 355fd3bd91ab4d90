"""The anytime-valid comparison of two randomised arms: the verdict of an online experiment."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from dspy_nb.core.arguments import numbers_between
from dspy_nb.core.errors import InputError
from dspy_nb.core.statistics.sequences import BettingSequence, Cells

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Bets of the two-arm sequence: the effects they are best at, and their shares of the first wealth (of which
# half goes to effects of either sign). Picked from sweeps of A/B tests with effects of .05 to .20; they
# decide the speed, not the validity.
_EFFECTS = np.array([0.01, 0.02, 0.04, 0.08, 0.15, 0.30])
_EFFECT_SHARES = np.array([0.05, 0.10, 0.20, 0.25, 0.25, 0.15])
_LARGEST_BET = 0.9  # of the bet that could lose everything
_LEAST_VARIANCE = 1e-4


class TwoArmSequence(BettingSequence):
    """A confidence sequence of the difference B − A of the mean outcomes of two randomised arms.

    Valid at every n at once, for outcomes in [0, 1], also when the split changes and when both arms get better
    or worse over time, as long as each unit went to B with the probability recorded for it and units come in
    the order in which they were assigned.

    With c the mean of past outcomes, X = (Y − c)/p for a unit of B and −(Y − c)/(1 − p) for one of A has the
    difference as its expectation. The wealth of the bets against a difference m is a weighted mean of
    ∏ (1 + λ (X − m)), with λ = e p(1 − p)/v for effects e, v the variance of past outcomes around c, and λ
    limited so that factors stay positive.

    Args:
        confidence: 1 − α, in (0, 1).
        points: Further ends that the interval may have, such as ± the margin, beside multiples of .01.

    Attributes:
        n: Number of outcomes so far.

    Source: Waudby-Smith and Ramdas (2024), "Estimating means of bounded random variables by betting", JRSS B
    86, 1-27, on inverse-probability weighted outcomes as in Waudby-Smith et al. (2024), "Anytime-valid
    off-policy inference for contextual bandits", ACM/IMS Journal of Data Science 1.
    """

    def __init__(self, confidence: float = 0.95, *, points: Iterable[float] = ()) -> None:
        cells = Cells.with_edges(points)
        shares = np.concatenate([_EFFECT_SHARES, _EFFECT_SHARES]) / 2
        super().__init__(confidence, cells, np.broadcast_to(np.log(shares), (len(cells.low), len(shares))))
        signs = np.repeat([1, -1], len(_EFFECTS))
        # Bets on more are made against the upper edge m of a cell, on less against the lower: sign times m.
        self._against = np.where(signs > 0, cells.high[:, None], -cells.low[:, None])  # shape (rows, bets)
        # Of each bet against each cell, as one row of numbers: numpy is quick at long ones.
        self._signs = np.tile(signs, len(cells.low))
        self._effects = np.tile(_EFFECTS, 2 * len(cells.low))
        self._sum = 0.0  # of past outcomes
        self._sum_of_squares = 0.0  # of their distances from the mean before them

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
            raise InputError("splits must be strictly between 0 and 1: each arm needs a chance")
        sizes = len(assigned_b), len(y), len(p)
        if len(set(sizes)) > 1:
            raise InputError("is_b, outcomes and splits must be as many, got {}, {}, {}".format(*sizes))
        if not len(y):
            return self.interval

        # Everything a bet depends on uses past outcomes only: sums before each outcome, prior counts added.
        n = self.n + 4 + np.arange(len(y))
        sums = np.cumsum(np.concatenate([[self._sum], y]))
        centre = (sums[:-1] + 2) / n
        squares = np.cumsum(np.concatenate([[self._sum_of_squares], (y - centre) ** 2]))
        variance = np.maximum((squares[:-1] + 1) / n, _LEAST_VARIANCE)
        x = np.where(assigned_b, (y - centre) / p, -(y - centre) / (1 - p))
        # The worst x possible, with its sign turned, for bets on more and for bets on less.
        on_more = np.maximum(centre / p, (1 - centre) / (1 - p))
        on_less = np.maximum((1 - centre) / p, centre / (1 - p))
        scale = p * (1 - p) / variance
        start = 0
        while start < len(y):
            step = slice(start, start + self._steps_at_once())
            start = step.stop
            against = self._against.ravel()
            signs, effects = self._signs[: against.size], self._effects[: against.size]
            bets = scale[step, None] * effects
            most_against = self._against.max(axis=0)
            least_limit = _LARGEST_BET / np.maximum(
                most_against[0] + on_more[step], most_against[-1] + on_less[step]
            )
            if (scale[step] * _EFFECTS[-1] > least_limit).any():  # else no cell limits a bet
                worst = np.where(signs > 0, on_more[step, None], on_less[step, None])
                bets = np.minimum(bets, _LARGEST_BET / (against + worst))
            log_factors = x[step, None] * signs - against
            log_factors *= bets
            np.log1p(log_factors, out=log_factors)
            self._bet(log_factors.reshape(-1, *self._against.shape))
        self._sum, self._sum_of_squares = float(sums[-1]), float(squares[-1])
        return self.interval

    def fresh(self) -> TwoArmSequence:
        """Return a sequence of the same kind to which nothing was added yet."""
        return TwoArmSequence(self.confidence, points=self._cells.high)

    @property
    def past(self) -> tuple[float, float]:
        """The sum of all outcomes, and of the squares of their distances from the mean of those before."""
        return self._sum, self._sum_of_squares

    def log_factors(
        self, kinds: tuple[NDArray[Any], NDArray[Any]], split: float, past: NDArray[Any], cells: Sequence[int]
    ) -> NDArray[Any]:
        """Return what an outcome would add to the log-wealth against some candidates, after several pasts.

        Args:
            kinds: Of each kind of outcome, whether it is one of B, and its value; shapes (kinds,).
            split: The probability of B.
            past: Of each past the number of outcomes, and what ``past`` says; shape (3, pasts).
            cells: Places of the candidates in ``ends``, all of which must be tracked.

        Returns:
            Shape (pasts, kinds, cells, bets).
        """
        is_b, y = kinds
        number, total, squares = past[:, :, None]
        centre = (total + 2) / (number + 4)
        variance = np.maximum((squares + 1) / (number + 4), _LEAST_VARIANCE)
        x = np.where(is_b, (y - centre) / split, -(y - centre) / (1 - split))  # shape (pasts, kinds)
        against = self._against[list(cells)]
        signs = np.repeat([1, -1], len(_EFFECTS))
        on_more = np.maximum(centre / split, (1 - centre) / (1 - split))
        on_less = np.maximum((1 - centre) / split, centre / (1 - split))
        worst = np.where(signs > 0, on_more, on_less)
        wanted = split * (1 - split) / variance * np.tile(_EFFECTS, 2)
        bets = np.minimum(wanted[:, None], _LARGEST_BET / (against + worst[:, None]))
        return np.asarray(np.log1p(bets[:, None] * (x[:, :, None, None] * signs - against)))

    def _keep(self, kept: NDArray[Any]) -> None:
        super()._keep(kept)
        self._against = self._against[kept]

    def to_state(self) -> dict[str, Any]:  # noqa: D102
        return {**super().to_state(), "sum": self._sum, "sum_of_squares": self._sum_of_squares}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        """Return a sequence that goes on exactly where the one of this state was."""
        sequence = cls(state["confidence"], points=state["points"])
        sequence._restore(state)
        sequence._sum, sequence._sum_of_squares = state["sum"], state["sum_of_squares"]
        return sequence
