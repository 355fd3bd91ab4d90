"""The model card as the registry browser shows it: all of it can be read, and none of it does anything."""

from __future__ import annotations

import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspy_nb.core.errors import Corrupt
from dspy_nb.core.registry.registry import Registry
from dspy_nb.notebook.widgets.model_card import card_html, markdown_html
from dspy_nb.views.card import LONGEST
from tests import ROOT

EXAMPLE = ROOT / "registry"

TAGS = set(
    "h4 h5 h6 p pre code em strong ul ol li blockquote hr br table thead tbody tr th td".split()  # noqa: SIM905
)
ATTRIBUTES = {"start": r"\d+", "style": r"text-align:(left|right|center)"}

PIECES = st.sampled_from([
    "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "<!--", "-->", "[a](javascript:alert(1))",
    "![a](http://example.org/a.png)", "<http://example.org>", "http://example.org", "[a]: http://example.org",
    "[a]", "&lt;script&gt;", "&#60;img&#62;", "&quot;", "```x\" onclick=\"y\n", "```", "~~~", "> ", "- ", "1. ",
    "# ", "## Notes {#top}", "=====", "    ", "| a | b |\n|---|:-:|\n| c | d |", "|", "\\", "`", "*", "_",
    "\n", "\n\n", "\t", "\0", " ", "a", '"', "'",
])  # fmt: skip


class _Elements(HTMLParser):
    """What a browser would make of a piece of HTML: its elements, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def inert(html: str) -> str:
    """Check that there is nothing in the HTML but text and its form, and return the text."""
    elements = _Elements(html)
    for tag, attributes in elements.found:
        assert tag in TAGS
        for name, value in attributes.items():
            assert re.fullmatch(ATTRIBUTES[name], value or ""), (tag, name, value)
    return elements.text


@pytest.mark.parametrize(
    "hostile",
    [
        "<script>alert(1)</script>",
        "text <img src=x onerror=alert(1)> text",
        "<div onmouseover='alert(1)'>\n\n# a\n\n</div>",
        "<style>body{display:none}</style>",
        "[click](javascript:alert(1))",
        "[click](https://example.org)",
        "![picture](https://example.org/a.png)",
        "<https://example.org>",
        "https://example.org www.example.org a@example.org",
        "[click][a] ![picture][a]\n\n[a]: https://example.org 'title'",
        "[//]: # (a comment that nobody would see)",
    ],
)
def test_html_links_and_pictures_are_shown_as_they_are_written(hostile: str) -> None:
    shown = inert(markdown_html(hostile))
    for word in re.findall(r"\w+", hostile):
        assert word in shown


def test_an_entity_is_a_character_and_never_markup() -> None:
    assert inert(markdown_html("&lt;script&gt; &#60;img src=x&#62; &quot; &amp;lt;")) == (
        '<script> <img src=x> " &lt;\n'
    )


def test_the_language_of_a_block_of_code_does_not_become_an_attribute() -> None:
    assert markdown_html('```python" onclick="alert(1)\nx\n```') == "<pre><code>x\n</code></pre>\n"


@given(st.lists(PIECES, max_size=40).map("".join))
def test_nothing_that_is_put_together_is_more_than_text(text: str) -> None:
    inert(markdown_html(text))


@pytest.mark.parametrize("opening", [">", "- ", "1. ", "> - ", "*a_ ", "[", "`", "***a"])
def test_deep_nesting_is_cut_off(opening: str) -> None:
    html = markdown_html(opening * (20_000 // len(opening)) + "a")
    inert(html)
    assert html.count("<blockquote>") + html.count("<li>") <= 40


def test_a_text_of_any_length_is_shown() -> None:
    text = "# <b>\n" * LONGEST
    assert inert(markdown_html(text)) == text


def test_headings_stay_below_those_around_them_and_have_no_anchors() -> None:
    shown = markdown_html("# A\n## B\n### C\n###### D\nE\n=\nF\n-\n")
    assert re.findall(r"<(h\d[^>]*)>(.)", shown) == [
        ("h4", "A"), ("h5", "B"), ("h6", "C"), ("h6", "D"), ("h4", "E"), ("h5", "F"),
    ]  # fmt: skip


def test_a_real_card_has_its_headings_tables_and_code() -> None:
    html = card_html(Registry(EXAMPLE).get("sentiment@1.1.0"))
    body = html.rpartition('<div class="dspy-nb card">')[2].removesuffix("</div>")
    text = inert(body)
    assert "<h4>sentiment 1.1.0</h4>" in body
    assert "<h5>How it was made</h5>" in body
    assert "<td>Optimizer</td>\n<td>BootstrapFewShotWithRandomSearch</td>" in body
    assert '<pre><code>import dspy_nb as nb\n\nregistry = nb.Registry("registry")' in body.replace(
        "&quot;", '"'
    )
    assert "exact_match('sentiment')" in text
    assert "**" not in text


def test_a_card_that_was_edited_is_not_shown(tmp_path: Path) -> None:
    shutil.copytree(EXAMPLE, tmp_path / "registry", symlinks=True)
    version = Registry(tmp_path / "registry").get("sentiment@1.1.0")
    (version.path / "README.md").write_text("# another card")
    with pytest.raises(Corrupt, match="was changed after it was registered"):
        card_html(version)
