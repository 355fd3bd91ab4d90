"""Demos of every type: stored as JSON, read back, and shown to the language model as before."""

from __future__ import annotations

import collections
import dataclasses
import datetime as dt
import decimal
import enum
import json
import math
import threading
import uuid
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, NamedTuple

import dspy
import numpy as np
import pydantic
import pytest
from dspy.adapters.baml_adapter import BAMLAdapter
from hypothesis import given
from hypothesis import strategies as st

from dspy_nb.core.errors import Corrupt, InputError
from dspy_nb.core.programs.demos import LiveObject, dump_demo, load_demo
from dspy_nb.core.programs.state import dump_state, load_state, program_digest
from dspy_nb.core.storage.files import dump_json, parse_json

ADAPTERS = [dspy.ChatAdapter(), dspy.JSONAdapter(), dspy.XMLAdapter()]


class Mood(enum.Enum):
    GOOD = "good"
    BAD = "bad"


class Level(enum.IntEnum):
    LOW = 1


class Text(enum.StrEnum):
    A = "a"


class Odd(enum.Enum):
    PAIR = (1, 2)
    NOTHING = None


class Person(pydantic.BaseModel):
    name: str
    born: dt.date | None = None
    mood: Mood = Mood.GOOD
    tags: set[str] = set()


class Tree(pydantic.BaseModel):
    name: str
    below: list[Tree] = []


class Employee(Person):
    salary: decimal.Decimal = decimal.Decimal("1.50")


class Aliased(pydantic.BaseModel):
    given: str = pydantic.Field(alias="givenName")


class Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(strict=True)
    day: dt.date
    mood: Mood


@dataclasses.dataclass
class Point:
    x: float
    y: float = math.inf


class Pair(NamedTuple):
    left: int
    right: str


def search(query: str) -> str:
    """Find it."""
    return query


ZONE = dt.timezone(dt.timedelta(hours=2))
DECLARED = [
    (Mood, Mood.GOOD),
    (Level, Level.LOW),
    (Text, Text.A),
    (Odd, Odd.PAIR),
    (Odd, Odd.NOTHING),
    (Mood | None, Mood.BAD),
    (list[Mood], [Mood.GOOD, Mood.BAD]),
    (dict[Mood, int], {Mood.GOOD: 1}),
    (uuid.UUID, uuid.UUID(int=5)),
    (decimal.Decimal, decimal.Decimal("1.50")),
    (dt.datetime, dt.datetime(2020, 1, 2, 3, 4, tzinfo=dt.UTC)),
    (dt.datetime, dt.datetime(2020, 1, 2, 3, 4, 5, 600, tzinfo=ZONE)),
    (dt.date, dt.date(2020, 1, 2)),
    (dt.time, dt.time(3, 4)),
    (dt.timedelta, dt.timedelta(days=1, seconds=2.5)),
    (Path, Path("a/b")),
    (PurePosixPath, PurePosixPath("/a")),
    (bytes, b"text"),
    (bytes, b"\xff\x00"),
    (list[bytes], [b"a", b"b"]),
    (set[str], {"one"}),
    (set[int], {3, 1, 2}),
    (frozenset[int], frozenset({1})),
    (tuple[int, str], (1, "a")),
    (tuple[int, ...], (1, 2)),
    (list[tuple[int, str]], [(1, "a")]),
    (Pair, Pair(1, "a")),
    (collections.deque, collections.deque([1, 2])),
    (float, math.nan),
    (float, -math.inf),
    (float, 1),
    (float, 1e300),
    (list[float], [math.nan, 1.0]),
    (int, 10**30),
    (int, True),
    (complex, 1 + 2j),
    (Person, Person(name="A", born=dt.date(2000, 1, 1), tags={"x"})),
    (Tree, Tree(name="A", below=[Tree(name="B")])),
    (Person, Employee(name="A")),
    (Person, {"name": "A"}),
    (list[Person], [Person(name="A")]),
    (dict[str, Person], {"a": Person(name="A")}),
    (Person | str, "A"),
    (Aliased, Aliased(givenName="A")),
    (Strict, Strict(day=dt.date(2000, 1, 1), mood=Mood.BAD)),
    (Point, Point(1.0)),
    (list[Point], [Point(1.0, 2.0)]),
    (Literal["a", 1, True], True),
    (Annotated[int, pydantic.Field(ge=0)], 3),
    (pydantic.SecretStr, pydantic.SecretStr("s")),
    (pydantic.HttpUrl, pydantic.HttpUrl("https://example.com/a")),
    (Any, {"a": [1, None]}),
    (dict[str, Any], {"a": {"b": 1.0}}),
    (str, "plain “text”\n<tag>"),
    (str, ["one", "two\nlines"]),
    (str, None),
    (dspy.Image, dspy.Image("https://example.com/a.png")),
    (list[dspy.Image], [dspy.Image("https://example.com/a.png")]),
    (dspy.Audio, dspy.Audio(data="AAAA", audio_format="wav")),
    (dspy.File, dspy.File(file_id="f-1", filename="a.pdf")),
    (dspy.Code["python"], dspy.Code["python"](code="print(1)")),
    (dspy.History, dspy.History(messages=[{"q": "a", "a": "b"}])),
    (dspy.Reasoning, dspy.Reasoning(content="because")),
    (dspy.ToolCalls, dspy.ToolCalls.from_dict_list([{"name": "search", "args": {"query": "a"}}])),
    (dspy.Tool, dspy.Tool(search)),
    (list[dspy.Tool], [dspy.Tool(search), dspy.Tool(lambda x: x, name="same", desc="gives it back")]),
    (dict[str, dspy.Tool], {"search": dspy.Tool(search)}),
]
# What stands in a field that declares no type, or another one.
UNDECLARED = [
    (1, 2),
    ("a", "b"),
    {"one"},
    frozenset({1}),
    b"text",
    b"\xff",
    math.nan,
    math.inf,
    10**30,
    1.5,
    True,
    Mood.GOOD,
    Level.LOW,
    uuid.UUID(int=5),
    decimal.Decimal("1.50"),
    dt.datetime(2020, 1, 2, 3, 4),
    dt.date(2020, 1, 2),
    dt.timedelta(1),
    Path("a/b"),
    Person(name="A"),
    Point(1.0, 2.0),
    Pair(1, "a"),
    {"a": (1, 2)},
    {1: "a"},
    np.float64(0.5),
    np.int64(3),
    np.array([1, 2]),
    ["a", "b"],
    "crashed at 0x7f00",
    ["crashed at 0x7f00"],
]


