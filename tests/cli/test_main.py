"""The command dspy-nb: what it prints, what it leaves, and its exit status."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import dspy_nb as nb
from dspy_nb.cli.main import cli, main
from tests.moments import interrupting
from tests.scripted import ScriptedEngine, classifier, write_reviews

_APP = """
import dspy

signature = dspy.Signature("review -> sentiment", "Classify the review.")
classifier = dspy.Predict(signature)


class Classifier(dspy.Module):
    def __init__(self):
        super().__init__()
        self.classify = dspy.Predict(signature)

    def forward(self, review):
        return self.classify(review=review)


def make():
    return dspy.Predict(signature)


def broken():
    raise RuntimeError("first line\\nsecond line")


def right(gold, pred, trace=None):
    return gold.sentiment == pred.sentiment
"""

_TASK = [
    "--program", "app:classifier", "--metric", "exact_match:sentiment", "--option", "max_labeled_demos=2",
    "--train-data", "train.jsonl", "--val-data", "val.jsonl", "--test-data", "test.jsonl",
]  # fmt: skip


@pytest.fixture
def folder(workplace: Path) -> Path:
    """A working directory with a program and data."""
    (workplace / "app.py").write_text(_APP)
    for name, n in {"train": 12, "val": 8, "test": 20}.items():
        write_reviews(workplace / f"{name}.jsonl", n, tag=name)
    return workplace


def _json(capsys: pytest.CaptureFixture[str], *arguments: str):
    assert main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


# -- help and usage -----------------------------------------------------------------------------------------


def test_without_arguments_it_prints_its_help_and_exits_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "Commands:" in capsys.readouterr().err


def test_it_prints_its_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert nb.__version__ in capsys.readouterr().out


@pytest.mark.parametrize("name", sorted(cli.commands))
def test_every_command_has_help_and_a_json_option(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == 0
    shown = capsys.readouterr().out
    assert "--json" in shown
    assert "  Examples:\n    dspy-nb " in shown or name == "completion"
    assert "..." not in cli.commands[name].get_short_help_str(limit=60)


@pytest.mark.heavy
def test_help_imports_neither_dspy_nor_a_kernel() -> None:
    program = """
