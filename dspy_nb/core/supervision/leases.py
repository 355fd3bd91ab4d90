"""The purse of a guard: a run's budget, handed out to the tasks of an executor in small parts.

A task gets twice what its examples are known to take at most, as far as that is left, and what it has not spent
comes back with it. So the sum of all that is handed out never exceeds what is left, and a task ends early only near
the end of the budget: there it gets fewer examples, and the last one all that is left.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import dspy

from dspy_nb.core.execution.attempts import Outcome
from dspy_nb.core.execution.leases import PURSE_SETTING
from dspy_nb.core.supervision.budget import Budget, Spent
from dspy_nb.core.supervision.guard import Guard, StopRun

_SLACK: Final = 2.0  # times what an example took at most
_LIMITS: Final = ("lm_calls", "tokens", "usd")


@dataclass(frozen=True, eq=False)
class BudgetLease:
    """What one task may spend.

    Attributes:
        budget: Its limits.
        program: Class of the program, of which each call must return a prediction.
        kind: What keeps the task to it.
    """

    budget: Budget
    program: type[dspy.Module] | None
    kind: type[Guard] = Guard

    @contextlib.contextmanager
    def spend(self) -> Iterator[Guard]:
        """Keep what happens within to the lease, as a run is kept to its budget."""
        guard = self.kind(self.budget, threading.Event(), program=self.program)
        others = [one for one in dspy.settings.callbacks if not isinstance(one, Guard)]
        with dspy.context(callbacks=others, usage_tracker=None), dspy.context(**guard.settings()):
            with contextlib.suppress(StopRun), dspy.context(**{PURSE_SETTING: None}):
                yield guard
            guard.halt("over")  # the first reason stays
            guard.wait_for_calls(self.budget.grace)
            guard.release()


@dataclass(eq=False)
class GuardPurse:
    """Hands out what is left of a guard's budget, and adds what is spent to what the guard has counted.

    Args:
        guard: The guard.
    """

    guard: Guard
    _out: set[BudgetLease] = field(default_factory=set)
    _most: dict[str, float] = field(default_factory=dict)  # that an example took, of each limit

    @property
    def grace_s(self) -> float:
        """Seconds that a run which was stopped waits."""
        return self.guard.budget.grace

    def lease(self, jobs: int, tasks: int) -> tuple[int, BudgetLease] | None:
        """Return a lease, and for how many jobs it is enough; see ``Purse``."""
        if self.guard.is_set():
            return None
        limits: dict[str, Any] = {}
        for name in _LIMITS:
            limit = getattr(self.guard.budget, name)
            if limit is None:
                continue
            spent = getattr(self.guard.usage, name)
            if spent is None:
                self.guard.halt(f"unknown {name}")
                return None
            left = limit - spent - sum(getattr(out.budget, name) for out in self._out)
            least = 1 if name == "lm_calls" else 1e-9 * limit
            if left < least:
                if not self._out:
                    self.guard.halt(name)
                return None
            need = self._most.get(name, 0.0) * _SLACK
            if need > left and self._out:
                return None
            if need:
                jobs = max(1, min(jobs, int(left / need)))
            limits[name] = left, need, tasks
        shares: dict[str, Any] = {name: self._share(name, jobs, *found) for name, found in limits.items()}
        budget = replace(self.guard.budget, **shares, seconds=self.guard.seconds_left)
        lease = BudgetLease(budget, self.guard.program, type(self.guard))
        self._out.add(lease)
        self._reserve()
        return jobs, lease

    def _share(self, name: str, jobs: int, left: float, need: float, tasks: int) -> float:
        """Return how much of what is left goes to so many jobs, where one is known to need so much."""
        share = min(jobs * need, left) if need else left / tasks
        return max(1, int(share)) if name in ("lm_calls", "tokens") else share

    def settle(self, lease: BudgetLease, receipt: Spent | None, outcomes: Sequence[Outcome]) -> None:
        """Take in what a task has spent; see ``Purse``."""
        self._out.remove(lease)
        for outcome in outcomes:
            used = outcome.usage + outcome.metric_usage
            calls = used.lm_calls + used.cache_hits
            for name, took in (("lm_calls", calls), ("tokens", used.tokens), ("usd", used.usd)):
                self._most[name] = max(self._most.get(name, 0.0), took or 0.0)
        self._reserve()
        if receipt is not None:
            self.guard.take_in(receipt)

    def _reserve(self) -> None:
        self.guard.reserve(sum(out.budget.lm_calls or 0 for out in self._out))


def purse_of(guard: Guard) -> dict[str, Any]:
    """Return the DSPy settings (for ``dspy.context``) that let executors spend what a guard watches over."""
    return {PURSE_SETTING: GuardPurse(guard)}
