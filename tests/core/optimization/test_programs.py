"""optimize() over programs as people write them: shared, nested and uncopyable parts; every optimizer."""

from __future__ import annotations

import copy
import threading
from types import SimpleNamespace
from typing import Any

import dspy
import pytest

from dspy_nb.core.data.metrics import exact_match
from dspy_nb.core.errors import InputError
from dspy_nb.core.optimization.optimize import estimate, optimize
from dspy_nb.core.optimization.optimizers import OPTIMIZERS
from dspy_nb.core.programs.spec import parameters_of
from dspy_nb.core.registry.registry import Registry
from tests.core.optimization.test_optimize import OPTIONS
from tests.scripted import ScriptedEngine, reviews, scripted_lm

TRAIN, VAL = reviews(12, "train"), reviews(8, "val")
METRIC = exact_match("sentiment")
SIGNATURE = dspy.Signature("review -> sentiment", "Classify the review.")
ONE_PROGRAM = sorted(set(OPTIMIZERS) - {"Ensemble"})


class Shared(dspy.Module):
    """One predictor in two attributes and a list, beside what cannot be copied."""

    def __init__(self) -> None:
        super().__init__()
        self.draft = dspy.Predict(SIGNATURE)
        self.final = self.draft
        self.lock = threading.Lock()
        self.waiting = (number for number in range(3))
        self.parts = [self.draft, threading.Lock()]

    def forward(self, review: str) -> dspy.Prediction:
        with self.lock:
            return self.final(review=review)


class Nested(dspy.Module):
    """Predictors deeper than DSPy looks."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = {"en": [dspy.Predict(SIGNATURE)], "de": [dspy.ChainOfThought(SIGNATURE)]}
        self.helper = SimpleNamespace(judge=dspy.Predict(SIGNATURE))

    def forward(self, review: str) -> dspy.Prediction:
        return self.experts["en"][0](review=review)


class LockedPart(dspy.Module):
    """A module in a list, with a lock of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = [Shared()]

    def forward(self, review: str) -> dspy.Prediction:
        return self.steps[0](review=review)


def run(program: Any, name: str, engine: ScriptedEngine | None = None, **more: Any) -> Any:
    data = {} if name == "Ensemble" else {"trainset": TRAIN, "valset": VAL, "metric": METRIC}
    with dspy.context(lm=scripted_lm(engine)):
        return optimize(program, optimizer=name, options=OPTIONS.get(name, {}), num_threads=2, **data, **more)


@pytest.mark.parametrize("name", ONE_PROGRAM)
def test_a_shared_predictor_beside_a_lock_is_tuned_and_stays_shared(name: str) -> None:
    program = Shared()
    result = run(program, name).program
    assert result.final is result.draft is result.parts[0]
    assert result.draft is not program.draft
    assert program.draft.demos == []
    assert program.draft.signature.instructions == "Classify the review."


@pytest.mark.parametrize("name", ["BootstrapFewShot", "BootstrapFewShotWithRandomSearch", "MIPROv2", "SIMBA"])
def test_a_module_with_a_lock_in_a_list_does_not_stay_that_of_the_caller(name: str) -> None:
    program = LockedPart()
    result = run(program, name).program
    assert result.steps[0] is not program.steps[0]
    assert result.steps[0].final is result.steps[0].draft
    assert program.steps[0].draft.demos == []


@pytest.mark.parametrize("name", ONE_PROGRAM)
def test_a_predictor_at_any_depth_is_tuned_under_its_own_name(name: str) -> None:
    program = Nested()
    done = run(program, name)
    names = ["experts['en'][0]", "experts['de'][0].predict", "helper.judge"]
    assert [path for path, _ in parameters_of(program)] == names
    assert all(not part.demos for _, part in parameters_of(program))
    if name != "KNNFewShot":
        assert [path for path, _ in parameters_of(done.program)] == names
    if name in ("LabeledFewShot", "BootstrapFewShot"):
        assert done.program.experts["en"][0].demos


def test_what_was_tuned_at_any_depth_is_stored_and_loaded(tmp_path: Any) -> None:
    registry = Registry(tmp_path)
    done = run(Nested(), "LabeledFewShot")
    registry.register(done, "m")
    loaded = registry.load("m", program=Nested)
    for (_, tuned), (_, again) in zip(parameters_of(done.program), parameters_of(loaded), strict=True):
        assert [dict(demo) for demo in again.demos] == [dict(demo) for demo in tuned.demos]


def test_a_teacher_with_predictors_at_any_depth_teaches() -> None:
    with dspy.context(lm=scripted_lm()):
        done = optimize(Nested(), trainset=TRAIN, metric=METRIC, options={"teacher": Nested()})
    assert done.program.experts["en"][0].demos


def test_programs_with_locks_can_be_an_ensemble() -> None:
    with dspy.context(lm=scripted_lm()):
        assert run([Shared(), Shared()], "Ensemble").program(review="it is good").sentiment


class Stubborn(Shared):
    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return self


class Half(Shared):
    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        made = type(self)()
        made.final = dspy.Predict(SIGNATURE)
        return made


class Unmade(Shared):
    def __new__(cls, *arguments: Any) -> Any:
        if not arguments:
            raise TypeError("a client is needed")
        return super().__new__(cls)

    def __init__(self, client: Any) -> None:
        super().__init__()


class InObject(Shared):
    def __init__(self) -> None:
        super().__init__()
        self.helper = SimpleNamespace(judge=dspy.Predict(SIGNATURE), lock=threading.Lock())


class InSet(Shared):
    def __init__(self) -> None:
        super().__init__()
        self.experts = {dspy.Predict(SIGNATURE)}


@pytest.mark.parametrize(
    ("program", "words"),
    [
        (Stubborn(), "Stubborn cannot be copied.* its predictor draft is still that of the original"),
        (Half(), "Half cannot be copied.* its predictor final is only in the copy"),
        (Unmade("client"), "Unmade cannot be copied.* TypeError: a client is needed"),
        (InObject(), "InObject cannot be copied.* its predictor helper.judge is still that of the original"),
        (InSet(), "the predictors in experts stand in a set.* a list or a dict"),
    ],
)
def test_a_program_that_cannot_be_copied_or_named_is_refused_before_the_first_call(
    program: Any, words: str
) -> None:
    engine = ScriptedEngine()
    with dspy.context(lm=scripted_lm(engine)):
        for call in (optimize, estimate):
            with pytest.raises(InputError, match=words) as refused:
                call(program, trainset=TRAIN, metric=METRIC)
            assert "\n" not in str(refused.value)
    assert engine.calls == 0


def test_a_language_model_that_cannot_be_copied_does_not_hinder() -> None:
    class Engine(ScriptedEngine):
        def __deepcopy__(self, memo: dict[int, Any]) -> Any:
            raise TypeError("it holds a connection")

    program = Shared()
    program.draft.lm = lm = scripted_lm(Engine())
    result = run(program, "BootstrapFewShot").program
    assert result.draft.lm is lm
    with pytest.raises(TypeError, match="connection"):
        copy.deepcopy(lm)
