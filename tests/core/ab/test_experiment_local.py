"""An online experiment whose two versions answer on the embedded model."""

from pathlib import Path

import dspy
import pytest

from dspy_nb import demo
from dspy_nb.core.ab.experiment import Experiment
from dspy_nb.core.data.metrics import exact_match
from dspy_nb.core.local.engine import local_lm
from dspy_nb.core.registry.registry import Registry
from dspy_nb.views.rendering.text import to_text
from tests import ROOT

pytestmark = pytest.mark.local_model

REGISTRY = ROOT / "registry"


def test_two_versions_share_the_traffic(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    for version in ("1.0.0", "1.1.0"):
        registry.register(Registry(REGISTRY).load(f"sentiment@{version}"), "sentiment", version=version)
    experiment = Experiment("t", "sentiment@1.0.0", "sentiment@1.1.0", split=0.5, registry=registry)
    metric = exact_match("sentiment")
    with dspy.context(lm=local_lm()):
        for i, example in enumerate([*demo.reviews()[:6], *demo.reviews()[:6]]):
            prediction, request_id = experiment.predict(f"user {i}", review=example.review)
            experiment.record(request_id, value=float(metric(example, prediction)))
    status = experiment.status()
    assert status.total == status.n == 12
    assert status.a.errors == status.b.errors == 0
    asked = [arm.latency for arm in (status.a, status.b) if arm.latency is not None]
    assert sum(latency.n for latency in asked) + status.a.cached + status.b.cached == 12
    assert all(latency.p50_ms > 1 for latency in asked)
    assert "sentiment@1.1.0" in to_text(status)
