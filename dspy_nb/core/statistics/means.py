"""Intervals and tests for means: graded scores, clusters of repeated answers, ratios of latencies."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from dspy_nb.core.arguments import numbers_between, probability, whole_number
from dspy_nb.core.errors import InputError
from dspy_nb.core.statistics.proportions import NORMAL, critical_value, score_interval

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MOST_TO_ENUMERATE = 13  # clusters whose signs are all tried (8,192 ways), where more are sampled
_FEWEST_TO_RESAMPLE = 10  # below, BCa covers as little as 43 % at a nominal 95 % (skewed scores, n = 5)
_CELLS_AT_ONCE = 2_000_000  # resampled values held in memory at a time: 16 MB


class Ratio(NamedTuple):
    """A median ratio with its interval."""

    median: float
    low: float
    high: float


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
    corrected = [bias + side for side in (-z, z)]
    # At a confidence of 1 - 1e-9 a skew may leave nothing to divide by, or less: then it is the furthest mean.
    scales = [max(1 - acceleration * end, 1e-9) for end in corrected]
    shares = [NORMAL.cdf(bias + end / scale) for end, scale in zip(corrected, scales, strict=True)]
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


def running_interval(
    total: float, squares: float, n: int, distinct: int, confidence: float = 0.95
) -> tuple[float, float]:
    """Return the interval of a mean of scores in [0, 1] of which sums alone are kept, in no time at any n.

    Wilson's where all scores are 0 or 1, where fewer than ten are distinct, and where they do not vary; else the
    mean ± z times its standard error, as if each distinct example had been scored once.

    Args:
        total: Sum of the scores.
        squares: Sum of their squares.
        n: Number of scores, at least 1.
        distinct: Number of different examples among them, at most ``n``: repeats tell little more.
        confidence: Coverage aimed at, in (0, 1).
    """
    z = critical_value(confidence)
    mean = min(max(total / n, 0.0), 1.0)
    variance = max(squares / n - mean * mean, 0.0)
    if distinct < _FEWEST_TO_RESAMPLE or squares == total or variance <= 1e-12:
        return score_interval(mean, distinct, z)
    reach = z * math.sqrt(variance / (distinct - 1))
    return max(0.0, mean - reach), min(1.0, mean + reach)


def clustered_standard_error(values: NDArray[Any], clusters: Iterable[Hashable]) -> tuple[float, int]:
    """Return the standard error of the mean of values that come in clusters, such as repeats of an example.

    It is ``sqrt(C/(C − 1) · Σ_g (Σ_{i in g} (v_i − mean))²) / n`` for C clusters g: the values of a cluster
    may depend on one another in any way. With fewer than ten clusters it is a rough guess.

    Args:
        values: Finite numbers, in any unit.
        clusters: The cluster of each value, such as the id of an example.

    Returns:
        The standard error and the number of clusters.

    Raises:
        InputError: The lengths differ, or there are fewer than two clusters.

    Source: Liang and Zeger (1986), Biometrika 73, 13-22, with the small-sample factor CR1; Miller (2024),
    "Adding error bars to evals", arXiv 2411.00640.
    """
    deviations = values - values.mean() if values.size else values
    sums = _cluster_sums(deviations, clusters)
    count = len(sums)
    if count < 2:
        raise InputError(f"clusters must be at least two, got {count}")
    return math.sqrt(count / (count - 1) * float(sums @ sums)) / len(values), count


def _cluster_sums(values: NDArray[Any], clusters: Iterable[Hashable]) -> NDArray[Any]:
    """Return the sum of values of each cluster, shape (clusters,)."""
    import numpy as np

    seen: dict[Hashable, int] = {}
    codes = [seen.setdefault(cluster, len(seen)) for cluster in clusters]
    if len(codes) != len(values):
        raise InputError(f"clusters must name one for each of the {len(values)} values, got {len(codes)}")
    return np.bincount(codes, weights=values, minlength=len(seen))


def clustered_interval(
    values: Iterable[float],
    clusters: Iterable[Hashable],
    confidence: float = 0.95,
    *,
    bounds: tuple[float, float] = (-1.0, 1.0),
) -> tuple[float, float]:
    """Return the interval of a mean of values that come in clusters, such as repeats of an example.

    The mean ± the clustered standard error times Student's t with C − 1 degrees of freedom, for C clusters;
    where the standard error is 0, Wilson's interval at the same mean and C, which has a width.

    Args:
        values: Scores or differences of scores, within ``bounds``.
        clusters: The cluster of each value, such as the id of an example.
        confidence: Coverage aimed at, in (0, 1).
        bounds: The lowest and the highest value possible; (0, 1) for scores.

    Raises:
        InputError: A value or the confidence is out of range, the lengths differ, or there are fewer than
            two clusters.

    Source: see ``clustered_standard_error``; Cameron and Miller (2015), Journal of Human Resources 50,
    317-372, for the degrees of freedom.
    """
    from scipy.special import stdtrit

    z = critical_value(confidence)
    array = numbers_between("values", values, *bounds)
    error, count = clustered_standard_error(array, clusters)
    mean = float(array.mean())
    if error <= 1e-12 * (bounds[1] - bounds[0]):
        return _bounded_interval(mean, count, z, bounds)
    reach = float(stdtrit(count - 1, (1 + confidence) / 2)) * error
    return max(bounds[0], mean - reach), min(bounds[1], mean + reach)


def sign_flip_p_value(
    differences: Iterable[float],
    clusters: Iterable[Hashable] | None = None,
    *,
    seed: int = 0,
    resamples: int = 10_000,
) -> float:
    """Return the two-sided p-value of a mean paired difference of 0, for one look.

    If A and B do equally well, each difference might as well have had the other sign: p is the share of sign
    patterns with a mean at least as far from 0. Up to 13 clusters all are tried, with more some are drawn.

    Args:
        differences: Score of B less score of A of each example; finite numbers.
        clusters: The cluster of each difference, whose signs flip together; each its own if not given.
        seed: Of the drawing.
        resamples: Number of patterns drawn, at least 100.

    Returns:
        The p-value; 1 without differences, or if all are 0.

    Raises:
        InputError: A difference is not finite, or the lengths differ.

    Source: Fisher (1935), The Design of Experiments, section 21; Phipson and Smyth (2010), "Permutation
    p-values should never be zero", SAGMB 9, article 39, for the drawn patterns.
    """
    import numpy as np

    resamples = whole_number("resamples", resamples, minimum=100)
    sums = numbers_between("differences", differences)
    if clusters is not None:
        sums = _cluster_sums(sums, clusters)
    sums = sums[sums != 0]
    if not sums.size:
        return 1.0
    observed = abs(sums.sum()) - 1e-9 * np.abs(sums).sum()  # sums in another order round differently
    if sums.size <= _MOST_TO_ENUMERATE:
        patterns = np.arange(2**sums.size)[:, None] >> np.arange(sums.size) & 1
        return float(np.mean(np.abs((2 * patterns - 1) @ sums) >= observed))
    rng = np.random.default_rng(seed)
    rows = max(1, _CELLS_AT_ONCE // sums.size)
    as_far = 0
    for start in range(0, resamples, rows):
        shape = (min(rows, resamples - start), sums.size)
        signs = 2 * rng.integers(2, size=shape, dtype=np.int8) - 1
        as_far += int(np.count_nonzero(np.abs(signs @ sums) >= observed))
    return (1 + as_far) / (1 + resamples)


def ratio_interval(a: Iterable[float], b: Iterable[float], confidence: float = 0.95) -> Ratio:
    """Return the median of the ratios b/a on the same examples, with an exact interval.

    For latencies and costs: 0.5 says that B takes half as long as A on the median example. The interval runs
    between two of the sorted ratios, so it holds whatever their distribution and repeats itself exactly.

    Args:
        a: Positive numbers, in any unit.
        b: Positive numbers in the same unit and order.
        confidence: Least coverage, in (0, 1).

    Returns:
        ``Ratio(median, low, high)``; the ends are 0 and infinity where there are too few examples (fewer than
        6 at 95 %), and the median is NaN without any.

    Raises:
        InputError: A number is not positive and finite, or the lengths differ.

    Source: Thompson (1936), Annals of Mathematical Statistics 7, 122-128; David and Nagaraja (2003), Order
    Statistics, section 7.1.
    """
    import numpy as np
    from scipy.special import bdtr

    tail = (1 - probability("confidence", confidence)) / 2
    before, after = numbers_between("a", a), numbers_between("b", b)
    if len(before) != len(after):
        raise InputError(f"a and b must be as many, got {len(before)} and {len(after)}")
    if (before <= 0).any() or (after <= 0).any():
        raise InputError("a and b must be positive numbers")
    n = len(before)
    if n == 0:
        return Ratio(math.nan, 0.0, math.inf)
    ratios = np.sort(after / before)
    # The k-th smallest is above the true median if fewer than k of n fair coins fall low.
    k = int(np.count_nonzero(bdtr(np.arange((n + 1) // 2), n, 0.5) <= tail))
    low, high = (float(ratios[k - 1]), float(ratios[n - k])) if k else (0.0, math.inf)
    return Ratio(math.exp(float(np.median(np.log(ratios)))), low, high)
