"""Figures of runs: they draw what the run found, and refuse when there is nothing."""

from __future__ import annotations

import dspy
import pytest

from dspy_nb import plots
from dspy_nb.core.data.metrics import exact_match
from dspy_nb.core.errors import InputError
from dspy_nb.core.optimization.optimize import optimize
from dspy_nb.core.supervision.budget import Budget
from tests.scripted import classifier, reviews, scripted_lm


def optimized(**kwargs):
    with dspy.context(lm=scripted_lm()):
        return optimize(
            classifier(),
            **{
                "trainset": reviews(10, "train"),
                "valset": reviews(10, "val"),
                "metric": exact_match("sentiment"),
                "preset": "light",
                "num_threads": 2,
                **kwargs,
            },
        )


def texts(ax) -> str:
    legend = ax.get_legend()
    return " ".join(
        [ax.get_title(loc="left"), *(t.get_text() for t in (legend.get_texts() if legend else ()))]
    )


def test_a_run_draws_its_candidates_and_its_held_out_scores():
    run = optimized(testset=reviews(20, "test"))
    figure = run.plot()
    above, below = figure.axes
    (dots,) = [line for line in above.lines if line.get_marker() == "o"]
    assert list(dots.get_ydata()) == [c.score for c in run.candidates if c.full]
    assert f"before: {run.baseline_score:.1%}" in texts(above)
    assert "Held-out examples" in texts(below)
    assert figure._repr_png_().startswith(b"\x89PNG")


def test_without_held_out_examples_the_candidates_are_drawn_alone():
    run = optimized()
    assert len(run.plot().axes) == 1
    with pytest.raises(InputError, match="testset"):
        plots.plot_held_out(run)


def test_a_run_that_was_stopped_says_so():
    run = optimized(budget=Budget(lm_calls=45))
    assert "stopped by the budget of 45 LM calls" in texts(run.plot().axes[0])


def test_an_optimizer_without_candidates_has_nothing_to_draw():
    run = optimized(preset=None, optimizer="LabeledFewShot", valset=None)
    with pytest.raises(InputError, match="nothing to draw"):
        run.plot()


def test_a_part_of_the_set_has_a_mark_of_its_own():
    options = {"auto": None, "num_candidates": 2, "num_trials": 4, "minibatch": True, "minibatch_size": 4}
    run = optimized(preset=None, optimizer="MIPROv2", options=options, valset=reviews(12, "val"))
    if all(candidate.full for candidate in run.candidates):
        pytest.skip("every candidate was scored in full")
    assert "on a part of them" in texts(run.plot().axes[0])
