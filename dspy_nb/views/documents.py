"""Results as small documents of tables, facts and notes, and these as text, Markdown and HTML.

What is said of a type of result is said in its view, a module of this package that registers one function with
:func:`document`. The HTML stands alone: no web address, nothing from the notebook but colours, and a script only
where there are examples to search, which can be read without it. It has no background of its own, so it follows
light and dark themes; whatever colour says, words say too. Without its style sheet, as a forge's preview shows it,
it is plain tables and lists.
"""

from __future__ import annotations

import functools
import html
import importlib
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from dspy_nb.core.text import markdown_text, one_line, visible
from dspy_nb.views.style import STYLE
from dspy_nb.views.terminal import painted, table_lines, width_of, wrap
from dspy_nb.views.wording import UNKNOWN, format_or_dash, percent, sentence

_WIDTH = 100  # characters of a line of text


@dataclass(frozen=True)
class Score:
    """A mean in [0, 1] with the interval it lies in, if that is known."""

    value: float | None
    interval: tuple[float, float] | None = None

    def __str__(self) -> str:
        """Return ``74.0% [65.1%, 81.3%]``."""
        if self.value is None or math.isnan(self.value):
            return UNKNOWN
        if self.interval is None:
            return percent(self.value)
        return f"{percent(self.value)} [{percent(self.interval[0])}, {percent(self.interval[1])}]"


@dataclass(frozen=True)
class Toned:
    """Text that says what is good or bad; ``tone`` (good, bad, "") colours it."""

    text: str
    tone: str = ""

    def __str__(self) -> str:
        """Return the text."""
        return self.text


Cell: TypeAlias = str | int | Score | Toned | None


