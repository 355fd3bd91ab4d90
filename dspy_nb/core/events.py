"""What a run says while it works: frozen events, listeners that cannot break it, and a log on disk.

A listener is any callable that takes one event. Events reach every listener in order, one at a time,
whatever thread they come from. A listener that raises is logged once and the run goes on.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import stat
import threading
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TypeAlias

from dspy_nb.core.arguments import user_path
from dspy_nb.core.errors import InputError

__all__ = [
    "CandidateScored",
    "Completed",
    "Event",
    "EventLog",
    "Failed",
    "Listener",
    "Progress",
    "Started",
    "forgiving",
    "read_events",
]

logger = logging.getLogger(__name__)


def now() -> str:
    """Return the present moment as ISO 8601 in UTC, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


@dataclass(frozen=True)
class Started:
    """A run began.

    Attributes:
        optimizer: name of the optimizer.
        total_steps: LM calls expected, from the estimate; ``None`` where none can be given.
        budget: the limits in force, ``{}`` for none.
        timestamp: ISO 8601, UTC.
    """

    optimizer: str
    total_steps: int | None = None
    budget: Mapping[str, float] = field(default_factory=dict)
    timestamp: str = field(default_factory=now)


@dataclass(frozen=True)
class Progress:
    """The run moved on; sent a few times a second at most.

    Attributes:
        step: LM calls answered so far, cache hits included.
        message: what the optimizer is doing, in words.
        metrics: lm_calls, cache_hits, errors, prompt_tokens, completion_tokens, usd, best_score,
            baseline_score, elapsed_s.
        timestamp: ISO 8601, UTC.
    """

    step: int
    message: str
    metrics: Mapping[str, Any] = field(default_factory=dict)
    timestamp: str = field(default_factory=now)


@dataclass(frozen=True)
class CandidateScored:
    """The optimizer scored one candidate program.

    Attributes:
        candidate: number of the candidate, from 0, in the order in which they were scored.
        score: mean of the metric over ``n`` examples, as a fraction.
        n: how many examples it was scored on.
        full: True when ``n`` is the whole set that candidates are compared on.
        best: True when it is the best candidate so far.
        instruction: beginning of its first predictor's instruction.
        demos: how many demos its predictors carry together.
        timestamp: ISO 8601, UTC.
        prompt: its whole prompt (a ``core.candidates.Prompt``) for listeners in the process; not in the log.
    """

    candidate: int
    score: float
    n: int
    full: bool
    best: bool
    instruction: str = ""
    demos: int = 0
    timestamp: str = field(default_factory=now)
    prompt: Any = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class Completed:
    """The run ended with a program.

    Attributes:
        score: score of that program on the validation set, ``None`` where there was none.
        duration_s: wall-clock seconds.
        stopped_by: ``None`` when the optimizer finished by itself, else what ended it early.
        timestamp: ISO 8601, UTC.
    """

    score: float | None
    duration_s: float
    stopped_by: str | None = None
    timestamp: str = field(default_factory=now)


@dataclass(frozen=True)
class Failed:
    """The run ended without a program; ``error`` is the one-line reason."""

    error: str
    timestamp: str = field(default_factory=now)


Event: TypeAlias = Started | Progress | CandidateScored | Completed | Failed
Listener: TypeAlias = Callable[[Event], None]

_KINDS: dict[str, type[Event]] = {
    kind.__name__: kind for kind in (Started, Progress, CandidateScored, Completed, Failed)
}


class Broadcaster:
    """Hands each event to every listener, in order and one at a time."""

    def __init__(self, listeners: Iterable[Listener]) -> None:
        self._listeners = list(listeners)
        self._broken: set[int] = set()
        self._lock = threading.RLock()

    def send(self, event: Event) -> None:
        """Hand ``event`` to every listener; one that raises is logged the first time, never fatal."""
        with self._lock:
            for position, listener in enumerate(self._listeners):
                try:
                    listener(event)
                except Exception:
                    if position not in self._broken:
                        self._broken.add(position)
                        logger.warning("listener %r failed; the run goes on", listener, exc_info=True)


def warn_of(message: str) -> None:
    """Warn of what cost something; where warnings are errors it is logged, for a warning must not cost the rest."""
    try:
        warnings.warn(message, stacklevel=3)
    except UserWarning:
        logger.warning(message)


def forgiving(listener: Callable[..., object] | None, of: str) -> Callable[..., None]:
    """Return a listener that cannot do harm: if it raises, that is logged, and it hears no more.

    Args:
        listener: Anything that is called, if there is any.
        of: What it listens to, such as ``"an evaluation"``.
    """

    def hear(*what: object) -> None:
        nonlocal listener
        if listener is None:
            return
        try:
            listener(*what)
        except Exception:
            logger.exception("the listener of %s is broken and hears no more", of)
            listener = None

    return hear


