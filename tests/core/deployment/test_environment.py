from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import dspy
import pytest

from dspy_nb.core.deployment import environment as deployment_module
from dspy_nb.core.deployment import releases
from dspy_nb.core.deployment.environment import Environment
from dspy_nb.core.deployment.releases import LINK, read_link
from dspy_nb.core.errors import Conflict, Corrupt, InputError, NotFound, Refused, RegistryWarning
from dspy_nb.core.evidence import read_evidence
from dspy_nb.core.registry.registry import Registry
from tests.moments import HANG_S
from tests.registry_samples import GATE, QA, program, registry_of, said
from tests.scripted import ScriptedEngine, scripted_lm

pytestmark = pytest.mark.usefixtures("no_flush")


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return registry_of(tmp_path / "registry", 5)


@pytest.fixture
def staging(registry: Registry) -> Environment:
    return registry.environment("staging")


def configure(registry: Registry, text: str) -> None:
    (registry.root / "config.toml").write_text(text)


def test_five_deployments_and_three_rollbacks_give_the_table_a_person_expects(staging: Environment) -> None:
    staging.deploy("m@1.0.0", by="ann")
    staging.deploy("m@1.1.0", by="ann")
    staging.deploy("m@1.2.0", by="bob", reason="two more demos")
    staging.rollback(by="ann", reason="slow")
    staging.rollback(by="ann", reason="still slow")
    staging.deploy("m@1.3.0", by="bob")
    staging.deploy("m@1.4.0", by="bob", evidence=GATE)
    staging.rollback(by="ann", reason="wrong labels")
    table = [(d.number, d.action, d.ref, d.replaced, d.by, d.rollback_available) for d in staging.history()]
    assert table == [
        (1, "deploy", "m@1.0.0", None, "ann", False),
        (2, "deploy", "m@1.1.0", "m@1.0.0", "ann", True),
        (3, "deploy", "m@1.2.0", "m@1.1.0", "bob", True),
        (4, "rollback", "m@1.1.0", "m@1.2.0", "ann", True),
        (5, "rollback", "m@1.0.0", "m@1.1.0", "ann", False),
        (6, "deploy", "m@1.3.0", "m@1.0.0", "bob", True),
        (7, "deploy", "m@1.4.0", "m@1.3.0", "bob", True),
        (8, "rollback", "m@1.3.0", "m@1.4.0", "ann", True),
    ]
    assert staging.current is not None
    assert staging.current.ref == "m@1.3.0"
    assert [d.reason for d in staging.history()][2:5] == ["two more demos", "slow", "still slow"]
    assert staging.history()[6].evidence == read_evidence(GATE)
    assert staging.registry.check() == []


def test_rolling_back_several_steps_at_once(staging: Environment) -> None:
    for number in range(4):
        staging.deploy(f"m@1.{number}.0")
    assert staging.rollback(steps=2).ref == "m@1.1.0"
    with pytest.raises(Refused, match=r"from m@1.1.0: there is only 1 step back"):
        staging.rollback(steps=2)
    staging.rollback()
    with pytest.raises(Refused, match="nothing further back"):
        staging.rollback()
    assert len(staging.history()) == 6


def test_an_environment_without_a_deployment(staging: Environment) -> None:
    assert staging.current is None
    assert staging.history() == []
    with pytest.raises(Refused, match="nothing was ever deployed"):
        staging.rollback()
    with pytest.raises(NotFound, match="nothing is live in staging"):
        staging.load()
    assert not staging.relink()
    assert staging.registry.environments() == []
    assert not staging.folder.exists()


def test_deploying_what_is_live_is_refused(staging: Environment) -> None:
    staging.deploy("m@1.0.0")
    with pytest.raises(Refused, match=r"m@1.0.0 is live in staging already"):
        staging.deploy("m@1.0.0")
    assert len(staging.history()) == 1


def test_a_changed_file_is_found_before_the_switch(registry: Registry, staging: Environment) -> None:
    staging.deploy("m@1.0.0")
    staging.deploy("m@1.1.0")
    for version in ("1.0.0", "1.2.0"):
        (registry.root / f"models/m/{version}/model.json").write_text("{}")
    with pytest.raises(Corrupt):
        staging.deploy("m@1.2.0")
    with pytest.raises(Corrupt):
        staging.rollback()
    assert staging.current is not None
    assert staging.current.ref == "m@1.1.0"


