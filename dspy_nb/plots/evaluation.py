"""Figures of an evaluation: slices, classes, confusion matrix, latency."""

from __future__ import annotations

from functools import partial
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dspy_nb.core.errors import InputError
from dspy_nb.core.evaluation.scorecard import Evaluation
from dspy_nb.plots import figures
from dspy_nb.plots.figures import BLUE, GREEN, GREY, ORANGE, axes_of, finish, shorten_all
from dspy_nb.views.wording import count, percent

_MOST_ROWS = 20
_FEW = 8  # labels that stand side by side in half of a figure


def plot_evaluation(evaluation: Evaluation) -> Figure:
    """Return all that can be drawn of an evaluation: slices, classes, confusion matrix, latency.

    Raises:
        InputError: There is nothing to draw: neither slices nor classes nor latencies.
    """
    parts: list[tuple[Any, int]] = []
    if evaluation.slices:
        parts.append((plot_slices, min(len(evaluation.slices), _MOST_ROWS)))
    if evaluation.classification is not None:
        rows = min(len(evaluation.per_class), _MOST_ROWS)
        parts += [(plot_classes, rows), (plot_confusion, rows)]
    if _latencies(evaluation):
        parts.append((plot_latency, 4))
    if not parts:
        raise InputError("nothing to draw: the evaluation has neither slices nor classes nor latencies")
    labels = 0 if evaluation.classification is None else len(evaluation.classification.confusion.labels)
    columns = 1 if labels > _FEW or len(parts) == 1 else 2
    lines = [parts[i : i + columns] for i in range(0, len(parts), columns)]
    return figures.stack(
        5.0 * min(2, len(parts)),
        [
            (
                max(2.6, 1.2 + 0.6 * max(rows for _, rows in line)),
                [partial(draw, evaluation) for draw, _ in line],
            )
            for line in lines
        ],
    )


def plot_classes(evaluation: Evaluation, *, ax: Axes | None = None) -> Figure:
    """Return precision, recall and F1 of each label as bars, with the number of examples that have it.

    Raises:
        InputError: The evaluation has no classes.
    """
    found = _need(evaluation.classification, "classes: give evaluate(..., label='field')")
    items = list(found.per_class.items())[:_MOST_ROWS]
    ax = axes_of(ax, 5.2, 1.2 + 0.6 * len(items))
    height = 0.26
    for place, (measure, colour) in enumerate((("precision", BLUE), ("recall", ORANGE), ("F1", GREEN))):
        values = [getattr(score, measure.lower()) for _, score in items]
        rows = [row + (place - 1) * height for row in range(len(items))]
        bars = ax.barh(rows, values, height * 0.92, color=colour, label=measure)
        ax.bar_label(bars, labels=[f"{value:.2f}" for value in values], padding=3, fontsize=8, color=GREY)
    names = shorten_all(label for label, _ in items)
    figures.name_rows(ax, [f"{name}\nn {s.support:,}" for name, (_, s) in zip(names, items, strict=True)])
    figures.span_0_to_1(ax, room=1.14)
    figures.legend_below(ax, 3, 2.4)
    return finish(ax, f"Classes of {found.field}{_cut(len(found.per_class))}")


