"""A sweep: its grid, its budget, its race, what a failure or a kill leaves, and what it says in the end."""

import os
import random
import shutil
import threading
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import dspy
import pytest

from dspy_nb.core.data.metrics import exact_match
from dspy_nb.core.errors import InputError, NotFound, OptimizationFailed
from dspy_nb.core.event_log import read_events
from dspy_nb.core.evidence import SweepEvidence, accept_evidence, read_evidence
from dspy_nb.core.optimization.task import Task
from dspy_nb.core.registry.registry import Registry
from dspy_nb.core.supervision.budget import Budget
from dspy_nb.core.sweep import race
from dspy_nb.core.sweep.result import SweepResult
from dspy_nb.core.sweep.sweep import sweep
from dspy_nb.core.sweep_events import CellEnded, CellStarted, SweepEnded, SweepStarted
from tests.children import Children
from tests.moments import HANG_S, interrupting
from tests.scripted import ScriptedEngine, classifier, reviews, scripted_lm

pytestmark = pytest.mark.heavy

DATA = {"trainset": reviews(8, "train"), "valset": reviews(8, "val"), "testset": reviews(12, "test")}
GIVEN = {**DATA, "metric": exact_match("sentiment"), "num_threads": 1}
OPTIMIZERS = ["BootstrapFewShot", "BootstrapFewShotWithRandomSearch", "LabeledFewShot"]
QUICK = ["BootstrapFewShot", "LabeledFewShot"]  # around a hundred calls on two models
BUDGET = Budget(lm_calls=250)


def models(engine=None):
    engine = engine or ScriptedEngine()
    return [scripted_lm(engine, "scripted/big"), scripted_lm(engine, "scripted/small")]


def grid(engine=None, seeds=(0, 1)):
    return {"optimizer": OPTIMIZERS, "lm": models(engine), "seed": list(seeds)}


def run(over, engine=None, **changes):
    return sweep(classifier(), over=over, **{**GIVEN, **changes})


@dataclass
class Swept:
    """A sweep with a directory, and what was heard of it."""

    folder: Path
    engine: ScriptedEngine = field(default_factory=ScriptedEngine)
    heard: list = field(default_factory=list)

    def __post_init__(self):
        self.found = run(
            grid(self.engine, [0]), budget=BUDGET, run_dir=self.folder, on_event=self.heard.append
        )


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """Of three optimizers on two models, with few calls left for each; several tests look at it."""
    return Swept(tmp_path_factory.mktemp("sweep"))


def table(result):
    """What must be the same after a kill: everything but the time it took."""
    facts = result.to_dict()
    for name in ("duration_s", "replayed"):
        del facts[name]
    for cell in facts["cells"]:
        if cell["final"] is not None:
            del cell["final"]["latency_ms"]
    return facts


