"""Child processes that begin at once: forked from a server that has imported DSPy and runs nothing else.

For tests that race processes or kill them, and for what only a process has, such as an exit status.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection, wait
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

from tests.moments import HANG_S

FORKED = multiprocessing.get_context("forkserver")
FORKED.set_forkserver_preload(
    [
        *("dspy_nb.core.ab.experiment", "dspy_nb.core.optimization.optimize"),
        *("distributed.nanny", "hypothesis.stateful", "pytest"),
    ]
)


def meet(n: int) -> Barrier:
    """Return where n processes wait for each other; if one of them never comes, the others fail."""
    return FORKED.Barrier(n, timeout=HANG_S)


# Starting a process reads the status of others that have ended; it can be read once, by one thread.
_LOCK = threading.Lock()


class Child:
    """A process that calls a function, and what this yields, as soon as it is yielded.

    Iteration ends when the process ends, in whatever way.

    Args:
        errors: Where what it says on stderr goes.
        work: A function of a module, for the process finds it by its name.
        arguments: What it is called with.
    """

    def __init__(self, errors: Path, work: Callable[..., Iterator[Any] | None], *arguments: object) -> None:
        self._told, telling = FORKED.Pipe(duplex=False)
        self._errors = errors
        self._process = FORKED.Process(target=_run, args=(telling, errors, work, arguments))
        with _LOCK:
            self._process.start()
        telling.close()  # so that nobody else holds it open when the process has ended

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        try:
            return self._told.recv()
        except EOFError:
            raise StopIteration from None

    @property
    def running(self) -> bool:
        with _LOCK:
            return self._process.is_alive()

    @property
    def status(self) -> int:
        """The exit status, as soon as there is one; the negative number of the signal that ended it."""
        wait([self._process.sentinel])
        with _LOCK:
            self._process.join()
            assert self._process.exitcode is not None
            return self._process.exitcode

    @property
    def errors(self) -> str:
        """What it said on stderr so far."""
        return self._errors.read_text(encoding="utf-8")

    def rest(self) -> list[Any]:
        """Return what it yields until it ends, which must be a good end."""
        values = list(self)
        assert self.status == 0, self.errors
        return values

    def terminate(self) -> None:
        self._process.terminate()

    def kill(self) -> None:
        self._process.kill()

    def close(self) -> None:
        """Kill it if it is still there, and forget it."""
        self.kill()
        wait([self._process.sentinel])
        with _LOCK:
            self._process.join()
            self._process.close()
        self._told.close()


Children = Callable[..., Child]
"""What the fixture ``children`` is: it starts a process, and sees to its end."""


def _run(telling: Connection, errors: Path, work: Callable[..., Any], arguments: tuple[object, ...]) -> None:
    sys.stderr.flush()
    with errors.open("w") as file:
        os.dup2(file.fileno(), 2)
    for value in work(*arguments) or ():
        telling.send(value)
