"""An online experiment: who gets which program, and what is recorded."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import dspy
import pytest

import dspy_nb as nb
from dspy_nb.core.ab.experiment import Experiment
from dspy_nb.core.errors import InputError, NotFound, Refused
from dspy_nb.core.statistics.assignment import place_of
from tests.core.ab.test_assignment import Clock, assign_many
from tests.registry_samples import program
from tests.scripted import ScriptedEngine, classifier, scripted_lm


def a(x: str) -> str:
    return f"a {x}"


def b(x: str) -> str:
    return f"b {x}"


def begin(folder: Path, **options) -> Experiment:
    return Experiment("t", a, b, registry=folder, **{"split": 0.5, **options})


@pytest.fixture
def experiment(tmp_path: Path) -> Experiment:
    return begin(tmp_path)


def test_a_unit_is_answered_by_the_same_program_each_time(experiment: Experiment) -> None:
    answers = {unit: experiment.predict(unit, x="?")[0] for unit in map(str, range(60))}
    assert set(answers.values()) == {"a ?", "b ?"}
    experiment.set_split(0.99)
    assert {unit: experiment.predict(unit, x="?")[0] for unit in answers} == answers
    assert experiment.split == 0.99
    status = experiment.status()
    assert (status.total, status.a.units + status.b.units) == (120, 60)


def test_raising_the_split_moves_new_units_only_and_lowers_nobody() -> None:
    places = [place_of("salt", f"user-{i}") for i in range(2000)]
    assert 0 <= min(places) < max(places) < 1
    assert sum(place < 0.1 for place in places) == pytest.approx(200, abs=60)
    assert places != [place_of("another", f"user-{i}") for i in range(2000)]


def test_each_event_keeps_the_split_of_the_units_first_request(experiment: Experiment) -> None:
    experiment.predict("early", x="?")
    experiment.set_split(0.9)
    experiment.predict("early", x="?")
    experiment.predict("late", x="?")
    experiment.status()
    assert experiment._watch._columns.share.tolist() == [0.5, 0.5, 0.9]


def test_failures_have_no_latency(tmp_path: Path) -> None:
    def broken(x: str) -> str:
        raise TimeoutError("too slow")

    experiment = Experiment("t", broken, broken, registry=tmp_path)
    with pytest.raises(TimeoutError, match="too slow"):
        experiment.predict("u", x="?")
    status = experiment.status()
    assert (status.n, status.a.errors + status.b.errors, status.a.successes) == (1, 1, 0)
    assert status.a.latency is status.b.latency is None


def test_both_programs_must_take_the_inputs(tmp_path: Path) -> None:
    experiment = Experiment("t", a, classifier(), registry=tmp_path)
    for inputs in ({"x": "?"}, {"review": "good"}):
        with (
            dspy.context(lm=scripted_lm()),
            pytest.raises(InputError, match=r"the program (does not take|needs)"),
        ):
            experiment.predict("u", **inputs)
    assert experiment.status().total == 0


def test_an_interrupt_is_no_failure_of_the_program(tmp_path: Path) -> None:
    def interrupted(x: str) -> str:
        raise KeyboardInterrupt

    experiment = Experiment("t", interrupted, interrupted, registry=tmp_path)
    with pytest.raises(KeyboardInterrupt):
        experiment.predict("u", x="?")
    status = experiment.status()
    assert (status.total, status.n, status.a.errors + status.b.errors) == (1, 0, 0)
    assert status.a.waiting + status.b.waiting == 1


def test_a_retry_under_the_same_id_is_answered_and_not_counted_again(experiment: Experiment) -> None:
    assert experiment.predict("u", x="?", request_id="r") == experiment.predict("u", x="?", request_id="r")
    experiment.record("r", success=True)
    assert experiment.predict("u", x="?", request_id="r")[1] == "r"
    assert experiment.status().total == 1
    with pytest.raises(InputError, match="one of unit 'u'"):
        experiment.predict("v", x="?", request_id="r")


def test_another_process_goes_on_with_the_name_alone(experiment: Experiment, tmp_path: Path) -> None:
    _, request_id = experiment.predict("u", x="?")
    other = Experiment.open("t", registry=tmp_path)
    assert other.definition == experiment.definition
    other.record(request_id, success=True)
    assert other.status() == experiment.status()
    with pytest.raises(InputError, match="'a' is no version in the registry: give the programs"):
        other.predict("u", x="?")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"margin": 0.1}, "margin is 0.0, not 0.1"),
        ({"confidence": 0.9}, "confidence is 0.95, not 0.9"),
        ({"min_samples": 5}, "min_samples is 100, not 5"),
        ({"split": 0.3}, r"split is 0.5, not 0.3.*set_split\(\) changes the split"),
        ({"salt": "x"}, "salt is 't', not 'x'"),
        ({"outcome_within_s": 5}, "outcome_within_s is 86400.0, not 5.0"),
        ({"missing": 1}, "missing is 0.0, not 1.0"),
        ({"names": ("a", "c")}, "b is 'b', not 'c'"),
    ],
)
def test_another_definition_under_the_same_name_is_refused(
    experiment: Experiment, tmp_path: Path, options: dict[str, object], message: str
) -> None:
    with pytest.raises(Refused, match=f"experiment 't' exists, and differs: {message}"):
        begin(tmp_path, **options)


def test_other_prompts_under_the_same_name_are_refused(tmp_path: Path) -> None:
    Experiment("t", program("one"), program("two"), registry=tmp_path)
    Experiment("t", program("one"), program("two"), registry=tmp_path)
    with pytest.raises(Refused, match=r"b is another 'Predict \(B\)', with other prompts or demos"):
        Experiment("t", program("one"), program("three"), registry=tmp_path)


def test_a_reference_keeps_the_meaning_that_it_had_at_the_beginning(tmp_path: Path) -> None:
    registry = nb.Registry(tmp_path)
    registry.register(program("one"), "m")
    first = Experiment("t", "m", "m@latest", registry=registry)
    registry.register(program("two"), "m")
    again = Experiment("t", "m", "m@latest", registry=registry)
    assert again.definition.b == first.definition.b == "m@1.0.0"
    with pytest.raises(Refused, match=r"b is .*, not"):
        Experiment("t", "m", "m@1.1.0", registry=registry)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": 0}, "split must be"),
        ({"split": 1}, "split must be"),
        ({"confidence": 95}, "confidence must be"),
        ({"margin": -1}, "margin must be"),
        ({"min_samples": 0}, "min_samples must be"),
        ({"outcome_within_s": 0}, "outcome_within_s must be"),
        ({"missing": 2}, "missing must be"),
        ({"names": ("a", "m@1.0.0")}, "names must be"),
        ({"names": ("a", 5)}, "names must be"),
        ({"names": "ab"}, "names must be"),
        ({"b": None}, "give both programs"),
        ({"b": 7}, "b must be a dspy.Module, a function or a reference"),
        ({"name": "../x"}, "experiment '../x' is not valid"),
    ],
)
def test_bad_arguments_are_one_line_and_write_nothing(
    tmp_path: Path, options: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        Experiment(**{"name": "t", "a": a, "b": b, "registry": tmp_path, **options})
    assert not list(tmp_path.rglob("*.sqlite3*"))


def test_an_experiment_that_does_not_exist_says_which_do(experiment: Experiment, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"no experiment 'other' .*\(known: t\)"):
        Experiment("other", registry=tmp_path)
    with pytest.raises(NotFound):
        Experiment("u", a="nobody@1.0.0", b="nobody@1.1.0", registry=tmp_path)


def test_a_process_that_was_killed_while_it_began_one_leaves_nothing_half_done(tmp_path: Path) -> None:
    begun = begin(tmp_path, split=0.3)
    with begun._traffic.file.writing() as connection:
        connection.execute("DELETE FROM splits")
    assert Experiment("t", a, b, registry=tmp_path).split == 0.3


def test_an_outcome_in_the_order_of_assignment_is_held_back_by_an_open_one(experiment: Experiment) -> None:
    ids = [experiment.predict(str(i), x="?")[1] for i in range(3)]
    experiment.record(ids[2], success=True)
    experiment.record(ids[0], value=1.0)
    assert (experiment.status().n, experiment.status().held_back) == (1, 1)
    experiment.record(ids[1], success=False)
    assert (experiment.status().n, experiment.status().held_back) == (3, 0)


def test_apredict_does_the_same_and_units_stay(experiment: Experiment) -> None:
    async def ask() -> list[str]:
        answers = await asyncio.gather(*(experiment.apredict(str(i % 5), x="?") for i in range(20)))
        return [answer for answer, _ in answers]

    answers = asyncio.run(ask())
    assert answers == [experiment.predict(str(i % 5), x="?")[0] for i in range(20)]
    assert experiment.status().total == 40


def test_cache_hits_are_known_and_left_out_of_the_latency(tmp_path: Path) -> None:
    experiment = Experiment("t", classifier(), classifier(), registry=tmp_path)
    with dspy.context(lm=scripted_lm(ScriptedEngine(), "scripted/experiment", cache=True)):
        for unit in map(str, range(6)):
            prediction, _ = experiment.predict(unit, review="a good one, in an experiment")
    assert prediction.sentiment in ("positive", "negative")
    status = experiment.status()
    assert status.a.cached + status.b.cached == 5
    assert sum(arm.latency.n for arm in (status.a, status.b) if arm.latency) == 1


def test_versions_of_the_registry_are_served(tmp_path: Path) -> None:
    registry = nb.Registry(tmp_path)
    registry.register(program("one"), "m")
    registry.register(program("two"), "m")
    experiment = Experiment("t", "m@1.0.0", "m@1.1.0", split=0.5, registry=tmp_path)
    engine = ScriptedEngine()
    with dspy.context(lm=scripted_lm(engine)):
        for unit in map(str, range(10)):
            experiment.predict(unit, review="good")
    status = Experiment("t", registry=tmp_path).status()
    assert (status.a.name, status.b.name) == ("m@1.0.0", "m@1.1.0")
    assert engine.calls == status.total == 10


def test_two_models_of_one_name_never_share_answers(tmp_path: Path) -> None:
    engines = ScriptedEngine(), ScriptedEngine()
    programs = []
    for engine in engines:
        programs.append(classifier())
        programs[-1].set_lm(scripted_lm(engine, "scripted/one-name", cache=True))
    experiment = Experiment("t", *programs, split=0.5, registry=tmp_path)
    for unit in map(str, range(20)):
        experiment.predict(unit, review="the same")
    status = experiment.status()
    assert [engine.calls for engine in engines] == [status.a.requests, status.b.requests]


@pytest.mark.parametrize("outcomes", [["r"], [("r", 1, 2)], [5], None, [("r", 1), "r"]])
def test_outcomes_that_are_no_pairs_are_refused_and_none_is_recorded(
    experiment: Experiment, outcomes: Any
) -> None:
    experiment.predict("u", x="?", request_id="r")
    with pytest.raises(InputError, match="outcomes must be pairs"):
        experiment.record_many(outcomes)
    assert experiment.status().n == 0


def settle(experiment: Experiment, n: int = 400) -> None:
    for i in range(n):
        answer, request_id = experiment.predict(f"unit {i}", x="?")
        experiment.record(request_id, success=answer == "b ?" or i % 3 == 0)


def test_a_conclusion_ends_it_and_the_winner_is_served(experiment: Experiment, tmp_path: Path) -> None:
    settle(experiment)
    before = experiment.status()
    assert before.verdict == "B better"
    running = Experiment("t", a, b, registry=tmp_path)
    ended = experiment.conclude("it is better")
    assert ended.conclusion is not None
    assert (ended.conclusion.winner, ended.conclusion.n, ended.conclusion.forced) == ("b", before.n, False)
    for process in (experiment, running):
        assert process.predict("unit 0", x="!") == process.predict("unit 1", x="!") == ("b !", None)
        assert asyncio.run(process.apredict("unit 1", x="!")) == ("b !", None)
        process.record(None, success=True)
        with pytest.raises(Refused, match="t is concluded and serves b alone"):
            process.set_split(0.9)
    assert experiment.conclude() == ended == running.status()
    assert ended.total == before.total


def test_without_a_verdict_it_is_concluded_by_force_only_and_a_stays(experiment: Experiment) -> None:
    with pytest.raises(Refused, match=r"t cannot be concluded: no verdict after 0 units \(force=True"):
        experiment.conclude()
    with pytest.raises(InputError, match="force=True needs a reason"):
        experiment.conclude(force=True)
    for wrong in ({"reason": 5}, {"reason": "out of time", "by": 5}):
        with pytest.raises(InputError, match="must be text, not a int"):
            experiment.conclude(force=True, **wrong)
    assert experiment.conclusion is None
    ended = experiment.conclude("out of time", force=True)
    assert ended.conclusion is not None
    assert (ended.conclusion.winner, ended.conclusion.forced) == ("a", True)
    assert ended.conclusion.evidence.passed is False
    assert experiment.predict("u", x="?") == ("a ?", None)


def versions(folder: Path) -> nb.Registry:
    registry = nb.Registry(folder)
    registry.register(program("one"), "m")
    registry.register(program("two"), "m")
    return registry


def test_the_verdict_is_evidence_that_a_promotion_accepts(tmp_path: Path) -> None:
    registry = versions(tmp_path)
    experiment = Experiment("t", "m@1.0.0", "m@1.1.0", split=0.5, registry=registry)
    made = assign_many(experiment._traffic, [(f"u{i}", place_of("t", f"u{i}")) for i in range(400)])
    experiment.record_many([(one.request_id, one.is_b) for one in made])
    experiment.conclude("B it is")
    assert experiment.conclude().conclusion is not None
    assert str(registry.history("m")).count("B better") == 1
    registry.promote("m@1.1.0", "staging")
    assert registry.promote("m@1.1.0", "production").stage == "production"


def test_a_forced_conclusion_does_not_pass(tmp_path: Path) -> None:
    registry = versions(tmp_path)
    experiment = Experiment("t", "m@1.0.0", "m@1.1.0", registry=registry)
    experiment.conclude("enough", force=True)
    registry.promote("m@1.1.0", "staging")
    with pytest.raises(Refused, match="production needs"):
        registry.promote("m@1.1.0", "production")


@pytest.mark.parametrize("written", [False, True])
def test_evidence_of_a_process_that_was_killed_is_written_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: bool
) -> None:
    registry = versions(tmp_path)
    experiment = Experiment("t", "m@1.0.0", "m@1.1.0", registry=registry)
    attach = registry.attach

    def killed(*args: Any, **kwargs: Any) -> None:
        if written:
            attach(*args, **kwargs)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(registry, "attach", killed)
        with pytest.raises(KeyboardInterrupt):
            experiment.conclude("enough", force=True)
    again = Experiment("t", registry=registry)
    again.conclude()
    again.conclude()
    assert [line.action for line in registry.history("m")] == ["register", "register", "attach"]


def test_an_outcome_that_never_comes_does_not_hold_up_the_others_for_ever(tmp_path: Path) -> None:
    clock = Clock()
    experiment = begin(tmp_path, outcome_within_s=60, clock=clock)
    ids = [experiment.predict(str(i), x="?")[1] for i in range(3)]
    for request_id in ids[1:]:
        experiment.record(request_id, success=True)
    assert (experiment.status().n, experiment.status().held_back) == (0, 2)
    clock.now += 61
    status = experiment.status()
    assert (status.n, status.held_back, status.a.expired + status.b.expired) == (3, 0, 1)
    assert status.a.successes + status.b.successes == 2
    assert "did not come in time" in " ".join(status.warnings)
    experiment.record(ids[0], success=True)  # too late: kept, and not counted
    assert experiment.status() == Experiment("t", registry=tmp_path, clock=clock).status() == status