def predictor(annotation: Any) -> dspy.Predict:
    fields = {
        "question": (annotation, dspy.InputField()),
        "answer": (
            str if "Tool]" in str(annotation) or annotation is dspy.Tool else annotation,
            dspy.OutputField(),
        ),
    }
    return dspy.Predict(dspy.Signature(fields, "Answer."))


def prompts(program: dspy.Predict, adapters: Any = ADAPTERS) -> list[Any]:
    now = {} if program.signature.fields["question"].annotation is dspy.History else {"question": "now"}
    return [adapter.format(program.signature, program.demos, now) for adapter in adapters]


def stored_and_loaded(program: dspy.Predict, again: dspy.Predict) -> dict[str, Any]:
    """Load what is stored of the one into the other, by way of a file; return the first stored demo."""
    content = dump_json(dump_state(program), "the state of the program")
    load_state(again, parse_json(content, "model.json"))
    return json.loads(content)["demos"][0]


def check_shown_alike(annotation: Any, value: Any) -> dspy.Predict:
    program, again = predictor(annotation), predictor(annotation)
    for demo in (
        dspy.Example(question=value, answer=value, augmented=True),
        {"question": value, "answer": value},
        {"answer": value, "question": "now"},
    ):
        program.demos = [demo]
        before = prompts(program)
        stored_and_loaded(program, again)
        assert prompts(again) == before == prompts(program)
        assert program_digest(again) == program_digest(program)
    return again


@pytest.mark.parametrize(("annotation", "value"), DECLARED, ids=repr)
def test_a_declared_value_is_shown_as_before(annotation: Any, value: Any) -> None:
    check_shown_alike(annotation, value)


@pytest.mark.parametrize(
    ("annotation", "value"),
    [(Person, Person(name="A")), (Aliased, Aliased(givenName="A")), (list[Person], [Person(name="A")])],
)
def test_a_model_is_shown_as_before_by_an_adapter_that_asks_the_model_itself(
    annotation: Any, value: Any
) -> None:
    program, again = predictor(annotation), predictor(annotation)
    program.demos = [dspy.Example(question=value, answer=value)]
    before = prompts(program, [BAMLAdapter()])
    stored_and_loaded(program, again)
    assert prompts(again, [BAMLAdapter()]) == before


@pytest.mark.parametrize("value", UNDECLARED, ids=repr)
def test_a_value_of_another_type_than_declared_is_shown_as_before(value: Any) -> None:
    check_shown_alike(str, value)


@pytest.mark.parametrize(("annotation", "value"), DECLARED[:30], ids=repr)
def test_what_is_of_its_declared_type_is_so_again(annotation: Any, value: Any) -> None:
    (demo,) = check_shown_alike(annotation, value).demos
    assert demo["answer"] == value or repr(demo["answer"]) == repr(value)  # NaN is not equal to itself
    assert type(demo["answer"]) is type(value)


