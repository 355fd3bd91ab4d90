"""The button that stops a call, while a cell runs and from whatever thread, and how it leaves nothing behind."""

from __future__ import annotations

import threading
from typing import Any

from ipywidgets import Button

CONTROLS_STYLE = """<style>
.dspy-nb-panel,.dspy-nb-browser{--confirm-back:#ffa726;--confirm-text:#1c1c1c;
 --quiet:color-mix(in srgb,var(--jp-content-font-color1,currentColor) 74%,transparent)}
:is(.dspy-nb-panel,.dspy-nb-browser) .jupyter-button.mod-warning:not(:disabled):is(*,:hover,:focus,:active){
 background:var(--confirm-back);color:var(--confirm-text)}
:is(.dspy-nb-panel,.dspy-nb-browser) :is(button,input,select):disabled{opacity:1;cursor:not-allowed;
 color:var(--quiet);background:transparent;
 box-shadow:inset 0 0 0 1px color-mix(in srgb,currentColor 35%,transparent)}
:is(.dspy-nb-panel,.dspy-nb-browser) ::placeholder{opacity:1;color:var(--quiet)}
:is(.dspy-nb-panel,.dspy-nb-browser) .lm-TabBar-tab{color:var(--jp-ui-font-color1,inherit)!important}
.dspy-nb-form.dspy-nb-form>*>.widget-label{width:7.5em!important}
</style>"""
"""For what ipywidgets draws too faint to read, or cuts off: at least 4.5 : 1, in light and dark."""

_WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"


class StopButton:
    """A button that sets an event.

    Attributes:
        button: The widget.

    Args:
        stop: Set, from whatever thread, when the button is pressed.
    """

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop
        self.button = Button(description="Stop", icon="stop")
        self.button.add_class("dspy-nb-stop")
        self.button.on_click(self._pressed)
        deliver_at_once(self.button)

    def bundle(self) -> dict[str, Any]:
        """Return what displays it; a front end without widgets shows nothing."""
        view = self.button._repr_mimebundle_()[_WIDGET_VIEW]
        return {"text/plain": "", "text/html": "", _WIDGET_VIEW: view}

    def refresh(self, keeps: str) -> None:
        """Say what it keeps; and that it stops, where something else has set the event."""
        self.button.tooltip = f"End at the next LM call and keep {keeps}"
        self._say()

    def close(self) -> None:
        """Take it away, in the front end and in the kernel."""
        for part in (self.button, self.button.layout, self.button.style):
            part.close()

    def _say(self) -> None:
        if self._stop.is_set():
            self.button.disabled = True
            self.button.description = "Stopping…"

    def _pressed(self, button: Button) -> None:
        self._stop.set()
        self._say()


# -- clicks -----------------------------------------------------------------------------------------------------


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
    if not hasattr(comm, "_reply_subshell_for"):  # private, tested in tests/notebook/browser/test_panel.py
        return False
    comm._reply_subshell_for = lambda data, default: default
    return True
