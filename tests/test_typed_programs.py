"""Whatever types and names fields have: right answers are right, and a program comes back from a registry."""

from __future__ import annotations

import datetime as dt
import enum
import json
import re
import uuid
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, Optional

import dspy
import pydantic
import pytest
from dspy.lm15 import Message, Request, Response, Usage
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import TypeAdapter

import dspy_nb as nb

pytestmark = [
    pytest.mark.heavy,
    pytest.mark.filterwarnings("ignore:Field name .* shadows:UserWarning"),  # pydantic's, of awkward names
    pytest.mark.filterwarnings("ignore:metric .* have no value of:UserWarning"),  # None is meant
]


class Mood(enum.Enum):
    """By name and value, which differ."""

    GOOD = "good"
    BAD = "bad"


class Level(enum.IntEnum):
    """Numbers with names."""

    LOW = 1
    HIGH = 2


class Address(pydantic.BaseModel):
    """Within a person."""

    street: str
    since: dt.date | None = None


class Person(pydantic.BaseModel):
    """With defaults, a list, and records within."""

    name: str
    mood: Mood = Mood.GOOD
    addresses: list[Address] = []


@dataclass
class Point:
    """A dataclass."""

    x: int
    y: int


_TEXT = st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=8)
_PLACES = st.builds(Address, street=_TEXT, since=st.none() | st.dates())
_PEOPLE = st.builds(Person, name=_TEXT, mood=st.sampled_from(Mood), addresses=st.lists(_PLACES, max_size=2))
_INTS = st.integers(-(10**9), 10**9)
_TIMES = st.datetimes(dt.datetime(1990, 1, 1), dt.datetime(2090, 1, 1))

# Annotation -> values of it.
TYPES: dict[Any, st.SearchStrategy[Any]] = {
    str: _TEXT,
    int: _INTS,
    float: st.floats(-1e6, 1e6),
    bool: st.booleans(),
    Literal["yes", "no", "maybe"]: st.sampled_from(["yes", "no", "maybe"]),
    Mood: st.sampled_from(Mood),
    Level: st.sampled_from(Level),
    Optional[Mood]: st.none() | st.sampled_from(Mood),  # noqa: UP045 - as people write it
    int | None: st.none() | _INTS,
    dt.date: st.dates(),
    dt.datetime: _TIMES,
    uuid.UUID: st.uuids(),
    Decimal: st.decimals(-1000, 1000, places=2),
    Person: _PEOPLE,
    Person | None: st.none() | _PEOPLE,
    Point: st.builds(Point, _INTS, _INTS),
    list[str]: st.lists(_TEXT, max_size=3),
    list[Mood]: st.lists(st.sampled_from(Mood), max_size=3),
    list[Person]: st.lists(_PEOPLE, max_size=2),
    list[dt.date]: st.lists(st.dates(), max_size=3),
    dict[str, int]: st.dictionaries(_TEXT, _INTS, max_size=3),
    dict[str, Person]: st.dictionaries(_TEXT, _PEOPLE, max_size=2),
    tuple[int, str]: st.tuples(_INTS, _TEXT),
    set[int]: st.sets(_INTS, max_size=3),
}
_AWKWARD = [
    "items",
    "keys",
    "values",
    "labels",
    "inputs",
    "copy",
    "get",
    "toDict",
    "score",
    "answer",
    "reasoning_2",
]
_EATEN = ["demos", "config", "lm", "signature", "dspy_field"]


class Answers:
    """Answers with what is given for each question, as JSON."""

    def __init__(self, by_question: dict[str, dict[str, Any]]) -> None:
        self.by_question = by_question

    def __deepcopy__(self, memo: dict[int, Any]) -> Answers:
        return self

    def complete(self, request: Request) -> Response:
        question = re.findall(r"question-\d+", str(request.messages[-1].text))[-1]
        return Response(
            id="r",
            model=request.model,
            message=Message.assistant(json.dumps(self.by_question[question])),
            finish_reason="stop",
            usage=Usage(input_tokens=1, output_tokens=1, total_tokens=2),
        )


def as_json(annotation: Any, value: Any) -> Any:
    return TypeAdapter(annotation).dump_python(value, mode="json")


