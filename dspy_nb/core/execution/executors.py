"""Run many examples on any ``concurrent.futures.Executor``: other processes, or a cluster of machines.

Work travels in chunks, by cloudpickle. A task begins no example once it has run for two seconds, and hands
back what it did not get to: so on any cluster a stopped run comes to rest, the load stays balanced, and a
lost worker costs little. What a lost worker was at is done again in smaller chunks, until the example that
kills its worker is found.
"""

from __future__ import annotations

import asyncio
import contextlib
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
from dspy_nb.core.execution.attempts import Failure, Job, Outcome, Tally, Work, timeout
from dspy_nb.core.execution.dask import DaskCluster
from dspy_nb.core.execution.opening import Opening
from dspy_nb.core.execution.travel import CannotLoad, LocalTask, RemoteTask
from dspy_nb.core.text import error_text

logger = logging.getLogger(__name__)

_LEASE_S = 2.0
_GRACE_S = 0.5
_POLL_S = 0.1
_LARGEST_CHUNK = 256
_PARTS = 8  # of a chunk that lost its worker: 256, 32, 4, 1 examples, at a new worker each time
_SILENCE_S = 30.0  # after which tasks that should have been back are given up: starting a worker takes some


def run_on(
    executor: Executor,
    work: Work,
    jobs: Sequence[Job],
    *,
    num_threads: int | None = None,
    timeout_s: float | None = None,
    stop: threading.Event | None = None,
    progress: Callable[[Tally], None] | None = None,
    opening: Opening | None = None,
) -> list[Outcome | None]:
    """Do the work on every job, in tasks of an executor; otherwise as ``threads.run``.

    When the run is stopped, other processes begin nothing more after two seconds, and what they hand in by
    then is kept (not from Dask, which does not tell what has begun).

    A chunk whose worker dies is tried again in parts, and these in smaller ones. An example that is lost twice
    runs alone, where it could have been another one that the worker died of, such as in a pool that broke; and
    one whose worker died of it twice is a failure of kind ``WorkerLost``. A ``ProcessPoolExecutor`` that broke
    is replaced by one of the same make, and so is loky's.

    Args:
        executor: Where to run. For a ``ThreadPoolExecutor`` nothing is pickled.
        work: What to do.
        jobs: The examples.
        num_threads: Jobs under way at once in each task; by default 1 on a ``ThreadPoolExecutor``, and
            ``dspy.settings.num_threads`` elsewhere.
        timeout_s: See ``threads.run``.
        stop: See ``threads.run``.
        progress: See ``threads.run``.
        opening: See ``threads.run``.

    Raises:
        InputError: Something cannot travel to the workers, or cannot be loaded there, or the executor is
            shut down, keeps losing its workers or has none left; the message says what. If some examples are
            answered by then, it is logged, and the run ends as if stopped.
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
                dispatch.watch(timeout_s)
                if opening is not None and opening.error is not None:
                    break
                if progress:
                    progress(dispatch.tally)
        with contextlib.suppress(KeyboardInterrupt):
            dispatch.halt()
            dispatch.collect(_LEASE_S + _GRACE_S, ALL_COMPLETED)
    except InputError as error:
        if dispatch.tally.done == dispatch.tally.failed:
            raise
        logger.error("%s; what was finished is kept", error)  # it has been paid for
    finally:
        dispatch.close()
    return dispatch.outcomes


def _call(task: LocalTask | RemoteTask, packed: Any) -> Any:
    return task(packed)


@dataclass(eq=False)
class _Chunk:
    """Some jobs that travel together.

    Attributes:
        places: Their places among all jobs.
        losses: How often it was lost with its worker.
        deaths: How often its worker died of nothing else; of one example only.
    """

    places: list[int]
    losses: int = 0
    deaths: int = 0

    @property
    def suspect(self) -> bool:
        return self.losses > 1 and len(self.places) == 1


_PROBE = _Chunk([])  # whether workers come to life at all


@dataclass(eq=False)
class _Dispatch:
    """Hands out chunks and takes in outcomes."""

    executor: Executor
    task: LocalTask | RemoteTask
    work: Work
    jobs: Sequence[Job]
    opening: Opening | None

    def __post_init__(self) -> None:
        number = len(self.jobs)
        self.outcomes: list[Outcome | None] = [None] * number
        self.tally = Tally()
        self._ours = False  # whether the executor is one that we made
        self._dask = DaskCluster(self.executor) if DaskCluster.has(self.executor) else None
        size = max(1, min(_LARGEST_CHUNK, number // (4 * self._width)))
        chunks = (range(at, min(at + size, number)) for at in range(0, number, size))
        self._waiting = deque(_Chunk(list(chunk)) for chunk in chunks)
        self._flying: dict[Future[Any], tuple[_Chunk, Executor]] = {}
        self._losses_in_a_row = 0
        self._heard = time.monotonic()
        self._late: set[Future[Any]] = set()

    @property
    def _width(self) -> int:
        """How many tasks run at once, as far as that can be known."""
        if self._dask:
            return self._dask.width
        return int(getattr(self.executor, "_max_workers", None) or os.cpu_count() or 1)

    @property
    def _one_by_one(self) -> bool:
        """Whether it is known which task a worker was at when it died."""
        return self._dask is not None and self._dask.one_by_one

    def submit(self) -> bool:
        """Keep every worker busy, with a chunk in reserve for each; False if there is nothing left to do."""
        while self._waiting and len(self._flying) < 2 * self._width:
            chunk = self._waiting[0]
            if self._flying and (
                self._alone(chunk) or any(self._alone(one) for one, _ in self._flying.values())
            ):
                break
            wary = self.opening is not None and self.opening.undecided
            packed = self.task.pack([self.jobs[place] for place in chunk.places], wary)
            try:
                future = (self._dask or self.executor).submit(_call, self.task, packed)
            except BrokenExecutor as error:
                self._replace(self.executor, error)
            except Exception as error:
                raise InputError(f"executor takes no work: {error_text(error)}") from error
            else:
                self._waiting.popleft()
                self._flying[future] = chunk, self.executor
        return bool(self._flying)

    def collect(self, timeout_s: float, until: str = FIRST_COMPLETED) -> None:
        """Wait for chunks and take them in."""
        landed, _ = wait(self._flying, timeout=timeout_s, return_when=until)
        for future in landed:
            self._heard = time.monotonic()
            chunk, executor = self._flying.pop(future)
            try:
                outcomes = self.task.unpack(future.result())
            except CannotLoad as error:
                raise InputError(
                    f"the executor's workers cannot load the work: {error_text(error)}"
                ) from None
            # The task raises nothing else of its own: its worker is lost.
            except (Exception, asyncio.CancelledError) as error:
                if isinstance(error, BrokenExecutor):
                    self._replace(executor, error)
                guilty = self._dask is None or self._dask.under_way(future)
                what = Failure.of(error, f"{type(error).__name__}: ").message
                self._lose(chunk, Failure("WorkerLost", what), guilty=guilty)
            else:
                self._losses_in_a_row = 0
                self._keep(chunk, outcomes)

    def watch(self, timeout_s: float | None) -> None:
        """See to it that there are workers, and that none of them hangs."""
        if self._dask:
            self._dask.watch()
        if timeout_s is None or isinstance(self.task, LocalTask) or not self._flying:
            return
        # A task is back soon after the limit of its last example, unless the whole process hangs.
        if time.monotonic() - self._heard > timeout_s + _LEASE_S + _SILENCE_S:
            self._give_up(timeout(timeout_s))

    def halt(self) -> None:
        """Let nothing begin any more, and forget what has not begun."""
        if isinstance(self.task, LocalTask):
            self.task.stop.set()
        self._flying = {future: item for future, item in self._flying.items() if not future.cancel()}

    def close(self) -> None:
        """Leave what is still under way."""
        self.halt()
        if self._dask:
            self._dask.close()
        if self._ours:
            _end(self.executor, kill=bool(self._flying))

    def _keep(self, chunk: _Chunk, outcomes: list[Outcome | None]) -> None:
        left = []
        for place, outcome in zip(chunk.places, outcomes, strict=True):
            if outcome is None:
                left.append(place)
            else:
                self._record(place, outcome)
        if left:
            self._waiting.appendleft(_Chunk(left, chunk.losses))

    def _alone(self, chunk: _Chunk) -> bool:
        """Whether nothing else may be under way with a chunk, so that what happens to it is its own doing."""
        return chunk is _PROBE or (chunk.suspect and not self._one_by_one)

    def _lose(self, chunk: _Chunk, failure: Failure, *, guilty: bool) -> None:
        if chunk is _PROBE:
            raise InputError(f"executor keeps losing its workers: {failure.message}")
        self._losses_in_a_row += 1
        # Twice all that is under way, and then some, for the chunks that are split.
        if self._losses_in_a_row > 4 * self._width + 10 and _PROBE not in self._waiting:
            self._waiting.appendleft(_PROBE)
        losses = chunk.losses + guilty
        if guilty and (size := len(chunk.places)) > 1:
            step = -(-size // _PARTS)
            parts = [chunk.places[at : at + step] for at in range(0, size, step)]
            self._waiting.extend(_Chunk(part, losses) for part in parts)
            return
        deaths = chunk.deaths + (guilty and (self._alone(chunk) or self._one_by_one))
        if deaths > 1:
            self._record(chunk.places[0], self.work.fail(failure, None, time.perf_counter()))
        else:
            self._waiting.append(_Chunk(chunk.places, losses, deaths))

    def _give_up(self, failure: Failure) -> None:
        """Part with workers that hang, and lose what they are at; not where they are busy with other work."""
        self._heard = time.monotonic()
        pending = getattr(self.executor, "_pending_work_items", None)
        if self._dask:
            under_way = {future for future in self._flying if self._dask.under_way(future)}
            hanging, self._late = under_way & self._late, under_way  # those that were a time limit ago, too
            self._dask.restart(hanging)
        elif pending is not None and len(pending) <= len(self._flying) and (pool := _like(self.executor)):
            hanging = set(self._flying)
            _end(self.executor, kill=True)
            self.executor, self._ours = pool, True
        else:
            return
        for future in hanging:
            chunk, _ = self._flying.pop(future)
            future.cancel()
            self._lose(chunk, failure, guilty=True)

    def _record(self, place: int, outcome: Outcome) -> None:
        self.outcomes[place] = outcome
        self.tally.take(outcome)
        if self.opening is not None:
            self.opening.take(self.jobs[place], outcome)

    def _replace(self, broken: Executor, error: BrokenExecutor) -> None:
        """Go on with a new pool of processes like the one that broke, unless that has been done."""
        if broken is not self.executor:
            return
        pool = _like(broken)
        if pool is None:
            raise InputError(f"executor is broken: {error_text(error)}") from error
        if self._ours:
            _end(broken, kill=False)
        self.executor, self._ours = pool, True


def _like(pool: Any) -> Executor | None:
    """Return a new pool of processes of the same make; they say only in private how they were made."""
    if isinstance(pool, ProcessPoolExecutor):
        given: Any = pool
        return ProcessPoolExecutor(
            given._max_workers,
            mp_context=given._mp_context,
            initializer=given._initializer,
            initargs=given._initargs,
            max_tasks_per_child=given._max_tasks_per_child,
        )
    if hasattr(type(pool), "get_reusable_executor"):  # loky, and joblib's copy of it
        names = ("context", "timeout", "initializer", "initargs", "env")
        settings = {name: getattr(pool, f"_{name}") for name in names}
        again = {"reuse": False, "kill_workers": True}
        made: Executor = type(pool).get_reusable_executor(pool._max_workers, **settings, **again)[0]
        return made
    return None


def _end(pool: Any, *, kill: bool) -> None:
    """Shut a pool of processes down; kill them if they hang."""
    processes = list((pool._processes or {}).values())
    pool.shutdown(wait=False)
    for process in processes if kill else ():
        process.kill()
