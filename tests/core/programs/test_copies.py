"""Copies of programs, the names of their predictors, and the language models that they ask."""

from __future__ import annotations

import copy
import threading
from collections import deque
from types import SimpleNamespace
from typing import Any

import dspy
import pytest

from dspy_nb.core.errors import InputError
from dspy_nb.core.programs.copies import check_copies, copy_of, student_of
from dspy_nb.core.programs.lms import rollouts, used_lms, without_cache
from dspy_nb.core.programs.spec import parameters_of, spec_of
from tests.scripted import scripted_lm


class Everywhere(dspy.Module):
    """Predictors wherever people put them; some parts cannot be copied."""

    def __init__(self, lock: bool = True) -> None:
        super().__init__()
        self.draft = dspy.Predict("q -> a")
        self.final = self.draft
        self.table = {"en": [dspy.Predict("q -> a")], 1: {"x": (dspy.ChainOfThought("q -> a"),)}}
        self.queue = deque([dspy.Predict("q -> a")])
        self.helper = SimpleNamespace(judge=dspy.Predict("q -> a"), name="judge")
        self.lock = threading.Lock() if lock else None

    def forward(self, q: str) -> dspy.Prediction:
        return self.final(q=q)


NAMES = [
    "draft",
    "table['en'][0]",
    "table['1']['x'][0].predict",
    "queue[0]",
    "helper.judge",
]


@pytest.mark.parametrize("lock", [True, False])
def test_every_predictor_has_a_name_and_a_copy_of_its_own(lock: bool) -> None:
    program = Everywhere(lock)
    assert [name for name, _ in parameters_of(program)] == NAMES
    for made in (
        copy_of(program),
        student_of(program),
        student_of(program).deepcopy(),
        copy_of(copy_of(program)),
    ):
        assert made.final is made.draft
        assert made.lock is program.lock
        assert {name for name, _ in parameters_of(made)} == set(NAMES)
        originals = dict(parameters_of(program))
        assert all(part is not originals[name] for name, part in parameters_of(made))


def test_dspy_itself_finds_every_predictor_of_a_student_and_of_its_copies() -> None:
    student = student_of(Everywhere())
    for made in (student, student.deepcopy(), copy.deepcopy(student), student.reset_copy().reset_copy()):
        assert {name for name, _ in made.named_predictors()} == set(NAMES)
        assert dict(made.named_predictors())["table['en'][0]"] is made.table["en"][0]


def test_a_program_in_itself_which_dspy_cannot_walk_is_refused() -> None:
    program = Everywhere(lock=False)
    program.parent = program
    with pytest.raises(InputError, match="Everywhere contains itself"):
        check_copies(program)


def test_what_a_frozen_module_holds_is_left_to_it() -> None:
    program = Everywhere()
    program.table[1]["x"][0]._compiled = True
    assert "table['1']['x'][0].predict" in dict(parameters_of(program))
    assert "table['1']['x'][0].predict" not in dict(parameters_of(program, frozen=False))
    assert "table['1']['x'][0].predict" not in dict(student_of(program).named_predictors())


def test_a_program_that_knows_how_to_copy_itself_is_asked() -> None:
    class Own(Everywhere):
        def deepcopy(self) -> Any:
            made = type(self)()
            made.lock = "made by itself"
            return made

    assert copy_of(Own()).lock == "made by itself"


def test_language_models_at_any_depth_are_asked_and_copied() -> None:
    program = Everywhere()
    program.table["en"][0].lm = deep = scripted_lm(name="scripted/deep", cache=True, temperature=1.0)
    default = scripted_lm(name="scripted/default", temperature=1.0)
    assert [lm.model for lm in used_lms(program, default)] == ["scripted/default", "scripted/deep"]
    made, _ = without_cache(program, default)
    assert made.table["en"][0].lm.cache is False
    assert deep.cache is True
    assert made.final is made.draft
    programs, _ = rollouts(program, default, 2)
    assert [one.table["en"][0].lm.kwargs["rollout_id"] for one in programs] == [1, 2]


def test_predictors_without_a_name_of_their_own_are_refused_by_the_attribute() -> None:
    class InSet(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.top = dspy.Predict("q -> a")
            self.experts = {"all": frozenset([dspy.Predict("q -> a")])}

    class Twice(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.experts = {1: dspy.Predict("q -> a"), "1": dspy.Predict("q -> a")}

    with pytest.raises(InputError, match=r"the predictors in experts\['all'\] stand in a set"):
        spec_of(InSet())
    with pytest.raises(InputError, match=r"two predictors called experts\['1'\]"):
        spec_of(Twice())
