"""Limits for a run, what is left of them, and a count of what went wrong."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any

from dspy_nb.core.errors import InputError
from dspy_nb.core.programs.lm_call import AnswerCount
from dspy_nb.core.programs.usage import Usage
from dspy_nb.core.supervision.broken import ProgramCalls
from dspy_nb.core.text import error_text, value_text

_WORDS = {
    "lm_calls": "{:,} LM calls", "seconds": "{:,g} s", "tokens": "{:,} tokens", "usd": "${:,.2f}",
    "call_seconds": "{:,g} s a call",
}  # fmt: skip


@dataclass(frozen=True)
class Budget:
    """Limits of a run; ``None`` means no limit.

    The limit on LM calls is never exceeded. Time, tokens and dollars are known only when a call is over, so
    the calls then in flight may exceed those limits; no call is started after that. Calls that are in flight
    when a run stops, whatever stops it, are waited for so that they are counted; those that do not return in
    time are left behind in their threads, and the run ends without them.

    Attributes:
        lm_calls: uncached LM calls, see :class:`Usage`.
        seconds: wall-clock seconds.
        tokens: prompt and completion tokens together.
        usd: US dollars, for models whose price DSPy knows.
        call_seconds: seconds that a single request may take; one that takes longer is an error, and not
            tried again.
        grace: seconds that a run which was stopped waits for the calls in flight, 5 by default. A second
            interrupt ends the wait at once.

    Raises:
        InputError: a limit is not a positive number.
    """

    lm_calls: int | None = None
    seconds: float | None = None
    tokens: int | None = None
    usd: float | None = None
    call_seconds: float | None = None
    grace: float = 5.0

    def __post_init__(self) -> None:
        if isinstance(self.grace, bool) or not isinstance(self.grace, int | float) or not self.grace >= 0:
            raise InputError(f"budget: grace={self.grace!r} is not a number of seconds, 0 or more")
        for name, limit in self.to_dict().items():
            whole = name in ("lm_calls", "tokens")
            if (
                isinstance(limit, bool)
                or not isinstance(limit, int if whole else int | float)
                or not limit > 0
            ):
                kind = "whole number" if whole else "number"
                raise InputError(f"budget: {name}={value_text(limit)} is not a positive {kind}")

    def limits(self) -> dict[str, float]:
        """Return the limits of the whole run that are set, by name."""
        return {name: limit for name, limit in self.to_dict().items() if name != "call_seconds"}

    def to_dict(self) -> dict[str, float]:
        """Return all limits that are set, by name."""
        return {name: limit for name in _WORDS if (limit := getattr(self, name)) is not None}

    def __str__(self) -> str:
        """Return the limits in words."""
        return ", ".join(_WORDS[name].format(limit) for name, limit in self.to_dict().items()) or "no limit"


@dataclass
class ErrorCount:
    """Errors of a run that were not fatal.

    Attributes:
        count: program calls and metric calls that raised, and LM calls that took too long.
        kinds: how many of each exception type, by name.
        first: the first message of each kind.
        fatal: the error that ended the run, if one did.
    """

    count: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)
    fatal: BaseException | None = None

    def add(self, error: BaseException, where: str = "") -> None:
        """Count ``error``; ``where`` goes before its message."""
        kind = type(error).__name__
        self.count += 1
        self.kinds[kind] += 1
        self.first.setdefault(kind, f"{where}{error_text(error)}"[:300])

    def __add__(self, other: ErrorCount) -> ErrorCount:
        """Return both together."""
        first, fatal = {**other.first, **self.first}, self.fatal or other.fatal
        return ErrorCount(self.count + other.count, self.kinds + other.kinds, first, fatal)

    def __str__(self) -> str:
        """Return the kinds with their counts and first messages, in one line."""
        return "; ".join(f"{n} x {kind}: {self.first[kind]}" for kind, n in self.kinds.most_common())


@dataclass(frozen=True)
class Spent:
    """What was counted of a part of a run, as it travels home from a worker.

    Attributes:
        usage: what was used.
        errors: what went wrong.
        answers: what is wrong with the answers of language models.
        programs: calls of the program.
        reason: why the work was stopped, if it was.
    """

    usage: Usage
    errors: ErrorCount
    answers: AnswerCount
    programs: ProgramCalls
    reason: str | None


def remaining(budget: Budget, used: Usage, elapsed_s: float, *, reserve: Usage | None = None) -> Budget | str:
    """Return what is left of ``budget``, or the name of the limit that leaves nothing.

    Args:
        budget: the limits of the whole run.
        used: what was used so far.
        elapsed_s: seconds since the run began.
        reserve: what must be left over for later.
    """
    spent = used + (reserve or Usage())
    left: dict[str, Any] = {}
    for name, limit in budget.limits().items():
        amount = elapsed_s if name == "seconds" else getattr(spent, name)
        if amount is None:
            left[name] = limit  # unknown: the guard says so at the first call
            continue
        if limit - amount <= 0:
            return name
        left[name] = limit - amount
    return replace(budget, **left)
