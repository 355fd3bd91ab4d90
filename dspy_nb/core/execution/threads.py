"""Run many examples at once, in order, within limits, and stoppable at any moment.

DSPy's own loop recomputes its progress over all results for each finished example, starts slow examples a
second time, and returns nothing when it is interrupted.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sized
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import dspy

from dspy_nb.core.execution.attempts import Abandoned, ExampleMeter, Job, Outcome, Tally, Work, timeout
from dspy_nb.core.execution.opening import Opening
from dspy_nb.core.programs.quiet import install_truncation_filter

_TICK_S = 0.002
_LONGEST_TICK_S = 0.1
_LOOP_GRACE_S = 1.0


class Jobs(Sized, Iterable[Job], Protocol):
    """Jobs in their order; ``len`` says how many there are at most, for iterating may end early."""


def run(
    work: Work,
    jobs: Jobs,
    *,
    num_threads: int | None = None,
    timeout_s: float | None = None,
    deadline: float | None = None,
    stop: threading.Event | None = None,
    progress: Callable[[Tally], None] | None = None,
    landed: Callable[[int, Outcome], None] | None = None,
    opening: Opening | None = None,
) -> list[Outcome | None]:
    """Do the work on every job, in threads of this process.

    A thread takes the next job only when it has finished one, so nothing queues up. A program that has only
    ``aforward`` runs on an event loop in one thread.

    When the run is stopped, by ``stop`` or by a KeyboardInterrupt, it returns at once. No example begins
    after that, and the ones under way are abandoned: each may end the LM call that it is at, but no other
    follows.

    Args:
        work: What to do.
        jobs: The examples. They are taken one by one, when there is room for another.
        num_threads: Jobs under way at once, at most; ``dspy.settings.num_threads`` by default.
        timeout_s: An example that takes longer is a failure of kind ``Timeout``. Its thread is left behind
            and counts no more; so is an event loop that a program holds up.
        deadline: A ``time.monotonic`` after which no example begins; those under way are waited for.
        stop: Set it, from any thread, to stop.
        progress: Called in the calling thread with how far the run is, ten times a second or more.
        landed: Called with the place of each job and its outcome as soon as there is one, by one thread at a
            time. It must be quick, and must not raise.
        opening: Hears of each outcome too, and ends the run, as if stopped, when the first ones are hopeless.

    Returns:
        One outcome per job, in the order of the jobs; ``None`` where it was not finished.

    Raises:
        BaseException: What a program raised that is no ``Exception``, such as a budget's stop. No example
            begins after it.
    """
    install_truncation_filter()
    num_threads = num_threads or dspy.settings.num_threads
    stop = stop or threading.Event()
    loop = _Loop(work, jobs, num_threads, timeout_s, deadline, stop, landed, opening)
    try:
        loop.start()
        loop.supervise(progress)
    except KeyboardInterrupt:
        pass
    finally:
        loop.close()
    if loop.fatal is not None and not isinstance(loop.fatal, KeyboardInterrupt):
        raise loop.fatal
    return loop.outcomes


@dataclass(eq=False, slots=True)
class _Flight:
    """A job under way."""

    place: int
    job: Job
    meter: ExampleMeter
    started: float  # perf_counter


@dataclass(eq=False)
class _Loop:
    """What the workers and their supervisor share. A worker is a thread, or a task on the event loop."""

    work: Work
    jobs: Jobs
    num_workers: int
    timeout_s: float | None
    deadline: float | None
    stop: threading.Event
    landed: Callable[[int, Outcome], None] | None
    opening: Opening | None

    def __post_init__(self) -> None:
        self.outcomes: list[Outcome | None] = [None] * len(self.jobs)
        self.fatal: BaseException | None = None
        self._jobs = enumerate(self.jobs)
        self._vacancies = min(self.num_workers, len(self.jobs))
        self._tracker = dspy.settings.usage_tracker
        self._lock = threading.Lock()  # of everything below
        self._flights: set[_Flight] = set()
        self._workers = 0
        self._tally = Tally()
        self._closed = False
        self._over = threading.Event()
        self._cancel_tasks: list[Callable[[], object]] = []  # one for each event loop

    # -- in the calling thread -------------------------------------------------------------------------

    def start(self) -> None:
        """Begin: with one thread, or with all tasks."""
        if not self._vacancies:
            self._over.set()
        elif self.work.asynchronous:
            self._workers, self._vacancies = self._vacancies, 0
            self._thread(partial(self._run_tasks, self._workers))
        else:
            self._hire(1)

    def supervise(self, progress: Callable[[Tally], None] | None) -> None:
        """Return when all jobs are done, or when the run is stopped."""
        tick = _TICK_S
        while True:
            began, cpu = time.perf_counter(), time.process_time()
            if self._over.wait(tick) or self.stop.is_set():
                return
            waited, worked = time.perf_counter() - began, time.process_time() - cpu
            tick = self._grow(tick, waited, worked)
            if self.timeout_s is not None:
                self._expire(self.timeout_s)
                tick = min(tick, self.timeout_s / 4)
            if progress:
                progress(self._tally)

    def _grow(self, tick: float, waited: float, worked: float) -> float:
        """Double the threads if the ones at work leave the interpreter idle; return the next tick.

        Where nothing is waited for, because the answers come from a cache, more threads only fight for the
        interpreter lock: 350 µs an example with one thread, 530 with 8. The lock is taken if this thread
        itself got it late, while the process was at work.
        """
        late = waited - tick > sys.getswitchinterval() / 5
        if late and worked > waited / 4:
            return min(2 * tick, _LONGEST_TICK_S)
        self._hire(min(self._workers, self._vacancies))
        return _TICK_S if self._vacancies else _LONGEST_TICK_S

    def _hire(self, number: int) -> None:
        with self._lock:
            self._workers += number
            self._vacancies -= number
        for _ in range(number):
            self._thread(self._fly)

    def _thread(self, target: Callable[[], None]) -> None:
        # Daemons, so that a call that never returns does not keep the interpreter from ending.
        context = contextvars.copy_context()
        threading.Thread(target=context.run, args=(target,), name="dspy-nb-evaluate", daemon=True).start()

    def _expire(self, timeout_s: float) -> None:
        now = time.perf_counter()
        # An event loop ends its tasks in time itself, unless one of them holds it up.
        limit_s = timeout_s + _LOOP_GRACE_S * self.work.asynchronous
        with self._lock:
            late = [flight for flight in self._flights if now - flight.started > limit_s]
            for flight in late:
                flight.meter.close()
                outcome = self.work.fail(timeout(timeout_s), flight.meter, flight.started)
                self._record(flight, outcome)
        # In place of the threads that hang, or of the loop.
        if late and self.work.asynchronous:
            self._thread(partial(self._run_tasks, len(late)))
        else:
            for _ in late:
                self._thread(self._fly)

    def close(self) -> None:
        """Let nothing begin any more, and forget what is under way."""
        with self._lock:
            self._closed = True
            for flight in self._flights:
                flight.meter.close()
            self._flights.clear()
        for cancel in self._cancel_tasks:
            cancel()

    # -- in the workers --------------------------------------------------------------------------------

    def _fly(self) -> None:
        while flight := self._take():
            try:
                outcome = self.work.attempt(flight.job, flight.meter)
            except BaseException as error:
                self._crash(flight, error)
                return
            if not self._land(flight, outcome):
                return
        self._leave()

    def _run_tasks(self, number: int) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            asyncio.run(self._all_tasks(number))

    async def _all_tasks(self, number: int) -> None:
        loop, this = asyncio.get_running_loop(), asyncio.current_task()
        assert this is not None

        def cancel() -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended by itself
                loop.call_soon_threadsafe(this.cancel)

        self._cancel_tasks.append(cancel)
        await asyncio.gather(*(self._task() for _ in range(number)))

    async def _task(self) -> None:
        while flight := self._take():
            try:
                outcome = await self.work.attempt_async(flight.job, flight.meter, self.timeout_s)
            except BaseException as error:
                self._crash(flight, error)
                return
            if not self._land(flight, outcome):
                return
        self._leave()

    def _take(self) -> _Flight | None:
        if self.stop.is_set() or (self.deadline is not None and time.monotonic() >= self.deadline):
            return None
        with self._lock:
            if self._closed or (place_and_job := next(self._jobs, None)) is None:
                return None
            meter = ExampleMeter(self._tracker, keep_text=place_and_job[1].keep_text)
            flight = _Flight(*place_and_job, meter, time.perf_counter())
            self._flights.add(flight)
        return flight

    def _land(self, flight: _Flight, outcome: Outcome) -> bool:
        """Keep an outcome; False if nobody waits for it any more."""
        with self._lock:
            if flight not in self._flights:
                return False
            self._record(flight, outcome)
        return True

    def _record(self, flight: _Flight, outcome: Outcome) -> None:
        self._flights.remove(flight)
        self.outcomes[flight.place] = outcome
        if self.landed is not None:
            self.landed(flight.place, outcome)
        self._tally.take(outcome)
        if self.opening is not None and self.opening.take(flight.job, outcome):
            self._closed = True  # before this worker takes another job
            self._over.set()

    def _crash(self, flight: _Flight, error: BaseException) -> None:
        """End the run because of what is no ``Exception``, unless the example was abandoned."""
        with self._lock:
            if flight in self._flights and not isinstance(error, Abandoned):
                self.fatal = self.fatal or error
                self._closed = True  # the supervisor may be late
                self._over.set()

    def _leave(self) -> None:
        with self._lock:
            self._workers -= 1
            if not self._workers:
                self._over.set()
