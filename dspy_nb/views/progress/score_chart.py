"""The scores of a run's candidates as a drawing: kept small and drawn as SVG, without a library.

It is drawn anew several times a second while a run works, which a plot of matplotlib's would not bear, and it
takes its colours from the notebook's theme. For a figure to keep, see :mod:`dspy_nb.plots.runs`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from dspy_nb.views.wording import count, percent

__all__ = ["ScoreTrail", "score_svg"]

_MOST_POINTS = 240
_WIDTH, _HEIGHT = 600, 170
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 10, 10, 24


@dataclass(frozen=True)
class Point:
    """The score of one candidate; ``full`` when it is from the whole set that candidates are compared on."""

    number: int
    score: float
    full: bool


class ScoreTrail:
    """The scores of all candidates, thinned out evenly once there are hundreds; a record is never left out."""

    def __init__(self) -> None:
        self._points: dict[int, Point] = {}
        self._step = 1
        self.total = 0

    def add(self, number: int, score: float, full: bool) -> None:
        """Take in a score; a candidate that is scored again has its last score."""
        if math.isnan(score):
            return
        self.total = max(self.total, number + 1)
        self._points[number] = Point(number, score, full)
        if len(self._points) > _MOST_POINTS:
            self._thin_out()

    @property
    def points(self) -> list[Point]:
        """What is kept, by number."""
        return sorted(self._points.values(), key=lambda point: point.number)

    @property
    def records(self) -> list[Point]:
        """Those scored in full that were better than every one before them."""
        return list(_records(self.points))

    def _thin_out(self) -> None:
        self._step *= 2
        records = self.records[-_MOST_POINTS // 4 :]
        newest = self.points[-1]
        kept = [point for point in self.points if point.number % self._step == 0]
        self._points = {point.number: point for point in (*kept, *records, newest)}


def _records(points: Iterable[Point]) -> Iterable[Point]:
    best = -math.inf
    for point in points:
        if point.full and point.score > best:
            best = point.score
            yield point


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

    Dots are scores on the whole set, crosses those on a part of it. The axes grow in steps, so that the
    picture does not jitter while candidates come in.
    """
    points, records = trail.points, trail.records
    low, high = _score_range([point.score for point in points] + ([] if baseline is None else [baseline]))
    last = _axis_end(trail.total)

    def x(number: float) -> str:
        return f"{_LEFT + (number + 0.5) / last * (_WIDTH - _LEFT - _RIGHT):.1f}"

    def y(score: float) -> str:
        return f"{_TOP + (high - score) / (high - low) * (_HEIGHT - _TOP - _BOTTOM):.1f}"

    dots = "".join(f"M{x(point.number)} {y(point.score)}h0" for point in points if point.full)
    crosses = "".join(
        f"M{x(point.number)} {y(point.score)}m-3-3l6 6m0-6l-6 6" for point in points if not point.full
    )
    parts = []
    for share in (low, (low + high) / 2, high):
        parts.append(
            f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y(share)}" y2="{y(share)}" stroke="currentColor" '
            f'stroke-opacity=".15"/><text x="{_LEFT - 7}" y="{y(share)}" dy=".35em" text-anchor="end">'
            f"{share:.0%}</text>"
        )
    for number in sorted({0, last // 2, last - 1}):
        anchor = f'x="{x(number)}" y="{_HEIGHT - 7}" text-anchor="middle"'
        parts.append(f"<text {anchor}>{number:,}</text>")
    if baseline is not None:
        parts.append(
            f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y(baseline)}" y2="{y(baseline)}" '
            'stroke="currentColor" stroke-opacity=".7" stroke-width="1.5" stroke-dasharray="6 4"/>'
        )
    if records:
        steps = f"M{x(records[0].number)} {y(records[0].score)}"
        steps += "".join(f"H{x(point.number)}V{y(point.score)}" for point in records[1:])
        end = x(max(trail.total - 1, records[-1].number + 0.4))
        parts.append(
            f'<path d="{steps}H{end}" fill="none" stroke="var(--accent)" stroke-width="2" stroke-opacity=".75"/>'
        )
    if crosses:
        parts.append(
            f'<path d="{crosses}" fill="none" stroke="currentColor" stroke-width="1.3" stroke-opacity=".6"/>'
        )
    if dots:
        parts.append(
            f'<path d="{dots}" fill="none" stroke="var(--accent)" stroke-width="7" stroke-linecap="round"/>'
        )
    return (
        f'<svg class="scores" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="{score_text(trail, baseline)}" fill="currentColor" font-size="11">{"".join(parts)}</svg>'
        f'<p class="soft">{_key(trail, baseline)}</p>'
    )


def _key(trail: ScoreTrail, baseline: float | None) -> str:
    """Return what the marks mean."""
    parts = ["score by candidate: ● on all examples that candidates are compared on"]
    if any(not point.full for point in trail.points):
        parts.append("× on a part of them")
    parts.append("— best so far")
    if baseline is not None:
        parts.append("- - before")
    return ", ".join(parts)


def _score_range(scores: list[float]) -> tuple[float, float]:
    """Return the tens of percents around all scores."""
    low, high = math.floor(10 * min(scores) + 1e-9) / 10, math.ceil(10 * max(scores) - 1e-9) / 10
    if high - low < 0.15:
        low, high = (low - 0.1, high) if high >= 1 else (low, high + 0.1)
    return low, high


def _axis_end(total: int) -> int:
    """Return a round number of candidates that leaves room for all."""
    size = 10
    while True:
        for factor in (1, 2, 5):
            if total <= factor * size:
                return factor * size
        size *= 10
