"""Renders the notebooks, executed, as pages to browse: ``make gallery``.

Each notebook becomes a page of its own, and ``index.html`` names them with what they are about. The pages load
nothing from elsewhere. What the embedded model says comes from the recorded answers where they hold it.
"""

from __future__ import annotations

import html
import os
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import nbformat
from nbconvert import HTMLExporter

from dspy_nb.cli.notebooks import run_notebook
from dspy_nb.views.rendering.style import STYLE
from tests import ROOT
from tests.recorded import ANSWERS, FILE

FOLDER = ROOT / "gallery"
NOTEBOOKS = ROOT / "notebooks"

# What pages of nbconvert load from the web, if nobody says otherwise.
_FROM_ELSEWHERE = (
    "mathjax_url", "require_js_url", "jquery_url", "mermaid_js_url", "mermaid_layout_elk_js_url",
    "widget_renderer_url", "jupyter_widgets_base_url",
)  # fmt: skip


class Page(NamedTuple):
    """What the index says of a notebook."""

    file: str
    title: str
    about: str


def page_of(source: Path) -> Page:
    """Return title and first paragraph of a notebook."""
    cells = nbformat.read(source, as_version=4).cells
    first = next((cell.source for cell in cells if cell.cell_type == "markdown"), "")
    title, _, rest = first.partition("\n")
    about = " ".join(rest.strip().split("\n\n")[0].split())
    return Page(f"{source.stem}.html", title.lstrip("# ") or source.stem, about)


def render(notebook: Any) -> str:
    """Return an executed notebook as one page of HTML that loads nothing."""
    body, _ = HTMLExporter(**dict.fromkeys(_FROM_ELSEWHERE, "")).from_notebook_node(notebook)
    return str(body)


def index(pages: Iterable[Page]) -> str:
    """Return the page that leads to the others."""
    items = "".join(
        f'<dt><a href="{html.escape(page.file)}">{html.escape(page.title)}</a></dt>'
        f"<dd>{html.escape(page.about).replace('`', '')}</dd>"
        for page in pages
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>dspy-nb: the notebooks</title>'
        '<meta name="viewport" content="width=device-width"><style>body{max-width:60em;margin:2em auto;'
        "padding:0 1em;color-scheme:light dark}.dspy-nb.dspy-nb dl{grid-template-columns:minmax(12em,1fr) 3fr;"
        f'gap:1em 2em}}</style>{STYLE}</head><body><main class="dspy-nb"><h1>dspy-nb: the notebooks</h1>'
        f"<dl>{items}</dl></main></body></html>"
    )


def write_gallery(sources: Iterable[Path], folder: Path) -> None:
    """Execute notebooks, in order, and write their pages and the index into a folder that is made anew."""
    shutil.rmtree(folder, ignore_errors=True)
    work = folder / "executed"
    work.mkdir(parents=True)
    pages = []
    for source in sources:
        copy = work / source.name
        run_notebook(source, copy, folder=source.parent, out=sys.stdout)
        page = page_of(source)
        text = render(nbformat.read(copy, as_version=4))
        (folder / page.file).write_text(text, encoding="utf-8")
        pages.append(page)
    (folder / "index.html").write_text(index(pages), encoding="utf-8")


if __name__ == "__main__":
    os.environ.setdefault(ANSWERS, str(FILE))
    write_gallery(sorted(NOTEBOOKS.glob("*.ipynb")), FOLDER)
    print(f"open {FOLDER / 'index.html'}")