# -- the grid ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("over", "changes", "message"),
    [
        ({}, {}, "over must be a dict of what varies"),
        ({"model": ["a/b"]}, {}, "there is no axis 'model'; valid: optimizer, preset, options, lm, seed"),
        ({"optimizer": []}, {}, "optimizer is an empty list"),
        ({"optimizer": "COPRO"}, {}, "optimizer must be a list of values"),
        ({"optimizer": ["Copra"]}, {}, "Copra"),
        ({"optimizer": ["COPRO", "COPRO"]}, {}, "optimizer has 'COPRO' twice"),
        ({"optimizer": ["COPRO", "copro"]}, {}, "COPRO is there twice"),
        ({"optimizer": ["Ensemble"]}, {}, "Ensemble"),
        ({"optimizer": ["COPRO"], "options": [{"depht": 1}]}, {}, "depht"),
        ({"options": [3]}, {}, "options must be a list of dicts, got 3 in it"),
        ({"optimizer": ["COPRO"], "seed": [-1]}, {}, "seed must be a whole number"),
        ({"seed": [0, 1]}, {}, "a seed changes nothing where nothing is optimized"),
        ({"lm": ["gpt-4o"]}, {}, "lm must be a list of dspy.LM or of names"),
        ({"lm": [3]}, {}, "lm must be a list of dspy.LM or of names"),
        ({"optimizer": ["COPRO"]}, {"valset": None}, "a sweep needs a valset"),
        ({"optimizer": ["COPRO"]}, {"testset": None}, "a sweep needs a testset"),
        ({"optimizer": ["COPRO"]}, {"metric": None}, "a sweep needs a metric"),
        ({"optimizer": ["COPRO"]}, {"budget": Budget(lm_calls=40)}, "a budget of 40 LM calls is too small"),
        ({"optimizer": ["COPRO"]}, {"budget": 50}, "budget must be a dspy_nb.Budget"),
        ({"optimizer": ["COPRO"]}, {"race": "fast"}, "race must be 'auto', 'halving' or None"),
        ({"optimizer": ["COPRO"]}, {"prices": {"a": 3}}, "prices must be a dict"),
        ({"optimizer": ["COPRO"]}, {"prices": {"a/b": (1, 2)}}, "prices: no model of this sweep is a/b"),
        ({"optimizer": ["COPRO"]}, {"optimizer": "MIPROv2"}, "optimizer is given twice: in over, and as"),
        (
            {"optimizer": ["COPRO"]},
            {"testset": reviews(9, "val")},
            "8 of the 9 examples of the testset are in",
        ),
        ({"optimizer": ["COPRO"]}, {"finalists": 0}, "finalists must be a whole number of at least 1"),
    ],
)
def test_what_is_wrong_is_said_in_one_line_before_anything_is_spent(over, changes, message):
    engine = ScriptedEngine()
    with dspy.context(lm=scripted_lm(engine)), pytest.raises(InputError) as caught:
        run(over, **changes)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert engine.calls == 0


def test_a_model_given_twice_is_refused_and_two_of_one_name_are_told_apart():
    engine = ScriptedEngine()
    twice = [scripted_lm(engine), scripted_lm(engine)]
    with pytest.raises(InputError, match="is given twice"):
        run({"lm": twice})
    warm = [scripted_lm(engine), scripted_lm(engine, temperature=1.0), scripted_lm(ScriptedEngine())]
    names = [cell.name for cell in run({"lm": warm})]
    assert len(set(names)) == 3
    assert "scripted/model (temperature=1.0)" in names


# -- models alone -----------------------------------------------------------------------------------------------


class Fooled(ScriptedEngine):
    """Is wrong where the scripted model is right: a worse model."""

    def complete(self, request):
        response = super().complete(request)
        part = response.message.parts[0]
        text = part.text.replace("positive", "x").replace("negative", "positive").replace("x", "negative")
        return dspy.lm15.Response(
            id=response.id, model=response.model, message=dspy.lm15.Message.assistant(text),
            finish_reason="stop", usage=response.usage,
        )  # fmt: skip


def test_a_program_on_several_models_answers_whether_the_cheaper_one_will_do():
    big, small, worse = ScriptedEngine(), ScriptedEngine(), Fooled()
    lms = [scripted_lm(big, "s/big"), scripted_lm(small, "s/small"), scripted_lm(worse, "s/worse")]
    found = sweep(
        classifier(), over={"lm": lms}, testset=reviews(60, "test"), metric=GIVEN["metric"], num_threads=4,
        prices={"s/big": (10.0, 10.0), "s/small": (1.0, 1.0), "s/worse": (0.1, 0.1)},
    )  # fmt: skip
    assert (big.calls, small.calls, worse.calls) == (60, 60, 60)
    assert found.best.name == "s/big"
    assert found.cheapest().name == "s/big"
    assert found.cheapest(0.1).name == "s/small"
    assert found.cheapest(1.0).name == "s/worse"
    assert found.pareto()[0].name == "s/worse"
    assert found["s/big"].final.usd_per_call == pytest.approx(15 * 10 / 1e6)
    assert found["s/small"].final.difference == 0
    assert found["s/big"].final.prompt_characters > 100
    with pytest.raises(NotFound, match="no evidence"):
        found.to_evidence()


def test_two_models_of_one_name_do_not_get_each_others_answers():
    right, wrong = ScriptedEngine(), Fooled()
    lms = [scripted_lm(right), scripted_lm(wrong)]
    found = sweep(classifier(), over={"lm": lms}, testset=reviews(40, "t"), metric=GIVEN["metric"])
    assert right.calls == wrong.calls == 40
    assert found.cells[0].final.score == 1 - found.cells[1].final.score


