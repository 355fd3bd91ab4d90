"""What a decision about a version requires, whether each part of it is met, and what says so."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from dspy_nb.core.doors import Shown
from dspy_nb.core.errors import Refused


@dataclass(frozen=True, slots=True)
class Requirement(Shown):
    """One thing that a promotion or a deployment requires.

    Attributes:
        name: What is required, in a few words.
        met: Whether it is.
        evidence: What says so, or what is missing.
        refusal: What the decision is refused with where it is not met; else None.
        can_be_forced: Whether ``force=True`` overrides it.
    """

    name: str
    met: bool
    evidence: str
    refusal: str | None = None
    can_be_forced: bool = True

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON data."""
        return asdict(self)


def require(found: Iterable[Requirement], *, force: bool = False) -> None:
    """Refuse a decision for the first requirement that is not met; ``force`` overrides those that it can.

    Raises:
        Refused: One is not met.
    """
    for one in found:
        if not one.met and not (force and one.can_be_forced):
            raise Refused(one.refusal or one.evidence)
