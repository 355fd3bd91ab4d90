"""Tables of examples: what they show, what they leave out and say so, and that nothing in them is markup."""

from __future__ import annotations

import base64
import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import dspy
import pytest

import dspy_nb as nb
from dspy_nb.core.programs.lm_call import LMCall
from dspy_nb.views.examples.columns import FOLDED, OPEN, field_text
from dspy_nb.views.rendering.style import STYLE
from tests.scripted import classifier, reviews, scripted_lm

HOSTILE = '</script><script>alert(1)</script><b onclick="x">\u202egnp\x1b[31m\x00'


class Tags(HTMLParser):
    """The tags of a piece of HTML with their attributes, and the text of its scripts."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self._in_script = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._in_script = tag == "script"

    def handle_data(self, data: str) -> None:
        if self._in_script:
            self.scripts.append(data)
            self._in_script = False


def evaluated(*values: Any, answer: Any = "a") -> nb.Evaluation:
    data = [dspy.Example(q=value, a="a").with_inputs("q") for value in values]
    return nb.evaluate(lambda q: {"a": answer}, data, lambda example, prediction, trace=None: 0.5)


def rows(html: str) -> int:
    return html.count('<tr class="more">')


def test_whatever_is_in_a_field_is_text_and_nothing_is_loaded() -> None:
    call = LMCall(({"role": HOSTILE, "content": HOSTILE},), HOSTILE, 1, 1, 0.5, False, True, HOSTILE)
    found = evaluated(HOSTILE, [HOSTILE, {HOSTILE: None}], None, b"\xff", 10**5000, answer=HOSTILE)
    found = replace(found, results=tuple(replace(result, calls=(call,)) for result in found.results))
    for html in (found.to_html(), found.examples().to_html()):
        parsed = Tags(html)
        assert {tag for tag, _ in parsed.tags} <= {
            "div", "style", "caption", "h4", "p", "table", "thead", "tbody", "tr", "th", "td", "svg", "line",
            "circle", "dl", "dt", "dd", "details", "summary", "pre", "span", "script", "strong",
        }  # fmt: skip
        assert not any(name.startswith("on") for _, attributes in parsed.tags for name in attributes)
        assert len(parsed.scripts) == 1
        assert not re.search(r"https?:|//\w|@import|url\(|src=|href=", html)
        assert not re.search("[\u202e\x1b\x00]", html)
        assert r"\u202egnp\x1b[31m\x00" in html
        assert "cut off by the limit of tokens" in html


def test_a_document_has_the_script_once_and_the_table_stands_without_it() -> None:
    with dspy.context(lm=scripted_lm()):
        found = nb.compare_many(
            classifier(), [classifier(), classifier()], reviews(6), nb.exact_match("sentiment")
        )
    html = found.to_html()
    assert html.count("<script>") == 1
    assert html.count('<div class="examples"') == 2
    parsed = Tags(html)
    table = html[html.index('<div class="examples"') :]
    assert table.count("<th scope=") == table.count("<th ")
    assert not any("hidden" in attributes for _, attributes in parsed.tags)


def test_more_than_the_cap_is_left_out_and_a_notice_says_how_to_see_it() -> None:
    found = evaluated(*map(str, range(1200)))
    folded, alone = found.to_html(), found.examples().to_html()
    assert rows(folded) <= FOLDED.rows
    assert rows(alone) <= OPEN.rows
    for html, cap in ((folded, FOLDED), (alone, OPEN)):
        assert re.search(
            rf"{rows(html):,} of 1,200 examples are shown, the wrong ones first "
            rf"\(at most {cap.rows:,}, and {cap.kilobytes} KB\)",
            html,
        )
        assert len(html) < 1000 * cap.kilobytes + len(STYLE) + 12_000
    assert "filters such as .examples(wrong=True) show others, .examples().to_frame() has all." in alone
    assert "40 of 1,200 examples are shown" in found.examples().report()


def test_a_book_in_each_field_leaves_several_examples_and_says_how_much_is_missing() -> None:
    html = evaluated(*(f"{number} {'long ' * 100_000}" for number in range(50))).to_html()
    assert 5 < rows(html) < 50
    assert len(html) < 80_000
    assert "more characters)" in html
    fields = {f"field {number}": "x" for number in range(500)}
    data = [dspy.Example(**fields).with_inputs(*fields)]
    wide = nb.evaluate(lambda **given: {"a": 1}, data, lambda e, p, t=None: True).to_html()
    assert "and 460 more fields" in wide


def test_wrong_ones_come_first_and_errors_before_them() -> None:
    def program(q: str) -> dict[str, str]:
        if q == "6":
            raise ValueError("no six")
        return {"a": "right" if q in "0123" else "wrong"}

    data = [dspy.Example(q=str(number), a="right").with_inputs("q") for number in range(8)]
    found = nb.evaluate(program, data, nb.exact_match("a"))
    lines = [line.split()[0] for line in found.examples().report().splitlines() if line[:8].strip().isdigit()]
    assert lines == ["6", "4", "5", "7", "0", "1", "2", "3"]
    assert "no answer: ValueError: no six" in found.examples().to_markdown()
    assert "Examples: 4 wrong, 1 with an error" in found.to_html()
    assert "no answer" not in found.report()  # which is short: as text, examples are asked for


def test_a_grade_below_the_best_is_not_called_wrong() -> None:
    html = evaluated("x").to_html()
    assert "Examples: 1 not fully right" in html
    assert 'data-wrong="Not fully right"' in html


def test_what_prompts_begin_with_is_shown_once_and_each_call_says_what_it_took() -> None:
    taught = classifier()
    taught.demos = reviews(8, "demo")
    with dspy.context(lm=scripted_lm()):
        found = nb.evaluate(taught, reviews(20), nb.exact_match("sentiment"))
    html = found.examples().to_html()
    assert html.count("demo 7 is good") == 1
    assert html.count("beginning 1, above the table (17 messages)") == 20
    assert html.count("LM call 1: scripted/model, 10 + 5 tokens") == 20
    assert html.count("item 5 is good") >= 3  # in the column, in the field, in the prompt


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (b"12345", "(5 bytes)"),
        (None, "None"),
        ({"a": [1, None]}, '{"a": [1, null]}'),
        (f"see data:image/png;base64,{base64.b64encode(bytes(3000)).decode()}.", "see (image/png, 3 KB)."),
        ("שלום", "שלום"),
    ],
)
def test_a_value_is_said_in_words_where_it_is_no_text(value: Any, text: str) -> None:
    assert field_text(value) == text


def test_a_value_that_contains_itself_is_said_as_python_says_it() -> None:
    loop: list[Any] = []
    loop.append(loop)
    assert field_text(loop) == "[[...]]"


def test_texts_from_right_to_left_keep_their_direction() -> None:
    html = evaluated("שלום").examples().to_html()
    assert '<td dir="auto" class="text" style="text-align:left">שלום</td>' in html
