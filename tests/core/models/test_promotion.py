from __future__ import annotations

from pathlib import Path
from typing import Any

import dspy
import pytest

import dspy_nb as nb
from dspy_nb.core.errors import InputError, NotFound, Refused
from dspy_nb.core.evidence import read_evidence
from dspy_nb.core.registry.registry import Registry
from tests.registry_samples import GATE, Run, program
from tests.scripted import scripted_lm

pytestmark = pytest.mark.usefixtures("no_flush")


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "registry")


def test_a_version_goes_from_development_to_production_with_evidence(registry: Registry) -> None:
    registry.register(Run(), "m")
    assert registry.promote("m@1.0.0", "staging").stage == "staging"
    assert registry.get("m@staging").version == "1.0.0"
    with pytest.raises(Refused, match="needs a passed gate or A/B verdict"):
        registry.promote("m@1.0.0", "production")
    assert (
        registry.promote("m@staging", "production", evidence=GATE, by="ann", reason="better").stage
        == "production"
    )
    registry.register(Run(), "m")
    registry.promote("m@1.1.0", "staging")
    registry.promote("m@1.1.0", "production", evidence=GATE)
    assert registry.get("m@production").version == "1.1.0"
    production = registry.production("m")
    assert production is not None
    assert production.version == "1.1.0"
    assert registry.get("m@1.0.0").stage == "deprecated"
    third = registry.history("m")[2]
    assert (third.number, third.action, third.version, third.from_stage, third.to_stage) == (
        3,
        "promote",
        "1.0.0",
        "staging",
        "production",
    )
    assert (third.by, third.reason, third.evidence, third.forced) == (
        "ann",
        "better",
        read_evidence(GATE),
        False,
    )
    assert registry.history("m")[-1].demoted == "1.0.0"
    assert registry.history("m")[-1].versions == ("1.1.0", "1.0.0")


def test_rolling_back_needs_no_new_evidence(registry: Registry) -> None:
    for version in ("1.0.0", "1.1.0"):
        registry.register(Run(), "m", version=version)
        registry.promote(f"m@{version}", "staging")
        registry.promote(f"m@{version}", "production", evidence=GATE)
    assert registry.promote("m@1.0.0", "production", reason="1.1.0 is slow").stage == "production"
    assert registry.get("m@1.1.0").stage == "deprecated"


@pytest.mark.parametrize(
    ("evidence", "words"),
    [
        (None, "needs an evaluation"),
        ({"kind": "gate", "passed": True}, "needs an evaluation"),
        ({"kind": "evaluation", "score": 0.8}, "needs a passed gate"),
        ({**GATE, "passed": False}, "the latest gate said no"),
        ({**GATE, "kind": "ab", "passed": None, "verdict": "A better"}, "the latest comparison said no"),
    ],
)
def test_production_without_the_evidence_is_refused(
    registry: Registry, evidence: dict[str, Any] | None, words: str
) -> None:
    registry.register(program(), "m")
    registry.promote("m", "staging")
    with pytest.raises(Refused, match=words):
        registry.promote("m", "production", evidence=evidence)
    assert registry.get("m").stage == "staging"


def test_evidence_may_be_attached_before_and_an_object_may_give_it(registry: Registry) -> None:
    class Comparison:
        def to_evidence(self) -> dict[str, Any]:
            return {
                "kind": "ab",
                "verdict": "B better",
                "n": 80,
                "interval": [0.01, 0.1],
                "data_fingerprint": "f",
            }

    registry.register(program(), "m")
    registry.promote("m", "staging")
    version = registry.attach("m", {"kind": "evaluation", "score": 0.7, "interval": [0.6, 0.8], "n": 80})
    assert (version.score, version.interval, version.score_kind) == (0.7, (0.6, 0.8), "evaluation")
    registry.attach("m@1.0.0", Comparison(), reason="weekly comparison")
    assert registry.promote("m", "production").stage == "production"
    assert [entry.action for entry in registry.history("m")] == [
        "register",
        "promote",
        "attach",
        "attach",
        "promote",
    ]


def test_a_gate_that_failed_last_outweighs_one_that_passed(registry: Registry) -> None:
    registry.register(Run(), "m")
    registry.promote("m", "staging")
    registry.attach("m", GATE)
    registry.attach("m", {**GATE, "passed": False})
    with pytest.raises(Refused, match="said no"):
        registry.promote("m", "production")


