"""Intervals and tests for means: graded scores, clusters of repeated answers, ratios of latencies."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from dspy_nb.core.arguments import numbers_between, whole_number
from dspy_nb.core.proportions import NORMAL, critical_value, score_interval

if TYPE_CHECKING:
    from numpy.typing import NDArray

_FEWEST_TO_RESAMPLE = 10  # below, BCa covers as little as 43 % at a nominal 95 % (skewed scores, n = 5)
_CELLS_AT_ONCE = 2_000_000  # resampled values held in memory at a time: 16 MB


def bca_interval(
    values: Iterable[float],
    confidence: float = 0.95,
    *,
    bounds: tuple[float, float] = (0.0, 1.0),
    seed: int = 0,
    resamples: int = 5_000,
) -> tuple[float, float]:
    """Return the BCa bootstrap interval of a mean of graded scores.

    The bias correction counts half of the resampled means that tie with the mean; the acceleration is the
    jackknife's, which for a mean has a closed form. Where a bootstrap knows too little (fewer than 10 values,
    or all of them equal), the interval is Wilson's at the same mean and n: of all scores within the bounds
    with a given mean, yes/no scores vary most, so that interval is wide enough and never of zero width.
    Of 800 simulated samples of 10 to 20 scores, 88-95 % were covered at a nominal 95 %; of 30 and more,
    93-96 %; fewer (65-85 % at 10 to 20) when one score in ten is much lower than the others.

    Args:
        values: Scores within ``bounds``; an empty list gives ``bounds``.
        confidence: Coverage aimed at, in (0, 1).
        bounds: The lowest and the highest score possible; (-1, 1) for differences of scores.
        seed: Of the resampling: the same values and seed give the same interval.
        resamples: Number of resampled means, at least 100.

    Raises:
        InputError: A value is NaN or out of bounds, or ``confidence`` or ``resamples`` is.

    Source: Efron (1987), "Better bootstrap confidence intervals", JASA 82, 171-185; DiCiccio and Efron
    (1996), "Bootstrap confidence intervals", Statistical Science 11, 189-228.
    """
    import numpy as np

    z = critical_value(confidence)
    resamples = whole_number("resamples", resamples, minimum=100)
    scores = numbers_between("values", values, *bounds)
    if not scores.size:
        return bounds
    mean = float(scores.mean())
    centred = scores - mean
    spread = float(np.sum(centred**2))
    if scores.size < _FEWEST_TO_RESAMPLE or np.ptp(scores) <= 1e-12 * (bounds[1] - bounds[0]):
        return _bounded_interval(mean, scores.size, z, bounds)

    means = _resampled_means(centred, seed, resamples)
    below = (np.count_nonzero(means < 0) + np.count_nonzero(means <= 0)) / (2 * resamples)
    bias = NORMAL.inv_cdf(min(max(below, 0.5 / resamples), 1 - 0.5 / resamples))
    acceleration = float(np.sum(centred**3)) / (6 * spread**1.5)
    shares = [NORMAL.cdf(bias + (bias + side) / (1 - acceleration * (bias + side))) for side in (-z, z)]
    low, high = np.quantile(means, shares)
    return max(bounds[0], mean + float(low)), min(bounds[1], mean + float(high))


def _resampled_means(values: NDArray[Any], seed: int, resamples: int) -> NDArray[Any]:
    """Return means of samples of the same size drawn with replacement, shape (resamples,)."""
    import numpy as np

    rng = np.random.default_rng(seed)
    rows = max(1, _CELLS_AT_ONCE // values.size)
    means = []
    for start in range(0, resamples, rows):
        shape = (min(rows, resamples - start), values.size)
        means.append(values[rng.integers(values.size, size=shape, dtype=np.int32)].mean(axis=1))
    return np.concatenate(means)


def _bounded_interval(mean: float, n: int, z: float, bounds: tuple[float, float]) -> tuple[float, float]:
    """Return Wilson's interval of a mean within bounds, from its n alone."""
    lowest, width = bounds[0], bounds[1] - bounds[0]
    low, high = score_interval((mean - lowest) / width, n, z)
    return lowest + width * low, lowest + width * high
