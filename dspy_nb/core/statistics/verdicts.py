"""How an interval decides, and what several comparisons do to p-values."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal

from dspy_nb.core.arguments import number_between
from dspy_nb.core.errors import InputError
from dspy_nb.core.text import value_text

Verdict = Literal["B better", "A better", "no practical difference", "inconclusive"]


def decide(low: float, high: float, margin: float) -> Verdict:
    """Return what an interval of the difference B − A says, given the difference that matters.

    The first that holds: the interval lies within ±margin, ``"no practical difference"``; it lies above 0,
    ``"B better"``; it lies below 0, ``"A better"``; else ``"inconclusive"``. With the interval of a sequence,
    the chance of ever giving a false verdict is at most α, if the first verdict that is not inconclusive is
    kept; and every true difference is settled in the end, since the first three overlap.

    Args:
        low: Lower end of the interval.
        high: Upper end. Two NaN, the interval of a sequence that has rejected everything, are inconclusive.
        margin: Largest difference, in either direction, that makes no practical difference; at least 0.

    Raises:
        InputError: The ends are in the wrong order, or the margin is negative or not a number.

    Source: the region of practical equivalence of Kruschke (2018), "Rejecting or accepting parameter values
    in Bayesian estimation", AMPPS 1, 270-280, here with confidence intervals.
    """
    margin = number_between("margin", margin, 0, math.inf)
    if math.isnan(low) and math.isnan(high):
        return "inconclusive"
    if not low <= high:
        raise InputError(f"low must be at most high, got {value_text(low)} and {value_text(high)}")
    if -margin <= low and high <= margin:
        return "no practical difference"
    if low > 0:
        return "B better"
    if high < 0:
        return "A better"
    return "inconclusive"


def holm(p_values: Iterable[float]) -> list[float]:
    """Return the p-values adjusted for having made several comparisons, in the order given.

    Rejecting those of at most α keeps the chance of any false rejection at most α.

    Raises:
        InputError: A p-value is not in [0, 1].

    Source: Holm (1979), "A simple sequentially rejective multiple test procedure", Scandinavian Journal of
    Statistics 6, 65-70.
    """
    values = [number_between("p_values", p, 0, 1) for p in p_values]
    adjusted = [0.0] * len(values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(values)), key=values.__getitem__)):
        largest = max(largest, min(1.0, (len(values) - rank) * values[index]))
        adjusted[index] = largest
    return adjusted
