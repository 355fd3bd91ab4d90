"""Commands that watch what is live: its health, and a canary's course."""

from __future__ import annotations

import time

import click

import dspy_nb as nb
from dspy_nb.cli.output import as_json_text, echo, json_option, print_result, registry_option
from dspy_nb.cli.registry import open_registry

__all__ = ["canary", "monitor"]


@click.command()
@click.argument("environment", metavar="ENVIRONMENT")
@click.option("--once", is_flag=True, help="Look once, for cron and CI; else until a degradation or Ctrl-C.")
@click.option(
    "--every", type=float, default=60.0, show_default=True, metavar="S", help="Seconds between looks."
)
@registry_option
@json_option
def monitor(environment: str, once: bool, every: float, root: str, as_json: bool) -> int:
    r"""Look whether what is live is as good as promised.

    What is tolerated says [monitor.ENVIRONMENT] in config.toml of the registry: level, margin, false_alarm,
    max_latency_ms, latency_share, max_error_rate, min_requests, wait_s, rollback, webhook. Without it the outcomes
    are held to the score that the version was deployed on. However often one looks, the chance of a false alarm in
    the whole life of a deployment is at most false_alarm (0.05).

    With --json each look is one line. The exit status is 1 if it has degraded.

    \b
    Examples:
      dspy-nb monitor production --once
      dspy-nb monitor production --every 300 --json >> health.jsonl
    """
    if not 0 < every < float("inf"):
        raise nb.InputError(f"--every must be above 0 seconds, got {every:g}")
    where = open_registry(root).environment(environment)
    while True:
        report = where.check_health()
        ended = once or report.verdict == "degraded"
        if as_json:
            echo(as_json_text(report.to_dict(bins=False), indent=None))
        elif ended:
            echo(report.report())
        else:
            echo(f"{report.at[:19].replace('T', ' ')} {report.sentence()}")
        if ended:
            return int(report.verdict == "degraded")
        time.sleep(every)


@click.command()
@click.argument("action", type=click.Choice(["start", "status", "step", "abort"]))
@click.argument("ref", metavar="[MODEL@VERSION]", required=False)
@click.option("--environment", metavar="NAME", required=True, help="Such as production.")
@click.option(
    "--share", type=float, metavar="X", help="start: the first share of the traffic; 0.05 by default."
)
@click.option("--margin", type=float, metavar="X", help="start: the loss that is accepted; 0.05 by default.")
@click.option("--min-requests", type=int, metavar="N", help="start: outcomes that each step waits for; 20.")
@click.option("--reason", metavar="TEXT", help="Why; it is kept in the history.")
@click.option("--by", metavar="NAME", help="Who decides; the user by default.")
@registry_option
@json_option
def canary(
    action: str,
    ref: str | None,
    environment: str,
    share: float | None,
    margin: float | None,
    min_requests: int | None,
    reason: str | None,
    by: str | None,
    root: str,
    as_json: bool,
) -> int:
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
    given = {"share": share, "margin": margin, "min_requests": min_requests}
    rules = {name: value for name, value in given.items() if value is not None}
    if action != "start" and rules:
        raise nb.InputError(f"canary {action}: --{next(iter(rules)).replace('_', '-')} goes with start")
    where = open_registry(root).environment(environment)
    if action in ("status", "step"):
        return _status(where, action, as_json)
    if ref is not None:
        where.canary(ref, **rules, by=by, reason=reason)  # type: ignore[arg-type]
    else:
        where.abort_canary(by=by, reason=reason)
    made = where.history()[-1]
    text = (
        f"{made.share:.0%} of {environment} goes to {made.candidate}"
        if ref
        else f"{made.ref} has all of the traffic"
    )
    print_result(
        as_json, {"action": made.action, "candidate": made.candidate, "share": made.share}, lambda: text
    )
    return 0


def _status(where: nb.Environment, action: str, as_json: bool) -> int:
    status = where.canary_status() if action == "status" else where.advance_canary()
    if status is None:
        raise nb.Refused(f"no canary is running in {where.name}")
    print_result(as_json, status.to_dict(), status.report)
    return int(status.decision == "rollback")
