"""What shows a call in the cell that makes it, as HTML and text that are updated in place.

A page that is loaded anew shows the outputs as they were saved, and updates no longer reach them. So what is shown
while a call works says when it was so, how to stop the call, and where to look at it from then on.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from contextvars import Context
from typing import Any, Final

import psutil
from IPython.display import display

from dspy_nb.core.events import CandidateScored, Event
from dspy_nb.views.documents import Drawing, Facts
from dspy_nb.views.progress.call_state import CallState
from dspy_nb.views.progress.display import Display
from dspy_nb.views.progress.run_state import RunState, candidate_title, event_cells, prompt_of
from dspy_nb.views.rendering.html import markup, to_fragment, to_html
from dspy_nb.views.rendering.style import STYLE
from dspy_nb.views.run import CANDIDATE_COLUMNS

NOTHING: Final[Mapping[str, Any]] = {"text/html": "", "text/plain": ""}

# A button whose widget is gone, or not there yet, is a text of JupyterLab's such as "model not found", no element.
_LIVE_STYLE: Final = """<style>
.dspy-nb-stop:focus-visible{outline-offset:-2px;outline:2px solid var(--jp-brand-color1,#1976d2)!important}
.jp-OutputArea-child:has(+.jp-OutputArea-child .dspy-nb-live)
 >.lm-Panel.jp-OutputArea-output:not(:has(*)){display:none}
</style>"""

_CANDIDATES_STYLE: Final = """<style>
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
.dspy-nb.dspy-nb summary:focus-visible{outline-offset:-2px;
 outline:2px solid var(--jp-brand-color1,#1976d2)!important}
</style>"""

_BEST_SHOWN = 5


class NotebookProgress(Display):
    """The outputs of the cell that makes the call, updated in place from any thread, and left as static HTML.

    One output says how the call goes. Another one has the prompts of the best candidates to unfold, and is only
    drawn when these change: a drawing folds everything again.

    It starts with the first event. Where that comes from another thread, call :meth:`show` before.

    Args:
        state: What is known before the first event.
        in_background: Whether the cell ends before the call, so that interrupting the kernel does not end the call;
            by itself it notices that where the first event comes from another thread than the main one.

    Attributes:
        redraws: How often it was drawn while the call worked.
    """

    redraws = 0
    button = False

    def __init__(self, state: CallState | None = None, *, in_background: bool = False) -> None:
        super().__init__(state)
        self._shown_in_background = self._in_background = in_background
        self._begun = False
        self._progress, self._candidates = Output(), Output()
        self._process = psutil.Process()
        self._of: Sequence[tuple[CandidateScored, bool]] = ()  # whose prompts are drawn
        self._at = ""

    def __call__(self, event: Event) -> None:
        """Take in one event, from any thread."""
        if self.state.status != "running" or type(self.state) is CallState:  # a call begins
            elsewhere = threading.current_thread() is not threading.main_thread()
            self._in_background = self._shown_in_background or elsewhere
        self._at = event.timestamp
        super().__call__(event)

    def show(self) -> None:
        """Start the display, in the cell that is running now."""
        with self._lock:
            self._shown = self._begun = True
            self._of = ()
            self._begin()

    def _begin(self) -> None:
        """Make the outputs, from the top to the bottom."""
        if self.state.status == "running":
            self._progress.begin(self._live())
            self._candidates.begin(self._prompts() or NOTHING)
        else:
            self._progress.begin(self._static())

    def _show(self) -> None:
        if not self._begun:
            self.show()
        elif self.state.status == "running":
            self._progress.update(self._live())
            if (prompts := self._prompts()) is not None:
                self._candidates.update(prompts)
        else:
            self._finish()

    def _finish(self) -> None:
        """Leave what stays."""
        self._progress.update(self._static())
        self._candidates.update(NOTHING)

    def _end(self) -> None:
        self._begun = False

    # -- what is shown -------------------------------------------------------------------------------------

    def _static(self) -> dict[str, Any]:
        return {"text/html": to_html(self.state.document()), "text/plain": self.state.text()}

    def _live(self) -> dict[str, Any]:
        self.redraws += 1
        memory = ("memory", f"{self._process.memory_info().rss / 2**20:,.0f} MB")
        bar, *others = (
            Facts([*block.items, memory], tiles=True) if isinstance(block, Facts) and block.tiles else block
            for block in self.state.blocks
        )
        how = self._how_to_stop()
        note = Drawing(f'<p class="soft">{markup(how)}</p>', how)
        shown = to_fragment([bar, note, *others], self.state.headline)
        return {
            "text/html": f'{STYLE}{_LIVE_STYLE}<div class="dspy-nb-live">{shown}</div>',
            "text/plain": f"{self.state.text()}. {how}".strip(),
        }

    def _how_to_stop(self) -> str:
        """Return how the call is stopped and what that keeps, where to look after a reload, and when it was so."""
        run = isinstance(self.state.innermost, RunState)
        ways = ["Stop"] if self.button else []
        after = ["interrupt the kernel to stop"]
        if self._in_background:
            after = ["%dspy_runs in another cell shows the run again and stops it"] if run else []
        else:
            ways.append(f"{'i' if ways else 'I'}nterrupting the kernel (■ in the toolbar)")
            after += ["%dspy_runs then says how it ended"] if run else []
        parts = [f"{' or '.join(ways)} keeps {self.state.keeps}."] if ways else []
        parts += [f"After a reload of the page this stays as it is: {', '.join(after)}."] if after else []
        parts += [f"As of {self._at[11:19]} UTC."] if self._at else []
        return " ".join(parts)

    def _prompts(self) -> dict[str, Any] | None:
        """Return the best candidates with their prompts to unfold, ``None`` where they are as they were drawn."""
        run = self.state.innermost
        ranked = run.ranked if isinstance(run, RunState) else []
        shown = [(event, event.full and rank == 0) for rank, event in enumerate(ranked[:_BEST_SHOWN])]
        if shown == self._of:
            return None
        self._of = shown
        if not shown:
            return dict(NOTHING)
        rows = "".join(_candidate(*one) for one in shown)
        head = f'<div aria-hidden="true">{_cells(CANDIDATE_COLUMNS, "row head")}</div>'
        note = (
            f"<p class='soft'>The {_BEST_SHOWN} best candidates so far; rows close again when one joins them.</p>"
            if len(ranked) > _BEST_SHOWN
            else ""
        )
        return {
            "text/html": f'{STYLE}{_CANDIDATES_STYLE}<div class="dspy-nb">{head}{rows}{note}</div>',
            "text/plain": "",
        }


class Output:
    """One output of the cell, updated in place from any thread where it changes."""

    def __init__(self) -> None:
        self._handle: Any = None  # None also where there is no shell to display it
        self._data: Mapping[str, Any] = NOTHING

    def begin(self, data: Mapping[str, Any]) -> None:
        """Put it into the cell that is running now."""
        self._data = data
        self._handle = display(dict(data), raw=True, display_id=True)

    def update(self, data: Mapping[str, Any]) -> None:
        """Show something else, where it was begun."""
        if self._handle is None or data == self._data:
            return
        self._data = data
        # Out of the thread's context, the kernel takes the cell that runs now for the sender. An update finds
        # its display by id all the same, and whoever executes a notebook only listens to that cell.
        Context().run(self._handle.update, dict(data), raw=True)


def _candidate(event: CandidateScored, best: bool) -> str:
    cells = event_cells(event, " (best)" if best else "")
    label = markup(candidate_title(event))
    return (
        f'<details class="candidate"><summary aria-label="{label}">{_cells(cells)}</summary>'
        f"{to_fragment(prompt_of(event))}</details>"
    )


def _cells(cells: Sequence[str], kind: str = "row") -> str:
    first, *others = map(markup, cells)
    rest = "".join(f"<span>{cell}</span>" for cell in others)
    return f'<span class="{kind}"><span class="first">{first}</span>{rest}</span>'