@pytest.mark.parametrize("evidence", [7, {}, {"kind": "hope"}, {"passed": True}, {**GATE, "ref": "m@9.9.9"}])
def test_evidence_of_no_known_kind_or_about_another_version_is_refused(
    registry: Registry, evidence: Any
) -> None:
    registry.register(Run(), "m")
    with pytest.raises(InputError, match="evidence"):
        registry.attach("m", evidence)
    with pytest.raises(InputError, match="evidence"):
        registry.promote("m", "staging", evidence=evidence)
    assert len(registry.history("m")) == 1


@pytest.mark.parametrize(
    ("path", "stage", "words"),
    [
        (
            [],
            "production",
            "cannot go from development to production, but to staging or deprecated or archived",
        ),
        ([], "development", "in development already"),
        (["archived"], "production", "cannot go from archived to production, but to development"),
        (["staging", "deprecated"], "development", "cannot go from deprecated"),
    ],
)
def test_illegal_transitions_are_refused(registry: Registry, path: list[str], stage: str, words: str) -> None:
    registry.register(Run(), "m")
    for step in path:
        registry.promote("m@1.0.0", step)
    with pytest.raises(Refused, match=words):
        registry.promote("m@1.0.0", stage, evidence=GATE)
    with pytest.raises(InputError, match="development, staging, production, deprecated, archived"):
        registry.promote("m@1.0.0", "live")


def test_force_needs_a_reason_and_stays_in_the_history(registry: Registry) -> None:
    registry.register(program(), "m")
    for reason in (None, "", "  "):
        with pytest.raises(InputError, match="reason"):
            registry.promote("m", "production", force=True, reason=reason)
    registry.promote("m", "production", force=True, reason="outage")
    assert [(entry.forced, entry.reason) for entry in registry.history("m")] == [
        (False, None),
        (True, "outage"),
    ]


def test_what_a_stage_requires_is_configured_in_the_registry(registry: Registry) -> None:
    registry.register(Run(), "m")
    config = registry.root / "config.toml"
    config.write_text(
        '[promotion.staging]\nrequire = ["ab"]\n[promotion.production]\nrequire = []\n[other]\nx = 1\n'
    )
    with pytest.raises(Refused, match="staging needs a passed ab verdict"):
        registry.promote("m", "staging", evidence=GATE)
    registry.promote("m", "staging", evidence={"kind": "ab", "passed": True})
    registry.promote("m", "production")


@pytest.mark.parametrize(
    "text",
    [
        "[",
        "promotion = 3",
        "[promotion.live]\nrequire = []",
        "[promotion.staging]\nrequire = ['luck']",
        "[promotion.staging]\nrequires = []",
        "[promotion]\nstaging = 1",
        "[promotion.staging]\nrequire = 'ab'",
    ],
)
def test_a_configuration_that_makes_no_sense_is_refused_by_name(registry: Registry, text: str) -> None:
    registry.register(Run(), "m")
    (registry.root / "config.toml").write_text(text)
    with pytest.raises(InputError, match=r"config\.toml"):
        registry.promote("m", "staging")
    assert [problem.path.name for problem in registry.check()] == ["config.toml"]


def test_archiving_keeps_the_latest_and_never_touches_production_or_staging(registry: Registry) -> None:
    for minor in range(6):
        registry.register(Run(), "m", version=f"1.{minor}.0")
    registry.promote("m@1.0.0", "production", force=True, reason="test")
    registry.promote("m@1.1.0", "staging")
    archived = registry.archive("m", keep_latest=2, reason="old")
    assert [version.version for version in archived] == ["1.3.0", "1.2.0"]
    assert {version.version: version.stage for version in registry.list("m")} == {
        "1.5.0": "development",
        "1.4.0": "development",
        "1.3.0": "archived",
        "1.2.0": "archived",
        "1.1.0": "staging",
        "1.0.0": "production",
    }
    assert registry.archive("m", keep_latest=2) == []
    last = registry.history("m")[-1]
    assert (last.action, last.version, last.versions, last.to_stage) == (
        "archive",
        None,
        ("1.3.0", "1.2.0"),
        "archived",
    )
    assert [version.version for version in registry.archive("m", keep_latest=0, staging=True)] == [
        "1.5.0",
        "1.4.0",
        "1.1.0",
    ]
    assert registry.get("m").version == "1.0.0"
    assert registry.get("m@1.3.0").stage == "archived"


