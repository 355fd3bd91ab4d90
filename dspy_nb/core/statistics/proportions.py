"""Intervals, tests and sample sizes for success rates: one rate, two arms, paired answers."""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist
from typing import Literal, NamedTuple

from dspy_nb.core.arguments import probability, successes_of, whole_number
from dspy_nb.core.errors import InputError
from dspy_nb.core.text import value_text

NORMAL = NormalDist()


class ZTest(NamedTuple):
    """Result of the pooled z-test: ``z`` is positive when B did better, ``p_value`` is two-sided."""

    z: float
    p_value: float


class McNemar(NamedTuple):
    """Two-sided p-values of McNemar's test: the exact one and the less conservative mid-p."""

    exact_p: float
    mid_p: float


def critical_value(confidence: float = 0.95) -> float:
    """Return z such that a standard normal lies within ±z with this probability: 1.959964 for .95.

    Raises:
        InputError: ``confidence`` is not in (0, 1).
    """
    return NORMAL.inv_cdf((1 + probability("confidence", confidence)) / 2)


def wilson_interval(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return Wilson's score interval of a success rate; ``(0, 1)`` when there are no trials.

    Args:
        successes: Number of successes.
        n: Number of trials.
        confidence: Coverage aimed at, in (0, 1).

    Raises:
        InputError: A count is negative or not whole, successes exceed n, or confidence is not in (0, 1).

    Source: Wilson (1927), JASA 22, 209-212; method 3 of Newcombe (1998), Statistics in Medicine 17, 857-872.
    """
    successes, n = successes_of("", successes, n)
    z = critical_value(confidence)
    return score_interval(successes / n, n, z) if n else (0.0, 1.0)


def score_interval(rate: float, n: int, z: float) -> tuple[float, float]:
    """Return the rates r with ``|rate - r| <= z * sqrt(r * (1 - r) / n)``, for n of at least 1."""
    centre = rate + z * z / (2 * n)
    reach = z * math.sqrt(rate * (1 - rate) / n + (z / (2 * n)) ** 2)
    scale = 1 + z * z / n
    # At a rate of 0 or 1 one end is that rate exactly; rounding would leave it a hair off, and near it beyond.
    low = 0.0 if rate <= 0 else max(0.0, (centre - reach) / scale)
    high = 1.0 if rate >= 1 else min(1.0, (centre + reach) / scale)
    return low, high


def two_proportion_z(successes_a: int, n_a: int, successes_b: int, n_b: int) -> ZTest:
    """Return the pooled two-proportion z-test of B against A, for one look at a size fixed in advance.

    Looked at after every observation, it finds a difference between equal arms in 45 % of experiments.

    Args:
        successes_a: Number of successes of arm A.
        n_a: Number of trials of arm A.
        successes_b: Number of successes of arm B.
        n_b: Number of trials of arm B.

    Returns:
        ``ZTest(z, p_value)``; ``(0, 1)`` where the standard error is 0 or an arm has no trials.

    Raises:
        InputError: A count is negative or not whole, or successes exceed n.

    Source: Fleiss, Levin and Paik (2003), Statistical Methods for Rates and Proportions, chapter 3.
    """
    successes_a, n_a = successes_of("_a", successes_a, n_a)
    successes_b, n_b = successes_of("_b", successes_b, n_b)
    if n_a == 0 or n_b == 0:
        return ZTest(0.0, 1.0)
    pooled = (successes_a + successes_b) / (n_a + n_b)
    error = math.sqrt(pooled * (1 - pooled) * (1 / n_a + 1 / n_b))
    if error == 0:
        return ZTest(0.0, 1.0)
    z = (successes_b / n_b - successes_a / n_a) / error
    return ZTest(z, math.erfc(abs(z) / math.sqrt(2)))


def newcombe_interval(
    successes_a: int, n_a: int, successes_b: int, n_b: int, confidence: float = 0.95
) -> tuple[float, float]:
    """Return Newcombe's hybrid score interval of the difference of two independent rates, A − B.

    Takes what ``two_proportion_z`` does, and the coverage aimed at, in (0, 1); raises an InputError likewise.

    Returns:
        The interval of A − B; ``(-1, 1)`` when an arm has no trials.

    Source: method 10 of Newcombe (1998), Statistics in Medicine 17, 873-890.
    """
    successes_a, n_a = successes_of("_a", successes_a, n_a)
    successes_b, n_b = successes_of("_b", successes_b, n_b)
    z = critical_value(confidence)
    if n_a == 0 or n_b == 0:
        return -1.0, 1.0
    return _square_and_add(successes_a / n_a, n_a, successes_b / n_b, n_b, z)


def _square_and_add(
    rate_a: float, n_a: int, rate_b: float, n_b: int, z: float, correlation: float = 0.0
) -> tuple[float, float]:
    """Return the interval of ``rate_a - rate_b`` that combines their two Wilson intervals."""
    low_a, high_a = score_interval(rate_a, n_a, z)
    low_b, high_b = score_interval(rate_b, n_b, z)

    def combined(reach_a: float, reach_b: float) -> float:
        return math.sqrt(max(0.0, reach_a**2 + reach_b**2 - 2 * correlation * reach_a * reach_b))

    difference = rate_a - rate_b
    return (
        max(-1.0, difference - combined(rate_a - low_a, high_b - rate_b)),
        min(1.0, difference + combined(high_a - rate_a, rate_b - low_b)),
    )


def miettinen_nurminen_interval(
    successes_a: int, n_a: int, successes_b: int, n_b: int, confidence: float = 0.95
) -> tuple[float, float]:
    """Return Miettinen and Nurminen's score interval of the difference of two independent rates, A − B.

    Takes, returns and raises what ``newcombe_interval`` does.

    Source: Miettinen and Nurminen (1985), Statistics in Medicine 4, 213-226.
    """
    successes_a, n_a = successes_of("_a", successes_a, n_a)
    successes_b, n_b = successes_of("_b", successes_b, n_b)
    z = critical_value(confidence)
    if n_a == 0 or n_b == 0:
        return -1.0, 1.0
    estimate = successes_a / n_a - successes_b / n_b
    correction = (n_a + n_b) / (n_a + n_b - 1)

    def compatible(difference: float) -> bool:
        rate_a, rate_b = _rates_at_difference(successes_a, n_a, successes_b, n_b, difference)
        variance = correction * (rate_a * (1 - rate_a) / n_a + rate_b * (1 - rate_b) / n_b)
        return abs(estimate - difference) <= z * math.sqrt(variance)

    return _furthest(compatible, estimate, -1.0), _furthest(compatible, estimate, 1.0)


def _rates_at_difference(
    successes_a: int, n_a: int, successes_b: int, n_b: int, difference: float
) -> tuple[float, float]:
    """Return the most likely rates of two arms whose difference A − B is given.

    They solve a cubic in A's rate; its root in range has the trigonometric form of Farrington and Manning
    (1990), Statistics in Medicine 9, 1447-1454, appendix.
    """
    rate_a, rate_b, ratio = successes_a / n_a, successes_b / n_b, n_b / n_a
    cubic = 1 + ratio
    square = -(1 + ratio + rate_a + ratio * rate_b + difference * (ratio + 2))
    linear = difference**2 + difference * (2 * rate_a + ratio + 1) + rate_a + ratio * rate_b
    constant = -rate_a * difference * (1 + difference)

    shift = square / (3 * cubic)
    q = shift**3 - square * linear / (6 * cubic**2) + constant / (2 * cubic)
    r = math.copysign(math.sqrt(max(0.0, shift**2 - linear / (3 * cubic))), q)
    cosine = min(1.0, max(-1.0, q / r**3)) if r else 0.0
    root = 2 * r * math.cos((math.pi + math.acos(cosine)) / 3) - shift
    rate_a = min(min(1.0, 1 + difference), max(max(0.0, difference), root))
    return rate_a, min(1.0, max(0.0, rate_a - difference))


def _furthest(compatible: Callable[[float], bool], near: float, far: float) -> float:
    """Return the end, towards ``far``, of the values around ``near`` that are compatible, by bisection."""
    if compatible(far):
        return far
    for _ in range(60):  # 60 halvings of a length of at most 2 reach the spacing of floats
        middle = (near + far) / 2
        near, far = (middle, far) if compatible(middle) else (near, middle)
    return near


def mcnemar(both: int, a_only: int, b_only: int, neither: int) -> McNemar:
    """Return McNemar's test of paired yes/no answers, for one look: exact p and mid-p, both two-sided.

    Args:
        both: Number of examples that A and B both got right; like ``neither``, it does not change p.
        a_only: Number that only A got right.
        b_only: Number that only B got right.
        neither: Number that both got wrong.

    Returns:
        ``McNemar(exact_p, mid_p)``; ``(1, 1)`` when A and B never disagree.

    Raises:
        InputError: A count is negative or not whole.

    Source: Fagerland, Lydersen and Laake (2013), BMC Medical Research Methodology 13, 91.
    """
    _, a_only, b_only, _ = _paired_counts(both, a_only, b_only, neither)
    n = a_only + b_only
    if n == 0:
        return McNemar(1.0, 1.0)
    from scipy.special import bdtr

    fewer = min(a_only, b_only)
    log_point = math.lgamma(n + 1) - math.lgamma(fewer + 1) - math.lgamma(n - fewer + 1) - n * math.log(2)
    point = math.exp(log_point)
    if a_only == b_only:  # the two tails are one point, and mid-p counts half of it
        return McNemar(1.0, 1 - point / 2)
    exact_p = min(1.0, 2 * float(bdtr(fewer, n, 0.5)))
    return McNemar(exact_p, exact_p - point)


def _paired_counts(both: int, a_only: int, b_only: int, neither: int) -> tuple[int, int, int, int]:
    return (
        whole_number("both", both),
        whole_number("a_only", a_only),
        whole_number("b_only", b_only),
        whole_number("neither", neither),
    )


def paired_difference_interval(
    both: int,
    a_only: int,
    b_only: int,
    neither: int,
    confidence: float = 0.95,
    method: Literal["tango", "newcombe"] = "tango",
) -> tuple[float, float]:
    """Return an interval of the difference of two rates on the same examples, A − B.

    Tango's score interval keeps its width when A and B never disagree, where Wald's collapses to a point.

    Args:
        both: Number of examples that A and B both got right.
        a_only: Number that only A got right.
        b_only: Number that only B got right.
        neither: Number that both got wrong.
        confidence: Coverage aimed at, in (0, 1).
        method: ``"tango"`` (score) or ``"newcombe"`` (square-and-add with a correlation).

    Returns:
        The interval of A − B; ``(-1, 1)`` without examples.

    Raises:
        InputError: A count is negative or not whole, confidence is not in (0, 1), or the method is unknown.

    Source: Tango (1998), Statistics in Medicine 17, 891-908; method 10 of Newcombe (1998), Statistics in
    Medicine 17, 2635-2650.
    """
    both, a_only, b_only, neither = _paired_counts(both, a_only, b_only, neither)
    z = critical_value(confidence)
    if method not in ("tango", "newcombe"):
        raise InputError(f"method must be 'tango' or 'newcombe', got {value_text(method)}")
    n = both + a_only + b_only + neither
    if n == 0:
        return -1.0, 1.0
    if method == "newcombe":
        right_a, right_b = both + a_only, both + b_only
        product = right_a * (n - right_a) * right_b * (n - right_b)
        covariance: float = both * neither - a_only * b_only
        if covariance > 0:  # Newcombe's continuity correction
            covariance = max(covariance - n / 2, 0)
        correlation = covariance / math.sqrt(product) if product else 0.0
        return _square_and_add(right_a / n, n, right_b / n, n, z, correlation)

    estimate = (a_only - b_only) / n

    def compatible(difference: float) -> bool:
        linear = (2 * n - a_only + b_only) * difference - a_only - b_only
        constant = -b_only * difference * (1 - difference)
        root = math.sqrt(max(0.0, linear**2 - 8 * n * constant))
        # Both forms are the same root of 2n q² + linear q + constant; each loses no digits for its sign.
        q = -2 * constant / (root + linear) if linear > 0 else (root - linear) / (4 * n)
        variance = (2 * q + difference * (1 - difference)) / n
        return abs(estimate - difference) <= z * math.sqrt(max(0.0, variance))

    return _furthest(compatible, estimate, -1.0), _furthest(compatible, estimate, 1.0)
