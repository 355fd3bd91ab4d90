"""The commands dspy-nb evaluate and dspy-nb gate: what they print and leave, and their exit status."""

from __future__ import annotations

import errno
import json
import os
import re
import runpy
import sys
import tempfile
from pathlib import Path

import pytest

import dspy_nb as nb
from dspy_nb.cli.main import main
from tests.children import Children
from tests.scripted import ScriptedEngine, classifier, write_reviews

_APP = """
import dspy

signature = dspy.Signature("review -> sentiment", "Classify the review.")
weak = dspy.Predict(signature)
strong = dspy.Predict(signature)
strong.demos = [{"review": "good", "sentiment": "positive"}]

class Broken(dspy.Module):
    def forward(self, review):
        raise ValueError("not today")
"""

_TASK = ["--test-data", "test.jsonl", "--metric", "exact_match:sentiment"]
_STRONG = ["evaluate", "--program", "gated_app:strong", *_TASK]
_WEAK = ["evaluate", "--program", "gated_app:weak", *_TASK]


@pytest.fixture(autouse=True)
def folder(workplace: Path, engine: ScriptedEngine) -> Path:
    (workplace / "gated_app.py").write_text(_APP)
    write_reviews(workplace / "test.jsonl", 40)
    return workplace


@pytest.fixture
def registry():
    registry = nb.Registry("registry")
    program = classifier()
    program.demos = [{"review": "good", "sentiment": "positive"}]
    registry.register(program, "sentiment")
    return registry


def said(capsys):
    captured = capsys.readouterr()
    return captured.out, captured.err.strip().splitlines()


@pytest.mark.parametrize(
    "command",
    [
        _STRONG,
        ["ab-test", "gated_app:weak", "gated_app:strong", *_TASK],
        ["optimize", "gated_app:weak", "--train-data", "test.jsonl", "--metric", "exact_match:sentiment"],
        ["sweep", "gated_app:weak", "--over", "lm=a/b,c/d", *_TASK],
    ],
    ids=lambda command: command[0],
)
def test_a_scheduler_that_is_none_is_refused_before_anything_is_spent(capsys, engine, command):
    assert main([*command, "--scheduler", "nowhere", "--quiet"]) == 2
    assert re.search(r"--scheduler must be .* 'local:4' \(workers\) .*got 'nowhere'", said(capsys)[1][-1])
    assert engine.calls == 0


def test_it_prints_the_report_and_saves_it(capsys):
    assert main([*_STRONG, "--out", "report.json", "--inputs", "review", "--by", "sentiment"]) == 0
    out, _ = said(capsys)
    evaluation = nb.Evaluation.load("report.json")
    assert out.strip() == evaluation.report()
    assert (evaluation.score, evaluation.n, len(evaluation.results)) == (1.0, 40, 40)
    assert set(evaluation.slices) == {"positive", "negative"}


def test_the_examples_are_printed_where_they_are_asked_for(capsys):
    assert main([*_WEAK, "--examples", "wrong", "--out", "report.json"]) == 0
    out, _ = said(capsys)
    evaluation = nb.Evaluation.load("report.json")
    assert out.strip() == f"{evaluation.report()}\n\n{evaluation.examples(wrong=True).report()}"
    assert main([*_WEAK, "--examples", "wrong", "--json"]) == 0
    rows = json.loads(said(capsys)[0])["examples"]
    assert len(rows) == 40 - evaluation.correct
    assert {"inputs", "expected", "predicted", "score", "error", "calls"} <= set(rows[0]["answer"])


def test_json_has_the_numbers_and_the_gate(capsys):
    assert main([*_STRONG, "--gate", "min_score=0.8", "--json"]) == 0
    data = json.loads(said(capsys)[0])
    assert (data["score"], data["n"], data["gate"]["passed"]) == (1.0, 40, True)
    assert "results" not in data


def test_a_program_that_answers_nothing_exits_1_after_the_report(capsys):
    assert main(["evaluate", "--program", "gated_app:Broken", "--inputs", "review", *_TASK]) == 1
    assert "not today" in said(capsys)[0]


def test_a_gate_that_says_no_exits_1_after_the_report(capsys):
    assert main([*_WEAK, "--gate", "min_score=0.95", "--gate", "min_n=100", "--out", "report.json"]) == 1
    out, err = said(capsys)
    assert "Gate said no: 2 of 4" in out
    assert err[-1].startswith("Error: score")
    assert Path("report.json").exists()


def test_a_version_is_evaluated_and_the_evidence_lets_it_into_production(registry):
    line = ["evaluate", "--model", "sentiment@1.0.0", *_TASK, "--attach", "--gate"]
    registry.promote("sentiment@1.0.0", "staging")
    assert main([*line, "min_score=0.99"]) == 1
    with pytest.raises(nb.Refused):
        registry.promote("sentiment@1.0.0", "production")
    assert main([*line, "min_score=0.8"]) == 0
    assert registry.promote("sentiment@1.0.0", "production").stage == "production"


