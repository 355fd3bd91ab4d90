"""Optimize, measure, compare and ship DSPy programs without leaving the notebook.

    import dspy_nb as nb

Every public name is imported when it is first used, so that importing the package costs next to nothing and
changes nothing. The names are listed once, in ``__init__.pyi``.
"""

from __future__ import annotations

from typing import Any

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

FRONTS = {
    "line": "dspy_nb.views.rendering.text:to_line",
    "text": "dspy_nb.views.rendering.text:to_text",
    "markdown": "dspy_nb.views.rendering.markdown:to_markdown",
    "html": "dspy_nb.views.rendering.html:to_html",
    "plot": "dspy_nb.plots.runs:plot_run",
    "plot_sweep": "dspy_nb.plots.sweeps:plot_sweep",
    "called": "dspy_nb.notebook.assigned:called",
    "progress": "dspy_nb.views.progress.listeners:progress_here",
    "progress in IPython": "dspy_nb.notebook.listeners:ipython_progress",
    "watch": "dspy_nb.notebook.listeners:watch",
}
"""Who answers at the doors of core (``core/doors.py``), as ``module:function``."""


def load_ipython_extension(ipython: Any) -> None:
    """Register the magics (``%load_ext dspy_nb``)."""
    from dspy_nb.notebook.magics import install

    install(ipython)


def unload_ipython_extension(ipython: Any) -> None:
    """Take the magics away again (``%unload_ext dspy_nb``)."""
    from dspy_nb.notebook.magics import uninstall

    uninstall(ipython)
