"""When two values are the same: typed answers against what data sets hold, in both directions."""

from __future__ import annotations

import collections
import dataclasses
import datetime as dt
import decimal
import enum
import fractions
import ipaddress
import pathlib
import typing
import uuid

import dspy
import numpy as np
import pandas as pd
import pydantic
import pytest

from dspy_nb.core.data.equality import is_gap, same_exactly, same_normalized, same_stripped, word_set
from dspy_nb.core.data.metrics import accuracy, exact_match, partial_credit, token_f1
from tests import name_of

NOON = dt.datetime(2020, 1, 2, 12, tzinfo=dt.UTC)
DAY = dt.date(2020, 1, 2)
FIVE = uuid.UUID(int=5)


class Mood(enum.Enum):
    GOOD = "good"
    BAD = "bad"


class Crossed(enum.Enum):
    A = "B"
    B = "A"


class Alike(enum.Enum):
    LOWER = "a"
    UPPER = "A"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Letter(enum.StrEnum):
    A = "a"
    B = "b"


class Right(enum.Flag):
    READ = 1
    WRITE = 2


class Helpful(enum.Enum):
    YES = "yes"

    @classmethod
    def _missing_(cls, value):
        return cls.YES if value == "of course" else None


class Person(pydantic.BaseModel):
    name: str
    born: dt.date | None = None
    tags: list[str] = []


class Renamed(pydantic.BaseModel):
    full: str = pydantic.Field(alias="fullName")
    mood: Mood = Mood.GOOD
    at: dt.datetime | None = None


class Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(strict=True)
    day: dt.date
    key: uuid.UUID


