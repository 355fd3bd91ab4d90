"""Whoever may write into an example or a prediction gets a copy; what has an identity is shared."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import dspy
import numpy as np
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspy_nb.core.data.copying import own_copy

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3) | st.binary(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.tuples(inner) | st.dictionaries(st.text(max_size=2), inner)
    ),
    max_leaves=8,
)


class Model(pydantic.BaseModel):
    tags: list[str]


@dataclass
class Record:
    tags: list[str] = field(default_factory=lambda: ["a"])


class Client:
    """Compared by identity."""

    def __init__(self) -> None:
        self.lock = threading.Lock()


class Stubborn:
    """Compared by value, and no copy can be made of it."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stubborn)

    __hash__ = None

    def __deepcopy__(self, memo):
        raise TypeError("no copies")


def write_into(value: object) -> None:
    """Change everything in a value that can be changed."""
    if isinstance(value, list):
        for item in value:
            write_into(item)
        value.append("written")
    elif isinstance(value, dict):
        for item in value.values():
            write_into(item)
        value["written"] = True
    elif isinstance(value, tuple):
        for item in value:
            write_into(item)


@given(VALUES)
def test_a_copy_is_equal_and_what_is_written_into_it_stays_in_it(value) -> None:
    example = dspy.Example(value=value, label="x").with_inputs("value")
    copied = own_copy(example)
    assert copied == example
    assert copied.inputs().keys() == ["value"]
    before = repr(value)
    write_into(copied["value"])
    copied["label"] = "y"
    del copied["value"]
    assert (repr(example["value"]), example.label) == (before, "x")


@pytest.mark.parametrize(
    "value", [Model(tags=["a"]), Record(), {"a", "b"}, bytearray(b"ab")], ids=lambda v: type(v).__name__
)
def test_models_and_the_like_are_copied_at_any_depth(value) -> None:
    copied = own_copy({"nested": [value]})["nested"][0]
    assert copied == value
    assert copied is not value
    assert getattr(copied, "tags", None) is not getattr(value, "tags", 0)


def test_an_array_is_copied() -> None:
    array = np.zeros(3)
    own_copy(dspy.Example(array=array)).array[0] = 1
    assert array[0] == 0


@pytest.mark.parametrize(
    "value", [Client(), Stubborn(), print, Model, threading.Lock()], ids=lambda v: type(v).__name__
)
def test_what_has_an_identity_or_cannot_be_copied_is_shared(value) -> None:
    assert own_copy([value])[0] is value


def test_what_contains_itself_is_shared() -> None:
    loop: list[object] = []
    loop.append(loop)
    assert own_copy(loop) is loop


def test_a_prediction_keeps_what_dspy_knows_of_it() -> None:
    prediction = dspy.Prediction.from_completions({"answer": ["a", "b"]})
    prediction.set_lm_usage({"m": {"tokens": 1}})
    copied = own_copy(prediction)
    assert type(copied) is dspy.Prediction
    assert copied.get_lm_usage() == {"m": {"tokens": 1}}
    copied.completions.answer.append("c")
    assert prediction.completions.answer == ["a", "b"]
