"""Charts of calls that go on, as SVG, without a library.

They are drawn anew several times a second, which a plot of matplotlib's would not bear, and take their colours
from the notebook's theme. For figures to keep, see :mod:`dspy_nb.plots`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dspy_nb.core.ab.comparison import Step
from dspy_nb.core.ab.duel import thin
from dspy_nb.views.rendering.html import markup
from dspy_nb.views.wording import count, percent, points

_ACCENT = "var(--accent)"
_DOT = "h0"  # a line of no length with round ends
_WIDTH, _HEIGHT = 760, 200
_LEFT, _TOP, _BOTTOM = 54, 12, 28


class _Chart:
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
            f'<div class="chart"><svg class="scores" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
            f'aria-label="{markup(text)}" fill="currentColor" font-size="11">{"".join(self._parts)}</svg></div>'
            f'<p class="soft">{markup(key)}</p>'
        )

    def _write(self, x: str, y: str, text: str, style: str) -> None:
        self._parts.append(f'<text x="{x}" y="{y}" {style}>{text}</text>')


def _round_up(n: int) -> int:
    """Return the end of an axis that leaves room for ``n``: 10, 20, 50, 100, 200, ..."""
    power = 10
    while power * 5 < n:
        power *= 10
    return next(size for size in (power, 2 * power, 5 * power) if size >= n)


# -- the scores of a run's candidates --------------------------------------------------------------------------

_MOST_POINTS = 240


@dataclass(frozen=True)
class _Point:
    """The score of one candidate; ``full`` when it is from the whole set that candidates are compared on."""

    number: int
    score: float
    full: bool


class ScoreTrail:
    """The scores of all candidates, thinned out evenly once there are hundreds; a record is never left out."""

    def __init__(self) -> None:
        self._points: dict[int, _Point] = {}
        self._step = 1
        self.total = 0

    def add(self, number: int, score: float, full: bool) -> None:
        """Take in a score; a candidate that is scored again has its last score."""
        if math.isnan(score):
            return
        self.total = max(self.total, number + 1)
        self._points[number] = _Point(number, score, full)
        if len(self._points) > _MOST_POINTS:
            self._thin_out()

    @property
    def points(self) -> list[_Point]:
        """What is kept, by number."""
        return sorted(self._points.values(), key=lambda point: point.number)

    @property
    def records(self) -> list[_Point]:
        """Those scored in full that were better than every one before them."""
        found: list[_Point] = []
        for point in self.points:
            if point.full and (not found or point.score > found[-1].score):
                found.append(point)
        return found

    def _thin_out(self) -> None:
        self._step *= 2
        records = self.records[-_MOST_POINTS // 4 :]
        newest = self.points[-1]
        kept = [point for point in self.points if point.number % self._step == 0]
        self._points = {point.number: point for point in (*kept, *records, newest)}


def score_text(trail: ScoreTrail, baseline: float | None) -> str:
    """Return in words what :func:`score_svg` shows."""
    scores = [point.score for point in trail.points]
    parts = [
        f"Scores of {count(trail.total, 'candidate')}, from {percent(min(scores))} to {percent(max(scores))}"
    ]
    if records := trail.records:
        parts.append(f"the best in full is number {records[-1].number} with {percent(records[-1].score)}")
    if baseline is not None:
        parts.append(f"the program as it was given has {percent(baseline)}")
    return "; ".join(parts)


def score_svg(trail: ScoreTrail, baseline: float | None) -> str:
    """Return the chart: score by number of the candidate, the best so far as steps, the baseline dashed.

    Dots are scores on the whole set, crosses those on a part of it.
    """
    points, records = trail.points, trail.records
    low, high = _score_range([point.score for point in points] + ([] if baseline is None else [baseline]))
    chart = _Chart(max(trail.total, 2), low, high)

    def at(point: _Point) -> str:
        return chart.at(point.number + 0.5, point.score)

    numbers = {number + 0.5: f"{number:,}" for number in _ticks(trail.total - 1)}
    chart.add_axes({score: f"{score:.0%}" for score in (low, (low + high) / 2, high)}, numbers)
    key = "The score of each candidate, in the order in which they were tried: ● on every example"
    if baseline is not None:
        chart.draw_across(baseline, stroke_opacity=0.7, stroke_width=1.5, stroke_dasharray="6 4")
    if records:
        steps = "".join(f"H{chart.x(point.number + 0.5)}V{chart.y(point.score)}" for point in records[1:])
        end = chart.x(max(trail.total - 0.5, records[-1].number + 0.9))
        chart.draw(f"M{at(records[0])}{steps}H{end}", stroke=_ACCENT, stroke_width=2, stroke_opacity=0.75)
    if crosses := "".join(f"M{at(point)}m-4-4l8 8m0-8l-8 8" for point in points if not point.full):
        chart.draw(crosses, stroke_width=1.3, stroke_opacity=0.6)
        key += ", × on some of them"
    if dots := "".join(f"M{at(point)}{_DOT}" for point in points if point.full):
        chart.draw(dots, stroke=_ACCENT, stroke_width=7, stroke_linecap="round")
    key += "; solid line: the best so far" + (
        "" if baseline is None else ", dashed line: the program as given"
    )
    return chart.to_html(score_text(trail, baseline), key)


def _ticks(last: int) -> range:
    """Return at most six round numbers from 0 to ``last``."""
    step = next(
        size * power for power in (10**k for k in range(20)) for size in (1, 2, 5) if 5 * size * power >= last
    )
    return range(0, last + 1, step)


def _score_range(scores: list[float]) -> tuple[float, float]:
    """Return the tens of percents around all scores."""
    low, high = math.floor(10 * min(scores) + 1e-9) / 10, math.ceil(10 * max(scores) - 1e-9) / 10
    if high - low < 0.15:
        low, high = (low - 0.1, high) if high >= 1 else (low, high + 0.1)
    return low, high


# -- the interval of a difference as evidence comes in ---------------------------------------------------------

_MOST_STEPS = 200


def sequence_text(path: Sequence[Step]) -> str:
    """Return in words what :func:`sequence_svg` shows.

    Args:
        path: The interval after each example, of at least one.
    """
    last = path[-1]
    text = f"Difference B − A after {count(last.n, 'example')}: {100 * last.effect:+.1f} points"
    return text if math.isnan(last.low) else f"{text} {points(last.low, last.high)}"


def sequence_svg(path: Sequence[Step], margin: float, planned: int) -> str:
    """Return the chart: the interval as a band that closes in, the difference in it, the margin around 0.

    The axes change in steps, so that the picture does not jitter while evidence comes in.

    Args:
        path: The interval after each example, of at least one.
        margin: Largest difference that makes no practical difference.
        planned: Examples that there are at most.
    """
    steps = thin([step for step in path if not math.isnan(step.low)], _MOST_STEPS) or path[-1:]
    reach = _reach(steps, margin)
    end = min(_round_up(path[-1].n), max(planned, path[-1].n, 1))
    chart = _Chart(end, -reach, reach, beside=88)
    levels = {value: f"{100 * value:+.3g}" for value in (-reach, -reach / 2, reach / 2, reach)}
    chart.add_axes({**levels, 0.0: "0"}, {n: f"{n:,}" for n in (0, end // 2, end)})
    if margin:
        for side in (margin, -margin):
            chart.draw_across(side, stroke_opacity=0.7, stroke_dasharray="5 4")
        chart.write_beside(0, "equal")
    for sign, text in ((0.75, "B better"), (-0.75, "A better")):
        chart.write_beside(sign * reach, text)
    upper = "L".join(chart.at(step.n, step.high) for step in steps)
    lower = "L".join(chart.at(step.n, step.low) for step in reversed(steps))
    chart.draw(f"M{upper}L{lower}Z", fill=_ACCENT, fill_opacity=0.2, stroke=_ACCENT, stroke_opacity=0.8)
    chart.draw(
        "M" + "L".join(chart.at(step.n, step.effect) for step in steps), stroke=_ACCENT, stroke_width=2
    )
    chart.draw(
        f"M{chart.at(steps[-1].n, steps[-1].effect)}{_DOT}",
        stroke=_ACCENT,
        stroke_width=8,
        stroke_linecap="round",
    )
    dashes = (
        f"; between the dashed lines (±{100 * margin:g}) it makes no practical difference" if margin else ""
    )
    key = "The difference B − A in percentage points, after so many examples: the line is the difference so far, "
    key += f"the band its interval{dashes}"
    return chart.to_html(sequence_text(path), key)


def _reach(steps: Sequence[Step], margin: float) -> float:
    """Return how far the axis goes from 0 in either direction: the interval now, and some of what was."""
    now = steps[-1]
    needed = max(abs(now.low), abs(now.high), 1.5 * margin) if not math.isnan(now.low) else 1.0
    return next(reach for reach in (0.05, 0.1, 0.2, 0.4, 0.6, 1.0) if needed <= 0.95 * reach or reach == 1.0)
