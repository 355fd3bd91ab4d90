"""Axes and marks as SVG, without a library.

What is drawn here is drawn anew several times a second while a call works, which a plot of matplotlib's would not
bear, and takes its colours from the notebook's theme. For figures to keep, see :mod:`dspy_nb.plots`.
"""

from __future__ import annotations

from collections.abc import Mapping

from dspy_nb.views.documents import markup

__all__ = ["ACCENT", "Chart", "round_up"]

ACCENT = "var(--accent)"
_WIDTH, _HEIGHT = 600, 170
_LEFT, _TOP, _BOTTOM = 44, 10, 24


class Chart:
    """A count along x, from 0, and a value along y; what is drawn later lies above.

    Args:
        end: Where x ends.
        low: Where y begins; a value beyond an end is drawn at that end.
        high: Where y ends.
        beside: Room for words on the right.
    """

    def __init__(self, end: float, low: float, high: float, beside: int = 10) -> None:
        self._end, self._low, self._high = end, low, high
        self._right = _WIDTH - beside
        self._parts: list[str] = []

    def x(self, n: float) -> str:
        """Return where ``n`` is along x."""
        return f"{_LEFT + n / self._end * (self._right - _LEFT):.1f}"

    def y(self, value: float) -> str:
        """Return where a value is along y; NaN at the top."""
        inside = max(self._low, min(self._high, value))
        return f"{_TOP + (self._high - inside) / (self._high - self._low) * (_HEIGHT - _TOP - _BOTTOM):.1f}"

    def at(self, n: float, value: float) -> str:
        """Return a place, as a path has it."""
        return f"{self.x(n)} {self.y(value)}"

    def draw(self, path: str, **style: object) -> None:
        """Draw a line along a path; ``stroke_width`` and its like set its style."""
        given = {"fill": "none", "stroke": "currentColor", **style}
        words = "".join(f' {name.replace("_", "-")}="{value}"' for name, value in given.items())
        self._parts.append(f'<path d="{path}"{words}/>')

    def draw_across(self, value: float, **style: object) -> None:
        """Draw a line from the left to the right."""
        self.draw(f"M{_LEFT} {self.y(value)}H{self._right}", **style)

    def write_beside(self, value: float, text: str) -> None:
        """Write to the right of the axes."""
        self._write(f"{self._right + 6}", self.y(value), text, 'dy=".35em"')

    def add_axes(self, values: Mapping[float, str], places: Mapping[float, str]) -> None:
        """Draw lines at values, 0 stronger than others, and write what they and places along x are."""
        for value, text in values.items():
            self.draw_across(value, stroke_opacity=0.15 if value else 0.6)
            self._write(f"{_LEFT - 7}", self.y(value), text, 'dy=".35em" text-anchor="end"')
        for n, text in places.items():
            self._write(self.x(n), f"{_HEIGHT - 7}", text, 'text-anchor="middle"')

    def to_html(self, text: str, key: str) -> str:
        """Return the drawing with its key; ``text`` says what it shows."""
        return (
            f'<svg class="scores" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{markup(text)}" '
            f'fill="currentColor" font-size="11">{"".join(self._parts)}</svg><p class="soft">{markup(key)}</p>'
        )

    def _write(self, x: str, y: str, text: str, style: str) -> None:
        self._parts.append(f'<text x="{x}" y="{y}" {style}>{text}</text>')


def round_up(n: int) -> int:
    """Return the end of an axis that leaves room for ``n``: 10, 20, 50, 100, 200, ..."""
    power = 10
    while power * 5 < n:
        power *= 10
    return next(size for size in (power, 2 * power, 5 * power) if size >= n)
