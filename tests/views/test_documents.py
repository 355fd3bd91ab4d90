"""One document for each type of result, and three renderers for all of them."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys

import pytest
from markdown_it import MarkdownIt

import dspy_nb
import dspy_nb.core
from dspy_nb.core.doors import Shown
from dspy_nb.core.text import markdown_text
from dspy_nb.views.documents import _VIEWS, Changes, Details, Document, Note, document
from dspy_nb.views.listings import Listing
from dspy_nb.views.rendering.html import to_html
from dspy_nb.views.rendering.markdown import to_markdown
from dspy_nb.views.rendering.text import to_text


def test_every_result_that_shows_has_its_view_and_every_view_its_results() -> None:
    for module in pkgutil.walk_packages(dspy_nb.core.__path__, "dspy_nb.core."):
        importlib.import_module(module.name)
    shown = {
        kind.__name__: kind for kind in Shown.__subclasses__() if kind.__module__.startswith("dspy_nb.core")
    }
    named = {name: view for view, names in _VIEWS.items() for name in names.split()}
    assert set(named) == set(shown)
    for name, view in named.items():
        importlib.import_module(f"dspy_nb.views.{view}")
        assert document.dispatch(shown[name]) is not document.dispatch(object), name


def test_the_doors_lead_somewhere() -> None:
    for door in dspy_nb.FRONTS.values():
        module, name = door.split(":")
        assert callable(getattr(importlib.import_module(module), name))


def test_a_new_type_of_result_shows_once_its_view_is_registered() -> None:
    class Sweep(Shown):
        best = "<b>"

    with pytest.raises(TypeError, match="no view of a Sweep"):
        Sweep().report()

    @document.register(Sweep)
    def _(sweep: Sweep) -> Document:
        return Document("Sweep", [Note(f"The best is {sweep.best}.")])

    assert Sweep().report() == "Sweep\n\nThe best is <b>."
    assert Sweep().to_markdown() == "### Sweep\n\nThe best is &lt;b&gt;.\n"
    assert "<h4>Sweep</h4><p>The best is &lt;b&gt;.</p>" in Sweep().to_html()
    assert set(Sweep()._repr_mimebundle_()) == {"text/plain", "text/html"}


def test_a_list_of_nothing_says_so() -> None:
    assert Listing([], "History of m").report() == "History of m\n\nNothing yet."


def test_what_is_wide_is_no_text_and_a_diff_keeps_its_signs() -> None:
    shown = Document(
        "t", [Details("Matrix", [Note("wide")], wide=True), Changes([("+", "a <b>"), (" ", "c")], "demos")]
    )
    assert to_text(shown) == "t\n\ndemos\n+ a <b>\n  c"
    assert '<div class="added">+ a &lt;b&gt;</div><div>  c</div>' in to_html(shown)
    assert "<pre>+ a &lt;b&gt;&#10;  c</pre>" in to_markdown(shown)
    assert "Matrix" in to_html(shown)


def test_neither_listings_nor_wording_import_dspy() -> None:
    code = "import sys, dspy_nb.views.listings, dspy_nb.views.monitor, dspy_nb.core.programs.usage\n"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}print('dspy' in sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize(
    "text",
    ["# t", "1. x", "12) x", "- a", "+ b", "* c", "---", "===", "- - -", "> q", "<b>&amp;", "a_b_ *c* `d` ~~e~~",
     "[l](http://x) ![i](y)", "a | b", "\\# x", "-0.5", "+12.0 points [-1.0, +2.0]", "$x$"],
)  # fmt: skip
def test_text_from_outside_means_nothing_to_markdown(text: str) -> None:
    markdown = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    escaped = markdown.render(markdown_text(text))
    shown = escaped.removeprefix("<p>").removesuffix("</p>\n")
    assert "<" not in shown
    assert shown.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&") == text
