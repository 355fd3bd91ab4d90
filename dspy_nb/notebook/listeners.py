"""Which display suits a cell, or a line of IPython in a terminal."""

from __future__ import annotations

from IPython import get_ipython

from dspy_nb.core.optimization.run import OptimizationRun
from dspy_nb.notebook.defaults import DspyNb
from dspy_nb.views.progress.display import Display
from dspy_nb.views.progress.listeners import shell_progress, terminal_progress, wanted_by_user


def notebook_progress(*, quiet: bool = False, background: bool = False) -> Display:
    """Return the listener for the calls of a magic: a panel in a kernel, a bar in a terminal, else nothing.

    It is a context for those calls, and its ``stop`` is theirs::

        with notebook_progress() as progress:
            evaluate(..., on_event=progress, stop=progress.stop)

    Args:
        quiet: Show nothing.
        background: The call goes on while the user types, so that what shows it must begin in the cell that runs
            now, and a bar in a terminal would be in the way.

    Raises:
        InputError: The environment variable is not valid.
    """
    if quiet or wanted_by_user() is False:
        return Display()
    if not _in_kernel():
        return Display() if background else shell_progress(quiet)
    panel = _panel(background)
    if background:
        panel.show()
    return panel


def ipython_progress(wanted: bool | None, background: bool) -> Display | None:
    """Return the display of a call in Python, ``None`` where nothing is to be shown.

    Args:
        wanted: Whether to show it; ``None`` where that is up to the settings and to the place.
        background: Whether the call goes on while the user types.

    Raises:
        InputError: ``wanted`` is ``None``, and the environment variable is not valid.
    """
    if wanted is None:
        wanted = False if _is_quiet() else wanted_by_user()
    if not _in_kernel():
        return terminal_progress(wanted, background)
    return None if wanted is False else _panel(background)


def _in_kernel() -> bool:
    return getattr(get_ipython(), "kernel", None) is not None


def _is_quiet() -> bool:
    """Tell whether ``%config DspyNb.quiet`` is set, where the extension is loaded."""
    shell = get_ipython()
    settings = [] if shell is None else [one for one in shell.configurables if isinstance(one, DspyNb)]
    return any(one.quiet for one in settings)


def _panel(background: bool) -> Display:
    try:
        from dspy_nb.notebook.widgets.progress import ProgressPanel
    except ImportError:  # a kernel without ipywidgets
        from dspy_nb.notebook.display import NotebookProgress

        return NotebookProgress(in_background=background)
    return ProgressPanel(in_background=background)


def watch(run: OptimizationRun) -> None:
    """Show a run of this process, from its beginning, in the cell that runs now; its Stop stops the run."""
    progress = _panel(background=True) if _in_kernel() else shell_progress(False)
    progress.stop = run.stop_event
    run.watch(progress)
    progress.refresh()
