"""Progress of a run, as listeners to its events: a bar in a terminal, a display in a notebook.

The panel with its Stop button is in :mod:`dspy_nb.widgets.progress`.
"""

from __future__ import annotations

import math
import sys
import threading
import time
from contextvars import Context
from typing import Any

from dspy_nb.core.events import Event
from dspy_nb.progress_state import ProgressState
from dspy_nb.wording import excerpt, percent

__all__ = ["Display", "NotebookProgress", "TerminalProgress", "auto_progress"]

_UPDATE_EVERY_S = 0.25

# tqdm's own format would show a percentage of the estimate, which is an upper bound.
_RUNNING = "{desc} |{bar}| {n_fmt} of at most {total_fmt} LM calls, {elapsed}{postfix}"
_ENDED = "{desc} |{bar}| {n_fmt} LM calls{postfix}"
_NO_END = "{desc}, {n_fmt} LM calls, {elapsed}{postfix}"


def auto_progress(*, background: bool = False) -> Display | None:
    """Return the listener that suits where the process runs: a kernel, a terminal, or neither.

    Args:
        background: the run goes on while the user types, so a bar in a terminal would get in the way.
    """
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if getattr(shell, "kernel", None) is not None:
        progress = _panel() or NotebookProgress()
        if background:
            progress.show()
        return progress
    if sys.stderr.isatty() and not background:
        return TerminalProgress()
    return None


def _panel() -> Display | None:
    try:
        from dspy_nb.widgets.progress import ProgressPanel
    except ImportError:  # a kernel without ipywidgets
        return None
    return ProgressPanel()


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


class NotebookProgress(Display):
    """One display in the cell that starts it, updated in place from any thread, and left as static HTML.

    It starts with the first event. Where that comes from another thread, call :meth:`show` before.
    """

    def __init__(self) -> None:
        super().__init__()
        self._handle: Any = None

    def show(self) -> None:
        """Start the display, in the cell that is running now."""
        from IPython.display import display

        self._handle = display(self._bundle(), raw=True, display_id=True)  # type: ignore[no-untyped-call]

    def _show(self) -> None:
        if self._handle is None:
            self.show()
            return
        # Out of the thread's context, the kernel takes the cell that runs now for the sender. An update finds
        # its display by id all the same, and whoever executes a notebook only listens to that cell.
        Context().run(self._handle.update, self._bundle(), raw=True)

    def _bundle(self) -> dict[str, str]:
        return {"text/html": self.state.html(), "text/plain": self.state.text()}
