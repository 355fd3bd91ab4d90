"""The command that registers a program as it is."""

from __future__ import annotations

import json
from pathlib import Path

import dspy
import pytest

from dspy_nb.cli.main import main
from dspy_nb.core.registry.registry import Registry

APP = """
import dspy
classifier = dspy.Predict("review -> sentiment")
classifier.demos = [{"review": "nice", "sentiment": "good"}]
class Chain(dspy.Module):
    def __init__(self):
        super().__init__()
        self.answer = dspy.ChainOfThought("question -> answer")
    def forward(self, question):
        return self.answer(question=question)
number = 7
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_flush: None) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DSPY_NB_REGISTRY", raising=False)
    Path("registered_app.py").write_text(APP)
    return tmp_path


def register(*more: str, program: str = "registered_app.py:classifier") -> int:
    return main(["register", "--program", program, "--model-id", "m", *more])


def test_a_program_becomes_the_next_version_and_loads_again(capsys: pytest.CaptureFixture[str]) -> None:
    assert register("--notes", "by hand", "--by", "ann") == 0
    assert capsys.readouterr().out.startswith("Registered m@1.0.0 in ")
    assert register("--bump", "patch", "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["ref"], facts["stage"], facts["parent"]) == ("m@1.0.1", "development", "1.0.0")
    registry = Registry("registry")
    loaded = registry.load("m@1.0.0")
    assert isinstance(loaded, dspy.Predict)
    assert loaded.demos[0]["sentiment"] == "good"
    assert registry.get("m@1.0.0").metadata["notes"] == "by hand"
    assert registry.history("m")[0].by == "ann"
    assert registry.check() == []


def test_a_class_is_registered_as_what_it_makes(capsys: pytest.CaptureFixture[str]) -> None:
    assert register("--version", "2.0.0-rc.1", program="registered_app.py:Chain") == 0
    version = Registry("registry").get("m")
    assert version.version == "2.0.0-rc.1"
    assert str(version.metadata["program_class"]).endswith("Chain")


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--version", "1.0.0", "--bump", "minor"], "either version= or bump="),
        (["--version", "one"], "'one' is not valid"),
        (["--parent", "9.9.9"], "'9.9.9' is not a version of m"),
        (["--program", "registered_app.py:number"], "neither a dspy.Module nor makes one"),
        (["--program", "nowhere.py:x"], "no such file"),
        (["--model-id", "../m"], "'../m' is not valid"),
        (["--bump", "huge"], "--bump"),
    ],
)
def test_what_is_wrong_is_one_line_and_nothing_is_written(
    folder: Path, capsys: pytest.CaptureFixture[str], more: list[str], words: str
) -> None:
    assert register(*more) == 2
    shown = capsys.readouterr().err
    assert words in shown
    assert shown.count("\n") == 1
    assert not (folder / "registry").exists()


def test_a_version_that_exists_is_not_registered_again(capsys: pytest.CaptureFixture[str]) -> None:
    assert register("--version", "1.0.0") == 0
    assert register("--version", "1.0.0") == 2
    assert "m@1.0.0 exists" in capsys.readouterr().err


def test_a_new_model_is_said_to_be_new_and_which_other_one_may_be_meant(
    capsys: pytest.CaptureFixture[str],
) -> None:
    app = "registered_app.py:classifier"
    for model, note in (
        ("sentiment", "Note: sentiment is a new model\n"),
        ("sentiment", ""),
        ("sentimnt", "Note: sentimnt is a new model; did you mean sentiment?\n"),
        ("topic", "Note: topic is a new model\n"),
    ):
        assert main(["register", "--program", app, "--model-id", model]) == 0
        assert capsys.readouterr().err == note
