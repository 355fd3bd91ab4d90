"""What the user will call the result of a call, read from the cell that makes it."""

from __future__ import annotations

import subprocess
import sys

import pytest
from IPython.utils.capture import capture_output

import dspy_nb
from dspy_nb.notebook.assigned import called

CELLS = {
    "run = optimize()": "run",
    "my_run=optimize( 1,\n   2,\n)": "my_run",
    "a = 1; b = optimize(); c = 3": "b",
    "first = second = optimize()": "first",
    "a.b = optimize()": "a.b",
    'results["x"] = optimize()': 'results["x"]',
    "key = 'k'\nfor key in ('p', 'q'):\n    results[key] = optimize()": "results[key]",
    "one, two = 1, optimize()": "two",
    "(one, [two, three]) = optimize(), (2, 3)": "one",
    "one, *rest = optimize(), 2": "",
    "one, two = [optimize(), 2]": "one",
    "runs = [1, optimize()]": "runs[1]",
    "runs = {'a': 1, 'b': optimize()}": "runs['b']",
    "best: object = optimize()": "best",
    "(run := optimize())": "run",
    "run = (\n    optimize()  # the first one\n)": "run",
    "run = optimize() if True else None": "run",
    "with context():\n    if True:\n        run = optimize()": "run",
    "try:\n    run = optimize()\nfinally:\n    pass": "run",
    "# größer\ntext = 'ä'; größe = optimize()": "größe",
    "run = optimize(called=lambda: 1, other=len('x'))": "run",
    "run = optimize().wait()": "run",
    "score = optimize().score": "",
    "run = str(optimize())": "",
    "optimize()": "",
    "print(optimize())": "",
    "runs = [optimize() for _ in range(1)]": "",
    "results[len('x')] = optimize()": "",
    "run = (lambda: optimize())()": "run",
    "def helper():\n    return optimize()\nrun = helper()": "run",
    "def helper():\n    inner = optimize()\n    return inner.score\nrun = helper()": "",
    "class Holder:\n    run = optimize()": "",
    "%%time\nrun = optimize()": "run",
    "%time run = optimize()": "run",
    "%%capture said\nrun = optimize()": "run",
    "run = %through": "run",
    "results['m'] = %through": "results['m']",
    "%through": "",
    "async def go(): return optimize()\nrun = await go()": "run",
    "import asyncio\nrun = await asyncio.to_thread(optimize)": "run",
    "import asyncio\nboth = await asyncio.gather(asyncio.to_thread(optimize), asyncio.to_thread(optimize))": "",
    "exec('run = optimize()')": "run",
}


class Found:
    """What a call gives back, which asked for its name."""

    score = 0.5

    def __init__(self, names: list[str]) -> None:
        names.append(called()[0])

    def wait(self):
        return self


@pytest.fixture
def shell(ipython, monkeypatch):
    monkeypatch.setattr("dspy_nb.notebook.assigned._OURS", ("dspy_nb", "IPython", "tests"))
    names: list[str] = []

    def optimize(*_, **__):
        return Found(names)

    ipython.user_ns.update(
        optimize=optimize, results={}, a=type("A", (), {})(), context=capture_output, names=names
    )
    ipython.register_magic_function(lambda line: optimize(), "line", "through")
    return ipython


@pytest.mark.parametrize("cell", CELLS)
def test_the_name_is_that_of_the_assignment_that_the_call_stands_in(shell, cell):
    with capture_output():
        shell.run_cell(cell, store_history=True).raise_error()
    assert shell.user_ns["names"][-1] == CELLS[cell]


def test_dspy_nb_has_the_name_that_it_was_imported_under(shell):
    with capture_output():
        assert called() == ("", "")
        shell.user_ns["dspy_nb"] = dspy_nb
        assert called() == ("", "dspy_nb")
        shell.user_ns["nb"] = dspy_nb
        assert called() == ("", "nb")


@pytest.mark.parametrize("broken", [{"In": ["run = ("]}, {"In": 3}, {"In": None}])
def test_whatever_the_cell_is_like_the_call_goes_on(shell, broken):
    shell.user_ns.update(broken)
    assert called()[0] == ""


@pytest.mark.heavy
def test_a_script_has_no_names_and_does_not_import_ipython():
    script = (
        "import sys; from dspy_nb.notebook.assigned import called; run = called()\n"
        "print(run, 'IPython' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "('', 'nb') False\n"
