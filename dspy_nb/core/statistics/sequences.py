"""Anytime-valid comparison: intervals and p-values that stay valid however often you look at them.

A sequence bets against every candidate for the true difference at once. Whoever bets against the truth plays
a game that is at best fair, and ever gets 1/α times the first stake with a probability of at most α (Ville's
inequality). So a candidate against which the wealth reaches 1/α is rejected for good, and the interval is
what is left. Candidates are the cells of a grid: bets that the difference is more are made against the upper
edge of a cell and bets that it is less against the lower one, which makes them fair or worse for every
difference in the cell.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np

from dspy_nb.core.arguments import number_between, numbers_between, probability, whole_number

if TYPE_CHECKING:
    from numpy.typing import NDArray

_CELLS_PER_UNIT = 100
_LARGEST_LOG_WEALTH = 700.0  # of one bet; more is counted as this, so that no float overflows
_NUMBERS_AT_ONCE = 2**14  # log-wealths held at a time, so that they stay in the processor's cache


def paired_evalue(b_wins: int, a_wins: int, a: float = 3.0) -> float:
    """Return the evidence that A and B differ on paired yes/no answers, as an e-value.

    Reject equality as soon as it reaches 1/α, at whatever time: P(it ever does, when A and B are equal) ≤ α.
    It is the likelihood of the wins under a Beta(a, a) prior of B's share, over that under a share of 1/2.

    Args:
        b_wins: Number of examples that only B got right.
        a_wins: Number of examples that only A got right.
        a: Concentration of the prior. The best is about 0.063 times the number of disagreements expected at
            the decision, less 0.5; any positive value is valid.

    Raises:
        InputError: A count is negative or not whole, or ``a`` is not positive.

    Source: Robbins (1970), "Statistical methods related to the law of the iterated logarithm"; Howard et
    al. (2021), "Time-uniform, nonparametric, nonasymptotic confidence sequences", beta-binomial mixture.
    """
    b_wins, a_wins = whole_number("b_wins", b_wins), whole_number("a_wins", a_wins)
    log_evidence = float(_log_evalue(b_wins, a_wins, number_between("a", a, 0, math.inf, ends=False)))
    return math.exp(log_evidence) if log_evidence < 709 else math.inf


def _log_evalue(b_wins: Any, a_wins: Any, a: float) -> Any:
    from scipy.special import betaln

    return betaln(a + b_wins, a + a_wins) - betaln(a, a) + (b_wins + a_wins) * math.log(2)


class Cells(NamedTuple):
    """The candidates: cells between neighbouring edges from -1 to 1, and in the middle 0 alone; in order."""

    low: NDArray[Any]
    high: NDArray[Any]

    @classmethod
    def with_edges(cls, points: Iterable[float]) -> Self:
        """Return cells of .01 each, split at these points.

        Raises:
            InputError: A point is not in [-1, 1].
        """
        edges = {step / _CELLS_PER_UNIT for step in range(-_CELLS_PER_UNIT, _CELLS_PER_UNIT + 1)}
        edges |= {number_between("points", point, -1, 1) for point in points}
        ordered = sorted([*edges, 0.0])  # 0 twice, for the cell from 0 to 0
        return cls(np.array(ordered[:-1]), np.array(ordered[1:]))


class BettingSequence:
    """Wealth of bets against cells of differences, several bets (nodes) against each.

    Cells that are rejected are dropped, so an update costs less as the interval closes in. The bets against a
    difference of 0 are kept to the end: they give the p-value.
    """

    def __init__(self, confidence: float, cells: Cells, log_weights: NDArray[Any]) -> None:
        self.confidence = probability("confidence", confidence)
        self.n = 0
        self._needed = 1 / (1 - self.confidence)  # wealth that rejects
        self._cells = cells
        self._left = np.ones(len(cells.low), dtype=bool)  # cells that are not rejected
        self._rows = np.arange(len(cells.low))  # cells whose wealth is tracked
        self._log_wealth = log_weights  # shape (rows, nodes)
        self._zero = int(np.flatnonzero(cells.low == cells.high)[0])
        self._evalue = 1.0  # largest wealth so far against a difference of 0
        self._interval = (-1.0, 1.0)

    @property
    def p_value(self) -> float:
        """The anytime-valid p-value of no difference: 1 over the largest e-value so far, at most 1."""
        return 1 / self._evalue

    @property
    def interval(self) -> tuple[float, float]:
        """The confidence interval of the difference B − A: every value outside it has been rejected.

        ``(nan, nan)`` when everything has been rejected, which has a probability of at most α unless an
        assumption is broken (a difference that drifts, a wrong order, a wrong split).
        """
        return self._interval

    @property
    def ends(self) -> Cells:
        """The candidates for the difference: every end that the interval may have."""
        return self._cells

    @property
    def zero(self) -> int:
        """Which of the candidates is a difference of 0 and no other."""
        return self._zero

    def standing(self, cells: Sequence[int]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return the log-wealth of the bets against some candidates, and whether each is rejected.

        Args:
            cells: Their places in ``ends``.

        Returns:
            Shapes (cells, nodes) and (cells,). Against one that is rejected nothing is bet any more: minus
            infinity.
        """
        wealth = np.full((len(cells), self._log_wealth.shape[1]), -np.inf)
        tracked = np.isin(cells, self._rows)
        wealth[tracked] = self._log_wealth[np.searchsorted(self._rows, np.array(cells)[tracked])]
        return wealth, ~self._left[list(cells)]

    def _steps_at_once(self) -> int:
        return max(1, _NUMBERS_AT_ONCE // self._log_wealth.size)

    def _bet(self, log_factors: NDArray[Any], log_evalues: NDArray[Any] | None = None) -> None:
        """Multiply the wealth by each step's factors in turn, and reject.

        Args:
            log_factors: Shape (steps, rows, nodes); overwritten.
            log_evalues: Log-wealth against a difference of 0 after each step, where it is known exactly,
                shape (steps,).
        """
        log_factors[0] += self._log_wealth
        paths = np.cumsum(log_factors, axis=0) if len(log_factors) > 1 else log_factors
        self._log_wealth = paths[-1]
        self.n += len(paths)

        zero = int(np.searchsorted(self._rows, self._zero))
        if log_evalues is None and not self._may_reject(paths, zero):
            return
        wealth = np.exp(np.minimum(paths, _LARGEST_LOG_WEALTH)).sum(axis=2)
        if log_evalues is not None:
            wealth[:, zero] = np.exp(np.minimum(log_evalues, _LARGEST_LOG_WEALTH))
        if self._left[self._zero]:
            # No cell next to 0 is rejected before 0: an interval that excludes 0 has a p-value of at most α.
            largest = np.maximum.accumulate(wealth[:, [zero]])
            wealth[:, [zero - 1, zero + 1]] = np.minimum(wealth[:, [zero - 1, zero + 1]], largest)
        peaks = wealth.max(axis=0)
        self._evalue = max(self._evalue, float(peaks[zero]))
        rejected = self._rows[peaks >= self._needed]
        if self._left[rejected].any():
            self._left[rejected] = False
            self._narrow()

    def _may_reject(self, paths: NDArray[Any], zero: int) -> bool:
        """Return whether a cell may be rejected; if not, bring the e-value against 0 up to date.

        It rarely may, and to see that takes no exponentials: the wealth of a cell is at most that of its best
        bet times the number of bets.
        """
        bets = paths.shape[2]
        highest = paths.max(axis=0).max(axis=1) + (math.log(bets) + 1e-9)
        if highest[zero] >= math.log(self._evalue) and self._evalue < math.exp(_LARGEST_LOG_WEALTH):
            wealth = np.exp(np.minimum(paths[:, zero], _LARGEST_LOG_WEALTH)).sum(axis=1)
            self._evalue = max(self._evalue, float(wealth.max()))
        if not self._left[self._zero]:
            highest[zero] = -math.inf
        return bool(highest.max() >= math.log(self._needed))

    def _narrow(self) -> None:
        """Go on with the cells that are not rejected, and with 0."""
        self._keep(self._left[self._rows] | (self._rows == self._zero))
        left = np.flatnonzero(self._left)
        if not left.size:
            self._interval = (math.nan, math.nan)
            return
        # An edge shared with a rejected cell is rejected itself, so the interval starts just inside of it.
        low, high = self._cells.low[left[0]], self._cells.high[left[-1]]
        self._interval = (
            math.nextafter(low, 1) if left[0] > 0 else -1.0,
            math.nextafter(high, -1) if left[-1] < len(self._left) - 1 else 1.0,
        )

    def _keep(self, kept: NDArray[Any]) -> None:
        """Go on with these of the tracked rows only."""
        self._rows, self._log_wealth = self._rows[kept], self._log_wealth[kept]

    def to_state(self) -> dict[str, Any]:
        """Return what ``from_state`` continues from, as plain JSON values."""
        return {
            "confidence": self.confidence,
            "points": self._cells.high.tolist(),
            "n": self.n,
            "evalue": self._evalue,
            "left": np.flatnonzero(self._left).tolist(),
            "log_wealth": self._log_wealth.tolist(),
        }

    def _restore(self, state: dict[str, Any]) -> None:
        self.n, self._evalue = state["n"], state["evalue"]
        self._left = np.isin(np.arange(len(self._left)), state["left"])
        if not self._left.all():
            self._narrow()
        self._log_wealth = np.array(state["log_wealth"])


@lru_cache(maxsize=16)
def _paired_bets(
    lows: tuple[float, ...], highs: tuple[float, ...], a: float, nodes: int = 64
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the bets of ``PairedSequence``: log-weights (cells, nodes) and factors (2, cells, nodes).

    The factors are those of the wealth when A wins outright (D = -1) and when B does (D = 1); in between, the
    factor is linear in D. Nodes and weights are Gauss and Jacobi's for Beta(2aμ, 2a(1 − μ)) with the μ of the
    edge nearer to 0: for a single difference, 64 nodes integrate the first 127 examples exactly and thousands
    closely. Whatever the nodes, the sequence is valid: a mixture of fair bets is a fair bet.
    """
    from scipy.special import roots_jacobi

    log_weights = np.empty((len(lows), nodes))
    factors = np.empty((2, *log_weights.shape))
    for row, edges in enumerate(zip(lows, highs, strict=True)):
        low, high = ((1 + edge) / 2 for edge in edges)  # μ: the share of wins for B that m stands for
        mu = high if high <= 0.5 else low
        x, weights = roots_jacobi(nodes, 2 * a * (1 - mu) - 1, 2 * a * mu - 1)
        log_weights[row] = np.log(weights / weights.sum())
        u = np.clip((1 + x) / 2, 1e-15, 1 - 1e-15)  # a node that rounds to an end would bet everything it has
        against = np.clip(u, low, high)  # a node within the cell bets nothing
        factors[:, row] = (1 - u) / (1 - against), u / against
    log_weights.setflags(write=False)  # both are shared by all sequences of this kind
    factors.setflags(write=False)
    return log_weights, factors


class PairedSequence(BettingSequence):
    """A confidence sequence of the mean difference B − A of scores on the same examples, exact at any n.

    Valid at every n at once, for scores in [0, 1] of examples in random order. For yes/no scores the p-value
    is 1 over the running maximum of ``paired_evalue``.

    With μ = (1 + m)/2 and x = (1 + D)/2, the wealth of the bets against a mean difference m is the mean over
    u ~ Beta(2aμ, 2a(1 − μ)) of ∏ (x u/μ + (1 − x)(1 − u)/(1 − μ)).

    Args:
        confidence: 1 − α, in (0, 1).
        binary: Whether scores are yes/no, so that differences are -1, 0 or 1; then a is 3, else 1.
        points: Further ends that the interval may have, such as ± the margin, beside multiples of .01.

    Attributes:
        n: Number of differences so far.
        b_wins: Number of them that are positive.
        a_wins: Number of them that are negative.

    Source: Waudby-Smith and Ramdas (2024), "Estimating means of bounded random variables by betting", JRSS B
    86, 1-27, with a Beta mixture of bets; Robbins (1970) for the mixture.
    """

    def __init__(
        self, confidence: float = 0.95, binary: bool = True, *, points: Iterable[float] = ()
    ) -> None:
        self.binary = binary
        self.b_wins = self.a_wins = 0
        self._a = 3.0 if binary else 1.0
        cells = Cells.with_edges(points)
        log_weights, factors = _paired_bets(tuple(cells.low), tuple(cells.high), self._a)
        super().__init__(confidence, cells, log_weights)
        # For yes/no scores the log-factors of D = -1, 0, 1; for graded ones the factors of D = -1 and 1.
        self._factors = np.log([factors[0], factors.mean(axis=0), factors[1]]) if binary else factors

    def update(self, difference: float) -> tuple[float, float]:
        """Add the score of B less that of A on one example, and return the interval.

        Raises:
            InputError: It is not in [-1, 1], or not -1, 0 or 1 for yes/no scores; nothing was added.
        """
        return self.update_many((difference,))

    def update_many(self, differences: Iterable[float]) -> tuple[float, float]:
        """Add the differences of several examples, in order, and return the interval after the last.

        The result is that of one ``update`` after the other, rejections in between included.

        Raises:
            InputError: One is not in [-1, 1], or not -1, 0 or 1 for yes/no scores; nothing was added.
        """
        values = numbers_between("differences", differences, -1, 1, whole=self.binary)
        start = 0
        while start < len(values):
            batch = values[start : start + self._steps_at_once()]
            start += len(batch)
            b_wins = self.b_wins + np.cumsum(batch > 0)
            a_wins = self.a_wins + np.cumsum(batch < 0)
            if self.binary:
                self._bet(self._factors[batch.astype(int) + 1], _log_evalue(b_wins, a_wins, self._a))
            else:
                x = (1 + batch[:, None, None]) / 2
                self._bet(np.log((1 - x) * self._factors[0] + x * self._factors[1]))
            self.b_wins, self.a_wins = int(b_wins[-1]), int(a_wins[-1])
        return self.interval

    def fresh(self) -> PairedSequence:
        """Return a sequence of the same kind to which nothing was added yet."""
        return PairedSequence(self.confidence, self.binary, points=self._cells.high)

    def log_factors(self, differences: NDArray[Any], cells: Sequence[int]) -> NDArray[Any]:
        """Return what each difference adds to the log-wealth against some candidates, while all are tracked.

        Args:
            differences: Shape (differences,).
            cells: Places of the candidates in ``ends``.

        Returns:
            Shape (differences, cells, nodes).
        """
        factors = self._factors[:, list(cells)]
        if self.binary:
            return np.asarray(factors[differences.astype(int) + 1])
        x = (1 + differences[:, None, None]) / 2
        return np.asarray(np.log((1 - x) * factors[0] + x * factors[1]))

    def _keep(self, kept: NDArray[Any]) -> None:
        super()._keep(kept)
        self._factors = self._factors[:, kept]

    def to_state(self) -> dict[str, Any]:  # noqa: D102
        return {**super().to_state(), "binary": self.binary, "b_wins": self.b_wins, "a_wins": self.a_wins}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        """Return a sequence that goes on exactly where the one of this state was."""
        sequence = cls(state["confidence"], state["binary"], points=state["points"])
        sequence._restore(state)
        sequence.b_wins, sequence.a_wins = state["b_wins"], state["a_wins"]
        return sequence
