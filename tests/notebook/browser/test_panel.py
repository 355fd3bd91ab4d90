"""The progress panel in a real JupyterLab: it moves, it stops, its result stays."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.browser import DARK, LIGHT, Notebook
from tests.notebook.browser.paced import Pace
from tests.notebook.browser.test_looks import show_in

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]

_SETUP = """
%load_ext dspy_nb
import dspy
from tests.notebook.browser.paced import paced_lm
from tests.scripted import classifier, reviews
dspy.configure(lm=paced_lm({file!r}))
program, train, val = classifier(), reviews(30, "train"), reviews(4, "val")
"""
_OPTIMIZE = (
    "%dspy_optimize program --train train --val val --metric exact_match:sentiment --threads 2 "
    "--optimizer BootstrapFewShotWithRandomSearch --option num_candidate_programs=1000 -o run"
)
_RESULT = (
    "print(run.stopped_by, len(run.candidates), run.score == max(c.score for c in run.candidates if c.full))"
)


def _calls(notebook) -> int:
    """How many LM calls the panel says were answered."""
    found = re.search(r"([\d,]+) of at most [\d,]+ LM calls answered", notebook.text())
    return int(found[1].replace(",", "")) if found else 0


def _rows(notebook: Notebook) -> str:
    """What the rows of candidates say."""
    return " ".join(notebook.page.locator("details.candidate summary").all_inner_texts())


def _answer_until_candidates(notebook: Notebook, pace: Pace) -> None:
    pace.answer_until(lambda: notebook.page.locator("details.candidate").count() >= 2, "no candidates")


@pytest.fixture
def opened(open_notebook, tmp_path: Path):
    """Return ``opened(*cells)``: a notebook whose first cell has run, and the pace of its language model."""

    def open_(*cells: str) -> tuple[Notebook, Pace]:
        file = tmp_path / "calls"
        notebook = open_notebook(_SETUP.format(file=str(file)), *cells)
        notebook.run(0)
        return notebook, Pace(notebook, file)

    return open_


def test_the_panel_moves_stop_keeps_the_best_as_the_kernel_menu_does_and_a_reload_still_shows_it(opened):
    notebook, pace = opened(_OPTIMIZE, _RESULT, _OPTIMIZE, _RESULT)
    notebook.start(1)
    _answer_until_candidates(notebook, pace)
    calls = _calls(notebook)
    pace.answer_until(lambda: _calls(notebook) > calls, "the panel does not move")
    stable = notebook.page.get_by_text("best candidates so far")
    pace.answer_until(lambda: stable.count() and "75.0%" not in _rows(notebook), "no stable best")
    row = notebook.page.locator("details.candidate").first
    row.locator("summary").click()
    assert "Classify the review." in row.locator("pre").first.inner_text()
    calls = _calls(notebook)
    pace.answer_until(lambda: _calls(notebook) > calls, "the panel does not move")
    assert row.locator("pre").first.is_visible()  # redrawing does not close what someone reads
    assert notebook.is_running(1)

    notebook.page.get_by_role("button", name="Stop").click()
    pace.answer_until_done(1)
    notebook.wait_until(
        lambda: "stopped on request" in notebook.output(1).inner_text(), "not shown as stopped"
    )
    assert notebook.page.get_by_role("button", name="Stop").count() == 0
    notebook.run(2)
    stopped_by, candidates, is_best = notebook.output(2).inner_text().split()
    assert (stopped_by, is_best) == ("stop", "True")
    assert 2 <= int(candidates) < 1000

    saved = notebook.save()
    for output in saved.cells[1].outputs:
        assert "application/vnd.jupyter.widget-view+json" not in output.get("data", {})
    notebook.open()
    text = notebook.output(1).inner_text()
    assert "stopped on request" in text
    assert "best score" in text
    assert notebook.output(1).locator("svg.scores").is_visible()

    notebook.start(3)
    _answer_until_candidates(notebook, pace)
    notebook.interrupt()
    pace.answer_until_done(3)
    assert "interrupted after" in notebook.output(3).inner_text()
    notebook.run(4)
    assert notebook.output(4).inner_text().split()[::2] == ["interrupt", "True"]


def test_runs_in_the_background_leave_later_cells_usable_and_their_output_alone(opened):
    notebook, pace = opened(
        f"{_OPTIMIZE} --background;",
        f"{_OPTIMIZE.replace('-o run', '-o other')} --background;",
        "import ipywidgets\nmine = ipywidgets.IntSlider(description='my slider')\ndisplay(mine)\n"
        "for i in range(3): print('mine', i)",
        "run.status, other.status",
        "run.wait().status, other.wait().status",
    )
    for number in (1, 2, 3):
        notebook.run(number)
    mine = notebook.output(3).inner_text()
    assert "my slider" in mine
    assert "mine 2" in mine
    assert "LM calls" not in mine
    notebook.run(4)
    assert "('running', 'running')" in notebook.output(4).inner_text(), notebook.text()
    _answer_until_candidates(notebook, pace)
    for number in (1, 2):
        assert "LM calls answered" in notebook.output(number).inner_text()
        notebook.output(number).get_by_role("button", name="Stop").click()
    notebook.start(5)
    pace.answer_until_done(5)
    assert "('stopped', 'stopped')" in notebook.output(5).inner_text(), notebook.text()
    for number in (1, 2):
        notebook.wait_until(
            lambda number=number: "stopped on request" in notebook.output(number).inner_text(), "not stopped"
        )
    assert notebook.output(3).inner_text() == mine


_END = """
%load_ext dspy_nb
import dspy, dspy_nb as nb
from tests.scripted import classifier, reviews, scripted_lm
dspy.configure(lm=scripted_lm())
program, train, val, test = classifier(), reviews(12, "train"), reviews(12, "val"), reviews(40, "test")
"""
_THREE_CANDIDATES = """
import time
from dspy_nb.core.events import CandidateScored, Started
panel = nb.ProgressPanel()
panel(Started('MIPROv2', 100, {}))
for number, score in enumerate((.5, .4, .7)):
    time.sleep(.3)  # it is drawn four times a second
    panel(CandidateScored(number, score, 30, True, False, 'Say it.', 2))
