"""Tables of examples in a real JupyterLab: live, saved, not trusted, and as the page that nbconvert writes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbconvert import HTMLExporter

from tests.browser import DARK, LIGHT, Notebook
from tests.notebook.browser.test_looks import show_in

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]

_SETUP = """
%load_ext dspy_nb
import dspy
from tests.scripted import classifier, reviews, scripted_lm
dspy.configure(lm=scripted_lm())
data = reviews(30)
data[4].review += " </script><b>bold</b>"
taught = classifier()
taught.demos = reviews(2, "demo")
"""
_EVALUATE = (
    "program = classifier()\nev = %dspy_evaluate program --data data --metric exact_match:sentiment -q\nev"
)
_COMPARE = (
    "import dspy_nb as nb\n"
    "nb.compare(program, taught, data, nb.exact_match('sentiment'), sequential=False).examples()"
)


def _shown(box: Any) -> list[str]:
    """Return what the first cells of the rows say that are to be seen."""
    return [text.strip("▸▾ ") for text in _visible_texts(box.locator("tbody th"))]


def _visible_texts(cells: Any) -> list[str]:
    found: list[str] = cells.evaluate_all(
        "cells => cells.filter(cell => cell.checkVisibility()).map(cell => cell.innerText)"
    )
    return found


def _search_sort_and_filter(place: Any, wrong: int) -> None:
    """Use the first table of a place as a person would, and read what it says."""
    box = place.locator(".examples").first
    status = box.get_by_role("status")
    assert status.inner_text() == "30 shown"
    box.get_by_role("button", name=f"Wrong ({wrong})").click()
    assert status.inner_text() == f"{wrong} of 30 shown"
    assert len(_shown(box)) == wrong
    box.get_by_role("button", name="All (30)").click()

    box.get_by_role("searchbox").fill("ITEM 2")
    assert set(_shown(box)) == {str(n) for n in (2, *range(20, 30))}
    box.get_by_role("searchbox").fill("")

    example = box.get_by_role("columnheader", name="example", exact=False).first
    example.get_by_role("button").click()
    assert example.get_attribute("aria-sort") == "ascending"
    assert _shown(box) == [str(n) for n in range(30)]
    example.get_by_role("button").click()
    assert _shown(box) == [str(n) for n in range(29, -1, -1)]

    box.get_by_role("combobox").first.select_option("negative")
    assert _shown(box) == [str(n) for n in range(28, -1, -2)]
    box.get_by_role("combobox").first.select_option("")

    more = box.get_by_role("button", name="Example 4, more")
    assert more.get_attribute("aria-expanded") == "false"
    more.focus()
    place.page.keyboard.press("Enter")
    assert more.get_attribute("aria-expanded") == "true"
    assert "input review" in box.inner_text()
    assert "item 4 is bad </script><b>bold</b>" in box.inner_text()
    box.locator("summary:visible", has_text="LM call 1: scripted/model, 10 + 5 tokens").click()
    assert "[[ ## sentiment ## ]]" in box.inner_text()


def _fits_its_cell(notebook: Notebook, number: int, folder: Path) -> None:
    """Open an example of the table below a cell, and look at it in both themes."""
    box = notebook.output(number).locator(".examples")
    box.get_by_role("button", name=re.compile(r"Example \d+, more")).first.click()
    for theme, width in ((LIGHT, 640), (DARK, 1200)):
        show_in(notebook.page, theme, width)
        outside = notebook.output(number).bounding_box()
        for part in (box, box.locator(".tools")):
            inside = part.bounding_box()
            assert inside["x"] + inside["width"] <= outside["x"] + outside["width"] + 1
        notebook.screenshot(folder / f"{theme[11:]}-{width}.png", ".jp-Notebook")


def test_examples_are_searched_sorted_and_filtered_live_saved_and_exported_and_fit_their_cell(
    open_notebook, tmp_path: Path
) -> None:
    notebook: Notebook = open_notebook(
        _SETUP, _EVALUATE, _COMPARE, "print(sum(not r.score for r in ev.results))"
    )
    for number in range(4):
        notebook.run(number)
    wrong = int(notebook.output(3).inner_text())
    assert "of 30 right" in notebook.output(1).inner_text()

    notebook.output(1).locator("summary", has_text="Examples:").click()
    _search_sort_and_filter(notebook.output(1), wrong)
    notebook.screenshot(tmp_path / "live.png")
    flips = notebook.output(2).locator(".examples")
    flips.get_by_role("button", name="Fixed (", exact=False).click()
    assert set(_visible_texts(flips.locator("tbody td:nth-child(6)"))) == {"fixed"}
    _fits_its_cell(notebook, 2, tmp_path)

    saved = notebook.save()
    assert notebook.file.stat().st_size < 300_000
    notebook.open()
    notebook.output(1).locator("summary", has_text="Examples:").click()
    _search_sort_and_filter(notebook.output(1), wrong)

    page, _ = HTMLExporter().from_notebook_node(saved)
    exported = tmp_path / "exported.html"
    exported.write_text(page, encoding="utf-8")
    tab = notebook.page.context.new_page()
    tab.route(
        "**/*", lambda route: route.continue_() if route.request.url.startswith("file:") else route.abort()
    )
    tab.goto(exported.as_uri())
    output = tab.locator(".jp-CodeCell").nth(1)
    output.locator("summary", has_text="Examples:").click()
    _search_sort_and_filter(output, wrong)
    tab.close()

    saved.cells[0].source += "\n# changed by somebody else: the signature does not fit"
    nbformat.write(saved, notebook.file)
    notebook.open()
    output = notebook.output(1)
    output.locator("summary", has_text="Examples:").click()
    assert output.get_by_role("searchbox").count() == 0
    assert len(_shown(output)) == 30
    output.locator("summary", has_text="Example 4, more").click()
    assert "item 4 is bad </script><b>bold</b>" in output.inner_text()
    notebook.screenshot(tmp_path / "untrusted.png")
