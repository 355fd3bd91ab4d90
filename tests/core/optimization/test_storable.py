"""What can be optimized and what can be stored of it: told before the first LM call, and then kept."""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import math
import threading
import uuid
from pathlib import Path
from typing import Any

import dspy
import pydantic
import pytest

import dspy_nb
from dspy_nb.core.ab.compare import compare
from dspy_nb.core.data.examples import split
from dspy_nb.core.data.identity import fingerprint
from dspy_nb.core.data.metrics import exact_match
from dspy_nb.core.errors import InputError, RegistryWarning
from dspy_nb.core.evaluation.evaluate import evaluate
from dspy_nb.core.evaluation.scorecard import Evaluation
from dspy_nb.core.optimization.optimize import estimate, optimize
from dspy_nb.core.optimization.optimizers import OPTIMIZERS
from dspy_nb.core.registry.registry import Registry
from tests.core.optimization.test_optimize import OPTIONS
from tests.scripted import ScriptedEngine, reviews, scripted_lm

METRIC = exact_match("sentiment")


class Mood(enum.Enum):
    POSITIVE = "positive"
    NEGATIVE = "negative"


class Person(pydantic.BaseModel):
    name: str
    born: dt.date | None = None


def search(query: str) -> str:
    """Find it."""
    return query


def with_inputs(n: int = 12, tag: str = "item", **more: Any) -> list[dspy.Example]:
    """Reviews with further inputs."""
    return [
        dspy.Example(**example.toDict(), **more).with_inputs("review", *more) for example in reviews(n, tag)
    ]


def classifier_with(**types: Any) -> dspy.Predict:
    """A classifier that is given more than the review."""
    inputs = {"review": str, **types}
    fields = {name: (kind, dspy.InputField()) for name, kind in inputs.items()}
    return dspy.Predict(dspy.Signature({**fields, "sentiment": (Mood, dspy.OutputField())}, "Classify."))


INPUTS = [
    (dspy.Tool, dspy.Tool(search)),
    (list[dspy.Tool], [dspy.Tool(search), dspy.Tool(lambda word: word, name="lookup", desc="looks it up")]),
    (dict[str, dspy.Tool], {"search": dspy.Tool(search)}),
    (dspy.History, dspy.History(messages=[{"review": "it was good", "sentiment": "positive"}])),
    (dspy.Image, dspy.Image("https://example.com/a.png")),
    (list[dspy.Image], [dspy.Image("https://example.com/a.png")]),
    (dspy.Audio, dspy.Audio(data="AAAA", audio_format="wav")),
    (dspy.File, dspy.File(file_id="f-1")),
    (dspy.Code["python"], dspy.Code["python"](code="print(1)")),
    (dspy.Reasoning, dspy.Reasoning(content="because")),
    (Person, Person(name="A", born=dt.date(2000, 1, 1))),
    (uuid.UUID, uuid.UUID(int=1)),
    (decimal.Decimal, decimal.Decimal("1.50")),
    (set[int], {1, 2}),
    (bytes, b"\xff"),
    (Path, Path("a/b")),
    (tuple[int, str], (1, "a")),
    (float, math.nan),
]


@pytest.mark.parametrize(("kind", "value"), INPUTS, ids=repr)
def test_whatever_dspy_takes_as_an_input_goes_all_the_way(kind: Any, value: Any, tmp_path: Path) -> None:
    program, data = classifier_with(context=kind), with_inputs(context=value)
    parts = split(data, (6, 6), seed=0)
    assert fingerprint([*parts[0], *parts[1]]) == fingerprint(data)
    with dspy.context(lm=scripted_lm()):
        before = evaluate(program, data, METRIC)
        run = optimize(program, trainset=data[:6], testset=data[6:], metric=METRIC)
        assert compare(program, run.program, data, METRIC).n == len(data)
    assert before.errors.count == 0
    assert run.program.demos
    registry = Registry(tmp_path / "registry")
    version = registry.register(run, "m")
    loaded = registry.load("m", program=classifier_with(context=kind))
    for adapter in (dspy.ChatAdapter(), dspy.JSONAdapter(), dspy.XMLAdapter()):
        now = {"review": "now", "context": value}
        assert adapter.format(loaded.signature, loaded.demos, now) == adapter.format(
            run.program.signature, run.program.demos, now
        )
    assert version.evaluation is not None
    assert run.test_after is not None
    assert Evaluation.load(run.test_after.save(tmp_path / "after.json")).score == run.test_after.score


