"""Progress of a run, as listeners to its events: a bar in a terminal, a display in a notebook.

The panel with its Stop button is in :mod:`dspy_nb.notebook.widgets.progress`.
"""

from __future__ import annotations

import math
import sys
import threading
import time
from typing import Any

from dspy_nb.core.events import Event
from dspy_nb.views.progress.run_state import ProgressState
from dspy_nb.views.wording import excerpt, percent

__all__ = ["Display", "TerminalProgress"]

_UPDATE_EVERY_S = 0.25

# tqdm's own format would show a percentage of the estimate, which is an upper bound.
_RUNNING = "{desc} |{bar}| {n_fmt} of at most {total_fmt} LM calls, {elapsed}{postfix}"
_ENDED = "{desc} |{bar}| {n_fmt} LM calls{postfix}"
_NO_END = "{desc}, {n_fmt} LM calls, {elapsed}{postfix}"


class Display:
    """A listener that shows its state at most four times a second, and always at the end of the run.

    Attributes:
        state: what the run has said so far.
        stop: set when the user asks the display to end the run; for ``optimize(..., stop=display.stop)``.
    """

    def __init__(self) -> None:
        self.state = ProgressState()
        self.stop = threading.Event()
        self._shown_at = -math.inf
        self._lock = threading.RLock()

    def __call__(self, event: Event) -> None:
        """Take in one event of one run, from any thread."""
        with self._lock:
            self.state.add(event)
            now = time.monotonic()
            if self.state.status != "running" or now - self._shown_at >= _UPDATE_EVERY_S:
                self._shown_at = now
                self._show()

    def show(self) -> None:
        """Begin to show something, before the first event."""

    def _show(self) -> None:
        raise NotImplementedError


class TerminalProgress(Display):
    """A bar on stderr: phase, LM calls against the estimate, best score, budget.

    It stays when the run has ended: green, yellow after a stop, red after a failure.
    """

    def __init__(self) -> None:
        super().__init__()
        self._bar: Any = None

    def _show(self) -> None:
        from tqdm import tqdm

        state = self.state
        if self._bar is None:
            # The tiny delay keeps tqdm from drawing an empty bar at once.
            self._bar = tqdm(total=state.total, dynamic_ncols=True, file=sys.stderr, delay=1e-9)
        bounded = state.total is not None and state.step <= state.total
        self._bar.n = state.step
        self._bar.bar_format = _RUNNING if bounded else _NO_END
        self._bar.set_description_str(excerpt(state.headline, 50), refresh=False)
        self._bar.set_postfix_str(self._postfix(), refresh=False)
        if state.status == "completed":
            self._bar.total = state.step  # the estimate was an upper bound
        if state.status != "running":
            self._bar.bar_format = _ENDED
            self._bar.colour = {"completed": "green", "stopped": "yellow", "failed": "red"}[state.status]
        self._bar.refresh()
        if state.status != "running":
            self._bar.close()

    def _postfix(self) -> str:
        state = self.state
        parts = [f"best {percent(state.best)}"] if state.best is not None else []
        if "lm_calls" in state.budget:
            parts.append(f"budget {state.metrics.get('lm_calls', 0):,} of {state.budget['lm_calls']:,}")
        return ", ".join(parts)
