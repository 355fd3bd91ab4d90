"""Run many examples on any ``concurrent.futures.Executor``: other processes, or a cluster of machines.

Work travels in chunks, by cloudpickle. A task begins no example once it has run for two seconds, and hands
back what it did not get to: so on any cluster a stopped run comes to rest, the load stays balanced, and a
lost worker costs little.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import (
    ALL_COMPLETED,
    FIRST_COMPLETED,
    BrokenExecutor,
    Executor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
    wait,
)
from dataclasses import dataclass
from typing import Any

import dspy

from dspy_nb.core.errors import InputError
from dspy_nb.core.evaluation.attempts import Failure, Job, Outcome, Work
from dspy_nb.core.evaluation.opening import Opening
from dspy_nb.core.evaluation.travel import CannotLoad, LocalTask, RemoteTask
from dspy_nb.core.programs.usage import Usage
from dspy_nb.core.text import error_text

__all__ = ["run_on"]

logger = logging.getLogger(__name__)

_LEASE_S = 2.0
_GRACE_S = 0.5
_POLL_S = 0.1
_LARGEST_CHUNK = 256
_PARTS = 8  # of a chunk that lost its worker: 256, 32, 4, 1 examples, at a new worker each time


def run_on(
    executor: Executor,
    work: Work,
    jobs: Sequence[Job],
    *,
    num_threads: int | None = None,
    timeout_s: float | None = None,
    stop: threading.Event | None = None,
    progress: Callable[[int, int], None] | None = None,
    opening: Opening | None = None,
) -> list[Outcome | None]:
    """Do the work on every job, in tasks of an executor; otherwise as ``execution.run``.

    When the run is stopped, other processes begin nothing more after two seconds, and what they hand in by
    then is kept (not from Dask, which does not tell what has begun).

    Chunks whose worker dies are tried again. A chunk that is lost twice then runs alone, in ever smaller
    parts, until the example that kills its worker is found: it is a failure of kind ``WorkerLost``. A
    ``ProcessPoolExecutor`` that broke is replaced by one of the same make.

    Args:
        executor: Where to run. For a ``ThreadPoolExecutor`` nothing is pickled.
        work: What to do.
        jobs: The examples.
        num_threads: Jobs under way at once in each task; by default 1 on a ``ThreadPoolExecutor``, and
            ``dspy.settings.num_threads`` elsewhere.
        timeout_s: See ``execution.run``.
        stop: See ``execution.run``.
        progress: See ``execution.run``.
        opening: See ``execution.run``.

    Raises:
        InputError: Something cannot travel to the workers, or cannot be loaded there, or the executor is
            shut down or keeps losing its workers; the message says what. If some examples are answered by
            then, it is logged, and the run ends as if stopped.
    """
    task: LocalTask | RemoteTask
    if isinstance(executor, ThreadPoolExecutor):
        task = LocalTask(work, num_threads or 1, timeout_s, _LEASE_S, threading.Event())
    else:
        task = RemoteTask.of(work, num_threads or dspy.settings.num_threads, timeout_s, _LEASE_S)
    dispatch = _Dispatch(executor, task, work, jobs, opening)
    try:
        with contextlib.suppress(KeyboardInterrupt):
            while dispatch.submit() and not (stop is not None and stop.is_set()):
                dispatch.collect(_POLL_S)
                if opening is not None and opening.error is not None:
                    break
                if progress:
                    progress(dispatch.done, dispatch.failed)
        with contextlib.suppress(KeyboardInterrupt):
            dispatch.halt()
            dispatch.collect(_LEASE_S + _GRACE_S, ALL_COMPLETED)
    except InputError as error:
        if dispatch.done == dispatch.failed:
            raise
        logger.error("%s; what was finished is kept", error)  # it has been paid for
    finally:
        dispatch.close()
    return dispatch.outcomes


def _call(task: LocalTask | RemoteTask, packed: Any, serial: int) -> Any:
    return task(packed)


@dataclass(eq=False)
class _Chunk:
    """Some jobs that travel together.

    Attributes:
        places: Their places among all jobs.
        losses: How many workers died of it.
    """

    places: list[int]
    losses: int = 0

    @property
    def suspect(self) -> bool:
        return self.losses > 1


class _Dispatch:
    """Hands out chunks and takes in outcomes."""

    def __init__(
        self,
        executor: Executor,
        task: LocalTask | RemoteTask,
        work: Work,
        jobs: Sequence[Job],
        opening: Opening | None,
    ) -> None:
        self.outcomes: list[Outcome | None] = [None] * len(jobs)
        self.done = 0
        self.failed = 0
        self._jobs = jobs
        self._work = work
        self._task = task
        self._opening = opening
        self._executor = executor
        self._ours = False  # whether the executor is one that we made
        self._width = _width(executor)
        size = max(1, min(_LARGEST_CHUNK, len(jobs) // (4 * self._width)))
        starts = range(0, len(jobs), size)
        self._waiting = deque(_Chunk(list(range(at, min(at + size, len(jobs))))) for at in starts)
        self._flying: dict[Future[Any], tuple[_Chunk, Executor]] = {}
        self._losses_in_a_row = 0
        self._serial = itertools.count()

    def submit(self) -> bool:
        """Keep every worker busy, with a chunk in reserve for each; False if there is nothing left to do."""
        while self._waiting and len(self._flying) < 2 * self._width:
            # A suspect flies alone, so that what happens to it is its own doing.
            alone = self._waiting[0].suspect or any(chunk.suspect for chunk, _ in self._flying.values())
            if alone and self._flying:
                break
            chunk = self._waiting[0]
            wary = self._opening is not None and self._opening.undecided
            packed = self._task.pack([self._jobs[place] for place in chunk.places], wary)
            try:
                # The serial number keeps Dask from taking a second try for the same task as the first.
                future = self._executor.submit(_call, self._task, packed, next(self._serial))
            except BrokenExecutor as error:
                self._replace(self._executor, error)
            except RuntimeError as error:
                raise InputError(f"executor takes no work: {error_text(error)}") from error
            else:
                self._waiting.popleft()
                self._flying[future] = chunk, self._executor
        return bool(self._flying)

    def collect(self, timeout_s: float, until: str = FIRST_COMPLETED) -> None:
        """Wait for chunks and take them in."""
        landed, _ = wait(self._flying, timeout=timeout_s, return_when=until)
        for future in landed:
            chunk, executor = self._flying.pop(future)
            try:
                outcomes = self._task.unpack(future.result())
            except CannotLoad as error:
                raise InputError(
                    f"the executor's workers cannot load the work: {error_text(error)}"
                ) from None
            except Exception as error:  # the task raises nothing else of its own: its worker is lost
                if isinstance(error, BrokenExecutor):
                    self._replace(executor, error)
                self._lose(chunk, error)
            else:
                self._losses_in_a_row = 0
                self._keep(chunk, outcomes)

    def halt(self) -> None:
        """Let nothing begin any more, and forget what has not begun."""
        if isinstance(self._task, LocalTask):
            self._task.stop.set()
        self._flying = {future: item for future, item in self._flying.items() if not future.cancel()}

    def close(self) -> None:
        """Leave what is still under way."""
        self.halt()
        if self._ours:
            self._executor.shutdown(wait=False, cancel_futures=True)

    def _keep(self, chunk: _Chunk, outcomes: list[Outcome | None]) -> None:
        left = []
        for place, outcome in zip(chunk.places, outcomes, strict=True):
            if outcome is None:
                left.append(place)
            else:
                self._record(place, outcome)
        if left:
            self._waiting.appendleft(_Chunk(left))

    def _lose(self, chunk: _Chunk, error: Exception) -> None:
        self._losses_in_a_row += 1
        # Twice all that is under way, and then some, for the chunks that are split.
        if self._losses_in_a_row > 4 * self._width + 10:
            raise InputError(
                f"executor keeps losing its workers: {type(error).__name__}: {error_text(error)}"
            ) from error
        if not chunk.suspect:
            self._waiting.appendleft(_Chunk(chunk.places, chunk.losses + 1))
        elif (size := len(chunk.places)) > 1:
            step = -(-size // _PARTS)
            parts = [chunk.places[at : at + step] for at in range(0, size, step)]
            self._waiting.extendleft(_Chunk(part, chunk.losses) for part in reversed(parts))
        else:
            failure = Failure("WorkerLost", Failure.of(error, f"{type(error).__name__}: ").message)
            self._record(chunk.places[0], self._work.failed(failure, Usage(), time.perf_counter()))

    def _record(self, place: int, outcome: Outcome) -> None:
        self.outcomes[place] = outcome
        self.done += 1
        self.failed += outcome.failure is not None
        if self._opening is not None:
            self._opening.take(self._jobs[place], outcome)

    def _replace(self, broken: Executor, error: BrokenExecutor) -> None:
        """Make a new process pool like the one that broke, unless that has been done."""
        if broken is not self._executor:
            return
        if not isinstance(broken, ProcessPoolExecutor):
            raise InputError(f"executor is broken: {error_text(error)}") from error
        if self._ours:
            broken.shutdown(wait=False)
        pool: Any = broken  # takes no more work, and says only in private how it was made
        self._executor = ProcessPoolExecutor(
            pool._max_workers,
            mp_context=pool._mp_context,
            initializer=pool._initializer,
            initargs=pool._initargs,
            max_tasks_per_child=pool._max_tasks_per_child,
        )
        self._ours = True


def _width(executor: Executor) -> int:
    """Return how many tasks an executor runs at once, as far as that can be known."""
    client: Any = getattr(executor, "_client", None)
    if hasattr(client, "nthreads"):  # Dask
        return max(1, sum(client.nthreads().values()))
    return int(getattr(executor, "_max_workers", None) or os.cpu_count() or 1)
