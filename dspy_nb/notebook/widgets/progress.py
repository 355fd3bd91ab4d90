"""The panel of a call in a notebook: what it does, what it found, what it costs, and a button to stop it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from dspy_nb.notebook.display import NOTHING, NotebookProgress, Output
from dspy_nb.notebook.widgets.live import StopButton
from dspy_nb.views.progress.comparison import ComparisonState


class ProgressPanel(NotebookProgress):
    """A listener that shows a call in the cell that makes it, with a button that stops the call.

    What it shows is HTML and text, which a page that is loaded anew has as they were saved; the button alone is a
    widget, in an output of its own that is emptied when the call ends::

        panel = nb.ProgressPanel()
        run = nb.optimize(..., on_event=panel, stop=panel.stop)

    The magics do this by themselves. The panel starts with the first event; where that comes from another
    thread, as with ``background=True``, call :meth:`show` before.

    Attributes:
        redraws: how often the panel was drawn.
    """

    button = True
    _button: StopButton | None = None
    _button_output: Output | None = None

    def _begin(self) -> None:
        if self.state.status == "running":
            self._button, self._button_output = StopButton(self.stop), Output()
            self._button_output.begin(self._button.bundle())
        super()._begin()

    def _live(self) -> dict[str, object]:
        if self._button is not None:
            self._button.refresh(self.state.keeps)
        return super()._live()

    def _finish(self) -> None:
        if self._button is not None and self._button_output is not None:
            self._button_output.update(NOTHING)
            self._button.close()
        super()._finish()


class ABPanel(ProgressPanel):
    """A :class:`ProgressPanel` of a comparison that is shown before it begins, by names of your own.

    It is a context, and its end replaces what moves by what stays::

        with nb.ABPanel(["A", "B"], margin=0.02) as panel:
            found = nb.compare_many(a, [b], data, metric, margin=0.02, on_event=panel, stop=panel.stop)

    Args:
        names: What to call the baseline and its candidates.
        margin: Largest difference that makes no practical difference.
        planned: Examples that there are at most.
    """

    state: ComparisonState

    def __init__(self, names: Sequence[str], margin: float = 0.0, planned: int = 0) -> None:
        super().__init__(ComparisonState(names, margin, planned))

    def __enter__(self) -> Self:
        """Start the panel, in the cell that is running now."""
        self.show()
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Replace what moves by how it ended."""
        super().__exit__(kind, error, trace)
        if self.state.status == "running":  # nothing was compared
            self.state.status = "stopped"
            self._show()
