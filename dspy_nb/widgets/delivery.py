"""Clicks that reach the kernel while a cell is running."""

from __future__ import annotations

from typing import Any

__all__ = ["deliver_at_once"]


def deliver_at_once(widget: Any) -> bool:
    """Let what the user does to ``widget`` reach its callbacks also while a cell runs.

    JupyterLab sends it to a subshell, a thread of the kernel that is free while a cell runs. But ipykernel 7
    asks it to answer to whoever wrote to the widget last, which is the running cell, and the click would wait
    for the end of that cell. This keeps the front end's own choice.

    The callbacks then run in another thread than the cell: they may set an event and change widgets, no more.

    Returns:
        Whether that is possible. Where it is not (older kernels), a click during a cell is delivered after it,
        unless the work is in another thread; interrupting the kernel always works.
    """
    comm = widget.comm
    if not hasattr(comm, "_reply_subshell_for"):  # private, tested in tests/test_browser_panel.py
        return False
    comm._reply_subshell_for = lambda data, default: default
    return True
