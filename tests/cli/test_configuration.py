"""Where options come from: flags, the environment, a file; what a shell completes; repeating a version."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import dspy
import pytest

import dspy_nb as nb
from dspy_nb.cli.configuration import options
from dspy_nb.cli.main import cli, main
from tests import ROOT
from tests.scripted import ScriptedEngine, reviews, write_reviews

_APP = """
import dspy

classifier = dspy.Predict(dspy.Signature("review -> sentiment", "Classify the review."))
"""

_CONFIG = """
program = "configured_app:classifier"
metric = "exact_match:sentiment"
train-data = "train.jsonl"
registry = "from-file"

[optimize]
val_data = "val.jsonl"
seed = 5
num_threads = 2
option = { max_labeled_demos = 2, max_bootstrapped_demos = 1 }

[gate]
min_score = 0.5
"""


@pytest.fixture(autouse=True)
def folder(workplace: Path, engine: ScriptedEngine) -> Path:
    (workplace / "configured_app.py").write_text(_APP)
    (workplace / "dspy-nb.toml").write_text(_CONFIG)
    for name, n in {"train": 12, "val": 8}.items():
        write_reviews(workplace / f"{name}.jsonl", n, tag=name)
    return workplace


def said(capsys, *arguments: str):
    assert main([*arguments, "--json"]) == 0, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


def refused(capsys, *arguments: str) -> str:
    assert main(list(arguments)) == 2
    shown = capsys.readouterr()
    assert shown.err.count("\n") == 1
    return shown.err


# -- the file -----------------------------------------------------------------------------------------------


def test_a_file_configures_a_whole_run(folder, capsys):
    run = said(capsys, "optimize", "--model-id", "sentiment")
    assert run["seed"] == 5
    assert (run["options"]["max_labeled_demos"], run["options"]["max_bootstrapped_demos"]) == (2, 1)
    assert (folder / "from-file/models/sentiment/1.0.0").is_dir()


def test_a_flag_wins_over_the_environment_and_the_environment_over_the_file(capsys, monkeypatch):
    monkeypatch.setenv("DSPY_NB_OPTIMIZE_SEED", "6")
    assert said(capsys, "optimize")["seed"] == 6
    assert said(capsys, "optimize", "--seed", "7")["seed"] == 7
    monkeypatch.delenv("DSPY_NB_OPTIMIZE_SEED")
    assert said(capsys, "optimize")["seed"] == 5


def test_the_model_of_the_environment_wins_over_the_one_of_the_file(folder, capsys, monkeypatch):
    (folder / "dspy-nb.toml").write_text('lm = "gpt"\n' + _CONFIG)
    assert "--lm 'gpt' is not provider/model" in refused(capsys, "optimize")
    monkeypatch.setenv("DSPY_NB_LM", "claude")
    assert "DSPY_NB_LM='claude' is not provider/model" in refused(capsys, "optimize")
    assert "--lm 'x' is not provider/model" in refused(capsys, "optimize", "--lm", "x")


def test_the_file_is_found_from_below_and_its_paths_and_modules_are_its_own(folder, capsys, monkeypatch):
    (folder / "deep/deeper").mkdir(parents=True)
    monkeypatch.chdir(folder / "deep/deeper")
    said(capsys, "optimize", "--model-id", "sentiment")
    assert (folder / "from-file/models/sentiment/1.0.0").is_dir()
    assert [version["ref"] for version in said(capsys, "list")] == ["sentiment@1.0.0"]


def test_a_pyproject_counts_only_if_it_has_the_table_and_config_names_another_file(folder, capsys):
    (folder / "dspy-nb.toml").rename(folder / "other.toml")
    (folder / "pyproject.toml").write_text("[tool.other\nseed = ")
    assert "Missing option '--program'" in refused(capsys, "optimize")
    (folder / "pyproject.toml").write_text("[tool.other]\nseed = 1\n")
    assert "Missing option '--program'" in refused(capsys, "optimize")
    assert said(capsys, "optimize", "--config", "other.toml")["seed"] == 5
    (folder / "pyproject.toml").write_text(
        '[tool.dspy_nb]\nprogram = "configured_app:classifier"\nmetric = "exact_match:sentiment"\n'
        '[tool.dspy_nb.optimize]\ntrain_data = "train.jsonl"\nseed = 9\n'
    )
    assert said(capsys, "optimize")["seed"] == 9


def test_repeatable_options_and_flags_may_be_in_the_file(folder, capsys):
    text = _CONFIG.replace("seed = 5", 'seed = 5\ndry_run = true\noption = ["max_rounds=2"]')
    text = text.replace("option = { max_labeled_demos = 2, max_bootstrapped_demos = 1 }", "")
    (folder / "dspy-nb.toml").write_text(text)
    assert said(capsys, "optimize")["lm_calls"] > 0


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            "seed = 1\noptimiser = 'MIPROv2'",
            "'optimiser': no such key; valid: confidence, inputs, lm, metric",
        ),
        ("[optimize]\nsede = 1", "'optimize.sede': dspy-nb optimize has no such option; valid: program"),
        (
            "[gate]\nmin_accuracy = 1",
            "'gate.min_accuracy': dspy-nb gate has no such option; valid: min_score",
        ),
        ("[optimise]\nseed = 1", "'optimise': no such key"),
        ("[optimize]\nseed = 'many'", "optimize.seed: 'many' is not a valid integer"),
        ("[optimize]\nseed = [1]", "optimize.seed: a text or a number, not [1]"),
        ("[optimize]\nrecompile = 1", "optimize.recompile: true or false, not 1"),
        ("[optimize]\nbump = 'huge'", "optimize.bump: 'huge' is not one of"),
        ("[optimize]\nmodel_id = 'a'\nsave-as = 'b'", "optimize.save-as is given twice"),
        ("[optimize]\nconfig = 'a'", "dspy-nb optimize has no such option"),
        ("seed = ", "is not valid TOML"),
        ("seed = 1\nseed = 2", "is not valid TOML"),
        ("\udcff", "is not valid TOML"),
    ],
)
def test_a_file_that_is_wrong_is_refused_by_key(folder, capsys, engine, text: str, reason: str):
    (folder / "dspy-nb.toml").write_bytes(text.encode("utf-8", "surrogateescape"))
    error = refused(capsys, "optimize", "--program", "configured_app:classifier")
    assert "dspy-nb.toml" in error
    assert reason in error
    assert engine.calls == 0


def test_a_missing_or_unreadable_file_is_refused_but_help_works(folder, capsys):
    assert "cannot read gone.toml" in refused(capsys, "list", "--config", "gone.toml")
    (folder / "pyproject.toml").write_text("[tool]\ndspy_nb = 3\n")
    assert "tool.dspy_nb must be a table" in refused(capsys, "list", "--config", "pyproject.toml")
    (folder / "dspy-nb.toml").write_text("seed = ")
    assert main(["optimize", "--help"]) == 0


def test_every_option_has_a_name_of_its_own():
    for name, command in cli.commands.items():
        assert len({option.name for option in command.params}) == len(command.params), name
        for option in options(command).values():
            assert any(variable.startswith("DSPY_NB_") for variable in option.envvar)


# -- repeating a version ------------------------------------------------------------------------------------


def test_like_repeats_a_version_and_flags_override(folder, capsys, engine):
    first = said(capsys, "optimize", "--model-id", "sentiment", "--budget-calls", "500", "--seed", "3")
    (folder / "dspy-nb.toml").unlink()
    registry = ["--registry", "from-file"]
    again = said(capsys, "optimize", "--like", "sentiment@1.0.0", *registry)
    assert again["model"] == "sentiment@1.1.0"
    same = ("seed", "options", "optimizer", "metric", "datasets", "score")
    assert {name: again[name] for name in same} == {name: first[name] for name in same}
    old, new = (said(capsys, "show", f"sentiment@{v}", *registry) for v in ("1.0.0", "1.1.0"))
    names = ("command", "budget", "num_threads", "given_options", "hyperparameters")
    assert {name: new[name] for name in names} == {name: old[name] for name in names}
    assert old["budget"] == {"lm_calls": 500}
    assert old["command"]["train_data"] == "train.jsonl"

    other = said(
        capsys, "optimize", "--like", "sentiment", "--seed", "4", "--option", "max_labeled_demos=3",
        "--model-id", "other", "--budget-calls", "400", *registry,
    )  # fmt: skip
    assert (other["model"], other["seed"]) == ("other@1.0.0", 4)
    assert (other["options"]["max_labeled_demos"], other["options"]["max_bootstrapped_demos"]) == (3, 1)
    light = said(capsys, "optimize", "--like", "sentiment", "--preset", "light", *registry)
    assert (light["optimizer"], light["preset"]) == ("BootstrapFewShotWithRandomSearch", "light")
    labeled = said(
        capsys, "optimize", "--like", "sentiment@1.0.0", "--optimizer", "LabeledFewShot", *registry
    )
    assert (labeled["optimizer"], labeled["preset"]) == ("LabeledFewShot", None)


def test_a_program_that_is_the_first_word_wins_over_the_file_and_over_like(folder, capsys, engine):
    (folder / "another_app.py").write_text(_APP.replace("Classify", "Sort"))
    word = "another_app:classifier"
    said(capsys, "optimize", word, "--model-id", "sentiment")
    said(capsys, "optimize", "--model-id", "sentiment")
    said(capsys, "optimize", word, "--like", "sentiment")
    programs = [said(capsys, "show", f"sentiment@1.{n}.0")["command"]["program"] for n in range(3)]
    assert programs == [word, "configured_app:classifier", word]
    assert "the program is given twice" in refused(capsys, "optimize", word, "--program", "app.py:program")


def test_like_names_data_that_has_changed(folder, capsys, engine):
    said(capsys, "optimize", "--model-id", "sentiment")
    rows = (folder / "val.jsonl").read_text().splitlines()
    (folder / "val.jsonl").write_text("\n".join(rows[:-1]))
    calls = engine.calls
    error = refused(capsys, "optimize", "--like", "sentiment")
    assert "val.jsonl is not what it was for sentiment" in error
    assert engine.calls == calls
    (folder / "new.jsonl").write_text("\n".join(rows[:-2]))
    said(capsys, "optimize", "--like", "sentiment", "--val-data", "new.jsonl")
    said(capsys, "optimize", "--like", "sentiment@1.0.0", "--allow-changed-data")
    (folder / "val.jsonl").unlink()
    assert "val.jsonl" in refused(capsys, "optimize", "--like", "sentiment@1.0.0")


def test_like_says_what_a_version_does_not_know(folder, capsys):
    registry = nb.Registry("from-file")
    program = dspy.Predict("review -> sentiment")
    registry.register(program, "plain")
    assert "was not made by an optimization" in refused(capsys, "optimize", "--like", "plain")
    run = nb.optimize(program, trainset=reviews(8), metric=nb.exact_match("sentiment"))
    registry.register(run, "notebook")
    assert "give --program" in refused(capsys, "optimize", "--like", "notebook")
    again = said(
        capsys, "optimize", "--like", "notebook", "--program", "configured_app:classifier",
        "--train-data", "train.jsonl", "--metric", "exact_match:sentiment",
    )  # fmt: skip
    assert again["model"] == "notebook@1.1.0"
    assert "goes with --like" in refused(capsys, "optimize", "--allow-changed-data")


def test_evaluate_takes_the_metric_that_the_version_was_optimized_by(folder, capsys):
    (folder / "dspy-nb.toml").write_text(_CONFIG.replace('metric = "exact_match:sentiment"\n', ""))
    said(capsys, "optimize", "--model-id", "sentiment", "--metric", "exact_match:sentiment")
    found = said(capsys, "evaluate", "--model", "sentiment@latest", "--test-data", "val.jsonl")
    assert found["n"] == 8
    nb.Registry("from-file").register(dspy.Predict("review -> sentiment"), "plain")
    assert "plain@1.0.0 does not say which" in refused(
        capsys, "evaluate", "--model", "plain", "--test-data", "val.jsonl"
    )


# -- presets ------------------------------------------------------------------------------------------------


def test_a_preset_is_saved_shown_and_used(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("DSPY_NB_CONFIG_DIR", str(tmp_path / "config"))
    saved = said(
        capsys, "presets", "--save", "mine", "--optimizer", "LabeledFewShot", "--option", "k=3",
        "--description", "three demos", "--recommended-for", "trying",
    )  # fmt: skip
    assert (saved["options"], saved["recommended_for"]) == ({"k": 3}, ["trying"])
    assert said(capsys, "presets", "mine")["description"] == "three demos"
    assert main(["presets", "mine"]) == 0
    assert "mine (yours)" in capsys.readouterr().out
    assert main(["presets", "--save", "mine", "--optimizer", "LabeledFewShot"]) == 0
    assert "Saved in" in capsys.readouterr().out
    assert said(capsys, "optimize", "--preset", "mine", "--option", "k=2")["options"]["k"] == 2
    for arguments, reason in {
        ("mine", "--save", "x"): "not both",
        ("--save", "x"): "needs --optimizer",
        ("--optimizer", "MIPROv2"): "goes with --save",
        ("none",): "unknown preset 'none'",
        ("--save", "x", "--optimizer", "MIPRO"): "unknown optimizer 'MIPRO'",
        ("--save", "x", "--optimizer", "MIPROv2", "--option", "k=2"): "no option 'k'",
    }.items():
        assert reason in refused(capsys, "presets", *arguments)


# -- the shell ----------------------------------------------------------------------------------------------


def _typed(*words: str) -> dict[str, str]:
    """What bash tells a command of which it wants the completions."""
    return {
        "_DSPY_NB_COMPLETE": "bash_complete",
        "COMP_WORDS": " ".join(["dspy-nb", *words]),
        "COMP_CWORD": str(len(words)),
    }


def _offered(shown: str) -> list[str]:
    return [line.partition(",")[2] for line in shown.splitlines() if line]


@pytest.fixture
def version() -> str:
    return nb.Registry("from-file").register(dspy.Predict("review -> sentiment"), "sentiment").ref


@pytest.mark.heavy
def test_the_shell_gets_completions_and_nothing_else(version: str):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **_typed("show", "sentiment@1")}
    program = "from dspy_nb.cli.main import main; main()"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert _offered(done.stdout) == [version]


def test_the_shell_completes_commands_options_models_versions_and_environments(version, capsys, monkeypatch):
    def completed(*words: str) -> list[str]:
        for name, value in _typed(*words).items():
            monkeypatch.setenv(name, value)
        with pytest.raises(SystemExit):
            main([])
        shown = capsys.readouterr()
        assert shown.err == ""
        return _offered(shown.out)

    assert "optimize" in completed("opt")
    assert "--train-data" in completed("optimize", "--tr")
    assert completed("show", "sentiment@1") == ["sentiment@1.0.0"]
    assert completed("list", "sen") == ["sentiment"]
    assert completed("optimize", "--optimizer", "MIP") == ["MIPROv2"]
    assert "staging" in completed("rollback", "st")
    assert completed("show", "--registry", "nowhere", "s") == []


def test_each_shell_has_its_script(capsys):
    for shell in ("bash", "zsh", "fish"):
        assert main(["completion", shell]) == 0
        assert "dspy-nb" in capsys.readouterr().out