def plot_confusion(evaluation: Evaluation, *, ax: Axes | None = None) -> Figure:
    """Return the confusion matrix: counts, shaded by their share of the expected label.

    Raises:
        InputError: The evaluation has no classes.
    """
    found = _need(evaluation.classification, "classes: give evaluate(..., label='field')").confusion
    labels = shorten_all(found.labels[:_MOST_ROWS])
    size = len(labels)
    counts = [list(row[:size]) for row in found.matrix[:size]]
    columns = list(labels)
    if any(found.unanswered[:size]):
        columns.append("(no answer)")
        counts = [[*row, missing] for row, missing in zip(counts, found.unanswered, strict=False)]
    shares = [[number / (sum(row) or 1) for number in row] for row in counts]
    many = len(columns) > _FEW
    ax = axes_of(ax, 2.2 + (0.45 if many else 0.7) * len(columns), 1.6 + (0.4 if many else 0.55) * size)
    shades = ax.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for y, row in enumerate(counts):
        for x, number in enumerate(row):
            colour = figures.ink_on([float(part) for part in shades.to_rgba(shares[y][x])])
            weight = "bold" if x == y else "normal"
            ax.text(
                x, y, f"{number:,}", ha="center", va="center", color=colour, fontweight=weight,
                fontsize=8 if many else 10,
            )  # fmt: skip
    ax.set_xticks(range(len(columns)), columns)
    if max(map(len, columns)) * len(columns) > 40:
        ax.tick_params(axis="x", labelrotation=90 if many else 35)
        for tick in () if many else ax.get_xticklabels():
            tick.set_horizontalalignment("right")
    ax.set_yticks(range(size), labels)
    ax.set_ylabel("expected")
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return finish(ax, f"Confusion matrix{_cut(len(found.labels))}", "answered")


def plot_latency(evaluation: Evaluation, *, ax: Axes | None = None) -> Figure:
    """Return the distribution of the latency with its percentiles, cache hits left out.

    Raises:
        InputError: There is no latency: every answer came from a cache, or single results are missing.
    """
    times = _need(_latencies(evaluation), "latencies: every answer came from a cache, or failed")
    latency = _need(evaluation.latency, "latencies")
    ax = axes_of(ax, 5.2, 2.8)
    scale, unit = (1000, "s") if latency.p99_ms >= 2000 else (1, "ms")
    ax.hist([time / scale for time in times], bins="auto" if len(times) > 5 else 5, color=BLUE)
    marks = (("p50", latency.p50_ms, "-"), ("p95", latency.p95_ms, "--"), ("p99", latency.p99_ms, ":"))
    for name, value, style in marks:
        label = f"{name} {value / scale:,.3g} {unit}"
        ax.axvline(value / scale, color="#000000", linestyle=style, linewidth=1.3, label=label)
    ax.set_ylabel("examples")
    ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    figures.legend_below(ax, 3, 3.6)
    along_x = f"{unit}, {count(len(times), 'answer')}, waiting included, cache hits left out"
    return finish(ax, "Time per answer", along_x)


def plot_slices(evaluation: Evaluation, *, ax: Axes | None = None) -> Figure:
    """Return the score of each slice with its interval, beside the score of all examples.

    Raises:
        InputError: The evaluation has no slices.
    """
    slices = _need(evaluation.slices, "slices: give evaluate(..., by='field')")
    items = list(slices.items())[:_MOST_ROWS]
    ax = axes_of(ax, 5.2, 1.4 + 0.4 * len(items))
    scores = [part.score for _, part in items]
    low, high = evaluation.interval
    ax.axvspan(low, high, color=GREY, alpha=0.13, linewidth=0)
    ax.axvline(evaluation.score, color=GREY, linestyle="--", linewidth=1.2)
    figures.draw_intervals(ax, range(len(items)), scores, [part.interval for _, part in items])
    names = shorten_all(key for key, _ in items)
    figures.name_rows(ax, [f"{name}  (n {part.n:,})" for name, (_, part) in zip(names, items, strict=True)])
    figures.span_0_to_1(ax)
    along_x = f"score with {evaluation.confidence:.0%} interval\ndashed: {percent(evaluation.score)} of all"
    return finish(ax, f"Score by {evaluation.by}{_cut(len(slices))}", f"{along_x} {evaluation.n:,}")


def _latencies(evaluation: Evaluation) -> list[float]:
    answered = (result for result in evaluation.results if result.predicted or not result.error)
    return [result.latency_ms for result in answered if not result.cached]


def _need(value: Any, what: str) -> Any:
    if not value:
        raise InputError(f"the evaluation has no {what}")
    return value


def _cut(number: int) -> str:
    return f", {_MOST_ROWS} of {number:,}" if number > _MOST_ROWS else ""
