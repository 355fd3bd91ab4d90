"""What a live panel is made of: how it is shown, its Stop button, and how it leaves nothing behind."""

from __future__ import annotations

import threading
from typing import Any

from ipywidgets import HTML, Box, Button, HBox, Layout

from dspy_nb.views.documents import Document, Note, markup, to_html

LIVE_STYLE = """<style>
.dspy-nb-panel :is(button,summary):focus-visible{outline-offset:-2px;
 outline:2px solid var(--jp-brand-color1,#1976d2)!important}
.dspy-nb-panel .widget-html,.dspy-nb-panel .widget-html-content{height:auto;overflow:visible;line-height:1.45}
</style>"""

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
    """A button that sets an event, beside a hint of what that does.

    Attributes:
        box: The widget.
        button: The button in it.

    Args:
        stop: Set, from whatever thread, when the button is pressed.
    """

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop
        self._hint = HTML()
        self.button = Button(description="Stop", icon="stop")
        self.button.on_click(self._pressed)
        deliver_at_once(self.button)
        self.box = HBox([self.button, self._hint], layout=Layout(align_items="center"))

    def refresh(self, keeps: str) -> None:
        """Say what it keeps; and that it stops, where something else has set the event."""
        self.button.tooltip = f"End at the next LM call and keep {keeps}"
        self._hint.value = soft(f"keeps {keeps}; so does interrupting the kernel")
        self._say()

    def _say(self) -> None:
        if self._stop.is_set():
            self.button.disabled = True
            self.button.description = "Stopping…"

    def _pressed(self, button: Button) -> None:
        self._stop.set()
        self._say()


def live_bundle(box: Box, headline: str, text: str) -> dict[str, Any]:
    """Return what displays ``box``, with words for a front end without widgets."""
    # Such a front end gets no updates of them either.
    note = Note("Progress is shown where widgets are; the result will replace this.")
    view = box._repr_mimebundle_()[_WIDGET_VIEW]
    return {"text/plain": text, "text/html": to_html(Document(headline, [note])), _WIDGET_VIEW: view}


def close_widgets(box: Box) -> None:
    """Take a box and all in it away, in the front end and in the kernel."""
    widgets: list[Any] = [box]
    for widget in widgets:
        widgets.extend(getattr(widget, "children", ()))
    for widget in widgets:
        if isinstance(widget, HTML):
            widget.value = ""  # whoever executes a notebook keeps the last state of each widget
        for part in (widget, widget.layout, getattr(widget, "style", None)):
            if part is not None:
                part.close()


def soft(text: str) -> str:
    """Return a remark as HTML."""
    return f'<div class="dspy-nb"><span class="soft">{markup(text)}</span></div>'


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
