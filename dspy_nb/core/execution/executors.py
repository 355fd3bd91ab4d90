"""Run many examples on any ``concurrent.futures.Executor``: other processes, or a cluster of machines.

Work travels in chunks, by cloudpickle. A task begins no example once it has run for two seconds, and hands
back what it did not get to: so on any cluster a stopped run comes to rest, the load stays balanced, and a
lost worker costs little. What a lost worker was at is done again in smaller chunks, until the example that
kills its worker is found.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import (
    ALL_COMPLETED,
    FIRST_COMPLETED,
    BrokenExecutor,
    Executor,
    Future,
    ThreadPoolExecutor,
    wait,
)
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import dspy

from dspy_nb.core.errors import InputError
from dspy_nb.core.events import warn_of
from dspy_nb.core.execution.attempts import Failure, Job, Outcome, Tally, Work, timeout
from dspy_nb.core.execution.chunks import Chunk, Flight, Share, width_of
from dspy_nb.core.execution.courier import answer_from, take_home
from dspy_nb.core.execution.dask import DaskCluster
from dspy_nb.core.execution.leases import PURSE_SETTING, Lease, Purse
from dspy_nb.core.execution.opening import Opening
from dspy_nb.core.execution.pools import end, like
from dspy_nb.core.execution.threads import Jobs
from dspy_nb.core.execution.travel import CannotLoad, Handed, LocalTask, Parcel, RemoteTask, carry
from dspy_nb.core.programs.rate_limit import limits_in_force, settings_for_workers
from dspy_nb.core.programs.seams import CACHE_SETTING, is_empty
from dspy_nb.core.text import error_text

logger = logging.getLogger(__name__)

_LEASE_S = 2.0
_GRACE_S = 0.5
_POLL_S = 0.1
_PARTS = 11  # of a chunk that lost its worker: 1,024, 94, 9, 1 examples, at a new worker each time
_SILENCE_S = 30.0  # after which tasks that should have been back are given up: starting a worker takes some


def run_on(
    executor: Executor,
    work: Work,
    jobs: Jobs,
    *,
    num_threads: int | None = None,
    timeout_s: float | None = None,
    stop: threading.Event | None = None,
    progress: Callable[[Tally], None] | None = None,
    landed: Callable[[int, Outcome], None] | None = None,
    opening: Opening | None = None,
    together: int = 1,
    early: bool = False,
) -> list[Outcome | None]:
    """Do the work on every job, in tasks of an executor; otherwise as ``threads.run``.

    When the run is stopped, other processes begin nothing more after two seconds, and what they hand in by
    then is kept.

    A chunk whose worker dies is tried again in parts, and these in smaller ones, and a warning says so. An example
    that is lost twice runs alone, where it could have been another one that the worker died of, such as in a pool
    that broke; and one whose worker died of it twice is a failure of kind ``WorkerLost``. A ``ProcessPoolExecutor``
    that broke is replaced by one of the same make, and so is loky's.

    Where the DSPy settings in force hold a purse, each task gets a lease of its budget; where they hold the cache
    of a run, what it knows is not asked again, and it keeps what workers are answered.

    Args:
        executor: Where to run. For a ``ThreadPoolExecutor`` nothing is pickled.
        work: What to do.
        jobs: The examples. They are taken when there is room for another task. Where they have a true ``over``,
            what a task has not begun is left.
        num_threads: Jobs under way at once in each task; by default 1 on a ``ThreadPoolExecutor``, and
            ``dspy.settings.num_threads`` elsewhere.
        timeout_s: See ``threads.run``.
        stop: See ``threads.run``.
        progress: See ``threads.run``.
        landed: See ``threads.run``. It is called in this thread.
        opening: See ``threads.run``.
        together: How many jobs belong together: a task gets a multiple of that.
        early: Whether outcomes may end the run. A task then gets no more than keep it busy, and there is none in
            reserve.

    Raises:
        InputError: Something cannot travel to the workers, or cannot be loaded there, or the executor is
            shut down, keeps losing its workers or has none left; the message says what. If some examples are
            answered by then, it is logged, and the run ends as if stopped.
    """
    task: LocalTask | RemoteTask
    cache = purse = repack = None
    dask = DaskCluster(executor) if DaskCluster.has(executor) else None
    width = width_of(executor, dask)
    if isinstance(executor, ThreadPoolExecutor):
        num_threads = num_threads or 1
        task = LocalTask(work, num_threads, timeout_s, _LEASE_S, threading.Event())
    else:
        num_threads = num_threads or dspy.settings.num_threads
        cache, purse = dspy.settings.get(CACHE_SETTING), dspy.settings.get(PURSE_SETTING)
        run = "" if cache is None else uuid.uuid4().hex
        limits = settings_for_workers(width)
        travelling = work.under(tuple(own | limits for own in work.settings))
        repack = partial(RemoteTask.of, travelling, num_threads, timeout_s, _LEASE_S, run)
        task = repack()
    share = Share(together, num_threads, early)
    dispatch = _Dispatch(executor, task, work, jobs, opening, landed, share, cache, purse, dask, repack)
    try:
        with contextlib.suppress(KeyboardInterrupt):
            while not (stop is not None and stop.is_set()) and dispatch.submit():
                dispatch.collect(_POLL_S)
                dispatch.watch(timeout_s)
                if opening is not None and opening.error is not None:
                    break
                if progress:
                    progress(dispatch.tally)
        with contextlib.suppress(KeyboardInterrupt):
            dispatch.halt()
            patience_s = _GRACE_S if purse is None else max(purse.grace_s, _GRACE_S)
            dispatch.collect(_LEASE_S + patience_s, ALL_COMPLETED)
    except InputError as error:
        if dispatch.tally.done == dispatch.tally.failed:
            raise
        logger.error("%s; what was finished is kept", error)  # it has been paid for
    finally:
        dispatch.close()
    return dispatch.outcomes


def _call(task: LocalTask | RemoteTask, packed: Any) -> Any:
    return task(packed)


_PROBE = Chunk([])  # whether workers come to life at all


@dataclass(eq=False)
class _Dispatch:
    """Hands out chunks and takes in outcomes."""

    executor: Executor
    task: LocalTask | RemoteTask
    work: Work
    source: Jobs
    opening: Opening | None
    landed: Callable[[int, Outcome], None] | None
    share: Share
    cache: Any
    purse: Purse | None
    dask: DaskCluster | None
    repack: Callable[[], RemoteTask] | None

    def __post_init__(self) -> None:
        number = len(self.source)
        self.outcomes: list[Outcome | None] = [None] * number
        self.tally = Tally()
        self._ours = False  # whether the executor is one that we made
        # Each task has its share of a rate limit, so there must not be more of them than there are shares.
        self._most_tasks = width_of(self.executor, self.dask) if limits_in_force() else None
        self._size = self._largest = self.share.size(number, self._width)
        self._source = iter(self.source)
        self._jobs: list[Job] = []  # those taken
        self._waiting: deque[Chunk] = deque()
        self._flying: dict[Future[Any], Flight] = {}
        self._losses_in_a_row = 0
        self._told_of_losses = False
        self._handed_out = 0
        self._heard = time.monotonic()
        self._late: set[Future[Any]] = set()
        # In a run that knows nothing yet, nothing is looked up.
        self._look_up = self.cache is not None and not is_empty(self.cache)

    @property
    def _width(self) -> int:
        """How many tasks run at once, as far as that can be known."""
        width = width_of(self.executor, self.dask)
        return width if self._most_tasks is None else min(width, self._most_tasks)

    @property
    def _one_by_one(self) -> bool:
        """Whether it is known which task a worker was at when it died."""
        return self.dask is not None and self.dask.one_by_one

    def submit(self) -> bool:
        """Keep every worker busy; False if there is nothing left to do."""
        most = self.share.tasks * self._width
        while len(self._flying) < most and (chunk := self._next()) is not None:
            if self._flying and (
                self._alone(chunk) or any(self._alone(flight.chunk) for flight in self._flying.values())
            ):
                break
            if self._look_up and chunk.places and not chunk.looked_up:
                if not self._answer_from_known(chunk):
                    break
                if not chunk.places:
                    self._waiting.popleft()
                    return True
            lease = None
            if self.purse is not None and chunk.places:
                leased = self.purse.lease(len(chunk.places), 2 * self._width)
                if leased is None:  # until others hand back what they have not spent
                    break
                number, lease = leased
                self._split(chunk, number)
            self._hand_out(chunk, lease)
        return bool(self._flying)

    def _hand_out(self, chunk: Chunk, lease: Lease | None) -> None:
        wary = self.opening is not None and self.opening.undecided
        jobs = [self._jobs[place] for place in chunk.places]
        packed = self.task.pack(Parcel(jobs, wary, lease, chunk.known))
        # The first tasks bring the work to the workers; where it has not come, a task says so.
        has_work = self._handed_out >= 2 * self._width and not chunk.brings_work
        task = self.task.without_work() if has_work else self.task
        try:
            future = (self.dask or self.executor).submit(_call, task, packed)
        except Exception as error:
            self._settle(lease, None)
            if not isinstance(error, BrokenExecutor):
                raise InputError(f"executor takes no work: {error_text(error)}") from error
            self._replace(self.executor, error)
        else:
            self._handed_out += 1
            self._waiting.popleft()
            self._flying[future] = Flight(chunk, self.executor, lease)

    def _next(self) -> Chunk | None:
        """Return the chunk whose turn it is, which stays the first one that waits."""
        if not self._waiting:
            jobs = list(itertools.islice(self._source, self._size))
            if not jobs:
                return None
            first = len(self._jobs)
            self._jobs += jobs
            self._waiting.append(Chunk(list(range(first, first + len(jobs)))))
        self._split(self._waiting[0], self._size)
        return self._waiting[0]

    def _answer_from_known(self, chunk: Chunk) -> bool:
        """Do what the run knows all answers for; the rest stays, with those that it knows.

        Returns:
            False as long as there is no budget for it: an answer of an earlier run may count as paid for now.
        """
        lease = None
        jobs = [self._jobs[place] for place in chunk.places]
        if self.purse is not None:
            leased = self.purse.lease(len(jobs), 1)
            if leased is None:
                return False
            _, lease = leased
        try:
            found, receipt = answer_from(self.cache, self.work, jobs, lease)
        except BaseException:
            self._settle(lease, None)
            raise
        chunk.looked_up = True
        places, chunk.places = chunk.places, []
        self._settle(lease, receipt, [one for one in found if isinstance(one, Outcome)])
        for place, one in zip(places, found, strict=True):
            if isinstance(one, Outcome):
                self._record(place, one)
            else:
                chunk.places.append(place)
                chunk.known += one
        return True

    def _split(self, chunk: Chunk, number: int) -> None:
        """Leave so many jobs in a chunk, the first one that waits; the others wait behind it."""
        if rest := chunk.places[number:]:
            chunk.places = chunk.places[:number]
            self._waiting.insert(1, replace(chunk, places=rest))

    def _settle(self, lease: Lease | None, receipt: Any, outcomes: Sequence[Outcome] = ()) -> None:
        if self.purse is not None and lease is not None:
            self.purse.settle(lease, receipt, outcomes)

    def collect(self, timeout_s: float, until: str = FIRST_COMPLETED) -> None:
        """Wait for chunks and take them in."""
        landed, _ = wait(self._flying, timeout=timeout_s, return_when=until)
        for future in landed:
            self._heard = time.monotonic()
            chunk, executor, lease = self._flying.pop(future)
            try:
                handed = self.task.unpack(future.result())
            except CannotLoad as error:
                self._settle(lease, None)
                self._carry(error)
                self._waiting.appendleft(replace(chunk, brings_work=True))
            # The task raises nothing else of its own: its worker is lost.
            except (Exception, asyncio.CancelledError) as error:
                self._settle(lease, None)
                if isinstance(error, BrokenExecutor):
                    self._replace(executor, error)
                guilty = self.dask is None or self.dask.under_way(future)
                what = Failure.of(error, f"{type(error).__name__}: ").message
                self._lose(chunk, Failure("WorkerLost", what), guilty=guilty)
            else:
                self._losses_in_a_row = 0
                if handed is None:
                    self._settle(lease, None)
                    self._waiting.appendleft(replace(chunk, brings_work=True))
                else:
                    self._take(chunk, lease, handed)

    def _carry(self, error: CannotLoad) -> None:
        """Take the module that workers lack along from now on."""
        assert isinstance(self.task, RemoteTask)  # the other one packs nothing
        assert self.repack is not None
        if error.key != self.task.key:  # that has been done
            return
        if error.missing in self.task.carried or not carry(error.missing):
            hint = "; install it where they are" if error.missing else ""
            raise InputError(f"the executor's workers cannot load the work: {error_text(error)}{hint}")
        self.task = self.repack()
        self._handed_out = 0

    def _take(self, chunk: Chunk, lease: Lease | None, handed: Handed) -> None:
        take_home(self.cache, handed.answers)
        self._settle(lease, handed.receipt, [one for one in handed.outcomes if one is not None])
        self._keep(chunk, handed.outcomes)

    def watch(self, timeout_s: float | None) -> None:
        """See to it that there are workers, and that none of them hangs."""
        if self.dask:
            self.dask.watch()
        if timeout_s is None or isinstance(self.task, LocalTask) or not self._flying:
            return
        # A task is back soon after the limit of its last example, unless the whole process hangs.
        if time.monotonic() - self._heard > timeout_s + _LEASE_S + _SILENCE_S:
            self._give_up(timeout(timeout_s))

    def halt(self) -> None:
        """Let nothing begin any more, and forget what has not begun."""
        if isinstance(self.task, LocalTask):
            self.task.stop.set()
        withdraw = Future.cancel if self.dask is None else self.dask.withdraw
        for future in [future for future in self._flying if withdraw(future)]:
            self._settle(self._flying.pop(future).lease, None)

    def close(self) -> None:
        """Leave what is still under way."""
        self.halt()
        if self.dask:
            self.dask.close()
        if self._ours:
            end(self.executor, kill=bool(self._flying))

    def _keep(self, chunk: Chunk, outcomes: list[Outcome | None]) -> None:
        left = []
        for place, outcome in zip(chunk.places, outcomes, strict=True):
            if outcome is None:
                left.append(place)
            else:
                self._record(place, outcome)
        # What a task does in its time is what the next ones get, and more where it had time left.
        done = len(chunk.places) - len(left)
        if left:
            self._size = min(self._size, self.share.whole(max(done, self.share.threads)))
        elif done >= self._size:
            self._size = min(2 * self._size, self._largest)
        if left and not getattr(self.source, "over", False):
            self._waiting.appendleft(replace(chunk, places=left, deaths=0))

    def _alone(self, chunk: Chunk) -> bool:
        """Whether nothing else may be under way with a chunk, so that what happens to it is its own doing."""
        return chunk is _PROBE or (chunk.suspect and not self._one_by_one)

    def _lose(self, chunk: Chunk, failure: Failure, *, guilty: bool) -> None:
        if chunk is _PROBE:
            raise InputError(f"executor keeps losing its workers: {failure.message}")
        self._losses_in_a_row += 1
        if not self._told_of_losses:
            self._told_of_losses = True
            warn_of(f"a worker was lost ({failure.message}); what it was at is done again")
        # Twice all that is under way, and then some, for the chunks that are split.
        if self._losses_in_a_row > 4 * self._width + 10 and _PROBE not in self._waiting:
            self._waiting.appendleft(_PROBE)
        losses = chunk.losses + guilty
        if guilty and (size := len(chunk.places)) > 1:
            step = -(-size // _PARTS)
            parts = [chunk.places[at : at + step] for at in range(0, size, step)]
            self._waiting.extend(replace(chunk, places=part, losses=losses) for part in parts)
            return
        deaths = chunk.deaths + (guilty and (self._alone(chunk) or self._one_by_one))
        if deaths > 1:
            self._record(chunk.places[0], self.work.fail(failure, None, time.perf_counter()))
        else:
            self._waiting.append(replace(chunk, losses=losses, deaths=deaths))

    def _give_up(self, failure: Failure) -> None:
        """Part with workers that hang, and lose what they are at; not where they are busy with other work."""
        self._heard = time.monotonic()
        pending = getattr(self.executor, "_pending_work_items", None)
        if self.dask:
            under_way = {future for future in self._flying if self.dask.under_way(future)}
            hanging, self._late = under_way & self._late, under_way  # those that were a time limit ago, too
            self.dask.restart(hanging)
        elif pending is not None and len(pending) <= len(self._flying) and (pool := like(self.executor)):
            hanging = set(self._flying)
            end(self.executor, kill=True)
            self.executor, self._ours = pool, True
        else:
            return
        for future in hanging:
            flight = self._flying.pop(future)
            future.cancel()
            self._settle(flight.lease, None)
            self._lose(flight.chunk, failure, guilty=True)

    def _record(self, place: int, outcome: Outcome) -> None:
        self.outcomes[place] = outcome
        if self.landed is not None:
            self.landed(place, outcome)
        self.tally.take(outcome)
        if self.opening is not None:
            self.opening.take(self._jobs[place], outcome)

    def _replace(self, broken: Executor, error: BrokenExecutor) -> None:
        """Go on with a new pool of processes like the one that broke, unless that has been done."""
        if broken is not self.executor:
            return
        pool = like(broken)
        if pool is None:
            raise InputError(f"executor is broken: {error_text(error)}") from error
        if self._ours:
            end(broken, kill=False)
        self.executor, self._ours = pool, True
