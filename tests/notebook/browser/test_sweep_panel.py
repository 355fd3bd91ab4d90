"""The panel of a sweep in a real JupyterLab: all cells in one panel, which its result replaces."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]

_SETUP = """
%load_ext dspy_nb
from tests.scripted import ScriptedEngine, classifier, reviews, scripted_lm
big = scripted_lm(ScriptedEngine(delay_s=0.02), "acme/large-model")
small = scripted_lm(ScriptedEngine(delay_s=0.01), "acme/small-model")
program = classifier()
train, val, test = reviews(12, "train"), reviews(20, "val"), reviews(60, "test")
"""
_SWEEP = (
    "%dspy_sweep program --train train --val val --test test --metric exact_match:sentiment --threads 4 "
    "--over optimizer=none,BootstrapFewShot,BootstrapFewShotWithRandomSearch --over lm=big,small --over seed=0,1 "
    "--price acme/large-model=2.5,10 --price acme/small-model=0.15,0.6 --budget-calls 1500 -o found"
)


def test_one_panel_shows_all_cells_and_the_result_takes_its_place(open_notebook, tmp_path: Path):
    pictures = Path(os.environ.get("DSPY_NB_PICTURES") or tmp_path)
    notebook = open_notebook(_SETUP, _SWEEP, "found.plot()", height=1400)
    notebook.run(0)
    notebook.start(1)
    notebook.wait_until(lambda: "of at most 1,500 LM calls" in notebook.text(), "the panel does not begin")
    notebook.wait_until(lambda: "rung 2 of" in notebook.output(1).inner_text(), "there is no second rung")
    notebook.screenshot(pictures / "panel.png")
    assert notebook.page.get_by_role("button", name="Stop").count() == 1
    notebook.wait_until_done(1)
    notebook.wait_until(lambda: "Best: " in notebook.output(1).inner_text(), "there is no result")
    assert notebook.page.get_by_role("button", name="Stop").count() == 0
    notebook.screenshot(pictures / "result.png")
    notebook.run(2)
    notebook.wait_until(lambda: "US dollars" in notebook.output(2).inner_text(), "there is no figure")
    notebook.output(2).scroll_into_view_if_needed()
    notebook.screenshot(pictures / "figure.png")
