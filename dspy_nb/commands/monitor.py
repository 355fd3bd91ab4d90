"""Commands that watch what is live: its health, and a canary's course."""

from __future__ import annotations

import time
from typing import Any

import click

import dspy_nb as nb
from dspy_nb.commands import common
from dspy_nb.commands.common import open_registry
from dspy_nb.commands.declaration import argument, command, given, option
from dspy_nb.commands.surface import Outcome, Surface


@command("monitor", magic="dspy_monitor", kept_as="_dspy_health")
@argument("environment", common.ENVIRONMENTS, "ENVIRONMENT")
@option("--once", "Look once, for cron and CI; else until a degradation or Ctrl-C.", bool, only="shell")
@option("--every", "Seconds between looks.", float, default=60.0, only="shell")
@option("--no-plot", "Show no figure.", bool, only="notebook")
@common.registry
def monitor(
    here: Surface,
    environment: str,
    root: str,
    once: bool = True,
    every: float = 60.0,
    no_plot: bool = False,
) -> Outcome:
    r"""Look whether what is live is as good as promised.

    [monitor.ENVIRONMENT] in config.toml of the registry sets what is tolerated: level, margin, false_alarm,
    max_latency_ms, latency_share, max_error_rate, min_requests, wait_s, rollback, webhook. Without it the outcomes
    are held to the score that the version was deployed on. However often one looks, the chance of a false alarm in
    the whole life of a deployment is at most false_alarm (0.05).

    With --json each look is one line. The exit status is 1 if it has degraded. A notebook looks once, and shows a
    canary that is running there too.

    \b
    Examples:
      dspy-nb monitor production --once
      dspy-nb monitor production --every 300 --json >> health.jsonl
      %dspy_monitor production
    """
    if not 0 < every < float("inf"):
        raise nb.InputError(f"--every must be above 0 seconds, got {every:g}")
    where = open_registry(root).environment(environment)
    while True:
        report = where.check_health()
        if once or report.verdict == "degraded":
            break
        sentence = f"{report.at[:19].replace('T', ' ')} {report.sentence()}"
        here.look(report.to_dict(bins=False), sentence)
        time.sleep(every)
    return Outcome(
        report,
        report.to_dict(bins=False),
        also=_beside(where, report, plot=not no_plot) if here.keeps_results else (),
        status=int(report.verdict == "degraded"),
        one_line=True,
    )


def _beside(where: nb.Environment, report: nb.HealthReport, *, plot: bool) -> list[Any]:
    """Return what a notebook shows before the report: the canary and the figure."""
    from dspy_nb.plots.registry import plot_health

    canary = where.canary_status()
    shown: list[Any] = [] if canary is None else [canary]
    if plot and any(item.bins for item in report.objectives):
        shown.append(plot_health(report))
    return shown


@command("canary")
@argument("action", click.Choice(["start", "status", "step", "abort"]))
@argument("ref", common.REFERENCES, "[MODEL@VERSION]", required=False)
@option("--environment", "Such as production.", common.ENVIRONMENTS, required=True)
@option("--share", "start: the first share of the traffic; 0.05 by default.", float)
@option("--margin", "start: the loss that is accepted; 0.05 by default.", float)
@option("--min-requests", "start: outcomes that each step waits for; 20.", int)
@common.reason
@common.by
@common.registry
def canary(
    here: Surface,
    action: str,
    ref: str | None,
    environment: str,
    share: float | None,
    margin: float | None,
    min_requests: int | None,
    reason: str | None,
    by: str | None,
    root: str,
) -> Outcome:
    r"""Give a version a growing share of the traffic.

    It grows as long as the version is not worse than what is live, in the end to all of it. Processes that serve
    with predict() or load(unit=...) divide the traffic, and record() lets the canary go on by itself; "step" takes
    the step that is due. The exit status of status and step is 1 if the candidate was, or is to be, taken back.

    \b
    Examples:
      dspy-nb canary start sentiment@1.1.0 --environment production --share 0.05
      dspy-nb canary status --environment production
      dspy-nb canary abort --environment production --reason "a typo in the prompt"
    """
    if (ref is None) == (action == "start"):
        raise nb.InputError(f"canary {action}: {'name the version' if ref is None else 'give no version'}")
    settings = {"share": share, "margin": margin, "min_requests": min_requests}
    rules: dict[str, Any] = {name: value for name, value in settings.items() if value is not None}
    if action != "start" and rules:
        raise nb.InputError(f"canary {action}: {next(iter(given(rules).values()))} goes with start")
    where = open_registry(root).environment(environment)
    if action in ("status", "step"):
        status = where.canary_status() if action == "status" else where.advance_canary()
        if status is None:
            raise nb.Refused(f"no canary is running in {where.name}")
        return Outcome(status, status.to_dict(), status=int(status.decision == "rollback"))
    if ref is not None:
        where.canary(ref, **rules, by=by, reason=reason)
    else:
        where.abort_canary(by=by, reason=reason)
    made = where.history()[-1]
    text = (
        f"{made.share:.0%} of {environment} goes to {made.candidate}"
        if ref
        else f"{made.ref} has all of the traffic"
    )
    return Outcome(made, {"action": made.action, "candidate": made.candidate, "share": made.share}, text)
