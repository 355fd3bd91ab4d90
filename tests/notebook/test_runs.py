"""%dspy_runs: what it lists, and how a run is found again in another cell."""

from __future__ import annotations

import gc
import json
import threading
import weakref

import pytest
from click.testing import CliRunner

import dspy_nb as nb
from dspy_nb.cli.main import cli
from dspy_nb.core.optimization import known
from tests.moments import HANG_S
from tests.notebook.test_optimize import OPTIMIZE, Notebook

SLOW = (
    f"{OPTIMIZE} --val val --optimizer BootstrapFewShotWithRandomSearch --option num_candidate_programs=500 "
    "--background -o mine;"
)


@pytest.fixture
def notebook(magics, tmp_path, monkeypatch) -> Notebook:
    monkeypatch.setattr(known, "_KNOWN", weakref.WeakSet())  # without the runs of other tests
    monkeypatch.setattr(known, "_DIRECTORIES", {})
    monkeypatch.chdir(tmp_path)
    return Notebook(magics)


def test_a_run_in_the_background_is_listed_by_its_name_and_stopped_by_its_number(notebook):
    go_on = threading.Event()
    notebook.engine.on_call = lambda number: number < 10 or go_on.wait(HANG_S)
    notebook.run(SLOW)
    run = notebook["mine"]
    listed, _ = notebook.run("%dspy_runs")
    (known,) = [found for found in listed if found.run is run]
    assert known.name == "mine"
    assert "mine · BootstrapFewShotWithRandomSearch" in listed.report()
    _, printed = notebook.run(f"%dspy_runs --stop {known.number}")
    assert f"Run {known.number} stops at the next LM call" in printed
    go_on.set()
    run.wait(HANG_S)
    assert run.stopped_by == "stop"
    line = notebook.fail(f"%dspy_runs --stop {known.number}")
    assert "is over: it was stopped" in line


def test_a_number_that_is_none_and_both_options_are_mistakes(notebook):
    assert "--attach 99: there is no such run" in notebook.fail("%dspy_runs --attach 99")
    assert "--stop x: there is no such run" in notebook.fail("%dspy_runs --stop x")
    assert "either --attach or --stop" in notebook.fail("%dspy_runs --attach 0 --stop 0")


def test_the_shell_lists_run_directories_as_text_and_json(engine, workplace, tmp_path):
    gc.collect()
    folder = tmp_path / "runs"
    folder.mkdir()
    (folder / "events.jsonl").write_text('{"event": "Started", "optimizer": "GEPA"}\n')
    done = CliRunner().invoke(cli, ["runs", str(folder), "--json"])
    assert done.exit_code == 0, done.output
    (found,) = [run for run in json.loads(done.stdout) if run["run_dir"] == str(folder)]
    assert (found["optimizer"], found["status"]) == ("GEPA", "lost")
    text = CliRunner().invoke(cli, ["runs", str(folder)]).stdout
    assert "ended without a word" in text
    assert CliRunner().invoke(cli, ["runs", "--attach", "0"]).exit_code == 2
    assert nb.runs is not None
