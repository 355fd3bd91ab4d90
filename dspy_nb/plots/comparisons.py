"""Figures of comparisons and experiments: where the difference lies, how both sides score, what changed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from dspy_nb.core.ab.comparison import Comparison, Comparisons
from dspy_nb.core.ab.status import ExperimentStatus
from dspy_nb.core.errors import InputError
from dspy_nb.plots import figures
from dspy_nb.plots.figures import BLUE, GREEN, GREY, ORANGE, PAPER, WIDTH, axes_of, finish, shorten
from dspy_nb.views.wording import capitalize, count, level, percent

_SETTLED_BY = 0.25  # of the path: what lies before, when the interval is everything, does not set the scale


def plot_comparison(found: Comparison | Comparisons) -> Figure:
    """Return all that can be drawn of a comparison, or of several candidates with their baseline.

    Raises:
        InputError: There is nothing to draw: no example was compared.
    """
    if isinstance(found, Comparisons):
        arms = {one.b_name: (one.b.score, one.b.interval, one.n) for one in found.ranking}
        most = max(found, key=lambda one: one.n)
        arms[f"{most.a_name} (A)"] = (most.a.score, most.a.interval, most.n)
        height = 1.2 + 0.45 * len(arms)
        panels = partial(plot_effects, found), partial(plot_arms, arms, confidence=found.confidence)
        return figures.stack(WIDTH, [(height, [panel]) for panel in panels])
    arms = {
        f"{letter}: {name}": (arm.score, arm.interval, found.n)
        for letter, name, arm in (("A", found.a_name, found.a), ("B", found.b_name, found.b))
    }
    above = (3.3, [_sequence_of(found)]) if found.path else (2.1, [partial(plot_effects, [found])])
    below = partial(plot_arms, arms, confidence=found.a.confidence), partial(plot_flips, found)
    return figures.stack(WIDTH, [above, (2.2, below)])


def plot_experiment(status: ExperimentStatus) -> Figure:
    """Return the interval of an online experiment as its units came in, and the success rates of both arms.

    Raises:
        InputError: There is nothing to draw: an arm has no outcomes that count yet.
    """
    arms = {
        f"{letter}: {arm.name}": (arm.success_rate, arm.interval, arm.counted)
        for letter, arm in (("A", status.a), ("B", status.b))
    }
    if not status.path or not all(n for _, _, n in arms.values()):
        raise InputError("nothing to draw: an arm has no outcomes that count yet")
    below = partial(plot_arms, arms, confidence=status.confidence, what="success rate")
    return figures.stack(WIDTH, [(3.2, [_sequence_of(status, "units")]), (1.8, [below])])


def _sequence_of(found: Comparison | ExperimentStatus, what: str = "examples") -> partial[Figure]:
    return partial(
        plot_sequence, found.path, margin=found.margin, confidence=found.confidence, verdict=found.verdict,
        n_at_verdict=found.n_at_verdict, what=what,
    )  # fmt: skip


def plot_sequence(
    points: Iterable[tuple[float, float, float, float]],
    *,
    margin: float = 0.0,
    confidence: float = 0.95,
    verdict: str = "inconclusive",
    n_at_verdict: int | None = None,
    what: str = "examples",
    ax: Axes | None = None,
) -> Figure:
    """Return the difference B − A and its interval as the evidence came in.

    Args:
        points: (n, effect, low, high) after n observations, as in ``Comparison.path``, n ascending.
        margin: Largest difference that makes no practical difference; drawn as a band.
        confidence: Of the intervals.
        verdict: The verdict so far.
        n_at_verdict: After how many observations it was reached.
        what: What is counted.
        ax: Axes to draw into.

    Raises:
        InputError: There are no points.
    """
    path = [tuple(map(float, point)) for point in points]
    if not path:
        raise InputError("nothing to draw: a sequence has at least one point (n, effect, low, high)")
    n, effect, low, high = (list(column) for column in zip(*path, strict=True))
    ax = axes_of(ax, WIDTH, 3.2)
    if margin:
        ax.axhspan(
            -margin, margin, color=GREY, alpha=0.16, linewidth=0,
            label=f"no practical difference (±{100 * margin:g})",
        )  # fmt: skip
    ax.axhline(0, color=GREY, linewidth=1)
    ax.fill_between(
        n, low, high, step="post", color=BLUE, alpha=0.2, linewidth=0, label=f"{level(confidence)} interval"
    )
    for end in (low, high):
        ax.step(n, end, where="post", color=BLUE, linewidth=1)
    ax.plot(n, effect, color=BLUE, linewidth=2, label="difference so far")
    if n_at_verdict is not None:
        label = f"{verdict}, n = {n_at_verdict:,}"
        ax.axvline(n_at_verdict, color="#000000", linestyle="--", linewidth=1.2, label=label)
    ax.set_xlim(0, n[-1] * 1.02)
    reach = _reach(low, high, margin)
    ax.set_ylim(-reach, reach)
    _points_of(ax.yaxis)
    ax.set_ylabel("B − A, points")
    for y, side, align in ((0.97, "B better", "top"), (0.03, "A better", "bottom")):
        figures.write_beside(
            ax, side, (0.995, y), xycoords="axes fraction", xytext=(0, 0), ha="right", va=align, bbox=PAPER
        )  # fmt: skip
    figures.legend_below(ax, 4, 4.2)
    return finish(ax, f"{capitalize(verdict)} after {n[-1]:,.0f} {what}", what)


def plot_arms(
    arms: Mapping[str, tuple[float, tuple[float, float], int]],
    *,
    confidence: float = 0.95,
    what: str = "score",
    ax: Axes | None = None,
) -> Figure:
    """Return the score, or the success rate, of each arm with its interval.

    Args:
        arms: By name: the rate, its interval, and n.
        confidence: Of the intervals.
        what: What is measured.
        ax: Axes to draw into.

    Raises:
        InputError: There are no arms, or one has no observations.
    """
    if not arms or any(math.isnan(rate) for rate, _, _ in arms.values()):
        raise InputError("nothing to draw: an arm has no observations yet")
    ax = axes_of(ax, 5.2, 1.3 + 0.45 * len(arms))
    rates = [rate for rate, _, _ in arms.values()]
    figures.draw_intervals(ax, range(len(arms)), rates, [interval for _, interval, _ in arms.values()])
    for row, rate in enumerate(rates):
        figures.write_beside(ax, percent(rate), (rate, row))
    figures.name_rows(ax, [f"{shorten(name)}\nn {n:,}" for name, (_, _, n) in arms.items()])
    figures.span_0_to_1(ax)
    return finish(ax, f"{capitalize(what)}s", f"{what} with {level(confidence)} interval")


def plot_flips(found: Comparison, *, ax: Axes | None = None) -> Figure:
    """Return how many examples B fixed, how many it broke, and how many are as before.

    Raises:
        InputError: No example was compared.
    """
    if not found.n:
        raise InputError("nothing to draw: no example was compared")
    rows = [("B fixed", found.b_wins, BLUE, ""), ("B broke", found.a_wins, ORANGE, "///")]
    same = found.n - found.b_wins - found.a_wins
    if found.a.correct is not None:
        right = found.a.correct - found.a_wins
        rows += [("both right", right, GREY, ""), ("both wrong", same - right, GREY, "")]
    else:
        rows.append(("the same", same, GREY, ""))
    ax = axes_of(ax, 4.6, 1.3 + 0.4 * len(rows))
    for row, (_, size, colour, hatch) in enumerate(rows):
        faint = 0.45 if colour == GREY else 1.0
        bars = ax.barh(
            row, size, 0.62, color=colour, alpha=faint, hatch=hatch, edgecolor="white", linewidth=0
        )
        ax.bar_label(bars, labels=[f"{size:,}"], padding=3, fontsize=9, color=GREY)
    figures.name_rows(ax, [name for name, *_ in rows])
    ax.set_xlim(0, max(size for _, size, *_ in rows) * 1.18)
    ax.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    ax.tick_params(axis="y", length=0)
    return finish(ax, "What changed", f"of {count(found.n, 'example')}")


def plot_effects(found: Iterable[Comparison], *, ax: Axes | None = None) -> Figure:
    """Return the difference of each candidate to the baseline with its interval, and its verdict.

    Args:
        found: Comparisons with one baseline, or ``Comparisons``.
        ax: Axes to draw into.

    Raises:
        InputError: No example was compared.
    """
    ordered = found.ranking if isinstance(found, Comparisons) else tuple(found)
    shown = [one for one in ordered if one.n]
    if not shown:
        raise InputError("nothing to draw: no example was compared")
    ax = axes_of(ax, WIDTH, 1.4 + 0.45 * len(shown))
    margin = max(one.margin for one in shown)
    if margin:
        ax.axvspan(-margin, margin, color=GREY, alpha=0.16, linewidth=0)
    ax.axvline(0, color=GREY, linewidth=1)
    marks = {"B better": (GREEN, "^"), "A better": (ORANGE, "v"), "no practical difference": (BLUE, "s")}
    ends: list[float] = [margin]
    for row, one in enumerate(shown):
        colour, mark = marks.get(one.verdict, (GREY, "o"))
        interval = (one.effect, one.effect) if math.isnan(one.interval[0]) else one.interval
        figures.draw_intervals(ax, [row], [one.effect], [interval], fmt=mark, color=colour, markersize=7)
        ends += map(abs, interval)
        figures.write_beside(ax, f"{100 * one.effect:+.1f}", (one.effect, row), bbox=PAPER)
    words = {"B better": "better", "A better": "worse"}
    figures.name_rows(ax, [f"{shorten(one.b_name)}\n{words.get(one.verdict, one.verdict)}" for one in shown])
    reach_x = min(1.02, 1.08 * max(ends))
    ax.set_xlim(-reach_x, reach_x)
    _points_of(ax.xaxis)
    ax.grid(axis="x", color=GREY, alpha=0.2)
    band = f"; grey: no practical difference (±{100 * margin:g})" if margin else ""
    levels = sorted({level(one.confidence) for one in shown})
    along_x = f"difference to A, points, with {' to '.join(levels)} interval{band}"
    return finish(ax, f"Against {shown[0].a_name} (A)", along_x)


def _reach(low: Sequence[float], high: Sequence[float], margin: float) -> float:
    """Return how far from 0 the axis must go, so that the interval is not flattened by its first moments."""
    later = range(math.floor(_SETTLED_BY * len(low)), len(low))
    ends = [abs(end) for index in later for end in (low[index], high[index]) if not math.isnan(end)]
    return min(1.02, 1.1 * max([*ends, 2 * margin, 0.02]))


def _points_of(axis: Any) -> None:
    """Show shares as percentage points with their sign."""
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:+g}" if round(value, 9) else "0"))
