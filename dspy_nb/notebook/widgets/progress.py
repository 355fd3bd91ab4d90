"""The panel of a call in a notebook: what it does, what it found, what it costs, and a button to stop it."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Self

import psutil
from ipywidgets import HTML, Layout, VBox

from dspy_nb.core.events import CandidateScored
from dspy_nb.notebook.display import NotebookProgress
from dspy_nb.notebook.widgets.live import (
    CONTROLS_STYLE,
    LIVE_STYLE,
    StopButton,
    close_widgets,
    live_bundle,
    soft,
)
from dspy_nb.views.documents import Facts, markup, to_fragment
from dspy_nb.views.progress.call_state import CallState
from dspy_nb.views.progress.comparison import ComparisonState
from dspy_nb.views.progress.run_state import RunState, candidate_title, event_cells, prompt_of
from dspy_nb.views.run import CANDIDATE_COLUMNS
from dspy_nb.views.style import STYLE
from dspy_nb.views.wording import say_rest

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


class ProgressPanel(NotebookProgress):
    """A listener that shows a call in the cell that makes it, with a button that stops the call.

    The end of the call replaces the widgets by static HTML and text, so that a saved notebook shows the result::

        panel = nb.ProgressPanel()
        run = nb.optimize(..., on_event=panel, stop=panel.stop)

    The magics do this by themselves. The panel starts with the first event; where that comes from another
    thread, as with ``background=True``, call :meth:`show` before.

    Attributes:
        redraws: how often the panel was drawn.
    """

    _view: _View | None = None
    redraws = 0

    def _bundle(self) -> dict[str, Any]:
        if self.state.status != "running":
            return self._static()
        self._view = _View(self.stop)
        self._draw()
        return live_bundle(self._view.box, self.state.headline, self.state.text())

    def _update(self) -> None:
        if self.state.status == "running":
            self._draw()
            return
        super()._update()
        if self._view is not None:
            close_widgets(self._view.box)

    def _draw(self) -> None:
        if self._view is not None:
            self.redraws += 1
            self._view.draw(self.state)


class ABPanel(ProgressPanel):
    """A :class:`ProgressPanel` of a comparison that is shown before it begins, by names of your own.

    It is a context, and its end replaces the widgets by static HTML and text::

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
        """Replace the widgets by how it ended."""
        super().__exit__(kind, error, trace)
        if self.state.status == "running":  # nothing was compared
            self.state.status = "stopped"
            self._show()


class _View:
    """The widgets of a panel; only what has changed is sent to the front end.

    Args:
        stop: set, from whatever thread, when the button is pressed.
    """

    def __init__(self, stop: threading.Event) -> None:
        self._head = HTML()
        self.stop_button = StopButton(stop)
        self._parts = VBox()  # one for each further block of the state
        self._columns = HTML(layout=Layout(order="-1", display="none"))
        columns = _cells(CANDIDATE_COLUMNS, "row head")
        self._columns.value = f'<div class="dspy-nb" aria-hidden="true">{columns}</div>'
        self._rows = VBox([self._columns])
        self._rows.add_class("dspy-nb-candidates")
        self._caption = HTML()
        self._slots: dict[int, HTML] = {}  # one for each candidate that is shown
        self._drawn: dict[int, tuple[CandidateScored, bool]] = {}
        self._process = psutil.Process()
        style = HTML(STYLE + LIVE_STYLE + CONTROLS_STYLE + _PANEL_STYLE)
        self.box = VBox([style, self._head, self.stop_button.box, self._parts, self._rows, self._caption])
        self.box.add_class("dspy-nb-panel")

    def draw(self, state: CallState) -> None:
        """Show ``state``."""
        memory = ("memory", f"{self._process.memory_info().rss / 2**20:,.0f} MB")
        first, *others = state.blocks
        self._head.value = to_fragment([first], state.headline)
        self._parts.children += tuple(HTML() for _ in others[len(self._parts.children) :])
        texts = [
            to_fragment([replace(block, items=[*block.items, memory]) if isinstance(block, Facts) else block])
            for block in others
        ]
        for number, part in enumerate(self._parts.children):
            part.value = texts[number] if number < len(texts) else ""
        run = state.innermost
        for part in (self._rows, self._caption):  # in a pipeline other calls follow the run
            part.layout.display = None if isinstance(run, RunState) else "none"
        if isinstance(run, RunState):
            self._draw_candidates(run)
        self.stop_button.refresh(state.keeps)

    def _draw_candidates(self, state: RunState) -> None:
        # A candidate keeps its widget, so that a prompt that someone has opened to read stays open; its place
        # is a matter of style.
        shown = {e.candidate: (e, e.full and rank == 0) for rank, e in enumerate(state.ranked)}
        free = [self._slots.pop(number) for number in set(self._slots) - set(shown)]
        added = [HTML() for _ in range(len(shown) - len(self._slots) - len(free))]
        free += added
        for rank, (number, candidate) in enumerate(shown.items()):
            if number not in self._slots:
                self._slots[number] = free.pop()
            if self._drawn.get(number) != candidate:
                self._slots[number].value = _candidate(*candidate)
            self._slots[number].layout.order = str(rank)
        self._drawn = shown
        if added:
            self._columns.layout.display = None
            self._rows.children = (*self._rows.children, *added)
        if rest := say_rest(len(shown), state.candidates, "candidates"):
            self._caption.value = soft(f"{rest}: the best and the newest")


def _candidate(event: CandidateScored, best: bool) -> str:
    cells = event_cells(event, " (best)" if best else "")
    label = markup(candidate_title(event))
    return (
        f'<div class="dspy-nb"><details class="candidate"><summary aria-label="{label}">{_cells(cells)}</summary>'
        f"{to_fragment(prompt_of(event))}</details></div>"
    )


def _cells(cells: Sequence[str], kind: str = "row") -> str:
    first, *others = map(markup, cells)
    rest = "".join(f"<span>{cell}</span>" for cell in others)
    return f'<span class="{kind}"><span class="first">{first}</span>{rest}</span>'