def test_a_saved_report_is_gated_without_asking_the_model(capsys, engine):
    main([*_WEAK, "--out", "weak.json"])
    main([*_STRONG, "--out", "strong.json"])
    calls = engine.calls
    capsys.readouterr()
    assert main(["gate", "strong.json", "--min-score", "0.85", "--max-error-rate", "0"]) == 0
    assert said(capsys)[0].startswith("Gate passed")
    assert main(["gate", "weak.json", "--min-score", "0.95", "--per-class", "positive.recall=1"]) == 1
    out, err = said(capsys)
    assert out.startswith("Gate said no: 2 of 4")
    assert len(err) == 1
    assert main(["gate", "weak.json", "--not-worse-than", "strong.json", "--margin", "0.05"]) == 1
    assert main(["gate", "strong.json", "--not-worse-than", "weak.json", "--on", "score", "--json"]) == 0
    assert engine.calls == calls


def test_a_stored_evaluation_is_gated_by_reference(registry, capsys):
    main([*_STRONG, "--out", "strong.json"])
    stored = nb.Evaluation.load("strong.json").to_dict()
    registry.register(classifier(), "other", evaluation=stored)
    capsys.readouterr()
    assert main(["gate", "other@1.0.0", "--min-n", "40", "--json"]) == 0
    data = json.loads(said(capsys)[0])
    assert data["passed"] is True
    assert main(["gate", "sentiment@1.0.0", "--min-n", "40"]) == 2
    assert "sentiment@1.0.0 has no stored evaluation" in said(capsys)[1][-1]


def test_an_unknown_price_fails_the_gate(capsys):
    assert main([*_STRONG, "--gate", "max_usd_per_call=1"]) == 1
    assert "price of a call is not known" in said(capsys)[1][-1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluate", *_TASK], "give a program, --model REF, or both"),
        (["evaluate", "--program", "gated_app:weak"], "Missing option '--test-data'"),
        ([*_WEAK, "--gate", "accuracy=1"], "must be like min_score=0.85"),
        ([*_WEAK, "--attach"], "--attach needs the --model"),
        ([*_WEAK, "--out", "nowhere/report.json"], "there is no folder nowhere"),
        ([*_WEAK, "--out", "."], "--out .: that is no file"),
        ([*_WEAK, "--out", "/dev/null"], "--out /dev/null: that is no file"),
        ([*_WEAK, "--out", "test.jsonl/report.json"], "--out test.jsonl/report.json: "),
        ([*_WEAK, "--out", "x" * 250], "cannot be written: File name too long"),
        ([*_WEAK, "--label", "colour"], "label 'colour': example 1 has no such value"),
        ([*_WEAK, "--gate", "not_worse_than=missing.json"], "missing.json: no evaluation can be read"),
        ([*_WEAK, "--gate", "not_worse_than=sentiment@1.0.0"], "sentiment"),
        (["gate", "missing.json", "--min-score", "0.5"], "missing.json: no evaluation can be read"),
        (["gate", "test.jsonl", "--min-score", "0.5"], "test.jsonl"),
        (["gate", "report.json"], "a gate needs at least one condition"),
        (["gate", "report.json", "--min-score", "85"], "--min-score must be"),
        (["gate", "report.json", "--per-class", "recall=1"], "must be like per_class.positive.recall=0.7"),
    ],
)
def test_mistakes_are_one_line_cost_nothing_and_exit_2(arguments, message, capsys, engine):
    assert main(arguments) == 2
    (line,) = said(capsys)[1]
    assert message in line
    assert engine.calls == 0


def run_the_command(*arguments: str) -> None:
    sys.argv = ["dspy-nb", *arguments]
    runpy.run_module("dspy_nb", run_name="__main__")


def test_the_exit_status_reaches_the_shell(folder, children: Children):
    main([*_WEAK, "--out", "weak.json"])
    command = children(run_the_command, "gate", str(folder / "weak.json"), "--min-score", "0.99")
    assert command.status == 1
    assert len(command.errors.strip().splitlines()) == 1


def test_a_report_that_cannot_be_written_in_the_end_is_kept_elsewhere(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    real = os.write

    def write(descriptor, content):
        if b"schema_version" in bytes(content) and "dspy-nb-" not in str(
            Path(f"/proc/self/fd/{descriptor}").readlink()
        ):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(descriptor, content)

    monkeypatch.setattr(os, "write", write)
    assert main([*_STRONG, "--out", "report.json"]) == 2
    out, err = said(capsys)
    assert "40" in out  # the report is printed all the same
    (kept,) = tmp_path.glob("dspy-nb-*/report.json")
    assert err[0] == f"Not written to report.json; it is kept in {kept}"
    assert "report.json cannot be written: No space left on device" in err[-1]
    assert nb.Evaluation.load(kept).n == 40
