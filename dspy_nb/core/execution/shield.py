"""Workers that an interrupt does not end.

Ctrl-C in a terminal, and a notebook's interrupt, reach every process of the group: the one that waits for the
results, which ends the run, and its workers, which would die with what they have in hand. While a worker is at a
task it ignores them; it begins nothing new once its time is up, and hands in what it has.
"""

from __future__ import annotations

import multiprocessing
import signal
import threading
from typing import Any, Final


class Shield:
    """Ignores SIGINT as long as something is within, in the main thread of a process that another one started.

    Elsewhere it changes nothing: only a main thread can, and who starts a worker by hand ends it by hand.
    """

    def __init__(self) -> None:
        self._within = 0
        self._before: Any = None

    def __enter__(self) -> None:
        if not _can_be_shielded():
            return
        if not self._within:
            self._before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        self._within += 1

    def __exit__(self, *_: object) -> None:
        if not _can_be_shielded():
            return
        self._within -= 1
        if not self._within:
            signal.signal(signal.SIGINT, signal.SIG_DFL if self._before is None else self._before)


SHIELD: Final = Shield()


def _can_be_shielded() -> bool:
    in_main = threading.current_thread() is threading.main_thread()
    return in_main and multiprocessing.parent_process() is not None
