"""The commands that decide and deploy: what they print, and their exit status."""

from __future__ import annotations

import json
import os
from pathlib import Path

import dspy
import pytest

import dspy_nb as nb
from dspy_nb.cli.main import main
from dspy_nb.core.registry.registry import Registry
from tests.registry_samples import GATE, Run, program


@pytest.fixture(autouse=True)
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_flush: None) -> Registry:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DSPY_NB_REGISTRY", raising=False)
    registry = Registry("registry")
    for what in (program("Say it."), Run()):
        registry.register(what, "m")
    Path("gate.json").write_text(json.dumps(GATE))
    return registry


def said(capsys: pytest.CaptureFixture[str], *arguments: str):
    assert main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_version_goes_from_development_to_production_and_back(capsys: pytest.CaptureFixture[str]) -> None:
    for version in ("1.0.0", "1.1.0"):
        assert main(["promote", f"m@{version}", "--to", "staging"]) == 0
        arguments = [
            "promote",
            f"m@{version}",
            "--to",
            "production",
            "--evidence",
            "gate.json",
            "--by",
            "ann",
        ]
        assert main(arguments) == 0
        assert main(["deploy", f"m@{version}", "--to", "production", "--reason", "better"]) == 0
    shown = capsys.readouterr().out
    assert "m@1.1.0 is in production\n" in shown
    assert "m@1.1.0 is live in production, instead of m@1.0.0\n" in shown
    made = said(capsys, "rollback", "production", "--by", "bob")
    assert (made["ref"], made["replaced"], made["action"]) == ("m@1.0.0", "m@1.1.0", "rollback")
    assert main(["rollback", "production"]) == 1
    assert "nothing further back" in capsys.readouterr().err
    lines = said(capsys, "history", "--environment", "production")
    assert [line["by"] for line in lines][2] == "bob"
    assert said(capsys, "history", "m")[3]["evidence"] == {
        "schema_version": 1,
        **GATE,
        "checks": [],
        "reasons": [],
    }
    assert main(["history", "m"]) == 0
    assert "gate, passed" in capsys.readouterr().out
    assert main(["history", "--environment", "production"]) == 0
    assert "rollback" in capsys.readouterr().out
    assert main(["check"]) == 0


def test_what_is_allowed_but_unwise_is_said(registry: Registry, capsys: pytest.CaptureFixture[str]) -> None:
    def note(*arguments: str) -> str:
        assert main(list(arguments)) == 0
        return capsys.readouterr().err

    proof = ["--evidence", "gate.json"]
    for version in ("1.0.0", "1.1.0"):
        assert note("promote", f"m@{version}", "--to", "staging") == ""
    assert note("promote", "m@1.0.0", "--to", "production", *proof) == ""
    assert "nothing to roll back to yet" in note("deploy", "m@1.0.0", "--to", "production")
    assert "1.1.0 replaces 1.0.0 in production, and the two were never compared" in note(
        "promote", "m@1.1.0", "--to", "production", *proof
    )
    assert note("deploy", "m@1.1.0", "--to", "production") == ""
    version = registry.register(program("Say it well."), "m")
    registry.promote(version, "staging")
    registry.attach(version, {"kind": "ab", "verdict": "B better", "n": 50})
    assert note("promote", version.ref, "--to", "production", *proof) == ""


def test_archiving_old_versions(capsys: pytest.CaptureFixture[str]) -> None:
    assert [version["ref"] for version in said(capsys, "archive", "m", "--keep-latest", "1")] == ["m@1.0.0"]
    assert main(["archive", "m", "--keep-latest", "1"]) == 0
    assert capsys.readouterr().out == "archived nothing\n"


