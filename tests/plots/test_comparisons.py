"""Figures of comparisons: what they draw, and that they leave nothing behind."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

import dspy_nb as nb
from dspy_nb import plots
from tests.core.ab.test_compare import METRIC, examples, program
from tests.plots.test_evaluation import texts


@pytest.fixture(scope="module")
def found():
    return nb.compare(program(0.5, 1), program(0.7, 2), examples(600), METRIC, margin=0.02)


@pytest.fixture(scope="module")
def many():
    names = ["old", "same", "a candidate with a name that is much too long", "bad"]
    candidates = [program(0.5, 2), program(0.9, 3), program(0.2, 4)]
    return nb.compare_many(program(0.5, 1), candidates, examples(120), METRIC, margin=0.02, names=names)


def titles(figure):
    return [axes.get_title("left") for axes in figure.axes]


def test_the_plots_are_a_public_name():
    assert nb.plots is plots
    assert all(callable(getattr(plots, name)) for name in plots.__all__)


@pytest.mark.heavy
def test_the_whole_figure_has_the_path_the_scores_and_what_changed(found):
    figure = nb.plots.plot_comparison(found)
    assert titles(figure) == [f"B better after {found.n} examples", "Scores", "What changed"]
    assert f"B better, n = {found.n_at_verdict}" in texts(figure)
    assert "no practical difference (±2)" in texts(figure)


def test_one_look_has_no_path_but_an_interval():
    looked = nb.compare(program(0.5, 1), program(0.8, 2), examples(60), METRIC, sequential=False)
    figure = plots.plot_comparison(looked)
    assert titles(figure)[0] == "Against answer (A)"
    assert not any("no practical difference" in text for text in texts(figure))  # without a margin


def test_the_sequence_is_drawn_as_it_is(found):
    (axes,) = plots.plot_sequence(found.path, margin=found.margin).axes
    steps = {line.get_label(): line for line in axes.lines}
    assert list(steps["difference so far"].get_xdata()) == [step.n for step in found.path]
    assert list(steps["difference so far"].get_ydata()) == [step.effect for step in found.path]
    drawn = [list(line.get_ydata()) for line in axes.lines]
    assert [step.low for step in found.path] in drawn
    assert [step.high for step in found.path] in drawn


def test_the_first_moments_of_a_sequence_do_not_flatten_the_rest():
    path = [(n, 0.0, -min(1.0, 10 / n), min(1.0, 10 / n)) for n in range(1, 401)]
    (axes,) = plots.plot_sequence(path).axes
    assert axes.get_ylim()[1] == pytest.approx(0.11, abs=0.005)


def test_the_sequence_takes_plain_points_of_anything():
    points = [(100, 0.02, -0.2, 0.3), (200, 0.01, -0.1, 0.1), (300, 0.01, math.nan, math.nan)]
    figure = plots.plot_sequence(points, what="units", verdict="A better", n_at_verdict=200)
    assert {"units", "A better, n = 200", "A better after 300 units"} <= set(texts(figure))
    with pytest.raises(nb.InputError, match="at least one point"):
        plots.plot_sequence([])


def test_arms_show_their_rates_and_intervals():
    figure = plots.plot_arms({"A": (0.6, (0.5, 0.7), 100), "B": (0.65, (0.4, 0.85), 20)}, confidence=0.9)
    assert {"60.0%", "65.0%", "A\nn 100", "B\nn 20", "score with 90% interval"} <= set(texts(figure))
    with pytest.raises(nb.InputError, match="no observations"):
        plots.plot_arms({"A": (math.nan, (0, 1), 0)})


def test_an_experiment_shows_its_path_and_its_success_rates(tmp_path):
    experiment = nb.Experiment(
        "live", lambda x: x, lambda x: x, split=0.5, names=("old", "new"), registry=tmp_path
    )
    with pytest.raises(nb.InputError, match="nothing to draw"):
        plots.plot_experiment(experiment.status())
    for number in range(120):
        _, request_id = experiment.predict(f"user-{number}", x=number)
        experiment.record(request_id, success=number % 3 > 0)
    status = experiment.status()
    figure = plots.plot_experiment(status)
    assert titles(figure) == ["Inconclusive after 120 units", "Success rates"]
    assert {f"A: old\nn {status.a.counted}", f"B: new\nn {status.b.counted}"} <= set(texts(figure))
    figure.savefig(tmp_path / "experiment.png")
    experiment.close()


def test_flips_are_counted(found):
    figure = plots.plot_flips(found)
    bars = [bar.get_width() for bar in figure.axes[0].patches]
    assert bars[:2] == [found.b_wins, found.a_wins]
    assert sum(bars) == found.n
    assert bars[0] + bars[2] == found.b.correct
    graded = nb.compare(program(0.5, 1), program(0.8, 2), examples(30), lambda e, p, t=None: 0.5)
    assert "the same" in texts(plots.plot_flips(graded))


def test_several_candidates_are_ranked_with_their_verdicts(many):
    figure = plots.plot_comparison(many)
    assert titles(figure) == ["Against old (A)", "Scores"]
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == ["a candidate with a name…\nbetter", "same\ninconclusive", "bad\nworse"]
    assert "old (A)\nn 120" in texts(figure)
    assert any("98.3%" in text for text in texts(figure))


def test_nothing_compared_is_nothing_to_draw(found):
    nothing = replace(found, n=0, path=(), effect=math.nan)
    for draw in (plots.plot_comparison, plots.plot_flips):
        with pytest.raises(nb.InputError, match="nothing to draw"):
            draw(nothing)


def test_an_interval_that_is_empty_is_left_out(found):
    empty = replace(found, interval=(math.nan, math.nan), verdict="inconclusive", path=())
    assert titles(plots.plot_comparison(empty))[0] == f"Against {found.a_name} (A)"


@pytest.mark.parametrize("draw", [plots.plot_comparison, plots.plot_flips])
def test_drawing_leaves_no_figure_open(draw, found):
    from matplotlib import pyplot

    assert draw(found)._repr_png_().startswith(b"\x89PNG")
    assert pyplot.get_fignums() == []


def test_an_axes_that_is_given_is_drawn_into(found):
    from matplotlib.figure import Figure

    figure = Figure()
    axes = figure.add_subplot()
    assert plots.plot_sequence(found.path, ax=axes) is figure
    assert axes.has_data()
