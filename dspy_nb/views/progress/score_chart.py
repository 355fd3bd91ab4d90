"""The scores of a run's candidates as a drawing, and the few of them that it needs."""

from __future__ import annotations

import math
from dataclasses import dataclass

from dspy_nb.views.progress.chart import ACCENT, Chart, round_up
from dspy_nb.views.wording import count, percent

__all__ = ["ScoreTrail", "score_svg", "score_text"]

_MOST_POINTS = 240


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
        found: list[Point] = []
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

    Dots are scores on the whole set, crosses those on a part of it. The axes grow in steps, so that the
    picture does not jitter while candidates come in.
    """
    points, records = trail.points, trail.records
    low, high = _score_range([point.score for point in points] + ([] if baseline is None else [baseline]))
    last = round_up(trail.total)
    chart = Chart(last, low, high)

    def at(point: Point) -> str:
        return chart.at(point.number + 0.5, point.score)

    numbers = {number + 0.5: f"{number:,}" for number in (0, last // 2, last - 1)}
    chart.add_axes({score: f"{score:.0%}" for score in (low, (low + high) / 2, high)}, numbers)
    key = "score by candidate: ● on all examples that candidates are compared on"
    if baseline is not None:
        chart.draw_across(baseline, stroke_opacity=0.7, stroke_width=1.5, stroke_dasharray="6 4")
    if records:
        steps = "".join(f"H{chart.x(point.number + 0.5)}V{chart.y(point.score)}" for point in records[1:])
        end = chart.x(max(trail.total - 0.5, records[-1].number + 0.9))
        chart.draw(f"M{at(records[0])}{steps}H{end}", stroke=ACCENT, stroke_width=2, stroke_opacity=0.75)
    if crosses := "".join(f"M{at(point)}m-3-3l6 6m0-6l-6 6" for point in points if not point.full):
        chart.draw(crosses, stroke_width=1.3, stroke_opacity=0.6)
        key += ", × on a part of them"
    if dots := "".join(f"M{at(point)}h0" for point in points if point.full):
        chart.draw(dots, stroke=ACCENT, stroke_width=7, stroke_linecap="round")
    key += ", — best so far" + ("" if baseline is None else ", - - before")
    return chart.to_html(score_text(trail, baseline), key)


def _score_range(scores: list[float]) -> tuple[float, float]:
    """Return the tens of percents around all scores."""
    low, high = math.floor(10 * min(scores) + 1e-9) / 10, math.ceil(10 * max(scores) - 1e-9) / 10
    if high - low < 0.15:
        low, high = (low - 0.1, high) if high >= 1 else (low, high + 0.1)
    return low, high
