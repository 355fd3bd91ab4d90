"""What shows calls in a terminal: a bar on stderr, written anew in its line; or lines, where stderr is none."""

from __future__ import annotations

import math
import os
import sys
import time
from typing import Any, Final

from tqdm import tqdm

from dspy_nb.core.text import visible
from dspy_nb.views.progress.call_state import CallState
from dspy_nb.views.progress.display import Display
from dspy_nb.views.progress.line import lay_out
from dspy_nb.views.progress.states import PipelineState
from dspy_nb.views.progress.sweep import SweepState

_LINE_EVERY_S: Final = 10.0
_COLOURS: Final = {"good": 32, "warn": 33, "bad": 31}
_USUAL_COLUMNS: Final = 80


class TerminalProgress(Display):
    """On stderr: a bar for each call, and a line for what each step of a pipeline says.

    A bar stays when its call has ended: green, yellow after a stop, red after a failure or an interrupt; without
    colour where ``NO_COLOR`` is set.

    Args:
        bars: Whether there are bars, for which stderr must be a terminal.
        lines: Whether there are lines in their place: how each call begins, how it is every ten seconds, and how it
            ended.
    """

    def __init__(self, bars: bool = True, lines: bool = False) -> None:
        super().__init__()
        self._bars, self._lines = bars, lines
        self._bar: _Bar | None = None
        self._of: CallState | None = None  # whose bar it is
        self._said = 0
        self._line_at = -math.inf
        self._line_of: tuple[CallState, str] | None = None  # whose line was said last, and how it was then

    def _show(self) -> None:
        if isinstance(self.state, PipelineState | SweepState):
            for line in self.state.lines[self._said :]:
                if self._bar is None:
                    _write(line)
                else:
                    self._bar.write(visible(line), file=sys.stderr)  # above the bar
            self._said = len(self.state.lines)
        state = self.state.innermost
        if state.meter is None:
            return
        if self._bars:
            self._draw(state)
        elif self._lines:
            self._say(state)

    def _draw(self, state: CallState) -> None:
        if self._of is not state:
            self._of, self._bar = state, _Bar(_line(state))
        elif self._bar is not None:
            self._bar.put(_line(state))
        if state.status != "running" and self._bar is not None:
            self._bar.close()
            self._bar = None

    def _say(self, state: CallState) -> None:
        now, status = time.monotonic(), (state, state.status)
        if status != self._line_of or (state.status == "running" and now - self._line_at >= _LINE_EVERY_S):
            self._line_of, self._line_at = status, now
            _write(state.text())

    def _end(self) -> None:
        self._said = 0


class _Bar(tqdm):  # type: ignore[type-arg]
    """A line that shares the terminal with other bars as tqdm does; what stands in it is ours."""

    monitor_interval = 0  # no thread that looks after it

    def __init__(self, line: str) -> None:
        self._line = line
        super().__init__(file=sys.stderr)

    def __str__(self) -> str:
        return self._line

    def put(self, line: str) -> None:
        """Write the line anew."""
        self._line = line
        self.refresh()


def _line(state: CallState) -> str:
    """Return the line of a call, in colour when it has ended."""
    meter: Any = state.meter
    titles = [form._replace(text=visible(form.text)) for form in meter.title]
    line = lay_out(titles, meter.share, meter.parts, _columns(), ascii_only=not _has_blocks())
    if state.status == "running" or os.environ.get("NO_COLOR") or state.colour not in _COLOURS:
        return str(line)
    return f"\x1b[{_COLOURS[state.colour]}m{line.left}{line.bar}\x1b[0m{line.right}"


def _columns() -> int:
    """Return the width of the terminal that stderr is; what ``COLUMNS`` says, or 80, where that cannot be asked."""
    try:
        found = os.get_terminal_size(sys.stderr.fileno()).columns
    except (AttributeError, OSError, ValueError):
        found = 0
    said = os.environ.get("COLUMNS", "")
    return found or (int(said) if said.isdecimal() else 0) or _USUAL_COLUMNS


def _has_blocks() -> bool:
    """Tell whether stderr can show blocks, and the signs of the words."""
    try:
        "█≤−".encode(getattr(sys.stderr, "encoding", None) or "utf-8")
        return True
    except (LookupError, UnicodeEncodeError):
        return False


def _write(line: str) -> None:
    sys.stderr.write(f"{visible(line)}\n")
    sys.stderr.flush()
