"""Model cards, Markdown from anybody: parsed so that nothing in them loads or opens anything, and as documents."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Final

from dspy_nb.views.documents import Block, Code, Details, Document, Facts, Note, Table

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.token import Token

LONGEST: Final = 100_000  # characters; a hostile table of that length takes 2 s, a card of 4,000 takes 5 ms

_REMOTE: Final = ("link", "autolink", "image", "reference")
"""Whatever could load or open something; without these rules it is text like any other."""


@cache
def card_parser() -> MarkdownIt:
    """Return the parser: CommonMark with tables; HTML in it, links and images are text."""
    from markdown_it import MarkdownIt

    return MarkdownIt("commonmark", {"html": False}).enable("table").disable([*_REMOTE])


def card_document(text: str) -> Document:
    """Return a card as a document: its sections are details, its tables of two columns facts.

    One that is too long to be parsed while someone waits is shown as it is.
    """
    if len(text) > LONGEST:
        return Document("", [Code(text)])
    tokens = card_parser().parse(text)
    title = ""
    if tokens and tokens[0].tag == "h1":
        title, tokens = _said(tokens[1]), tokens[3:]
    return Document(title, _sections(tokens, 2))


def _sections(tokens: Sequence[Token], level: int) -> list[Block]:
    """Return what comes before the first heading of a level, then each section below one."""
    starts = [
        i for i, token in enumerate(tokens) if token.type == "heading_open" and token.tag <= f"h{level}"
    ]
    if level > 6:
        return _blocks(tokens)
    ends = [*starts, len(tokens)]
    blocks = _sections(tokens[: ends[0]], level + 1)
    for start, end in zip(starts, ends[1:], strict=True):
        blocks.append(Details(_said(tokens[start + 1]), _sections(tokens[start + 3 : end], level + 1)))
    return blocks


def _blocks(tokens: Sequence[Token]) -> list[Block]:
    blocks: list[Block] = []
    rows: list[list[str]] = []
    mark = ""
    for token in tokens:
        if token.type == "list_item_open":
            mark = f"{token.info}{token.markup} " if token.info else "- "
        elif token.type == "tr_open":
            rows.append([])
        elif token.type == "table_close":
            blocks.append(_table(rows))
            rows = []
        elif token.type == "inline" and rows:
            rows[-1].append(_said(token))
        elif token.type == "inline":
            blocks.append(Note(mark + _said(token)))
            mark = ""
        elif token.type in ("fence", "code_block"):
            blocks.append(Code(token.content.rstrip("\n")))
    return blocks


def _table(rows: Sequence[Sequence[str]]) -> Block:
    head, *body = rows
    if len(head) == 2 and (not any(head) or [*head] == ["Fact", "Value"]):
        return Facts([(name, value) for name, value in body])
    return Table(head, body)


def _said(token: Token) -> str:
    """Return the text of a line without its markup."""
    return "".join(
        " " if child.type in ("softbreak", "hardbreak") else child.content for child in token.children or ()
    )
