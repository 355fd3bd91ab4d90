"""How many more answers it takes until the sequence that decides gives its verdict: it is played on, many times.

Each of the futures begins where the sequence stands and goes on with answers like those seen; the figure is the
median of when they are decided. What is not known is how large the difference is, so each future has one of the
differences that go with the data: those near the one seen are likely, and, of two that are as near, the one that
would seldom have been left without a verdict for so long. Without the second part the figure would be too large,
by half at times: who has no verdict yet mostly sees less of a difference than there is.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from dspy_nb.core.statistics.sample_sizes import MOST, least_more

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dspy_nb.core.statistics.sequences import BettingSequence, Cells, PairedSequence
    from dspy_nb.core.statistics.two_arm import TwoArmSequence

_FUTURES: Final = 100
_EFFECTS: Final = 41  # differences that are tried
_REACH: Final = 5.5  # standard errors on either side of the one seen
_REPEATS: Final = 25  # of the past with each of them, to see how often it has no verdict
_LOOKS: Final = 3, 4, 6, 8  # eighths of the past at which it is seen
_GROWTH: Final = 0.05  # a step's share of the steps before it
_GROUPS: Final = 32  # graded differences are rounded to so many values
_SEED: Final = 0


def more_examples(sequence: PairedSequence, differences: Sequence[float], margin: float) -> int | None:
    """Return about how many more examples the sequence takes to a verdict: it takes more as often as fewer.

    Nothing is assumed beyond the differences seen. If all were alike, as those of identical programs are, so
    are all to come; with very few the figure is as good as they are.

    Args:
        sequence: Where it stands, without a verdict.
        differences: All that were added to it.
        margin: Largest difference that makes no practical difference; an end of the sequence, if not 0.

    Returns:
        At least 1; ``None`` if nothing was added, the mean is 0 and no margin is there for it to lie within,
        or no verdict is in sight within ``MOST``.
    """
    values = np.asarray(differences, float)
    if not values.size or math.isnan(sequence.interval[0]) or _hopeless(float(values.mean()), margin):
        return None
    futures = _PairedFutures(sequence, values, margin)
    return _median(futures) if np.ptp(values) else _only(futures)


def more_units(
    sequence: TwoArmSequence,
    units: tuple[int, int],
    totals: tuple[float, float],
    split: float,
    margin: float,
    *,
    effect: float | None = None,
    graded: bool = False,
) -> int | None:
    """Return about how many more units of both arms the sequence takes to a verdict, as ``more_examples`` does.

    Args:
        sequence: Where it stands, without a verdict.
        units: Units counted in A and in B.
        totals: Sum of the outcomes in A and in B.
        split: The probability of B for the units to come.
        margin: Largest difference that makes no practical difference; an end of the sequence, if not 0.
        effect: The difference seen, where it is not that of the mean outcomes: the split changed.
        graded: Whether outcomes lie between 0 and 1. Then those to come have the mean and the variance of
            those seen.

    Returns:
        At least 1; ``None`` as for ``more_examples``, and while an arm is empty.
    """
    if not all(units) or math.isnan(sequence.interval[0]):
        return None
    if effect is None:
        effect = totals[1] / units[1] - totals[0] / units[0]
    if math.isnan(effect) or _hopeless(effect, margin):
        return None
    return _median(_TwoArmFutures(sequence, units, totals, effect, split, margin, graded))


def _hopeless(effect: float, margin: float) -> bool:
    return abs(effect) < 1e-9 and not margin


def _median(futures: _Futures) -> int | None:
    """Return after how many more answers half of the futures are decided."""
    rng = np.random.default_rng(_SEED)
    futures.begin(_likely(futures, rng))
    gone = done = 0
    while gone < MOST:
        step = max(1, futures.n // 64, int(_GROWTH * gone))
        decided = int(futures.go(step, rng).sum())
        if 2 * (done + decided) >= _FUTURES:
            share = (_FUTURES / 2 - done) / decided  # of the step, if they were decided evenly within it
            return max(1, gone + math.ceil(share * step))
        gone, done = gone + step, done + decided
    return None


def _only(futures: _PairedFutures) -> int | None:
    """Return after how many more answers the one future is decided that there is where all answers are alike."""

    def decided(steps: int) -> bool:
        futures.begin(np.ones((1, 1)))
        return bool(futures.go(steps, rng)[0])

    rng = np.random.default_rng(_SEED)
    return least_more(0, decided)


def _likely(futures: _Futures, rng: np.random.Generator) -> NDArray[Any]:
    """Return the chances of each kind of answer in each future, shape (futures, kinds)."""
    lowest, highest = futures.bounds
    effects = futures.effect + futures.error * np.linspace(-_REACH, _REACH, _EFFECTS)
    inset = 1e-6 * (highest - lowest)
    effects = np.unique(np.clip(effects, lowest + inset, highest - inset))
    chances = futures.chances(effects)
    if len(effects) == 1:
        return np.repeat(chances, _FUTURES, axis=0)
    weights = np.exp(-(((effects - futures.effect) / futures.error) ** 2) / 2)
    futures.begin(np.repeat(chances, _REPEATS, axis=0), anew=True)
    left = np.repeat(np.arange(len(effects)), _REPEATS)
    for step in np.diff([0, *(futures.n * part // 8 for part in _LOOKS)]):
        left = left[~futures.go(int(step), rng)]
    undecided = np.bincount(left, minlength=len(effects)) / _REPEATS
    shares = np.cumsum(weights / np.maximum(undecided, 0.5 / _REPEATS))
    places = np.searchsorted(shares / shares[-1], (np.arange(_FUTURES) + 0.5) / _FUTURES)
    return chances[np.minimum(places, len(effects) - 1)]


class _Futures(ABC):
    """Many futures of a sequence, all moved at once; the bets are followed that decide, against a few candidates.

    Attributes:
        n: Answers counted so far.
        effect: The difference seen.
        error: Its standard error.
        bounds: The smallest and the largest difference that answers of these kinds can have.
    """

    n: int
    effect: float
    error: float
    bounds: tuple[float, float]

    def __init__(self, sequence: PairedSequence | TwoArmSequence, margin: float) -> None:
        self._sequence: BettingSequence = sequence
        self._fresh = sequence.fresh()
        self._cells, self._verdicts = _deciding(sequence.ends, sequence.zero, margin)
        self._least = 1 / (1 - sequence.confidence)  # wealth that rejects

    @abstractmethod
    def chances(self, effects: NDArray[Any]) -> NDArray[Any]:
        """Return the chances of each kind of answer, given the difference; shape (effects, kinds)."""

    @abstractmethod
    def _gains(self, counts: NDArray[Any]) -> NDArray[Any]:
        """Return what is added to the log-wealth by these numbers of answers of each kind, (futures, kinds)."""

    def begin(self, chances: NDArray[Any], *, anew: bool = False) -> None:
        """Let futures with these chances begin where the sequence stands, or anew."""
        wealth, rejected = (self._fresh if anew else self._sequence).standing(self._cells)
        self._chances = chances
        self._wealth = np.repeat(wealth[None], len(chances), axis=0)
        self._rejected = np.repeat(rejected[None], len(chances), axis=0)

    def go(self, steps: int, rng: np.random.Generator) -> NDArray[Any]:
        """Add so many answers to each, return which are decided, and go on with the others."""
        self._wealth += self._gains(rng.multinomial(steps, self._chances))
        self._rejected |= np.exp(np.minimum(self._wealth, 700.0)).sum(axis=-1) >= self._least
        decided = np.any([self._rejected[:, cells].all(axis=1) for cells in self._verdicts], axis=0)
        self._keep(~decided)
        return decided

    def _keep(self, kept: NDArray[Any]) -> None:
        self._chances = self._chances[kept]
        self._wealth, self._rejected = self._wealth[kept], self._rejected[kept]


def _deciding(cells: Cells, zero: int, margin: float) -> tuple[list[int], list[list[int]]]:
    """Return the candidates that are rejected last before a verdict, and which of them go with which verdict.

    B is better when 0 and what is below are rejected, A when 0 and what is above are; there is no practical
    difference when all beyond the margin is.
    """
    followed = [zero - 1, zero, zero + 1]
    verdicts = [[0, 1], [1, 2]]
    if margin:
        beyond = [*np.flatnonzero(cells.high <= -margin)[-1:], *np.flatnonzero(cells.low >= margin)[:1]]
        followed += map(int, beyond)
        verdicts.append(list(range(3, len(followed))))
    return followed, verdicts


class _PairedFutures(_Futures):
    """Kinds are the differences seen; with another mean, those on its side are more frequent."""

    def __init__(self, sequence: PairedSequence, differences: NDArray[Any], margin: float) -> None:
        super().__init__(sequence, margin)
        self.n = len(differences)
        values, counts = np.unique(differences, return_counts=True)
        if len(values) > _GROUPS:
            groups = np.array_split(np.sort(differences), _GROUPS)
            values, counts = (np.array([f(group) for group in groups]) for f in (np.mean, np.size))
        self._values, self._shares = values, counts / self.n
        self.effect = float(differences.mean())
        self.error = float(differences.std()) / math.sqrt(self.n) if len(values) > 1 else 0.0
        self.bounds = float(values[0]), float(values[-1])
        self._factors = sequence.fresh().log_factors(values, self._cells)

    def chances(self, effects: NDArray[Any]) -> NDArray[Any]:
        if len(self._values) == 1:
            return np.ones((len(effects), 1))
        low, high = np.full((2, len(effects)), [[-500.0], [500.0]]) / (self.bounds[1] - self.bounds[0])
        for _ in range(50):  # each share times exp(tilt · value); the tilt that gives this mean is in between
            tilt = (low + high) / 2
            log_chances = np.log(self._shares) + tilt[:, None] * self._values
            chances = np.exp(log_chances - log_chances.max(axis=1, keepdims=True))
            chances /= chances.sum(axis=1, keepdims=True)
            too_low = chances @ self._values < effects
            low, high = np.where(too_low, tilt, low), np.where(too_low, high, tilt)
        return np.asarray(chances)

    def _gains(self, counts: NDArray[Any]) -> NDArray[Any]:
        return np.asarray(np.tensordot(counts, self._factors, 1))


class _TwoArmFutures(_Futures):
    """Kinds are outcomes 0 and 1 of each arm, and the arm's mean if outcomes are graded.

    With another difference, the arm whose rate is known less well changes more.
    """

    def __init__(
        self,
        sequence: TwoArmSequence,
        units: tuple[int, int],
        totals: tuple[float, float],
        effect: float,
        split: float,
        margin: float,
        graded: bool,
    ) -> None:
        super().__init__(sequence, margin)
        self._two_arms, self._follower = sequence, sequence.fresh()
        self.n, self._split, self.effect = sequence.n, split, effect
        number, total = np.array(units), np.array(totals)
        around = total.sum() + effect * np.array([-number[1], number[0]])
        self._rates = np.clip(around / number.sum(), 0, 1)  # means as far apart as the effect
        assumed = (total + 1) / (number + 2)  # a rate of 0 or 1 so far is no certainty
        self._variances = assumed * (1 - assumed) / number
        self.bounds = -1.0, 1.0
        self._yes_or_no = 1.0
        if graded:
            between = float(number.prod() / number.sum() ** 2) * self.effect**2
            within = max(0.0, sequence.past[1] / sequence.n - between)
            largest = float((number * self._rates * (1 - self._rates)).sum() / number.sum())
            self._yes_or_no = min(1.0, within / largest) if largest else 1.0
            self._variances = self._variances * self._yes_or_no
        self.error = math.sqrt(self._variances.sum())
        is_b = np.repeat([False, True], 3)
        self._kinds = is_b, np.array([0, 1, self._rates[0], 0, 1, self._rates[1]])

    def chances(self, effects: NDArray[Any]) -> NDArray[Any]:
        turn = np.array([-1, 1]) * self._variances / max(float(self._variances.sum()), 1e-300)
        change = (effects - self.effect)[:, None] * turn
        share = self._yes_or_no
        rates = np.clip(self._rates + change / max(share, 1e-9), 0, 1)  # of those outcomes that are 0 or 1
        of_arm = np.stack([(1 - rates) * share, rates * share, np.full_like(rates, 1 - share)], axis=2)
        of_arm *= np.array([1 - self._split, self._split])[:, None]
        return of_arm.reshape(len(effects), 6)

    def begin(self, chances: NDArray[Any], *, anew: bool = False) -> None:
        super().begin(chances, anew=anew)
        # What is bet depends on past outcomes. Futures that begin anew bet as if they knew those counted.
        past = np.array([float(self.n), *self._two_arms.past])
        self._past = np.repeat(past[:, None], len(chances), axis=1)

    def _keep(self, kept: NDArray[Any]) -> None:
        super()._keep(kept)
        self._past = self._past[:, kept]

    def _gains(self, counts: NDArray[Any]) -> NDArray[Any]:
        factors = self._follower.log_factors(self._kinds, self._split, self._past, self._cells)
        number, total, _ = self._past
        centre = ((total + 2) / (number + 4))[:, None]
        y = self._kinds[1]
        self._past += np.stack([counts.sum(axis=1), counts @ y, (counts * (y - centre) ** 2).sum(axis=1)])
        return np.asarray(np.einsum("fk,fkcb->fcb", counts, factors))
