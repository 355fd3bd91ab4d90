from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import dspy
import pytest

from dspy_nb.core.deployment import environment as deployment_module
from dspy_nb.core.deployment import serving
from dspy_nb.core.deployment.canary_state import CanaryStatus
from dspy_nb.core.deployment.environment import Environment
from dspy_nb.core.deployment.objectives import MonitorSettings
from dspy_nb.core.errors import Conflict, Corrupt, InputError, NotFound, Refused
from dspy_nb.core.registry.registry import Registry
from dspy_nb.core.statistics.assignment import place_of
from dspy_nb.views.listings import Listing
from tests.registry_samples import QA, registry_of, said
from tests.scripted import ScriptedEngine, scripted_lm

pytestmark = pytest.mark.usefixtures("no_flush")


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return registry_of(tmp_path / "registry")


@pytest.fixture
def staging(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> Environment:
    """An environment where the same users get the candidate in every run, though the time is in a canary's salt."""
    monkeypatch.setattr(serving, "place_of", lambda salt, unit: place_of(salt.rpartition("\n")[0], unit))
    environment = registry.environment("staging")
    environment._advance_at = math.inf  # it goes on when a test says so
    environment.deploy("m@1.0.0")
    environment.deploy("m@1.1.0")
    return environment


def live(environment: Environment) -> str:
    assert environment.current is not None
    return environment.current.ref


def users(environment: Environment, n: int, rate: float, rate_b: float, name: str = "u") -> None:
    """Users who come once: whether they are satisfied depends on the version that they get."""
    draws = random.Random(name)
    for number in range(n):
        unit = f"{name}{number}"
        is_b = said(environment.load(unit=unit)) == "Version 2."
        environment.observe(draws.random() < (rate_b if is_b else rate), unit=unit)


def run(environment: Environment, rate: float, rate_b: float, most: int = 20_000) -> list[CanaryStatus]:
    """Let users come until the canary has ended; return what it did."""
    done = []
    for batch in range(most // 100):
        users(environment, 100, rate, rate_b, f"batch {batch}, user ")
        status = environment.advance_canary()
        assert status is not None
        if status.made is not None:
            done.append(status)
            if status.decision in ("finish", "rollback"):
                return done
    raise AssertionError(f"no end after {most} users: {status.reason}")


# -- the course of a canary ---------------------------------------------------------------------------------------


def test_a_candidate_that_is_as_good_gets_more_and_more_and_is_deployed(staging: Environment) -> None:
    canary = staging.canary("m@1.2.0", by="ann", reason="two more demos")
    assert (canary.candidate, canary.baseline, canary.share) == ("m@1.2.0", "m@1.1.0", 0.05)
    assert live(staging) == "m@1.1.0"
    done = run(staging, 0.9, 0.92)
    assert [status.decision for status in done] == ["step", "step", "finish"]
    assert live(staging) == "m@1.2.0"
    table = [
        (line.action, line.ref, line.replaced, line.candidate, line.share) for line in staging.history()[2:]
    ]
    assert table == [
        ("canary-start", "m@1.1.0", "m@1.1.0", "m@1.2.0", 0.05),
        ("canary-step", "m@1.1.0", "m@1.1.0", "m@1.2.0", 0.25),
        ("canary-step", "m@1.1.0", "m@1.1.0", "m@1.2.0", 0.5),
        ("canary-finish", "m@1.2.0", "m@1.1.0", "m@1.2.0", 1.0),
    ]
    last = staging.history()[-1]
    assert last.evidence is not None
    assert last.evidence.kind == "canary"
    assert last.evidence.interval[0] > -0.05
    assert last.evidence.n_b == done[-1].candidate.n
    assert last.reason is not None
    assert last.reason.startswith("canary: m@1.2.0 is not worse")
    assert staging.canary_status() is None
    assert staging.advance_canary() is None
    assert staging.rollback().ref == "m@1.1.0"
    assert staging.rollback().ref == "m@1.0.0"
    assert staging.registry.check() == []


def test_a_candidate_that_is_worse_goes_back_by_itself(staging: Environment) -> None:
    staging.canary("m@1.2.0")
    done = run(staging, 0.9, 0.6)
    assert [status.decision for status in done] == ["rollback"]
    line = staging.history()[-1]
    assert (line.action, line.ref, line.candidate, line.share) == (
        "canary-rollback", "m@1.1.0", "m@1.2.0", 0.0,
    )  # fmt: skip
    assert done[0].verdict == "A better"
    assert "is worse" in str(line.reason)
    assert done[0].candidate.n < 100  # five in a hundred of the users
    assert staging.rollback().ref == "m@1.0.0"  # it never was live


def test_the_next_share_needs_as_much_evidence_as_it_can_do_harm(staging: Environment) -> None:
    staging.canary("m@1.2.0", margin=0.1)
    for status in run(staging, 0.9, 0.9):
        assert status.interval[0] * status.next_share > -0.1
        assert status.n_step >= 20


def test_steps_wait_for_outcomes_of_the_candidate(staging: Environment) -> None:
    staging.canary("m@1.2.0", 0.5, steps=(1.0,), margin=0.9, min_requests=100)
    users(staging, 150, 0.9, 0.9)
    status = staging.advance_canary()
    assert status is not None
    assert (status.decision, status.made) == ("wait", None)
    assert status.reason == f"{status.candidate.n} of 100 outcomes of m@1.2.0 at 50%"
    users(staging, 150, 0.9, 0.9, "v")
    status = staging.advance_canary()
    assert status is not None
    assert status.decision == "finish"


def test_recording_takes_the_canary_further(staging: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(deployment_module.time, "monotonic", lambda: now)
    staging._advance_at = 0.0
    staging.canary("m@1.2.0", 0.5, steps=(1.0,), margin=0.9)
    users(staging, 100, 1, 1)
    assert live(staging) == "m@1.1.0"  # one look at the first outcome, and none in the same second
    now += 1.5
    users(staging, 1, 1, 1, "v")
    assert live(staging) == "m@1.2.0"


def test_the_error_rate_that_the_monitor_allows_holds_for_the_candidate_too(staging: Environment) -> None:
    (staging.registry.root / "config.toml").write_text("[monitor.staging]\nmax_error_rate = 0.02\n")
    staging.canary("m@1.2.0", 0.5, steps=(1.0,), margin=0.9, min_requests=1000)

    def fail(number: int, request: Any) -> BaseException | None:
        return RuntimeError("down") if "Version 2." in str(request.system) else None

    staging._advance_at = 0.0
    served: list[str] = []
    with dspy.context(lm=scripted_lm(ScriptedEngine(failing=fail), num_retries=0)):
        for number in range(200):
            try:
                _, request_id = staging.predict(unit=f"u{number}", review="good")
                staging.record(request_id, True)
            except Exception:
                served.append(f"u{number}")
            staging._advance_at = 0.0
            if staging.canary_status() is None:
                break
    line = staging.history()[-1]
    assert line.action == "canary-rollback"
    assert "requests to m@1.2.0 failed, 2.0% may" in str(line.reason)
    assert len(served) < 10


# -- who gets what ------------------------------------------------------------------------------------------------


def test_a_unit_stays_with_its_version_and_more_come_to_the_candidate(
    registry: Registry, staging: Environment
) -> None:
    units = [f"user {number}" for number in range(1000)]

    def candidates(environment: Environment) -> set[str]:
        return {unit for unit in units if said(environment.load(unit=unit)) == "Version 2."}

    staging.canary("m@1.2.0", 0.05, steps=(0.25, 1.0), margin=0.9)
    first = candidates(staging)
    assert 25 < len(first) < 80
    assert candidates(Registry(registry.root).environment("staging")) == first
    run_until_step(staging)
    second = candidates(staging)
    assert first < second
    assert 200 < len(second) < 300
    assert said(staging.load()) == "Version 1."  # who does not say who asks gets what is live
    staging.abort_canary()
    assert candidates(staging) == set()
    staging.canary("m@1.2.0", 0.05)
    assert candidates(staging) != first  # another canary draws anew


def run_until_step(environment: Environment) -> None:
    for batch in range(100):
        users(environment, 100, 1, 1, f"extra {batch} ")
        status = environment.advance_canary()
        if status is not None and status.made is not None:
            return
    raise AssertionError("no step")


def test_requests_without_a_unit_are_divided_too(staging: Environment) -> None:
    staging.canary("m@1.2.0", 0.5)
    with dspy.context(lm=scripted_lm()):
        for _ in range(60):
            _, request_id = staging.predict(review="good")
            staging.record(request_id, True)
    status = staging.canary_status()
    assert status is not None
    assert status.baseline.n + status.candidate.n == 60
    assert status.baseline.n > 5
    assert status.candidate.n > 5


def test_a_unit_counts_once_for_each_share_that_it_was_drawn_at(staging: Environment) -> None:
    staging.canary("m@1.2.0", 0.5, steps=(0.75, 1.0), margin=0.9)
    for _ in range(3):
        users(staging, 200, 1, 1)  # the same users again
    status = staging.advance_canary()
    assert status is not None
    assert status.decision == "step"
    assert status.baseline.n + status.candidate.n == 200
    users(staging, 200, 1, 1)
    after = staging.canary_status()
    assert after is not None
    # Those who were with the live version were drawn again: half of them went over.
    assert after.baseline.n + after.candidate.n == 200 + status.baseline.n
    chances = staging.traffic.count("chance = 0.5 AND share = 0.75")
    assert chances == status.baseline.n


def test_what_another_version_answered_does_not_count_in_the_comparison(staging: Environment) -> None:
    staging.canary("m@1.2.0", 0.5)
    wrong = {"Version 1.": "m@1.2.0", "Version 2.": "m@1.1.0"}
    for number in range(50):
        staging.observe(True, unit=f"u{number}", version=wrong[said(staging.load(unit=f"u{number}"))])
        staging.observe(True)
    status = staging.canary_status()
    assert status is not None
    assert (status.baseline.n, status.candidate.n) == (0, 0)
    report = staging.check_health(MonitorSettings(level=0.5))
    assert report["quality"].n == staging.traffic.count("NOT is_b")


def test_the_outcomes_of_the_candidate_are_not_those_of_what_is_live(staging: Environment) -> None:
    staging.canary("m@1.2.0", 0.5)
    users(staging, 300, 1, 0)
    report = staging.check_health(MonitorSettings(level=0.9))
    assert (report.verdict, report["quality"].observed) == ("healthy", 1)


def test_other_processes_notice_within_a_second(
    registry: Registry, staging: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr(deployment_module.time, "monotonic", lambda: now)
    other = Registry(registry.root).environment("staging")

    def answers() -> set[str]:
        return {said(other.load(unit=f"u{number}")) for number in range(30)}

    assert answers() == {"Version 1."}
    staging.canary("m@1.2.0", 0.5)
    assert answers() == {"Version 1."}  # the log is not looked at for every request
    now += 0.99
    assert answers() == {"Version 1.", "Version 2."}
    staging.abort_canary()
    now += 0.99
    assert answers() == {"Version 1."}


def test_a_candidate_that_a_process_cannot_load_is_not_in_the_way(
    registry: Registry, staging: Environment, caplog: pytest.LogCaptureFixture
) -> None:
    registry.register(QA(), "qa")
    with pytest.raises(Refused, match="program="):
        staging.canary("qa")
    staging.canary("qa", 0.99, program=QA)
    assert said(staging.load(unit="u")) == "Version 1."
    assert "is not served by this process" in caplog.text


# -- other decisions meanwhile ------------------------------------------------------------------------------------


def test_nothing_else_is_deployed_while_a_canary_is_running(staging: Environment) -> None:
    prepared = staging.prepare("m@1.3.0")
    staging.canary("m@1.2.0")
    words = "while a canary of m@1.2.0 is running: abort_canary"
    for call in (
        lambda: staging.deploy("m@1.3.0"),
        lambda: staging.canary("m@1.3.0"),
        lambda: staging.rollback(steps=2),
    ):
        with pytest.raises(Refused, match=words):
            call()
    with pytest.raises(Conflict):
        prepared.switch()
    assert [line.action for line in staging.history()] == ["deploy", "deploy", "canary-start"]


def test_a_person_takes_it_back_by_aborting_or_rolling_back(staging: Environment) -> None:
    staging.canary("m@1.2.0")
    line = staging.abort_canary(by="ann", reason="a typo in it")
    assert (line.action, line.ref, line.by, line.reason) == ("canary-abort", "m@1.1.0", "ann", "a typo in it")
    staging.canary("m@1.2.0")
    assert staging.history()[-1].rollback_available
    assert staging.rollback(by="bob").action == "canary-abort"
    assert live(staging) == "m@1.1.0"
    assert staging.rollback().ref == "m@1.0.0"
    with pytest.raises(Refused, match="no canary is running in staging"):
        staging.abort_canary()


def test_two_decisions_at_once_are_one(registry: Registry, staging: Environment) -> None:
    staging.canary("m@1.2.0", 0.5, steps=(0.75, 1.0), margin=0.9)
    users(staging, 100, 1, 1)
    other = Registry(registry.root).environment("staging")
    canary = other.read(lambda state: state.canary)
    assert canary is not None
    assert staging.advance_canary().made is not None  # type: ignore[union-attr]
    with pytest.raises(Conflict, match=r"the canary of m@1.2.0 was changed meanwhile"):
        other._change_canary(canary, "canary-step", None, None, None)
    assert [line.action for line in staging.history()][-2:] == ["canary-start", "canary-step"]


def test_the_monitor_rolls_back_what_is_live_and_takes_the_canary_back_first(staging: Environment) -> None:
    staging.canary("m@1.2.0", 0.05)
    users(staging, 200, 0, 0)
    report = staging.check_health(MonitorSettings(level=0.9, rollback=True))
    assert report.rolled_back is not None
    assert [(line.action, line.ref) for line in staging.history()][-2:] == [
        ("canary-abort", "m@1.1.0"), ("rollback", "m@1.0.0"),
    ]  # fmt: skip


def test_what_an_environment_accepts_holds_for_a_candidate_at_start_and_end(
    registry: Registry, staging: Environment
) -> None:
    (registry.root / "config.toml").write_text('[environments.staging]\nstages = ["staging"]\n')
    with pytest.raises(Refused, match="accepts versions in staging"):
        staging.canary("m@1.2.0")
    registry.promote("m@1.2.0", "staging")
    staging.canary("m@1.2.0", 0.5, steps=(1.0,), margin=0.9)
    users(staging, 100, 1, 1)
    registry.promote("m@1.2.0", "development")
    with pytest.raises(Refused, match="accepts versions in staging"):
        staging.advance_canary()
    assert live(staging) == "m@1.1.0"
    staging._advance_at = 0.0
    users(staging, 1, 1, 1, "who records an outcome does not suffer from it")
    registry.promote("m@1.2.0", "staging")
    assert staging.advance_canary().decision == "finish"  # type: ignore[union-attr]


def test_a_changed_file_is_found_before_it_gets_any_traffic(registry: Registry, staging: Environment) -> None:
    (registry.root / "models/m/1.2.0/model.json").write_text("{}")
    with pytest.raises(Corrupt):
        staging.canary("m@1.2.0")
    assert len(staging.history()) == 2


def test_a_canary_needs_something_to_be_compared_with(registry: Registry, staging: Environment) -> None:
    with pytest.raises(Refused, match="nothing is live in edge to compare"):
        registry.environment("edge", create=True).canary("m@1.0.0")
    with pytest.raises(Refused, match=r"m@1.1.0 is live in staging already"):
        staging.canary("m@1.1.0")
    with pytest.raises(NotFound):
        staging.canary("m@9.0.0")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"share": 0}, "share must be"),
        ({"share": 1.0}, "share must be"),
        ({"share": 5}, "share must be"),
        ({"share": math.nan}, "share must be"),
        ({"steps": (0.5,)}, "must rise to 1, got 0.05, 0.5"),
        ({"steps": (0.5, 0.25, 1)}, "must rise"),
        ({"steps": ()}, "steps must be shares"),
        ({"steps": "all"}, "steps must be shares"),
        ({"steps": (0.5, 2)}, "steps must be"),
        ({"margin": 0}, "margin must be"),
        ({"confidence": 95}, "confidence must be"),
        ({"min_requests": 0}, "min_requests must be"),
        ({"wait_s": -1}, "wait_s must be"),
        ({"reason": 3}, "reason must be text"),
        ({"evidence": {"kind": "rumour"}}, "evidence is not valid"),
        ({"evidence": {"kind": "ab", "ref": "m@1.0.0"}}, r"about m@1.0.0, not about m@1.2.0"),
        ({"smoke": 3}, "smoke must be inputs"),
    ],
)
def test_wrong_rules_start_nothing(staging: Environment, arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        staging.canary("m@1.2.0", **arguments)
    assert "\n" not in str(caught.value)
    assert len(staging.history()) == 2


def test_a_candidate_that_fails_its_smoke_test_gets_no_traffic(staging: Environment) -> None:
    with pytest.raises(Refused, match=r"no canary of m@1.2.0 in staging: its smoke test said no"):
        staging.canary("m@1.2.0", smoke=lambda _: False)
    assert len(staging.history()) == 2


def test_the_history_reads_as_a_person_expects(staging: Environment) -> None:
    staging.canary("m@1.2.0", by="ann")
    staging.abort_canary(by="ann", reason="not now")
    lines = Listing(staging.history()).report().splitlines()
    assert "5% to m@1.2.0" in lines[-2]
    assert "without m@1.2.0" in lines[-1]
