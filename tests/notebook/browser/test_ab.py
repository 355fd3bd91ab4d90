"""The panel of a comparison in a real JupyterLab: it closes in, it stops, and its result stays."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.browser import Notebook
from tests.notebook.browser.paced import Pace

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]

# Half of the labels are wrong, so neither program is better, and there is no verdict for as long as it goes on.
_SETUP = """
%load_ext dspy_nb
import dspy
from tests.notebook.browser.paced import paced_lm
from tests.scripted import classifier, reviews
dspy.configure(lm=paced_lm({file!r}))
data = reviews(8000)
for example in data[::4] + data[1::4]:
    example.sentiment = "negative" if example.sentiment == "positive" else "positive"
plain, taught = classifier(), classifier()
taught.demos = reviews(2, "demo")
"""
_COMPARE = "%dspy_ab plain taught --data data --metric exact_match:sentiment --threads 2 -o found"


def _compared(notebook: Notebook) -> int:
    """How many examples the panel says were compared."""
    found = re.search(r"([\d,]+) of at most [\d,]+ examples compared", notebook.output(1).inner_text())
    return int(found[1].replace(",", "")) if found else 0


def test_it_closes_in_stop_keeps_what_was_compared_and_a_reload_still_shows_it(open_notebook, tmp_path: Path):
    file = tmp_path / "calls"
    notebook = open_notebook(
        _SETUP.format(file=str(file)), _COMPARE, "print(found.complete, found.n, found.verdict)"
    )
    pace = Pace(notebook, file)
    notebook.run(0)
    notebook.start(1)
    pace.answer_until(lambda: _compared(notebook) >= 2, "nothing is compared")
    now = _compared(notebook)
    pace.answer_until(lambda: _compared(notebook) > now, "the panel does not move")
    assert notebook.output(1).locator("svg.scores").is_visible()
    pace.answer_until(lambda: "A said" in notebook.output(1).inner_text(), "no flips are shown")
    assert notebook.is_running(1)

    notebook.page.get_by_role("button", name="Stop").click()
    pace.answer_until_done(1)
    notebook.run(2)
    complete, n, *_ = notebook.output(2).inner_text().split()
    assert complete == "False"
    assert int(n) >= now
    assert notebook.page.get_by_role("button", name="Stop").count() == 0

    saved = notebook.save()
    for output in saved.cells[1].outputs:
        assert "application/vnd.jupyter.widget-view+json" not in output.get("data", {})
    notebook.open()
    text = notebook.output(1).inner_text()
    assert "stopped" in text
    assert re.search(r"Examples: \d+ fixed", text)
