"""A log of events on disk: one JSON object a line, readable after a crash."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import stat
import sys
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Final

import dspy_nb.core.sweep_events  # noqa: F401 (so that its kinds are read too)
from dspy_nb.core.arguments import user_path
from dspy_nb.core.errors import InputError
from dspy_nb.core.events import EVENT_KINDS, Event

logger = logging.getLogger(__name__)


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
        _hold(descriptor)

    def __call__(self, event: Event) -> None:
        """Append ``event`` and hand it to the operating system."""
        line = json.dumps({"event": type(event).__name__, **_plain(event)}, default=str) + "\n"
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


def _plain(value: Any) -> Any:
    """Return an event, or what stands in one, as JSON can hold it, without what only listeners get."""
    if is_dataclass(value):
        kept = (each.name for each in fields(value) if not each.metadata.get("in_process"))
        return {name: _plain(getattr(value, name)) for name in kept}
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


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


def _hold(descriptor: int) -> None:
    """Let :func:`is_held` see that the log is in use, until the descriptor is closed, by a crash too."""
    if sys.platform != "win32":
        import fcntl

        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)


def is_held(path: Path) -> bool:
    """Whether a process has a log open for writing; ``False`` also where the system cannot tell.

    Raises:
        OSError: the file cannot be opened.
    """
    if sys.platform == "win32":
        return False
    import fcntl

    descriptor = os.open(path, os.O_RDONLY | _AT_ONCE)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    else:
        return False
    finally:
        os.close(descriptor)


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
    import msgspec

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
                    events.append(msgspec.convert(record, EVENT_KINDS[record.pop("event")]))
                except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
                    broken = number
            else:
                return events  # whole, or all but a last line
    except OSError as error:
        raise InputError(f"cannot read the event log {path}: {error.strerror}") from None
    raise InputError(f"{path}, line {broken}: not an event")
