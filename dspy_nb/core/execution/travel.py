"""How a program, its language models and its answers get to other processes and back."""

from __future__ import annotations

import contextlib
import contextvars
import io
import site
import sys
import sysconfig
import threading
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from operator import attrgetter
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

import cloudpickle
import dspy

from dspy_nb.core.errors import InputError
from dspy_nb.core.execution import threads
from dspy_nb.core.execution.attempts import Job, Outcome, Work
from dspy_nb.core.execution.courier import Answer, Courier, Known
from dspy_nb.core.execution.leases import Lease
from dspy_nb.core.execution.opening import Opening
from dspy_nb.core.execution.shield import SHIELD
from dspy_nb.core.programs.lm_call import LMCall
from dspy_nb.core.programs.seams import default_settings, serialize_by_value
from dspy_nb.core.programs.spec import predictors_of
from dspy_nb.core.programs.usage import Usage
from dspy_nb.core.text import error_text

# What belongs to this process, or to one call.
_STAYS_HOME = (
    *("branch_idx", "caller_modules", "caller_predict", "callbacks"),
    *("send_stream", "stream_listeners", "trace", "usage_tracker"),
)


class CannotLoad(Exception):
    """What travelled cannot be unpacked there.

    Args:
        text: Why.
        key: Of the task.
        missing: The module that is not there, "" if that is not why.
    """

    def __init__(self, text: str, key: str = "", missing: str = "") -> None:
        super().__init__(text, key, missing)
        self.key = key
        self.missing = missing

    def __str__(self) -> str:
        return str(self.args[0])


class Handed(NamedTuple):
    """What a task hands in.

    Attributes:
        outcomes: One for each job, ``None`` for those not begun, or not finished.
        receipt: What it has spent of its lease.
        answers: What language models answered, where the run keeps that.
    """

    outcomes: list[Outcome | None]
    receipt: Any = None
    answers: Sequence[Answer] = ()


class Parcel(NamedTuple):
    """What a task is given.

    Attributes:
        jobs: What to do.
        wary: Begin no other once the first ones show that there will be no score.
        lease: What it may spend.
        known: Answers that the run knows.
    """

    jobs: list[Job]
    wary: bool = False
    lease: Lease | None = None
    known: Sequence[Known] = ()


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

    def pack(self, parcel: Parcel) -> Any:
        """Return what is to be given to the task."""
        return parcel

    def without_work(self) -> LocalTask:
        """Return the task: nothing travels."""
        return self

    def __call__(self, parcel: Parcel) -> Any:
        """Do it, and return what it came to."""
        outcomes: list[Outcome | None] = [None] * len(parcel.jobs)
        self.run(parcel, outcomes)
        return Handed(outcomes)

    def run(self, parcel: Parcel, outcomes: list[Outcome | None]) -> None:
        """Do it, and fill in the outcomes as they come."""
        self.context.copy().run(
            threads.run,
            self.work,
            parcel.jobs,
            num_threads=self.num_threads,
            timeout_s=self.timeout_s,
            deadline=time.monotonic() + self.lease_s,
            stop=self.stop,
            landed=outcomes.__setitem__,
            opening=Opening() if parcel.wary else None,
        )

    def unpack(self, handed: Any) -> Handed:
        """Return what the task returned."""
        return cast("Handed", handed)


