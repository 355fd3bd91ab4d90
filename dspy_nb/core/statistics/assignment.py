"""Which arm a unit goes to, and whether the units went to the arms as declared."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from numbers import Real

from dspy_nb.core.arguments import number_between, probability, whole_number
from dspy_nb.core.errors import InputError


def place_of(salt: str, unit: str) -> float:
    """Return where a unit lies in [0, 1): always the same, uniform, and independent between salts.

    It goes to B if the place is below the split. So raising the split moves nobody from B to A, and with the
    hash independent of who comes when, the probability of B is the split in force at the first request.

    Source: the first 53 bits of SHA-256, as a fraction.
    """
    digest = hashlib.sha256(f"{salt}\0{unit}".encode()).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53


def srm_p_value(counts: Sequence[int], split: float | Sequence[float]) -> float:
    """Return the χ² p-value of a sample-ratio mismatch: were units assigned as declared?

    A verdict is worth nothing below about .001: assignment or logging is broken.

    Args:
        counts: Number of units in each arm, such as ``(n_a, n_b)``.
        split: Probability of arm B, when there are two arms; or the expected share or count of each arm, in
            the order of ``counts``. Where the split changed over time, pass the sums of each event's
            probabilities.

    Returns:
        The p-value; 1 when there are no units.

    Raises:
        InputError: A count is negative or not whole, or the split does not match the counts.

    Source: Pearson's χ²; Fabijan et al. (2019), "Diagnosing sample ratio mismatch in online controlled
    experiments", KDD.
    """
    observed = [whole_number("counts", count) for count in counts]
    if isinstance(split, (int, float, Real)):  # numpy's numbers too
        share = probability("split", split)
        split = (1 - share, share)
    shares = list(split) if isinstance(split, Iterable) else []
    weights = [number_between("split", weight, 0, math.inf, ends=False) for weight in shares]
    if len(weights) != len(observed) or len(weights) < 2:
        raise InputError(f"split must have one share for each of the {len(observed)} counts (at least two)")
    total = sum(observed)
    if total == 0:
        return 1.0
    expected = [total * weight / sum(weights) for weight in weights]
    statistic = sum((seen - due) ** 2 / due for seen, due in zip(observed, expected, strict=True))
    if len(observed) == 2:  # one degree of freedom is a squared normal: no need to wait for scipy
        return math.erfc(math.sqrt(statistic / 2))
    from scipy.special import chdtrc

    return float(chdtrc(len(observed) - 1, statistic))
