"""The registry in the repository: two versions of the demo's model, as a person finds them after a clone."""

from __future__ import annotations

import re

import dspy
import pytest

from dspy_nb import demo
from dspy_nb.core.deployment.releases import link_target, read_link
from dspy_nb.core.local.engine import local_lm
from dspy_nb.core.registry.registry import Registry
from tests import ROOT

REGISTRY = ROOT / "registry"


@pytest.fixture
def registry() -> Registry:
    return Registry(REGISTRY)


def test_every_log_and_every_hash_is_right(registry: Registry) -> None:
    assert registry.check() == []
    assert [(version.ref, version.stage) for version in registry.list()] == [
        ("sentiment@1.1.0", "production"),
        ("sentiment@1.0.0", "deprecated"),
    ]


def test_the_history_says_what_each_decision_rested_on(registry: Registry) -> None:
    first, second = (entry for entry in registry.history("sentiment") if entry.to_stage == "production")
    assert first.forced
    assert first.reason
    assert second.evidence is not None
    assert not second.forced
    assert second.evidence.passed
    assert second.evidence.n == 120
    version = registry.get("sentiment@1.1.0")
    assert version.score == second.evidence.score
    assert version.evaluation is not None
    assert version.evaluation["score"] == version.score
    assert version.metadata["datasets"]["test"]["fingerprint"] == second.evidence.data_fingerprint


def test_production_runs_what_the_gate_let_pass(registry: Registry) -> None:
    production = registry.environment("production")
    assert [(line.ref, line.replaced) for line in production.history()] == [
        ("sentiment@1.0.0", None),
        ("sentiment@1.1.0", "sentiment@1.0.0"),
    ]
    assert production.current == registry.get("sentiment@production")
    assert read_link(production.folder) == link_target("sentiment@1.1.0")


def test_the_versions_are_of_different_optimizers(registry: Registry) -> None:
    diff = registry.diff("sentiment@1.0.0", "sentiment@1.1.0")
    assert {"score", "options", "demos"} <= set(diff.sections())


@pytest.mark.local_model
@pytest.mark.parametrize("ref", ["sentiment@1.0.0", "sentiment@1.1.0"])
def test_each_version_loads_without_its_class_and_answers(registry: Registry, ref: str) -> None:
    program = registry.load(ref)
    with dspy.context(lm=local_lm(), adapter=dspy.JSONAdapter()):
        assert program(review="A wonderful evening.").sentiment in ("positive", "negative")


@pytest.mark.local_model
def test_the_served_program_tells_good_from_bad(registry: Registry) -> None:
    program = registry.environment("production").load()
    with dspy.context(lm=local_lm(), adapter=dspy.JSONAdapter()):
        answers = [program(review=example.review).sentiment for example in demo.reviews()[:8]]
    assert set(answers) == {"positive", "negative"}


def test_nothing_in_it_names_the_machine_that_made_it() -> None:
    files = [path for path in REGISTRY.rglob("*") if path.is_file() and not path.is_symlink()]
    assert len(files) == 18
    for path in files:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"(?<![\w.])/(?:home|root|tmp|usr|var|opt|mnt|Users)\b|[A-Z]:\\", text), path
        assert "http" not in text
