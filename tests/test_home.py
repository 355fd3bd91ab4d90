"""``~`` means the user's home in every path that is given, in Python and on the command line."""

from __future__ import annotations

from pathlib import Path

import dspy
import pytest

import dspy_nb as nb
from dspy_nb.cli.main import main
from dspy_nb.core.arguments import user_path
from tests.scripted import classifier, reviews, scripted_lm, write_reviews

METRIC = nb.exact_match("sentiment")


@pytest.fixture
def home(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's home, and an empty working directory, in which nothing called ~ may appear."""
    folder = workplace / "home"
    folder.mkdir()
    (workplace / "here").mkdir()
    monkeypatch.chdir(workplace / "here")
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("USERPROFILE", str(folder))
    return folder


def test_a_run_keeps_its_directory_and_its_log_in_the_home(home: Path) -> None:
    with dspy.context(lm=scripted_lm()):
        run = nb.optimize(
            classifier(), trainset=reviews(6), metric=METRIC, run_dir="~/run", log_file="~/logs/events.jsonl"
        )
    assert (home / "run/manifest.json").is_file()
    assert nb.read_events("~/logs/events.jsonl") == nb.read_events(home / "logs/events.jsonl")
    assert nb.Registry("~/registry").register(run, "m").path == home / "registry/models/m/1.0.0"
    assert list(Path.cwd().iterdir()) == []


def test_reports_presets_and_archives_are_there_too(home: Path) -> None:
    with dspy.context(lm=scripted_lm()):
        evaluation = nb.evaluate(classifier(), reviews(4), METRIC)
    assert evaluation.save("~/report.json") == home / "report.json"
    assert nb.Evaluation.load("~/report.json").score == evaluation.score
    nb.save_preset(nb.Preset("mine", "LabeledFewShot", {"k": 2}), "~/presets.toml")
    assert "mine" in [preset.name for preset in nb.list_presets("~/presets.toml")]
    registry = nb.Registry("~/registry")
    registry.register(classifier(), "m")
    archive = registry.export_version("m", "~")
    assert archive.parent == home
    assert nb.Registry("~/other").import_version(f"~/{archive.name}").ref == "m@1.0.0"
    assert list(Path.cwd().iterdir()) == []


def test_so_it_is_on_the_command_line(home: Path, engine: object, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "program.py").write_text(
        "import dspy\nprogram = dspy.Predict(dspy.Signature('review -> sentiment', 'Classify the review.'))\n"
    )
    write_reviews(home / "test.jsonl", 4)
    program = ["--program", "~/program.py:program"]
    assert main(["register", *program, "--model-id", "m", "--registry", "~/registry"]) == 0
    report = ["--test-data", "~/test.jsonl", "--metric", "exact_match:sentiment", "--out", "~/report.json"]
    assert main(["evaluate", *program, *report]) == 0
    assert main(["list", "--registry", "~/registry"]) == 0
    capsys.readouterr()
    assert (home / "report.json").is_file()
    assert (home / "registry/models/m/1.0.0/model.json").is_file()
    assert list(Path.cwd().iterdir()) == []


@pytest.mark.parametrize("value", [None, 3, b"bytes", "", "nul\0"])
def test_what_is_no_path_is_one_line(value: object) -> None:
    with pytest.raises(nb.InputError, match="run_dir must be a path"):
        user_path("run_dir", value)


def test_where_there_is_no_such_user_it_is_a_name_like_any_other() -> None:
    assert user_path("log_file", "~nobody-of-that-name/x") == Path("~nobody-of-that-name/x")
