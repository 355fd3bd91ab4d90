"""What keeps tests independent of the clock, and of how busy the machine is.

A test holds threads where it wants them by events, and moves the clock by hand. The one limit in seconds bounds
a hang: nothing that works waits that long.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Collection, Iterator
from types import FrameType

HANG_S = 120.0


class Clock:
    """Stands in for the time module: moves only when told."""

    def __init__(self) -> None:
        self.now = 100.0
        self._lock = threading.Lock()

    def move(self, seconds: float) -> None:
        """Let time pass, from any thread."""
        with self._lock:
            self.now += seconds

    def monotonic(self) -> float:
        return self.now

    perf_counter = process_time = monotonic


def wait_for_workers(name: str = "dspy-nb-evaluate", besides: Collection[threading.Thread] = ()) -> None:
    """Wait until the threads that work has left behind have ended: what they may still call, they have called."""

    def left() -> list[threading.Thread]:
        return [
            thread
            for thread in threading.enumerate()
            if thread.name.startswith(name) and thread not in besides
        ]

    # Not by join(), which refuses a thread that is only being started.
    assert wait_until(lambda: not left()), left()


def wait_until(condition: Callable[[], bool]) -> bool:
    """Wait until something is so; return whether it is."""
    late = time.monotonic() + HANG_S
    while not condition():
        if time.monotonic() >= late:
            return False
        time.sleep(0.002)
    return True


@contextlib.contextmanager
def interrupting(at: int) -> Iterator[Callable[[int], None]]:
    """Give the ``on_call`` of a scripted engine that presses Ctrl-C at one of its calls.

    Neither this call nor any later one goes on before the main thread has got the interrupt, however late that is.
    """
    arrived = threading.Event()
    usual = signal.getsignal(signal.SIGINT)

    def interrupt(number: int, frame: FrameType | None) -> None:
        arrived.set()
        signal.default_int_handler(number, frame)

    def on_call(number: int) -> None:
        if number == at:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        if number >= at:
            arrived.wait(HANG_S)

    signal.signal(signal.SIGINT, interrupt)
    try:
        yield on_call
    finally:
        signal.signal(signal.SIGINT, usual)
