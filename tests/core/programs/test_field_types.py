from __future__ import annotations

import sys
import typing
from datetime import date
from typing import Any, Literal, Optional

import dspy
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspy_nb.core.errors import Corrupt
from dspy_nb.core.programs.field_types import is_plain_type, parse_type, same_type, type_text
from tests.registry_samples import stays_in_the_error_tree


class Image(pydantic.BaseModel):
    """A class of the user with the name of one of DSPy."""

    size: int


@pytest.mark.parametrize(
    ("annotation", "text"),
    [
        (str, "str"),
        (int, "int"),
        (None, "None"),
        (Any, "Any"),
        (date, "date"),
        (list, "list"),
        (list[str], "list[str]"),
        (typing.List[str], "list[str]"),  # noqa: UP006 (both spellings are meant)
        (typing.Dict, "dict"),  # noqa: UP006
        (dict[str, list[int]], "dict[str, list[int]]"),
        (tuple[int, ...], "tuple[int, ...]"),
        (Optional[int], "int | None"),  # noqa: UP045
        (int | str, "int | str"),
        (Literal["a", "it's", -1, True, None], """Literal['a', "it's", -1, True, None]"""),
        (list[Literal["x"]], "list[Literal['x']]"),
        (dspy.Image, "Image"),
        (dspy.History, "History"),
    ],
)
def test_plain_types_become_text_and_come_back(annotation: Any, text: str) -> None:
    assert type_text(annotation) == text
    assert type_text(parse_type(text)) == text


def test_a_class_of_the_user_keeps_its_module_and_is_not_plain() -> None:
    assert type_text(Image) == f"{__name__}.Image"
    assert not is_plain_type(type_text(Image))
    assert not is_plain_type(type_text(list[Image]))


def test_a_class_that_moved_to_another_module_is_the_same_type() -> None:
    assert same_type("list[app.Answer]", "list[__main__.Answer]")
    assert not same_type("app.Answer", "app.Question")
    assert not same_type("Image", "app.Image")
    assert not same_type("Literal['a.b']", "Literal['c.b']")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "os",
        "os.path",
        "__import__('os')",
        "list[os.system]",
        "Literal[[1]]",
        "Literal[b'x']",
        "1 + 1",
        "list[",
        "(" * 300,
        "x" * 3000,
        "lambda: 1",
        "antigravity",
        "typing.List",
        "int; str",
        "Literal[int]",
        "\x00",
    ],
)
def test_anything_else_is_refused_and_nothing_is_imported(text: str) -> None:
    before = set(sys.modules)
    with pytest.raises(Corrupt, match="not one of the plain types"):
        parse_type(text)
    assert set(sys.modules) == before


@given(text=st.text(alphabet="intlisdcLera[]|,'. 0\\()", max_size=30) | st.text(max_size=20))
def test_any_text_is_a_type_or_corrupt(text: str) -> None:
    stays_in_the_error_tree(lambda: parse_type(text))
