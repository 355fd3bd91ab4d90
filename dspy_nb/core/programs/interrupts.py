"""Ctrl-C, and the notebook's interrupt, for work that has threads: they do not get it themselves."""

from __future__ import annotations

import asyncio
import concurrent.futures.thread
import contextlib
import contextvars
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, wait
from types import FrameType
from typing import TypeVar

T = TypeVar("T")


class Interrupts:
    """Turns an interrupt into a stop, and lets it break off only what can be broken off.

    Args:
        stop: Set at an interrupt, for the threads.
    """

    def __init__(self, stop: threading.Event) -> None:
        self.happened = False
        self._stop = stop
        self._breaks_off = False

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Handle interrupts within; only the main thread gets any."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        usual = signal.getsignal(signal.SIGINT)

        def interrupt(number: int, frame: FrameType | None) -> None:
            self.happened = True
            self._stop.set()
            if not self._breaks_off:
                return  # between two phases; the next one does not begin
            if callable(usual):
                usual(number, frame)
            else:
                signal.default_int_handler(number, frame)

        signal.signal(signal.SIGINT, interrupt)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, usual)

    @contextlib.contextmanager
    def breaking_off(self) -> Iterator[None]:
        """Let an interrupt raise KeyboardInterrupt within."""
        self._breaks_off = True
        try:
            yield
        finally:
            self._breaks_off = False


class EitherStop(threading.Event):
    """A stop that is set when either of two is; setting it sets both."""

    def __init__(self, first: threading.Event, second: threading.Event) -> None:
        super().__init__()
        self._both = first, second

    def is_set(self) -> bool:
        """Tell whether either of them is set."""
        return any(stop.is_set() for stop in self._both)

    def set(self) -> None:
        """Set both."""
        for stop in self._both:
            stop.set()


class StopAfter(threading.Event):
    """A stop that also comes by itself, after some time.

    Args:
        stop: The one of the caller, if there is one.
        seconds: After how many, from now on; ``None`` for never.
    """

    def __init__(self, stop: threading.Event | None, seconds: float | None) -> None:
        super().__init__()
        self._stop = stop
        self._deadline = None if seconds is None else time.monotonic() + seconds

    def is_set(self) -> bool:
        """Tell whether anything has stopped it."""
        if (self._stop is not None and self._stop.is_set()) or (
            self._deadline is not None and time.monotonic() >= self._deadline
        ):
            self.set()
        return super().is_set()


class TookTooLong(Exception):
    """Work was not done in time."""


def begin(work: Callable[[], T], name: str) -> tuple[threading.Thread, Future[T]]:
    """Let work begin in a thread that can be left behind; return the thread, and what becomes of the work."""
    done: Future[T] = Future()

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as error:
            done.set_exception(error)

    context = contextvars.copy_context()  # a plain thread would not see the caller's dspy.context
    thread = threading.Thread(target=context.run, args=(run,), name=name, daemon=True)
    thread.start()
    return thread, done


def within(seconds: float, work: Callable[[], T]) -> T:
    """Return what ``work`` returns, or raise what it raises; its thread is left behind if it is late.

    Raises:
        TookTooLong: It has not ended after so many seconds.
    """
    _, done = begin(work, "dspy-nb-call")
    if not wait([done], seconds).done:
        raise TookTooLong(f"no answer within {seconds:g} s")
    return done.result()


def leave_behind(threads: Iterable[threading.Thread]) -> None:
    """Let the process end while these threads are at work: at its end Python waits for those of thread pools."""
    pools = getattr(concurrent.futures.thread, "_threads_queues", {})
    for thread in threads:
        pools.pop(thread, None)


def in_event_loop() -> bool:
    """Tell whether this thread runs an event loop."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
