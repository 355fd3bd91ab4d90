"""The figure of a look at an environment: outcomes over time, what was promised, and what is tolerated.

``dspy_nb.plots`` has it too.
"""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING

from dspy_nb.core.errors import InputError
from dspy_nb.core.health import HealthReport, ObjectiveHealth
from dspy_nb.core.stats import wilson_interval
from dspy_nb.figures import BLUE, GREY, ORANGE, axes_of, finished, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot_health"]

_WIDTH, _HEIGHT = 7.0, 3.0


def plot_health(report: HealthReport, objective: str | None = None, *, ax: Axes | None = None) -> Figure:
    """Return the share of requests that met each objective, in the order in which they came.

    A dot is a group of neighbouring requests, with the 95 % Wilson interval of its mean; the dashed line is what
    was promised, the thick one what is tolerated, and a vertical line where the alarm was raised.

    Args:
        report: The look.
        objective: Only this one, such as ``quality``; needed with ``ax`` where there are several.
        ax: Where to draw.

    Raises:
        InputError: There is no such objective, or no request yet.
    """
    names = [item.name for item in report.objectives]
    if objective is not None and objective not in names:
        raise InputError(f"objective {objective!r:.80} is not watched: use one of {', '.join(names)}")
    shown = [item for item in report.objectives if objective in (None, item.name) and item.bins]
    if not shown:
        raise InputError(f"nothing to draw: no request of {report.ref} has counted yet")
    if len(shown) == 1:
        return finished(_draw(axes_of(ax, _WIDTH, _HEIGHT), report, shown[0]))
    if ax is not None:
        raise InputError(f"one pair of axes shows one objective: give objective= one of {', '.join(names)}")
    figure = new_figure(_WIDTH, _HEIGHT * len(shown))
    for number, item in enumerate(shown, 1):
        finished(_draw(figure.add_subplot(len(shown), 1, number), report, item))
    return figure


def _draw(ax: Axes, report: HealthReport, item: ObjectiveHealth) -> Axes:
    from matplotlib.ticker import PercentFormatter

    ends = list(accumulate(part.n for part in item.bins))
    places = [end - part.n / 2 for end, part in zip(ends, item.bins, strict=True)]
    means = [part.total / part.n for part in item.bins]
    intervals = [wilson_interval(round(part.total), part.n) for part in item.bins]
    below = [max(0.0, mean - low) for mean, (low, _) in zip(means, intervals, strict=True)]
    above = [max(0.0, high - mean) for mean, (_, high) in zip(means, intervals, strict=True)]
    ax.axhline(item.level, color=GREY, linestyle="--", linewidth=1.2, label=f"promised {item.level:.1%}")
    ax.axhline(item.tolerated, color=ORANGE, linewidth=2.4, label=f"tolerated {item.tolerated:.1%}")
    ax.errorbar(
        places, means, yerr=[below, above], fmt="o", color=BLUE, markersize=4, linewidth=1, alpha=0.9,
        label=f"{max(part.n for part in item.bins):,} requests each",
    )  # fmt: skip
    if item.alarm_at is not None:
        ax.axvline(item.alarm_at, color=GREY, linewidth=1.2)
        left = item.alarm_at > ends[-1] / 2
        ax.annotate(
            f"alarm at {item.alarm_at:,}", (item.alarm_at, 0.03), xycoords=("data", "axes fraction"),
            xytext=(-5 if left else 5, 0), textcoords="offset points", ha="right" if left else "left", fontsize=9,
        )  # fmt: skip
    lows = [low for low, _ in intervals]
    ax.set_ylim(max(-0.02, min([*lows, item.tolerated]) - 0.05), 1.02)
    ax.set_xlim(0, ends[-1])
    ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    ax.xaxis.set_major_formatter("{x:,.0f}")
    ax.grid(axis="y", color=GREY, alpha=0.2)
    ax.set_axisbelow(True)
    ax.set_xlabel(f"requests to {report.ref} in {report.environment}, in order", fontsize=9)
    ax.set_title(f"{item.name.capitalize()}: {item.meaning} — {item.verdict}", loc="left")
    ax.legend(
        loc="upper center", bbox_to_anchor=(0.5, 0), borderaxespad=3.6, ncols=3, frameon=False, fontsize=9
    )
    return ax
