"""Which listener suits where the process runs."""

from __future__ import annotations

from IPython import get_ipython

from dspy_nb.core.optimization.run import OptimizationRun
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
    progress = _listener(background)
    if background:
        progress.show()
    return progress


def watch(run: OptimizationRun) -> None:
    """Show a run of this process, from its beginning, in the cell that runs now; its Stop stops the run."""
    progress = _listener(background=True)
    if type(progress) is Display:  # in a terminal: the user has asked for a bar
        progress = terminal_progress()
    progress.stop = run.stop_event
    run.watch(progress)
    progress.refresh()


def _listener(background: bool) -> Display:
    if getattr(get_ipython(), "kernel", None) is None:
        return Display() if background else terminal_progress()
    try:
        from dspy_nb.notebook.widgets.progress import ProgressPanel
    except ImportError:  # a kernel without ipywidgets
        return NotebookProgress(in_background=background)
    return ProgressPanel(in_background=background)
