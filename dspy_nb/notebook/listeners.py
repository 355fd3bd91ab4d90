"""Which listener suits where the process runs."""

from __future__ import annotations

from IPython import get_ipython

from dspy_nb.notebook.display import NotebookProgress
from dspy_nb.views.progress.display import Display, terminal_progress


def notebook_progress(*, quiet: bool = False, background: bool = False) -> Display:
    """Return the listener for the calls of a magic: a panel in a kernel, a bar in a terminal, else nothing.

    It is a context for those calls, and its ``stop`` is theirs::

        with notebook_progress() as progress:
            evaluate(..., on_event=progress, stop=progress.stop)

    Args:
        quiet: Show nothing.
        background: The call goes on while the user types, so that what shows it must begin in the cell that runs
            now, and a bar in a terminal would be in the way.
    """
    if quiet:
        return Display()
    if getattr(get_ipython(), "kernel", None) is None:
        return Display() if background else terminal_progress()
    try:
        from dspy_nb.notebook.widgets.progress import ProgressPanel
    except ImportError:  # a kernel without ipywidgets
        progress = NotebookProgress()
    else:
        progress = ProgressPanel()
    if background:
        progress.show()
    return progress