def test_costs_that_are_not_known_are_not_guessed():
    found = sweep(classifier(), over={"lm": models()}, testset=DATA["testset"], metric=GIVEN["metric"])
    assert found.best.final.usd_per_call is None
    assert found.cost == "tokens"
    assert found.best.final.tokens_per_call == 15


# -- the budget and the race ------------------------------------------------------------------------------------


def test_the_budget_is_held_to_the_call_over_all_cells(swept):
    assert swept.engine.calls == swept.found.usage.lm_calls <= BUDGET.lm_calls
    assert swept.found.rungs == (6, 3)


@pytest.mark.parametrize(
    ("seeds", "limit", "rungs"),
    [([0], 180, (6, 3)), pytest.param([0, 1], 360, (12, 6, 3), marks=pytest.mark.slow)],
)
def test_the_budget_is_held_to_the_call_with_threads_too(seeds, limit, rungs):
    engine = ScriptedEngine()
    found = run(grid(engine, seeds), budget=Budget(lm_calls=limit), num_threads=8)
    assert engine.calls == found.usage.lm_calls <= limit
    assert found.finalists
    assert sum(cell.usage.lm_calls for cell in found) <= limit
    assert found.rungs == rungs
    assert Counter(cell.status for cell in found)["dropped"] == rungs[0] - rungs[-1]


def test_a_race_takes_fewer_calls_than_all_cells_to_their_end():
    racing, whole = ScriptedEngine(), ScriptedEngine()
    optimizer = {"optimizer": "BootstrapFewShotWithRandomSearch"}
    options = [{"max_bootstrapped_demos": n, "num_candidate_programs": 6} for n in (1, 2, 3, 4)]
    for engine, race_ in ((racing, "halving"), (whole, None)):
        over = {"options": options, "lm": models(engine)[:1]}
        found = run(over, **optimizer, finalists=1, race=race_)
    assert racing.calls < whole.calls  # though cells that are so alike share most answers
    assert all(cell.reason == "completed" for cell in found if cell.number)


def test_what_one_cell_has_asked_is_free_for_the_others():
    engine = ScriptedEngine()
    found = run({"optimizer": [None, "BootstrapFewShot"], "seed": [0, 1]} | {"lm": models(engine)[:1]})
    assert [cell.name for cell in found] == [
        "as given", "BootstrapFewShot · seed 0", "BootstrapFewShot · seed 1"
    ]  # fmt: skip
    assert found.given == "as given"
    assert found[3].usage.lm_calls == 0
    assert found[3].usage.cache_hits
    assert found[3].like == found[2].name


def test_the_program_as_given_is_compared_though_its_cell_was_dropped():
    over = {
        "optimizer": [None, "BootstrapFewShot"],
        "options": [{"max_bootstrapped_demos": n} for n in (1, 2, 3)],
    }
    sets = {"valset": reviews(20, "val"), "testset": reviews(40, "test")}
    found = run({**over, "lm": models()[:1]}, **sets, finalists=1)
    assert len(found) == 4
    given = found["as given"]
    assert (given.status, given.final.verdict) == ("dropped", "worse")
    assert found.given == "as given"
    assert found.evidence.verdict == "B better"


def test_the_best_on_each_model_goes_on():
    scores, lms = [0.9, 0.8, 0.7, 0.2], ["a", "a", "a", "b"]
    assert race.going_on(scores, lms, [False] * 4, 2, 2) == [0, 3]
    assert race.going_on(scores, lms, [False, True, True, True], 4, 2) == [0, 3]
    assert race.going_on([None, 0.1], ["a", "b"], [False, False], 2, 2) == [1]
    assert race.rungs(12, 3) == [12, 6, 3]
    assert race.rungs(2, 3) == [2]


