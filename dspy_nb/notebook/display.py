"""What shows a call in the cell that makes it, as HTML and text."""

from __future__ import annotations

from contextvars import Context
from typing import Any

from IPython.display import display

from dspy_nb.views.documents import to_html
from dspy_nb.views.progress.display import Display


class NotebookProgress(Display):
    """One display in the cell that makes the call, updated in place from any thread, and left as static HTML.

    It starts with the first event. Where that comes from another thread, call :meth:`show` before.
    """

    _begun = False
    _handle: Any = None  # None also where there is no shell to display it

    def show(self) -> None:
        """Start the display, in the cell that is running now."""
        with self._lock:
            self._shown = self._begun = True
            self._handle = display(self._bundle(), raw=True, display_id=True)

    def _show(self) -> None:
        if not self._begun:
            self.show()
        elif self._handle is not None:
            self._update()

    def _update(self) -> None:
        # Out of the thread's context, the kernel takes the cell that runs now for the sender. An update finds
        # its display by id all the same, and whoever executes a notebook only listens to that cell.
        Context().run(self._handle.update, self._static(), raw=True)

    def _bundle(self) -> dict[str, Any]:
        """Return what is shown first."""
        return self._static()

    def _static(self) -> dict[str, Any]:
        return {"text/html": to_html(self.state.document()), "text/plain": self.state.text()}

    def _end(self) -> None:
        self._begun = False
