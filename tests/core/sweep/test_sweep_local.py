"""A sweep over two settings of the embedded model: the program as it is, on each."""

from typing import Literal

import dspy
import pytest

from dspy_nb import demo
from dspy_nb.core.data.examples import split
from dspy_nb.core.data.metrics import exact_match
from dspy_nb.core.local.engine import local_lm
from dspy_nb.core.sweep.sweep import sweep

pytestmark = pytest.mark.local_model


class Sentiment(dspy.Signature):
    """Decide whether the review is positive or negative."""

    review: str = dspy.InputField()
    sentiment: Literal["positive", "negative"] = dspy.OutputField()


def test_two_settings_of_the_embedded_model_are_compared_on_what_their_calls_take():
    test = split(demo.reviews(), (6, 10, 30), seed=3, stratify="sentiment")[2]  # those of notebook 08
    lms = [local_lm(), local_lm(temperature=1.0)]
    with dspy.context(adapter=dspy.JSONAdapter()):
        found = sweep(
            dspy.Predict(Sentiment), over={"lm": lms}, testset=test, metric=exact_match("sentiment")
        )
    assert [cell.name.rpartition(" ")[2] for cell in found] == ["(temperature=0.0)", "(temperature=1.0)"]
    assert found.usage.lm_calls == 60
    assert (found.cost, found.best.number) == ("tokens", 1)
    assert found.best.final.tokens_per_call > 100
    assert found.cheapest(1.0).name in {cell.name for cell in found}
