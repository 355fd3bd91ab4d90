"""The panel of a comparison in a notebook: the interval closing in, what changed, and a button to stop it."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Sequence
from typing import Any, Self

from IPython.display import display
from ipywidgets import HTML, VBox

from dspy_nb.core.ab.duel import Duel
from dspy_nb.notebook.widgets.live import LIVE_STYLE, StopButton, close_widgets, live_bundle
from dspy_nb.views.documents import STYLE, to_fragment, to_html
from dspy_nb.views.progress.comparison import ComparisonState
from dspy_nb.views.wording import excerpt

__all__ = ["ABPanel"]

_UPDATE_EVERY_S = 0.25


class ABPanel:
    """A listener that shows a comparison in the cell that starts it, with a button that stops it.

    It is a context, and its end replaces the widgets by static HTML and text::

        with nb.ABPanel(["A", "B"], margin=0.02) as panel:
            found = nb.compare_many(a, [b], data, metric, margin=0.02, on_event=panel, stop=panel.stop)

    ``%dspy_ab`` does this by itself.

    Args:
        names: What to call the baseline and its candidates.
        margin: Largest difference that makes no practical difference.
        planned: Examples that there are at most.

    Attributes:
        state: What is known of the comparison.
        stop: Set when the button is pressed.
        redraws: How often the panel was drawn.
    """

    def __init__(self, names: Sequence[str], margin: float = 0.0, planned: int = 0) -> None:
        self.state = ComparisonState(names, margin, planned)
        self.stop = threading.Event()
        self.redraws = 0
        self._drawn_at = -math.inf
        self._lock = threading.Lock()
        self._head, self._body = HTML(), HTML()
        self.stop_button = StopButton(
            self.stop, "End the comparison and keep what was compared", "keeps what was compared so far"
        )
        self.box = VBox([HTML(STYLE + LIVE_STYLE), self._head, self.stop_button.box, self._body])
        self.box.add_class("dspy-nb-panel")
        self._handle: Any = None

    def __enter__(self) -> Self:
        """Start the panel, in the cell that is running now."""
        self._draw()
        bundle = live_bundle(self.box, self.state.headline, self.state.text())
        self._handle = display(bundle, raw=True, display_id=True)
        return self

    def __call__(self, duels: Sequence[Duel], planned: int) -> None:
        """Show how far the comparison is; four times a second at most."""
        with self._lock:
            self.state.add(duels, planned)
            now = time.monotonic()
            if now - self._drawn_at >= _UPDATE_EVERY_S:
                self._drawn_at = now
                self._draw()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        """Replace the widgets by how it ended."""
        if error is not None:
            self.state.ended = (
                f"failed: {excerpt(error, 200)}" if isinstance(error, Exception) else "interrupted"
            )
        elif not self.state.done:
            self.state.ended = "stopped"
        document = self.state.document()
        bundle = {"text/plain": self.state.text(), "text/html": to_html(document)}
        if self._handle is not None:  # there was a shell to display it
            self._handle.update(bundle, raw=True)
        close_widgets(self.box)

    def _draw(self) -> None:
        self.redraws += 1
        first, *rest = self.state.document().blocks
        self._head.value = to_fragment([first], self.state.headline)
        self._body.value = to_fragment(rest)
        self.stop_button.refresh()
