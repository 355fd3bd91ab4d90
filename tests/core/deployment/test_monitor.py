from __future__ import annotations

import json
import logging
import math
import os
import random
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import dspy
import numpy as np
import pytest

from dspy_nb.core.deployment.environment import Environment
from dspy_nb.core.deployment.health import HealthReport
from dspy_nb.core.deployment.objectives import MonitorSettings, level_of, load_settings, objectives_of
from dspy_nb.core.errors import InputError, NoPrediction, NotFound, RegistryError, RegistryWarning
from dspy_nb.core.evidence import HealthEvidence, read_evidence
from dspy_nb.core.registry.registry import Registry
from tests.children import Children, meet
from tests.moments import HANG_S
from tests.registry_samples import EVALUATION, GATE, program, registry_of
from tests.scripted import ScriptedEngine, scripted_lm

ROLLBACK = MonitorSettings(rollback=True)

pytestmark = pytest.mark.usefixtures("no_flush")


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return registry_of(tmp_path / "registry", 3)


@pytest.fixture
def staging(registry: Registry) -> Environment:
    environment = registry.environment("staging")
    environment.deploy("m@1.0.0", evidence=EVALUATION)
    environment.deploy("m@1.1.0", evidence=EVALUATION)
    return environment


def serve(environment: Environment, n: int, rate: float, seed: int = 0) -> None:
    draws = random.Random(seed)
    for _ in range(n):
        environment.observe(draws.random() < rate)


def degrade(environment: Environment) -> None:
    for _ in range(60):
        environment.observe(False)


# -- what is found ----------------------------------------------------------------------------------------------


def test_a_version_that_keeps_its_level_is_healthy(staging: Environment) -> None:
    assert staging.check_health().verdict == "too early"
    serve(staging, 500, 0.9)
    report = staging.check_health(ROLLBACK)
    quality = report["quality"]
    assert report.verdict == "healthy"
    assert (report.ref, report.deployment, report.alerts, report.rolled_back) == ("m@1.1.0", 2, (), None)
    assert (quality.level, quality.n, quality.alpha) == (0.9, 500, 0.05)
    assert quality.tolerated == pytest.approx(0.86)  # the lower end of the interval less the margin
    assert quality.observed is not None
    assert quality.interval[0] < quality.observed < quality.interval[1]
    assert sum(part.n for part in quality.bins) == 500
    assert sum(part.total for part in quality.bins) == quality.observed * 500


def test_a_loss_of_ten_points_is_found_and_rolled_back_within_the_documented_number(
    staging: Environment,
) -> None:
    """The documented number: 860 requests in 99 of 100 cases, after 1,000 good ones, .88 tolerated."""
    settings = MonitorSettings(level=0.9, rollback=True)
    serve(staging, 1000, 0.9, seed=1)
    assert staging.check_health(settings).verdict == "healthy"
    for day in range(9):
        serve(staging, 100, 0.8, seed=100 + day)
        if (report := staging.check_health(settings)).verdict == "degraded":
            break
    assert report.rolled_back is not None
    assert report.alerts == ("quality",)
    line = staging.history()[-1]
    assert (line.action, line.ref, line.replaced) == ("rollback", "m@1.0.0", "m@1.1.0")
    assert line.reason is not None
    assert line.reason.startswith("quality monitor: m@1.1.0 in staging is degraded")
    assert isinstance(line.evidence, HealthEvidence)
    assert (line.evidence.objective, line.evidence.level, line.evidence.tolerated) == ("quality", 0.9, 0.88)
    assert line.evidence.n == report["quality"].n
    assert line.evidence.p_value is not None
    assert line.evidence.p_value <= 0.05
    assert staging.registry.check() == []


def test_each_deployment_is_judged_by_its_own_requests(staging: Environment) -> None:
    degrade(staging)
    assert staging.check_health().verdict == "degraded"
    staging.deploy("m@1.2.0", evidence=EVALUATION)
    assert staging.check_health().verdict == "too early"
    staging.observe(False, version="m@1.1.0")  # a process that still had the version before
    assert staging.check_health()["quality"].n == 0


