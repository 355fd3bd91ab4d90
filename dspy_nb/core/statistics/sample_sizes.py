"""Sample sizes: how many examples a test needs when it looks once, at a size fixed in advance; how many more.

An anytime-valid sequence decides at about the same median size, but needs 1.6 to 1.9 times as many examples
to decide with a power of 80 %. How many more it needs from where it stands is in ``forecast``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from dspy_nb.core.arguments import number_between, probability
from dspy_nb.core.doors import Shown
from dspy_nb.core.errors import InputError
from dspy_nb.core.statistics.means import bca_interval
from dspy_nb.core.statistics.proportions import (
    NORMAL,
    critical_value,
    mcnemar,
    paired_difference_interval,
)
from dspy_nb.core.text import value_text

MOST = 1_000_000
"""Beyond so many more examples, no verdict is in sight."""

_POWER = 0.8
_NO_GAP = 1e-9
_LARGEST_ROOT = 1e150  # of a number of examples: its square still is a float


def sample_size_paired(
    effect: float, discordance: float, power: float = 0.8, confidence: float = 0.95
) -> int:
    """Return the number of examples at which one paired test finds a difference of rates with this power.

    Args:
        effect: The difference of rates to find, such as 0.05; its sign does not matter.
        discordance: Share of examples on which exactly one of A and B is right.
        power: Probability of finding it, in (0, 1).
        confidence: 1 − α of the two-sided test, in (0, 1).

    Raises:
        InputError: The effect is 0 or exceeds the discordance, or an argument is out of range.

    Source: Connor (1987), "Sample size for testing differences in proportions for the paired-sample
    design", Biometrics 43, 207-211.
    """
    z_test, z_power = _test_and_power(confidence, power)
    discordance = number_between("discordance", discordance, 0, 1)
    effect = _nonzero_effect(effect, discordance)
    spread = z_test * math.sqrt(discordance) + z_power * math.sqrt(discordance - effect**2)
    return _rounded_up(spread / effect)


def sample_size_unpaired(
    p_a: float, p_b: float, power: float = 0.8, confidence: float = 0.95, ratio: float = 1.0
) -> int:
    """Return the size of arm B at which one pooled z-test tells two rates apart with this power.

    Args:
        p_a: Success rate of arm A, in [0, 1].
        p_b: Success rate of arm B, in [0, 1].
        power: Probability of finding the difference, in (0, 1).
        confidence: 1 − α of the two-sided test, in (0, 1).
        ratio: Size of arm A over size of arm B: 1 for equal arms, 9 for a split of 10 % to B.

    Returns:
        n of arm B. Arm A needs ``ratio`` times as many, so the total is ``n * (1 + ratio)``.

    Raises:
        InputError: The rates are equal, or an argument is out of range.

    Source: Fleiss, Levin and Paik (2003), Statistical Methods for Rates and Proportions, chapter 4,
    without continuity correction.
    """
    z_test, z_power = _test_and_power(confidence, power)
    p_a = number_between("p_a", p_a, 0, 1)
    p_b = number_between("p_b", p_b, 0, 1)
    ratio = number_between("ratio", ratio, 0, math.inf, ends=False)
    if p_a == p_b:
        raise InputError(f"p_a and p_b must differ, both are {p_a:g}")
    pooled = (ratio * p_a + p_b) / (1 + ratio)
    at_null = math.sqrt(pooled * (1 - pooled) * (1 + 1 / ratio))
    at_effect = math.sqrt(p_a * (1 - p_a) / ratio + p_b * (1 - p_b))
    return _rounded_up((z_test * at_null + z_power * at_effect) / abs(p_a - p_b))


def more_needed(n: int, effect: float, variance: float, margin: float, confidence: float) -> int | None:
    """Return how many more graded examples one look takes, with a power of 80 %, if the effect is the one seen.

    Args:
        n: Examples counted so far.
        effect: The mean difference seen.
        variance: ``n`` times the variance of that mean, more than 0.
        margin: Largest difference that makes no practical difference, at least 0.
        confidence: 1 − α of the verdict, in (0, 1).

    Returns:
        At least 1; ``None`` where no number is known to be enough: there is no effect, and no margin for it
        to lie within.

    Source: the normal approximation, ``n = ((z_α + z_β) sd / gap)²``; Miller (2024), arXiv 2411.00640. The gap is
    the distance from the effect to what the verdict must rule out: 0 for a better program, the margin for one that
    is as good.
    """
    gap = max(abs(effect), margin - abs(effect))
    if gap < _NO_GAP:
        return None
    return max(1, math.ceil(variance * (sum(_test_and_power(confidence, _POWER)) / gap) ** 2 - n))


def more_needed_paired(n: int, b_wins: int, a_wins: int, margin: float, confidence: float) -> int | None:
    """Return how many more yes/no examples one look takes, with a power of 80 %, if the rates are those seen.

    The test is the one that decides: McNemar's exact one with Tango's interval for a better program, Tango's
    interval within the margin for one that is as good. Its power is that of giving the verdict where chance
    moves the difference, at the size in question, against it by as much as it does once in five times.

    Args:
        n: Examples counted so far, at least 1.
        b_wins: Examples that only B got right.
        a_wins: Examples that only A got right.
        margin: Largest difference that makes no practical difference, at least 0.
        confidence: 1 − α of the verdict, in (0, 1).

    Returns:
        At least 1; ``None`` where no number up to ``MOST`` is enough.
    """
    effect, discordance = abs(b_wins - a_wins) / n, (b_wins + a_wins) / n
    if effect < _NO_GAP and margin < _NO_GAP:
        return None

    def decides(size: int) -> bool:
        error = math.sqrt((discordance - effect**2) / size)
        wins, losses = _wins(size, discordance, max(0.0, effect - NORMAL.inv_cdf(_POWER) * error))
        if mcnemar(0, wins, losses, 0).exact_p <= 1 - confidence:
            low, _ = paired_difference_interval(size - wins - losses, wins, losses, 0, confidence)
            if low > 0:
                return True
        # Out of the margin it may get on either side, so it must not get further more often than that.
        unlucky = NORMAL.inv_cdf((1 + _POWER) / 2) * error
        wins, losses = _wins(size, discordance, min(discordance, effect + unlucky))
        low, high = paired_difference_interval(size - wins - losses, wins, losses, 0, confidence)
        return -margin <= low and high <= margin

    return least_more(n, decides)


def more_needed_alike(n: int, difference: float, margin: float, confidence: float) -> int | None:
    """Return how many more graded examples one look takes where every difference so far was the same.

    It has nothing to resample, and its interval is Wilson's; if all to come are the same, it will be.

    Args:
        n: Examples counted so far, at least 1.
        difference: The score of B less that of A, on every one of them.
        margin: Largest difference that makes no practical difference, at least 0.
        confidence: 1 − α of the verdict, in (0, 1).

    Returns:
        At least 1; ``None`` where no number up to ``MOST`` is enough.
    """
    import numpy as np

    def decides(size: int) -> bool:
        low, high = bca_interval(np.full(size, difference), confidence, bounds=(-1.0, 1.0))
        better = (low > 0 or high < 0) and 2.0 ** (1 - size) <= 1 - confidence  # and the sign-flip test
        return (-margin <= low and high <= margin) or better

    return None if abs(difference) < _NO_GAP and margin < _NO_GAP else least_more(n, decides)


def least_more(n: int, decides: Callable[[int], bool]) -> int | None:
    """Return by how much n must grow until a test decides, by doubling and halving; None beyond ``MOST``."""
    low, high = n, n + 1
    while not decides(high):
        low, high = high, n + 2 * (high - n)
        if low - n >= MOST:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if decides(middle) else (middle, high)
    return high - n


def _wins(size: int, discordance: float, effect: float) -> tuple[int, int]:
    """Return whole numbers of wins for the better program and for the other one."""
    both = round(size * discordance)
    wins = min(both, round(size * (discordance + effect) / 2))
    return wins, both - wins


def _test_and_power(confidence: float, power: float) -> tuple[float, float]:
    return critical_value(confidence), NORMAL.inv_cdf(probability("power", power))


def _nonzero_effect(effect: float, largest: float) -> float:
    effect = abs(number_between("effect", effect, -largest, largest))
    if effect == 0:
        raise InputError("effect must not be 0: no number of examples shows a difference of nothing")
    return effect


def _rounded_up(root: float) -> int:
    """Return the square, rounded up; a power so low that no data are needed still takes one example."""
    if root > _LARGEST_ROOT:
        raise InputError("the effect is too small: no data set has as many examples as it would take")
    return max(1, math.ceil(max(0.0, root) ** 2))


# -- a plan -----------------------------------------------------------------------------------------------------

Design = Literal["paired", "unpaired"]


@dataclass(frozen=True)
class Plan(Shown):
    """How many examples a comparison of two programs needs, when it looks once.

    Attributes:
        n: Examples. Paired, both programs answer each of them; unpaired, each program answers as many.
        effect: The difference of scores to find.
        design: ``paired`` or ``unpaired``.
        power: Probability of finding the effect if it is there.
        confidence: Of the two-sided test.
        discordance: Share of examples on which exactly one program is right; ``None`` if unpaired.
        rate: Score of the program to improve on; ``None`` if paired.
        assumed: Whether ``discordance`` or ``rate`` is the default rather than what the caller knows.
    """

    n: int
    effect: float
    design: Design
    power: float
    confidence: float
    discordance: float | None
    rate: float | None
    assumed: bool

    @property
    def program_calls(self) -> int:
        """How often the two programs are called in all."""
        return 2 * self.n

    def __str__(self) -> str:
        """Return the plan as one line."""
        if self.discordance is not None:
            what = f"{self.n:,} examples, each answered by both programs,"
            given = f"if they disagree on {self.discordance:.0%} of them"
        else:
            what = f"{self.n:,} examples for each program"
            given = f"if the first one scores {self.rate:.0%}"
        return (
            f"{what} show a difference of {self.effect:.1%} with a power of {self.power:.0%} at "
            f"{self.confidence:.0%} confidence, {given}{' (assumed)' if self.assumed else ''}"
        )


def plan(
    effect: float,
    *,
    discordance: float | None = None,
    rate: float | None = None,
    power: float = 0.8,
    confidence: float = 0.95,
    design: Design = "paired",
) -> Plan:
    """Return how many examples it takes to see a difference of two scores.

    Args:
        effect: The difference to find, such as 0.05, in (0, 1).
        discordance: Paired: the share of examples on which exactly one of the two programs is right. By
            default 0.2, or the effect if that is larger; a pilot run tells better.
        rate: Unpaired: the score of the program to improve on. By default the one for which most examples
            are needed, half an effect below 0.5.
        power: Probability of finding the effect if it is there, in (0, 1).
        confidence: Of the two-sided test, in (0, 1).
        design: ``"paired"`` if both programs answer the same examples, else ``"unpaired"``.

    Raises:
        InputError: An argument is out of range, or belongs to the other design.
    """
    effect = number_between("effect", effect, 0, 1, ends=False)
    power, confidence = probability("power", power), probability("confidence", confidence)
    if design == "paired":
        if rate is not None:
            raise InputError("rate goes with design='unpaired'; a paired design takes discordance")
        share = max(0.2, effect) if discordance is None else discordance
        n = sample_size_paired(effect, share, power, confidence)
        return Plan(n, effect, design, power, confidence, share, None, discordance is None)
    if design != "unpaired":
        raise InputError(f"design must be 'paired' or 'unpaired', got {value_text(design)}")
    if discordance is not None:
        raise InputError("discordance goes with design='paired'; an unpaired design takes rate")
    base = (1 - effect) / 2 if rate is None else number_between("rate", rate, 0, 1)
    if base + effect > 1:
        raise InputError(f"rate {base:g} plus effect {effect:g} is more than 1: no score is that high")
    n = sample_size_unpaired(base, base + effect, power, confidence)
    return Plan(n, effect, design, power, confidence, None, base, rate is None)
