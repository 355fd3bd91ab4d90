"""Results as small documents of tables, facts and notes, and these as text, Markdown and HTML.

What is said of a type of result is said in its view, a module of this package that registers one function with
:func:`document`. The HTML stands alone: no script, no web address, nothing from the notebook but colours. It has
no background of its own, so it follows light and dark themes; whatever colour says, words say too. Without its
style sheet, as a forge's preview shows it, it is plain tables and lists.
"""

from __future__ import annotations

import functools
import html
import importlib
import math
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from dspy_nb.core.text import markdown_text, one_line, visible
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


Cell: TypeAlias = str | int | Score | None


@dataclass(frozen=True)
class Table:
    """Rows under column names; ``numbers`` are the columns aligned to the right, ``None`` is not known."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    numbers: frozenset[int] = frozenset()
    caption: str = ""


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


Block: TypeAlias = Table | Facts | Bar | Note | Code | Changes | Details | Drawing


@dataclass(frozen=True)
class Document:
    """A title, one line below it, and blocks; what takes a single line is a subtitle alone."""

    title: str
    blocks: Sequence[Block]
    subtitle: str = ""


def warn(texts: Iterable[str]) -> list[Block]:
    """Return each text as a warning."""
    return [Note(sentence(text), warning=True) for text in texts]


# -- views --------------------------------------------------------------------------------------------------

_VIEWS: Final = {
    "comparison": "Comparison Comparisons",
    "evaluation": "Evaluation",
    "experiment": "ExperimentStatus",
    "gate": "GateResult",
    "listings": "Deployment HistoryEntry ModelVersion Preset VersionDiff",
    "monitor": "CanaryStatus HealthReport",
    "pipeline": "PipelineResult",
    "run": "Estimate OptimizationRun Plan",
    "sweep": "SweepResult",
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


def to_text(result: object) -> str:
    """Return a result or a document as text for a terminal, 100 columns wide except for tables with long cells."""
    shown = document(result)
    head = [one_line(line) for line in (shown.title, shown.subtitle) if line]
    parts = [head, *(_text(block) for block in shown.blocks)]
    return "\n\n".join("\n".join(map(visible, lines)) for lines in parts if lines)


def _text(block: Block) -> list[str]:
    if isinstance(block, Table):
        cells = [[one_line(_cell_text(cell)) for cell in row] for row in block.rows]
        return _columns(block.columns, cells, block.numbers) + ([block.caption] if block.caption else [])
    if isinstance(block, Facts):
        width = max((len(name) for name, _ in block.items), default=0)
        return [line for name, value in block.items for line in _wrap(value, f"{name:{width}}  ") or [name]]
    if isinstance(block, Bar | Drawing):
        return _wrap(block.label)
    if isinstance(block, Note):
        return _wrap(f"Warning: {block.text}" if block.warning else block.text)
    if isinstance(block, Code):
        return [f"    {line}" for line in block.text.splitlines()]
    if isinstance(block, Changes):
        return [*([one_line(block.title)] if block.title else []), *_signed(block)]
    if block.wide:
        return []
    lines = [f"{one_line(block.title)}:"]
    for inner in block.blocks:
        lines += [f"  {line}" for line in _text(inner)]
    return lines


def _cell_text(cell: Cell) -> str:
    return format_or_dash(cell) if cell is None or isinstance(cell, int) else str(cell)


def _wrap(text: str, name: str = "") -> list[str]:
    """Return the text as lines beside its name, with paths and references whole."""
    return textwrap.wrap(
        text, _WIDTH, initial_indent=name, subsequent_indent=" " * len(name), break_long_words=False,
        break_on_hyphens=False,
    )  # fmt: skip


def _signed(changes: Changes) -> list[str]:
    return [f"{sign} {text}" for sign, text in changes.lines]


def _columns(names: Sequence[str], rows: Sequence[Sequence[str]], numbers: frozenset[int]) -> list[str]:
    widths = [max(len(row[i]) for row in (names, *rows)) for i in range(len(names))]
    forms = [f"{'>' if i in numbers else '<'}{width}" for i, width in enumerate(widths)]
    return ["  ".join(map(format, row, forms)).rstrip() for row in (names, *rows)]


# -- Markdown -----------------------------------------------------------------------------------------------


def to_markdown(result: object) -> str:
    """Return a result or a document as GitHub-flavoured Markdown."""
    shown = document(result)
    title = [f"### {markdown_text(shown.title)}"] if shown.title else []
    subtitle = [markdown_text(shown.subtitle)] if shown.subtitle else []
    return "\n\n".join(title + subtitle + [_markdown(block) for block in shown.blocks]) + "\n"


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
    return f"<details><summary>{markup(block.title)}</summary>\n\n{inner}\n\n</details>"


# -- HTML ---------------------------------------------------------------------------------------------------

# The doubled class wins over the notebook's own rules for tables and lists.
STYLE = """<style>
.dspy-nb.dspy-nb{font-family:var(--jp-ui-font-family,system-ui,sans-serif);font-size:13px;line-height:1.45;
 color:var(--jp-content-font-color1,inherit);
 --line:color-mix(in srgb,currentColor 22%,transparent);--soft:color-mix(in srgb,currentColor 66%,transparent);
 --good:var(--jp-success-color1,#2e8b57);--bad:var(--jp-error-color1,#d32f2f);
 --warn:var(--jp-warn-color1,#d9822b);--accent:var(--jp-brand-color1,#1976d2)}
.dspy-nb.dspy-nb>:not(.scroll){max-width:72em}
.dspy-nb.dspy-nb h4{font-size:1.15em;font-weight:600;line-height:1.3;margin:.2em 0 0;color:inherit}
.dspy-nb.dspy-nb p{margin:.4em 0}
.dspy-nb.dspy-nb .soft,.dspy-nb.dspy-nb caption,.dspy-nb.dspy-nb dt,.dspy-nb.dspy-nb th{color:var(--soft)}
.dspy-nb.dspy-nb .scroll{overflow-x:auto;margin:.7em 0}
.dspy-nb.dspy-nb table{border-collapse:collapse;border:0;margin:0;font-size:inherit;color:inherit;table-layout:auto;
 font-variant-numeric:tabular-nums}
.dspy-nb.dspy-nb tbody tr:nth-child(n){background:none}
.dspy-nb.dspy-nb th,.dspy-nb.dspy-nb td{text-align:left;vertical-align:top;padding:.25em 1.4em .25em 0;border:0;
 border-bottom:1px solid var(--line);white-space:normal;max-width:38em;overflow-wrap:break-word}
.dspy-nb.dspy-nb th{font-weight:500;white-space:nowrap}
.dspy-nb.dspy-nb .num{text-align:right;white-space:nowrap}
.dspy-nb.dspy-nb .score{white-space:nowrap}
.dspy-nb.dspy-nb caption{caption-side:bottom;text-align:left;padding:.35em 0 0}
.dspy-nb.dspy-nb dl{display:grid;grid-template-columns:max-content 1fr;gap:.15em 1.4em;margin:.7em 0}
.dspy-nb.dspy-nb dt{font-weight:500;float:none;width:auto;margin:0}
.dspy-nb.dspy-nb dd{margin:0;padding:0;width:auto;overflow-wrap:anywhere}
.dspy-nb.dspy-nb dl.tiles{display:flex;flex-wrap:wrap;gap:.4em 2.2em}
.dspy-nb.dspy-nb .warning{border-left:3px solid var(--warn);padding-left:.7em}
.dspy-nb.dspy-nb details{margin:.5em 0}
.dspy-nb.dspy-nb summary{cursor:pointer}
.dspy-nb.dspy-nb details>div{padding-left:1em;border-left:1px solid var(--line)}
.dspy-nb.dspy-nb pre{white-space:pre-wrap;overflow-wrap:anywhere;margin:.3em 0;font-size:12px;background:none;
 color:inherit;font-family:var(--jp-code-font-family,monospace)}
.dspy-nb.dspy-nb .added{background:#2ea04340}
.dspy-nb.dspy-nb .removed{background:#f8514940}
.dspy-nb.dspy-nb .bar{height:8px;max-width:44em;margin:.7em 0 .3em;border-radius:4px;overflow:hidden;
 background:var(--line)}
.dspy-nb.dspy-nb .bar>div{height:100%;background:var(--accent)}
.dspy-nb.dspy-nb .bar.good>div{background:var(--good)}
.dspy-nb.dspy-nb .bar.bad>div{background:var(--bad)}
.dspy-nb.dspy-nb .bar.warn>div{background:var(--warn)}
.dspy-nb.dspy-nb svg{display:block;margin:.15em 0 .1em}
.dspy-nb.dspy-nb svg.scores{width:100%;max-width:52em;margin:.7em 0 0;font-variant-numeric:tabular-nums}
</style>"""


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
    return f'<div class="dspy-nb">{style}{heading}{line}{"".join(map(_html, blocks))}</div>'


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
    inner = "".join(map(_html, block.blocks))
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
    return f'<div class="scroll"><table>{caption}{head}<tbody>{body}</tbody></table></div>'


def _html_cell(cell: Cell, tag: str, number: bool) -> str:
    if isinstance(cell, Score):
        return f'<{tag} class="score">{markup(str(cell))}{_interval_svg(cell)}</{tag}>'
    kind = ' class="num"' if number else ""
    return f"<{tag}{kind}>{markup(_cell_text(cell))}</{tag}>"


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
        f'<svg width="{width}" height="10" aria-hidden="true">'
        f'<line x1="3" x2="{width - 3}" y1="{middle}" y2="{middle}" stroke="currentColor" stroke-opacity=".25"/>'
        f'{bar}<circle cx="{x(score.value)}" cy="{middle}" r="3" fill="currentColor"/></svg>'
    )