"""
_COLOUR = "element => getComputedStyle(element).backgroundColor"


def _tab_through_candidates(notebook: Notebook, number: int) -> None:
    """The keyboard goes through the candidates in the order that is seen."""
    candidates = notebook.output(number).locator("details.candidate summary")
    notebook.wait_until(lambda: candidates.count() == 3, "no candidates")
    notebook.output(number).get_by_role("button", name="Stop").focus()
    reached = []
    for _ in range(3):
        notebook.page.keyboard.press("Tab")
        reached.append(notebook.page.locator("summary:focus").get_attribute("aria-label"))
    assert [label.partition(":")[0] for label in reached] == ["Candidate 2", "Candidate 0", "Candidate 1"]


def test_the_end_says_the_verdict_first_and_what_to_do_next_and_tab_goes_from_candidate_to_candidate(
    open_notebook,
):
    options = "--train train --metric exact_match:sentiment"
    notebook = open_notebook(
        _END,
        f"results = {{}}\nresults['a'] = %dspy_optimize program {options} --val val --test test --preset light",
        'print(nb.Registry("registry").register(results["a"], "my-model").ref)',
        f"flat = %dspy_optimize program {options} --val val --test test --optimizer COPRO "
        "--option breadth=2 --option depth=1",
        "unseen = nb.optimize(program, trainset=train, metric=nb.exact_match('sentiment'), "
        "valset=val, optimizer='LabeledFewShot', on_event=nb.ProgressPanel())",
        f"searched = %dspy_optimize program {options} --val val --preset light",
        _THREE_CANDIDATES,
        width=640,
    )
    for number in range(7):
        notebook.run(number)
    register = """Register it: nb.Registry("registry").register(results['a'], "my-model")"""
    for number, first, step in (
        (1, "Better on held-out examples: 62.5% -> 100.0%", register),
        (3, "No clear difference on held-out examples: 62.5% -> 62.5%", "optimizer (--optimizer MIPROv2)"),
        (4, "validation examples that the search did not use", "register(unseen, "),
        (5, "Nothing was held out", "Hold out about 30 labelled examples (--test)"),
    ):
        panel = notebook.output(number).locator(".dspy-nb").last
        text = panel.inner_text()
        assert text.index(first) < text.index("Next: ") < text.index("LM calls answered"), text
        assert step in text
    assert "my-model@1.0.0" in notebook.output(2).inner_text()
    for theme, width in ((LIGHT, 640), (DARK, 1200)):
        show_in(notebook.page, theme, width)
        better, no_difference, searched = (
            notebook.output(number).locator(".dspy-nb .bar > div").last.evaluate(_COLOUR)
            for number in (1, 3, 5)
        )
        assert better != no_difference == searched
        for number in (1, 3, 4, 5):
            panel = notebook.output(number).locator(".dspy-nb").last
            assert panel.evaluate("element => element.scrollWidth <= element.clientWidth")

    _tab_through_candidates(notebook, 6)
