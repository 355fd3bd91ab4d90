"""The figure of a sweep."""

import pytest

from dspy_nb import plots
from dspy_nb.core.errors import InputError
from tests.core.sweep.samples import result


def labels(figure):
    return [text.get_text() for text in figure.axes[0].get_legend().get_texts()]


def test_each_finalist_has_its_place_by_score_and_cost():
    figure = result().plot()
    assert labels(figure) == [
        "1: MIPROv2 · big (best)",
        "2: MIPROv2 · small (cheapest at most 2 points worse)",
        "3: as given",
    ]  # fmt: skip
    assert "dollars" in figure.axes[0].get_xlabel()
    assert figure._repr_png_().startswith(b"\x89PNG")


def test_without_prices_it_is_tokens_and_without_tokens_side_by_side():
    assert "tokens" in result(usd=False).plot().axes[0].get_xlabel()
    assert "not known" in result(usd=False, tokens=False).plot().axes[0].get_xlabel()


def test_a_sweep_without_finalists_has_nothing_to_draw():
    with pytest.raises(InputError, match="nothing to draw"):
        plots.plot_sweep(result(finals=False))
