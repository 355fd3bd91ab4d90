"""The command dspy-nb ab-test: what it prints and leaves, and its exit status."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import sys
import tempfile
from pathlib import Path

import pytest

import dspy_nb as nb
from dspy_nb.cli.main import main
from tests.scripted import ScriptedEngine, classifier, reviews, write_reviews

_APP = """
import dspy

signature = dspy.Signature("review -> sentiment", "Classify the review.")
weak = dspy.Predict(signature)
strong = dspy.Predict(signature)
strong.demos = [{"review": "good", "sentiment": "positive"}]


class Wrapped(dspy.Module):
    def __init__(self):
        super().__init__()
        self.ask = dspy.Predict(signature)

    def forward(self, review):
        return self.ask(review=review)
"""

_TASK = ["--test-data", "test.jsonl", "--metric", "exact_match:sentiment"]
_WEAK, _STRONG = "compared_app.py:weak", "compared_app.py:strong"


def command(a, *bs, task=_TASK):
    return ["ab-test", "--model-a", a, *(text for b in bs for text in ("--model-b", b)), *task]


@pytest.fixture(autouse=True)
def folder(workplace: Path, engine: ScriptedEngine) -> Path:
    (workplace / "compared_app.py").write_text(_APP)
    write_reviews(workplace / "test.jsonl", 200)
    return workplace


@pytest.fixture
def registry():
    registry = nb.Registry("registry")
    strong = classifier()
    strong.demos = [{"review": "good", "sentiment": "positive"}]
    registry.register(classifier(), "sentiment", version="1.0.0")
    registry.register(strong, "sentiment", version="1.1.0")
    registry.promote("sentiment@1.0.0", "staging")
    registry.promote("sentiment@1.0.0", "production", force=True, reason="a first one")
    return registry


def said(capsys):
    captured = capsys.readouterr()
    return captured.out, captured.err.strip().splitlines()


def test_a_better_version_exits_0_and_its_verdict_ships_it(registry, capsys):
    assert main([*command("sentiment@production", "sentiment@latest"), "--attach"]) == 0
    out, err = said(capsys)
    assert "A/B: sentiment@1.0.0 (A) and sentiment@1.1.0 (B)" in out
    assert "B better: B − A is" in out
    assert err == [""] or not err
    registry.promote("sentiment@1.1.0", "staging")
    assert registry.promote("sentiment@1.1.0", "production").stage == "production"


def test_a_worse_one_exits_1_with_one_line_and_ships_nothing(registry, capsys):
    assert main([*command(_STRONG, "sentiment@1.0.0"), "--attach"]) == 1
    out, err = said(capsys)
    assert "A better" in out
    (line,) = err
    assert "nothing is shown to be better than compared_app.py:strong (sentiment@1.0.0: A better)" in line
    registry.promote("sentiment@1.1.0", "staging")
    with pytest.raises(nb.Refused):
        registry.promote("sentiment@1.1.0", "production")


def test_what_is_not_settled_exits_1(capsys):
    assert main([*command(_WEAK, _STRONG), "--max-examples", "6"]) == 1
    out, (line,) = said(capsys)
    assert "Inconclusive" in out
    assert "strong: inconclusive" in line


def test_not_worse_is_enough_where_that_is_asked(capsys):
    equal = [*command(_STRONG, "compared_app.py:strong"), "--margin", "0.1"]
    assert main(equal) == 1
    assert "no practical difference" in said(capsys)[1][0]
    assert main([*equal, "--not-worse"]) == 0
    assert main([*command(_STRONG, _WEAK), "--margin", "0.02", "--not-worse"]) == 1
    assert "not to be worse" in said(capsys)[1][0]


def test_a_version_that_is_not_worse_passes_where_that_is_asked(registry):
    registry.register(classifier(), "sentiment", version="1.0.1")
    registry.promote("sentiment@1.0.1", "staging")
    line = [*command("sentiment@production", "sentiment@1.0.1"), "--margin", "0.1", "--attach"]
    assert main(line) == 1
    with pytest.raises(nb.Refused, match="the latest comparison said no"):
        registry.promote("sentiment@1.0.1", "production")
    assert main([*line, "--not-worse"]) == 0
    assert registry.promote("sentiment@1.0.1", "production").stage == "production"


def test_json_has_the_numbers_and_no_single_examples(capsys):
    assert main([*command(_WEAK, _STRONG), "--margin", "0.05", "--confidence", "0.9", "--json"]) == 0
    data = json.loads(said(capsys)[0])
    assert (data["verdict"], data["margin"], data["confidence"]) == ("B better", 0.05, 0.9)
    assert "flips" not in data
    assert data["a"]["n"] == data["b"]["n"] == data["n"]


def test_the_examples_that_changed_are_printed_where_they_are_asked_for(capsys):
    assert main([*command(_WEAK, _STRONG), "--examples", "fixed"]) == 0
    out = said(capsys)[0]
    assert "What B fixed" not in out  # it would say the same again
    lines = [line.split() for line in out.splitlines() if line.endswith("  fixed")]
    assert len(lines) > 5
    assert all("(wrong)" in line and "(right)" in line for line in lines)


@pytest.mark.parametrize("width", [60, 80])
def test_the_examples_fit_the_terminal(capsys, monkeypatch, width):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", str(width))
    assert main([*command(_WEAK, _STRONG), "--examples", "all"]) == 0
    lines = re.sub(r"\x1b\[\d*m", "", said(capsys)[0]).splitlines()
    assert any("fixed" in line for line in lines)
    assert max(map(len, lines)) <= width


def test_one_look_answers_all(capsys, engine):
    assert (
        main([*command(_WEAK, _STRONG), "--one-look", "--max-examples", "50", "--seed", "3", "--json"]) == 0
    )
    data = json.loads(said(capsys)[0])
    assert (data["n"], data["sequential"], data["seed"], data["warnings"]) == (50, False, 3, [])
    assert engine.calls == 100


def test_reports_are_written_in_every_form(folder):
    forms = [text for suffix in ("md", "html", "json") for text in ("--report", f"report.{suffix}")]
    assert main([*command(_WEAK, _STRONG), *forms]) == 0
    assert (folder / "report.md").read_text().startswith("### A/B: ")
    page = (folder / "report.html").read_text()
    assert page.startswith("<!doctype html>")
    assert "B better" in page
    data = json.loads((folder / "report.json").read_text())
    assert data["flips"]
    assert {path.name for path in folder.iterdir() if path.name.startswith(".")} == set()


def test_the_best_of_several_is_found(registry, capsys):
    assert main([*command(_WEAK, "sentiment@1.0.0", "sentiment@1.1.0"), "--attach", "--json"]) == 0
    data = json.loads(said(capsys)[0])
    assert data["winner"] == "sentiment@1.1.0"
    assert [one["verdict"] for one in data["comparisons"]] == ["inconclusive", "B better"]
    assert data["comparisons"][0]["confidence"] == pytest.approx(0.975)
    assert registry.get("sentiment@1.1.0").version == "1.1.0"


def test_versions_of_a_class_of_your_own_are_rebuilt_with_it(folder, capsys):
    sys.path.insert(0, str(folder))
    from compared_app import Wrapped

    registry = nb.Registry("registry")
    better = Wrapped()
    better.ask.demos = [{"review": "good", "sentiment": "positive"}]
    registry.register(Wrapped(), "own")
    registry.register(better, "own", bump="minor")
    line = command("own@1.0.0", "own@1.1.0")
    assert main(line) != 0
    assert "cannot be loaded without its class" in said(capsys)[1][0]
    assert main([*line, "--program", "compared_app:Wrapped"]) == 0
    assert "A/B: own@1.0.0 (A) and own@1.1.0 (B)" in said(capsys)[0]


def test_a_terminal_gets_a_bar_and_a_pipe_gets_nothing(capsys, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    examples = reviews(60)
    nb.compare_many(classifier(), [classifier()], examples, nb.exact_match("sentiment"))
    assert "60 examples" in terminal.getvalue()
    assert "B − A +0.0 [" in terminal.getvalue()
    several = Terminal()
    monkeypatch.setattr(sys, "stderr", several)
    nb.compare_many(classifier(), [classifier()] * 2, examples, nb.exact_match("sentiment"))
    assert "0 of 2 settled" in several.getvalue()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (command(_WEAK), "ab-test needs --model-a, --model-b and --test-data"),
        (command(_WEAK, "nobody@1.0.0"), "nobody"),
        (command("sentiment@production", "sentiment@1.0.0"), "are both sentiment@1.0.0"),
        (command(_WEAK, "compared_app.py:missing"), "has no 'missing'"),
        (command(_WEAK, _STRONG, task=["--test-data", "none.jsonl", *_TASK[2:]]), "none.jsonl"),
        (command(_WEAK, _STRONG, task=_TASK[:2]), "give --metric"),
        ([*command(_WEAK, _STRONG), "--margin", "2"], "--margin must be"),
        ([*command(_WEAK, _STRONG), "--confidence", "95"], "--confidence must be"),
        ([*command(_WEAK, _STRONG), "--max-examples", "0"], "--max-examples must be"),
        ([*command(_WEAK, _STRONG), "--not-worse"], "--not-worse needs a --margin"),
        ([*command(_WEAK, _STRONG), "--attach"], "--attach needs versions"),
        ([*command(_WEAK, _STRONG), "--report", "report.pdf"], "must end in .md, .html, .json"),
        ([*command(_WEAK, _STRONG), "--report", "nowhere/report.md"], "there is no folder nowhere"),
        ([*command(_WEAK, _STRONG), "--report", f"{'x' * 250}.md"], "cannot be written: File name too long"),
        ([*command(_WEAK, _STRONG), "--lm", "gpt"], "--lm 'gpt' is not provider/model"),
    ],
)
@pytest.mark.usefixtures("registry")
def test_mistakes_are_one_line_cost_nothing_and_exit_2(line, message, capsys, engine):
    assert main(line) == 2
    (error,) = said(capsys)[1]
    assert message in error
    assert engine.calls == 0


def test_a_report_that_cannot_be_written_in_the_end_is_kept_elsewhere(folder, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    real = Path.replace

    def replace(path, target):
        if target == Path("report.md"):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return real(path, target)

    monkeypatch.setattr(Path, "replace", replace)
    assert main([*command(_WEAK, _STRONG), "--report", "report.md", "--report", "report.json"]) == 2
    (kept,) = tmp_path.glob("dspy-nb-*/report.md")
    assert kept.read_text().startswith("### A/B: ")
    assert (folder / "report.json").exists()
    out, err = said(capsys)
    assert "A/B" in out
    assert f"Not written to report.md; it is kept in {kept}" in err
    assert "cannot write report.md: the file system is read-only" in err[-1]


# -- online -------------------------------------------------------------------------------------------------


def _online(*words):
    return ["ab-test", "--model-a", "sentiment@production", "--model-b", "sentiment@latest", *words]


def test_an_online_experiment_is_begun_and_then_tells_how_it_stands(registry, capsys):
    assert main(_online("--split", "0.5", "--experiment", "demos")) == 0
    assert "Begun. Serve with nb.Experiment('demos')" in said(capsys)[0]
    experiment = nb.Experiment("demos", registry=registry)
    assert (experiment.definition.a, experiment.definition.b) == ("sentiment@1.0.0", "sentiment@1.1.0")
    for number in range(400):
        _, request_id = experiment.predict(f"user {number}", review=f"review {number}")
        is_b = experiment._traffic.assign(f"user {number}", 0.0).is_b
        experiment.record(request_id, success=is_b or number % 3 == 0)
    assert main(["ab-test", "--experiment", "demos", "--json"]) == 0
    assert json.loads(said(capsys)[0])["verdict"] == "B better"
    assert main(["ab-test", "--experiment", "demos", "--attach"]) == 0
    assert registry.promote("sentiment@1.1.0", "staging").stage == "staging"
    assert registry.promote("sentiment@1.1.0", "production").stage == "production"


def test_an_online_experiment_without_a_name_is_called_by_its_versions(registry, capsys):
    assert main(_online("--split", "0.1")) == 0
    assert "Experiment sentiment-1.0.0-sentiment-1.1.0" in said(capsys)[0]
    assert main(_online("--split", "0.1")) == 1
    (error,) = said(capsys)[1]
    assert error == "Error: sentiment@1.1.0 is not shown to be better than sentiment@1.0.0: inconclusive"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (_online("--split", "0.1", *_TASK), "--test-data, --metric go with a comparison"),
        (_online("--split", "2"), "split must be"),
        (["ab-test", "--split", "0.1"], "--split needs --experiment NAME, or --model-a and --model-b"),
        (
            ["ab-test", "--experiment", "x", "--model-b", "sentiment@1.0.0"],
            "takes one --model-a and one --model-b",
        ),
        (["ab-test", "--experiment", "nothing"], "no experiment 'nothing'"),
        (["ab-test", "--model-a", "sentiment@1.0.0"], "ab-test needs --model-a, --model-b and --test-data"),
    ],
)
def test_wrong_words_for_an_online_experiment_are_one_line(registry, words, message, capsys):
    assert main(words) == 2
    (error,) = said(capsys)[1]
    assert message in error
    assert not (registry.root / "experiments" / "x.sqlite3").exists()
