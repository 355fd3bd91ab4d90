"""The recipe of CONTRIBUTING, "A new kind of evidence": a class, its line in KINDS, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest

import dspy_nb as nb
from dspy_nb.core.evidence import KINDS, Evidence
from dspy_nb.views.listings import Listing
from tests.registry_samples import program

pytestmark = pytest.mark.usefixtures("no_flush")


class RaceEvidence(Evidence, frozen=True, kw_only=True):
    """What a race of several candidates found.

    Attributes:
        starters: How many started.
    """

    kind_name: ClassVar[str] = "race"
    answers: ClassVar[tuple[str, ...]] = ("verdict", "race")

    starters: int | None = None


class Race:
    """The result, with the attributes that the evidence takes from it."""

    def __init__(self, passed: bool) -> None:
        self.passed, self.starters, self.n = passed, 4, 300
        self.score, self.interval, self.data_fingerprint = 0.81, (0.76, 0.85), "f"

    def to_evidence(self) -> RaceEvidence:
        return RaceEvidence.of(self, verdict="first of four")


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KINDS, "race", RaceEvidence)


@pytest.fixture
def registry(tmp_path: Path) -> nb.Registry:
    registry = nb.Registry(tmp_path / "registry")
    registry.register(program(), "m")
    return registry


@pytest.mark.usefixtures("known")
def test_a_new_kind_is_attached_promotes_deploys_and_is_listed(registry: nb.Registry) -> None:
    registry.promote("m", "staging")
    registry.attach("m", Race(passed=False))
    with pytest.raises(nb.Refused, match="the latest race said no"):
        registry.promote("m", "production")
    registry.promote("m", "production", evidence=Race(passed=True))
    environment = registry.environment("production")
    environment.deploy("m", evidence=Race(passed=True))
    again = nb.Registry(registry.root)
    for line in (again.history("m")[-1], again.environment("production").history()[-1]):
        assert line.evidence == Race(passed=True).to_evidence()
    assert (
        "race, passed, first of four, 81.0% [76.0%, 85.0%], n = 300"
        in Listing(again.history("m"), "m").report()
    )
    assert environment.check_health()["quality"].level == 0.81
    assert again.check() == []


@pytest.mark.usefixtures("known")
def test_a_promotion_may_require_it_and_a_file_may_give_it(registry: nb.Registry) -> None:
    (registry.root / "config.toml").write_text('[promotion.staging]\nrequire = ["race"]\n')
    with pytest.raises(nb.Refused, match="staging needs a passed race verdict"):
        registry.promote("m", "staging", evidence={"kind": "gate", "passed": True})
    given: dict[str, Any] = {"kind": "race", "passed": True, "starters": "four"}
    with pytest.raises(nb.InputError, match=r"expected int or null, got str - at \$.starters"):
        registry.promote("m", "staging", evidence=given)
    assert registry.promote("m", "staging", evidence={**given, "starters": 4}).stage == "staging"


def test_an_older_dspy_nb_shows_it_and_takes_it_for_no_yes(
    registry: nb.Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as newer:
        newer.setitem(KINDS, "race", RaceEvidence)
        registry.attach("m", Race(passed=True))
        registry.promote("m", "staging")
    older = nb.Registry(registry.root)
    assert "race, passed, first of four" in Listing(older.history("m"), "m").report()
    assert older.history("m")[1].evidence is not None
    with pytest.raises(nb.Refused, match="needs an evaluation"):
        older.promote("m", "production")
    with pytest.raises(nb.InputError, match="its kind is race, not one of"):
        older.promote("m", "production", evidence={"kind": "race", "passed": True})
    assert older.check() == []
