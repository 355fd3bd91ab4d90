"""Which calls of a program are broken, and when so many are that a run is in vain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import dspy
from dspy import AdapterParseError, ContextWindowExceededError, LMError

from dspy_nb.core.errors import NoPrediction

NOT_BROKEN: Final = (AdapterParseError, ContextWindowExceededError)
"""Answers that better prompts may mend."""

# A run whose calls break on more than half of the occasions has nothing to learn from, and one whose calls all
# break has lost its language model: it is ended instead of being paid for to the end. What breaks half of the
# time by chance breaks 25 times in a row once in 33 million.
_ERRORS_BEFORE_GIVING_UP: Final = 10
_HOPELESS_ERROR_RATE: Final = 0.5
_FAILURES_IN_A_ROW: Final = 25


@dataclass
class ProgramCalls:
    """Calls of a program.

    Attributes:
        calls: how many there were.
        broken: how many of them broke: without an answer, not on one in the wrong format.
        broken_in_a_row: the last of them.
    """

    calls: int = 0
    broken: int = 0
    broken_in_a_row: int = 0

    def __add__(self, later: ProgramCalls) -> ProgramCalls:
        """Return both together."""
        before = self.broken_in_a_row if later.broken >= later.calls else 0
        return ProgramCalls(
            self.calls + later.calls, self.broken + later.broken, before + later.broken_in_a_row
        )

    @property
    def hopeless(self) -> bool:
        """True when most of them break."""
        return self.broken >= _ERRORS_BEFORE_GIVING_UP and self.broken > _HOPELESS_ERROR_RATE * self.calls

    @property
    def are_in_vain(self) -> bool:
        """True when most of them break, or all of the last ones did."""
        return self.hopeless or self.broken_in_a_row >= _FAILURES_IN_A_ROW


def mendable(error: BaseException) -> BaseException | None:
    """Return the wrong format behind ``error``, if it was raised while DSPy handled that.

    GEPA's own handling of such an answer fails in DSPy 3.4.1 (it divides two lists). What the language model
    raises when it is asked again is an error of its own.
    """
    cause = error.__context__
    return cause if isinstance(cause, AdapterParseError) and not isinstance(error, LMError) else None


def no_prediction(answer: Any) -> NoPrediction | None:
    """Return the error of a program whose answer is none; DSPy's own stand-ins are left to DSPy."""
    is_answer = isinstance(answer, dspy.Example | Mapping) or type(answer).__module__.startswith("dspy.")
    return None if is_answer else NoPrediction.of(answer)
