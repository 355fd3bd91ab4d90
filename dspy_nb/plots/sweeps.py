"""The figure of a sweep: what each finalist scores, against what a call of it costs."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dspy_nb.core.errors import InputError
from dspy_nb.core.sweep.result import SweepCell, SweepResult
from dspy_nb.core.text import excerpt
from dspy_nb.plots import figures
from dspy_nb.plots.figures import BLUE, GREEN, GREY, ORANGE, WIDTH, axes_of, finish
from dspy_nb.views.sweep import MARGIN
from dspy_nb.views.wording import level


def plot_sweep(found: SweepResult, *, margin: float = MARGIN, ax: Axes | None = None) -> Figure:
    """Return the score of each finalist with its interval, against the cost of a call.

    Cost is in dollars for 1,000 calls, in tokens a call where a price is not known; where neither is, the finalists
    stand side by side. A line joins those that no other one beats in both.

    Args:
        found: The sweep.
        margin: By how much the cheapest may be worse, see ``SweepResult.cheapest``.
        ax: Axes to draw into.

    Raises:
        InputError: The finalists were not compared.
    """
    finalists = [cell for cell in found.finalists if cell.like is None]
    if not finalists:
        raise InputError("nothing to draw: the finalists were not compared on the test examples")
    ax = axes_of(ax, WIDTH, 3.8)
    factor = 1000 if found.cost == "usd" else 1
    costs = {cell.name: (found.cost_of(cell) or 0.0) * factor for cell in finalists}
    if found.cost is None:
        costs = {cell.name: float(place) for place, cell in enumerate(finalists, 1)}
    best = found.best.name
    cheapest = best if found.cost is None else found.cheapest(margin).name
    if found.cost is not None:
        _join(ax, finalists, costs)
    for number, cell in enumerate(finalists, 1):
        assert cell.final is not None
        colour, mark, role = (GREY, "o", "")
        if cell.name == best:
            colour, mark, role = BLUE, "*", "best"
        if cell.name == cheapest:
            both = f"best, and the cheapest at most {100 * margin:g} points worse"
            role = both if cell.name == best else f"cheapest at most {100 * margin:g} points worse"
            colour, mark = (BLUE, "*") if cell.name == best else (GREEN, "s")
        name = f"{number}: {excerpt(cell.name, 60)}{f' ({role})' if role else ''}"
        figures.draw_intervals(
            ax, [costs[cell.name]], [cell.final.score], [cell.final.interval], upright=True, fmt=mark, color=colour,
            markersize=11 if mark == "*" else 6, label=name,
        )  # fmt: skip
        figures.write_beside(
            ax, str(number), (costs[cell.name], cell.final.score), xytext=(9, 4), ha="left", color=colour
        )
    low, high = min(costs.values()), max(costs.values())
    room = 0.12 * (high - low) or 0.5 * high or 1.0
    ax.set_xlim(max(0.0, low - room), high + room)
    figures.in_percent(ax, "y")
    ax.set_ylabel(f"score with {level(found.confidence)} interval", fontsize=9)
    figures.legend_below(ax, 1, 4.0)
    words = {
        "usd": "US dollars for 1,000 calls",
        "tokens": "tokens a call",
        None: "finalist, costs not known",
    }
    if found.cost is None:
        ax.set_xticks([])
    return finish(
        ax, f"Score and cost, on {found.n_test:,} test examples that no cell has seen", words[found.cost]
    )


def _join(ax: Axes, finalists: list[SweepCell], costs: dict[str, float]) -> None:
    """Join the finalists that no other one beats in score and cost."""
    front: list[tuple[float, float]] = []
    for cell in sorted(
        finalists, key=lambda one: (costs[one.name], -(one.final.score if one.final else 0.0))
    ):
        assert cell.final is not None
        if not front or cell.final.score > front[-1][1]:
            front.append((costs[cell.name], cell.final.score))
    if len(front) > 1:
        ax.plot(
            *zip(*front, strict=True), color=ORANGE, linewidth=1, linestyle="--", zorder=0, label="_front"
        )
