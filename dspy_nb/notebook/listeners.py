"""Listeners for notebooks: which one suits where the process runs, and what it shows in a cell."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from contextvars import Context
from typing import Any

from IPython import get_ipython

from dspy_nb.views.documents import Bar, Document, to_html
from dspy_nb.views.progress.comparison import TerminalComparisonProgress
from dspy_nb.views.progress.display import Display, TerminalProgress
from dspy_nb.views.progress.evaluation import TerminalEvaluationProgress
from dspy_nb.views.wording import count, duration

__all__ = [
    "NotebookEvaluationProgress",
    "NotebookProgress",
    "auto_progress",
    "comparison_progress",
    "evaluation_progress",
]


def evaluation_progress() -> Callable[[int, int, int], object] | None:
    """Return the listener that suits where the process runs: a kernel, a terminal, or neither."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if getattr(shell, "kernel", None) is not None:
        return NotebookEvaluationProgress()
    return TerminalEvaluationProgress() if sys.stderr.isatty() else None


class NotebookEvaluationProgress:
    """One display in the cell, updated in place and left as static HTML."""

    def __init__(self) -> None:
        self._handle: Any = None
        self._started = time.monotonic()

    def __call__(self, done: int, planned: int, failed: int) -> None:
        """Show how far the evaluation is."""
        from IPython.display import display

        bundle = self._bundle(done, planned, failed)
        if self._handle is None:
            self._handle = display(bundle, raw=True, display_id=True)
        else:
            self._handle.update(bundle, raw=True)

    def _bundle(self, done: int, planned: int, failed: int) -> dict[str, str]:
        spent = time.monotonic() - self._started
        text = f"Evaluated {done:,} of {count(planned, 'example')}, {duration(spent)}"
        if 0 < done < planned:
            text += f", about {duration(spent / done * (planned - done))} left"
        if failed:
            text += f", {count(failed, 'error')}"
        state = "warn" if failed else "good" if done == planned else ""
        bar = Bar(done / planned, text, state)
        return {"text/html": to_html(Document("Evaluation", [bar])), "text/plain": text}


def comparison_progress(names: Sequence[str], margin: float, planned: int) -> Any:
    """Return the listener that suits where the process runs, a context: a panel in a notebook, else a bar."""
    shell = get_ipython()
    if getattr(shell, "kernel", None) is not None:
        try:
            from dspy_nb.notebook.widgets.ab import ABPanel
        except ImportError:  # a kernel without ipywidgets
            return nullcontext()
        return ABPanel(names, margin, planned)
    return TerminalComparisonProgress()


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
        from dspy_nb.notebook.widgets.progress import ProgressPanel
    except ImportError:  # a kernel without ipywidgets
        return None
    return ProgressPanel()


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

        self._handle = display(self._bundle(), raw=True, display_id=True)

    def _show(self) -> None:
        if self._handle is None:
            self.show()
            return
        # Out of the thread's context, the kernel takes the cell that runs now for the sender. An update finds
        # its display by id all the same, and whoever executes a notebook only listens to that cell.
        Context().run(self._handle.update, self._bundle(), raw=True)

    def _bundle(self) -> dict[str, str]:
        return {"text/html": self.state.html(), "text/plain": self.state.text()}
