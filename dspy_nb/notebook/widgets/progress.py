"""The panel of a run in a notebook: what it does, what it found, what it costs, and a button to stop it."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextvars import Context
from typing import Any

import psutil
from IPython.display import display
from ipywidgets import HTML, Layout, VBox

from dspy_nb.core.events import CandidateScored
from dspy_nb.notebook.widgets.live import LIVE_STYLE, StopButton, close_widgets, live_bundle, soft
from dspy_nb.views.documents import STYLE, markup, to_fragment
from dspy_nb.views.progress.display import Display
from dspy_nb.views.progress.run_state import ProgressState, candidate_title, prompt_of
from dspy_nb.views.wording import excerpt, percent

__all__ = ["ProgressPanel"]

_EXCERPT = 110

_PANEL_STYLE = """<style>
.dspy-nb-candidates{reading-flow:flex-visual}
.dspy-nb.dspy-nb .row{display:grid;grid-template-columns:6.5em 5em 7em 4em minmax(8em,1fr);column-gap:1em;
 padding:.25em 0;border-bottom:1px solid var(--line);font-variant-numeric:tabular-nums}
.dspy-nb.dspy-nb .row>span{white-space:nowrap;overflow:hidden;text-overflow:ellipsis}
.dspy-nb.dspy-nb .row>span:nth-child(n+2):nth-child(-n+4){text-align:right}
.dspy-nb.dspy-nb .head{color:var(--soft);font-weight:500}
.dspy-nb.dspy-nb .candidate .row .first::before{content:"▸ ";color:var(--soft)}
.dspy-nb.dspy-nb details[open] .row .first::before{content:"▾ "}
.dspy-nb.dspy-nb details.candidate{margin:0}
.dspy-nb.dspy-nb details.candidate>summary{list-style:none}
.dspy-nb.dspy-nb details.candidate>summary::-webkit-details-marker{display:none}
.dspy-nb.dspy-nb details.candidate>div{margin:.3em 0 .6em .3em}
</style>"""


class ProgressPanel(Display):
    """A listener that shows a run in the cell that starts it, with a button that stops the run.

    The run's end replaces the widgets by static HTML and text, so that a saved notebook shows the result::

        panel = nb.ProgressPanel()
        run = nb.optimize(..., on_event=panel, stop=panel.stop)

    ``%dspy_optimize`` does this by itself. The panel starts with the first event; where that comes from
    another thread, as with ``background=True``, call :meth:`show` before.

    Attributes:
        redraws: how often the panel was drawn.
    """

    def __init__(self) -> None:
        super().__init__()
        self.redraws = 0
        self._handle: Any = None
        self._view: _View | None = None

    def show(self) -> None:
        """Start the panel, in the cell that is running now."""
        with self._lock:
            bundle = self._static()
            if self.state.status == "running":
                self._view = _View(self.stop)
                self._draw()
                bundle = live_bundle(self._view.box, self.state.headline, self.state.text())
            self._handle = display(bundle, raw=True, display_id=True)

    def _show(self) -> None:
        if self._handle is None:
            self.show()
        elif self.state.status == "running":
            self._draw()
        else:
            # Out of the thread's context: see NotebookProgress.
            Context().run(self._handle.update, self._static(), raw=True)
            if self._view is not None:
                close_widgets(self._view.box)

    def _draw(self) -> None:
        if self._view is not None:
            self.redraws += 1
            self._view.draw(self.state)

    def _static(self) -> dict[str, Any]:
        return {"text/plain": self.state.text(), "text/html": self.state.html()}


class _View:
    """The widgets of a panel; only what has changed is sent to the front end.

    Args:
        stop: set, from whatever thread, when the button is pressed.
    """

    def __init__(self, stop: threading.Event) -> None:
        self._head, self._chart, self._facts, self._caption = HTML(), HTML(), HTML(), HTML()
        self.stop_button = StopButton(
            stop,
            "End the run at the next LM call and keep the best so far",
            "keeps the best so far; so does interrupting the kernel",
        )
        self._columns = HTML(layout=Layout(order="-1", display="none"))
        columns = ("candidate", "score", "n", "demos", "instruction")
        self._columns.value = f'<div class="dspy-nb" aria-hidden="true">{_cells(columns, "row head")}</div>'
        self._rows = VBox([self._columns])
        self._rows.add_class("dspy-nb-candidates")
        self._slots: dict[int, HTML] = {}  # one for each candidate that is shown
        self._drawn: dict[int, tuple[CandidateScored, bool]] = {}
        self._process = psutil.Process()
        self.box = VBox(
            [
                HTML(STYLE + LIVE_STYLE + _PANEL_STYLE),
                self._head,
                self.stop_button.box,
                self._chart,
                self._facts,
                self._rows,
                self._caption,
            ]
        )
        self.box.add_class("dspy-nb-panel")

    def draw(self, state: ProgressState) -> None:
        """Show ``state``."""
        memory = f"{self._process.memory_info().rss / 2**20:,.0f} MB"
        self._head.value = to_fragment([state.bar], state.headline)
        if state.chart:
            self._chart.value = to_fragment(state.chart)
        self._facts.value = to_fragment([state.facts([("memory", memory)])])
        self._draw_candidates(state)
        self.stop_button.refresh()

    def _draw_candidates(self, state: ProgressState) -> None:
        # A candidate keeps its widget, so that a prompt that someone has opened to read stays open; its place
        # is a matter of style.
        ranked = state.ranked
        numbers = {event.candidate for event in ranked}
        free = [self._slots.pop(number) for number in set(self._slots) - numbers]
        added = []
        for rank, event in enumerate(ranked):
            number = event.candidate
            if number not in self._slots:
                if free:
                    self._slots[number] = free.pop()
                else:
                    self._slots[number] = HTML()
                    added.append(self._slots[number])
                self._drawn.pop(number, None)
            slot = self._slots[number]
            shown = event, event.full and rank == 0
            if self._drawn.get(number) != shown:
                slot.value = _candidate(event, best=shown[1])
                self._drawn[number] = shown
            slot.layout.order = str(rank)
        self._drawn = {number: shown for number, shown in self._drawn.items() if number in numbers}
        if added:
            self._columns.layout.display = None
            self._rows.children = (*self._rows.children, *added)
        if state.candidates > len(ranked):
            self._caption.value = soft(
                f"{len(ranked)} of {state.candidates:,} candidates are shown: the best and the newest"
            )


def _candidate(event: CandidateScored, *, best: bool) -> str:
    cells = (
        f"{event.candidate}{' (best)' if best else ''}",
        percent(event.score),
        f"{event.n:,}{'' if event.full else ' (partial)'}",
        str(event.demos),
        excerpt(event.instruction, _EXCERPT),
    )
    label = markup(candidate_title(event))
    return (
        f'<div class="dspy-nb"><details class="candidate"><summary aria-label="{label}">{_cells(cells)}</summary>'
        f"{to_fragment(prompt_of(event))}</details></div>"
    )


def _cells(cells: Sequence[str], kind: str = "row") -> str:
    first, *others = map(markup, cells)
    rest = "".join(f"<span>{cell}</span>" for cell in others)
    return f'<span class="{kind}"><span class="first">{first}</span>{rest}</span>'
