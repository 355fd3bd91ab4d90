"""The pieces that every figure is made of: the figure itself, its axes, its colours."""

from __future__ import annotations

from functools import cache
from io import BytesIO
from typing import TYPE_CHECKING, Any, Literal

from dspy_nb.views.wording import excerpt

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "BLUE", "GREEN", "GREY", "ORANGE", "axes_of", "draw_intervals", "finish", "in_percent", "legend_below",
    "new_figure", "shorten", "span_0_to_1",
]  # fmt: skip

# Okabe and Ito (2008), "Color Universal Design": told apart by people who confuse some colours. Nothing is said
# by colour alone.
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#E69F00", "#009E73", "#595959"
_LABEL_LENGTH = 24
_DPI = 110


def new_figure(width: float, height: float) -> Figure:
    """Return a figure of this size in inches, which a notebook shows when a cell returns it."""
    # Not pyplot's: it would keep the figure open, and a notebook would show it twice.
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure = _shown_figure()(figsize=(width, height), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


@cache
def _shown_figure() -> type[Figure]:
    """Return a class of figures that a notebook shows, also where pyplot was never imported."""
    from matplotlib.figure import Figure

    class ShownFigure(Figure):
        def _repr_png_(self) -> bytes:
            file = BytesIO()
            self.savefig(file, format="png")
            return file.getvalue()

    return ShownFigure


def axes_of(ax: Axes | None, width: float, height: float) -> Axes:
    """Return ``ax``, or else the axes of a new figure of this size."""
    return ax if ax is not None else new_figure(width, max(height, 2.2)).add_subplot()


def legend_below(ax: Axes, columns: int, gap: float) -> None:
    """Put the legend below the axes and what is written there, ``gap`` lines down."""
    ax.legend(
        loc="upper center", bbox_to_anchor=(0.5, 0), borderaxespad=gap, ncols=columns, columnspacing=1.3,
        handlelength=1.4, frameon=False, fontsize=9,
    )  # fmt: skip


def draw_intervals(
    ax: Axes,
    places: Sequence[float],
    values: Sequence[float],
    intervals: Iterable[tuple[float, float]],
    *,
    upright: bool = False,
    **style: Any,
) -> None:
    """Draw each value as a dot at its place, with its interval as a bar: on a line of its own, or upright."""
    ends = [
        (max(0.0, value - low), max(0.0, high - value))
        for value, (low, high) in zip(values, intervals, strict=True)
    ]
    reach = list(zip(*ends, strict=True))
    style = {"fmt": "o", "color": BLUE, "capsize": 3, "linewidth": 1.8, **style}
    if upright:
        ax.errorbar(places, values, yerr=reach, **style)
    else:
        ax.errorbar(values, places, xerr=reach, **style)


def in_percent(ax: Axes, axis: Literal["x", "y"]) -> None:
    """Show the shares along an axis as percentages, with a grid."""
    from matplotlib.ticker import PercentFormatter

    chosen: Any = ax.xaxis if axis == "x" else ax.yaxis
    chosen.set_major_formatter(PercentFormatter(1))
    ax.grid(axis=axis, color=GREY, alpha=0.2)
    ax.set_axisbelow(True)


def finish(ax: Axes, *, frame: bool = False) -> Figure:
    """Return the figure of axes that are drawn."""
    if not frame:
        ax.spines[["top", "right"]].set_visible(False)
    ax.title.set_fontsize(11)
    figure: Any = ax.get_figure()
    return figure


def span_0_to_1(ax: Axes, room: float = 1.02) -> None:
    """Let the x axis run from 0 to 100 %."""
    ax.set_xlim(0, room)
    ax.set_xticks([0, 0.25, 0.5, 0.75, 1])
    in_percent(ax, "x")


def shorten(label: str) -> str:
    """Return a label that fits beside a bar."""
    return excerpt(label, _LABEL_LENGTH)
