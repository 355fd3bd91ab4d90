"""Every type of result shows as text, as Markdown and as escaped HTML, and prints in one line."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dspy
import pytest

import dspy_nb as nb
from dspy_nb.core.pipeline.folder import PipelineStep
from dspy_nb.core.sweep.grid import SweepEstimate
from dspy_nb.views.documents import _VIEWS
from dspy_nb.views.listings import Listing
from tests.core.sweep.samples import result as sweep_result
from tests.registry_samples import EVALUATION, registry_of
from tests.scripted import classifier, reviews, scripted_lm

HOSTILE = "<script>alert(1)</script>\u202e"
METRIC = nb.exact_match("sentiment")


def _results(folder: Path) -> Iterator[Any]:
    data = reviews(8, HOSTILE)
    with dspy.context(lm=scripted_lm()):
        evaluation = nb.evaluate(classifier(), data, METRIC)
        compared = nb.compare_many(classifier(), [classifier()], data, METRIC, names=[HOSTILE, "b"])
        run = nb.optimize(
            classifier(), trainset=data, valset=data, testset=reviews(8, f"new {HOSTILE}"), metric=METRIC,
            optimizer="BootstrapFewShotWithRandomSearch", options={"num_candidate_programs": 1},
        )  # fmt: skip
    yield from (evaluation, evaluation.examples(), compared, compared[0], run, run.candidates[0])
    yield nb.QualityGate(min_score=2 / 3).check(evaluation, raises=False)
    yield nb.plan(0.1)
    yield run.plan.estimate
    registry = registry_of(folder, 2)
    environment = registry.environment("staging")
    environment._advance_at = math.inf
    environment.deploy("m@1.0.0", evidence=EVALUATION, reason=HOSTILE)
    for number in range(5):
        environment.observe(True, latency_ms=1, unit=f"u{number}")
    yield environment.check_health(nb.MonitorSettings(max_latency_ms=1000))
    environment.canary("m@1.1.0", 0.5)
    yield environment.canary_status()
    yield environment.history()[0]
    yield registry.get("m@1.0.0")
    yield registry.history("m")[0]
    yield registry.diff("m@1.0.0", "m@1.1.0")
    yield registry.requirements("m@1.0.0", "production")[0]
    yield next(one for one in nb.runs(folder, registry=folder, names={HOSTILE: run}) if one.run is run)
    yield nb.list_presets()[0]
    step = PipelineStep("gate", "refused", HOSTILE)
    yield nb.PipelineResult(False, "m@1.0.0", None, (step,), folder)
    yield nb.Experiment("e", classifier(), classifier(), names=(HOSTILE, "b"), registry=folder).status()
    yield Listing(registry.list("m"), HOSTILE)
    yield sweep_result(warnings=(HOSTILE,))
    yield SweepEstimate((HOSTILE,), 10, 20, nb.Budget())


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    return list(_results(tmp_path_factory.mktemp("registry")))


@pytest.mark.heavy
def test_every_result_has_text_and_escaped_html_and_prints_in_one_short_line(results: list[Any]) -> None:
    shown = set()
    for result in results:
        name = next(kind.__name__ for kind in type(result).__mro__ if kind.__name__ != "Browsable")
        shown.add(name)
        bundle = result._repr_mimebundle_()
        assert bundle["text/plain"].strip(), name
        for text in (*bundle.values(), result.to_markdown(), str(result), repr(result)):
            assert "\u202e" not in text, name
        assert "<script>alert" not in bundle["text/html"] + result.to_markdown(), name
        line = str(result)
        assert line.strip(), name
        assert "\n" not in line, name
        assert len(line) < 400, (name, line)
        assert repr(result).startswith(f"<{name}"), repr(result)
        assert line in repr([result])
    assert shown == {*" ".join(_VIEWS.values()).split(), "Listing"}