def test_outcomes_are_read_in_the_order_of_the_requests(staging: Environment) -> None:
    """Failures that are reported first must not look like a degradation."""
    waiting = [staging.observe() for _ in range(300)]
    for request in waiting[::10]:
        staging.record(request, False)
    assert staging.check_health()["quality"].n == 1
    for number, request in enumerate(waiting):
        staging.record(request, number % 10 > 0)
    report = staging.check_health()
    assert (report.verdict, report["quality"].n) == ("healthy", 300)


def test_a_request_without_outcome_holds_up_the_others_for_so_long_only(staging: Environment) -> None:
    now = 1000.0
    staging.traffic.clock = lambda: now
    late = staging.observe()
    serve(staging, 100, 0.9)
    assert staging.check_health()["quality"].n == 0
    now += 3601
    assert staging.check_health()["quality"].n == 100
    staging.record(late, False)
    assert staging.check_health()["quality"].n == 100


def test_errors_and_latency_are_objectives_and_share_the_false_alarms(staging: Environment) -> None:
    settings = MonitorSettings(max_latency_ms=1000, max_error_rate=0.02)
    for number in range(300):
        staging.observe(True, latency_ms=1500 if number % 10 == 0 else 200)
    report = staging.check_health(settings)
    assert [item.name for item in report.objectives] == ["quality", "latency", "errors"]
    assert [item.verdict for item in report.objectives] == ["healthy", "degraded", "healthy"]
    assert report["latency"].observed == pytest.approx(0.9)
    assert {item.alpha for item in report.objectives} == {0.05 / 3}
    for _ in range(20):
        staging.observe(error="Timeout")
    report = staging.check_health(settings)
    assert report["errors"].verdict == "degraded"
    assert report.alerts == ("quality", "errors")  # the latency was told before
    assert report["latency"].n == 300  # an error has no latency to speak of
    with pytest.raises(KeyError, match="cost"):
        report["cost"]


def test_other_settings_are_another_test_of_the_same_requests(staging: Environment) -> None:
    serve(staging, 400, 0.9)
    assert staging.check_health().verdict == "healthy"
    assert staging.check_health(MonitorSettings(level=0.97)).verdict == "degraded"
    assert staging.check_health().verdict == "healthy"


# -- the level --------------------------------------------------------------------------------------------------


def test_the_level_comes_from_the_deployment_the_promotion_or_the_score(registry: Registry) -> None:
    assert level_of(registry, "m@1.0.0", None) is None
    registry.attach("m@1.0.0", {**GATE, "score": 0.85})
    found = level_of(registry, "m@1.0.0", None)
    assert found is not None
    assert (found.score, found.low, found.source) == (0.85, 0.8, "the evidence of attach 4")
    found = level_of(registry, "m@1.0.0", read_evidence(EVALUATION))
    assert found is not None
    assert (found.low, found.source) == (0.88, "the evidence of its deployment")
    # The interval of a comparison is that of a difference: the score's own is worked out.
    compared = read_evidence({"kind": "ab", "score": 0.8, "interval": [0.01, 0.2], "n": 100})
    found = level_of(registry, "m@1.0.0", compared)
    assert found is not None
    assert found.low == pytest.approx(0.711, abs=1e-3)
    registry.register(program(), "scored", metadata={"validation_score": 0.9})
    assert level_of(registry, "scored@1.0.0", None) is None  # the search has seen it


def test_evidence_from_anybody_is_not_taken_for_granted(registry: Registry) -> None:
    for wrong in ({"score": "x"}, {"score": 7}, {"score": None}, {}, {"score": float("nan")}):
        assert level_of(registry, "m@1.0.0", read_evidence({"kind": "evaluation", **wrong})) is None
    odd = {"kind": "evaluation", "score": 0.5, "interval": ["a", 3], "n": "many"}
    found = level_of(registry, "m@1.0.0", read_evidence(odd))
    assert found is not None
    assert found.low == 0.5


def test_a_version_that_came_back_is_held_to_what_it_was_deployed_on(staging: Environment) -> None:
    staging.rollback()
    assert staging.check_health()["quality"].level == 0.9


