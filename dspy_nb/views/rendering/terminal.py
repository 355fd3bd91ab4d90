"""Lines for a terminal: text wrapped and tables fitted to its width, and colours."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Final

_GAP: Final = "  "
_SHORT: Final = 20
"""A cell up to this wide stays on one line, if there is room: a date, a score with its interval."""

_SOFT: Final = re.compile(r"(?<=[-/_,=])(?=[^\W\d])|(?<=[a-z])(?=[A-Z])")
"""Where a long word may be broken if nothing else helps: ``dspy-nb/``, ``Bootstrap`` ``FewShot``."""


def width_of(text: str) -> int:
    """Return how many columns of a terminal a line takes."""
    if text.isascii():
        return len(text)
    shown = [one for one in text if unicodedata.category(one) not in ("Mn", "Me", "Cf")]
    return len(shown) + sum(unicodedata.east_asian_width(one) in "WF" for one in shown)


def wrap(text: str, width: int, start: str = "", rest: str | None = None) -> list[str]:
    """Return the text as lines at most ``width`` wide, except for words that are wider.

    Args:
        text: What is on several lines becomes one.
        width: In columns.
        start: What the first line begins with.
        rest: What the others begin with; as many blanks by default.
    """
    rest = " " * width_of(start) if rest is None else rest
    lines = fill(text.split(), width - width_of(start), " ")
    return [(rest if number else start) + line for number, line in enumerate(lines)]


def fill(pieces: Iterable[str], width: int, between: str) -> list[str]:
    """Return pieces side by side, on as few lines as have room for them."""
    lines: list[str] = []
    for piece in pieces:
        if lines and width_of(lines[-1]) + len(between) + width_of(piece) <= width:
            lines[-1] += between + piece
        else:
            lines.append(piece)
    return lines


# -- colours ----------------------------------------------------------------------------------------------------

_CODES: Final = {"title": "1", "soft": "2", "good": "32", "bad": "31", "warn": "33"}
_GOOD: Final = "[Hh]ealthy|passed|ok|B better|better|[Dd]eployed"
_BAD: Final = "[Dd]egraded|NO|refused|A better|worse|failed|said no|[Tt]aken back"
_WARN: Final = "[Tt]oo early|[Ii]nconclusive|stopped"
_JUDGED: Final = re.compile(
    rf"(?:^|(?<=  )|(?<= is )|(?<=^Gate ))(?:(?P<good>{_GOOD})|(?P<bad>{_BAD})|(?P<warn>{_WARN}))(?=$|  |:)"
)
"""A verdict: at the end of a title, at the start of a sentence before its colon, or alone in its cell."""


def painted(line: str, kind: str) -> str:
    """Return a line in the colour of its kind (title, soft, good, bad, warn), and verdicts in theirs.

    The line must be visible text: what comes from outside may hold no control of its own. Kind ``plain`` has no
    verdicts: a prompt, or code.
    """
    if kind in _CODES:
        line = _painted(line, kind) if kind != "title" else line
    elif kind == "":
        return _JUDGED.sub(lambda match: _painted(match[0], str(match.lastgroup)), line)
    if kind == "title":
        judged = _JUDGED.search(line)
        end = judged.start() if judged else len(line)
        rest = _painted(line[end:], str(judged.lastgroup)) if judged else ""
        return (_painted(line[:end], kind) if end else "") + rest
    return line


def _painted(text: str, kind: str) -> str:
    return f"\x1b[{_CODES[kind]}m{text}\x1b[0m"


# -- tables -----------------------------------------------------------------------------------------------------


def table_lines(
    names: Sequence[str],
    rows: Sequence[Sequence[str]],
    numbers: Collection[int] = (),
    spare: Sequence[str] = (),
    width: int | None = None,
) -> tuple[list[str], list[str], list[str]]:
    """Return the lines of a table's head and of its rows, and the names of columns that are left out.

    A table that is too wide loses its spare columns, one after the other. If it is still too wide, cells are
    wrapped; if even that does not help, each row becomes a paragraph of ``name  value``.

    Args:
        names: Of the columns.
        rows: Cells, each on one line.
        numbers: Columns aligned to the right.
        spare: Names of columns that can be missing, the first to go first.
        width: In columns of a terminal; as wide as needed if it is left out.
    """
    shown = list(range(len(names)))
    goes = [names.index(name) for name in spare if name in names]
    while True:
        head, body = [names[i] for i in shown], [[row[i] for i in shown] for row in rows]
        right = {place for place, i in enumerate(shown) if i in numbers}
        left_out = [name for i, name in enumerate(names) if i not in shown]
        natural = [max(map(width_of, column)) for column in zip(head, *body, strict=True)]
        room = None if width is None else width - len(_GAP) * (len(shown) - 1)
        if room is None or sum(natural) <= room:
            return *_aligned(head, body, natural, right, str.split), left_out
        for pieces in (_whole, str.split) if not goes else (_whole,):
            if widths := _fitted(head, body, room, pieces):
                return *_aligned(head, body, widths, right, pieces), left_out
        if not goes:
            if widths := _fitted(head, body, room, _soft):
                return *_aligned(head, body, widths, right, _soft), left_out
            return [], _paragraphs(head, body, width or 0), left_out
        shown.remove(goes.pop(0))


def _whole(text: str) -> list[str]:
    return [text] if width_of(text) <= _SHORT else text.split()


def _soft(text: str) -> list[str]:
    """Return the pieces of a text; those that belong to one word carry no blank between them."""
    return [piece for word in text.split() for piece in _SOFT.sub("\0", word).replace("\0", " \0").split(" ")]


def _fitted(
    head: Sequence[str], body: Sequence[Sequence[str]], room: int, pieces: Callable[[str], list[str]]
) -> list[int]:
    """Return the widths of the columns that fill the room, none if not even the widest pieces fit."""
    columns = list(zip(head, *body, strict=True))
    floors, wanted = [], []
    for name, *cells in columns:
        parts = [*name.split(), *(part for cell in cells for part in pieces(cell))]
        floors.append(max((width_of(part.lstrip("\0")) for part in parts), default=0))
        wanted.append(max(map(width_of, (name, *cells))))
    if sum(floors) > room:
        return []
    widths = list(floors)
    while (left := room - sum(widths)) > 0:
        open_ = [i for i in range(len(widths)) if widths[i] < wanted[i]]
        if not open_:
            break
        narrowest = min(open_, key=lambda i: widths[i])
        widths[narrowest] += min(1, left)
    return widths


def _aligned(
    head: Sequence[str],
    body: Sequence[Sequence[str]],
    widths: Sequence[int],
    right: Collection[int],
    pieces: Callable[[str], list[str]],
) -> tuple[list[str], list[str]]:
    rows = ((body, pieces), ([head], str.split))
    lines, first = (
        [line for row in part for line in _row(row, widths, right, split)] for part, split in rows
    )
    return first, lines


def _row(
    row: Sequence[str], widths: Sequence[int], right: Collection[int], pieces: Callable[[str], list[str]]
) -> list[str]:
    cells = [_in_column(cell, width, pieces) for cell, width in zip(row, widths, strict=True)]
    lines = []
    for number in range(max(map(len, cells), default=0)):
        parts = []
        for column, (cell, width) in enumerate(zip(cells, widths, strict=True)):
            text = cell[number] if number < len(cell) else ""
            blanks = " " * (width - width_of(text))
            parts.append(blanks + text if column in right else text + blanks)
        lines.append(_GAP.join(parts).rstrip())
    return lines


def _in_column(cell: str, width: int, pieces: Callable[[str], list[str]]) -> list[str]:
    if width_of(cell) <= width:
        return [cell]
    lines: list[str] = []
    for piece in pieces(cell):
        text, between = piece.lstrip("\0"), "" if piece.startswith("\0") else " "
        if lines and width_of(lines[-1]) + len(between) + width_of(text) <= width:
            lines[-1] += between + text
        else:
            lines.append(text)
    return lines


def _paragraphs(names: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> list[str]:
    wide = max(map(width_of, names))
    lines: list[str] = []
    for row in rows:
        lines += [""] if lines else []
        for name, value in zip(names, row, strict=True):
            start = name + " " * (wide - width_of(name)) + _GAP
            for number, line in enumerate(_in_column(value, width - len(start), _soft) if value else []):
                lines.append((" " * len(start) if number else start) + line)
    return lines
