"""Damaged files of traffic: users are answered, nothing is thrown away, and verdicts say what they miss."""

from __future__ import annotations

from pathlib import Path

import dspy
import pytest

from dspy_nb.core.deployment.environment import Environment
from dspy_nb.core.deployment.objectives import MonitorSettings
from dspy_nb.core.errors import NotFound
from dspy_nb.core.registry.registry import Registry
from dspy_nb.core.traffic import file as traffic_file
from dspy_nb.views.rendering.html import to_html
from dspy_nb.views.rendering.text import to_text
from tests import name_of
from tests.core.traffic.damages import garbage, no_index
from tests.registry_samples import EVALUATION, registry_of
from tests.scripted import scripted_lm

SETTINGS = MonitorSettings(level=0.9, max_error_rate=0.5)


@pytest.fixture(autouse=True)
def fast(no_flush: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traffic_file, "_OTHERS_WRITE_WITHIN_S", 0.001)


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    made = registry_of(tmp_path / "registry", 2).environment("staging")
    made.deploy("m@1.0.0", evidence=EVALUATION)
    for number in range(200):
        made.observe(True, latency_ms=5, request_id=f"before {number}")
    return made


def again(environment: Environment) -> Environment:
    """Return the environment as another process has it."""
    return Registry(environment.registry.root).environment(environment.name)


def answers(environment: Environment) -> str:
    with dspy.context(lm=scripted_lm()):
        prediction, request_id = environment.predict(review="good")
    assert prediction.sentiment == "positive"
    return request_id


def closed(environment: Environment) -> Path:
    """Close the file, so that all that it holds is in one, and return it."""
    environment.traffic.close()
    return environment.traffic.path


def test_the_reports_say_what_they_miss(environment: Environment) -> None:
    garbage(closed(environment))
    serving = again(environment)
    serving.record(answers(serving), True)
    serving.observe(True)
    report = serving.check_health(SETTINGS)
    assert report["quality"].n == 2
    (missing,) = report.missing
    (aside,) = serving.folder.glob("traffic.sqlite3.damaged-*Z")
    assert aside.name in missing
    for said in (report.sentence(), to_text(report).replace("\n", " "), to_html(report)):
        assert aside.name in said


def test_how_many_outcomes_are_missing_is_said_where_that_can_be_read(environment: Environment) -> None:
    no_index(closed(environment))
    serving = again(environment)
    serving.observe(True)
    assert "not counted: 200 are in traffic.sqlite3.damaged-" in serving.check_health(SETTINGS).missing[0]
    with pytest.raises(NotFound, match=r"no request 'before 7' .*was it served here.*200 are in"):
        serving.record("before 7", True)


def test_a_later_deployment_misses_nothing(environment: Environment) -> None:
    garbage(closed(environment))
    again(environment).observe(True)
    environment.deploy("m@1.1.0", evidence=EVALUATION)
    assert again(environment).check_health(SETTINGS).missing == ()


def test_a_canary_says_what_it_misses(environment: Environment) -> None:
    environment.canary("m@1.1.0")
    garbage(closed(environment))
    serving = again(environment)
    answers(serving)
    status = serving.canary_status()
    assert status is not None
    assert "which is damaged" in to_text(status).replace("\n", " ")
    assert status.to_evidence().missing == status.missing


@pytest.mark.parametrize("state", ["{", "[]", "3", '{"n": "x"}', "{}", b"\xff"], ids=name_of)
def test_a_state_that_is_damaged_is_made_of_the_requests_again(
    environment: Environment, state: object
) -> None:
    environment.canary("m@1.1.0")
    expected = environment.check_health(SETTINGS), environment.canary_status()
    with environment.traffic.file.writing() as connection:
        connection.execute("UPDATE tests SET state = CAST(? AS TEXT)", (state,))
    found = environment.check_health(SETTINGS), environment.canary_status()
    assert found[0].objectives == expected[0].objectives
    assert found[1] == expected[1]
