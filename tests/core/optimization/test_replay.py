"""A run directory: nothing is paid for twice, and it belongs to one run."""

import json
import os
import signal
from pathlib import Path

import dspy
import pytest

from dspy_nb.core.data.metrics import exact_match
from dspy_nb.core.errors import InputError
from dspy_nb.core.event_log import read_events
from dspy_nb.core.events import Completed
from dspy_nb.core.optimization.optimize import optimize
from dspy_nb.core.supervision.budget import Budget
from tests.children import Children
from tests.scripted import ScriptedEngine, classifier, reviews, scripted_lm

pytestmark = pytest.mark.heavy

ARGUMENTS = {
    "trainset": reviews(20, "train"),
    "valset": reviews(12, "val"),
    "testset": reviews(8, "test"),
    "metric": exact_match("sentiment"),
    "optimizer": "MIPROv2",
    "options": {"num_candidates": 3},
    "num_threads": 4,
}


def run_in(run_dir, engine=None, program=None, lm_options=None, **changes):
    lm = scripted_lm(engine or ScriptedEngine(), **(lm_options or {}))
    with dspy.context(lm=lm):
        return optimize(program or classifier(), run_dir=run_dir, **{**ARGUMENTS, **changes})


def keys(run):
    return [(candidate.prompt.key, candidate.score) for candidate in run.candidates]


@pytest.mark.parametrize(
    "name",
    ["COPRO", "GEPA", "BootstrapFewShotWithOptuna"]
    + [pytest.param(name, marks=pytest.mark.slow) for name in ("MIPROv2", "SIMBA")],  # as others here are
)
def test_a_second_run_pays_for_nothing_and_gives_the_same(tmp_path, name):
    options = {
        "MIPROv2": {"num_candidates": 3},
        "GEPA": {"max_metric_calls": 50},
        "COPRO": {"breadth": 3, "depth": 2},
        "SIMBA": {"bsize": 8, "max_steps": 2, "num_candidates": 3},
        "BootstrapFewShotWithOptuna": {"num_candidate_programs": 4},
    }[name]
    first = run_in(tmp_path, optimizer=name, options=options)
    engine = ScriptedEngine()
    second = run_in(tmp_path, engine, optimizer=name, options=options)
    assert engine.calls == 0
    assert second.usage.lm_calls == 0
    assert second.usage.cache_hits >= first.usage.lm_calls
    assert keys(second) == keys(first)
    assert (second.score, second.test_after.score) == (first.score, first.test_after.score)


def test_a_run_stopped_by_its_budget_goes_on_with_a_larger_one(tmp_path):
    whole = run_in(tmp_path / "whole")
    stopped = run_in(tmp_path / "parts", budget=Budget(lm_calls=60))
    assert stopped.stopped_by == "lm_calls"
    resumed = run_in(tmp_path / "parts")
    assert resumed.usage.lm_calls + stopped.usage.lm_calls == whole.usage.lm_calls
    assert keys(resumed) == keys(whole)


def test_the_users_own_cache_is_left_alone(tmp_path):
    engine = ScriptedEngine()
    before = dspy.cache
    run_in(tmp_path, engine)
    paid = engine.calls
    with dspy.context(lm=scripted_lm(engine, cache=True)):
        classifier()(review="train 0 is bad")
    assert engine.calls == paid + 1
    assert dspy.cache.disk_cache_dir == before.disk_cache_dir


def optimize_and_die(run_dir: Path, calls: Path, after: int) -> None:
    engine = ScriptedEngine()

    def on_call(number):
        with calls.open("a") as file:
            file.write("call\n")
        if number == after:
            os.kill(os.getpid(), signal.SIGKILL)

    engine.on_call = on_call
    run_in(run_dir, engine)


@pytest.mark.parametrize("after", [pytest.param(15, marks=pytest.mark.slow), 60])
def test_kill_9_in_the_middle_loses_at_most_the_calls_in_flight(tmp_path, children: Children, after):
    calls = tmp_path / "calls.txt"
    killed = children(optimize_and_die, tmp_path / "killed", calls, after)
    whole = run_in(tmp_path / "whole")
    assert killed.status == -signal.SIGKILL
    paid = len(calls.read_text().splitlines())
    engine = ScriptedEngine()
    resumed = run_in(tmp_path / "killed", engine)
    in_flight = ARGUMENTS["num_threads"]
    assert paid + engine.calls <= whole.usage.lm_calls + in_flight
    assert keys(resumed) == keys(whole)
    assert resumed.test_after.score == whole.test_after.score
    events = read_events(tmp_path / "killed" / "events.jsonl")
    assert isinstance(events[-1], Completed)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The directory of a run that is over; whoever is refused leaves it as it is."""
    folder = tmp_path_factory.mktemp("finished")
    run_in(folder)
    return folder


def other_metric(gold, pred, trace=None):
    return gold.sentiment == pred.sentiment


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"trainset": reviews(19, "train")}, "trainset changed"),
        ({"valset": reviews(12, "other")}, "valset changed"),
        ({"metric": other_metric}, "metric changed"),
        ({"metric": exact_match("sentiment", normalize=False)}, "metric changed"),
        ({"options": {"num_candidates": 4}}, "options changed"),
        ({"optimizer": "COPRO", "options": {}}, "optimizer, options changed"),
        ({"seed": 1}, "seed changed"),
        ({"program": dspy.Predict(dspy.Signature("review -> sentiment", "Judge."))}, "program changed"),
        ({"lm_options": {"temperature": 0.5}}, "models changed"),
        ({"lm_options": {"name": "scripted/other"}}, "models changed"),
    ],
)
def test_a_directory_of_another_run_is_refused_by_name_and_nothing_is_spent(finished, changes, named):
    engine = ScriptedEngine()
    with pytest.raises(InputError, match=f"belongs to another run: {named}"):
        run_in(finished, engine, **changes)
    assert engine.calls == 0


def test_budget_and_threads_may_change(tmp_path):
    run_in(tmp_path)
    again = run_in(tmp_path, num_threads=2, budget=Budget(seconds=600))
    assert again.usage.lm_calls == 0


def test_a_damaged_manifest_is_refused(tmp_path):
    run_in(tmp_path)
    manifest = tmp_path / "manifest.json"
    manifest.write_text(manifest.read_text()[:50])
    with pytest.raises(InputError, match=r"manifest\.json is damaged; use a new run_dir"):
        run_in(tmp_path)


def test_a_directory_that_cannot_be_written_is_refused_before_anything_is_spent(tmp_path):
    (tmp_path / "file").write_text("not a directory")
    engine = ScriptedEngine()
    with pytest.raises(InputError, match="run_dir"):
        run_in(tmp_path / "file" / "run", engine)
    assert engine.calls == 0


def test_no_secret_is_written_to_the_manifest(tmp_path):
    from dspy_nb.core.optimization.replay import describe_lm

    lm = dspy.LM("openai/gpt-4o-mini", api_key="sk-secret", temperature=0.3)
    assert "sk-secret" not in json.dumps(describe_lm(lm))
    assert describe_lm(lm)["parameters"]["temperature"] == "0.3"
