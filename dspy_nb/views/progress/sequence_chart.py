"""The interval of a difference as evidence comes in, as a drawing."""

from __future__ import annotations

import math
from collections.abc import Sequence

from dspy_nb.core.ab.comparison import Step
from dspy_nb.core.ab.duel import thin
from dspy_nb.views.progress.chart import ACCENT, Chart, round_up
from dspy_nb.views.wording import count, points

__all__ = ["sequence_svg", "sequence_text"]

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
    end = min(round_up(path[-1].n), max(planned, path[-1].n, 1))
    chart = Chart(end, -reach, reach, beside=74)
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
    chart.draw(f"M{upper}L{lower}Z", fill=ACCENT, fill_opacity=0.2, stroke=ACCENT, stroke_opacity=0.8)
    chart.draw("M" + "L".join(chart.at(step.n, step.effect) for step in steps), stroke=ACCENT, stroke_width=2)
    chart.draw(
        f"M{chart.at(steps[-1].n, steps[-1].effect)}h0", stroke=ACCENT, stroke_width=8, stroke_linecap="round"
    )
    dashes = ", - - the margin" if margin else ""
    key = f"difference B − A in points by examples compared: ● so far, ▒ its interval{dashes}"
    return chart.to_html(sequence_text(path), key)


def _reach(steps: Sequence[Step], margin: float) -> float:
    """Return how far the axis goes from 0 in either direction: the interval now, and some of what was."""
    now = steps[-1]
    needed = max(abs(now.low), abs(now.high), 1.5 * margin) if not math.isnan(now.low) else 1.0
    return next(reach for reach in (0.05, 0.1, 0.2, 0.4, 0.6, 1.0) if needed <= 0.95 * reach or reach == 1.0)
