"""Keeps work to its limits though a call in it may never return: no thread can be killed, but be left behind."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import wait
from typing import Any

from dspy_nb.core.programs.interrupts import Interrupts, begin, leave_behind
from dspy_nb.core.supervision.guard import Guard

_TICK_S = 0.1


class Supervisor:
    """Waits for what is under way at a stop, and leaves behind what does not return in time.

    Args:
        interrupts: a second one ends the wait.
        grace: how long it waits, in seconds.

    Attributes:
        left_behind: names of the threads that were at work then.
    """

    def __init__(self, interrupts: Interrupts, grace: float) -> None:
        self.left_behind: list[str] = []
        self._interrupts = interrupts
        self._grace = grace

    def run(self, guard: Guard, work: Callable[[], Any]) -> Any:
        """Return what ``work`` returns, or raise what it raises; it runs in a thread of its own.

        Raises:
            StopRun: it was stopped.
            KeyboardInterrupt: it was interrupted.
        """
        thread, done = begin(work, "dspy-nb-optimizer")
        with self.settling(guard, thread), self._interrupts.breaking_off():
            while not wait([done], _TICK_S).done and not guard.is_set():
                pass
            if done.done():
                thread.join()  # what it does has ended, and so does it
                return done.result()
        if done.done() and not isinstance(done.exception(), Exception):
            return done.result()
        raise guard.halt("stop")

    @contextlib.contextmanager
    def settling(self, guard: Guard, thread: threading.Thread | None = None) -> Iterator[None]:
        """In the end wait for the calls that are under way, and for the thread that made them, if there is one."""
        try:
            yield
        except BaseException:
            guard.halt("stop")  # for the threads that go on
            raise
        finally:
            until = time.monotonic() + self._grace
            with contextlib.suppress(KeyboardInterrupt), self._interrupts.breaking_off():
                if thread is not None and thread.is_alive():
                    thread.join(self._grace)
                guard.wait_for_calls(max(0.0, until - time.monotonic()))
            left = guard.release()
            if thread is not None and thread.is_alive():
                left.append(thread)
            leave_behind(left)
            self.left_behind += [thread.name for thread in left]