def test_the_difference_of_two_versions(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diff", "m@1.0.0", "m@1.1.0"]) == 0
    assert "--- m@1.0.0\n+++ m@1.1.0" in capsys.readouterr().out
    assert main(["diff", "m@1.1.0", "m@1.0.0"]) == 0
    assert "--- m@1.0.0\n+++ m@1.1.0" in capsys.readouterr().out
    changes = said(capsys, "diff", "m@1.0.0", "m@1.1.0")["changes"]
    assert {"section", "sign", "text"} == set(changes[0])


@pytest.mark.parametrize(
    ("line", "status", "words"),
    [
        ("promote m --to production", 1, "cannot go from development"),
        ("deploy m --to production", 1, "accepts versions in production"),
        ("rollback staging", 1, "nothing was ever deployed"),
        ("promote m --to nowhere", 2, "is not known"),
        ("promote m", 2, "--to"),
        ("promote m --to staging --force", 2, "needs a reason"),
        ("promote m --to staging --evidence gone.json", 2, "No such file"),
        ("promote m --to staging --evidence list.json", 2, "one JSON object"),
        ("promote m --to staging --evidence no.json", 2, "not valid JSON"),
        ("deploy gone --to staging", 2, "no model 'gone'"),
        ("deploy m --to a/b", 2, "is not valid"),
        ("deploy m --to prodution", 2, "did you mean production? A new one is made by deploy --create"),
        ("rollback prodution", 2, "did you mean production?"),
        ("history --environment prodution", 2, "did you mean production?"),
        ("monitor prodution --once", 2, "did you mean production?"),
        ("canary status --environment prodution", 2, "did you mean production?"),
        ("promote m --to prodution", 2, "did you mean production?"),
        ("list --columns version,stge", 2, "did you mean stage?"),
        ("list --columns stage,stage", 2, "given twice"),
        ("list --columns ,", 2, "is not known"),
        ("rollback staging --steps 0", 2, "steps must be"),
        ("history", 2, "either MODEL or --environment"),
        ("history m --environment e", 2, "either MODEL or --environment"),
        ("archive m", 2, "keep_latest"),
        ("diff m@1.0.0 m@9.9.9", 2, "no version"),
        ("diff m --registry elsewhere", 2, "B"),
        ("history m --registry elsewhere", 2, "no registry in elsewhere"),
    ],
)
def test_a_refusal_is_1_and_a_mistake_is_2_and_both_are_one_line(
    registry: Registry, capsys: pytest.CaptureFixture[str], line: str, status: int, words: str
) -> None:
    Path("list.json").write_text("[]")
    Path("no.json").write_text("{")
    assert main(line.split()) == status
    captured = capsys.readouterr()
    assert words in captured.err
    assert captured.err.startswith("Error: ")
    assert captured.err.count("\n") == 1
    assert captured.out == ""
    assert len(registry.history("m")) == 2
    assert registry.environments() == []


def test_a_diff_shows_the_prompts_for_an_input(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diff", "m@1.0.0", "m@1.1.0"]) == 0
    assert "\nprompt" not in capsys.readouterr().out
    assert main(["diff", "m@1.0.0", "m@1.1.0", "--input", "review=Nice and quick."]) == 0
    shown = capsys.readouterr().out
    assert "\nprompt" in shown
    assert "  Nice and quick." in shown
    assert main(["diff", "m@1.0.0", "m@1.1.0", "--input", "text=Nice."]) == 2
    assert "the inputs must be review, not text" in capsys.readouterr().err


def test_an_input_that_is_text_stays_text_in_a_diff(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    registry = nb.Registry("other")
    registry.register(dspy.Predict("question: str, count: int -> answer"), "m")
    registry.register(dspy.Predict(dspy.Signature("question: str, count: int -> answer", "Be brief.")), "m")
    inputs = ["--input", "question=1.10", "--input", "count=2"]
    assert main(["diff", "m@1.0.0", "m@1.1.0", *inputs, "--registry", "other"]) == 0
    assert "1.10" in capsys.readouterr().out


def test_one_torn_log_does_not_hide_the_other_models(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    registry = nb.Registry("other")
    for name in ("a", "b", "c"):
        registry.register(dspy.Predict("question -> answer"), name)
    entry = next((registry.root / "models/b/log").iterdir())
    entry.write_bytes(entry.read_bytes()[:-20])
    os.utime(entry, (1, 1))  # nobody is writing it any more
    assert main(["list", "--json", "--registry", "other"]) == 2
    shown = capsys.readouterr()
    assert [version["ref"] for version in json.loads(shown.out)] == ["a@1.0.0", "c@1.0.0"]
    assert shown.err.startswith("Error: ")
    assert "models/b/log" in shown.err
    assert shown.err.count("\n") == 1
    assert main(["list", "a", "--registry", "other"]) == 0
    assert main(["list", "b", "--registry", "other"]) == 2


def test_a_new_environment_wants_to_be_made(registry: Registry, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["deploy", "m", "--to", "beta"]) == 2
    assert registry.environments() == []
    assert main(["deploy", "m", "--to", "beta", "--create", "--dry-run"]) == 0
    assert registry.environments() == []
    assert main(["deploy", "m", "--to", "beta", "--create"]) == 0
    assert main(["deploy", "m@1.0.0", "--to", "beta"]) == 0
    capsys.readouterr()
    live = {version["ref"]: version["live_in"] for version in said(capsys, "list")}
    assert live == {"m@1.1.0": [], "m@1.0.0": ["beta"]}
    assert said(capsys, "show", "m@1.0.0")["live_in"] == ["beta"]
    assert main(["list", "--columns", "version,live"]) == 0
    assert "m@1.0.0  live in beta" in capsys.readouterr().out
    assert main(["show", "m@1.0.0"]) == 0
    assert "m@1.0.0 · stage development · live in beta" in capsys.readouterr().out


def test_a_dry_run_tells_what_is_missing_and_promotes_nothing(
    registry: Registry, capsys: pytest.CaptureFixture[str]
) -> None:
    registry.promote("m", "staging")
    assert main(["promote", "m", "--to", "production", "--dry-run"]) == 1
    assert "✗ not met" in capsys.readouterr().out
    assert main(["promote", "m", "--to", "production", "--dry-run", "--evidence", "gate.json", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["possible"]
    assert registry.get("m").stage == "staging"