class Blob(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")
    content: bytes
    kind: int = 1


class Closed(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")
    name: str


class Open(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow")
    name: str


class Changing(pydantic.BaseModel):
    name: str
    size: int = 1

    @pydantic.model_validator(mode="before")
    @classmethod
    def of_old_data(cls, data):
        if isinstance(data, dict) and "title" in data:
            data["name"] = data.pop("title")
        return data


class Raising(pydantic.BaseModel):
    name: str

    @pydantic.model_validator(mode="before")
    @classmethod
    def fails(cls, data):
        if data != {"name": "fine"}:
            raise ZeroDivisionError
        return data


class Names(pydantic.RootModel[list[str]]):
    pass


class Cat(pydantic.BaseModel):
    name: str


class Dog(pydantic.BaseModel):
    name: str


@dataclasses.dataclass
class Visit:
    count: int
    day: dt.date
    who: Person | None = None
    notes: list = dataclasses.field(default_factory=list)
    seen: float = dataclasses.field(default=0.0, compare=False)


class Point(typing.NamedTuple):
    x: int
    y: int = 0


class Trip(typing.TypedDict):
    start: dt.date
    who: Person


def redefined(cls):
    """Return a class as a notebook's cell defines it when it runs again."""
    return pydantic.create_model(cls.__name__, name=(str, ...))


SAME = [
    # dates, numbers, and other single values
    ("2020-01-02T12:00:00Z", NOON),
    ("2020-01-02T13:00:00+01:00", NOON),
    (str(NOON), NOON),
    (NOON.astimezone(dt.timezone(dt.timedelta(hours=5))), NOON),
    (" 2020-01-02 ", DAY),
    ('"2020-01-02"', DAY),
    ("2020-01-02T00:00:00", DAY),
    (dt.datetime(2020, 1, 2), DAY),
    (pd.Timestamp("2020-01-02"), DAY),
    ("2020-01-02", pd.Timestamp("2020-01-02")),
    (np.datetime64("2020-01-02T12:00:00", "ns"), dt.datetime(2020, 1, 2, 12)),
    ("03:04", dt.time(3, 4)),
    ("PT1H", dt.timedelta(hours=1)),
    (3600, dt.timedelta(hours=1)),
    ("1 day, 1:00:00", dt.timedelta(days=1, hours=1)),
    (str(FIVE).upper(), FIVE),
    ("1.50", decimal.Decimal("1.5")),
    (0.1, decimal.Decimal("0.1")),
    (fractions.Fraction(1, 2), "1/2"),
    ("abc", b"abc"),
    ("a/b", pathlib.Path("a/b")),
    ("127.0.0.1", ipaddress.ip_address("127.0.0.1")),
    ("1", True),
    ("0", np.bool_(False)),
    ("3.0", 3),
    ("4", np.int64(4)),
    ("12345678901234567891", 12345678901234567891),
    # enums, by value and by name
    ("good", Mood.GOOD),
    ("GOOD", Mood.GOOD),
    ("Good", Mood.GOOD),
    ("B", Crossed.A),
    ("A", Alike.UPPER),
    (1, Level.LOW),
    (1.0, Level.LOW),
    ("1", Level.LOW),
    ("LOW", Level.LOW),
    ("a", Letter.A),
    (3, Right.READ | Right.WRITE),
    ("READ|WRITE", Right.READ | Right.WRITE),
    ("READ", Right.READ),
    ("of course", Helpful.YES),
    # records
    ({"name": "A"}, Person(name="A")),
    ('{"name": "A"}', Person(name="A")),
    ("{'name': 'a'}", Person(name="A")),
    ({"name": "A", "born": "2020-01-02"}, Person(name="a", born=DAY)),
    ({"name": "A", "unknown": 1}, Person(name="A")),
    ({"fullName": "x", "mood": "GOOD"}, Renamed(fullName="x")),
    ({"full": "x", "at": "2020-01-02T12:00:00Z"}, Renamed(fullName="x", at=NOON)),
    ({"day": "2020-01-02", "key": str(FIVE)}, Strict(day=DAY, key=FIVE)),
    ({"content": "YWJj"}, Blob(content=b"abc")),
    ({"name": "a", "more": "X"}, Open(name="a", more="x")),
    ({"title": "a"}, Changing(name="a")),
    (["a"], Names(["a"])),
    ('["a"]', Names(["A"])),
    ({"count": 1, "day": "2020-01-02"}, Visit(1, DAY, seen=7)),
    ('{"count": 1, "day": "2020-01-02", "who": {"name": "A"}}', Visit(1, DAY, Person(name="A"))),
    (Visit(1, DAY, seen=1), Visit(1, DAY, seen=2)),
    ([1, 0], Point(1)),
    ([1], Point(1)),
    ({"x": 1}, Point(1)),
    ("[1, 0]", Point(1)),
    ((1, 0), Point(1)),
    ({"start": "2020-01-02", "who": {"name": "A"}}, Trip(start=DAY, who=Person(name="A"))),
    ({"name": "A"}, dspy.Example(name="a")),
    ("print()", dspy.Code(code="print()")),
    (Person(name="a"), Person(name="A")),
    (redefined(Cat)(name="a"), Cat(name="a")),
    # containers of them
    ([{"name": "A"}], [Person(name="A")]),
    ('[{"name": "A"}]', [Person(name="A")]),
    (['{"name": "A"}'], [Person(name="A")]),
    ({"k": {"name": "A"}}, {"k": Person(name="A")}),
    (["2020-01-02"], {DAY}),
    (["2020-01-02", "a"], (DAY, "a")),
    ('["2020-01-02"]', frozenset({DAY})),
    ({"2020-01-02": 1}, {DAY: 1}),
    ({"1": "a"}, {1: "a"}),
    ({"GOOD": 1}, {Mood.GOOD: 1}),
    (collections.deque([1]), [1]),
    (np.array(["a"]), ["A"]),
    ('["a", "b"]', ["a", "b"]),
    ("['a', 'b']", ["a", "b"]),
    ('["a", "b"]', {"b", "a"}),
    ('{"a": [1]}', {"a": [1]}),
]

DIFFERENT = [
    ("2020-01-02T12:00:00", NOON),
    ("2020-01-02T12:00:01Z", NOON),
    (dt.datetime(2020, 1, 2, 1), DAY),
    ("yesterday", DAY),
    (None, NOON),
    (str(uuid.UUID(int=6)), FIVE),
    ("1,000", 1000),
    ("yes", True),
    ("1.0", True),
    ("9007199254740993", 9007199254740992),
    ("A", b"a"),
    ('"abc"', b"abc"),
    ("**********", pydantic.SecretStr("x")),
    (decimal.Decimal("sNaN"), 1),
    (float("nan"), float("nan")),
    ([float("nan")], [float("nan")]),
    (pd.NA, 1),
    (pd.NaT, NOON),
    (pd.DataFrame({"a": [1]}), 1),
    (object(), "x"),
    ("5", "5.0"),
    ("A", Crossed.A),
    ("a", Alike.UPPER),
    (Alike.LOWER, Alike.UPPER),
    ("BAD", Mood.GOOD),
    (Mood.BAD, Mood.GOOD),
    (enum.Enum("Other", {"FINE": "good"}).FINE, Mood.GOOD),
    ("2", Level.LOW),
    (4, Right.READ),
    ({"name": "B"}, Person(name="A")),
    ({"name": "A", "tags": ["x"]}, Person(name="A")),
    ({}, Person(name="A")),
    ([], Person(name="A")),
    ("A", Person(name="A")),
    ({"name": "A", "unknown": 1}, Closed(name="A")),
    ({"name": "A", "more": 1}, Open(name="A")),
    ({"name": "other"}, Raising(name="fine")),
    (Cat(name="a"), Dog(name="a")),
    ({"count": 1}, Visit(1, DAY)),
    ([2], Point(1)),
    (["2020-01-03"], {DAY}),
    ({"1": "a"}, {2: "a"}),
    ({"A": 1}, {"a": 1}),
    ('["a"]', ["b"]),
    ("[a]", ["a"]),
    ("[", ["["]),
    ("[]", {}),
    ("null", None),
]


def both_ways(pairs):
    pairs = [*pairs, *((b, a) for a, b in pairs)]
    return pytest.mark.parametrize(("gold", "pred"), pairs, ids=name_of)


@both_ways(SAME)
def test_a_value_is_what_its_type_reads(gold, pred) -> None:
    assert same_normalized(gold, pred)
    assert same_stripped(gold, pred)


@both_ways(DIFFERENT)
def test_another_value_is_not(gold, pred) -> None:
    assert not same_normalized(gold, pred)
    assert not same_stripped(gold, pred)
    assert not same_exactly(gold, pred)


@both_ways(
    [
        ("2020-01-02T12:00:00Z", NOON),
        (str(FIVE), FIVE),
        ("good", Mood.GOOD),
        ("GOOD", Mood.GOOD),
        (1, Level.LOW),
        ("1", Level.LOW),
        ({"name": "A"}, Person(name="A")),
        ('{"name": "A"}', Person(name="A")),
        ('[{"name": "A"}]', [Person(name="A")]),
        (["2020-01-02"], {DAY}),
        ('["a"]', {"a"}),
        ('["a"]', ("a",)),
        ('["a"]', Names(["a"])),
        ([("a", 1)], [["a", 1]]),
        ({"1": "a"}, {1: "a"}),
        (np.array([1, 2]), [1, 2]),
        (["a"], {"a"}),
    ]
)
def test_to_the_letter_what_json_cannot_hold_is_read_all_the_same(gold, pred) -> None:
    assert same_exactly(gold, pred)


@both_ways(
    [
        (4, "4"),
        (True, "true"),
        ([4], ["4"]),
        ('["a"]', ["a"]),
        ("Good", Mood.GOOD),
        ({"name": "a"}, Person(name="A")),
        ("e\u0301", "é"),
        (" a", "a"),
    ]
)
def test_to_the_letter_json_is_what_it_is(gold, pred) -> None:
    assert not same_exactly(gold, pred)


def test_reading_a_value_does_not_change_it() -> None:
    gold = {"title": "a", "size": 2}
    assert same_normalized(gold, Changing(name="a", size=2))
    assert gold == {"title": "a", "size": 2}


def test_values_that_stand_for_none_are_gaps() -> None:
    assert all(is_gap(value) for value in (None, float("nan"), np.float64("nan"), pd.NA, pd.NaT))
    assert not any(is_gap(value) for value in (0, "", [], np.array([1, 2]), DAY, Person(name="A")))


def test_an_array_may_be_a_label() -> None:
    metric = exact_match("a")
    example = dspy.Example(q="?", a=np.array([1, 2])).with_inputs("q")
    metric.check([example])
    assert metric(example, dspy.Prediction(a=[1, 2])) is True


@pytest.mark.parametrize(
    ("gold", "pred", "f1", "credit"),
    [
        ("2020-01-02T13:00:00+01:00", NOON, 1, 1),
        ("GOOD", Mood.GOOD, 1, 1),
        ({"name": "red fox"}, Person(name="red owl"), 1 / 2, 1 / 2),
        ('["red fox"]', ["red owl"], 1 / 2, 1 / 2),
        (["2020-01-02T00:00", "2020-01-03"], [dt.datetime(2020, 1, 2), DAY], 1 / 2, 1 / 2),
        ("BAD", Mood.GOOD, 0, 0),
        ("1.50", decimal.Decimal("1.5"), 1, 1),
        (str(uuid.UUID(int=6)), FIVE, 0, 0),
        (None, Person(name="A"), 0, 0),
    ],
)
def test_words_of_typed_values_are_those_of_what_they_hold(gold, pred, f1, credit) -> None:
    for one, other in ((gold, pred), (pred, gold)):
        example, answer = dspy.Example(a=one), dspy.Prediction(a=other)
        assert token_f1("a")(example, answer) == pytest.approx(f1)
        assert partial_credit("a")(example, answer) == pytest.approx(credit)
        assert accuracy("a")(example, answer) is (credit == 1)


def test_words_of_a_record_are_those_of_its_fields() -> None:
    assert word_set(Visit(1, DAY, Person(name="A B"), ["c"])) == {"1", "2020-01-02", "a", "b", "c"}


def test_feedback_says_what_was_got_and_what_was_expected() -> None:
    metric = dataclasses.replace(exact_match("a"), feedback=True)
    result = metric(dspy.Example(a={"name": "B"}), dspy.Prediction(a=Cat(name="A")))
    assert result.feedback == "a: got Cat(name='A'), expected {'name': 'B'}."
