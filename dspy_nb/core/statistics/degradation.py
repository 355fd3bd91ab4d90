"""Has it become worse? A test that may be looked at every day of a year, and raises one false alarm in 20 lives.

The test bets against "the mean is at least the level". Whoever bets against what is true plays a game that is at
best fair, and ever gets 1/α times the first stake with a probability of at most α (Ville's inequality), so the
chance of a false alarm is at most α for the whole life of the test, however often it is looked at.

Betting from the first outcome on would lose, in a long good time, what it takes long to win back. So the stake is
divided beforehand among all the moments at which a degradation may begin: what is meant for a later moment is held
back until then. Since the bets at all moments are the same few, one number for each bet is all that is kept.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np

from dspy_nb.core.arguments import number_between, numbers_between, probability, whole_number

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Bets: the means that they are best at, as shares of the level that is lost. Even a bet on the loss of .64 of it
# serves: for graded outcomes that vary little it is the best one against a small loss.
_LOSSES: Final = np.array([0.02, 0.04, 0.08, 0.16, 0.32, 0.64])
# Half of the stake is for a degradation from the first outcome on (a version that was bad from the start), the
# other half for later ones: 1/log(200 + n) of it is still held back after n outcomes.
_AT_ONCE: Final = 0.5
_SCALE: Final = 200
_STEPS_AT_ONCE: Final = 4096
_LARGEST_LOG: Final = 700.0


class DegradationTest:
    """An anytime-valid test of "the mean is at least ``level``", quick to find that it no longer is.

    For each bet, on a mean q below the level m, an outcome x in [0, 1] multiplies what was staked by
    x q/m + (1 − x)(1 − q)/(1 − m), whose mean is at most 1 as long as the mean of x, given all before it, is at
    least m. The e-value is the sum over bets and over the moments at which they began.

    Valid for yes/no and graded outcomes, also where the mean changes or depends on the past, as long as it never
    is below the level, and outcomes come in an order that does not depend on them: in the order of the requests,
    not in that of the answers, of which bad ones may come first.

    Args:
        level: The mean that is still good enough, in (0, 1).
        alpha: Chance of a false alarm, ever, in (0, 1).

    Attributes:
        n: Number of outcomes so far.
        total: Their sum.
        evalue: The evidence now.
        alarm_at: Number of the outcome at which the evidence first reached 1/α; None until then.

    Sources: Waudby-Smith and Ramdas (2024), "Estimating means of bounded random variables by betting", JRSS B 86,
    1-27, for the bets; Shin, Ramdas and Rinaldo (2023), "E-detectors", New England Journal of Statistics in Data
    Science 2, 229-260, for mixing over the moment of the change, here with weights that sum to 1 so that Ville's
    inequality holds for the whole life instead of a mean time between false alarms.
    """

    def __init__(self, level: float, alpha: float = 0.05) -> None:
        self.level, self.alpha = probability("level", level), probability("alpha", alpha)
        self.n, self.total = 0, 0.0
        self.evalue = self._largest = 1.0
        self.alarm_at: int | None = None
        self._log_staked = np.full(len(_LOSSES), -np.inf)
        q = self.level * (1 - _LOSSES)
        self._won, self._lost = q / self.level, (1 - q) / (1 - self.level)  # factors of the outcomes 1 and 0

    @property
    def p_value(self) -> float:
        """The anytime-valid p-value: 1 over the largest e-value so far."""
        return 1 / self._largest

    @property
    def degraded(self) -> bool:
        """Whether the alarm was raised: once it was, it stays."""
        return self.alarm_at is not None

    def update(self, outcome: float) -> float:
        """Add an outcome and return the e-value.

        Raises:
            InputError: It is not in [0, 1]; nothing was added.
        """
        return self.update_many((outcome,))

    def update_many(self, outcomes: Iterable[float]) -> float:
        """Add outcomes in the order of their requests, and return the e-value after the last.

        The result is that of one ``update`` after the other, alarms in between included.

        Raises:
            InputError: One is not in [0, 1]; nothing was added.
        """
        values = numbers_between("outcomes", outcomes, 0, 1)
        for start in range(0, len(values), _STEPS_AT_ONCE):
            self._bet(values[start : start + _STEPS_AT_ONCE])
        return self.evalue

    def _bet(self, x: NDArray[Any]) -> None:
        count = self.n + np.arange(len(x) + 1)
        held = (1 - _AT_ONCE) * math.log(_SCALE) / np.log(_SCALE + count)  # back, after so many outcomes
        begun = held[:-1] - held[1:]
        if self.n == 0:
            begun[0] += _AT_ONCE
        x = x[:, None]
        paths = np.cumsum(np.log(x * self._won + (1 - x) * self._lost), axis=0)
        before = np.concatenate([np.zeros((1, len(_LOSSES))), paths[:-1]])
        stakes = np.log(begun / len(_LOSSES))[:, None] - before
        stakes[0] = np.logaddexp(stakes[0], self._log_staked)
        staked = paths + np.logaddexp.accumulate(stakes, axis=0)
        evalues = np.exp(np.minimum(staked, _LARGEST_LOG)).sum(axis=1) + held[1:]
        reached = np.flatnonzero(evalues >= 1 / self.alpha)
        if self.alarm_at is None and reached.size:
            self.alarm_at = self.n + int(reached[0]) + 1
        self._log_staked = staked[-1]
        self.evalue, self._largest = float(evalues[-1]), max(self._largest, float(evalues.max()))
        self.n, self.total = self.n + len(x), self.total + float(x.sum())

    def to_state(self) -> dict[str, Any]:
        """Return everything as JSON data."""
        staked = None if self.n == 0 else self._log_staked.tolist()
        known = {name: getattr(self, name) for name in ("level", "alpha", "n", "total", "evalue", "alarm_at")}
        return {**known, "largest": self._largest, "log_staked": staked}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        """Return a test that goes on exactly where the one of this state was."""
        test = cls(state["level"], state["alpha"])
        test.n, test.total, test.evalue = int(state["n"]), float(state["total"]), float(state["evalue"])
        test._largest, test.alarm_at = state["largest"], state["alarm_at"]
        if state["log_staked"] is not None:
            test._log_staked = np.array(state["log_staked"])
        return test


def running_interval(total: float, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return an interval of a constant mean that holds at every n at once.

    Args:
        total: Sum of the outcomes so far, each in [0, 1].
        n: Their number.
        confidence: 1 − α, in (0, 1).

    Returns:
        All means that were not refuted at this n; ``(0, 1)`` without outcomes.

    Raises:
        InputError: ``n`` is no count, or total is not in [0, n].

    Source: Robbins (1970), "Statistical methods related to the law of the iterated logarithm", the beta-binomial
    mixture with a Beta(1/2, 1/2) prior; valid for graded outcomes too, since the geometric mean of the factors of
    a success and a failure is at most their arithmetic mean (Howard et al. 2021, "Time-uniform, nonparametric,
    nonasymptotic confidence sequences", Annals of Statistics 49, sub-Bernoulli case).
    """
    n = whole_number("n", n)
    total = number_between("total", total, 0, n)
    alpha = 1 - probability("confidence", confidence)
    if n == 0:
        return 0.0, 1.0
    rest = n - total
    evidence = math.lgamma(0.5 + total) + math.lgamma(0.5 + rest) - math.lgamma(1 + n)
    evidence += math.log(alpha) - math.log(math.pi)  # the prior's own beta function

    def refuted(mean: float) -> bool:
        likelihood = (total * math.log(mean) if total else 0) + (rest * math.log1p(-mean) if rest else 0)
        return evidence >= likelihood

    return _end(refuted, 0.0, total / n), _end(refuted, 1.0, total / n)


def _end(refuted: Any, end: float, middle: float) -> float:
    """Return the end of the interval between ``end`` and ``middle``, on its outer side."""
    outside, inside = end, middle
    while (between := (outside + inside) / 2) not in (outside, inside):
        outside, inside = (between, inside) if refuted(between) else (outside, between)
    return outside
