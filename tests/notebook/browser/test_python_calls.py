"""Python calls in a real JupyterLab: they show what the magics show, with a Stop button that ends the call."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.notebook.browser.paced import Pace

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]

_SETUP = """
import dspy
import dspy_nb as nb
from tests.notebook.browser.paced import paced_lm
from tests.scripted import classifier, reviews
dspy.configure(lm=paced_lm({file!r}))
program, test, metric = classifier(), reviews(400), nb.exact_match("sentiment")
"""
_EVALUATE = "ev = nb.evaluate(program, test, metric, num_threads=2)"


def test_evaluate_shows_score_interval_and_time_left_and_stop_ends_it(open_notebook, tmp_path: Path):
    file = tmp_path / "calls"
    notebook = open_notebook(_SETUP.format(file=str(file)), _EVALUATE, "print(ev.complete, ev.n > 0)")
    pace = Pace(notebook, file)
    notebook.run(0)
    notebook.start(1)
    running = r"\d+ of 400 examples, [\d.]+ s, about .* left"
    score = r"score\s*\d+\.\d% \[\d+\.\d%, \d+\.\d%\]"
    pace.answer_until(
        lambda: re.search(running, notebook.text()) and re.search(score, notebook.text()), "no progress"
    )
    assert notebook.is_running(1)
    notebook.page.get_by_role("button", name="Stop").click()
    pace.answer_until_done(1)
    notebook.wait_until(lambda: ", stopped" in notebook.output(1).inner_text(), "not shown as stopped")
    assert notebook.page.get_by_role("button", name="Stop").count() == 0
    notebook.run(2)
    assert notebook.output(2).inner_text().split() == ["False", "True"]
