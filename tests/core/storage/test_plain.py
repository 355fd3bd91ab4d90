"""Any value as JSON data: what an evaluation stores of typed inputs, labels and answers."""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import json
import math
import threading
import uuid
from pathlib import PurePosixPath
from typing import Any

import dspy
import pydantic
import pytest

from dspy_nb.core.errors import InputError
from dspy_nb.core.storage.files import dump_json
from dspy_nb.core.storage.plain import plain
from tests import name_of


class Mood(enum.Enum):
    GOOD = "good"


class Name(enum.StrEnum):
    A = "a"


class Person(pydantic.BaseModel):
    name: str
    mood: Mood = Mood.GOOD


def search(query: str) -> str:
    """Find it."""
    return query


@pytest.mark.parametrize(
    ("value", "data"),
    [
        (Mood.GOOD, "good"),
        (Name.A, "a"),
        ({Mood.GOOD: Mood.GOOD}, {"good": "good"}),
        (Person(name="A"), {"name": "A", "mood": "good"}),
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (decimal.Decimal("1.50"), "1.50"),
        (PurePosixPath("a/b"), "a/b"),
        (b"text", "text"),
        (b"\xff", "\\xff"),
        ("a\ud800", "a\\ud800"),
        ({"\ud800": 1}, {"\\ud800": 1}),
        (frozenset({1}), [1]),
        (math.nan, None),
        (search, "search"),
        (dspy.Tool(search), {"name": "search", "desc": "Find it.", "args": {"query": {"type": "string"}}}),
    ],
    ids=name_of,
)
def test_a_value_becomes_json_data_that_can_be_written(value: Any, data: Any) -> None:
    assert plain(value) == data
    assert json.loads(json.dumps(plain(value)).encode()) == data


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Mood.GOOD, '"good"'),
        (uuid.UUID(int=1), '"00000000-0000-0000-0000-000000000001"'),
        (decimal.Decimal("1.50"), '"1.50"'),
        (dt.timedelta(seconds=1), '"0:00:01"'),
        (dt.time(1, 2), '"01:02:00"'),
        (PurePosixPath("a/b"), '"a/b"'),
    ],
)
def test_facts_may_be_of_these_types(value: Any, text: str) -> None:
    assert dump_json(value, "the metadata").decode().strip() == text


def test_half_of_a_surrogate_pair_is_named_instead_of_a_codec() -> None:
    with pytest.raises(
        InputError, match=r"the notes cannot be stored: it holds U\+D800, half of a surrogate"
    ):
        dump_json({"notes": "\ud800"}, "the notes")
    with pytest.raises(InputError, match="a lock is no JSON value"):
        dump_json({"notes": threading.Lock()}, "the notes")
