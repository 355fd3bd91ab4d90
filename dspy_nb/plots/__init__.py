"""Figures of runs, evaluations, comparisons, experiments, models and environments, for notebooks and reports.

Each function draws into ``ax`` if one is given, else into a figure of its own, and returns the figure; nothing
is shown or kept by pyplot, so a notebook shows what a cell returns, once.
"""

from dspy_nb.plots.comparisons import (
    plot_arms,
    plot_comparison,
    plot_effects,
    plot_experiment,
    plot_flips,
    plot_sequence,
)
from dspy_nb.plots.evaluation import plot_classes, plot_confusion, plot_evaluation, plot_latency, plot_slices
from dspy_nb.plots.registry import plot_health, plot_history
from dspy_nb.plots.runs import plot_candidates, plot_held_out, plot_run

__all__ = [
    "plot_arms", "plot_candidates", "plot_classes", "plot_comparison", "plot_confusion", "plot_effects",
    "plot_evaluation", "plot_experiment", "plot_flips", "plot_health", "plot_held_out", "plot_history",
    "plot_latency", "plot_run", "plot_sequence", "plot_slices",
]  # fmt: skip
