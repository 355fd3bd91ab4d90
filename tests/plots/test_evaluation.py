"""Figures: what they draw, and that they leave nothing behind."""

from __future__ import annotations

import itertools
import math
import re
from dataclasses import replace

import dspy
import pytest

import dspy_nb as nb
from dspy_nb import plots
from tests.scripted import reviews

_ALL = (plots.plot_classes, plots.plot_confusion, plots.plot_latency, plots.plot_slices)


@pytest.fixture(scope="module")
def evaluation():
    def answer(review):
        number = int(review.split()[1])
        if number == 7:
            raise RuntimeError("no answer")
        return dspy.Prediction(sentiment="negative" if number < 12 or number % 2 == 0 else "positive")

    return nb.evaluate(answer, reviews(40), nb.exact_match("sentiment"), by="sentiment")


@pytest.fixture(scope="module")
def bare():
    return nb.evaluate(
        lambda review: dspy.Prediction(text=review), reviews(3), lambda gold, pred, trace=None: 0.5
    )


def texts(figure):
    """Everything that is written in a figure."""
    figure.canvas.draw()
    return [text.get_text() for text in figure.findobj(match=lambda artist: hasattr(artist, "get_text"))]


def test_the_whole_figure_has_every_part_once(evaluation):
    figure = plots.plot_evaluation(evaluation)
    titles = [axes.get_title("left") for axes in figure.axes]
    assert titles == ["Score by sentiment", "Classes of sentiment", "Confusion matrix", "Time per answer"]


def test_classes_are_bars_with_their_numbers(evaluation):
    figure = plots.plot_classes(evaluation)
    written = texts(figure)
    for label, score in evaluation.per_class.items():
        assert f"{label}\nn {score.support}" in written
        for value in (score.precision, score.recall, score.f1):
            assert f"{value:.2f}" in written
    assert {"precision", "recall", "F1"} <= set(written)
    assert len(figure.axes[0].patches) == 6


def test_the_confusion_matrix_shows_every_count_and_who_did_not_answer(evaluation):
    written = texts(plots.plot_confusion(evaluation))
    found = evaluation.confusion
    for count in [*(count for row in found.matrix for count in row), *found.unanswered]:
        assert str(count) in written
    assert "(no answer)" in written


def test_slices_have_their_intervals(evaluation):
    (axes,) = plots.plot_slices(evaluation).axes
    (bars,) = axes.containers
    ends = [sorted(float(x) for x, _ in segment) for segment in bars[2][0].get_segments()]
    assert ends == [pytest.approx(list(part.interval)) for part in evaluation.slices.values()]


def test_latency_counts_every_answer_and_marks_the_percentiles(evaluation):
    figure = plots.plot_latency(evaluation)
    bars = figure.axes[0].patches
    assert sum(bar.get_height() for bar in bars) == evaluation.latency.n == 39
    assert len({text for text in texts(figure) if re.match(r"p(50|95|99) ", text)}) == 3


@pytest.mark.parametrize("draw", [*_ALL, plots.plot_evaluation])
def test_drawing_leaves_no_figure_open_and_makes_a_png(draw, evaluation, tmp_path):
    from matplotlib import pyplot

    figure = draw(evaluation)
    figure.savefig(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 5000
    assert figure._repr_png_().startswith(b"\x89PNG")  # a notebook shows it
    drawn = figure._repr_html_()  # in the colours of its theme
    assert drawn.startswith("<svg ")
    assert "currentColor" in drawn
    assert "#000000" not in drawn
    assert all(f">{axes.get_title('left')}</text>" in drawn for axes in figure.axes)
    assert pyplot.get_fignums() == []


@pytest.mark.parametrize("draw", _ALL)
def test_an_axes_that_is_given_is_drawn_into(draw, evaluation):
    from matplotlib.figure import Figure

    figure = Figure()
    axes = figure.add_subplot()
    assert draw(evaluation, ax=axes) is figure
    assert axes.has_data()


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (plots.plot_classes, r"no classes: give evaluate\(..., label='field'\)"),
        (plots.plot_confusion, "no classes"),
        (plots.plot_slices, r"no slices: give evaluate\(..., by='field'\)"),
    ],
)
def test_what_is_not_there_is_named(draw, message, bare):
    with pytest.raises(nb.InputError, match=message):
        draw(bare)


def test_without_slices_and_classes_the_latency_is_all(bare):
    assert len(plots.plot_evaluation(bare).axes) == 1
    nothing = replace(bare, results=(), latency=None)
    with pytest.raises(nb.InputError, match="every answer came from a cache"):
        plots.plot_latency(nothing)
    with pytest.raises(nb.InputError, match="nothing to draw"):
        plots.plot_evaluation(nothing)


def test_many_long_labels_are_cut_and_said():
    labels = [f"label number {i} with a very long name, and more" for i in range(30)]
    data = [dspy.Example(q=str(i), label=labels[i % 30]).with_inputs("q") for i in range(90)]
    ev = nb.evaluate(
        lambda q: dspy.Prediction(label=labels[0]), data, nb.exact_match("label"), by="label", label="label"
    )
    figure = plots.plot_evaluation(ev)
    assert [axes.get_title("left") for axes in figure.axes][:3] == [
        "Score by label, 20 of 30", "Classes of label, 20 of 30", "Confusion matrix, 20 of 30",
    ]  # fmt: skip
    assert all(len(text) < 60 for text in texts(figure))


_LABELS = (
    [f"label number {i} with a very long name, and more" for i in range(20)],
    [f"labels that begin alike and only differ at their end {i}" for i in range(9)],
    ["a rather long label of a class", "another long label of a class"],
    [f"c{i}" for i in range(20)],
)


@pytest.mark.parametrize(
    ("draw", "labels"),
    [*((plots.plot_confusion, labels) for labels in _LABELS), (plots.plot_evaluation, _LABELS[0])],
)
def test_the_labels_of_a_confusion_matrix_do_not_overlap(draw, labels):
    data = [
        dspy.Example(q=f"{i} {label}", label=label).with_inputs("q") for i in range(2) for label in labels
    ]
    ev = nb.evaluate(lambda q: dspy.Prediction(label=q[2:]), data, nb.exact_match("label"), label="label")
    figure = draw(ev)
    figure.canvas.draw()
    (axes,) = (axes for axes in figure.axes if axes.get_title("left") == "Confusion matrix")
    shown = [tick for tick in axes.get_xticklabels() if tick.get_text()]
    assert len({tick.get_text() for tick in shown}) == len(labels)
    turned = shown[0].get_rotation()
    boxes = [tick.get_window_extent() for tick in shown]
    if turned in (0, 90):
        assert all(a.x1 <= b.x0 for a, b in itertools.pairwise(boxes))
    else:  # the distance between two lines at an angle
        apart = (boxes[1].x1 - boxes[0].x1) * math.sin(math.radians(turned))
        assert apart > shown[0].get_fontsize() / 72 * figure.dpi
