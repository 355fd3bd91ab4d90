"""How many examples it takes to see an effect: asked before anything is spent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dspy_nb.core.arguments import number_between, probability
from dspy_nb.core.errors import InputError
from dspy_nb.core.sample_sizes import sample_size_paired, sample_size_unpaired

__all__ = ["Plan", "plan"]

Design = Literal["paired", "unpaired"]


@dataclass(frozen=True)
class Plan:
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
        raise InputError(f"design must be 'paired' or 'unpaired', got {design!r}")
    if discordance is not None:
        raise InputError("discordance goes with design='paired'; an unpaired design takes rate")
    base = (1 - effect) / 2 if rate is None else number_between("rate", rate, 0, 1)
    if base + effect > 1:
        raise InputError(f"rate {base:g} plus effect {effect:g} is more than 1: no score is that high")
    n = sample_size_unpaired(base, base + effect, power, confidence)
    return Plan(n, effect, design, power, confidence, None, base, rate is None)
