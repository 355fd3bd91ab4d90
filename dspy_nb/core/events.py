"""What a run says while it works: frozen events, listeners that cannot break it, and a log on disk.

A listener is any callable that takes one event. Events reach every listener in order, one at a time,
whatever thread they come from. A listener that raises is logged once and the run goes on.
"""

from __future__ import annotations

import json
import logging
import threading
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, TypeAlias

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
    """A listener that appends each event to a file, one JSON object a line, readable after a crash."""

    def __init__(self, path: str | Path) -> None:
        self.path = user_path("log_file", path)
        self._file: IO[str] | None = None

    def open(self) -> None:
        """Open the file, and make its folder where there is none.

        Raises:
            InputError: it cannot be written.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            _drop_torn_line(self.path)
            self._file = self.path.open("a", encoding="utf-8")
        except OSError as error:
            raise InputError(f"log file {self.path} cannot be written: {error.strerror or error}") from None

    def __call__(self, event: Event) -> None:
        """Append ``event`` and hand it to the operating system."""
        if self._file is None:
            self.open()
        assert self._file is not None
        values = {each.name: getattr(event, each.name) for each in fields(event) if each.name != "prompt"}
        line = {"event": type(event).__name__, **values}
        self._file.write(json.dumps(line, default=str) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file; a later event opens it again."""
        if self._file is not None:
            self._file.close()
            self._file = None


def _drop_torn_line(path: Path) -> None:
    """Cut off what a crash left of a last line, so that the next event starts on its own."""
    if not path.exists():
        return
    with path.open("rb+") as file:
        content = file.read()
        if content and not content.endswith(b"\n"):
            file.truncate(content.rfind(b"\n") + 1)


def read_events(path: str | Path) -> list[Event]:
    """Read the events that an :class:`EventLog` wrote.

    A last line that a crash cut short is left out.

    Args:
        path: the log file.

    Returns:
        The events, oldest first.

    Raises:
        InputError: the file is missing, or a line other than the last is not an event.
    """
    try:
        lines = user_path("the event log", path).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise InputError(f"cannot read the event log {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InputError(f"cannot read the event log {path}: it is not UTF-8 text") from None
    events: list[Event] = []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            events.append(_KINDS[record.pop("event")](**record))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            if number == len(lines):
                break
            raise InputError(f"{path}, line {number}: not an event") from None
    return events