import sys
from dspy_nb.cli.main import main
main(["--help"])
assert not {"dspy", "nbclient", "IPython"} & set(sys.modules)
"""
    environment = os.environ | {"PYTHONPATH": str(Path(nb.__file__).parents[1])}
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, env=environment)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["optimise"], "No such command 'optimise'"),
        (["optimize"], "Missing option '--program'"),
        (["list", "--registri", "x"], "No such option '--registri'"),
        (["show"], "Missing argument"),
        (["show", "sentiment"], "there is no registry in registry"),
        (["list", "--registry", "app.py"], "there is no registry in app.py"),
        (["check"], "there is no registry in registry"),
        (["optimize", "--program", "classifier"], "is not module:name"),
        (["optimize", "--program", "app:nothing"], "app has no 'nothing'"),
        (["optimize", "--program", "apps:classifier"], "cannot import apps"),
        (["optimize", "--program", "apps.py:classifier"], "no such file: apps.py"),
        (["optimize", "--program", "app:signature"], "app:signature"),
        (
            ["optimize", "--program", "app:broken"],
            "app:broken() failed: RuntimeError: first line second line",
        ),
        ([*_TASK, "--metric", "exact:sentiment"], "no metric 'exact'"),
        ([*_TASK, "--metric", "exact_match:label"], "has no field 'label'"),
        ([*_TASK, "--inputs", "text"], "no input field 'text'"),
        ([*_TASK, "--train-data", "none.jsonl"], "none.jsonl"),
        ([*_TASK, "--train-data", "app.py"], "app.py"),
        ([*_TASK, "--optimizer", "MIPRO"], "unknown optimizer 'MIPRO'"),
        ([*_TASK, "--option", "max_labeled_demos"], "is not name=value"),
        ([*_TASK, "--option", "max_labeled_demos=3"], "is given twice"),
        ([*_TASK, "--option", "demos=3"], "demos"),
        ([*_TASK, "--preset", "quickest"], "unknown preset 'quickest'"),
        ([*_TASK, "--budget-calls", "many"], "'many' is not a valid integer"),
        ([*_TASK, "--budget-calls", "0"], "Error: --budget-calls=0 is not a positive whole number"),
        ([*_TASK, "--budget-usd", "1"], "usd"),
        ([*_TASK, "--threads", "0"], "Error: --threads must be a whole number"),
        ([*_TASK, "--lm", "gpt"], "--lm 'gpt' is not provider/model"),
        ([*_TASK, "--save-as", "a/b"], "model id 'a/b' is not valid"),
        ([*_TASK, "--bump", "huge"], "'huge' is not one of"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_usage_is_one_line_and_exit_status_2_and_costs_nothing(
    folder: Path,
    engine: ScriptedEngine,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    reason: str,
) -> None:
    before = sorted(folder.iterdir())
    assert main(arguments if arguments[0] != "--program" else ["optimize", *arguments]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("Error: ")
    assert shown.err.count("\n") == 1
    assert reason in shown.err
    assert engine.calls == 0
    assert [path for path in sorted(folder.iterdir()) if path.name != "__pycache__"] == before


def test_an_error_in_the_programs_module_names_file_and_line(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "wrong.py").write_text("import dspy\nprogram = dspy.Predikt('a -> b')\n")
    assert main(["optimize", "--program", "wrong.py:program"]) == 2
    assert "(wrong.py:2)" in capsys.readouterr().err


# -- presets ------------------------------------------------------------------------------------------------


def test_presets_are_listed_for_people_and_for_machines(capsys: pytest.CaptureFixture[str]) -> None:
    found = _json(capsys, "presets")
    assert [preset["name"] for preset in found] == [preset.name for preset in nb.list_presets()]
    assert main(["presets"]) == 0
    shown = capsys.readouterr().out
    assert all(preset["name"] in shown for preset in found)


# -- optimize -----------------------------------------------------------------------------------------------


def test_optimize_registers_a_version_that_list_show_and_check_know(
    folder: Path, engine: ScriptedEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["optimize", *_TASK, "--save-as", "sentiment"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("Better on held-out examples: ")
    assert "Registered sentiment@1.0.0: held-out " in shown
    assert "deploy it: dspy-nb deploy sentiment@1.0.0 --to staging" in " ".join(shown.split())

    (listed,) = _json(capsys, "list")
    assert (listed["ref"], listed["stage"]) == ("sentiment@1.0.0", "development")
    assert _json(capsys, "list", "sentiment") == [listed]
    metadata = _json(capsys, "show", "sentiment")
    assert metadata["optimizer"] == "BootstrapFewShot"
    assert metadata["usage"]["lm_calls"] == engine.calls
    assert main(["show", "sentiment@1.0.0"]) == 0
    assert capsys.readouterr().out.startswith("sentiment 1.0.0\n")
    assert _json(capsys, "check") == []

    program = nb.Registry("registry").load("sentiment")
    assert program(review="test 1 is good").sentiment == "positive"


def test_check_says_what_is_wrong_and_exits_1(
    folder: Path, engine: ScriptedEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["optimize", *_TASK, "--save-as", "sentiment"]) == 0
    card = folder / "registry/models/sentiment/1.0.0/README.md"
    card.write_text("better than it is")
    capsys.readouterr()
    assert main(["check"]) == 1
    assert "README.md was changed" in capsys.readouterr().out
    assert main(["show", "sentiment"]) == 2


def test_optimize_prints_the_run_for_machines(
    folder: Path, engine: ScriptedEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    run = _json(capsys, "optimize", *_TASK, "--save-as", "sentiment", "--bump", "major", "--seed", "3")
    assert run["model"] == "sentiment@1.0.0"
    assert run["test_after"]["n"] == 20
    assert run["improvement"]["n"] == run["held_out"]["n"] == 20
    assert run["verdict"] == run["improvement"]["verdict"] == "better"
    assert run["next_step"].endswith("dspy-nb deploy sentiment@1.0.0 --to staging")
    assert run["options"]["max_labeled_demos"] == 2
    assert run["usage"]["lm_calls"] == engine.calls <= run["estimated_lm_calls"]
    assert run["stopped_by"] is None


@pytest.mark.parametrize("program", ["app:make", "app:Classifier", "app.py:classifier"])
def test_a_program_may_be_an_object_a_function_or_a_class_of_a_module_or_file(
    folder: Path, engine: ScriptedEngine, capsys: pytest.CaptureFixture[str], program: str
) -> None:
    run = _json(capsys, "optimize", *_TASK, "--program", program, "--metric", "app:right")
    assert run["metric"] == "right"
    assert run["test_after"]["errors"]["count"] == 0


def test_a_dry_run_says_what_it_would_take_and_takes_nothing(
    folder: Path, engine: ScriptedEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["optimize", *_TASK, "--preset", "light", "--dry-run"]) == 0
    assert "LM calls" in capsys.readouterr().out
    assert _json(capsys, "optimize", *_TASK, "--dry-run")["lm_calls"] > 0
    assert engine.calls == 0


def test_a_budget_stops_the_run_and_what_it_found_is_registered(
    folder: Path, engine: ScriptedEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--preset", "light", "--budget-calls", "100", "--save-as", "sentiment", "--num-threads", "1"]
    run = _json(capsys, "optimize", *_TASK, *arguments)
    assert run["stopped_by"] == "lm_calls"
    assert engine.calls <= 100
    assert run["model"] == "sentiment@1.0.0"


def test_a_run_that_was_stopped_before_it_found_anything_registers_nothing(
    folder: Path, engine: ScriptedEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--preset", "light", "--save-as", "sentiment", "--num-threads", "1"]
    with interrupting(at=25) as engine.on_call:
        assert main(["optimize", *_TASK, *arguments]) == 1
    assert "nothing is registered" in capsys.readouterr().err
    assert not Path("registry").exists()


def test_an_interrupt_keeps_the_best_candidate_so_far(
    folder: Path, engine: ScriptedEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--preset", "light", "--save-as", "sentiment", "--num-threads", "1"]
    with interrupting(at=60) as engine.on_call:
        run = _json(capsys, "optimize", *_TASK, *arguments)
    assert run["stopped_by"] == "interrupt"
    assert run["model"] == "sentiment@1.0.0"


def test_the_registry_may_come_from_the_environment_and_a_flag_wins_over_it(
    folder: Path, engine: ScriptedEngine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DSPY_NB_REGISTRY", "from-environment")
    assert main(["optimize", *_TASK, "--save-as", "sentiment"]) == 0
    assert main(["optimize", *_TASK, "--save-as", "sentiment", "--registry", "from-flag"]) == 0
    capsys.readouterr()
    assert [v["ref"] for v in _json(capsys, "list")] == ["sentiment@1.0.0"]
    assert [v["ref"] for v in _json(capsys, "list", "--registry", "from-flag")] == ["sentiment@1.0.0"]


def test_every_event_goes_to_the_log_file(
    folder: Path, engine: ScriptedEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["optimize", *_TASK, "--log-file", "events.jsonl"]) == 0
    events = nb.read_events("events.jsonl")
    assert isinstance(events[0], nb.Started)
    assert isinstance(events[-1], nb.Completed)


@pytest.mark.heavy
def test_the_command_is_also_a_module():
    version = [sys.executable, "-m", "dspy_nb", "--version"]
    assert "dspy-nb, version" in subprocess.run(version, check=True, capture_output=True, text=True).stdout


def test_a_warning_is_one_line(folder: Path, engine, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("warnings.filters", [])  # pytest's own makes an error of it
        assert main(["optimize", *_TASK, "--test-data", "train.jsonl"]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if "Warning" in line] == [
        "Warning: 12 of the 12 examples of the testset are in the trainset or the valset too, so its score is too "
        "good; dspy_nb.split() makes sets that share none"
    ]
    assert not [line for line in lines if "optimize.py" in line]


def test_a_registry_that_cannot_be_written_is_found_before_anything_is_spent(
    folder: Path, engine, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "os.access", lambda place, mode: False
    )  # what a read-only folder says to all but root
    assert main(["optimize", *_TASK, "--save-as", "sentiment"]) == 2
    assert "registry cannot be written: " in capsys.readouterr().err
    assert engine.calls == 0


def test_a_program_that_cannot_be_registered_after_its_run_is_kept(
    folder: Path, engine, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise nb.RegistryError("the registry registry cannot be written: No space left on device")

    monkeypatch.setattr(nb.Registry, "register", full)
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    assert main(["optimize", *_TASK, "--save-as", "sentiment"]) == 2
    *_, kept, error = capsys.readouterr().err.splitlines()
    assert "No space left" in error
    again = classifier()
    again.load(kept.partition("kept in ")[2])
    assert again.demos
