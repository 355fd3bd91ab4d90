"""The quality monitor: is what is live still as good as what was promised? If not: tell, and roll back.

The outcomes of the live version are tested, in the order of the requests, against the level that it was deployed
on (``objectives``), by a test that may be looked at as often as one likes (``degradation``). State is kept beside
the outcomes, so every process, a cron job among them, goes on where the last look ended.

How many requests it takes to find that the mean outcome went from .90 to .80, where .88 is tolerated, at 5 %
false alarms in the whole life of a deployment (``benchmarks/monitor.py``, 1,000 runs)::

    good requests before    half of the cases    9 of 10    99 of 100
    none                    150                  340          590
    1,000                   340                  590          800
    10,000                  450                  710          1,020
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from dspy_nb.core.deployment.alerts import Alerts
from dspy_nb.core.deployment.health import Health, HealthReport, ObjectiveHealth
from dspy_nb.core.deployment.objectives import (
    Level,
    MonitorSettings,
    Objective,
    level_of,
    load_settings,
    objectives_of,
    run_test,
)
from dspy_nb.core.errors import Conflict, DspyNbError, InputError, NotFound
from dspy_nb.core.evidence import HealthEvidence
from dspy_nb.core.statistics.degradation import running_interval
from dspy_nb.core.storage.log import utc_now
from dspy_nb.core.traffic.reading import average_recent, read_bins
from dspy_nb.core.traffic.store import Traffic

if TYPE_CHECKING:
    from dspy_nb.core.deployment.canaries import Canaries
    from dspy_nb.core.deployment.history import Deployment, EnvironmentState

_REASON: Final = "quality monitor"


def check_health(
    environment: Canaries,
    settings: MonitorSettings | None = None,
    on_alert: Callable[[HealthReport], object] | None = None,
) -> HealthReport:
    """Look at what is live; ``Environment.check_health`` says what that means."""
    if settings is None:
        settings = load_settings(environment.registry.root / "config.toml", environment.name)
    if not isinstance(settings, MonitorSettings):
        raise InputError(f"settings must be MonitorSettings, not a {type(settings).__name__}")
    if on_alert is not None and not callable(on_alert):
        raise InputError(f"on_alert must be a function of a report, not a {type(on_alert).__name__}")
    alerts = Alerts(environment.traffic, settings, on_alert)
    try:
        return _look_at(environment, settings, alerts)
    finally:
        alerts.tell()


def _look_at(environment: Canaries, settings: MonitorSettings, alerts: Alerts) -> HealthReport:
    """Look at what is live; store what is to be told of that before anything is done about it."""
    live, state_size, automatic = _live(environment)
    level = _level(environment, live, settings)
    watched = objectives_of(settings, level)
    if not watched:
        raise InputError(
            f"there is nothing to hold {live.ref} to in {environment.name}: deploy it with an evaluation as "
            f"evidence, or set level, max_latency_ms or max_error_rate in config.toml, [monitor.{environment.name}]"
        )
    report = HealthReport(
        environment=environment.name,
        ref=live.ref,
        deployment=live.number,
        live_since=live.at,
        at=utc_now(),
        level_source=level.source if level else "no level is known, so the quality is not watched",
        objectives=tuple(_look(environment.traffic, item, live.number, settings) for item in watched),
        missing=environment.traffic.file.missing(live.at),
    )
    if report.verdict != "degraded":
        return report
    report = alerts.store(report)
    if settings.rollback:
        report = _roll_back(environment, report, state_size, automatic)
        if report.alert_id is not None:
            alerts.complete(report)
    return report


def _live(environment: Canaries) -> tuple[Deployment, int, bool]:
    """Return the line that made live what is live, the length of the log, and whether the monitor rolled back."""

    def read(state: EnvironmentState) -> tuple[Deployment, int]:
        if not state.since:
            raise NotFound(f"nothing is live in {environment.name}: deploy a version first")
        return state.history[state.since - 1], len(state.history)

    line, size = environment.read(read)
    return line, size, line.action == "rollback" and isinstance(line.evidence, HealthEvidence)


def _level(environment: Canaries, live: Deployment, settings: MonitorSettings) -> Level | None:
    if settings.level is not None:
        return Level(settings.level, settings.level, "the settings of the monitor")
    lines = environment.history()[: live.number]
    made_live = (line for line in reversed(lines) if line.action in ("deploy", "canary-finish"))
    deployed_on = next((line.evidence for line in made_live if line.ref == live.ref), None)
    return level_of(environment.registry, live.ref, deployed_on)


def _look(
    traffic: Traffic, objective: Objective, deployment: int, settings: MonitorSettings
) -> ObjectiveHealth:
    which, values = "deployment = ? AND NOT is_b", (deployment,)
    test = run_test(traffic, f"deployment {deployment}", objective, which, values, settings.wait_s)
    verdict: Health = "healthy" if test.n >= settings.min_requests else "too early"
    return ObjectiveHealth(
        name=objective.name,
        meaning=objective.meaning,
        verdict="degraded" if test.degraded else verdict,
        level=objective.level,
        tolerated=objective.tolerated,
        observed=test.total / test.n if test.n else None,
        recent=average_recent(traffic, which, values, objective.value),
        interval=running_interval(test.total, test.n),
        n=test.n,
        p_value=test.p_value,
        alpha=objective.alpha,
        alarm_at=test.alarm_at,
        bins=read_bins(traffic, which, values, objective.value),
    )


def _roll_back(environment: Canaries, report: HealthReport, seen: int, automatic: bool) -> HealthReport:
    """Roll back what has degraded, unless somebody else did, or it is what an automatic roll-back brought back."""
    if automatic:
        why = "an automatic roll-back brought it back, so the cause is hardly the version: decide yourself"
        return replace(report, rollback_error=why)
    worst = report.degraded[0]
    reason = f"{_REASON}: {report.sentence()}"
    try:
        made = environment.roll_back_on_evidence(seen, worst.to_evidence(), reason)
    except Conflict:
        return replace(report, rollback_error="somebody else changed the environment at the same moment")
    except DspyNbError as error:
        return replace(report, rollback_error=str(error))
    return replace(report, rolled_back=made)
