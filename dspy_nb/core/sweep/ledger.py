"""The one budget of a sweep: what was used, what is left, and work that is held to it to the call."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import dspy

from dspy_nb.core.programs.usage import Usage
from dspy_nb.core.supervision.budget import Budget, remaining
from dspy_nb.core.supervision.guard import Guard, StopRun

T = TypeVar("T")

_KEPT = 0.2


@dataclass
class Ledger:
    """What a sweep may use and has used.

    Attributes:
        budget: Of everything together.
        reserve: LM calls that are kept for the comparison of the finalists; of each other limit it is a fifth, for
            what it takes is not known before.
        stop: Ends the sweep when set.
        used: So far.
        started: ``time.monotonic`` of the beginning.
    """

    budget: Budget
    reserve: int
    stop: threading.Event
    used: Usage = field(default_factory=Usage)
    started: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """Since the sweep began."""
        return time.monotonic() - self.started

    def left(self, *, final: bool = False) -> Budget | str:
        """Return what is left, or the name of the limit that leaves nothing.

        Args:
            final: Whether it is for the finalists, so that nothing needs to be kept for them.
        """
        if final:
            return remaining(self.budget, self.used, self.seconds)
        limits: dict[str, Any] = {
            name: limit * (1 - _KEPT) for name, limit in self.budget.limits().items() if name != "lm_calls"
        }
        if "tokens" in limits:
            limits["tokens"] = max(int(limits["tokens"]), 1)
        budget = replace(self.budget, **limits)
        return remaining(budget, self.used, self.seconds, reserve=Usage(self.reserve))

    def share(self, parts: float, most: int | None = None) -> Budget | str:
        """Return what one of so many equal parts of what is left is; of LM calls at most ``most``."""
        left = self.left()
        if isinstance(left, str):
            return left
        own: dict[str, Any] = {name: limit / parts for name, limit in left.limits().items()}
        for name in own.keys() & {"lm_calls", "tokens"}:
            own[name] = max(int(own[name]), 1)
        if most is not None:
            own["lm_calls"] = min(own.get("lm_calls", most), most)
        return replace(left, **own)

    def held(self, left: Budget | str, work: Callable[[Limits], T], settings: Mapping[str, Any]) -> T | None:
        """Return what ``work`` returns within ``left``; ``None`` if that was not enough, or it was stopped.

        Args:
            left: What it may use.
            work: Gets what stops it.
            settings: DSPy settings.
        """
        if isinstance(left, str):
            return None
        limits = Limits(left, self.stop)
        try:
            with dspy.context(**settings), dspy.context(**limits.settings()):
                return work(limits)
        except StopRun:
            return None
        except BaseException:
            limits.halt("stop")
            raise
        finally:
            if limits.reason is not None:
                with contextlib.suppress(KeyboardInterrupt):
                    limits.wait_for_calls(self.budget.grace)
            limits.release()
            self.used += limits.usage


class Limits(Guard):
    """A guard that lets calls fail: a program that breaks is no reason to end the work on others."""

    def add_error(self, error: BaseException, where: str = "") -> None:
        """Count an error."""
        with self._settled:
            self.errors.add(error, where)


@contextlib.contextmanager
def interruptible(stop: threading.Event) -> Iterator[None]:
    """Make a stop of an interrupt that comes between two steps."""
    try:
        yield
    except KeyboardInterrupt:
        stop.set()
