"""Progress of an evaluation: a bar in a terminal, one display in a notebook."""

from __future__ import annotations

import sys
from typing import Any

from dspy_nb.views.wording import count

__all__ = ["TerminalEvaluationProgress"]


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
