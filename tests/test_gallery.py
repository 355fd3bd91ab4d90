"""The gallery: pages of the notebooks that load nothing from elsewhere, and an index that leads to them."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from tests.gallery import NOTEBOOKS, page_of, write_gallery


@pytest.mark.heavy
def test_a_gallery_shows_what_the_notebooks_found_and_loads_nothing(tmp_path: Path) -> None:
    cells = [
        new_markdown_cell("# One & one\n\nWhat is `1 + 1`,\nand why?\n\nMore."),
        new_code_cell("from IPython.display import HTML\nHTML(f'<b>{40 + 2}</b>')"),
    ]
    source = tmp_path / "sum.ipynb"
    nbformat.write(new_notebook(cells=cells), source)
    write_gallery([source], tmp_path / "gallery")
    page = (tmp_path / "gallery" / "sum.html").read_text(encoding="utf-8")
    assert "<b>42</b>" in page
    assert re.findall(r'(?:src|href)="?(?:https?:)?//', page) == []
    index = (tmp_path / "gallery" / "index.html").read_text(encoding="utf-8")
    assert '<a href="sum.html">One &amp; one</a>' in index
    assert "What is 1 + 1, and why?" in index
    assert "More." not in index


def test_every_notebook_begins_with_what_it_is_about() -> None:
    pages = [page_of(source) for source in sorted(NOTEBOOKS.glob("*.ipynb"))]
    assert [page for page in pages if page.title == page.file or len(page.about) < 40] == []
