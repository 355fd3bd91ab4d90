"""Documents as GitHub-flavoured Markdown."""

from __future__ import annotations

from dspy_nb.core.text import markdown_text
from dspy_nb.views.documents import (
    Bar,
    Block,
    Changes,
    Code,
    Drawing,
    Facts,
    Interactive,
    Note,
    Table,
    document,
)
from dspy_nb.views.rendering.html import markup
from dspy_nb.views.rendering.text import cell_text, signed


def to_markdown(result: object) -> str:
    """Return a result or a document as GitHub-flavoured Markdown."""
    shown = document(result)
    title = [f"### {markdown_text(shown.title)}"] if shown.title else []
    subtitle = [markdown_text(shown.subtitle)] if shown.subtitle else []
    blocks = filter(None, map(_markdown, shown.blocks))
    return "\n\n".join([*title, *subtitle, *blocks]) + "\n"


def _markdown(block: Block) -> str:
    if isinstance(block, Table):
        rows = [[markdown_text(cell_text(cell)) for cell in row] for row in (block.columns, *block.rows)]
        rows.insert(1, ["---:" if i in block.numbers else "---" for i in range(len(block.columns))])
        table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
        return f"{table}\n\n{markdown_text(block.caption)}" if block.caption else table
    if isinstance(block, Facts):
        return "\n".join(f"- **{markdown_text(name)}**: {markdown_text(text)}" for name, text in block.items)
    if isinstance(block, Bar | Drawing):
        return markdown_text(block.label)
    if isinstance(block, Note):
        return f"> **Warning:** {markdown_text(block.text)}" if block.warning else markdown_text(block.text)
    if isinstance(block, Code):
        return f"<pre>{markup(block.text).replace(chr(10), '&#10;')}</pre>"
    if isinstance(block, Changes):
        title = f"**{markdown_text(block.title)}**\n\n" if block.title else ""
        return title + _markdown(Code("\n".join(signed(block))))
    inner = "\n\n".join(_markdown(part) for part in block.blocks)
    if isinstance(block, Interactive):
        return inner
    return f"<details><summary>{markup(block.title)}</summary>\n\n{inner}\n\n</details>"
