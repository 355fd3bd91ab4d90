"""Versions of the demo's model, compared on the embedded model."""

import json
from pathlib import Path

import dspy
import pytest

from dspy_nb import demo
from dspy_nb.cli.main import main
from dspy_nb.core.ab.compare import compare, compare_many
from dspy_nb.core.data.metrics import exact_match
from dspy_nb.core.local.engine import local_lm
from dspy_nb.core.registry.registry import Registry
from tests import ROOT

pytestmark = pytest.mark.local_model

REGISTRY = ROOT / "registry"


def test_the_version_with_demos_is_compared_with_the_one_without() -> None:
    with dspy.context(lm=local_lm(), adapter=dspy.JSONAdapter()):
        found = compare(
            "sentiment@1.0.0", "sentiment@1.1.0", demo.reviews(), exact_match("sentiment"),
            max_examples=12, margin=0.02, registry=Registry(REGISTRY),
        )  # fmt: skip
    assert 0 < found.n <= 12
    assert found.a.errors.count == found.b.errors.count == 0
    assert found.b.score - found.a.score == pytest.approx(found.effect)
    assert found.latency_ratio is not None
    assert found.latency_ratio.median > 0
    assert all(flip.a != flip.b for flip in found.flips)
    assert found.to_evidence().ref == "sentiment@1.1.0"


def test_candidates_share_the_answers_of_the_baseline() -> None:
    with dspy.context(lm=local_lm(), adapter=dspy.JSONAdapter()):
        found = compare_many(
            "sentiment@1.0.0", ["sentiment@1.1.0", lambda review: dspy.Prediction(sentiment="positive")],
            demo.reviews(), exact_match("sentiment"), max_examples=8, registry=Registry(REGISTRY),
            names=["", "", "always positive"],
        )  # fmt: skip
    assert [one.b_name for one in found] == ["sentiment@1.1.0", "always positive"]
    assert found[0].n == found[1].n == 8
    first, second = ([result.predicted for result in one.a.results] for one in found)
    assert first == second
    assert found[1].b.usage.lm_calls == 0
    assert all(one.confidence == 0.975 for one in found)


def test_the_command_compares_versions_on_the_embedded_model(tmp_path: Path, capsys) -> None:
    rows = [json.dumps(dict(example.items())) for example in demo.reviews()]
    (tmp_path / "test.jsonl").write_text("\n".join(rows), encoding="utf-8")
    status = main(
        ["ab-test", "--model-a", "sentiment@1.0.0", "--model-b", "sentiment@1.1.0", "--registry", str(REGISTRY),
         "--test-data", str(tmp_path / "test.jsonl"), "--metric", "exact_match:sentiment",
         "--max-examples", "8", "--json"]
    )  # fmt: skip
    data = json.loads(capsys.readouterr().out)
    assert status == (0 if data["verdict"] == "B better" else 1)
    assert (data["n"], data["a"]["errors"]["count"], data["b"]["errors"]["count"]) == (8, 0, 0)
    assert data["b"]["base_model"]
