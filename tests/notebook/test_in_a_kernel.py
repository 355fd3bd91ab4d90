"""The magics as people's notebooks run them: in a kernel, executed by nbclient and nbmake."""

from __future__ import annotations

import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook
from nbmake.nb_run import NotebookRun

import dspy_nb
from tests.notebook.test_optimize import OPTIMIZE, SEARCH

pytestmark = pytest.mark.heavy

ROOT = Path(dspy_nb.__file__).parents[1]

_SETUP = """
import dspy
from tests.scripted import ScriptedEngine, classifier, reviews, scripted_lm
engine = ScriptedEngine()
dspy.configure(lm=scripted_lm(engine))
program, train, val, test = classifier(), reviews(12, "train"), reviews(12, "val"), reviews(30, "test")
%load_ext dspy_nb
"""


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    """The outputs of a notebook that was executed as people's notebooks are, by the name of each cell."""
    sources = {
        "setup": _SETUP,
        "report": f"{SEARCH} --test test -o run",
        "assigned": f"quiet_run = {SEARCH}",
        "mixed": f"print('before', flush=True)\nmixed = {SEARCH}\nprint('after', flush=True)\nimport ipywidgets\n"
        "display(ipywidgets.IntSlider(), exclude=['application/vnd.jupyter.widget-view+json'])",
        "mistake": "%dspy_optimize program --trian train",
        "late mistake": f"{OPTIMIZE} --test test --run-dir /dev/null",
        "late mistake in the background": f"{OPTIMIZE} --test test --run-dir /dev/null --background",
        "background": f"engine.delay_s = 0.01\n{SEARCH} --threads 2 --background -o later\nNone",
        "other": "import time; time.sleep(0.4); print('mine')",
        "waited": "later.wait(60).status",
        "python": "import dspy_nb as nb\nmetric = nb.exact_match('sentiment')\n"
        "found = nb.evaluate(program, test, metric)",
        "python in the background": "sets = {'trainset': train, 'valset': val}\n"
        "run = nb.optimize(program, **sets, metric=metric, preset='light', background=True)",
        "python waited": "run.wait(60).status",
        "python quiet": "%config DspyNb.quiet = True\nfound = nb.evaluate(program, test, metric)",
    }
    notebook = new_notebook(cells=[new_code_cell(source) for source in sources.values()])
    folder = tmp_path_factory.mktemp("notebook")
    client = NotebookClient(
        notebook,
        timeout=120,
        kernel_name="python3",
        allow_errors=True,
        resources={"metadata": {"path": str(folder)}},
    )
    client.execute(env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": ""})
    nbformat.validate(notebook)
    assert all(cell.execution_count for cell in notebook.cells)
    return {name: _joined(cell.outputs) for name, cell in zip(sources, notebook.cells, strict=True)}


def _joined(outputs):
    """Outputs with what was printed in one go as one: the kernel's timer may send a line without its end."""
    joined = []
    for output in outputs:
        last = joined[-1] if joined else None
        if last and output.output_type == last.output_type == "stream" and output.name == last.name:
            last.text += output.text
        else:
            joined.append(output)
    return joined


def _shown(outputs):
    """Outputs without those that are empty, as that of the Stop button is afterwards."""
    return [output for output in outputs if "".join(output.get("data", {"text": "some"}).values())]


def test_in_a_kernel_the_cell_keeps_progress_and_report_as_html_and_text(cells):
    estimate, progress, report = _shown(cells["report"])
    assert estimate.text.startswith("between")
    assert progress.output_type == "display_data"
    assert progress.data["text/plain"].startswith("Better on held-out examples: ")
    assert "BootstrapFewShotWithRandomSearch completed" in progress.data["text/plain"]
    assert "completed" in progress.data["text/html"]
    assert report.output_type == "execute_result"
    for mime in ("text/plain", "text/html"):
        assert "held out, never seen by the search" in report.data[mime]


def test_in_a_kernel_no_widget_is_left_where_the_result_should_be(cells):
    for outputs in cells.values():
        for output in outputs:
            assert "application/vnd.jupyter.widget-view+json" not in output.get("data", {})


def test_in_a_kernel_prints_and_widgets_of_the_user_are_left_alone(cells):
    before, *_, after, slider = (
        output for output in _shown(cells["mixed"]) if output.output_type != "execute_result"
    )
    estimate, _ = _shown(cells["assigned"])  # of the same search
    assert before.text == f"before\n{estimate.text}"
    assert after.text == "after\n"
    assert "IntSlider" in slider.data["text/plain"]


def test_in_a_kernel_an_assigned_run_shows_progress_alone(cells):
    assert [output.output_type for output in _shown(cells["assigned"])] == ["stream", "display_data"]


def test_in_a_kernel_a_mistake_fails_the_cell_with_one_line(cells):
    (early,) = cells["mistake"]
    outputs = cells["late mistake"]  # no progress is shown of what never started
    assert [output.output_type for output in outputs] == ["stream", "error"], outputs
    estimate, late = outputs
    assert estimate.text.startswith("at most")
    for error in (early, late):
        assert error.output_type == "error"
        assert error.ename == "InputError"
        assert len(error.traceback) == 1
        assert "\n" not in error.traceback[0]
    assert "--trian" in early.traceback[0]
    assert "run_dir /dev/null is no folder" in late.traceback[0]


def test_in_a_kernel_the_panel_of_a_run_that_does_not_begin_says_so(cells):
    _, panel, error = _shown(cells["late mistake in the background"])
    assert "failed: run_dir /dev/null is no folder" in panel.data["text/plain"]
    assert error.ename == "InputError"


def test_in_a_kernel_background_output_stays_in_its_own_cell(cells):
    assert [output.text for output in cells["other"]] == ["mine\n"]
    (status,) = cells["waited"]
    assert status.data["text/plain"] == "'completed'"
    (progress,) = [output for output in _shown(cells["background"]) if output.output_type == "display_data"]
    assert "BootstrapFewShotWithRandomSearch completed" in progress.data["text/plain"]


def test_in_a_kernel_python_calls_show_their_progress_in_their_own_cell(cells):
    def said(name):
        return [text for output in cells[name] if (text := output.get("data", {}).get("text/plain"))]

    (progress,) = said("python")
    assert progress.startswith("Evaluated 30 of 30 examples")
    (progress,) = said("python in the background")
    assert "BootstrapFewShotWithRandomSearch completed" in progress
    assert said("python waited") == ["'completed'"]
    assert cells["python quiet"] == []


def test_nbmake_sees_a_mistake(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    file = tmp_path / "wrong.ipynb"
    notebook = new_notebook(cells=[new_code_cell("%load_ext dspy_nb\n%dspy_optimize nothing")])
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, file)
    result = NotebookRun(file, 60).execute()
    assert result.error is not None
    assert "nothing" in result.error.summary