class EventLog:
    """A listener that appends each event to a file, one JSON object a line, readable after a crash.

    Once it is open it harms nobody: an event that cannot be written is counted, and that is logged once. A file
    that is deleted or moved away meanwhile, by a rotation of logs for instance, is begun anew.

    Attributes:
        lost: How many events could not be written.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = user_path("log_file", path)
        self.lost = 0
        self._descriptor: int | None = None

    def open(self) -> None:
        """Open the file, and make its folder where there is none.

        Raises:
            InputError: it cannot be written, is no ordinary file, or holds something else than events.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | _AT_ONCE, 0o666)
        except OSError as error:
            raise InputError(f"log file {self.path} cannot be written: {_reason(error)}") from None
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise InputError(f"log file {self.path} is no ordinary file: name one that is, or a new one")
            _drop_torn_line(descriptor, self.path)
        except BaseException as error:
            os.close(descriptor)
            if isinstance(error, OSError):
                raise InputError(f"log file {self.path} cannot be read: {_reason(error)}") from None
            raise
        self._descriptor = descriptor

    def __call__(self, event: Event) -> None:
        """Append ``event`` and hand it to the operating system."""
        values = {each.name: getattr(event, each.name) for each in fields(event) if each.name != "prompt"}
        line = json.dumps({"event": type(event).__name__, **values}, default=str) + "\n"
        try:
            self._append(line.encode())
        except (OSError, InputError) as error:
            self.lost += 1
            if self.lost == 1:
                why = _reason(error) if isinstance(error, OSError) else error
                logger.warning("log file %s: an event is not in it: %s; the run goes on", self.path, why)

    def close(self) -> None:
        """Close the file; a later event opens it again."""
        if self.lost > 1:
            logger.warning("log file %s: %d events are not in it", self.path, self.lost)
        self._let_go()

    def _let_go(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            with contextlib.suppress(OSError):
                os.close(descriptor)

    def _append(self, line: bytes) -> None:
        """Write a whole line, or nothing."""
        if self._descriptor is None or self._is_moved():
            self._let_go()
            self.open()
        assert self._descriptor is not None
        before, written = os.fstat(self._descriptor).st_size, 0
        try:
            while written < len(line):
                written += os.write(self._descriptor, line[written:])
        except OSError:
            if os.fstat(self._descriptor).st_size == before + written:  # nobody else has written meanwhile
                os.ftruncate(self._descriptor, before)
            raise

    def _is_moved(self) -> bool:
        assert self._descriptor is not None
        try:
            there = os.stat(self.path)  # noqa: PTH116 (pathlib takes longer)
        except FileNotFoundError:
            return True
        return not os.path.samestat(there, os.fstat(self._descriptor))


_AT_ONCE: Final = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)  # opening a pipe would wait
_LONGEST_LINE: Final = 2**20
_BEGINNING: Final = b'{"event": "'


def _reason(error: OSError) -> str:
    return "the disk is full" if error.errno == errno.ENOSPC else error.strerror or str(error)


def _drop_torn_line(descriptor: int, path: Path) -> None:
    """Cut off what a crash left of a last line, so that the next event starts on its own.

    Raises:
        InputError: The last line is none of an event, so it is nobody's to cut or to go on with.
    """
    size = os.fstat(descriptor).st_size
    os.lseek(descriptor, max(size - _LONGEST_LINE, 0), os.SEEK_SET)
    end = os.read(descriptor, _LONGEST_LINE)
    torn = end[end.rfind(b"\n") + 1 :]
    last = torn or end[:-1].rpartition(b"\n")[2]
    if last[: len(_BEGINNING)] != _BEGINNING[: len(last)] or len(last) == _LONGEST_LINE:
        raise InputError(f"log file {path} holds something else than the events of runs: name another")
    if torn:
        os.ftruncate(descriptor, size - len(torn))


def read_events(path: str | Path) -> list[Event]:
    """Read the events that an :class:`EventLog` wrote.

    A last line that a crash cut short is left out.

    Args:
        path: the log file.

    Returns:
        The events, oldest first.

    Raises:
        InputError: the file is missing or no ordinary file, or a line other than the last is not an event.
    """
    events: list[Event] = []
    broken = 0
    try:
        descriptor = os.open(user_path("the event log", path), os.O_RDONLY | _AT_ONCE)
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise InputError(f"cannot read the event log {path}: it is no ordinary file")
            for number, line in enumerate(iter(lambda: file.readline(_LONGEST_LINE), b""), start=1):
                if broken:
                    break
                try:
                    record = json.loads(line)
                    events.append(_KINDS[record.pop("event")](**record))
                except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
                    broken = number
            else:
                return events  # whole, or all but a last line
    except OSError as error:
        raise InputError(f"cannot read the event log {path}: {error.strerror}") from None
    raise InputError(f"{path}, line {broken}: not an event")