def test_nothing_to_hold_it_to_is_refused_in_one_line(registry: Registry) -> None:
    environment = registry.environment("edge", create=True)
    with pytest.raises(NotFound, match="nothing is live"):
        environment.check_health()
    environment.deploy("m@1.0.0")
    with pytest.raises(InputError, match=r"nothing to hold m@1.0.0 to .*\[monitor.edge\]") as caught:
        environment.check_health()
    assert "\n" not in str(caught.value)
    report = environment.check_health(MonitorSettings(max_error_rate=0.1))
    assert "no level is known" in report.level_source


# -- settings ---------------------------------------------------------------------------------------------------


def test_settings_are_read_from_the_registry(staging: Environment) -> None:
    config = staging.registry.root / "config.toml"
    config.write_text("[monitor.staging]\nlevel = 0.8\nmargin = 0.05\nrollback = true\nwait_s = 60\n")
    settings = load_settings(config, "staging")
    assert (settings.level, settings.margin, settings.rollback, settings.wait_s) == (0.8, 0.05, True, 60)
    assert load_settings(config, "production") == MonitorSettings()
    assert staging.check_health()["quality"].tolerated == pytest.approx(0.75)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[monitor.staging]\nlevle = 0.9", "'levle' is none of level, margin"),
        ("[monitor.staging]\nlevel = 90", "level must be"),
        ("[monitor.production]\nfalse_alarm = 0", "monitor.production: false_alarm must be"),
        ("[monitor.staging]\nrollback = 'yes'", "rollback must be true or false"),
        ("[monitor.staging]\nwebhook = 'file:///etc/passwd'", "webhook must be an address"),
        ("[monitor.staging]\nmax_latency_ms = -1", "max_latency_ms"),
        ("[monitor]\nstaging = 3", "must be a table of level"),
        ("monitor = 3", "monitor is not a table"),
    ],
)
def test_wrong_settings_are_one_line_and_check_names_them(
    staging: Environment, text: str, words: str
) -> None:
    (staging.registry.root / "config.toml").write_text(text)
    with pytest.raises(InputError, match=words) as caught:
        staging.check_health()
    assert "\n" not in str(caught.value)
    assert [problem.kind for problem in staging.registry.check()] == ["corrupt"]


def test_a_level_that_the_margin_takes_to_nothing_is_not_watched(registry: Registry) -> None:
    low = read_evidence({"kind": "evaluation", "score": 0.01, "interval": [0, 0.1]})
    level = level_of(registry, "m@1.0.0", low)
    assert objectives_of(MonitorSettings(), level) == ()


# -- serving ----------------------------------------------------------------------------------------------------


def test_predict_stores_how_a_request_went_and_record_what_came_of_it(staging: Environment) -> None:
    engine = ScriptedEngine(failing=lambda number, _: RuntimeError("down") if number == 2 else None)
    with dspy.context(lm=scripted_lm(engine, num_retries=0)):
        prediction, request_id = staging.predict(unit="ann", review="good")
        with pytest.raises(Exception, match="down"):
            staging.predict(unit="bob", review="bad")
    assert prediction.sentiment == "positive"
    staging.record(request_id, True)
    staging.record(request_id, success=True)
    with pytest.raises(InputError, match="has the outcome 1 already, not 0"):
        staging.record(request_id, False)
    report = staging.check_health(MonitorSettings(max_latency_ms=60_000, max_error_rate=0.1))
    assert [(item.n, item.observed) for item in report.objectives] == [(2, 0.5), (1, 1.0), (2, 0.5)]


