"""The model card of a version as HTML, drawn so that a card from anybody can do nothing but be read."""

from __future__ import annotations

from typing import Final

from dspy_nb.core.models.version import ModelVersion, verified_files
from dspy_nb.views.card import LONGEST, card_parser
from dspy_nb.views.rendering.html import markup
from dspy_nb.views.rendering.style import STYLE

_CARD_STYLE: Final = """<style>
.dspy-nb.dspy-nb.card{overflow-wrap:anywhere}
.dspy-nb.card>:first-child{margin-top:0}
.dspy-nb.dspy-nb.card h4{margin:.2em 0 .5em}
.dspy-nb.dspy-nb.card :is(h5,h6){font-size:1em;font-weight:600;line-height:1.3;margin:1.3em 0 .4em;color:inherit}
.dspy-nb.dspy-nb.card h6{color:var(--soft)}
.dspy-nb.dspy-nb.card pre{padding:.5em .8em;margin:.5em 0;border-left:3px solid var(--line)}
.dspy-nb.dspy-nb.card :is(code,pre){font-family:var(--jp-code-font-family,monospace);font-size:12px;
 background:none;color:inherit}
.dspy-nb.dspy-nb.card thead:not(:has(th:not(:empty))){display:none}
.dspy-nb.dspy-nb.card blockquote{margin:.5em 0;padding-left:.8em;border-left:3px solid var(--line)}
.dspy-nb.dspy-nb.card td:nth-child(2):last-child{overflow-wrap:anywhere;min-width:12em}
.dspy-nb.dspy-nb.card hr{border:0;border-top:1px solid var(--line)}
</style>"""
"""The names of columns are hidden where there are none, as in older cards."""


def card_html(version: ModelVersion) -> str:
    """Return the model card.

    Raises:
        Corrupt: A file of the version was changed.
    """
    card = verified_files(version.path, version.files, version.ref)["README.md"]
    body = markdown_html(card.decode("utf-8", "replace"))
    return f'{STYLE}{_CARD_STYLE}<div class="dspy-nb card">{body}</div>'


def markdown_html(text: str) -> str:
    """Return Markdown from anybody as HTML without a script, an address, a picture or an id.

    CommonMark with tables. HTML in it, links and images are shown as they are written, as is the whole text
    where it is too long to be drawn while someone waits; what is nested more than 20 deep is left out. Headings
    are h4 to h6, below those of the browser.
    """
    if len(text) > LONGEST:
        return f"<pre>{markup(text)}</pre>"
    markdown = card_parser()
    tokens = markdown.parse(text)
    for token in tokens:
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(int(token.tag[1:]) + 3, 6)}"
        token.info = ""  # the language of a block of code, which would become a class
    return str(markdown.renderer.render(tokens, markdown.options, {}))