def test_an_archived_version_does_not_come_back_unnoticed(registry: Registry, staging: Environment) -> None:
    for number in range(3):
        staging.deploy(f"m@1.{number}.0")
    with pytest.warns(RegistryWarning, match=r"a roll-back of staging would return to m@1\.1\.0"):
        registry.archive("m@1.1.0")
    with pytest.raises(Refused, match="steps=2 goes further back"):
        staging.rollback()
    assert staging.rollback(steps=2).ref == "m@1.0.0"
    with pytest.raises(Refused, match="archived"):
        staging.deploy("m@1.1.0")


def test_what_is_live_is_not_archived_whatever_its_stage(registry: Registry, staging: Environment) -> None:
    staging.deploy("m@1.1.0")
    staging.canary("m@1.2.0", share=0.05)
    for ref in ("m@1.1.0", "m@1.2.0"):
        with pytest.raises(Refused, match=f"{ref} is live in staging: deploy another version there"):
            registry.archive(ref)
    assert [version.version for version in registry.archive("m", keep_latest=1)] == ["1.3.0", "1.0.0"]
    staging.abort_canary()
    assert registry.archive("m@1.2.0")[0].stage == "archived"


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda e: e.deploy("m@9.9.9"), "no version"),
        (lambda e: e.deploy("m", by=3), "by must be text"),
        (lambda e: e.deploy("m", reason=b""), "reason must be text"),
        (lambda e: e.deploy("m", evidence={"kind": "hope"}), "evidence is not valid"),
        (lambda e: e.deploy("m", evidence={**GATE, "ref": "m@1.0.0"}), "evidence is about m@1.0.0"),
        (lambda e: e.rollback(steps=0), "steps must be"),
        (lambda e: e.rollback(steps=True), "steps must be"),
        (lambda e: e.prepare("m", smoke=7), "smoke must be"),
        (lambda e: e.prepare("m", smoke=[]), "smoke must be"),
        (
            lambda e: e.prepare("m", smoke={"reviw": "Good."}),
            "the program does not take 'reviw'; it takes 'review'",
        ),
        (
            lambda e: e.prepare("m", smoke=[{"review": "Good."}, {}]),
            "the program needs 'review', got nothing",
        ),
    ],
)
def test_bad_input_is_one_line_and_changes_nothing(staging: Environment, call: Any, words: str) -> None:
    with pytest.raises((InputError, NotFound), match=words) as caught:
        call(staging)
    assert "\n" not in str(caught.value)
    assert staging.history() == []


@pytest.mark.parametrize("name", ["", "..", "a/b", "nul", "x" * 101, 3, "log"])
def test_a_name_that_cannot_be_a_folder_is_refused(registry: Registry, name: Any) -> None:
    with pytest.raises(InputError, match="environment"):
        registry.environment(name)


def test_environments_that_differ_only_in_case_are_refused(registry: Registry) -> None:
    registry.environment("edge", create=True).deploy("m")
    with pytest.raises(Conflict, match="differs only in case"):
        registry.environment("Edge", create=True).deploy("m")
    assert registry.environments() == ["edge"]


# -- what an environment accepts ------------------------------------------------------------------------------


def test_production_accepts_only_versions_in_production(registry: Registry) -> None:
    production = registry.environment("production")
    with pytest.raises(
        Refused, match=r"accepts versions in production, not m@1\.4\.0, which is in development"
    ):
        production.deploy("m")
    for version in ("m@1.0.0", "m@1.1.0"):
        registry.promote(version, "production", force=True, reason="test")
        production.deploy(version)
    assert registry.get("m@1.0.0").stage == "deprecated"
    assert production.rollback().ref == "m@1.0.0"  # it was accepted once


def test_models_stages_and_lms_can_be_restricted(registry: Registry) -> None:
    registry.register(program(), "other", metadata={"base_model": "local/small"})
    registry.register(program(), "third", metadata={"base_model": "openai/gpt"})
    configure(
        registry,
        '[environments.staging]\nmodels = ["other", "third"]\nlms = ["openai/*"]\n'
        '[environments.edge]\nstages = ["staging"]',
    )
    staging = registry.environment("staging")
    with pytest.raises(Refused, match="accepts the models other, third, not m"):
        staging.deploy("m")
    with pytest.raises(Refused, match="accepts the language models openai"):
        staging.deploy("other")
    staging.deploy("third")
    with pytest.raises(Refused, match="accepts versions in staging"):
        registry.environment("edge", create=True).deploy("third")
    with pytest.raises(Refused, match="accepts versions in production"):
        registry.environment("production").deploy("third")
    with dspy.context(lm=scripted_lm(ScriptedEngine())):
        for _ in range(2):
            with pytest.raises(Refused, match="which DSPy is configured with"):
                staging.load()
        with pytest.raises(Refused, match="which DSPy is configured with"):
            staging.prepare("third")
    staging.load()
    with (
        dspy.context(lm=scripted_lm(ScriptedEngine())),
        pytest.raises(Refused, match="which DSPy is configured with"),
    ):
        staging.load()