def test_a_request_that_is_answered_with_no_prediction_is_counted_as_an_error(tmp_path: Path) -> None:
    class Text(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.ask = dspy.Predict("review -> sentiment")

        def forward(self, review: str) -> Any:
            return self.ask(review=review).sentiment

    registry = Registry(tmp_path)
    registry.register(Text(), "text")
    environment = registry.environment("development")
    environment.deploy("text@1.0.0")
    with (
        dspy.context(lm=scripted_lm()),
        pytest.raises(NoPrediction, match=r"returned a str, not a dspy\.Prediction"),
    ):
        environment.predict(Text, review="good")
    with pytest.raises(InputError, match="the program does not take 'text'; it takes 'review'"):
        environment.predict(Text, text="good")
    report = environment.check_health(MonitorSettings(level=0.9, max_error_rate=0.5))
    assert [(item.n, item.observed) for item in report.objectives] == [(1, 0.0), (1, 0.0)]


def test_answers_from_a_cache_have_no_latency(staging: Environment) -> None:
    with dspy.context(lm=scripted_lm(cache=True)):
        for _ in range(3):
            staging.predict(review="good, said once")
    assert staging.check_health(MonitorSettings(max_latency_ms=60_000))["latency"].n == 1


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda e: e.record("nobody", True), "no request 'nobody'"),
        (lambda e: e.record("x"), "give either success=True or False, or value="),
        (lambda e: e.record("x", True, value=0.5), "not both"),
        (lambda e: e.record("x", 0.5), "a grade is value="),
        (lambda e: e.record("x", np.float64(1)), "a grade is value="),
        (lambda e: e.record("nobody", np.True_), "no request 'nobody'"),
        (lambda e: e.observe(value=1.5), r"value must be .* \[0, 1\]"),
        (lambda e: e.observe(True, latency_ms=-1), "latency_ms"),
        (lambda e: e.observe(True, latency_ms=math.nan), "latency_ms"),
        (lambda e: e.observe(True, version="m@1.2.0"), r"m@1.2.0 was never live in staging"),
        (lambda e: e.observe(True, version="m@7.0.0"), "no version"),
        (lambda e: e.observe(True, unit=""), "unit must be"),
        (lambda e: e.observe(True, request_id="a\nb"), "request_id must be"),
        (lambda e: e.observe(error=3), "error must be text"),
        (lambda e: e.observe(True, error="Timeout"), "failed has the outcome 0, not 1"),
        (lambda e: e.predict(unit="x" * 501, review="good"), "unit must be"),
        (lambda e: e.predict(reviw="good"), "the program does not take 'reviw'; it takes 'review'"),
        (lambda e: e.predict(unit="ann"), "the program needs 'review', got nothing"),
        (lambda e: e.predict(review="good", shop="ours"), "the program does not take 'shop'"),
        (lambda e: e.predict(review="good", lm="openai/other"), "the program does not take 'lm'"),
    ],
)
def test_wrong_values_are_one_line_and_store_nothing(staging: Environment, call: Any, words: str) -> None:
    with pytest.raises((InputError, NotFound), match=words) as caught:
        call(staging)
    assert "\n" not in str(caught.value)
    assert staging.traffic.count("1") == 0


def test_a_request_of_its_own_id_counts_once_and_may_get_its_outcome_later(staging: Environment) -> None:
    assert staging.observe(request_id="r1", latency_ms=5) == "r1"
    assert staging.observe(request_id="r1", value=0.7) == "r1"
    assert staging.observe(0.7 > 0.5, request_id="r2") == "r2"
    with pytest.raises(InputError, match=r"outcome 0.7 already"):
        staging.observe(request_id="r1", value=0.6)
    assert staging.traffic.count("1") == 2
    assert staging.check_health()["quality"].observed == pytest.approx(0.85)


