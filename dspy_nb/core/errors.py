"""The one error tree of dspy_nb.

    DspyNbError
    ├── InputError            what the caller gave is wrong: nothing was spent, nothing was written
    ├── ModelNotInstalled     the embedded language model is missing or corrupt
    ├── OptimizationFailed    the optimizer itself failed after it had started
    ├── NoPrediction          a program returned what is no prediction; counted like any other error of a program
    ├── NoField               an answer lacks the field that a metric compares; counted in the same way
    ├── GateFailed            a quality gate said no
    └── RegistryError
        ├── NotFound          no such model, version, stage or environment
        ├── Conflict          somebody else wrote it first, or it exists already
        ├── Refused           a rule says no (an illegal transition, missing evidence)
        └── Corrupt           a file is not what its hash or its schema says

Each of them prints as one line in a notebook and still fails the cell. IPython's own ``UsageError`` does
not: it writes to stderr only, and nbmake and papermill then report success.
"""

from __future__ import annotations

import traceback
from typing import ClassVar

from dspy_nb.core.text import error_text, one_line, visible


class DspyNbError(Exception):
    """Base of every error that dspy_nb raises on purpose.

    Attributes:
        short: Whether a notebook shows one line of it; the whole traceback otherwise.
    """

    short: ClassVar[bool] = True

    def __str__(self) -> str:
        """Return the message, with what it quotes from outside fit for a terminal."""
        return visible(super().__str__())

    def _render_traceback_(self) -> list[str]:
        """Return the traceback that IPython shows: one line, no frames, unless somebody wants to see them."""
        if not self.short:
            return "".join(traceback.format_exception(self)).splitlines()
        return [one_line(f"{type(self).__name__}: {self}")]


class InputError(DspyNbError, ValueError):
    """What the caller gave is wrong; the message names it and says what is valid."""


class ModelNotInstalled(DspyNbError):
    """The embedded language model is missing, incomplete or corrupt."""


class OptimizationFailed(DspyNbError):
    """The optimizer failed after it had started."""


class NoPrediction(DspyNbError):
    """A program returned what is no prediction."""

    @classmethod
    def of(cls, answer: object) -> NoPrediction:
        """Say what came instead."""
        kind = type(answer).__name__
        article = "an" if kind[0] in "aeiou" else "a"
        what = "None" if answer is None else f"{article} {kind}, not a dspy.Prediction"
        hint = " (an asynchronous forward is called aforward)" if kind == "coroutine" else ""
        return cls(f"the program returned {what}; its forward must return a prediction{hint}")


class NoField(DspyNbError):
    """An answer lacks the field that a metric compares."""


class GateFailed(DspyNbError):
    """A quality gate said no; ``reasons`` holds every reason, one string each."""

    def __init__(self, reasons: list[str]) -> None:
        super().__init__("; ".join(reasons))
        self.reasons = list(reasons)


class RegistryError(DspyNbError):
    """Base of what a registry can refuse or find wrong."""


class RegistryWarning(UserWarning):
    """A version, or a program that is to be one, does not fit what is here.

    The version was made with another DSPy, Python, adapter or language model than the one in force; or the program
    can be optimized and not be registered.
    """


class NotFound(RegistryError, LookupError):
    """No such model, version, stage or environment; the message lists what there is."""


class Conflict(RegistryError):
    """It exists already, or somebody else wrote it first."""


class Refused(RegistryError):
    """A rule of the registry says no; the message names the rule and how to satisfy it."""


class Corrupt(RegistryError):
    """A file is not what its hash or its schema says."""


def failure_text(failure: BaseException) -> str:
    """Return a failure in one line, with its kind where it is none of ours."""
    text = error_text(failure)
    named = f"{type(failure).__name__}: {text}".removesuffix(": ")
    return text if isinstance(failure, DspyNbError) else named