def test_one_version_can_be_archived_and_brought_back(registry: Registry) -> None:
    registry.register(program(), "m")
    version = registry.register(program(), "m")
    assert registry.archive(version)[0].stage == "archived"
    assert registry.get("m").version == "1.0.0"
    with pytest.raises(NotFound):
        registry.get("m@^1.1")
    with pytest.raises(Refused):
        registry.archive(version)
    assert registry.promote("m@1.1.0", "development").stage == "development"
    registry.promote("m@1.0.0", "production", force=True, reason="test")
    with pytest.raises(Refused, match="cannot go from production to archived"):
        registry.archive("m@1.0.0")


@pytest.mark.parametrize("keep", [None, -1, True, "2", 1.5])
def test_archiving_needs_a_number_to_keep(registry: Registry, keep: Any) -> None:
    registry.register(program(), "m")
    with pytest.raises(InputError, match="keep_latest"):
        registry.archive("m", keep_latest=keep)
    with pytest.raises(InputError, match="keep_latest"):
        registry.archive("m@1.0.0", keep_latest=1)


def test_a_bump_counts_archived_versions_too(registry: Registry) -> None:
    registry.register(program(), "m")
    registry.archive("m", keep_latest=0)
    assert registry.register(program(), "m").version == "1.1.0"
    with pytest.raises(NotFound, match="parent"):
        registry.register(program(), "m", parent="7.0.0")


@pytest.mark.heavy
def test_evidence_too_large_to_be_read_again_is_not_written(registry: Registry) -> None:
    registry.register(program(), "m")
    with pytest.raises(InputError, match=r"the log entry has .* bytes: it may have"):
        registry.attach("m@1.0.0", {**GATE, "notes": "x" * 2**26})
    assert len(Registry(registry.root).history("m")) == 1


def test_evidence_about_another_program_is_refused_wherever_it_is_given(registry: Registry) -> None:
    registry.register(program("Say it."), "m")
    registry.promote("m@1.0.0", "staging")
    data = [dspy.Example(review=f"r {i}", sentiment="good").with_inputs("review") for i in range(20)]
    metric = nb.exact_match("sentiment")
    with dspy.context(lm=scripted_lm()):
        other, own = (nb.evaluate(one, data, metric) for one in (program("Shout."), registry.load("m")))
        compared = nb.compare(registry.load("m"), program("Shout."), data, metric)
        same = nb.compare(program("Shout."), registry.load("m"), data, metric)
    gate = nb.QualityGate(max_error_rate=0.5)
    for evidence in (other, gate.check(other), compared):
        for take in (
            lambda given: registry.attach("m@1.0.0", given),
            lambda given: registry.promote("m@1.0.0", "production", evidence=given),
            lambda given: registry.environment("staging").deploy("m@1.0.0", evidence=given),
        ):
            with pytest.raises(InputError, match=r"with other prompts or demos than m@1.0.0: evaluate load"):
                take(evidence)
    registry.attach("m@1.0.0", same)
    assert nb.Evaluation.from_dict(own.to_dict()) == own
    assert registry.promote("m@staging", "production", evidence=gate.check(own)).stage == "production"


def test_what_a_promotion_requires_is_told_by_the_rules_that_refuse_it(registry: Registry) -> None:
    registry.register(program(), "m")
    names = ["a way from development to production", "an evaluation", "a passed gate or A/B verdict"]
    found = registry.requirements("m", "production")
    assert [(one.name, one.met) for one in found] == [(name, False) for name in names]
    registry.promote("m", "staging")
    for evidence, met in ((None, [True, False, False]), (GATE, [True, True, True])):
        found = registry.requirements("m", "production", evidence=evidence)
        assert [one.met for one in found] == met
    assert found[-1].evidence == "gate, passed, n = 100"
    with pytest.raises(Refused) as refused:
        registry.promote("m", "production")
    unmet = next(one for one in registry.requirements("m", "production") if not one.met)
    assert str(refused.value) == unmet.refusal
    assert registry.requirements("m", "staging")[0].refusal == "m@1.0.0 is in staging already"
    assert len(registry.history("m")) == 2


@pytest.mark.parametrize(
    ("word", "meant"), [("prodution", "production"), ("archive", "archived"), ("Stage", "staging")]
)
def test_a_stage_that_is_mistyped_is_named(registry: Registry, word: str, meant: str) -> None:
    registry.register(program(), "m")
    with pytest.raises(InputError, match=rf"is not known: did you mean {meant}\? Use one of development, "):
        registry.promote("m", word)


def test_what_is_live_is_not_archived_by_a_promotion_either(registry: Registry) -> None:
    registry.register(program(), "m")
    registry.environment("staging").deploy("m")
    with pytest.raises(Refused, match="live in staging: deploy another version there before it is archived"):
        registry.promote("m", "archived")
