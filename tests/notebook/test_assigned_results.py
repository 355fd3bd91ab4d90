"""What a magic says where its value is assigned, and where IPython shows it."""

from __future__ import annotations

import dspy
import pytest
from IPython.utils.capture import capture_output

from tests.scripted import classifier, reviews, scripted_lm

EVALUATE = "%dspy_evaluate program --data test --metric exact_match:sentiment -q"
AB = "%dspy_ab program taught --data test --metric exact_match:sentiment -q"


@pytest.fixture
def cell(magics, tmp_path, monkeypatch):
    """Return a function that runs a cell and returns what is read below it, IPython's ``Out`` included."""
    monkeypatch.chdir(tmp_path)
    taught = classifier()
    taught.demos = reviews(1, "demo")
    magics.user_ns.update(program=classifier(), taught=taught, test=reviews(30, "test"))

    def run(source: str) -> str:
        with capture_output() as captured, dspy.context(lm=scripted_lm()):
            magics.run_cell(source).raise_error()
        displayed = "".join(f"{output.data['text/plain']}\n" for output in captured.outputs)
        return displayed + captured.stdout

    return run


@pytest.mark.parametrize("magic", [EVALUATE, AB])
def test_an_assigned_result_is_said_in_a_line(cell, magics, magic: str) -> None:
    printed = cell(f"found = {magic}")
    assert printed == f"{magics.user_ns['found']}\n"


@pytest.mark.parametrize(
    "source",
    [f"{EVALUATE}\nx = 1", f"for n in range(2):\n    {EVALUATE}", f"{EVALUATE}\n0"],
)
def test_a_result_that_ipython_does_not_show_is_said_in_a_line(cell, magics, source: str) -> None:
    printed = cell(source)
    line = str(magics.user_ns["_dspy_evaluation"])
    assert line in printed
    assert "metric" not in printed


def test_a_result_that_ipython_shows_is_the_report_once_and_no_line(cell, magics) -> None:
    printed = cell(f"{EVALUATE} -o found")
    found = magics.user_ns["found"]
    assert printed.count(found.report()) == 1
    assert str(found) not in printed


def test_a_semicolon_says_nothing_and_an_assignment_gets_the_value_all_the_same(cell, magics) -> None:
    assert cell(f"{EVALUATE};") == ""
    assert cell(f"kept = {EVALUATE};") == ""
    assert magics.user_ns["kept"].n == 30


def test_the_examples_are_shown_where_they_are_asked_for(cell, magics) -> None:
    printed = cell(f"found = {EVALUATE} --examples wrong")
    wrong = magics.user_ns["found"].examples(wrong=True)
    assert printed == f"{wrong.report()}\n{magics.user_ns['found']}\n"