@dataclass(frozen=True)
class RemoteTask:
    """Does a chunk of the work in another process, which needs dspy_nb installed.

    Attributes:
        key: Tells this work from other work.
        packed: The work, which the other process unpacks once; ``None`` if it has come there before.
        num_threads: Jobs under way at once.
        timeout_s: See ``threads.run``.
        lease_s: Seconds after which no job is begun.
        run: Tells runs that keep their answers apart; "" where they are not kept.
        carried: Modules that travel along.
    """

    key: str
    packed: bytes | None
    num_threads: int
    timeout_s: float | None
    lease_s: float
    run: str = ""
    carried: tuple[str, ...] = ()

    @classmethod
    def of(
        cls, work: Work, num_threads: int, timeout_s: float | None, lease_s: float, run: str = ""
    ) -> RemoteTask:
        """Pack the work, with the DSPy settings in force here.

        Raises:
            InputError: A part of it cannot be pickled; the message says which.
        """
        defaults = {name: value for name, value in default_settings().items() if name not in _STAYS_HOME}
        here = {name: dspy.settings.get(name) for name in defaults}
        changed = {name: value for name, value in here.items() if value != defaults[name]}
        settings = tuple({**changed, **own} for own in work.settings)
        try:
            packed = _dumps(work.under(settings))
        except Exception as error:
            raise _cannot_travel(work, settings, error) from error
        return cls(uuid.uuid4().hex, packed, num_threads, timeout_s, lease_s, run, tuple(_CARRIED))

    def without_work(self) -> RemoteTask:
        """Return the task for workers that have the work already, which saves the way."""
        return replace(self, packed=None)

    def pack(self, parcel: Parcel) -> Any:
        """Return what is to be given to the task.

        Raises:
            InputError: An example cannot be pickled.
        """
        try:
            return _dumps(parcel)
        except Exception as error:
            raise InputError(
                f"the examples cannot travel to the executor's workers: {error_text(error)}"
            ) from error

    def __call__(self, packed: Any) -> Any:
        """Return what some packed jobs came to, packed; ``_NO_WORK`` if the work is not there."""
        try:
            work, parcel = _work_of(self), cloudpickle.loads(packed)
        except Exception as error:
            missing = error.name if isinstance(error, ModuleNotFoundError) and error.name else ""
            return _dumps(CannotLoad(f"{type(error).__name__}: {error_text(error)}", self.key, missing))
        if work is None:
            return _NO_WORK
        outcomes: list[Outcome | None] = [None] * len(parcel.jobs)
        courier = Courier(self.run) if self.run else None
        with contextlib.ExitStack() as stack:
            stack.enter_context(SHIELD)
            if courier is not None:
                courier.learn(parcel.known)
                stack.enter_context(courier.at_work())
            spending = None if parcel.lease is None else stack.enter_context(parcel.lease.spend())
            task = LocalTask(work, self.num_threads, self.timeout_s, self.lease_s, threading.Event())
            task.run(parcel, outcomes)
        receipt = None if spending is None else spending.spent()
        handed = Handed(outcomes, receipt, () if courier is None else courier.new)
        try:
            return _dumps(handed)
        except Exception:
            texts = [outcome and _as_text(outcome) for outcome in outcomes]
            return _dumps(handed._replace(outcomes=texts))

    def unpack(self, handed: Any) -> Handed | None:
        """Return what it handed in, ``None`` if the work was not there.

        Raises:
            CannotLoad: It could not be unpacked there.
        """
        if handed == _NO_WORK:
            return None
        found = cloudpickle.loads(handed)
        if isinstance(found, CannotLoad):
            raise found
        return cast("Handed", found)


_NO_WORK: Final = b""
_WORK: Final[dict[str, Any]] = {}  # of this process, by key, the latest few
_WORK_LOCK: Final = threading.Lock()
_MOST_WORK: Final = 4


def _work_of(task: RemoteTask) -> Any:
    """Return the work of a task, unpacked once in a process; ``None`` if it has not come here."""
    with _WORK_LOCK:
        if task.key not in _WORK and task.packed is not None:
            _WORK[task.key] = cloudpickle.loads(task.packed)
            while len(_WORK) > _MOST_WORK:
                del _WORK[next(iter(_WORK))]
        return _WORK.get(task.key)


# Field by field, which takes a quarter of what pickle takes for a frozen dataclass.
_FIELDS: Final = {
    cls: attrgetter(*(each.name for each in fields(cls))) for cls in (Job, Outcome, LMCall, Usage)
}


class _Pickler(cloudpickle.Pickler):
    """Leaves the history of a language model at home: up to 10,000 prompts."""

    def reducer_override(self, obj: Any) -> Any:
        if (values := _FIELDS.get(type(obj))) is not None:
            return type(obj), values(obj)
        if isinstance(obj, dspy.BaseLM) and obj.history:
            return obj.copy().__reduce_ex__(5)
        return super().reducer_override(obj)


def _cannot_travel(work: Work, settings: Sequence[dict[str, Any]], error: Exception) -> InputError:
    """Say which part of the work it is that cannot be pickled."""
    named = "the work"
    lms = [(f"the language model {lm.model}", lm) for lm in _lms(work, settings)]
    metrics = [(f"metric {metric.label}", metric) for metric in work.metrics]
    parts = {name: value for own in settings for name, value in own.items()}
    for part, value in [*lms, ("the program", work.programs), *metrics, *parts.items()]:
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


def _lms(work: Work, settings: Sequence[dict[str, Any]]) -> list[dspy.BaseLM]:
    """Return the language models that travel, those of predictors first."""
    modules = [program for program in work.programs if isinstance(program, dspy.Module)]
    own = [predictor.lm for module in modules for predictor in predictors_of(module)]
    return [lm for lm in (*own, *(one.get("lm") for one in settings)) if isinstance(lm, dspy.BaseLM)]


def _dumps(value: Any) -> bytes:
    buffer = io.BytesIO()
    with serialize_by_value([sys.modules[name] for name in _CARRIED if name in sys.modules]):
        _Pickler(buffer, protocol=5).dump(value)
    return buffer.getvalue()


_CARRIED: Final[dict[str, None]] = {}
"""Modules that some workers lacked, and that travel along since."""


def carry(module: str) -> bool:
    """Let a module travel along from now on; False if it is to be installed where the workers are."""
    found = sys.modules.get(module)
    file = getattr(found, "__file__", None) or next(iter(getattr(found, "__path__", ())), None)
    if file is None or any(Path(file).is_relative_to(folder) for folder in _INSTALLED):
        return False
    _CARRIED[module] = None
    return True


_INSTALLED: Final = [
    *(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")),
    *site.getsitepackages(),
    site.getusersitepackages(),
]


def _as_text(outcome: Outcome) -> Outcome:
    return replace(outcome, predicted={name: str(value) for name, value in outcome.predicted.items()})
