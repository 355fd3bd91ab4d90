"""The pieces that every figure is made of: the figure itself, its axes, its colours."""

from __future__ import annotations

from functools import cache
from io import BytesIO
from typing import TYPE_CHECKING, Any

from dspy_nb.views.wording import excerpt

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "BLUE", "GREEN", "GREY", "ORANGE", "axes_of", "finished", "from_0_to_1", "new_figure", "short",
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


def finished(ax: Axes, *, frame: bool = False) -> Figure:
    """Return the figure of axes that are drawn."""
    if not frame:
        ax.spines[["top", "right"]].set_visible(False)
    ax.title.set_fontsize(11)
    figure: Any = ax.get_figure()
    return figure


def from_0_to_1(ax: Axes, room: float = 1.02) -> None:
    """Let the x axis run from 0 to 100 %."""
    from matplotlib.ticker import PercentFormatter

    ax.set_xlim(0, room)
    ax.set_xticks([0, 0.25, 0.5, 0.75, 1])
    ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    ax.grid(axis="x", color=GREY, alpha=0.2)
    ax.set_axisbelow(True)


def short(label: str) -> str:
    """Return a label that fits beside a bar."""
    return excerpt(label, _LABEL_LENGTH)
