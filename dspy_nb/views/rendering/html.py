"""Documents as HTML that stands alone.

No web address, nothing from the notebook but colours, and a script only where there are examples to search, which
can be read without it. It has no background of its own, so it follows light and dark themes; whatever colour says,
words say too. Without its style sheet, as a forge's preview shows it, it is plain tables and lists.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterable, Iterator
from typing import Final

from dspy_nb.core.text import visible
from dspy_nb.views.documents import (
    Bar,
    Block,
    Cell,
    Changes,
    Code,
    Details,
    Drawing,
    Facts,
    Interactive,
    Note,
    Score,
    Table,
    Toned,
    document,
)
from dspy_nb.views.rendering.style import STYLE
from dspy_nb.views.rendering.text import cell_text

_FEW: Final = 5
_DATE: Final = re.compile(r"\d{4}-\d\d-\d\d")
_WHOLE: Final = r'<span class="whole">\g<0></span>'


def markup(text: str) -> str:
    """Return text as it may stand in HTML: nothing in it is taken for markup, and nothing in it is hidden."""
    return html.escape(visible(text))


def term(name: str, description: str, attributes: str = "") -> str:
    """Return an item of a list of facts: its name, and markup with attributes that describes it.

    JupyterLab takes the style sheet out of what it does not trust, and lets names and descriptions float: each pair
    then has to begin below the one before.
    """
    return f'<dt style="clear:both">{markup(name)}</dt><dd{attributes}>{description}</dd>'


def to_html(result: object) -> str:
    """Return a result or a document as a piece of HTML that brings its style along."""
    shown = document(result)
    return to_fragment(shown.blocks, shown.title, shown.subtitle, STYLE)


def to_fragment(blocks: Iterable[Block], title: str = "", subtitle: str = "", style: str = "") -> str:
    """Return blocks as HTML, without ``style`` for a place where :data:`STYLE` stands once for all."""
    heading = f"<h4>{markup(title)}</h4>" if title else ""
    line = f'<p class="soft">{markup(subtitle)}</p>' if subtitle else ""
    listed = list(blocks)
    assets = "".join(dict.fromkeys(_assets(listed)))
    return f'<div class="dspy-nb">{style}{heading}{line}{"".join(map(_html, listed))}{assets}</div>'


def _assets(blocks: Iterable[Block]) -> Iterator[str]:
    for block in blocks:
        if isinstance(block, Interactive):
            yield block.assets
        elif isinstance(block, Details):
            yield from _assets(block.blocks)


def _html(block: Block) -> str:
    if isinstance(block, Table):
        return _html_table(block)
    if isinstance(block, Facts):
        start, end, kind = ("<div>", "</div>", ' class="tiles"') if block.tiles else ("", "", "")
        items = (f"{start}{term(name, markup(text))}{end}" for name, text in block.items)
        return f"<dl{kind}>{''.join(items)}</dl>"
    if isinstance(block, Bar):
        return _html_bar(block)
    if isinstance(block, Drawing):
        return block.html
    if isinstance(block, Note):
        start = '<p class="warning"><strong>Warning:</strong> ' if block.warning else "<p>"
        return f"{start}{markup(block.text)}</p>"
    if isinstance(block, Code):
        return f"<pre>{markup(block.text)}</pre>"
    if isinstance(block, Changes):
        kinds = {"+": ' class="added"', "-": ' class="removed"'}
        lines = [f"<div{kinds.get(sign[0], '')}>{sign} {markup(text)}</div>" for sign, text in block.lines]
        title = f"<p>{markup(block.title)}</p>" if block.title else ""
        return f"{title}<pre>{''.join(lines)}</pre>"
    inner = block.draw() if isinstance(block, Interactive) else "".join(map(_html, block.blocks))
    if not block.title:
        return inner
    return f"<details><summary>{markup(block.title)}</summary><div>{inner}</div></details>"


def _html_bar(bar: Bar) -> str:
    label = markup(bar.label)
    if bar.share is None:
        return f"<p>{label}</p>"
    width = round(100 * min(max(bar.share, 0.0), 1.0), 1)
    return (
        f'<div class="bar {bar.state}" role="progressbar" aria-valuemin="0" aria-valuemax="100" '
        f'aria-valuenow="{width:g}" aria-label="{label}"><div style="width:{width:g}%"></div></div><p>{label}</p>'
    )


def _html_table(table: Table) -> str:
    def row(cells: Iterable[Cell], tag: str) -> str:
        return "".join(_html_cell(cell, tag, i in table.numbers) for i, cell in enumerate(cells))

    caption = f"<caption>{markup(table.caption)}</caption>" if table.caption else ""
    body = "".join(f"<tr>{row(cells, 'td')}</tr>" for cells in table.rows)
    head = f"<thead><tr>{row(table.columns, 'th')}</tr></thead>"
    # A keyboard scrolls what it can reach; few columns fit.
    reach = ' tabindex="0" role="region" aria-label="table"' if len(table.columns) > _FEW else ""
    return f'<div class="scroll"{reach}><table>{caption}{head}<tbody>{body}</tbody></table></div>'


def _html_cell(cell: Cell, tag: str, number: bool) -> str:
    if isinstance(cell, Score):
        return f'<{tag} class="score">{markup(str(cell))}{_interval_svg(cell)}</{tag}>'
    kind = ' class="num"' if number else ""
    if isinstance(cell, Toned) and cell.tone:
        kind = f' class="{"added" if cell.tone == "good" else "removed"}{" num" if number else ""}"'
    return f"<{tag}{kind}>{_DATE.sub(_WHOLE, markup(cell_text(cell)))}</{tag}>"


def _interval_svg(score: Score) -> str:
    """Return the score as a dot, and its interval as a bar, on a line from 0 to 100 %."""
    if score.value is None or math.isnan(score.value):
        return ""
    width, middle = 140, 5

    def x(share: float) -> float:
        return round(3 + min(max(share, 0.0), 1.0) * (width - 6), 1)

    bar = ""
    if score.interval is not None:
        low, high = map(x, score.interval)
        bar = (
            f'<line x1="{low}" x2="{high}" y1="{middle}" y2="{middle}" stroke="currentColor" '
            'stroke-width="4" stroke-opacity=".45"/>'
        )
    return (
        f'<svg width="{width}" height="10" viewBox="0 0 {width} 10" aria-hidden="true">'
        f'<line x1="3" x2="{width - 3}" y1="{middle}" y2="{middle}" stroke="currentColor" stroke-opacity=".25"/>'
        f'{bar}<circle cx="{x(score.value)}" cy="{middle}" r="3" fill="currentColor"/></svg>'
    )
