"""The harness of the browser tests, on a notebook that has nothing to do with DSPy."""

from __future__ import annotations

import pytest

import dspy_nb

# Slow, as far as make test goes: every other browser test runs cells, clicks, stops, saves and reloads.
pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(900)]


def test_a_notebook_runs_widgets_are_clicked_and_outputs_survive_a_reload(open_notebook, tmp_path):
    notebook = open_notebook(
        "import ipywidgets\nfrom IPython.display import display\n"
        "button, label = ipywidgets.Button(description='press me'), ipywidgets.Label('waiting')\n"
        "button.on_click(lambda _: setattr(label, 'value', 'pressed'))\ndisplay(button, label)",
        "import dspy_nb; print(dspy_nb.__file__)",
        "import time\nprint('it runs', flush=True)\nwhile True: time.sleep(0.1)",
    )
    notebook.run(0)
    notebook.page.get_by_role("button", name="press me").click()
    notebook.wait_until(lambda: "pressed" in notebook.output(0).inner_text(), "the click was not handled")
    notebook.run(1)
    notebook.start(2)
    notebook.wait_until(lambda: "it runs" in notebook.output(2).inner_text(), "the loop does not run")
    assert notebook.is_running(2)
    notebook.interrupt()
    notebook.wait_until_done(2)
    assert "KeyboardInterrupt" in notebook.output(2).inner_text()
    saved = notebook.save()
    assert saved.cells[1].outputs[0].text.strip() == dspy_nb.__file__
    notebook.open()
    assert dspy_nb.__file__ in notebook.output(1).inner_text()
    assert notebook.screenshot(tmp_path / "page.png").stat().st_size > 5000
