"""How calls go, as listeners to their events; here for terminals.

Those for notebooks are in :mod:`dspy_nb.notebook.display` and, with a Stop button, in
:mod:`dspy_nb.notebook.widgets.progress`.
"""

from __future__ import annotations

import math
import sys
import threading
import time
from typing import Any, Self

from dspy_nb.core.errors import failure_text
from dspy_nb.core.events import Event, Failed
from dspy_nb.views.progress.call_state import CallState
from dspy_nb.views.progress.states import PipelineState, follow
from dspy_nb.views.progress.sweep import SweepState

_UPDATE_EVERY_S = 0.25

# tqdm's own format would show a percentage of the estimate, which is an upper bound.
_BOUNDED = "{desc} |{bar}| {n_fmt} of at most {total_fmt} {unit}, {elapsed}{postfix}"
_ENDED = "{desc} |{bar}| {n_fmt} {unit}{postfix}"
_NO_END = "{desc}, {n_fmt} {unit}, {elapsed}{postfix}"


class Display:
    """A listener to any call, one after the other; by itself it shows nothing.

    What it shows is drawn anew at most four times a second, and always when something begins or ends. As a context
    it also says so when a call that it was shown for does not even begin.

    Attributes:
        state: What the call that is under way, or the last one, has said so far.
        stop: Set when the user asks the display to end the call: for ``optimize(..., stop=display.stop)``.
    """

    def __init__(self, state: CallState | None = None) -> None:
        self.state = CallState() if state is None else state
        self.stop = threading.Event()
        self._shown = False
        self._shown_at = -math.inf
        self._stage: object = None
        self._lock = threading.RLock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is not None and self._shown and self.state.status == "running":
            self(Failed(failure_text(error)))

    def __call__(self, event: Event) -> None:
        """Take in one event, from any thread."""
        with self._lock:
            state = follow(self.state, event)
            if state is not self.state and type(self.state) is not CallState:
                self._end()
            self.state = state
            now, stage = time.monotonic(), self.state.stage
            if stage != self._stage or now - self._shown_at >= _UPDATE_EVERY_S:
                self._shown, self._shown_at, self._stage = True, now, stage
                self._show()

    def show(self) -> None:
        """Begin to show something, before the first event."""

    def _show(self) -> None:
        """Show the state."""

    def _end(self) -> None:
        """Leave what is shown as it is; what comes next is of another call."""


class TerminalProgress(Display):
    """On stderr: a bar for each call, and a line for what each step of a pipeline says.

    A bar stays when its call has ended: green, yellow after a stop, red after a failure.

    Args:
        bars: False for the lines alone, where stderr is no terminal.
    """

    def __init__(self, bars: bool = True) -> None:
        super().__init__()
        self._bars = bars
        self._bar: Any = None
        self._of: CallState | None = None  # whose bar it is
        self._said = 0

    def _show(self) -> None:
        if isinstance(self.state, PipelineState | SweepState):
            for line in self.state.lines[self._said :]:
                self._say(line)
            self._said = len(self.state.lines)
        if self._bars and self.state.innermost.meter is not None:
            self._draw(self.state.innermost)

    def _say(self, line: str) -> None:
        """Write a line, above the bar if there is one."""
        if self._bar is None or self._bar.disable:
            sys.stderr.write(f"{line}\n")
        else:
            self._bar.write(line, file=sys.stderr)

    def _draw(self, state: CallState) -> None:
        from tqdm import tqdm

        meter = state.meter
        assert meter is not None
        if self._of is not state:
            # The tiny delay keeps tqdm from drawing an empty bar at once.
            self._bar = tqdm(
                total=meter.total, unit=meter.unit, dynamic_ncols=True, file=sys.stderr, delay=1e-9
            )
            self._of = state
        if self._bar.disable:  # it has ended
            return
        ended = state.status != "running"
        self._bar.n = meter.done
        self._bar.set_description_str(meter.title, refresh=False)
        self._bar.set_postfix_str(meter.remark, refresh=False)
        if meter.bound:
            bounded = meter.total is not None and meter.done <= meter.total
            self._bar.bar_format = _ENDED if ended else _BOUNDED if bounded else _NO_END
            if state.status == "completed":
                self._bar.total = meter.done  # the estimate was an upper bound
        if ended:
            self._bar.colour = {"good": "green", "warn": "yellow", "bad": "red", "": None}[state.colour]
        self._bar.refresh()
        if ended:
            self._bar.close()

    def _end(self) -> None:
        self._said = 0


def terminal_progress() -> TerminalProgress:
    """Return the listener for a process with a stderr: bars if that is a terminal, lines alone otherwise."""
    return TerminalProgress(bars=sys.stderr.isatty())
