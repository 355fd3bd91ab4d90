"""The pieces that every figure is made of: the figure itself, its axes, its colours."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from io import BytesIO, StringIO
from typing import Any, Final, Literal

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from dspy_nb.core.text import excerpt, one_line
from dspy_nb.views.rendering.html import markup

# Okabe and Ito (2008), "Color Universal Design": told apart by people who confuse some colours. Nothing is said
# by colour alone.
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#E69F00", "#009E73", "#595959"
BLACK, WHITE = "#010101", "#ffffff"  # upon a colour of the figure, so the same in light and dark
PAPER: dict[str, Any] = {"facecolor": "#fefefe", "edgecolor": "none", "alpha": 0.75, "pad": 1}
WIDTH = 7.2  # inches of a figure as wide as a notebook
_LABEL_LENGTH = 24

_THEMED: Final = {
    "#000000": "currentColor",
    GREY.lower(): "color-mix(in srgb,currentColor 74%,transparent)",
    PAPER["facecolor"]: "var(--jp-layout-color0,Canvas)",
}
"""The colours that follow the theme of the page."""
_COLOUR: Final = re.compile(rf"(?<=: )({'|'.join(_THEMED)})(?=[;\"])")


class _ShownFigure(Figure):
    """A figure that a notebook shows when a cell returns it, also where pyplot was never imported.

    As HTML it is a drawing without a background, in the colours of the page around it, light or dark; as a PNG
    it is dark on white.
    """

    def __init__(self, width: float, height: float) -> None:
        # Not pyplot's: it would keep the figure open, and a notebook would show it twice.
        super().__init__(figsize=(width, height), dpi=110, layout="constrained")
        FigureCanvasAgg(self)

    def _repr_png_(self) -> bytes:
        file = BytesIO()
        self.savefig(file, format="png")
        return file.getvalue()

    def _repr_html_(self) -> str:
        file = StringIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        with rc_context({"svg.fonttype": "none"}):  # text stays text
            self.savefig(file, format="svg", transparent=True, metadata=nothing)
        _, start, drawing = file.getvalue().partition("<svg ")
        says = markup("; ".join(filter(None, (ax.get_title("left") for ax in self.axes))))
        start += f'role="img" aria-label="{says}" fill="currentColor" style="max-width:100%;height:auto" '
        return start + _COLOUR.sub(lambda match: _THEMED[match[0]], drawing)


def axes_of(ax: Axes | None, width: float, height: float) -> Axes:
    """Return ``ax``, or else the axes of a new figure of this size in inches."""
    return ax if ax is not None else _ShownFigure(width, max(height, 2.2)).add_subplot()


def stack(width: float, rows: Sequence[tuple[float, Sequence[Callable[..., object]]]]) -> Figure:
    """Return a figure of rows of panels; a row of fewer panels than others is one panel, as wide as all.

    Args:
        width: In inches.
        rows: The height of each in inches, and what draws its panels, called with ``ax``.
    """
    heights, columns = [height for height, _ in rows], max(len(panels) for _, panels in rows)
    figure = _ShownFigure(width, sum(heights))
    grid = figure.add_gridspec(len(rows), columns, height_ratios=heights)
    for row, (_, panels) in enumerate(rows):
        for column, draw in enumerate(panels):
            place = column if len(panels) == columns else slice(None)
            draw(ax=figure.add_subplot(grid[row, place]))
    return figure


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
    chosen: Any = ax.xaxis if axis == "x" else ax.yaxis
    chosen.set_major_formatter(PercentFormatter(1))
    ax.grid(axis=axis, color=GREY, alpha=0.2)
    ax.set_axisbelow(True)


def finish(ax: Axes, title: str, along_x: str = "") -> Figure:
    """Say what the axes show, and what runs along x, and return their figure."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.set_title(title, loc="left", fontsize=11)
    ax.set_xlabel(along_x, fontsize=9)
    figure: Any = ax.get_figure()
    return figure


def span_0_to_1(ax: Axes, room: float = 1.02) -> None:
    """Let the x axis run from 0 to 100 %."""
    ax.set_xlim(0, room)
    ax.set_xticks([0, 0.25, 0.5, 0.75, 1])
    in_percent(ax, "x")


def ink_on(colour: Sequence[float]) -> str:
    """Return black or white, whichever is read better on a colour (red, green, blue, each in [0, 1])."""
    linear = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in colour[:3])
    luminance = sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
    return WHITE if luminance < 0.179 else BLACK  # where both have the same contrast, as WCAG counts it


def shorten(label: str) -> str:
    """Return a label that fits beside a bar."""
    return excerpt(label, _LABEL_LENGTH)


def shorten_all(labels: Iterable[str]) -> list[str]:
    """Return labels that fit beside a bar: their beginnings, or their ends where several begin alike."""
    whole = [one_line(label) for label in labels]
    begun = [shorten(label) for label in whole]
    return [
        short if begun.count(short) == 1 or short == label else f"…{label[1 - _LABEL_LENGTH :]}"
        for short, label in zip(begun, whole, strict=True)
    ]


def name_rows(ax: Axes, labels: Sequence[str]) -> None:
    """Name rows 0, 1, 2, ... from top to bottom, with some room above the first."""
    ax.set_yticks(range(len(labels)), labels)
    ax.set_ylim(len(labels) - 0.4, -0.7)


def write_beside(ax: Axes, text: str, place: tuple[float, float], **style: Any) -> None:
    """Write a few words above a place, or where ``style`` says."""
    given = {"xytext": (0, 6), "textcoords": "offset points", "ha": "center", "fontsize": 8.5, "color": GREY}
    ax.annotate(text, place, **{**given, **style})
