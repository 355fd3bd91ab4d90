"""One line of a terminal that says how far a call is: what there is room for, and nothing half."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple, TypeAlias

from dspy_nb.views.rendering.terminal import width_of

FEWEST_FOR_BAR: Final = 60
"""Columns that a terminal must have for a bar to be in the line."""

_SHORTEST_BAR: Final = 10
_LONGEST_BAR: Final = 24
_BLOCKS: Final = " ▏▎▍▌▋▊▉█"
_ASCII: Final = str.maketrans({"≤": "<=", "−": "-", "…": "...", "–": "-", "·": ","})


class Form(NamedTuple):
    """One way to say something, and how soon it makes way for a shorter one: the higher, the sooner."""

    text: str
    rank: int = 0


Part: TypeAlias = Sequence[Form]
"""The ways to say one thing, the longest first; after the last one it is left out."""


class Line(NamedTuple):
    """A line as it is laid out, in three pieces; the middle one is the bar, "" where there is none."""

    left: str
    bar: str = ""
    right: str = ""

    def __str__(self) -> str:
        return "".join(self)


def lay_out(
    title: Part, share: float | None, parts: Sequence[Part], width: int, *, ascii_only: bool = False
) -> Line:
    """Lay out ``title |bar| part, part`` in less than ``width`` columns: some terminals wrap a line that is full.

    Where there is too little room, what matters least is said shorter or left out, until the rest fits beside a bar
    of 10 columns. What is there is whole; only the last form of the title may be cut, after a word. Below 60
    columns there is no bar.

    Args:
        title: What is under way.
        share: How full the bar is, in [0, 1]; ``None`` for no bar.
        parts: What else there is to say, in this order.
        width: Columns of the terminal.
        ascii_only: Whether it can show ASCII alone.
    """
    bar = share is not None and width >= FEWEST_FOR_BAR
    said = [[form for form in part if form.text] for part in (title, *parts)]
    if ascii_only:
        said = [[Form(_as_ascii(form.text), form.rank) for form in part] for part in said]
    width -= 1
    room = width - _SHORTEST_BAR * bar
    while (excess := width_of(str(_join(said, bar))) - room) > 0 and any(said):
        place = max((n for n, part in enumerate(said) if part), key=lambda n: (said[n][0].rank, n))
        form, *shorter = said[place]
        if place == 0 and not shorter:
            shorter = _cut(form, width_of(form.text) - excess, "..." if ascii_only else "…")
        said[place] = shorter
    line = _join(said, bar)
    if share is None or not bar:
        return line
    length = min(width - width_of(str(line)), _LONGEST_BAR)
    return line._replace(bar=_bar(min(max(share, 0.0), 1.0), length, "#" if ascii_only else _BLOCKS))


def _join(said: Sequence[Part], bar: bool) -> Line:
    texts = [part[0].text for part in said if part]
    if not bar:
        return Line(", ".join(texts))
    title = f"{said[0][0].text} |" if said[0] else "|"
    rest = ", ".join(texts[1:] if said[0] else texts)
    return Line(title, "", f"| {rest}" if rest else "|")


def _bar(share: float, length: int, blocks: str) -> str:
    """Return a bar of that length; the last of the blocks is a full one, the others are its parts."""
    if len(blocks) == 1:
        return (blocks * round(share * length)).ljust(length)
    steps = len(blocks) - 1
    full, part = divmod(round(share * length * steps), steps)
    return (blocks[-1] * full + (blocks[part] if part else "")).ljust(length)


def _cut(form: Form, room: int, ellipsis: str) -> list[Form]:
    """Return as many whole words as there is room for, with an ellipsis; nothing where there is none for one."""
    words = form.text.split()
    while words and width_of(" ".join(words)) + len(ellipsis) > room:
        words.pop()
    return [Form(" ".join(words).rstrip(",:;") + ellipsis, form.rank)] if words else []


def _as_ascii(text: str) -> str:
    return text.translate(_ASCII).encode("ascii", "replace").decode()
