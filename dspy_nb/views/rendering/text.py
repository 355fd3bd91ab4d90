"""Documents as text for a terminal, and as one line."""

from __future__ import annotations

from typing import TypeAlias

from dspy_nb.core.text import one_line, visible
from dspy_nb.views.documents import (
    Bar,
    Block,
    Cell,
    Changes,
    Code,
    Drawing,
    Facts,
    Interactive,
    Note,
    Table,
    document,
)
from dspy_nb.views.rendering.terminal import painted, table_lines, width_of, wrap
from dspy_nb.views.wording import format_or_dash

_WIDTH = 100  # characters of a line of text


def to_line(result: object) -> str:
    """Return what a result says in one line."""
    shown = document(result)
    return one_line(shown.headline or ", ".join(filter(None, (shown.title, shown.subtitle))))


_Line: TypeAlias = tuple[str, str]
"""A line of text, and what kind it is: see :func:`painted`."""


def to_text(result: object, width: int | None = None, *, colours: bool = False) -> str:
    """Return a result or a document as text for a terminal.

    Args:
        result: What there is a view of.
        width: Columns of the terminal, which no line exceeds but for words that are longer; by default 100, and
            tables are as wide as they are.
        colours: Whether to add the codes that make a terminal show colours.
    """
    shown = document(result)
    titles: list[_Line] = [
        (kind, line)
        for kind, text in (("title", shown.title), ("soft", shown.subtitle))
        for line in ([one_line(text)] if text and width is None else wrap(text, width or _WIDTH))
    ]
    parts = [titles, *(_text(block, width) for block in shown.blocks)]
    paint = painted if colours else lambda line, kind: line
    return "\n\n".join("\n".join(paint(visible(line), kind) for kind, line in part) for part in parts if part)


def _text(block: Block, width: int | None) -> list[_Line]:
    if isinstance(block, Table):
        return _table_text(block, width)
    if isinstance(block, Facts):
        wide = max((len(name) for name, _ in block.items), default=0)
        facts = (_wrap("", value, width, f"{name:{wide}}  ") or [("", name)] for name, value in block.items)
        return [line for lines in facts for line in lines]
    if isinstance(block, Bar):
        return _wrap(block.state, block.label, width)
    if isinstance(block, Drawing):
        return _wrap("", block.label, width)
    if isinstance(block, Note):
        return (
            _wrap("warn", f"Warning: {block.text}", width) if block.warning else _wrap("", block.text, width)
        )
    if isinstance(block, Code):
        return [("plain", line) for text in block.text.splitlines() for line in _kept(text, width, "    ")]
    if isinstance(block, Changes):
        kinds = {"+": "good", "-": "bad"}
        title = [("title", one_line(block.title))] if block.title else []
        lines = ((kinds.get(sign[0], "plain"), f"{sign} ", text) for sign, text in block.lines)
        return title + [(kind, line) for kind, sign, text in lines for line in _kept(text, width, sign)]
    if isinstance(block, Interactive):
        parts = [part for inner in block.blocks if (part := _text(inner, width))]
        return [line for part in parts for line in [*part, ("", "")]][:-1]
    if block.wide:
        return []
    inner = (_text(part, None if width is None else width - 2) for part in block.blocks)
    return [
        ("title", f"{one_line(block.title)}:"),
        *((kind, f"  {line}".rstrip()) for lines in inner for kind, line in lines),
    ]


def _table_text(table: Table, width: int | None) -> list[_Line]:
    cells = [[one_line(cell_text(cell)) for cell in row] for row in table.rows]
    head, body, left_out = table_lines(table.columns, cells, table.numbers, table.spare, width)
    more = f"not shown, for lack of room: {', '.join(left_out)}" if left_out else ""
    caption = _wrap("soft", "; ".join(filter(None, (table.caption, more))), width)
    return [*(("soft", line) for line in head), *(("", line) for line in body), *caption]


def cell_text(cell: Cell) -> str:
    """Return what a cell says."""
    return format_or_dash(cell) if cell is None or isinstance(cell, int) else str(cell)


def _wrap(kind: str, text: str, width: int | None, start: str = "") -> list[_Line]:
    """Return the text as lines beside its name, with paths and references whole."""
    return [(kind, line) for line in wrap(visible(text), width or _WIDTH, start)]


def _kept(line: str, width: int | None, start: str) -> list[str]:
    """Return a line whose blanks matter: as it is, if it fits."""
    line = visible(line)
    if width is None or width_of(start + line.expandtabs()) <= width:
        return [start + line]
    indent = line[: len(line) - len(line.lstrip())].expandtabs()
    return wrap(line, width, start + indent, " " * len(start + indent))


def signed(changes: Changes) -> list[str]:
    """Return the lines of a diff, each behind its sign."""
    return [f"{sign} {text}" for sign, text in changes.lines]
