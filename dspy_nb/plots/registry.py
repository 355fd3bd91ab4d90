"""Figures of a registry: a model's history, and how an environment does against what was promised."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import accumulate
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dspy_nb.core.deployment.health import HealthReport, ObjectiveHealth
from dspy_nb.core.errors import InputError
from dspy_nb.core.models.stages import HistoryEntry
from dspy_nb.core.models.version import ModelVersion
from dspy_nb.core.registry.registry import Registry
from dspy_nb.core.statistics.proportions import wilson_interval
from dspy_nb.plots import figures
from dspy_nb.plots.figures import (
    BLUE,
    GREY,
    ORANGE,
    PAPER,
    WIDTH,
    axes_of,
    draw_intervals,
    finish,
    in_percent,
    shorten,
)
from dspy_nb.views.wording import count, percent

_MOST_LABELS = 8


def plot_history(registry: Registry, model_id: str, *, ax: Axes | None = None) -> Figure:
    """Return the scores of a model's versions with their intervals, in the order of its log.

    The thick line is what was in production: it lies at the score of that version, from one promotion to the
    next. A hollow mark is a score that the search saw, which flatters.

    Raises:
        NotFound: There is no such model.
        InputError: No version of it has a score.
    """
    versions = {version.version: version for version in registry.list(model_id)}
    history = registry.history(model_id)
    places = _places(history)
    registered = [
        (places[entry.number], versions[entry.version])
        for entry in history
        if entry.action == "register" and entry.version
    ]
    if all(version.score is None for _, version in registered):
        raise InputError(f"no version of {model_id} has a score: register a run or an evaluation")
    every = -(-len(registered) // _MOST_LABELS)
    ax = axes_of(ax, max(5.2, min(10.0, 2.0 + 1.1 * len(registered))), 3.4)
    _draw_production(ax, history, versions, places)
    for seen, fill, label in (
        (False, BLUE, "score, held out"),
        (True, PAPER["facecolor"], "score that the search saw"),
    ):
        of_kind = [one for one in registered if (one[1].score_kind == "validation") == seen]
        _draw_scores(ax, of_kind, fill, label)
    names = [
        shorten(version.version) + (f"\n{version.stage}" if every == 1 else "")
        for _, version in registered[::every]
    ]
    ax.set_xticks([place for place, _ in registered[::every]], names, fontsize=9)
    ax.set_xlim(-0.5, len(registered))
    low, high = ax.get_ylim()
    ax.set_ylim(max(-0.02, low), min(1.02, high))
    ax.set_ylabel("score")
    in_percent(ax, "y")
    without = sum(version.score is None for _, version in registered)
    note = f"; {count(without, 'version')} without a score" if without else ""
    figures.legend_below(ax, 3, 4.6)
    return finish(ax, f"History of {shorten(model_id)}", f"versions in the order of registration{note}")


def _places(history: Sequence[HistoryEntry]) -> dict[int, float]:
    """Return where each log entry lies: versions at 0, 1, 2, ..., what was decided in between in between."""
    starts = [index for index, entry in enumerate(history) if entry.action == "register"]
    places = {}
    for place, (start, end) in enumerate(zip(starts, [*starts[1:], len(history)], strict=True)):
        for index in range(start, end):
            places[history[index].number] = place + (index - start) / (end - start)
    return places


def _draw_scores(ax: Axes, scored: Sequence[tuple[float, ModelVersion]], fill: str, label: str) -> None:
    scored = [one for one in scored if one[1].score is not None]
    scores = [float(version.score or 0) for _, version in scored]
    if not scores:
        return
    ends = [version.interval or (score, score) for (_, version), score in zip(scored, scores, strict=True)]
    places = [place for place, _ in scored]
    draw_intervals(ax, places, scores, ends, upright=True, markerfacecolor=fill, label=label, zorder=3)


def _draw_production(
    ax: Axes, history: Sequence[HistoryEntry], versions: dict[str, ModelVersion], places: dict[int, float]
) -> None:
    """Draw a line for each time that a version was in production, at its score."""
    spans: list[tuple[float, float, str]] = []
    live: tuple[float, str] | None = None
    for entry in history:
        entered = entry.version if entry.to_stage == "production" else None
        left = live is not None and entry.from_stage == "production" and entry.version == live[1]
        if live is not None and (entered or left):
            spans.append((live[0], places[entry.number], live[1]))
            live = None
        if entered:
            live = (places[entry.number], entered)
    if live is not None:
        spans.append((live[0], len(versions), live[1]))
    label: str | None = "in production"
    for start, end, name in spans:
        score = versions[name].score
        if score is None:
            continue
        line: dict[str, Any] = {"color": ORANGE, "linewidth": 6, "alpha": 0.55, "solid_capstyle": "butt"}
        ax.plot([start, end], [score, score], label=label, **line)
        figures.write_beside(ax, shorten(name), (start, score), xytext=(1, 4), ha="left")
        label = None


# -- health -----------------------------------------------------------------------------------------------------

_HEIGHT = 3.0


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
    if ax is None:
        return figures.stack(WIDTH, [(_HEIGHT, [partial(_draw, report, item)]) for item in shown])
    if len(shown) > 1:
        raise InputError(f"one pair of axes shows one objective: give objective= one of {', '.join(names)}")
    return _draw(report, shown[0], ax)


def _draw(report: HealthReport, item: ObjectiveHealth, ax: Axes) -> Figure:
    ends = list(accumulate(part.n for part in item.bins))
    places = [end - part.n / 2 for end, part in zip(ends, item.bins, strict=True)]
    means = [part.total / part.n for part in item.bins]
    intervals = [wilson_interval(round(part.total), part.n) for part in item.bins]
    ax.axhline(item.level, color=GREY, linestyle="--", linewidth=1.2, label=f"promised {percent(item.level)}")
    ax.axhline(item.tolerated, color=ORANGE, linewidth=2.4, label=f"tolerated {percent(item.tolerated)}")
    each = f"{count(max(part.n for part in item.bins), 'request')} each"
    style = {"capsize": 0, "linewidth": 1, "markersize": 4, "alpha": 0.9}
    draw_intervals(ax, places, means, intervals, upright=True, label=each, **style)
    if item.alarm_at is not None:
        ax.axvline(item.alarm_at, color=GREY, linewidth=1.2)
        left = item.alarm_at > ends[-1] / 2
        figures.write_beside(
            ax, f"alarm at {item.alarm_at:,}", (item.alarm_at, 0.03), xycoords=("data", "axes fraction"),
            xytext=(-5 if left else 5, 0), ha="right" if left else "left",
        )  # fmt: skip
    lows = [low for low, _ in intervals]
    ax.set_ylim(max(-0.02, min([*lows, item.tolerated]) - 0.05), 1.02)
    ax.set_xlim(0, ends[-1])
    in_percent(ax, "y")
    ax.xaxis.set_major_formatter("{x:,.0f}")
    figures.legend_below(ax, 3, 3.6)
    along_x = f"requests to {report.ref} in {report.environment}, in order"
    return finish(ax, f"{item.name.capitalize()}: {item.meaning} — {item.verdict}", along_x)