def test_the_finalists_are_registered_with_their_model_and_their_score_on_the_testset(tmp_path):
    found = run({"optimizer": ["BootstrapFewShot"], "lm": models()})
    version = Registry(tmp_path).register(found.best.run, "sentiment")
    assert version.metadata["base_model"] == found.best.settings["lm"]
    assert version.metadata["test"]["score"] == found.best.final.score
    again = Registry(tmp_path).register(found.best, "sentiment")
    assert again.metadata["sweep"]["cell"] == found.best.name
    assert found.best.program(review="test 3 is good", lm=models()[0]).sentiment == "positive"


def test_a_sweep_is_evidence_for_its_best_cell(tmp_path):
    over = {"optimizer": ["BootstrapFewShot"], "lm": models()[:1]}
    found = run(over, testset=reviews(60, "t"))
    evidence = found.to_evidence()
    assert (evidence.verdict, evidence.is_yes) == ("B better", True)
    assert evidence.effect > 0.2
    assert evidence.interval[0] > 0
    assert isinstance(accept_evidence(found), SweepEvidence)
    assert read_evidence(evidence.to_dict()) == evidence
    registry = Registry(tmp_path)
    version = registry.register(found.best, "sentiment")
    registry.promote(version.ref, "staging", evidence=found)


def test_a_task_brings_its_own_arguments():
    task = Task(
        classifier(), **DATA, metric=GIVEN["metric"], optimizer="COPRO", options={"depth": 1, "breadth": 2}
    )
    found = sweep(task, over={"lm": models()})
    assert all(cell.run.plan.optimizer == "COPRO" for cell in found if cell.number)
    with pytest.raises(InputError, match="a task has its own seed"):
        sweep(task, over={"lm": models()}, seed=1)


def test_a_result_is_read_again(swept, tmp_path):
    found = swept.found
    loaded = SweepResult.load(found.save(tmp_path / "sweep.json"))
    assert loaded.to_dict() == found.to_dict()
    assert loaded.cheapest().name == found.cheapest().name
    with pytest.raises(InputError, match="no program to register"):
        loaded.best.registration()
    (tmp_path / "other.json").write_text('{"schema_version": 99}')
    with pytest.raises(InputError, match="newer"):
        SweepResult.load(tmp_path / "other.json")
    assert list(found.to_frame()["cell"]) == [cell.name for cell in found]


# -- ends -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [20, 60])
def test_an_interrupt_ends_all_of_it_and_keeps_what_there_is(at):
    engine = ScriptedEngine()
    with interrupting(at) as engine.on_call, pytest.warns(UserWarning, match="ended before the finalists"):
        found = run({"optimizer": QUICK, "lm": models(engine)}, num_threads=2)
    assert found.stopped_by == "interrupt"
    assert engine.calls <= at + 2
    assert found.best.program is not None
    assert {cell.status for cell in found} - {"waiting", "done", "dropped"} == set()


class Down(ScriptedEngine):
    """Is out of order."""

    def complete(self, request):
        super().complete(request)
        raise dspy.LMError("the model is down")


def test_a_cell_that_fails_is_a_row_with_its_reason():
    lms = [scripted_lm(ScriptedEngine(), "s/up"), scripted_lm(Down(), "s/down", num_retries=0)]
    found = run({"optimizer": QUICK, "lm": lms})
    failed = [cell for cell in found if cell.status == "failed"]
    assert {cell.settings["lm"] for cell in failed} == {"s/down"}
    assert all("the model is down" in cell.reason for cell in failed)
    assert found.best.settings["lm"] == "s/up"
    with pytest.raises(OptimizationFailed, match="the model is down"):
        run({"optimizer": ["COPRO"], "lm": lms[1:]})


def test_a_model_that_never_answers_is_told_and_is_no_best():
    lms = [scripted_lm(Down(), "s/down", num_retries=0), scripted_lm(ScriptedEngine(), "s/up")]
    with pytest.warns(UserWarning, match=r"s/down: 12 of 12 answers failed \(.*the model is down"):
        found = run({"lm": lms})
    assert found.best.name == "s/up"
    assert {row[0].error.kind for row in found.examples(flips="fixed").rows} == {"LMError"}
    with pytest.raises(
        OptimizationFailed, match=r"no finalist answered any test example: .*the model is down"
    ):
        run({"lm": lms[:1]})


