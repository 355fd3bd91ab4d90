"""How health and canaries show: text, Markdown, HTML, the figure, the magic and the commands."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output

from dspy_nb import plots
from dspy_nb.cli.main import main
from dspy_nb.core.deployment.environment import Environment
from dspy_nb.core.deployment.health import HealthReport
from dspy_nb.core.deployment.objectives import MonitorSettings
from dspy_nb.core.errors import InputError
from dspy_nb.views.rendering.html import to_html
from dspy_nb.views.rendering.markdown import to_markdown
from dspy_nb.views.rendering.text import to_text
from tests.registry_samples import EVALUATION, registry_of

ALL = MonitorSettings(max_latency_ms=1000, max_error_rate=0.05)


@pytest.fixture
def staging(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_flush: None) -> Environment:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DSPY_NB_REGISTRY", raising=False)
    environment = registry_of("registry", 3).environment("staging")
    environment._advance_at = math.inf
    environment.deploy("m@1.0.0", evidence=EVALUATION)
    environment.deploy("m@1.1.0", evidence=EVALUATION)
    return environment


def serve(environment: Environment, n: int, rate: float) -> None:
    draws = random.Random(n)
    for number in range(n):
        environment.observe(draws.random() < rate, latency_ms=draws.random() * 1030, unit=f"{rate} {number}")


# -- reports ------------------------------------------------------------------------------------------------------


def test_a_report_says_the_verdict_first_and_the_numbers_behind_it(staging: Environment) -> None:
    serve(staging, 400, 0.9)
    report = staging.check_health(ALL)
    for text in (to_text(report), to_markdown(report), to_html(report)):
        for words in (
            "is healthy",
            "Healthy: nothing speaks against",
            "mean outcome",
            "answered within 1,000 ms",
        ):
            assert words in text
    assert "level: the evidence of its deployment" in to_text(report)


def test_a_degradation_and_what_was_done_about_it_is_told(staging: Environment) -> None:
    serve(staging, 300, 0.3)
    report = staging.check_health(MonitorSettings(rollback=True))
    text = to_text(report)
    assert "Degraded: quality fell below the 86.0% that is tolerated" in text
    assert "Rolled back: m@1.0.0 is live in staging now." in text
    serve(staging, 300, 0.3)
    assert "Warning: Not rolled back: an automatic" in to_text(
        staging.check_health(MonitorSettings(rollback=True))
    )


def test_a_canary_shows_both_versions_and_what_it_waits_for(staging: Environment) -> None:
    staging.canary("m@1.2.0", 0.5)
    status = staging.canary_status()
    assert status is not None
    assert "Waiting: 0 of 20 outcomes of m@1.2.0 at 50%." in to_text(status)
    serve(staging, 200, 0.9)
    status = staging.canary_status()
    assert status is not None
    for text in (to_text(status), to_html(status)):
        for words in ("canary of m@1.2.0 at 50%", "m@1.1.0", "50% → 100%", "5 points of all traffic"):
            assert words in text


# -- the figure ---------------------------------------------------------------------------------------------------


def test_the_figure_shows_outcomes_what_was_promised_and_the_alarm(staging: Environment) -> None:
    with pytest.raises(InputError, match=r"no request of m@1.1.0 has counted yet"):
        plots.plot_health(staging.check_health())
    serve(staging, 400, 0.9)
    serve(staging, 300, 0.3)
    report = staging.check_health(ALL)
    figure = plots.plot_health(report)
    assert [ax.get_title("left").split(":")[0] for ax in figure.axes] == ["Quality", "Latency", "Errors"]
    (ax,) = plots.plot_health(report, "quality").axes
    assert ax.get_title("left") == "Quality: mean outcome — degraded"
    assert any("alarm at" in text.get_text() for text in ax.texts)
    legend = [text.get_text() for text in ax.get_legend().get_texts()]
    assert legend[:2] == ["promised 90.0%", "tolerated 86.0%"]
    assert plots.plot_health(report, "latency", ax=ax) is ax.get_figure()
    with pytest.raises(InputError, match="use one of quality, latency, errors"):
        plots.plot_health(report, "cost")
    with pytest.raises(InputError, match="give objective="):
        plots.plot_health(report, ax=ax)


# -- the magic ----------------------------------------------------------------------------------------------------


@pytest.fixture
def shell(staging: Environment, magics: InteractiveShell):
    return magics


def run(shell: InteractiveShell, cell: str) -> tuple[Any, list[Any]]:
    with capture_output() as captured:
        result = shell.run_cell(cell)
    result.raise_error()
    return result.result, captured.outputs


def test_the_magic_returns_the_report_and_shows_the_figure_and_the_canary(
    shell: InteractiveShell, staging: Environment
) -> None:
    report, shown = run(shell, "%dspy_monitor staging")
    assert (report.verdict, shown) == ("too early", [])  # there is nothing to draw yet
    assert "Too early: no request has counted yet." in to_text(report)
    assert "has too few requests to be judged" in to_text(report)
    serve(staging, 100, 0.9)
    staging.canary("m@1.2.0")
    report, shown = run(shell, "%dspy_monitor staging -o health")
    assert isinstance(report, HealthReport)
    assert shell.user_ns["health"] is report
    formats, _ = shell.display_formatter.format(report)
    assert '<div class="dspy-nb">' in formats["text/html"]
    assert formats["text/plain"].startswith("staging: m@1.1.0 is healthy")
    assert "canary of m@1.2.0" in shown[0].data["text/plain"]
    assert "image/png" in shown[1].data
    assert len(run(shell, "%dspy_monitor staging --no-plot;")[1]) == 0


def test_the_magic_fails_in_one_line(shell: InteractiveShell) -> None:
    with capture_output() as captured:
        result = shell.run_cell("%dspy_monitor production")
    assert not result.success
    assert captured.stdout.strip() == "NotFound: nothing is live in production: deploy a version first"


# -- the commands -------------------------------------------------------------------------------------------------


def test_the_command_ends_with_the_verdict(staging: Environment, capsys: pytest.CaptureFixture[str]) -> None:
    serve(staging, 100, 0.9)
    assert main(["monitor", "staging", "--once"]) == 0
    assert "staging: m@1.1.0 is healthy" in capsys.readouterr().out
    serve(staging, 300, 0.3)
    Path("registry/config.toml").write_text("[monitor.staging]\nrollback = true\n")
    assert main(["monitor", "staging", "--json"]) == 1
    data = json.loads(capsys.readouterr().out)
    assert (data["verdict"], data["rolled_back"]["version"]) == ("degraded", "1.0.0")
    assert main(["monitor", "staging", "--once"]) == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["monitor", "production", "--once"], "nothing is live in production"),
        (["monitor", "nowhere", "--once"], "no environment 'nowhere'"),
        (["monitor"], "Missing argument"),
        (["monitor", "staging", "--every", "0"], "--every must be above 0"),
        (["canary", "start", "--environment", "staging"], "name the version"),
        (["canary", "status", "m@1.2.0", "--environment", "staging"], "give no version"),
        (["canary", "abort", "--environment", "staging", "--share", "0.1"], "--share goes with start"),
        (["canary", "start", "m@1.2.0", "--environment", "staging", "--share", "7"], "share must be"),
        (["canary", "stop", "--environment", "staging"], "is not one of"),
    ],
)
def test_wrong_usage_is_one_line(
    staging: Environment, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


def test_a_canary_from_the_shell(staging: Environment, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--environment", "staging"]
    assert main(["canary", "status", *where]) == 1
    assert "no canary is running" in capsys.readouterr().err
    assert main(["canary", "start", "m@1.2.0", *where, "--share", "0.5", "--margin", "0.9"]) == 0
    assert capsys.readouterr().out == "50% of staging goes to m@1.2.0\n"
    serve(staging, 100, 1)
    assert main(["canary", "status", *where, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["decision"] == "finish"
    assert main(["canary", "step", *where]) == 0
    assert "Deployed: m@1.2.0 is not worse" in capsys.readouterr().out
    assert main(["canary", "start", "m@1.0.0", *where]) == 0
    assert main(["canary", "abort", *where, "--reason", "no"]) == 0
    assert "m@1.2.0 has all of the traffic" in capsys.readouterr().out
