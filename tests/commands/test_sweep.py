"""The command sweep, as it is typed in a shell and in a notebook."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from IPython.utils.capture import capture_output

import dspy_nb as nb
from dspy_nb.cli.main import main
from tests.scripted import ScriptedEngine, classifier, reviews, scripted_lm, write_reviews

pytestmark = pytest.mark.heavy

_APP = """
import dspy

program = dspy.Predict(dspy.Signature("review -> sentiment", "Classify the review."))
"""
_TASK = [
    "sweep", "swept_app.py:program", "--metric", "exact_match:sentiment", "--train", "train.jsonl", "--val",
    "val.jsonl", "--test", "test.jsonl", "--threads", "4",
]  # fmt: skip
_GRID = """
program = "swept_app.py:program"
metric = "exact_match:sentiment"
train-data = "train.jsonl"
val-data = "val.jsonl"
test-data = "test.jsonl"
budget-calls = 400

[over]
optimizer = ["none", "BootstrapFewShot"]
seed = [0, 1]

[prices]
"scripted/model" = [1.0, 2.0]
"""


@pytest.fixture(autouse=True)
def folder(workplace: Path) -> Path:
    (workplace / "swept_app.py").write_text(_APP)
    for name, n in (("train", 8), ("val", 8), ("test", 40)):
        write_reviews(workplace / f"{name}.jsonl", n, name)
    (workplace / "sweep.toml").write_text(_GRID)
    return workplace


def test_a_grid_of_toml_is_swept_and_its_best_cell_registered(engine, capsys):
    assert main(["sweep", "--grid", "sweep.toml", "--save-as", "sentiment", "--run-dir", "run"]) == 0
    said = capsys.readouterr()
    assert "Sweep: best is BootstrapFewShot · seed 0" in said.out
    assert "as given" in said.out
    assert "3 cells, at most" in said.err
    assert "Registered sentiment@1.0.0" in said.out + said.err
    version = nb.Registry("registry").get("sentiment@1.0.0")
    assert version.metadata["sweep"]["cell"] == "BootstrapFewShot · seed 0"
    calls = engine.calls
    assert main(["sweep", "--grid", "sweep.toml", "--run-dir", "run", "--json"]) == 0
    assert engine.calls == calls
    facts = json.loads(capsys.readouterr().out)
    assert facts["best_name"] == "BootstrapFewShot · seed 0"
    assert facts["replayed"] == facts["usage"]["lm_calls"] == calls


def test_a_dry_run_asks_nothing(engine, capsys):
    assert main(["sweep", "--grid", "sweep.toml", "--dry-run", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["cells"] == ["as given", "BootstrapFewShot · seed 0", "BootstrapFewShot · seed 1"]
    assert facts["comparison"] == 4 * 40
    assert engine.calls == 0
    assert main(["sweep", "sweep.toml", "--dry-run"]) == 0
    assert "3 cells, at most 56 LM calls, and 160 to compare the finalists" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "sweep needs --over AXIS=VALUE,VALUE or --grid FILE"),
        (["--over", "seed"], "--over 'seed' is not axis=value,value"),
        (["--over", "seed=0,1", "--over", "seed=2"], "--over seed= is given twice"),
        (["--over", "optimizer=Copra"], "Copra"),
        (["--over", "lm=gpt-4o"], "gpt-4o"),
        (["--over", "seed=0,x", "--optimizer", "COPRO"], "seed must be a whole number"),
        (["--over", "lm=a/b", "--lm", "a/c"], "--lm does not go with --over lm="),
        (["--over", "seed=0", "--preset", "light", "--price", "a"], "--price 'a' is not model=sent,received"),
        (["--over", "seed=0", "--optimizer", "COPRO", "--cheapest", "0.1"], "--cheapest goes with --save-as"),
        (["--grid", "missing.toml"], "--grid missing.toml: No such file"),
        (["--grid", "wrong.toml"], "there is no 'treshold'; valid: "),
        (["--grid", "type.toml"], "finalists: 'many' is not a valid integer"),
    ],
)
def test_what_is_wrong_is_one_line_and_nothing_is_asked(engine, capsys, words, message, folder):
    (folder / "wrong.toml").write_text("treshold = 1")
    (folder / "type.toml").write_text('finalists = "many"\n[over]\nseed = [0]')
    assert main([*_TASK, *words]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line
    assert engine.calls == 0


def test_a_notebook_compares_models_that_it_has_names_for(magics):
    big, small = ScriptedEngine(), ScriptedEngine()
    magics.user_ns.update(
        program=classifier(), test=reviews(40, "test"), big=scripted_lm(big, "s/big"),
        small=scripted_lm(small, "s/small"),
    )  # fmt: skip
    with capture_output() as captured:
        done = magics.run_cell(
            "%dspy_sweep program --test test --metric exact_match:sentiment --over lm=big,small "
            "--price s/big=10,10 --price s/small=1,1 -o found"
        )
    done.raise_error()
    assert isinstance(done.result, nb.SweepResult)
    assert magics.user_ns["found"] is magics.user_ns["_dspy_sweep"] is done.result
    assert "2 cells, at most 80 LM calls to compare them" in captured.stdout
    assert done.result.cheapest(0.2).name == "s/small"
    assert big.calls == small.calls == 40
    formats, _ = magics.display_formatter.format(done.result)
    assert "s/small" in formats["text/html"]


def test_options_are_lists_of_dicts(engine, capsys):
    words = ["--over", 'options=[{"max_labeled_demos": 1}, {"max_labeled_demos": 2}]', "--optimizer"]
    assert main([*_TASK, *words, "BootstrapFewShot", "--json"]) == 0
    names = [cell["name"] for cell in json.loads(capsys.readouterr().out)["cells"]]
    assert names == ["as given", "max_labeled_demos=1", "max_labeled_demos=2"]
