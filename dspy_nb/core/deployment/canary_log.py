"""A canary as the log of its environment tells it: start, steps, and one of three ends.

Entries are ``canary-start``, ``canary-step``, ``canary-finish`` (the candidate is deployed), ``canary-rollback``
(it was worse) and ``canary-abort`` (a person took it back). What is live changes with ``canary-finish`` only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any, Final, Self

from dspy_nb.core.arguments import number_between, probability, whole_number
from dspy_nb.core.errors import InputError
from dspy_nb.core.storage.entry import Entry
from dspy_nb.core.text import value_text

ACTIONS: Final = ("canary-start", "canary-step", "canary-finish", "canary-rollback", "canary-abort")


@dataclass(frozen=True, slots=True)
class CanaryRules:
    """How a canary goes on, fixed when it starts.

    Attributes:
        shares: Of the traffic, rising, the last one 1.
        margin: The loss over all traffic, in outcome (0 to 1), that is accepted.
        confidence: 1 − the chance that a candidate that is not worse is taken back, ever.
        min_requests: Outcomes of the candidate that each step waits for at least.
        wait_s: How long a request waits for its outcome before it is left out.
    """

    shares: tuple[float, ...] = (0.05, 0.25, 0.5, 1.0)
    margin: float = 0.05
    confidence: float = 0.95
    min_requests: int = 20
    wait_s: float = 3600.0

    @classmethod
    def checked(
        cls,
        share: float,
        steps: Sequence[float] | None,
        margin: float,
        confidence: float,
        min_requests: int,
        wait_s: float,
    ) -> Self:
        """Return the rules; without ``steps``, with the usual shares above the first one.

        Raises:
            InputError: A value is out of range; the message names it.
        """
        first = number_between("share", share, 0, 1, ends=False)
        if steps is None:
            steps = [later for later in cls().shares if later > first]
        if isinstance(steps, str | bytes) or not isinstance(steps, Sequence) or not steps:
            raise InputError(f"steps must be shares such as 0.25, 0.5, 1, got {value_text(steps, 80)}")
        shares = [first, *(number_between("steps", step, 0, 1) for step in steps)]
        if shares[-1] != 1 or any(later <= earlier for earlier, later in pairwise(shares)):
            raise InputError(f"shares must rise to 1, got {', '.join(f'{item:g}' for item in shares)}")
        return cls(
            tuple(shares),
            number_between("margin", margin, 0, 1, ends=False),
            probability("confidence", confidence),
            whole_number("min_requests", min_requests, minimum=1),
            number_between("wait_s", wait_s, 0, math.inf),
        )

    @classmethod
    def read(cls, values: object) -> Self:
        """Return the rules that ``to_dict`` wrote.

        Raises:
            InputError: They are not.
        """
        names = cls().to_dict()
        if (
            not isinstance(values, Mapping)
            or set(values) != set(names)
            or not isinstance(values["plan"], list)
        ):
            raise InputError("these are no rules of a canary")
        others = dict(values)
        share, *steps = others.pop("plan") or [None]
        return cls.checked(share, steps, **others)

    def to_dict(self) -> dict[str, Any]:
        """Return the rules as JSON data."""
        others = asdict(self)
        return {"plan": [*others.pop("shares")], **others}


@dataclass(frozen=True, slots=True)
class Canary:
    """A canary that is running.

    Attributes:
        number: Number of the log entry that started it, which is its identity.
        candidate: Reference of the version that is tried.
        baseline: Reference of the version that is live.
        share: Share of the traffic that the candidate gets now.
        step: Which of the shares that is, from 0.
        rules: How it goes on.
        started_at: When it started, ISO 8601 in UTC.
        stepped_at: When it got its present share.
    """

    number: int
    candidate: str
    baseline: str
    share: float
    step: int
    rules: CanaryRules
    started_at: str
    stepped_at: str

    @property
    def next_share(self) -> float:
        """The share after the present one."""
        return self.rules.shares[self.step + 1]

    def after(self, entry: Entry) -> Canary:
        """Return the canary after its next step."""
        return replace(self, share=self.next_share, step=self.step + 1, stepped_at=entry.at)

    @classmethod
    def started(cls, entry: Entry) -> Canary:
        """Return the canary that an entry starts, which has passed the check of the log."""
        body = entry.body
        rules = CanaryRules.read(body["rules"])
        baseline = f"{body['model_id']}@{body['version']}"
        return cls(entry.number, body["candidate"], baseline, rules.shares[0], 0, rules, entry.at, entry.at)
