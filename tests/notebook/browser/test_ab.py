"""The panel of a comparison in a real JupyterLab, on the embedded model: it closes in, stops, and stays."""

from __future__ import annotations

import re

import pytest

pytestmark = [pytest.mark.browser, pytest.mark.local_model, pytest.mark.timeout(900)]

_SETUP = """
%load_ext dspy_nb
import dspy
import dspy_nb as nb
from dspy_nb import demo
dspy.configure(lm=nb.local_lm(), adapter=dspy.JSONAdapter())
reviews = demo.reviews()
kind = "review -> sentiment: Literal['positive', 'negative']"
plain = dspy.Predict(dspy.Signature(kind, "Is the review positive or negative?"))
taught = plain.deepcopy()
taught.demos = [{"review": "I loved it.", "sentiment": "positive"}, {"review": "Awful.", "sentiment": "negative"}]
"""
_COMPARE = "%dspy_ab plain taught --data reviews --metric exact_match:sentiment --threads 2 -o found"


def _compared(notebook) -> int:
    """How many examples the panel says were compared."""
    found = re.search(r"([\d,]+) of at most [\d,]+ examples compared", notebook.output(1).inner_text())
    return int(found[1].replace(",", "")) if found else 0


def test_it_closes_in_stop_keeps_what_was_compared_and_a_reload_still_shows_it(open_notebook):
    notebook = open_notebook(_SETUP, _COMPARE, "print(found.complete, found.n, found.verdict)")
    notebook.run(0, timeout_s=120)
    notebook.start(1)
    notebook.wait_until(lambda: _compared(notebook) >= 2, "nothing is compared", 120)
    now = _compared(notebook)
    notebook.wait_until(lambda: _compared(notebook) > now, "the panel does not move")
    assert notebook.output(1).locator("svg.scores").is_visible()
    notebook.wait_until(lambda: "A said" in notebook.output(1).inner_text(), "no flips are shown", 120)
    assert notebook.is_running(1)

    notebook.page.get_by_role("button", name="Stop").click()
    notebook.wait_until_done(1)
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
    assert "What B fixed" in text
