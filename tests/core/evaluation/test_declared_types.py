"""The program declares the type of a field: labels are read by it, by whatever asks the program."""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import typing
import uuid

import dspy
import pydantic
import pytest
from dspy.lm15 import Message

from dspy_nb.core.ab.compare import compare
from dspy_nb.core.data.metrics import as_metric, exact_match
from dspy_nb.core.evaluation.evaluate import evaluate
from dspy_nb.core.optimization.optimize import optimize
from dspy_nb.core.programs.calls import declared_types
from tests.scripted import ScriptedEngine, scripted_lm


class Mood(enum.Enum):
    GOOD = "good"
    BAD = "bad"


class Person(pydantic.BaseModel):
    name: str
    born: dt.date | None = None
    mood: Mood = Mood.GOOD


def program(kind, module=dspy.Predict):
    return module(dspy.Signature({"q": (str, dspy.InputField()), "a": (kind, dspy.OutputField())}))


def data(*labels):
    return [dspy.Example(q=f"q{n}", a=label).with_inputs("q") for n, label in enumerate(labels)]


class Engine(ScriptedEngine):
    """Answers every question with one text."""

    def __init__(self, text):
        super().__init__()
        self.text = text

    def complete(self, request):
        response = super().complete(request)
        fields = f"[[ ## reasoning ## ]]\nso\n\n[[ ## a ## ]]\n{self.text}\n\n[[ ## completed ## ]]"
        return dataclasses.replace(response, message=Message.assistant(fields))


def answering(text):
    return scripted_lm(Engine(text))


CASES = [
    (dt.datetime, "2020-01-02T03:04:00Z", "2020-01-02T03:04:01Z"),
    (dt.date, "2020-01-02", "2020-01-03"),
    (dt.timedelta, "PT1H", "PT2H"),
    (decimal.Decimal, "1.50", "1.51"),
    (uuid.UUID, str(uuid.UUID(int=5)), str(uuid.UUID(int=6))),
    (bytes, "abc", "abd"),
    (Mood, "good", "bad"),
    (Mood, "GOOD", "BAD"),
    (bool, "yes", "no"),
    (bool, "1", "0"),
    (float, "1e3", "1e2"),
    (int | None, "null", "3"),
    (typing.Literal[1, 2], "1", "2"),
    (list[str], '["a", "b"]', '["b", "a"]'),
    (list[typing.Annotated[str, pydantic.StringConstraints(strip_whitespace=True)]], '["a "]', '["b"]'),
    (set[dt.date], '["2020-01-02", "2020-01-03"]', '["2020-01-02"]'),
    (dict[dt.date, Mood], '{"2020-01-02": "good"}', '{"2020-01-02": "bad"}'),
    (Person, '{"name": "A"}', '{"name": "A", "mood": "bad"}'),
    (list[Person], '[{"name": "A", "born": "2020-01-02"}]', '[{"name": "A"}]'),
    (Person | None, '{"name": "A"}', '{"name": "B"}'),
]


@pytest.mark.parametrize(("kind", "gold", "wrong"), CASES)
@pytest.mark.parametrize("module", [dspy.Predict, dspy.ChainOfThought])
def test_an_answer_with_the_text_of_the_label_is_right_and_another_is_wrong(
    kind, gold, wrong, module
) -> None:
    with dspy.context(lm=answering(gold), adapter=dspy.ChatAdapter()):
        ev = evaluate(program(kind, module), data(gold, gold, gold, wrong), exact_match("a"), label="a")
    assert ev.errors.count == 0
    assert [result.score for result in ev.results] == [True, True, True, False]
    assert ev.accuracy == ev.score == 0.75
    assert [score.support for score in ev.per_class.values()] in ([3, 1], [1, 3])


def test_a_boolean_in_words_has_two_classes() -> None:
    with dspy.context(lm=answering("true"), adapter=dspy.ChatAdapter()):
        ev = evaluate(program(bool), data(*["yes", "no"] * 4), exact_match("a"), by="a")
    assert list(ev.per_class) == ["no", "yes"]
    assert ev.confusion.matrix == ((0, 4), (0, 4))
    assert {name: part.score for name, part in ev.slices.items()} == {"no": 0.0, "yes": 1.0}


def test_compare_and_optimize_read_labels_as_evaluate_does() -> None:
    with dspy.context(lm=answering("yes"), adapter=dspy.ChatAdapter()):
        found = compare(program(bool), program(bool), data(*["yes"] * 12), exact_match("a"), names=("a", "b"))
        assert found.a.score == found.b.score == 1
        run = optimize(
            program(bool), trainset=data(*["yes"] * 6), valset=data(*["yes"] * 4), metric=exact_match("a")
        )
    assert run.score == 1


def test_types_are_those_of_all_output_fields() -> None:
    class Two(dspy.Module):
        def __init__(self):
            super().__init__()
            self.first = program(bool)
            self.second = program(Mood)
            self.third = program(bool)

    assert declared_types(Two()) == {"a": (bool, Mood)}
    assert declared_types(program(int, dspy.ChainOfThought), program(str)) == {
        "reasoning": (str,),
        "a": (int, str),
    }
    assert declared_types(lambda q: q) == {}


def test_a_metric_of_the_users_own_stays_as_it_is() -> None:
    own = as_metric(lambda gold, pred: 1)
    assert own.declaring({"a": (bool,)}) is own
    assert own.read("a", "yes") == "yes"
    plain = exact_match("a")
    assert plain.declaring({"a": (str,), "b": (bool,)}) is plain
    bound = plain.declaring({"a": (bool,)})
    assert (repr(bound), bound.source, bound.same) == (repr(plain), plain.source, plain.same)
    assert bound(dspy.Example(a="yes"), dspy.Prediction(a=True)) is True
    assert plain(dspy.Example(a="yes"), dspy.Prediction(a=True)) is False
