"""The figure of a model's history: every version once, and what was in production when."""

from __future__ import annotations

import pytest

import dspy_nb as nb
from dspy_nb import plots
from tests.registry_samples import GATE, Run, program


class _Scored:
    """A run with this score, held out or seen by the search."""

    def __init__(self, score: float, kind: str) -> None:
        self.score, self.kind = score, kind

    def registration(self):
        given = Run().registration()
        held_out = {"score": self.score, "interval": (self.score - 0.05, self.score + 0.05), "n": 50}
        metadata = {**given["metadata"], "validation_score": self.score, "test": None}
        return {
            **given,
            "metadata": metadata | ({"test": held_out} if self.kind == "test" else {}),
            "evaluation": None,
        }


@pytest.fixture
def registry(tmp_path):
    registry = nb.Registry(tmp_path / "registry")
    for score, kind in ((0.7, "test"), (0.8, "validation"), (0.75, "test")):
        registry.register(_Scored(score, kind), "m")
    for ref in ("m@1.0.0", "m@1.1.0"):
        registry.promote(ref, "staging")
        registry.promote(ref, "production", evidence=GATE)
    registry.register(program(), "m")
    registry.promote("m@1.0.0", "production", evidence=GATE)
    return registry


def texts(figure):
    figure.canvas.draw()
    return [text.get_text() for text in figure.findobj(match=lambda artist: hasattr(artist, "get_text"))]


def test_every_version_is_drawn_and_named_with_its_stage(registry):
    written = texts(plots.plot_history(registry, "m"))
    assert {"1.0.0\nproduction", "1.1.0\ndeprecated", "1.2.0\ndevelopment", "1.3.0\ndevelopment"} <= set(
        written
    )
    assert {"in production", "score, held out", "score that the search saw"} <= set(written)
    assert "versions in the order of registration; 1 version without a score" in written


def test_what_was_in_production_lies_at_its_score_from_one_promotion_to_the_next(registry):
    axes = plots.plot_history(registry, "m").axes[0]
    lines = [line for line in axes.lines if line.get_linewidth() == 6]
    spans = [(*line.get_xdata(), line.get_ydata()[0]) for line in lines]
    assert [score for *_, score in spans] == [0.7, 0.8, 0.7]
    assert spans[0][1] == spans[1][0]
    assert spans[1][1] == spans[2][0]
    assert spans[2][1] == 4  # to the right end: it still is


def test_many_versions_stay_readable(tmp_path):
    registry = nb.Registry(tmp_path)
    for number in range(40):
        registry.register(_Scored(0.5 + number / 100, "test"), "m")
    figure = plots.plot_history(registry, "m")
    assert len(figure.axes[0].get_xticks()) <= 8
    assert figure.get_size_inches()[0] <= 10


def test_a_model_without_scores_or_without_versions_is_named(tmp_path):
    registry = nb.Registry(tmp_path)
    registry.register(program(), "bare")
    with pytest.raises(nb.InputError, match="no version of bare has a score"):
        plots.plot_history(registry, "bare")
    with pytest.raises(nb.NotFound):
        plots.plot_history(registry, "other")
