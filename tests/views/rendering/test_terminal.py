"""What a terminal shows fits its width, and is coloured without a change to the words."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspy_nb.views.documents import Changes, Code, Details, Document, Facts, Note, Table
from dspy_nb.views.rendering.terminal import painted, table_lines, width_of, wrap
from dspy_nb.views.rendering.text import to_text

WIDTHS = (60, 80, 100, 200)
NAMES = ("version", "stage", "score", "optimizer", "language model", "created (UTC)", "why")
ROW = (
    "sentiment@1.10.0", "production", "71.7% [63.0%, 79.0%]", "BootstrapFewShotWithRandomSearch",
    "dspy-nb/SmolLM2-135M-Instruct-Q8_0", "2026-11-23 13:32", "better on reviews that the search never saw",
)  # fmt: skip


def plain(text: str) -> str:
    return re.sub(r"\x1b\[\d*m", "", text)


@pytest.mark.parametrize("width", [*WIDTHS, 40, 120])
def test_a_table_fits_and_loses_no_word(width: int) -> None:
    head, body, left_out = table_lines(NAMES, [ROW, ROW], width=width)
    assert max(map(width_of, head + body)) <= width
    assert not left_out
    squeezed = "".join(body).replace(" ", "")
    assert squeezed.count("sentiment@1.10.0") == 2
    assert all(word in squeezed or word[:7] in squeezed for cell in ROW for word in cell.split())


def test_a_narrow_table_loses_its_spare_columns_first_and_says_so() -> None:
    table = Table(NAMES, [ROW], spare=("why", "language model", "optimizer"))
    text = to_text(Document("", [table]), 80)
    assert "sentiment@1.10.0  production  71.7% [63.0%, 79.0%]" in text
    assert "not shown, for lack of room: optimizer, language model, why" in text
    assert "not shown" not in to_text(Document("", [table]))


@given(
    st.integers(40, 200),
    st.lists(st.lists(st.text("aB1 -/.é漢\u0301", max_size=40), min_size=3, max_size=3), max_size=4),
)
def test_no_line_is_longer_than_the_width_but_for_long_words(width: int, rows: list[list[str]]) -> None:
    names = ["one", "two words", "3"]
    cells = [[" ".join(cell.split()) for cell in row] for row in rows]
    head, body, _ = table_lines(names, cells, {2}, width=width)
    words = [word for row in cells for cell in row for word in cell.split()]
    longest = max(map(width_of, ["", *words])) + len("two words  ")
    assert all(width_of(line) <= max(width, longest) for line in head + body)
    assert "".join("".join(body).split()) != "" or not words


@pytest.mark.parametrize("width", WIDTHS)
def test_every_kind_of_block_fits(width: int) -> None:
    long = "many words " * 40
    blocks = [
        Note(long, warning=True), Facts([("name", long)]), Code(f"  {long}\nx = 1"), Table(NAMES, [ROW]),
        Changes([("+", long), ("-", "")], "instructions"), Details("More", [Note(long), Table(NAMES, [ROW])]),
    ]  # fmt: skip
    document = Document(long, blocks, long)
    text = to_text(document, width, colours=True)
    assert max(map(width_of, plain(text).splitlines())) <= width
    assert plain(text) == to_text(document, width)


def test_what_is_from_outside_stays_visible_between_colours() -> None:
    nasty = "a\x1b[2Jb"
    document = Document(nasty, [Note(nasty), Changes([("+", nasty)]), Table((nasty,), [(nasty,)])])
    assert "\x1b" not in plain(to_text(document, 60, colours=True))


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("Healthy: nothing speaks against it.", "32"),
        ("production: m@1.0.0 is degraded", "31"),
        ("NO  score  55.0% is below 60.0%", "31"),
        ("Inconclusive: no outcome counts yet.", "33"),
        ("no  when (UTC)", None),
        ("what was not healthy at all", None),
    ],
)
def test_a_verdict_has_its_colour(line: str, code: str | None) -> None:
    shown = painted(line, "")
    assert plain(shown) == line
    assert (f"\x1b[{code}m" in shown) if code else shown == line


def test_wide_characters_count_twice_and_marks_not_at_all() -> None:
    assert width_of("漢字") == 4
    assert width_of("e\u0301") == 1
    assert wrap("漢字 漢字 漢字", 10) == ["漢字 漢字", "漢字"]