@pytest.mark.parametrize("name", sorted(set(OPTIMIZERS) - {"Ensemble"}))
def test_every_optimizer_takes_tools_as_inputs_and_an_enum_as_the_answer(name: str, tmp_path: Path) -> None:
    program = classifier_with(tools=list[dspy.Tool])
    train, val = (with_inputs(12, tag, tools=[dspy.Tool(search)]) for tag in ("train", "val"))
    with dspy.context(lm=scripted_lm()):
        run = optimize(
            program, trainset=train, valset=val, metric=METRIC, optimizer=name, options=OPTIONS.get(name, {})
        )
    assert run.errors.count == 0
    if name != "KNNFewShot":
        Registry(tmp_path).register(run, "m")


def test_a_column_that_is_no_field_may_hold_what_is_no_json(tmp_path: Path) -> None:
    data = [
        dspy.Example(**e.toDict(), price=math.nan, day=dt.date(2020, 1, 1)).with_inputs("review")
        for e in reviews(8)
    ]
    with dspy.context(lm=scripted_lm()):
        run = optimize(classifier_with(), trainset=data, metric=METRIC, optimizer="LabeledFewShot")
        registry = Registry(tmp_path)
        registry.register(run, "m")
        assert registry.load("m", program=classifier_with()).demos[0].keys() == {"review", "sentiment"}


@pytest.mark.parametrize("where", ["review", "sentiment"])
def test_half_of_a_surrogate_pair_is_refused_before_the_first_call(where: str) -> None:
    engine, data = ScriptedEngine(), reviews(8)
    data[5][where] = "broken \ud800"
    program = dspy.Predict("review -> sentiment")
    with dspy.context(lm=scripted_lm(engine)):
        for call in (optimize, estimate):
            with pytest.raises(
                InputError, match=rf"trainset\[5\]: the field '{where}' .* U\+D800"
            ) as refused:
                call(program, trainset=data, metric=METRIC)
            assert "\n" not in str(refused.value)
    assert engine.calls == 0


def test_an_optimizer_that_makes_no_demos_does_not_mind_what_could_not_be_one() -> None:
    data = reviews(8)
    data[5]["review"] = "broken \ud800"
    with dspy.context(lm=scripted_lm()):
        done = optimize(
            dspy.Predict("review -> sentiment"), trainset=data, metric=METRIC, optimizer="COPRO",
            options=OPTIONS["COPRO"],
        )  # fmt: skip
    assert done.status == "completed"


def test_a_function_as_an_input_is_run_with_a_warning_before_the_first_call(tmp_path: Path) -> None:
    engine, data = ScriptedEngine(), with_inputs(8, helper=search)
    with dspy.context(lm=scripted_lm(engine)):
        assert evaluate(classifier_with(helper=Any), data, METRIC).errors.count == 0
        before = engine.calls
        with pytest.warns(RegistryWarning, match=r"trainset\[0\]: the field 'helper' .* no registry takes"):
            estimate(classifier_with(helper=Any), trainset=data, metric=METRIC)
        assert engine.calls == before
        with pytest.warns(RegistryWarning):
            run = optimize(classifier_with(helper=Any), trainset=data, metric=METRIC)
    with pytest.raises(InputError, match="the state of the program cannot be stored: the field 'helper'"):
        Registry(tmp_path).register(run, "m")


@pytest.mark.parametrize(
    "value", [threading.Lock(), (n for n in ()), lambda: None], ids=["lock", "generator", "lambda"]
)
def test_what_has_no_content_is_refused_everywhere_by_the_name_of_its_field(value: Any) -> None:
    engine, data, program = ScriptedEngine(), with_inputs(8, client=value), classifier_with(client=Any)
    calls = (
        lambda: evaluate(program, data, METRIC),
        lambda: optimize(program, trainset=data, metric=METRIC, optimizer="COPRO"),
        lambda: compare(program, program, data, METRIC),
        lambda: split(data, (4, 4)),
        lambda: fingerprint(data),
    )
    with dspy.context(lm=scripted_lm(engine)):
        for call in calls:
            with pytest.raises(InputError, match="field 'client' of an example"):
                call()
    assert engine.calls == 0


def test_the_warning_is_a_public_name() -> None:
    assert issubclass(RegistryWarning, UserWarning)
    assert dspy_nb.fingerprint is fingerprint
