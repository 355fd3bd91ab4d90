"""Ctrl-C, and the notebook's interrupt, for work that has threads: they do not get it themselves."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

__all__ = ["Interrupts"]


class Interrupts:
    """Turns an interrupt into a stop, and lets it break off only what can be broken off.

    Args:
        stop: set at an interrupt, for the threads.
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
