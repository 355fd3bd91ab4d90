"""A budget that travels: what a task of an executor may spend, and what it says of it when it is back.

A budget cannot be looked at from another process. So each task gets a lease of a small part of it, which it keeps
to by itself, and hands in a receipt; what the lease holds that was not spent is free again then.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Final, Protocol

from dspy_nb.core.execution.attempts import Outcome

PURSE_SETTING: Final = "dspy_nb_purse"
"""The DSPy setting that holds the purse of the work in force."""


class Spending(Protocol):
    """What is spent of a lease, in the worker."""

    def spent(self) -> Any:
        """Return the receipt: what was spent, once nothing is under way any more; it travels home."""


class Lease(Protocol):
    """What one task may spend. It travels."""

    def spend(self) -> AbstractContextManager[Spending]:
        """Keep what happens within to the lease; reaching its end ends the work within, without an error."""


class Purse(Protocol):
    """Hands out leases and takes in receipts, at home."""

    @property
    def grace_s(self) -> float:
        """Seconds that a run which was stopped waits for receipts."""

    def lease(self, jobs: int, tasks: int) -> tuple[int, Lease] | None:
        """Return a lease, and for how many jobs it is enough; ``None`` as long as there is nothing left.

        Args:
            jobs: How many there are.
            tasks: How many tasks are under way at a time, about.
        """

    def settle(self, lease: Lease, receipt: Any, outcomes: Sequence[Outcome]) -> None:
        """Take in what a task has spent, and what came of it; ``None`` for one that was lost with its worker."""