@st.composite
def tasks(draw: st.DrawFn) -> tuple[dict[str, Any], list[dict[str, Any]], list[dict[str, Any]]]:
    """Output fields by name, the right values of three examples, and wrong ones."""
    names = draw(st.lists(st.sampled_from(_AWKWARD), min_size=1, max_size=3, unique=True))
    fields = {name: draw(st.sampled_from(list(TYPES))) for name in names}
    right = [{name: draw(TYPES[kind]) for name, kind in fields.items()} for _ in range(3)]
    wrong = [{name: draw(TYPES[kind]) for name, kind in fields.items()} for _ in range(3)]
    return fields, right, wrong


def program_of(fields: dict[str, Any]) -> dspy.Predict:
    outputs = {name: (kind, dspy.OutputField()) for name, kind in fields.items()}
    return dspy.Predict(dspy.Signature({"question": (str, dspy.InputField()), **outputs}, "Answer."))


def score(program: dspy.Predict, fields: dict[str, Any], golds: list[dict[str, Any]], said: list[dict[str, Any]],
          **options: Any) -> nb.Evaluation:  # fmt: skip
    """Evaluate a program whose language model says exactly that."""
    data = [
        dspy.Example(question=f"question-{i}", **gold).with_inputs("question") for i, gold in enumerate(golds)
    ]
    texts = {
        f"question-{i}": {name: as_json(fields[name], value) for name, value in one.items()}
        for i, one in enumerate(said)
    }
    lm = dspy.LM("scripted/typed", engine=Answers(texts), cache=False)
    with dspy.context(lm=lm, adapter=dspy.JSONAdapter()):
        return nb.evaluate(program, data, nb.exact_match(*fields, **options), num_threads=1)


@given(tasks(), st.booleans())
def test_right_answers_are_right_and_wrong_ones_are_wrong(task: Any, normalize: bool) -> None:
    fields, right, wrong = task
    program = program_of(fields)
    found = score(program, fields, right, right, normalize=normalize)
    assert (found.score, found.errors.count) == (1.0, 0), found.errors.messages

    plain = [{name: as_json(fields[name], value) for name, value in one.items()} for one in right]
    assert score(program, fields, plain, right, normalize=normalize).score == 1.0, "golds as JSON has them"

    def differs(gold: dict[str, Any], said: dict[str, Any]) -> bool:
        def text(values: dict[str, Any]) -> str:
            return json.dumps(
                {n: as_json(fields[n], v) for n, v in values.items()}, sort_keys=True
            ).casefold()

        return text(gold) != text(said) and any(gold[name] != said[name] for name in gold)

    assume(all(differs(gold, said) for gold, said in zip(right, wrong, strict=True)))
    found = score(program, fields, right, wrong, normalize=normalize)
    assert (found.score, found.errors.count) == (0.0, 0), found.errors.messages


@given(tasks())
def test_a_program_comes_back_from_a_registry_with_the_same_prompt(task: Any) -> None:
    fields, right, _ = task
    program = program_of(fields)
    program.demos = [dspy.Example(question=f"question-{i}", **gold) for i, gold in enumerate(right)]
    with TemporaryDirectory() as folder:
        registry = nb.Registry(Path(folder) / "registry")
        registry.register(program, "m")
        loaded = registry.load("m", program=program_of(fields))
    for adapter in (dspy.ChatAdapter(), dspy.JSONAdapter(), dspy.XMLAdapter()):
        before, after = (
            adapter.format(each.signature, each.demos, {"question": "question-9"})
            for each in (program, loaded)
        )
        assert before == after


@pytest.mark.parametrize("name", _EATEN)
def test_an_input_that_dspy_takes_for_its_own_is_one_line(name: str) -> None:
    try:
        program = dspy.Predict(
            dspy.Signature({name: (str, dspy.InputField()), "answer": (str, dspy.OutputField())})
        )
    except Exception:
        pytest.skip("DSPy makes no such signature")
    data = [dspy.Example({name: "x", "answer": "y"}).with_inputs(name)]
    lm = dspy.LM("scripted/typed", engine=Answers({}), cache=False)
    with dspy.context(lm=lm), pytest.raises(nb.InputError, match=name) as caught:
        nb.evaluate(program, data, nb.exact_match("answer"))
    assert "\n" not in str(caught.value)