def test_a_full_disk_does_not_stop_the_serving(
    staging: Environment, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise RegistryError("cannot write: the disk is full")

    monkeypatch.setattr(staging.traffic, "begin", full)
    with dspy.context(lm=scripted_lm()):
        prediction, request_id = staging.predict(review="good")
    assert (prediction.sentiment, request_id) == ("positive", "")
    assert "not counted" in caplog.text


# -- alerts -----------------------------------------------------------------------------------------------------


@pytest.fixture
def inbox() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A web server on this machine that keeps what is posted to /alerts and fails elsewhere."""
    received: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200 if self.path == "/alerts" else 500)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))  # how soon it notices its end
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", received
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_degradation_is_told_once_to_all(
    staging: Environment, inbox: tuple[str, list[dict[str, Any]]], caplog: pytest.LogCaptureFixture
) -> None:
    address, received = inbox
    settings = MonitorSettings(webhook=f"{address}/alerts", rollback=True, timeout_s=HANG_S)
    told: list[HealthReport] = []
    degrade(staging)
    with caplog.at_level(logging.WARNING):
        staging.check_health(settings, on_alert=told.append)
    (report,), (posted,) = told, received
    assert posted["text"] == report.sentence()
    assert (posted["verdict"], posted["alerts"], posted["rolled_back"]["version"]) == (
        "degraded", ["quality"], "1.0.0",
    )  # fmt: skip
    assert caplog.messages == [f"quality monitor: {report.sentence()}"]


def test_another_process_does_not_tell_it_again(registry: Registry, staging: Environment) -> None:
    degrade(staging)
    other = Registry(registry.root).environment("staging")
    told: list[HealthReport] = []
    for environment in (staging, other, staging):
        report = environment.check_health(on_alert=told.append)
        assert report.verdict == "degraded"
    assert len(told) == 1


def test_alerts_that_fail_do_no_harm(
    staging: Environment, inbox: tuple[str, list[dict[str, Any]]], caplog: pytest.LogCaptureFixture
) -> None:
    degrade(staging)
    report = staging.check_health(
        MonitorSettings(webhook=f"{inbox[0]}/nowhere", rollback=True, timeout_s=HANG_S),
        on_alert=lambda _: 1 / 0,
    )
    assert report.rolled_back is not None
    assert "on_alert failed" in caplog.text
    assert "the webhook was not reached: HTTP Error 500" in caplog.text


# -- rolling back by itself -------------------------------------------------------------------------------------


def test_what_an_automatic_rollback_brought_back_is_not_rolled_back_by_itself(registry: Registry) -> None:
    """The same trouble with two versions is hardly the version's."""
    environment = registry.environment("staging")
    for number in range(3):
        environment.deploy(f"m@1.{number}.0", evidence=EVALUATION)
    degrade(environment)
    assert environment.check_health(ROLLBACK).rolled_back is not None
    degrade(environment)
    report = environment.check_health(ROLLBACK)
    assert (report.verdict, report.rolled_back, report.alerts) == ("degraded", None, ("quality",))
    assert "an automatic roll-back brought it back" in str(report.rollback_error)
    assert environment.current is not None
    assert environment.current.ref == "m@1.1.0"


def test_the_first_version_stays_live_whatever_it_does(registry: Registry) -> None:
    environment = registry.environment("staging")
    environment.deploy("m@1.0.0", evidence=EVALUATION)
    degrade(environment)
    report = environment.check_health(ROLLBACK)
    assert report.verdict == "degraded"
    assert "nothing further back" in str(report.rollback_error)
    assert len(environment.history()) == 1


def test_a_rollback_that_was_refused_is_tried_again(registry: Registry, staging: Environment) -> None:
    degrade(staging)
    with pytest.warns(RegistryWarning, match="a roll-back of staging would return to"):
        registry.archive("m@1.0.0")
    assert "archived" in str(staging.check_health(ROLLBACK).rollback_error)
    registry.promote("m@1.0.0", "development", reason="still needed")
    report = staging.check_health(ROLLBACK)
    assert report.rolled_back is not None
    assert report.alerts == ()


def looked(root: Path, together: Barrier) -> Iterator[tuple[bool, int]]:
    os.fsync = lambda _: None
    environment = Registry(root).environment("staging")
    together.wait()
    report = environment.check_health(ROLLBACK)
    yield report.rolled_back is not None, len(report.alerts)


def test_of_many_processes_that_look_at_once_one_rolls_back_and_one_tells(
    staging: Environment, children: Children
) -> None:
    degrade(staging)
    together = meet(4)
    lookers = [children(looked, staging.registry.root, together) for _ in range(4)]
    counts = [found for looker in lookers for found in looker.rest()]
    assert len(counts) == 4
    assert [sum(column) for column in zip(*counts, strict=True)] == [1, 1]
    assert [line.action for line in staging.history()] == ["deploy", "deploy", "rollback"]
