"""dspy-nb run-notebook: parameters, the executed copy, and the exit status."""

from __future__ import annotations

import json
from pathlib import Path

import nbformat
import pytest

import dspy_nb as nb
from dspy_nb.cli.main import main
from dspy_nb.cli.notebooks import read_notebook, text_parameters
from dspy_nb.commands.words import parse_options


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(nb.__file__).parents[1]))
    return tmp_path


def written(*sources: str, tagged: int | None = 0, path: str = "work/steps.ipynb", minor: int = 5) -> str:
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    if tagged is not None:
        cells[tagged].metadata["tags"] = ["parameters"]
    if minor < 5:
        for cell in cells:
            del cell["id"]
    notebook = nbformat.v4.new_notebook(cells=cells, nbformat_minor=minor)
    nbformat.write(notebook, path)
    return path


def code(path: str) -> list:
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


@pytest.mark.heavy
def test_parameters_are_set_below_their_defaults_and_it_runs_in_its_own_folder(capsys):
    source = written(
        "model_id = 'm'\nmin_score: float = 0.5\nlabels = []",
        "import os\nprint(model_id, min_score, labels, os.path.basename(os.getcwd()))",
    )
    line = [
        source,
        "-p",
        "model_id=qa-model",
        "-p",
        "min_score=0.8",
        "-p",
        'labels=["a", 1]',
        "-o",
        "done.ipynb",
    ]
    assert main(["run-notebook", *line]) == 0
    shown = capsys.readouterr().out
    assert "qa-model 0.8 ['a', 1] work" in shown
    assert "3 code cells in" in shown
    executed = code("done.ipynb")
    assert [cell.execution_count for cell in executed] == [1, 2, 3]
    assert executed[1].metadata["tags"] == ["injected-parameters"]
    assert len(code(source)) == 2
    assert main(["run-notebook", "done.ipynb", "-p", "model_id=again", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert (data["code_cells"], data["executed"]) == (3, "done.executed.ipynb")
    assert code("done.executed.ipynb")[1].source == "# Parameters\nmodel_id = 'again'"


@pytest.mark.parametrize(
    ("default", "given", "value"),
    [
        ("'1.0'", "1.10", "'1.10'"),
        ("'x'", "true", "'true'"),
        ('"""long"""', "[1]", "'[1]'"),
        ("1.0", "1.10", "1.1"),
        ("None", "1.10", "1.1"),
        ("['a']", "['b']", "['b']"),
    ],
)
def test_a_parameter_whose_default_is_text_stays_text(default: str, given: str, value: str):
    for assigned in (f"version = {default}", f"version: object = {default}"):
        source = Path(written(assigned))
        values = parse_options([f"version={given}"], as_text=text_parameters(source))
        assert read_notebook(source, values).cells[1].source == f"# Parameters\nversion = {value}"


def test_a_notebook_of_an_old_format_has_cells_without_ids():
    notebook = read_notebook(Path(written("x = 1", minor=4)), {"x": 2})
    nbformat.validate(notebook)
    assert notebook.cells[1].source == "# Parameters\nx = 2"


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("source", "words"),
    [
        (
            "import dspy_nb as nb\nraise nb.GateFailed(['score is too low'])",
            "failed: GateFailed: score is too low",
        ),
        ("%no_such_magic", "no_such_magic"),
        ("from IPython.core.error import UsageError\nraise UsageError('not so')", "not so"),
        ("import os\nos._exit(3)", "died"),
    ],
)
def test_a_cell_that_fails_is_named_exits_1_and_the_copy_is_kept(capsys, source: str, words: str):
    assert main(["run-notebook", written("x = 1", source, "print('never')"), "-o", "done.ipynb"]) == 1
    shown = capsys.readouterr()
    assert "code cell 2 of 3" in shown.err
    assert words.lower() in shown.err.lower()
    assert "done.ipynb" in shown.err
    assert shown.err.count("\n") == 1
    executed = code("done.ipynb")
    assert executed[0].execution_count == 1
    assert executed[2].execution_count is None


def test_mistakes_are_one_line_and_exit_2_and_leave_nothing(capsys):
    source = written("x = 1")
    Path("text.ipynb").write_text("no notebook")
    Path("other.ipynb").write_text('{"cells": 3}')
    plain = written("x = 1", tagged=None, path="plain.ipynb")
    before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    for line, words in {
        ("gone.ipynb",): "cannot read gone.ipynb: No such file",
        ("work",): "cannot read work: Is a directory",
        ("text.ipynb",): "text.ipynb is no notebook",
        ("other.ipynb",): "other.ipynb is no notebook",
        (source, "-p", "y=1"): "has no parameter 'y'; the cell tagged 'parameters' sets x",
        (source, "-p", "x"): "is not name=value",
        (plain, "-p", "x=1"): "no cell has the tag 'parameters'",
        (source, "-o", "nowhere/done.ipynb"): "there is no folder nowhere",
        (source, "-o", "./work/steps.ipynb"): "is the notebook itself",
    }.items():
        assert main(["run-notebook", *line]) == 2, line
        error = capsys.readouterr().err
        assert words in error
        assert error.count("\n") == 1
    assert before == {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