@dataclass(frozen=True)
class Table:
    """Rows under column names; ``numbers`` are the columns aligned to the right, ``None`` is not known.

    ``spare`` names columns that a narrow terminal leaves out, the first to go first.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    numbers: frozenset[int] = frozenset()
    caption: str = ""
    spare: Sequence[str] = ()


@dataclass(frozen=True)
class Facts:
    """Names with their values; HTML shows ``tiles`` side by side."""

    items: Sequence[tuple[str, str]]
    tiles: bool = False


@dataclass(frozen=True)
class Bar:
    """How far something is; ``label`` says it in words, and ``state`` (good, bad, warn, "") colours it.

    ``share`` is ``None`` where the end is not known.
    """

    share: float | None
    label: str
    state: str = ""


@dataclass(frozen=True)
class Note:
    """A paragraph; a warning is marked by a word, and by a line beside it."""

    text: str
    warning: bool = False


@dataclass(frozen=True)
class Code:
    """Text whose line breaks and blanks matter."""

    text: str


@dataclass(frozen=True)
class Changes:
    """Lines of a diff, each with its sign: ``-``, ``+``, or a space where nothing changed."""

    lines: Sequence[tuple[str, str]]
    title: str = ""


@dataclass(frozen=True)
class Details:
    """Blocks that HTML folds away under a title; text leaves out what is ``wide``."""

    title: str
    blocks: Sequence[Block]
    wide: bool = False


@dataclass(frozen=True)
class Drawing:
    """Markup that the package itself drew, for HTML alone; ``label`` says elsewhere what it shows."""

    html: str
    label: str


@dataclass(frozen=True)
class Interactive:
    """A part of HTML that a script makes work; text and Markdown have other blocks for it.

    Attributes:
        title: Under which HTML folds it away; "" for not at all.
        draw: Returns the markup, which the package itself drew and which can be read without the script.
        blocks: What stands for it elsewhere.
        assets: Its style sheet and its script, which a document has once.
    """

    title: str
    draw: Callable[[], str]
    blocks: Sequence[Block]
    assets: str


Block: TypeAlias = Table | Facts | Bar | Note | Code | Changes | Details | Drawing | Interactive


@dataclass(frozen=True)
class Document:
    """A title, one line below it, and blocks; what takes a single line is a subtitle alone.

    ``headline`` is what ``print`` says of the result; title and subtitle where it is left out.
    """

    title: str
    blocks: Sequence[Block]
    subtitle: str = ""
    headline: str = ""


def warn(texts: Iterable[str]) -> list[Block]:
    """Return each text as a warning."""
    return [Note(sentence(text), warning=True) for text in texts]


# -- views --------------------------------------------------------------------------------------------------

_VIEWS: Final = {
    "comparison": "Comparison Comparisons",
    "diff": "VersionDiff",
    "evaluation": "Evaluation",
    "examples.blocks": "ExampleTable",
    "experiment": "ExperimentStatus",
    "gate": "GateResult",
    "listings": "Deployment HistoryEntry KnownRun ModelVersion Preset Requirement",
    "monitor": "CanaryStatus HealthReport",
    "pipeline": "PipelineResult",
    "run": "Candidate Estimate OptimizationRun Plan",
}
"""The views, each with the types that it has a document for: a new type of result is named here."""

_VIEW_OF: Final = {name: view for view, names in _VIEWS.items() for name in names.split()}


@functools.singledispatch
def document(result: object) -> Document:
    """Return the document of a result; a document is its own.

    A view is imported when the first of its results is shown, so that nobody pays for the others.

    Raises:
        TypeError: There is no view of such a thing.
    """
    for kind in type(result).__mro__:
        if view := _VIEW_OF.get(kind.__name__):
            importlib.import_module(f"dspy_nb.views.{view}")
    make = document.dispatch(type(result))
    if make is document.dispatch(object):
        raise TypeError(f"there is no view of a {type(result).__name__}")
    return make(result)


@document.register
def _(result: Document) -> Document:
    return result


# -- text ---------------------------------------------------------------------------------------------------


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
    cells = [[one_line(_cell_text(cell)) for cell in row] for row in table.rows]
    head, body, left_out = table_lines(table.columns, cells, table.numbers, table.spare, width)
    more = f"not shown, for lack of room: {', '.join(left_out)}" if left_out else ""
    caption = _wrap("soft", "; ".join(filter(None, (table.caption, more))), width)
    return [*(("soft", line) for line in head), *(("", line) for line in body), *caption]


def _cell_text(cell: Cell) -> str:
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


def _signed(changes: Changes) -> list[str]:
    return [f"{sign} {text}" for sign, text in changes.lines]


# -- Markdown -----------------------------------------------------------------------------------------------


def to_markdown(result: object) -> str:
    """Return a result or a document as GitHub-flavoured Markdown."""
    shown = document(result)
    title = [f"### {markdown_text(shown.title)}"] if shown.title else []
    subtitle = [markdown_text(shown.subtitle)] if shown.subtitle else []
    blocks = filter(None, map(_markdown, shown.blocks))
    return "\n\n".join([*title, *subtitle, *blocks]) + "\n"


def _markdown(block: Block) -> str:
    if isinstance(block, Table):
        rows = [[markdown_text(_cell_text(cell)) for cell in row] for row in (block.columns, *block.rows)]
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
        return title + _markdown(Code("\n".join(_signed(block))))
    inner = "\n\n".join(_markdown(part) for part in block.blocks)
    if isinstance(block, Interactive):
        return inner
    return f"<details><summary>{markup(block.title)}</summary>\n\n{inner}\n\n</details>"


# -- HTML ---------------------------------------------------------------------------------------------------

_FEW: Final = 5
_DATE: Final = re.compile(r"\d{4}-\d\d-\d\d")
_WHOLE: Final = r'<span class="whole">\g<0></span>'


def markup(text: str) -> str:
    """Return text as it may stand in HTML: nothing in it is taken for markup, and nothing in it is hidden."""
    return html.escape(visible(text))


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
        items = (f"{start}<dt>{markup(name)}</dt><dd>{markup(text)}</dd>{end}" for name, text in block.items)
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
    return f"<{tag}{kind}>{_DATE.sub(_WHOLE, markup(_cell_text(cell)))}</{tag}>"


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