def test_what_dspy_itself_stores_is_stored_as_dspy_stores_it() -> None:
    program = predictor(Any)
    program.demos = [
        dspy.Example(question="a", answer=[1, 2.5, None, {"b": Person(name="A")}], augmented=True)
    ]
    demo = stored_and_loaded(program, predictor(Any))
    assert demo == json.loads(json.dumps(program.dump_state()["demos"][0]))


def test_a_column_that_is_no_field_is_kept_if_it_is_json_and_else_left_out() -> None:
    program = predictor(str)
    unused: dict[str, Any] = {
        "kept": {"a": [1, 2.5, None, True, "x"]}, "nan": math.nan, "deep": [{"a": -math.inf}], "lone": "\ud800",
        "day": dt.date(2020, 1, 1), "lock": threading.Lock(), "keys": {1: 2},
    }  # fmt: skip
    program.demos = [dspy.Example(question="q", answer="a", **unused)]
    demo = stored_and_loaded(program, predictor(str))
    assert demo == {"question": "q", "answer": "a", "kept": {"a": [1, 2.5, None, True, "x"]}}


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (
            "a\ud800",
            r"field 'answer' of a demo \(str\) cannot be stored: it holds U\+D800, half of a surrogate",
        ),
        (["\udfff"], r"field 'answer' of a demo \(list\) cannot be stored: it holds U\+DFFF"),
        ([b"\xff"], "field 'answer' of a demo holds a list that JSON does not bring back .* declared as str"),
    ],
)
def test_what_would_not_come_back_is_refused_by_the_name_of_its_field(value: Any, words: str) -> None:
    program = predictor(str)
    program.demos = [{"question": "q", "answer": value}]
    with pytest.raises(InputError, match=words) as refused:
        dump_state(program)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "value", [threading.Lock(), search, lambda: None, [object()], {"a": object()}, Point(object(), 1.0)]
)
def test_a_live_object_is_refused_by_the_name_of_its_field(value: Any) -> None:
    signature = predictor(Any).signature
    with pytest.raises(LiveObject, match=r"field 'answer' of a demo holds a .* which cannot be stored"):
        dump_demo({"answer": value}, signature)


@pytest.mark.parametrize("types", [[], "str", {"a": 1}, {"question": "os.path"}])
def test_a_demo_with_types_of_another_kind_is_corrupt(types: Any) -> None:
    with pytest.raises(Corrupt):
        load_demo({"question": "q", "dspy_nb_types": types}, predictor(str).signature)


def test_a_demo_that_is_none_is_refused() -> None:
    with pytest.raises(InputError, match=r"a demo must be a dspy.Example or a dict, not a str"):
        dump_demo("question", predictor(str).signature)


def test_what_was_stored_before_values_had_types_keeps_its_digest() -> None:
    """Files of older versions hold dates as Python writes them, and unused columns as text."""
    program = predictor(dt.datetime)
    state = json.loads(dump_json(dump_state(program), "state"))
    state["demos"] = [{"question": "2020-01-02T03:04:00+00:00", "answer": "2020-01-02", "day": "2020-01-01"}]
    load_state(program, state)
    assert json.loads(dump_json(dump_state(program), "state"))["demos"] == state["demos"]


values = {
    str: st.text(max_size=5),
    int: st.integers(),
    float: st.floats(),
    bool: st.booleans(),
    bytes: st.text(max_size=3).map(str.encode),
    Mood: st.sampled_from(Mood),
    uuid.UUID: st.uuids(),
    decimal.Decimal: st.decimals(allow_nan=False),
    dt.datetime: st.datetimes(timezones=st.sampled_from([None, dt.UTC, ZONE])),
    dt.date: st.dates(),
    dt.timedelta: st.timedeltas(),
    Person: st.builds(
        Person, name=st.text(max_size=3), born=st.none() | st.dates(), mood=st.sampled_from(Mood)
    ),
    Point: st.builds(Point, x=st.floats(), y=st.floats()),
}


@st.composite
def typed_values(draw: st.DrawFn) -> tuple[Any, Any]:
    annotation = draw(st.sampled_from(list(values)))
    inner = values[annotation]
    for _ in range(draw(st.integers(0, 2))):
        kind = draw(st.sampled_from(["list", "optional", "dict", "tuple"]))
        if kind == "list":
            annotation, inner = list[annotation], st.lists(inner, max_size=2)
        elif kind == "dict":
            annotation, inner = dict[str, annotation], st.dictionaries(st.text(max_size=2), inner, max_size=2)
        elif kind == "tuple":
            annotation, inner = tuple[annotation, int], st.tuples(inner, st.integers())
        else:
            annotation, inner = annotation | None, st.none() | inner
    return annotation, draw(inner)


@given(typed_values())
def test_any_value_of_any_declared_type_is_shown_as_before(typed: tuple[Any, Any]) -> None:
    check_shown_alike(*typed)
