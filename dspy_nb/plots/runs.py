"""Figures of an optimization: the candidates' scores over the run, and the held-out scores around it."""

from __future__ import annotations

from functools import partial

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dspy_nb.core.errors import InputError
from dspy_nb.core.optimization.run import OptimizationRun
from dspy_nb.plots.comparisons import plot_arms
from dspy_nb.plots.figures import BLUE, GREY, ORANGE, WIDTH, axes_of, finish, in_percent, legend_below, stack
from dspy_nb.views.wording import count, describe_ending, percent


def plot_run(run: OptimizationRun) -> Figure:
    """Return all that can be drawn of a run: its candidates, and its held-out scores.

    Raises:
        InputError: The run is going on, has failed, or has neither candidates nor held-out scores.
    """
    parts = [(3.3, [partial(plot_candidates, run)])] if run.candidates else []
    if run.test_before is not None or run.test_after is not None:
        parts.append((2.2, [partial(plot_held_out, run)]))
    if not parts:
        raise InputError("nothing to draw: the run scored no candidate, and had no held-out examples")
    return stack(WIDTH, parts)


def plot_candidates(run: OptimizationRun, *, ax: Axes | None = None) -> Figure:
    """Return the score of each candidate in the order of the run, the best so far, and the score before.

    Raises:
        InputError: No candidate was scored.
    """
    if not run.candidates:
        raise InputError("the run scored no candidate")
    ax = axes_of(ax, WIDTH, 3.2)
    full = [candidate for candidate in run.candidates if candidate.full]
    partial = [candidate for candidate in run.candidates if not candidate.full]
    if full:
        best = [max(c.score for c in full[: i + 1]) for i in range(len(full))]
        numbers = [c.number for c in full]
        ax.step(numbers, best, where="post", color=BLUE, linewidth=1.6, alpha=0.6, label="best so far")
        name = f"on {count(max(c.n for c in full), 'example')}"
        ax.plot(numbers, [c.score for c in full], "o", color=BLUE, markersize=5.5, label=name)
    if partial:
        ax.plot(
            [c.number for c in partial], [c.score for c in partial], "x", color=ORANGE, markersize=6,
            label="on a part of them",
        )  # fmt: skip
    if run.baseline_score is not None:
        name = f"before: {percent(run.baseline_score)}"
        ax.axhline(run.baseline_score, color=GREY, linestyle="--", linewidth=1.2, label=name)
    ax.margins(x=0.03, y=0.12)
    in_percent(ax, "y")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    ax.set_ylabel("score")
    title = f"{run.plan.optimizer}: scores of its candidates"
    if run.stopped_by is not None:
        title += f", {describe_ending(run.stopped_by, run.plan.budget.limits())}"
    legend_below(ax, 4, 3.2)
    return finish(ax, title, "candidate")


def plot_held_out(run: OptimizationRun, *, ax: Axes | None = None) -> Figure:
    """Return the scores on held-out examples before and after, with their intervals.

    Raises:
        InputError: The run had no held-out examples, or ended before it scored them.
    """
    found = {"before": run.test_before, "after": run.test_after}
    arms = {name: (e.score, e.interval, e.n) for name, e in found.items() if e is not None}
    if not arms:
        raise InputError("the run has no held-out scores: give optimize(..., testset=examples)")
    confidence = next(e.confidence for e in found.values() if e is not None)
    ax = axes_of(ax, 5.2, 2.2)
    plot_arms(arms, confidence=confidence, ax=ax)
    return finish(ax, "Held-out examples, never seen by the search", ax.get_xlabel())