@pytest.mark.parametrize(
    "text",
    [
        "environments = 3",
        "[environments]\nproduction = 3",
        "[environments.production]\nmodel = []",
        "[environments.production]\nstages = ['nowhere']",
        "[environments.production]\nlms = 'x'",
        "[environments.'a/b']\nlms = []",
        "[environments",
    ],
)
def test_a_wrong_configuration_is_one_line_and_check_names_it(
    registry: Registry, staging: Environment, text: str
) -> None:
    configure(registry, text)
    with pytest.raises(InputError, match=r"config\.toml") as caught:
        staging.deploy("m")
    assert "\n" not in str(caught.value)
    assert [problem.path.name for problem in registry.check()] == ["config.toml"]


# -- serving ----------------------------------------------------------------------------------------------------


def test_serving_returns_the_same_program_until_a_deployment(staging: Environment) -> None:
    staging.deploy("m@1.0.0")
    first = staging.load()
    assert said(first) == "Version 0."
    assert staging.load() is first
    staging.deploy("m@1.1.0")
    assert said(staging.load()) == "Version 1."
    staging.rollback()
    assert said(staging.load()) == "Version 0."
    assert said(first) == "Version 0."


def test_a_deployment_of_somebody_else_is_noticed_within_a_second(
    registry: Registry, staging: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr(deployment_module.time, "monotonic", lambda: now)
    staging.deploy("m@1.0.0")
    staging.load()
    Registry(registry.root).environment("staging").deploy("m@1.1.0")
    assert said(staging.load()) == "Version 0."  # the log is not looked at for every request
    now += 0.99
    assert said(staging.load()) == "Version 1."


def test_a_log_that_was_exchanged_is_noticed_even_at_the_same_number(
    registry: Registry, staging: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deployment_module, "_LOOK_EVERY_S", 0.0)
    staging.deploy("m@1.0.0")
    assert said(staging.load()) == "Version 0."
    prepared = staging.prepare("m@1.2.0")
    (staging.folder / "log/000001.json").unlink()  # another branch is checked out
    with pytest.raises(Conflict, match="nothing is live"):
        prepared.switch()
    Registry(registry.root).environment("staging").deploy("m@1.1.0")
    assert said(staging.load()) == "Version 1."


def test_a_program_with_a_class_of_its_own_is_served(registry: Registry, staging: Environment) -> None:
    registry.register(QA(), "qa")
    staging.deploy("qa")
    loaded = staging.load(QA)
    assert isinstance(loaded, QA)
    assert staging.load(QA) is loaded
    assert staging.load(QA()) is not loaded


def test_preparing_tries_a_version_out_and_switching_makes_it_live(staging: Environment) -> None:
    staging.deploy("m@1.0.0")
    engine = ScriptedEngine()
    with dspy.context(lm=scripted_lm(engine)):
        prepared = staging.prepare("m@1.1.0", smoke=[{"review": "Good."}, {"review": "Bad."}])
    assert engine.calls == 2
    assert said(prepared.program) == "Version 1."
    assert said(staging.load()) == "Version 0."
    assert prepared.switch(by="ann", reason="green").ref == "m@1.1.0"
    assert said(staging.load()) == "Version 1."
    with pytest.raises(Conflict, match=r"changed meanwhile, m@1\.1\.0 is live"):
        prepared.switch()


def test_a_smoke_test_that_hangs_refuses_the_deployment(
    staging: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(releases, "_SMOKE_S", 0.1)
    over = threading.Event()
    with pytest.raises(Refused, match=r"its smoke test failed: TookTooLong: no answer within 0.1 s"):
        staging.prepare("m@1.1.0", smoke=lambda _: over.wait(HANG_S))
    over.set()


@pytest.mark.parametrize("smoke", [{"review": "Good."}, lambda _: False, lambda _: 1 / 0])
def test_a_failed_smoke_test_changes_nothing(staging: Environment, smoke: Any) -> None:
    staging.deploy("m@1.0.0")
    with pytest.raises(Refused, match=r"m@1.1.0 is not deployed to staging: its smoke test") as caught:
        staging.prepare("m@1.1.0", smoke=smoke)  # no language model is configured
    assert "\n" not in str(caught.value)
    assert len(staging.history()) == 1


# -- the link and the check -----------------------------------------------------------------------------------


def test_the_link_names_the_folder_that_is_live(staging: Environment) -> None:
    staging.deploy("m@1.0.0")
    staging.deploy("m@1.1.0")
    assert (staging.folder / LINK).resolve() == staging.current.path.resolve()  # type: ignore[union-attr]
    assert sorted(path.name for path in staging.folder.iterdir()) == [LINK, "log"]


def test_a_system_without_links_is_not_in_the_way(
    staging: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise NotImplementedError

    monkeypatch.setattr(Path, "symlink_to", fail)
    staging.deploy("m@1.0.0")
    assert staging.current is not None
    assert not staging.relink()
    assert read_link(staging.folder) is None


def test_check_covers_environments_and_relink_corrects_the_link(
    registry: Registry, staging: Environment
) -> None:
    staging.deploy("m@1.0.0")
    (staging.folder / LINK).unlink()
    (staging.folder / LINK).write_text("../../models/m/1.0.0")  # a checkout where git knows no links
    assert registry.check() == []
    (staging.folder / LINK).write_text("../../models/m/1.1.0")
    (problem,) = registry.check()
    assert problem.kind == "stale"
    assert "relink()" in problem.message
    assert staging.relink()
    (staging.folder / "log/.tmp-1").write_text("")
    (staging.folder / "notes").write_text("")
    assert [problem.kind for problem in registry.check()] == ["foreign", "orphan"]
    (staging.folder / "log/000001.json").write_text("{}")
    assert registry.check()[0].kind == "corrupt"
    with pytest.raises(Corrupt):
        Registry(registry.root).environment("staging").load()


def test_check_names_a_deployed_version_that_is_not_registered(
    registry: Registry, staging: Environment
) -> None:
    registry.register(program(), "gone")
    staging.deploy("gone")
    (registry.root / "models/gone").rename(registry.root / "models/renamed")
    assert any(
        "deployed gone@1.0.0, which is not registered" in problem.message for problem in registry.check()
    )


# -- names ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["prodution", "Production", "PRODUCTION", "prod", "productions"])
def test_a_name_that_is_mistyped_is_no_environment_and_nothing_is_made(registry: Registry, name: str) -> None:
    with pytest.raises(NotFound, match=rf"no environment '{name}': did you mean production\? .*create=True"):
        registry.environment(name)
    assert registry.environments() == []
    assert not (registry.root / "environments").exists()


@pytest.mark.parametrize(
    "name", [" production", "production ", "pr\u043eduction", "production\u200b", "\uff50roduction"]
)
@pytest.mark.parametrize("create", [False, True])
def test_a_name_that_only_looks_like_one_is_not_valid_and_the_right_one_is_named(
    registry: Registry, name: str, create: bool
) -> None:
    with pytest.raises(InputError, match=r"is not valid: .*; did you mean production\?"):
        registry.environment(name, create=create)


def test_a_name_like_no_other_is_told_what_there_is(registry: Registry) -> None:
    with pytest.raises(NotFound, match="there are development, staging, production; a new one is made by"):
        registry.environment("edge")


def test_a_new_environment_is_made_by_saying_so_and_there_from_then_on(registry: Registry) -> None:
    edge = registry.environment("edge", create=True)
    assert registry.environments() == []  # nothing is made before something is deployed
    assert edge.history() == []
    edge.deploy("m")
    again = Registry(registry.root)
    assert again.environment("edge").current == registry.get("m")
    assert again.environment("edge", create=True).name == "edge"
    with pytest.raises(NotFound, match="did you mean edge"):
        again.environment("egde")
    with pytest.raises(Conflict, match="only in case from 'production'"):
        again.environment("Production", create=True)


def test_what_a_deployment_requires_is_told_by_the_rules_that_refuse_it(registry: Registry) -> None:
    production, staging = registry.environment("production"), registry.environment("staging")
    found = {one.name: one for one in production.requirements("m")}
    assert not found["the stage production"].met
    with pytest.raises(Refused) as refused:
        production.deploy("m")
    assert str(refused.value) == found["the stage production"].refusal
    assert all(one.met for one in staging.requirements("m"))
    staging.deploy("m")
    assert [one.name for one in staging.requirements("m") if not one.met] == ["not live there yet"]
    assert registry.environments() == ["staging"]


def test_where_versions_are_live_is_told_by_version(registry: Registry) -> None:
    for name in ("staging", "development"):
        registry.environment(name).deploy("m@1.0.0")
    registry.environment("staging").canary("m@1.1.0", share=0.25)
    live, damage = registry.live()
    assert {ref: [str(place) for place in places] for ref, places in live.items()} == {
        "m@1.0.0": ["live in development", "live in staging"],
        "m@1.1.0": ["canary 25% in staging"],
    }
    assert damage == []