def test_a_stop_keeps_what_there_is_and_says_so():
    stop, events = threading.Event(), []

    def hear(event):
        events.append(event)
        if isinstance(event, CellEnded) and sum(isinstance(one, CellEnded) for one in events) == 2:
            stop.set()

    with pytest.warns(UserWarning, match="not known: it ended before the finalists were compared"):
        found = run(grid(), on_event=hear, stop=stop)
    assert found.stopped_by == "stop"
    assert [cell.status for cell in found][:2] == ["done", "done"]
    assert {cell.status for cell in found.cells[2:]} == {"waiting"}
    assert found.best.program is not None
    assert found.finalists == ()
    with pytest.raises(NotFound, match="not compared"):
        found.cheapest()


def test_a_cell_that_hangs_uses_up_its_own_share_of_the_time_and_leaves_the_others_whole():
    answer = threading.Event()
    hanging = ScriptedEngine()
    hanging.on_call = lambda number: number > 12 and answer.wait(HANG_S)
    lms = [scripted_lm(ScriptedEngine(), "s/fast"), scripted_lm(hanging, "s/hangs")]
    with pytest.warns(UserWarning, match="not returned|not known"):
        found = run({"optimizer": ["BootstrapFewShot"], "lm": lms}, budget=Budget(seconds=6, grace=0.1))
    answer.set()
    assert "time" in found["BootstrapFewShot · s/hangs"].reason
    assert found["BootstrapFewShot · s/fast"].reason == "completed"
    assert found["BootstrapFewShot · s/fast"].validation_score == 1


def test_everything_that_happens_is_told_and_kept(swept):
    kinds = [type(event) for event in swept.heard]
    assert kinds[0] is SweepStarted
    assert kinds[-1] is SweepEnded
    assert kinds.count(CellStarted) == sum(cell.rung for cell in swept.found) + 1
    assert [type(event) for event in read_events(swept.folder / "events.jsonl")] == kinds
    assert SweepResult.load(swept.folder / "result.json").to_dict() == swept.found.to_dict()


# -- going on ---------------------------------------------------------------------------------------------------


def test_a_sweep_that_is_repeated_pays_for_nothing_and_gives_the_same_table(swept, tmp_path):
    engine = ScriptedEngine()
    folder = shutil.copytree(swept.folder, tmp_path / "copy")
    again = run(grid(engine, [0]), budget=BUDGET, run_dir=folder)
    assert engine.calls == 0
    assert again.replayed == swept.found.usage.lm_calls
    assert table(again) == table(swept.found)
    assert again.best.final.latency_ms == swept.found.best.final.latency_ms
    with pytest.raises(InputError, match=r"belongs to another run: .*changed"):
        run(grid(seeds=[0, 2]), run_dir=folder)


def sweep_and_die(folder: Path, calls: Path, after: int, over: dict) -> None:
    engine = ScriptedEngine()

    def on_call(number):
        with calls.open("a") as file:
            file.write("call\n")
        if number == after:
            os._exit(9)

    engine.on_call = on_call
    run({**over, "lm": models(engine)}, budget=BUDGET, run_dir=folder)


def check_kills(tmp_path, children, moments, over):
    whole = table(run({**over, "lm": models()}, budget=BUDGET))
    for number, after in enumerate(moments):
        folder, calls = tmp_path / str(number), tmp_path / f"{number}.txt"
        assert children(sweep_and_die, folder, calls, after, over).status == 9
        paid = len(calls.read_text().splitlines())
        engine = ScriptedEngine()
        assert table(run({**over, "lm": models(engine)}, budget=BUDGET, run_dir=folder)) == whole
        # The call that was under way was paid for, and its answer never came.
        assert paid + engine.calls == whole["usage"]["lm_calls"] + 1


def test_killed_and_resumed_no_call_is_paid_twice_and_the_table_is_the_same(tmp_path, children: Children):
    check_kills(tmp_path, children, [60], {"optimizer": QUICK})


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_killed_at_twenty_moments_and_resumed(tmp_path, children: Children):
    draw = random.Random(18)
    moments = [draw.randint(1, 200) for _ in range(20)]
    check_kills(tmp_path, children, moments, {"optimizer": OPTIMIZERS, "seed": [0, 1]})
