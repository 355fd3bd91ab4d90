"""How calls go, as listeners to their events.

Those for terminals are in :mod:`dspy_nb.views.progress.terminal`, those for notebooks in
:mod:`dspy_nb.notebook.display` and, with a Stop button, in :mod:`dspy_nb.notebook.widgets.progress`.
"""

from __future__ import annotations

import math
import threading
import time
from typing import ClassVar, Self

from dspy_nb.core.errors import failure_text
from dspy_nb.core.events import Event, Failed
from dspy_nb.views.progress.call_state import CallState
from dspy_nb.views.progress.states import follow

_UPDATE_EVERY_S = 0.25


class Display:
    """A listener to any call, one after the other; by itself it shows nothing.

    What it shows is drawn anew at most four times a second, and always when something begins or ends. As a context
    it also says so when a call that it was shown for does not even begin.

    Attributes:
        state: What the call that is under way, or the last one, has said so far.
        stop: Set when the user asks the display to end the call: for ``optimize(..., stop=display.stop)``.
        shows_progress: True: a call that it listens to needs no other display.
    """

    shows_progress: ClassVar[bool] = True

    def __init__(self, state: CallState | None = None) -> None:
        self.state = CallState() if state is None else state
        self.stop = threading.Event()
        self._shown = False
        self._shown_at = -math.inf
        self._stage: object = None
        self._lock = threading.RLock()

    def __repr__(self) -> str:
        """Return what it shows, in one line."""
        return f"<{type(self).__name__}: {self.state.text()}>"

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

    def refresh(self) -> None:
        """Show what is known by now, however short ago something was shown."""
        with self._lock:
            if self._shown:
                self._show()

    def _show(self) -> None:
        """Show the state."""

    def _end(self) -> None:
        """Leave what is shown as it is; what comes next is of another call."""
