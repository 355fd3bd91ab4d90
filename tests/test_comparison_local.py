"""Two versions of the demo's model, compared on the embedded model."""

from pathlib import Path

import dspy
import pytest

from dspy_nb import demo
from dspy_nb.core.comparison import compare
from dspy_nb.core.local import local_lm
from dspy_nb.core.metrics import exact_match
from dspy_nb.core.registry import Registry

pytestmark = pytest.mark.local_model

ROOT = Path(__file__).parents[1] / "registry"


def test_the_version_with_demos_is_compared_with_the_one_without() -> None:
    with dspy.context(lm=local_lm()):
        found = compare(
            "sentiment@1.0.0", "sentiment@1.1.0", demo.reviews(), exact_match("sentiment"),
            max_examples=12, margin=0.02, registry=Registry(ROOT),
        )  # fmt: skip
    assert 0 < found.n <= 12
    assert found.a.errors.count == found.b.errors.count == 0
    assert found.b.score - found.a.score == pytest.approx(found.effect)
    assert found.latency_ratio is not None
    assert found.latency_ratio.median > 0
    assert all(flip.a != flip.b for flip in found.flips)
    assert found.to_evidence()["ref"] == "sentiment@1.1.0"
