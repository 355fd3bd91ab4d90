"""Intervals, tests and sample sizes for success rates: one rate, two arms, paired answers."""

from __future__ import annotations

import math
from statistics import NormalDist

from dspy_nb.core.arguments import probability, successes_of

NORMAL = NormalDist()


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
    # At a rate of 0 or 1 one end is that rate exactly; rounding would leave it a hair off.
    low = 0.0 if rate <= 0 else (centre - reach) / scale
    high = 1.0 if rate >= 1 else (centre + reach) / scale
    return low, high
