"""A task: checked when it is made, frozen, and the same for whoever takes it."""

import copy
from dataclasses import FrozenInstanceError, replace

import dspy
import pytest

import dspy_nb as nb
from tests.scripted import ScriptedEngine, classifier, reviews, scripted_lm

METRIC = nb.exact_match("sentiment")


def a_task(**changes) -> nb.Task:
    given = {"trainset": reviews(6), "valset": reviews(5, "v"), "metric": METRIC, "preset": "light"}
    return nb.Task(classifier(), **(given | changes))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"trainset": ()}, "trainset is missing"),
        ({"trainset": []}, "trainset is empty"),
        ({"valset": []}, "valset is empty"),
        ({"valset": ()}, "needs a valset"),
        ({"testset": [1]}, r"testset\[0\] must be a dspy.Example"),
        ({"metric": None}, "needs a metric"),
        ({"optimizer": "MIPRO", "preset": None}, "unknown optimizer 'MIPRO'"),
        ({"optimizer": "COPRO"}, "preset 'light' is for"),
        ({"options": {"rounds": 1}}, "has no option 'rounds'"),
        ({"options": [1]}, "options must be a dict"),
        ({"seed": -1}, "seed must be a whole number"),
        ({"num_threads": 0}, "num_threads must be"),
        ({"budget": 3}, "budget must be a dspy_nb.Budget"),
        ({"budget": nb.Budget(lm_calls=3)}, "leaves nothing for the search"),
    ],
    ids=str,
)
def test_what_is_wrong_is_said_when_it_is_made(changes: dict, reason: str) -> None:
    with pytest.raises(nb.InputError, match=reason):
        a_task(**(changes | ({"testset": reviews(4, "t")} if "budget" in changes else {})))


def test_it_is_frozen_and_what_happens_to_the_callers_data_changes_nothing() -> None:
    mine = reviews(6)
    task = a_task(trainset=mine)
    with pytest.raises(FrozenInstanceError):
        task.seed = 1
    before = [copy.deepcopy(dict(example)) for example in task.trainset]
    mine[0]["review"] = "another"
    mine.clear()
    assert [dict(example) for example in task.trainset] == before


def test_another_task_differs_in_what_was_said_and_is_checked_again() -> None:
    task = a_task()
    other = replace(task, seed=7, options={"num_candidate_programs": 2})
    assert (task.seed, other.seed) == (0, 7)
    assert other.estimate.evaluation < task.estimate.evaluation
    assert other.options["num_candidate_programs"] == 2
    assert other.options["max_labeled_demos"] == task.options["max_labeled_demos"]  # of the preset
    with pytest.raises(nb.InputError, match="seed must be"):
        replace(task, seed="x")


def test_it_says_in_short_what_it_is() -> None:
    assert repr(a_task(testset=reviews(4, "t"))) == (
        "Task(BootstrapFewShotWithRandomSearch on Predict, 6 train, 5 val, 4 test, seed 0)"
    )


def test_optimize_and_estimate_take_a_task_or_its_attributes() -> None:
    engine, task = ScriptedEngine(), a_task()
    sets = {"trainset": reviews(6), "valset": reviews(5, "v")}
    with dspy.context(lm=scripted_lm(engine)):
        assert nb.estimate(task) == nb.estimate(classifier(), **sets, metric=METRIC, preset="light")
        one = nb.optimize(task)
        other = nb.optimize(classifier(), **sets, metric=METRIC, preset="light")
        limited = nb.optimize(task, budget=nb.Budget(lm_calls=7))
    assert one.usage.lm_calls == other.usage.lm_calls
    assert one.score == other.score
    assert limited.stopped_by == "lm_calls"
    assert task.budget == nb.Budget()


@pytest.mark.parametrize("changes", [{"seed": 3}, {"trainset": reviews(3)}, {"optimizer": "COPRO"}], ids=str)
def test_a_task_comes_with_nothing_but_a_budget(changes: dict) -> None:
    (name,) = changes
    with (
        dspy.context(lm=scripted_lm(ScriptedEngine())),
        pytest.raises(nb.InputError, match=f"has its own {name}"),
    ):
        nb.optimize(a_task(), **changes)
