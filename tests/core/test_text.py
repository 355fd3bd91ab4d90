"""Text from outside in every output: nothing hidden, nothing a terminal obeys, nothing that cannot be encoded."""

from __future__ import annotations

import json
import unicodedata
from collections import namedtuple
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from dspy_nb.core.errors import InputError, failure_text
from dspy_nb.core.models.card import model_card
from dspy_nb.core.supervision.budget import ErrorCount
from dspy_nb.core.text import error_text, excerpt, json_text, one_line, repaired, sayable, value_text, visible
from dspy_nb.views.documents import Bar, Code, Details, Document, Facts, Note, Table
from dspy_nb.views.rendering.html import to_html
from dspy_nb.views.rendering.markdown import to_markdown
from dspy_nb.views.rendering.text import to_text

HIDDEN = ("Cc", "Cf", "Cs", "Zl", "Zp")
ANY = st.text(st.characters(), max_size=8) | st.text(
    st.sampled_from("\x1b\x07\x9b\x7f\u202e\u2066\ufeff\ud83da\n\t")
)


def hidden(text: str, but: str = "\n\t") -> set[str]:
    return {character for character in text if unicodedata.category(character) in HIDDEN} - set(but)


def test_every_control_and_format_character_is_escaped_and_nothing_else() -> None:
    for code in range(0x110000):
        character = chr(code)
        if unicodedata.category(character) == "Cn":  # not assigned yet
            continue
        is_hidden = unicodedata.category(character) in HIDDEN and character not in "\n\t"
        assert (visible(f"a{character}b") != f"a{character}b") == is_hidden, hex(code)


@given(ANY)
def test_no_control_survives_and_doing_it_twice_changes_nothing(text: str) -> None:
    shown = visible(text)
    assert hidden(shown) <= {"\u200c", "\u200d"}
    assert visible(shown) == shown
    shown.encode()


def test_joiners_stay_where_they_belong() -> None:
    kept = "👩\u200d👩\u200d👧 می\u200cخواهم क्\u200dष"
    assert visible(kept) == kept
    assert visible("pay\u200dpal é\u200d\u202e") == r"pay\u200dpal é\u200d\u202e"


@given(
    st.recursive(ANY | st.integers() | st.none(), lambda inner: st.lists(inner) | st.dictionaries(ANY, inner))
)
def test_json_text_holds_no_control_and_reads_back_as_it_was(data: Any) -> None:
    for ascii_only in (False, True):
        text = json_text(data, ascii_only=ascii_only)
        assert hidden(text) <= {"\u200c", "\u200d"}
        assert json.loads(text) == data


@given(st.recursive(ANY | st.integers(), lambda inner: st.lists(inner) | st.dictionaries(ANY, inner)))
def test_what_is_repaired_can_be_encoded_and_what_is_whole_stays_itself(data: Any) -> None:
    whole = repaired(data)
    json.dumps(whole, ensure_ascii=False).encode()
    assert repaired(whole) is whole


def test_repair_looks_into_models_and_tuples() -> None:
    class Answer(BaseModel):
        text: str
        parts: tuple[str, ...] = ()

    pair = namedtuple("pair", "a b")
    assert repaired(Answer(text="\ud83d", parts=("x", "\udfff"))) == Answer(
        text=r"\ud83d", parts=("x", r"\udfff")
    )
    assert repaired(pair("\ud83d", 1)) == pair(r"\ud83d", 1)


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


def test_an_error_that_cannot_say_what_it_is_is_said_all_the_same() -> None:
    assert error_text(Mute()) == "(no message: its __str__ raised RuntimeError)"
    assert failure_text(Mute()) == "Mute: (no message: its __str__ raised RuntimeError)"
    errors = ErrorCount()
    errors.add(Mute(), "metric m: ")
    assert str(errors) == "1 x Mute: metric m: (no message: its __str__ raised RuntimeError)"
    assert value_text(Mute()) == "a Mute"
    error = Mute()
    sayable(error)
    assert isinstance(error, Mute)
    assert f"{error} {error!r}".count("no message") == 2


def test_an_error_of_ours_is_fit_for_a_terminal() -> None:
    error = InputError("a\x1b]0;PWN\x07 \u202e")
    assert str(error) == r"a\x1b]0;PWN\x07 \u202e"
    assert error._render_traceback_() == [r"InputError: a\x1b]0;PWN\x07 \u202e"]


def test_a_value_that_is_too_long_is_named_by_its_kind() -> None:
    assert value_text(10**5000) == "an integer too long to be shown"
    assert value_text("a\x1b") == r"'a\x1b'"


def documents(text: str) -> Document:
    blocks = [
        Note(text, True),
        Bar(None, text),
        Facts([(text, text)]),
        Code(text),
        Table([text], [[text]], caption=text),
    ]
    return Document(text, [*blocks, Details(text, [Note(text)])], text)


@pytest.mark.parametrize("render", [to_text, to_markdown, to_html])
@given(text=ANY)
def test_no_renderer_lets_a_control_through(render: Any, text: str) -> None:
    shown = render(documents(text))
    assert hidden(shown) <= {"\u200c", "\u200d"}
    shown.encode()


@given(ANY)
def test_neither_excerpts_nor_lines_nor_model_cards_hold_controls(text: str) -> None:
    predictor = {"path": "self", "fields": [{"name": text, "type": text, "role": "input"}]}
    metadata = {
        "model_id": "m", "version": "1.0.0", "notes": text, "optimizer": text, "hyperparameters": {text: text},
        "signature": {"predictors": [predictor]}, "packages": {}, "saved_at": "", "created_at": "", "parent": None,
        "program_class": text,
    }  # fmt: skip
    state = {"signature": {"instructions": text}, "demos": [{"a": text}]}
    card = model_card(metadata, state, {"score": None}, None)
    for shown in (card, excerpt(text, 20), one_line(text)):
        assert hidden(shown) <= {"\u200c", "\u200d"}
        shown.encode()
