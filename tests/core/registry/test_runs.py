"""The runs that are known here: of this process, and of run directories in whatever state."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import threading
import weakref
from dataclasses import replace
from pathlib import Path

import dspy
import pytest

import dspy_nb as nb
from dspy_nb.core.event_log import EventLog
from dspy_nb.core.events import CandidateScored, Completed, Failed, HeldOut, Progress, Started
from dspy_nb.core.optimization import known
from dspy_nb.core.registry.runs import known_runs
from dspy_nb.views.known_runs import what_to_do
from tests import ROOT
from tests.moments import HANG_S
from tests.scripted import ScriptedEngine, classifier, reviews, scripted_lm

_MANIFEST = {"schema_version": 2, "optimizer": "MIPROv2", "program": [], "metric": {}}
_NUMBERS = {"lm_calls": 40, "best_score": 0.7, "baseline_score": 0.4}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.setattr(known, "_KNOWN", weakref.WeakSet())  # without the runs of other tests
    monkeypatch.setattr(known, "_DIRECTORIES", {})
    monkeypatch.chdir(tmp_path)


def optimize(engine=None, **changes):
    with dspy.context(lm=scripted_lm(engine or ScriptedEngine())):
        return nb.optimize(
            classifier(),
            **{
                "trainset": reviews(8, "train"),
                "valset": reviews(6, "val"),
                "metric": nb.exact_match("sentiment"),
                "optimizer": "BootstrapFewShotWithRandomSearch",
                "options": {"num_candidate_programs": 2},
                "num_threads": 2,
                **changes,
            },
        )


def written(folder: Path, *events, manifest=_MANIFEST) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    if manifest is not None:
        (folder / "manifest.json").write_text(json.dumps(manifest))
    log = EventLog(folder / "events.jsonl")
    log.open()
    for event in events:
        log(event)
    log.close()
    return folder


def only(folder: Path, **options):
    (found,) = [run for run in known_runs([folder], **options) if run.run is None]
    return found


def files(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*")}


# -- of this process ------------------------------------------------------------------------------------------


def test_a_run_is_known_as_long_as_anybody_holds_it_by_its_name():
    run = optimize()
    (known,) = [found for found in known_runs(names={"mine": run}) if found.run is run]
    assert (known.name, known.status, known.score) == ("mine", "completed", run.score)
    assert (known.lm_calls, known.run_dir, known.versions) == (run.usage.lm_calls, None, ())
    run_id = run.plan.run_id
    del run, known
    gc.collect()
    assert run_id not in {found.run.plan.run_id for found in known_runs() if found.run}


def test_a_run_in_a_list_or_a_dictionary_is_called_by_its_place_there():
    run = optimize()
    for names, called in (
        ({"results": {"a": run}}, "results['a']"),
        ({"made": [0, run]}, "made[1]"),
        ({"_9": run, "Out": {9: run}}, "Out[9]"),
        ({"made": [run], "mine": run}, "mine"),
        ({"deep": {"a": {"b": run}}}, ""),
    ):
        assert [known.name for known in known_runs(names=names) if known.run is run] == [called]


def test_a_run_that_got_worse_says_so_and_is_not_offered_to_be_registered(tmp_path):
    worse = HeldOut(before=0.6, after=0.5, n=40, planned=40, verdict="worse")
    written(
        tmp_path / "a",
        Started("MIPROv2", 200),
        Progress(50, "on", _NUMBERS),
        Completed(score=1.0, duration_s=3.0, held_out=worse),
    )
    known = only(tmp_path)
    assert (known.score, known.held_out) == (1.0, worse)
    report = nb.runs(tmp_path).report()
    assert "held-out 60.0% → 50.0%, worse" in report
    assert "100.0%" not in report
    run = optimize()
    (mine,) = [found for found in nb.runs() if found.run is run]
    assert "register(" in what_to_do(mine)
    assert "register(" not in what_to_do(replace(mine, held_out=worse))


def test_where_there_are_many_runs_the_newest_are_shown(tmp_path):
    for number in range(60):
        written(tmp_path / f"{number:02}", Started("MIPROv2", 200), Progress(50, "on", _NUMBERS))
    run = optimize()
    listed = nb.runs()
    assert [known.run for known in listed if known.run is run] == [run]
    report = listed.report()
    assert "BootstrapFewShotWithRandomSearch" in report
    assert f"50 of {len(listed)} runs are shown" in report


def test_a_run_that_goes_on_can_be_watched_from_its_beginning_and_stopped():
    engine, going, go_on = ScriptedEngine(), threading.Event(), threading.Event()

    def wait(number: int) -> None:
        if number > 20:
            going.set()
            assert go_on.wait(HANG_S)

    engine.on_call = wait
    run = optimize(engine, background=True, options={"num_candidate_programs": 500})
    assert going.wait(HANG_S)
    known = next(found for found in nb.runs() if found.run is run)
    assert (known.status, known.optimizer) == ("running", "BootstrapFewShotWithRandomSearch")
    assert "going on" in nb.runs().report()
    assert f"%dspy_runs --attach {known.number}" in nb.runs().report()
    said = []
    run.watch(said.append)
    assert isinstance(said[0], Started)
    assert any(isinstance(event, CandidateScored) for event in said)
    with pytest.raises(nb.InputError, match="going on"):
        known.register("mine")
    with pytest.raises(nb.InputError, match="nothing to resume"):
        known.resume()
    known.stop()
    go_on.set()
    run.wait(HANG_S)
    assert isinstance(said[-1], Completed)
    assert next(found for found in nb.runs() if found.run is run).status == "stopped"
    with pytest.raises(nb.InputError, match="is over: it was stopped"):
        next(found for found in nb.runs() if found.run is run).stop()


def test_a_stopped_run_goes_on_without_paying_twice_and_is_registered(tmp_path):
    first = optimize(run_dir="runs/a", budget=nb.Budget(lm_calls=30))
    known = next(found for found in nb.runs() if found.run is first)
    assert known.status == "stopped"
    assert "stopped by the budget of 30 LM calls" in nb.runs().report()
    assert f"nb.runs()[{known.number}].resume()" in nb.runs().report()
    engine = ScriptedEngine()
    with dspy.context(lm=scripted_lm(engine)):
        whole = known.resume(budget=nb.Budget())
    assert whole.stopped_by is None
    assert whole.usage.cache_hits >= 25
    known = next(found for found in nb.runs() if found.run is whole)
    version = known.register("mine", notes="resumed")
    assert version.metadata["run_id"] == whole.plan.run_id
    found = {run.run: run for run in nb.runs()}
    assert found[whole].versions == ("mine@1.0.0",)
    assert found[first].versions == ()
    ids = whole.plan.run_id, first.plan.run_id
    del first, whole, known, found
    gc.collect()
    there = only(tmp_path)  # the directory knows it, whoever holds the run
    assert (there.status, there.versions) == ("completed", ("mine@1.0.0",))
    assert set(there.run_ids) == set(ids)


# -- of run directories -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("events", "state"),
    [
        ([], "has no log"),
        ([Started("MIPROv2", 200)], "ended without a word"),
        ([Started("MIPROv2", 200), Progress(50, "on", _NUMBERS)], "ended without a word"),
        ([Started("MIPROv2"), Completed(0.7, 3.0)], "completed"),
        ([Started("MIPROv2", 9, {"usd": 2}), Completed(0.7, 3.0, "usd")], "stopped by the budget of $2.00"),
        ([Started("MIPROv2"), Completed(0.7, 3.0, "interrupt")], "interrupted"),
        ([Started("MIPROv2"), Completed(0.7, 3.0, "usd")], "stopped by usd"),
        ([Started("MIPROv2"), Failed("no\nluck")], "failed: no luck"),
        ([Started("MIPROv2"), Failed("no luck"), Started("MIPROv2"), Completed(0.7, 3.0)], "completed"),
    ],
)
def test_a_directory_says_how_its_last_run_ended(tmp_path, events, state):
    written(tmp_path / "runs/a", *events)
    before = files(tmp_path)
    report = nb.runs().report()
    assert state in report
    assert "MIPROv2 · runs/a" in report
    assert files(tmp_path) == before


def test_a_directory_says_scores_and_calls(tmp_path):
    written(tmp_path / "a", Started("MIPROv2", 200), Progress(50, "on", _NUMBERS))
    known = only(tmp_path)
    assert (known.score, known.baseline_score, known.lm_calls) == (0.7, 0.4, 40)
    report = nb.runs().report()
    assert "search 40.0% → 70.0%" in report
    assert "nb.optimize(..., run_dir='a')" in report
    assert "goes on where that ended and pays for no answer twice" in " ".join(report.split())


def test_a_log_that_somebody_writes_goes_on_until_he_is_gone(tmp_path):
    written(tmp_path / "a", Started("MIPROv2", 200))
    log = EventLog(tmp_path / "a/events.jsonl")
    log.open()
    assert only(tmp_path).status == "running"
    with pytest.raises(nb.InputError, match="goes on in another process"):
        only(tmp_path).stop()
    log.close()
    assert only(tmp_path).status == "lost"


@pytest.mark.heavy
def test_a_run_whose_process_was_killed_is_lost(tmp_path):
    program = (
        "import os, signal\nfrom dspy_nb.core.event_log import EventLog\nfrom dspy_nb.core.events import Started\n"
        "log = EventLog('a/events.jsonl'); log.open(); log(Started('MIPROv2'))\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", program], check=False, env=environment)
    assert only(tmp_path).status == "lost"


_DAMAGE = {
    "manifest": lambda at: (at / "manifest.json").write_text("{"),
    "manifest of another tool": lambda at: (at / "manifest.json").write_text('{"name": "app"}'),
    "manifest that is a folder": lambda at: ((at / "manifest.json").unlink(), (at / "manifest.json").mkdir()),
    "log of something else": lambda at: (at / "events.jsonl").write_text("hello\nworld\n"),
    "event that is none": lambda at: (at / "events.jsonl").write_text(
        '{"event": "Started", "optimizer": 3}\n'
    ),
    "bytes": lambda at: (at / "events.jsonl").write_bytes(bytes(range(256)) + b"\n"),
    "pipe": lambda at: ((at / "events.jsonl").unlink(), os.mkfifo(at / "events.jsonl")),
    "deep": lambda at: (at / "manifest.json").write_text("[" * 100_000),
}


@pytest.mark.parametrize("damage", _DAMAGE)
def test_damage_is_said_and_harms_nobody(tmp_path, damage):
    at = written(tmp_path / "runs/a", Started("MIPROv2"), Completed(0.5, 1.0))
    _DAMAGE[damage](at)
    written(tmp_path / "runs/b", Started("GEPA"), Completed(0.5, 1.0))
    found = [run for run in known_runs([tmp_path]) if run.run is None]
    damaged, whole = sorted(found, key=lambda run: str(run.run_dir))
    assert damaged.status == "damaged"
    assert damaged.problem
    assert whole.status == "completed"
    assert "cannot be read: " in nb.runs("runs").report()


def test_a_torn_last_line_is_left_out(tmp_path):
    at = written(tmp_path / "a", Started("MIPROv2"), Completed(0.5, 1.0))
    with (at / "events.jsonl").open("a") as log:
        log.write('{"event": "Star')
    assert only(tmp_path).status == "completed"


def test_what_others_call_by_such_names_is_not_listed_unless_it_is_named(tmp_path):
    (tmp_path / "app").mkdir()
    (tmp_path / "app/manifest.json").write_text('{"name": "app"}')
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs/events.jsonl").write_text('{"kind": "click"}\n')
    assert [run for run in known_runs() if run.run_dir and tmp_path in run.run_dir.absolute().parents] == []
    assert "no run directory, and none below it" in nb.runs("app").report()


def test_a_folder_that_is_none_is_named_in_one_line():
    with pytest.raises(nb.InputError, match="there is no folder nowhere"):
        nb.runs("nowhere")


def test_hidden_and_deep_folders_are_left_out(tmp_path):
    for place in (".hidden/a", "cache/a", "1/2/3/4"):
        written(tmp_path / place, Started("MIPROv2"))
    written(tmp_path / "1/2/b", Started("MIPROv2"))
    assert [str(run.run_dir) for run in known_runs([tmp_path]) if run.run is None] == [
        str(tmp_path / "1/2/b")
    ]


def test_links_that_go_round_end(tmp_path):
    written(tmp_path / "a", Started("MIPROv2"))
    (tmp_path / "b").symlink_to(tmp_path)
    assert only(tmp_path).optimizer == "MIPROv2"


def test_markup_in_a_log_stays_text(tmp_path):
    evil = "<img src=x onerror=alert(1)>"
    written(tmp_path / "a", Started(evil), Failed(evil))
    shown = nb.runs().to_html()
    assert evil not in shown
    assert "&lt;img" in shown


def test_where_there_is_nothing_that_is_said(tmp_path):
    (tmp_path / "empty").mkdir()
    assert "no run directory" in nb.runs("empty").report()
