"""A page of JupyterLab that is loaded anew while a run goes on: what it shows, and how the run is found again."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.browser import _HAS_KERNEL, DARK, Notebook
from tests.notebook.browser.paced import Pace
from tests.notebook.browser.test_panel import _OPTIMIZE, _SETUP, _answer_until_candidates, _calls

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]

_STALE = ("Loading widget", "model not found")
_STAYS = "After a reload of the page this stays as it is"


@pytest.fixture
def opened(open_notebook, tmp_path: Path):
    """Return ``opened(*cells, dark=False)``: a notebook whose first cell has run, and the pace of its LM.

    A dark one is narrow as well.
    """

    def open_(*cells: str, dark: bool = False) -> tuple[Notebook, Pace]:
        file = tmp_path / "calls"
        look = {"width": 640, "theme": DARK} if dark else {}
        notebook = open_notebook(_SETUP.format(file=str(file)), *cells, **look)
        notebook.run(0)
        return notebook, Pace(notebook, file)

    return open_


def _reload(notebook: Notebook) -> None:
    """Load the page anew, also while the kernel is busy and says nothing to a new page."""
    notebook.page.reload()
    notebook.wait_for(".jp-Notebook .jp-Cell")


def _is_clean(notebook: Notebook, number: int) -> bool:
    text = notebook.output(number).inner_text()
    return not any(stale in text for stale in _STALE)


def test_after_a_reload_a_run_in_the_foreground_shows_its_last_state_and_how_to_stop_it(opened):
    notebook, pace = opened(_OPTIMIZE, "%dspy_runs")
    notebook.start(1)
    _answer_until_candidates(notebook, pace)
    notebook.save()
    _reload(notebook)
    text = notebook.output(1).inner_text()
    assert _calls(notebook) > 0
    assert f"{_STAYS}: interrupt the kernel to stop, %dspy_runs then says how it ended." in text
    assert _is_clean(notebook, 1)
    assert notebook.output(1).locator("svg.scores").is_visible()
    notebook.interrupt()
    pace.answer_until(lambda: notebook.page.evaluate(_HAS_KERNEL), "the run goes on")
    notebook.run(2)
    row = notebook.output(2).locator("tbody tr").first.inner_text()
    assert "run · BootstrapFewShotWithRandomSearch" in row
    assert "interrupted" in row
    assert ".register('MODEL')" in row
    assert _is_clean(notebook, 1)  # also when the page knows that the widget is gone
    assert _STAYS in notebook.output(1).inner_text()


@pytest.mark.parametrize(
    "saved", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["saved", "unsaved"]
)
def test_after_a_reload_a_run_in_the_background_is_shown_again_in_another_cell_and_stopped(opened, saved):
    notebook, pace = opened(
        f"{_OPTIMIZE} --background;", "%dspy_runs", "%dspy_runs --attach 0", "run.status", dark=not saved
    )
    notebook.run(1)
    _answer_until_candidates(notebook, pace)
    if saved:
        notebook.save()
    notebook.open()
    assert ("LM calls answered" in notebook.output(1).inner_text()) is saved
    notebook.run(2)
    row = notebook.output(2).locator("tbody tr").first.inner_text()
    assert "going on" in row
    assert "%dspy_runs --attach 0" in row
    notebook.run(3)
    panel = notebook.output(3)
    stop = panel.get_by_role("button", name="Stop")
    notebook.wait_until(stop.is_visible, "no button")
    assert panel.locator("svg.scores").is_visible()  # of the candidates before
    calls = notebook.output(3).inner_text()
    pace.answer_until(lambda: notebook.output(3).inner_text() != calls, "it does not move")
    stop.click()
    pace.answer_until(lambda: "stopped on request" in panel.inner_text(), "not stopped")
    notebook.wait_until(lambda: stop.count() == 0, "the button stays")
    notebook.run(4)
    assert "'stopped'" in notebook.output(4).inner_text()
    if saved:
        assert _STAYS in notebook.output(1).inner_text()
    document = notebook.save()
    assert "widget-view" not in str(document.cells[3].outputs)
    notebook.open()
    assert all(_is_clean(notebook, number) for number in (1, 3))
    assert "stopped on request" in notebook.output(3).inner_text()


def test_the_button_of_a_run_in_the_background_works_after_a_reload_and_leaves_the_last_state(opened):
    notebook, pace = opened(f"{_OPTIMIZE} --background;", dark=True)
    notebook.run(1)
    _answer_until_candidates(notebook, pace)
    notebook.save()
    notebook.open()
    stop = notebook.output(1).get_by_role("button", name="Stop")
    notebook.wait_until(stop.is_visible, "no button")
    stop.click()
    pace.answer_until(lambda: stop.count() == 0, "not stopped")
    assert "LM calls answered" in notebook.output(1).inner_text()
    assert f"{_STAYS}: %dspy_runs in another cell" in notebook.output(1).inner_text()
    assert _is_clean(notebook, 1)
