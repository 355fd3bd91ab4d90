"""The magic %dspy_ab in a real shell."""

from __future__ import annotations

import dspy
import pytest
from IPython.core.completer import provisionalcompleter

import dspy_nb as nb
from dspy_nb.core.ab.comparison import Comparison, Comparisons
from tests.notebook.test_evaluate import Notebook, notebook  # noqa: F401 - a fixture
from tests.scripted import classifier, reviews

AB = "%dspy_ab weak program --data test --metric exact_match:sentiment"


@pytest.fixture
def cells(notebook: Notebook) -> Notebook:  # noqa: F811
    notebook.shell.user_ns["test"] = reviews(300, "ab")
    return notebook


def test_it_says_what_it_costs_at_most_and_returns_the_verdict(cells: Notebook) -> None:
    result, printed = cells.run(AB)
    assert isinstance(result, Comparison)
    assert result.verdict == "B better"
    assert (result.a_name, result.b_name) == ("weak", "program")
    assert "at most 300 examples, each answered by both: 600 answers" in printed
    assert "B better: B − A is" in printed
    assert cells["_dspy_comparison"] is result


def test_a_semicolon_silences_it_and_the_name_is_kept(cells: Notebook) -> None:
    result, printed = cells.run(f"{AB} -q -o ab;")
    assert result is None
    assert printed == ""
    assert cells["ab"] is cells["_dspy_comparison"]


def test_options_reach_the_comparison(cells: Notebook) -> None:
    result, _ = cells.run(
        f"{AB} --margin 0.1 --max-examples 20 --one-look --confidence 0.9 --seed 7 --threads 2"
    )
    assert (result.margin, result.n, result.sequential, result.confidence, result.seed) == (
        0.1,
        20,
        False,
        0.9,
        7,
    )


def test_versions_are_compared_by_reference(cells: Notebook) -> None:
    with dspy.context(lm=cells["lm"]):
        registry = nb.Registry("registry")
        registry.register(classifier(), "sentiment", version="1.0.0")
        registry.register(cells["program"], "sentiment", version="1.1.0")
    result, _ = cells.run(
        "%dspy_ab sentiment@1.0.0 sentiment@1.1.0 --data test --metric exact_match:sentiment"
    )
    assert (result.a_name, result.b_name) == ("sentiment@1.0.0", "sentiment@1.1.0")


def test_several_candidates_are_ranked(cells: Notebook) -> None:
    result, printed = cells.run("%dspy_ab weak weak program --data test --metric exact_match:sentiment -o ab")
    assert isinstance(result, Comparisons)
    assert (result.baseline, [one.b_name for one in result]) == ("weak", ["weak", "program"])
    assert result.winner is result["program"]
    assert "at most 300 examples, each answered by all: 900 answers" in printed
    assert "program is better than weak by" in printed
    assert cells["ab"] is cells["_dspy_comparison"] is result


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("%dspy_ab weak nobody --data test --metric exact_match:sentiment", "nobody"),
        ("%dspy_ab weak --data test --metric exact_match:sentiment", "b"),
        (f"{AB} --margin 2", "margin"),
        (f"{AB} --program nobody", "nobody"),
        (f"{AB} --max-examples 0", "--max-examples must be"),
        ("%dspy_ab weak program --data nothing --metric exact_match:sentiment", "nothing"),
        ("%dspy_ab weak x@1.0.0 --data test --metric exact_match:sentiment", "x"),
    ],
)
def test_bad_input_is_one_line_and_spends_nothing(cells: Notebook, line: str, message: str) -> None:
    assert message in cells.fail(line)


def test_the_status_of_an_online_experiment(cells: Notebook) -> None:
    experiment = nb.Experiment("checkout", str.lower, str.upper)
    status, printed = cells.run("%dspy_ab --experiment checkout -o now")
    assert status == experiment.status() == cells["now"]
    assert "Experiment checkout: lower (A) and upper (B)" in printed
    assert "Inconclusive: no outcome counts yet." in printed
    assert cells.run("%dspy_ab --experiment checkout;")[0] is None


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("%dspy_ab --experiment nobody", "no experiment 'nobody'"),
        (
            "%dspy_ab weak program --experiment x --seed 0 --one-look",
            "--one-look, --seed go with a comparison",
        ),
        (
            "%dspy_ab",
            "ab-test needs --model-a, --model-b and --test-data (A and B will do as well)",
        ),
    ],
)
def test_a_status_takes_no_flags_of_a_comparison(cells: Notebook, line: str, message: str) -> None:
    assert message in cells.fail(line)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("%dspy_ab we", "weak"),
        ("%dspy_ab ", "sentiment@1.0.0"),
        ("%dspy_ab sent", "sentiment@1.0.0"),
        ("%dspy_ab weak pro", "program"),
        ("%dspy_ab weak program ", "sentiment@1.0.0"),
        ("%dspy_ab --one-look we", "weak"),
        ("%dspy_ab weak program --data te", "test"),
        ("%dspy_ab weak program --metric exact", "exact_match:"),
        ("%dspy_ab weak program --marg", "--margin"),
        ("%dspy_ab --experiment sec", "second-try"),
        ("%dspy_ab sentiment@1.0.0 weak --program we", "weak"),
        ("found = %dspy_ab we", "weak"),
    ],
)
def test_tab_completes(cells: Notebook, line: str, expected: str) -> None:
    registry = nb.Registry("registry")
    with dspy.context(lm=cells["lm"]):
        version = registry.register(cells["program"], "sentiment")
        nb.Experiment("second-try", a=version.ref, b=classifier(), registry=registry).close()
    with provisionalcompleter():
        found = {c.text for c in cells.shell.Completer.completions(line, len(line))}
    assert expected in found


@pytest.mark.parametrize(
    "line", ["%dspy_ab weak --margin ", "%dspy_ab weak program -o ", "%dspy_ab weak --data "]
)
def test_a_value_that_is_no_program_is_not_completed_as_one(cells: Notebook, line: str) -> None:
    with provisionalcompleter():
        found = {c.text for c in cells.shell.Completer.completions(line, len(line))}
    assert not found & {"weak", "program"}
