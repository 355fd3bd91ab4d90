"""How a program, its language models and its answers get to other processes and back."""

from __future__ import annotations

import contextvars
import io
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import cloudpickle
import dspy

from dspy_nb.core.errors import InputError
from dspy_nb.core.execution import threads
from dspy_nb.core.execution.attempts import Job, Outcome, Work
from dspy_nb.core.execution.opening import Opening
from dspy_nb.core.programs.seams import default_settings
from dspy_nb.core.text import error_text

# What belongs to this process, or to one call.
_STAYS_HOME = (
    *("branch_idx", "caller_modules", "caller_predict", "callbacks"),
    *("send_stream", "stream_listeners", "trace", "usage_tracker"),
)


class CannotLoad(Exception):
    """What travelled cannot be unpacked there."""


@dataclass(frozen=True)
class LocalTask:
    """Does a chunk of the work in a thread of this process, in the context of the one that made the task.

    Attributes:
        work: What to do.
        num_threads: Jobs under way at once.
        timeout_s: See ``threads.run``.
        lease_s: Seconds after which no job is begun.
        stop: Stops it at once.
        context: Holds the DSPy settings, which a thread pool does not hand on.
    """

    work: Work
    num_threads: int
    timeout_s: float | None
    lease_s: float
    stop: threading.Event
    context: contextvars.Context = field(default_factory=contextvars.copy_context)

    def pack(self, jobs: Sequence[Job], wary: bool = False) -> Any:
        """Return what is to be given to the task.

        Args:
            jobs: What to do.
            wary: Begin no other once the first ones show that there will be no score.
        """
        return list(jobs), wary

    def __call__(self, packed: Any) -> Any:
        """Return the outcomes of some jobs, ``None`` for those not begun."""
        jobs, wary = packed
        return self.context.copy().run(
            threads.run,
            self.work,
            jobs,
            num_threads=self.num_threads,
            timeout_s=self.timeout_s,
            deadline=time.monotonic() + self.lease_s,
            stop=self.stop,
            opening=Opening() if wary else None,
        )

    def unpack(self, outcomes: Any) -> list[Outcome | None]:
        """Return what the task returned."""
        return list(outcomes)


@dataclass(frozen=True)
class RemoteTask:
    """Does a chunk of the work in another process, which needs dspy_nb installed.

    Attributes:
        packed: The work; the other process unpacks it once.
        num_threads: Jobs under way at once.
        timeout_s: See ``threads.run``.
        lease_s: Seconds after which no job is begun.
    """

    packed: bytes
    num_threads: int
    timeout_s: float | None
    lease_s: float

    @classmethod
    def of(cls, work: Work, num_threads: int, timeout_s: float | None, lease_s: float) -> RemoteTask:
        """Pack the work, with the DSPy settings in force here.

        Raises:
            InputError: A part of it cannot be pickled; the message says which.
        """
        defaults = {name: value for name, value in default_settings().items() if name not in _STAYS_HOME}
        here = {name: dspy.settings.get(name) for name in defaults}
        changed = {name: value for name, value in here.items() if value != defaults[name]}
        settings = tuple({**changed, **own} for own in work.settings)
        try:
            packed = _dumps(Work(work.programs, settings, work.metrics, {}))
        except Exception as error:
            raise _cannot_travel(work, settings[0], error) from error
        return cls(packed, num_threads, timeout_s, lease_s)

    def pack(self, jobs: Sequence[Job], wary: bool = False) -> Any:
        """Return what is to be given to the task; see ``LocalTask.pack``.

        Raises:
            InputError: An example cannot be pickled.
        """
        try:
            return _dumps((list(jobs), wary))
        except Exception as error:
            raise InputError(
                f"the examples cannot travel to the executor's workers: {error_text(error)}"
            ) from error

    def __call__(self, packed: Any) -> Any:
        """Return the packed outcomes of some packed jobs."""
        try:
            work, unpacked = _unpack(self.packed), cloudpickle.loads(packed)
        except Exception as error:
            raise CannotLoad(f"{type(error).__name__}: {error_text(error)}") from None
        task = LocalTask(work, self.num_threads, self.timeout_s, self.lease_s, threading.Event())
        outcomes = task(unpacked)
        try:
            return _dumps(outcomes)
        except Exception:
            return _dumps([outcome and _as_text(outcome) for outcome in outcomes])

    def unpack(self, outcomes: Any) -> list[Outcome | None]:
        """Return the outcomes."""
        return list(cloudpickle.loads(outcomes))


@lru_cache(maxsize=1)
def _unpack(packed: bytes) -> Any:
    """Return the work: every chunk of a run brings the same."""
    return cloudpickle.loads(packed)


class _Pickler(cloudpickle.Pickler):
    """Leaves the history of a language model at home: up to 10,000 prompts."""

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, dspy.BaseLM) and obj.history:
            return obj.copy().__reduce_ex__(5)
        return super().reducer_override(obj)


def _cannot_travel(work: Work, settings: dict[str, Any], error: Exception) -> InputError:
    """Say which part of the work it is that cannot be pickled."""
    named = "the work"
    metrics = [(f"metric {metric.label}", metric) for metric in work.metrics]
    for part, value in [("the program", work.programs), *metrics, *settings.items()]:
        try:
            _dumps(value)
        except Exception as cause:
            named, error = part, cause
            break
    reason = error_text(error, 200)
    return InputError(
        f"{named} cannot travel to the executor's workers ({type(error).__name__}: {reason}); "
        "make it picklable, or leave executor out to run in threads"
    )


def _dumps(value: Any) -> bytes:
    buffer = io.BytesIO()
    _Pickler(buffer, protocol=5).dump(value)
    return buffer.getvalue()


def _as_text(outcome: Outcome) -> Outcome:
    return replace(outcome, predicted={name: str(value) for name, value in outcome.predicted.items()})
