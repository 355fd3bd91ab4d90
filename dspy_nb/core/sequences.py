"""Anytime-valid comparison: intervals and p-values that stay valid however often you look at them.

Each sequence bets against every candidate value m of the true difference at once. A bet against the true
value is a fair game, so its wealth exceeds 1/α at any time with probability of at most α (Ville's
inequality); every m whose wealth has ever reached 1/α is rejected for good, and the interval is what is left.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from dspy_nb.core.arguments import number_between, numbers_between, probability, whole_number

if TYPE_CHECKING:
    from numpy.typing import NDArray

_STEPS = 100  # candidate differences per unit: a grid of .01
_CELLS_AT_ONCE = 2**14  # log-wealths held at a time, so that they stay in the processor's cache


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
    a = number_between("a", a, 0, math.inf, ends=False)
    log_evidence = _log_beta(a + b_wins, a + a_wins) - _log_beta(a, a) + (b_wins + a_wins) * math.log(2)
    return math.exp(log_evidence) if log_evidence < 709 else math.inf


def _log_beta(x: float, y: float) -> float:
    return math.lgamma(x) + math.lgamma(y) - math.lgamma(x + y)


def asymptotic_half_width(sd: float, n: int, confidence: float = 0.95, target_n: float = 250) -> float:
    """Return the half-width of the asymptotic confidence sequence of a mean, for unbounded values.

    Valid only in the limit: with rare large values it misses several times more often than it says, so
    bounded scores belong in ``PairedSequence`` and ``TwoArmSequence``.

    Args:
        sd: Standard deviation of the values so far.
        n: Number of values so far, at least 1.
        confidence: 1 − α, in (0, 1).
        target_n: The n at which the sequence is to be narrowest, positive.

    Raises:
        InputError: An argument is out of range.

    Source: Waudby-Smith et al. (2024), "Time-uniform central limit theory and asymptotic confidence
    sequences", Annals of Statistics 52; their closed form for the tuning parameter.
    """
    sd, n = number_between("sd", sd, 0, math.inf), whole_number("n", n, minimum=1)
    alpha = 1 - probability("confidence", confidence)
    target_n = number_between("target_n", target_n, 0, math.inf, ends=False)
    tuning = (-2 * math.log(alpha) + math.log(1 - 2 * math.log(alpha))) / target_n
    spread = n * tuning + 1
    return sd * math.sqrt(2 * spread / (n**2 * tuning) * math.log(math.sqrt(spread) / alpha))


class BettingSequence:
    """Log-wealth of bets against a grid of differences, several bets (nodes) against each.

    Rejected differences are dropped, so an update costs less as the interval closes in. The bet against a
    difference of 0 is kept to the end: it gives the p-value.
    """

    def __init__(self, confidence: float, grid: NDArray[Any], log_weights: NDArray[Any]) -> None:
        self.confidence = probability("confidence", confidence)
        self.n = 0
        self._threshold = -math.log(1 - self.confidence)
        self._grid = grid
        self._alive = np.ones(len(grid), dtype=bool)
        self._rows = np.arange(len(grid))  # of the grid, those whose wealth is tracked
        self._log_wealth = log_weights  # shape (rows, nodes)
        self._zero = int(np.searchsorted(grid, 0.0))
        self._interval = (-1.0, 1.0)
        self._peak = 0.0  # largest log-wealth ever against a difference of 0

    @property
    def p_value(self) -> float:
        """The anytime-valid p-value of no difference: 1 over the largest e-value so far, at most 1."""
        return math.exp(-self._peak)

    @property
    def interval(self) -> tuple[float, float]:
        """The confidence interval of the difference B − A: every value outside it has been rejected.

        ``(nan, nan)`` when everything has been rejected, which has a probability of at most α unless the
        assumptions are broken (drift, wrong order, wrong split).
        """
        return self._interval

    def _steps_at_once(self) -> int:
        return max(1, _CELLS_AT_ONCE // self._log_wealth.size)

    def _bet(self, log_factors: NDArray[Any], log_wealth_at_zero: NDArray[Any] | None = None) -> None:
        """Multiply the wealth by each step's factors in turn, and reject.

        Args:
            log_factors: Shape (steps, rows, nodes); overwritten.
            log_wealth_at_zero: Log-wealth against a difference of 0 after each step, where it is known
                exactly, shape (steps,).
        """
        log_factors[0] += self._log_wealth
        paths = np.cumsum(log_factors, axis=0) if len(log_factors) > 1 else log_factors
        self._log_wealth = paths[-1]
        self.n += len(paths)

        top = paths.max(axis=2, keepdims=True)
        totals = top[:, :, 0] + np.log(np.exp(paths - top).sum(axis=2))
        zero = int(np.searchsorted(self._rows, self._zero))
        if log_wealth_at_zero is not None:
            totals[:, zero] = log_wealth_at_zero
        peaks = totals.max(axis=0)
        self._peak = max(self._peak, float(peaks[zero]))
        rejected = self._rows[peaks >= self._threshold]
        if self._alive[rejected].any():
            self._alive[rejected] = False
            self._keep_alive()

    def _keep_alive(self) -> None:
        """Go on with the differences that are not rejected, and with 0."""
        self._keep(self._alive[self._rows] | (self._rows == self._zero))
        alive = np.flatnonzero(self._alive)
        if not alive.size:
            self._interval = (math.nan, math.nan)
            return
        # The neighbours of what is left are rejected themselves: the interval starts just inside of them, so
        # that it excludes 0 as soon as 0 is rejected.
        first, last = alive[0], alive[-1]
        self._interval = (
            math.nextafter(self._grid[first - 1], 1) if first else -1.0,
            math.nextafter(self._grid[last + 1], -1) if last + 1 < len(self._grid) else 1.0,
        )

    def _keep(self, kept: NDArray[Any]) -> None:
        """Go on with these of the tracked rows only."""
        self._rows, self._log_wealth = self._rows[kept], self._log_wealth[kept]

    def to_state(self) -> dict[str, Any]:
        """Return what ``from_state`` continues from, as plain JSON values."""
        return {
            "confidence": self.confidence,
            "grid": self._grid.tolist(),
            "n": self.n,
            "peak": self._peak,
            "alive": np.flatnonzero(self._alive).tolist(),
            "log_wealth": self._log_wealth.tolist(),
        }

    def _restore(self, state: dict[str, Any]) -> None:
        self.n, self._peak = state["n"], state["peak"]
        self._alive = np.isin(np.arange(len(self._grid)), state["alive"])
        self._keep_alive()
        self._log_wealth = np.array(state["log_wealth"])


def candidate_differences(points: Iterable[float]) -> tuple[float, ...]:
    """Return the differences that sequences bet against: -.99 to .99 in steps of .01, and these points.

    Raises:
        InputError: A point is not in (-1, 1).
    """
    extra = {number_between("points", point, -1, 1, ends=False) for point in points}
    return tuple(sorted({step / _STEPS for step in range(1 - _STEPS, _STEPS)} | extra))


@lru_cache(maxsize=16)
def _paired_bets(grid: tuple[float, ...], a: float, nodes: int = 64) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the bets of ``PairedSequence``: log-weights (rows, nodes) and factors (2, rows, nodes).

    The factors are those of the wealth when A wins outright (D = -1) and when B does (D = 1); in between, the
    factor is linear in D. Nodes and weights are Gauss and Jacobi's for Beta(2aμ, 2a(1 − μ)): 64 nodes
    integrate the first 127 differences exactly and thousands of them closely. Whatever the nodes are, the
    sequence is valid: a mixture of fair bets is a fair bet.
    """
    from scipy.special import roots_jacobi

    shares = (1 + np.array(grid)) / 2  # μ: the share of wins for B that a difference stands for
    log_weights = np.empty((len(grid), nodes))
    factors = np.empty((2, len(grid), nodes))
    for row, mu in enumerate(shares):
        x, weights = roots_jacobi(nodes, 2 * a * (1 - mu) - 1, 2 * a * mu - 1)
        log_weights[row] = np.log(weights / weights.sum())
        factors[:, row] = (1 - x) / 2 / (1 - mu), (1 + x) / 2 / mu
    factors = np.maximum(factors, 1e-300)  # a node so near an end that it rounds to it must not bet all
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
        points: Further differences to test exactly, such as ± the margin; the grid has steps of .01.

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
        grid = candidate_differences(points)
        self.binary = binary
        self.b_wins = self.a_wins = 0
        self._a = 3.0 if binary else 1.0
        log_weights, factors = _paired_bets(grid, self._a)
        super().__init__(confidence, np.array(grid), log_weights)
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
                self._bet(self._factors[batch.astype(int) + 1], self._log_evalues(b_wins, a_wins))
            else:
                x = (1 + batch[:, None, None]) / 2
                self._bet(np.log((1 - x) * self._factors[0] + x * self._factors[1]))
            self.b_wins, self.a_wins = int(b_wins[-1]), int(a_wins[-1])
        return self.interval

    def _log_evalues(self, b_wins: NDArray[Any], a_wins: NDArray[Any]) -> NDArray[Any]:
        """Return the logarithms of ``paired_evalue``."""
        from scipy.special import betaln

        a = self._a
        return betaln(a + b_wins, a + a_wins) - betaln(a, a) + (b_wins + a_wins) * math.log(2)

    def _keep(self, kept: NDArray[Any]) -> None:
        super()._keep(kept)
        self._factors = self._factors[:, kept]

    def to_state(self) -> dict[str, Any]:  # noqa: D102
        return {**super().to_state(), "binary": self.binary, "b_wins": self.b_wins, "a_wins": self.a_wins}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        """Return a sequence that goes on exactly where the one of this state was."""
        sequence = cls(state["confidence"], state["binary"], points=state["grid"])
        sequence._restore(state)
        sequence.b_wins, sequence.a_wins = state["b_wins"], state["a_wins"]
        return sequence
