"""Figures of a registry: a model's history, and how an environment does against what was promised."""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING, Any

from dspy_nb.core.deployment.health import HealthReport, ObjectiveHealth
from dspy_nb.core.errors import InputError
from dspy_nb.core.statistics.proportions import wilson_interval
from dspy_nb.plots.figures import BLUE, GREY, ORANGE, axes_of, finished, new_figure, short
from dspy_nb.views.wording import count

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from dspy_nb.core.models.stages import HistoryEntry
    from dspy_nb.core.models.version import ModelVersion
    from dspy_nb.core.registry.registry import Registry

__all__ = ["plot_health", "plot_history"]

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
    for seen, fill, label in ((False, BLUE, "score, held out"), (True, "white", "score that the search saw")):
        _draw_scores(
            ax, [one for one in registered if (one[1].score_kind == "validation") == seen], fill, label
        )
    names = [
        short(version.version) + (f"\n{version.stage}" if every == 1 else "")
        for _, version in registered[::every]
    ]
    ax.set_xticks([place for place, _ in registered[::every]], names, fontsize=9)
    ax.set_xlim(-0.5, len(registered))
    _percent(ax)
    without = sum(version.score is None for _, version in registered)
    note = f"; {count(without, 'version')} without a score" if without else ""
    ax.set_xlabel(f"versions in the order of registration{note}", fontsize=9)
    ax.set_title(f"History of {short(model_id)}", loc="left")
    ax.legend(
        loc="upper center", bbox_to_anchor=(0.5, 0), borderaxespad=4.6, ncols=3, frameon=False, fontsize=9,
        handlelength=1.4,
    )  # fmt: skip
    return finished(ax)


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
    errors = [
        [max(0.0, score - low) for score, (low, _) in zip(scores, ends, strict=True)],
        [max(0.0, high - score) for score, (_, high) in zip(scores, ends, strict=True)],
    ]
    ax.errorbar(
        [place for place, _ in scored], scores, yerr=errors, fmt="o", color=BLUE, markerfacecolor=fill, capsize=3,
        linewidth=1.8, label=label, zorder=3,
    )  # fmt: skip


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
        ax.plot(
            [start, end],
            [score, score],
            color=ORANGE,
            linewidth=6,
            alpha=0.55,
            solid_capstyle="butt",
            label=label,
        )
        ax.annotate(short(name), (start, score), (1, 4), textcoords="offset points", fontsize=8, color=GREY)
        label = None


def _percent(ax: Axes) -> None:
    from matplotlib.ticker import PercentFormatter

    low, high = ax.get_ylim()
    axis: Any = ax.yaxis
    ax.set_ylim(max(-0.02, low), min(1.02, high))
    axis.set_major_formatter(PercentFormatter(1, decimals=0))
    ax.set_ylabel("score")
    ax.grid(axis="y", color=GREY, alpha=0.2)
    ax.set_axisbelow(True)


# -- health -----------------------------------------------------------------------------------------------------

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
