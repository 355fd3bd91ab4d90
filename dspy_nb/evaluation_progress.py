"""Progress of an evaluation: a bar in a terminal, one display in a notebook."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

from dspy_nb.documents import Bar, Document, to_html
from dspy_nb.wording import count, duration

__all__ = ["NotebookEvaluationProgress", "TerminalEvaluationProgress", "evaluation_progress"]


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
        from IPython.display import display  # noqa: TID251 - a front end

        bundle = self._bundle(done, planned, failed)
        if self._handle is None:
            self._handle = display(bundle, raw=True, display_id=True)  # type: ignore[no-untyped-call]
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


class TerminalEvaluationProgress:
    """A bar on stderr."""

    def __init__(self) -> None:
        self._bar: Any = None

    def __call__(self, done: int, planned: int, failed: int) -> None:
        """Show how far the evaluation is."""
        from tqdm import tqdm

        if self._bar is None:
            self._bar = tqdm(total=planned, desc="evaluate", dynamic_ncols=True, file=sys.stderr)
        self._bar.n = done
        if failed:
            self._bar.set_postfix_str(count(failed, "error"), refresh=False)
        self._bar.refresh()
        if done == planned:
            self._bar.close()
