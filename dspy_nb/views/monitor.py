"""The health of an environment and the state of its canary, as documents: the verdict first."""

from __future__ import annotations

from dspy_nb.core.deployment.canary_state import CanaryStatus, VersionOutcomes
from dspy_nb.core.deployment.health import HealthReport, ObjectiveHealth
from dspy_nb.views.documents import Block, Cell, Document, Facts, Note, Score, Table, document, warn
from dspy_nb.views.wording import UNKNOWN, count, format_or_dash, moment, percent


@document.register
def _(report: HealthReport) -> Document:
    blocks: list[Block] = [Note(_verdict(report))]
    if report.rolled_back is not None:
        blocks.append(Note(f"Rolled back: {report.rolled_back.ref} is live in {report.environment} now."))
    if report.rollback_error is not None:
        blocks.append(Note(f"Not rolled back: {report.rollback_error}.", warning=True))
    blocks += warn(report.missing)
    columns = (
        "objective", "verdict", "observed [95% at all times]", "last 100", "promised", "tolerated", "requests",
        "p-value",
    )  # fmt: skip
    alarm = f"An alarm is raised at a p-value of {_p(min(item.alpha for item in report.objectives))}"
    rows = [_row(item) for item in report.objectives]
    caption = f"{alarm}; it stays valid however often one looks."
    blocks.append(Table(columns, rows, frozenset([3, 4, 5, 6, 7]), caption))
    subtitle = f"live since {moment(report.live_since, seconds=True)} UTC · level: {report.level_source}"
    return Document(f"{report.environment}: {report.ref} {_title(report)}", blocks, subtitle)


def _verdict(report: HealthReport) -> str:
    if report.degraded:
        fell = "{} fell below the {} that is tolerated, found at request {:,}".format
        parts = [fell(item.name, percent(item.tolerated), item.alarm_at) for item in report.degraded]
        return f"Degraded: {'; '.join(parts)}."
    if report.verdict == "too early":
        fewest = min(item.n for item in report.objectives)
        if not fewest:
            return "Too early: no request has counted yet."
        return f"Too early: nothing speaks against it, but only {count(fewest, 'request')} counted yet."
    return "Healthy: nothing speaks against what was promised."


def _title(report: HealthReport) -> str:
    return "has too few requests to be judged" if report.verdict == "too early" else f"is {report.verdict}"


def _row(item: ObjectiveHealth) -> tuple[Cell, ...]:
    return (
        f"{item.name}: {item.meaning}",
        item.verdict,
        Score(item.observed, item.interval),
        format_or_dash(item.recent, "{:.1%}"),
        percent(item.level),
        percent(item.tolerated),
        item.n,
        _p(item.p_value),
    )


def _p(p_value: float) -> str:
    return f"{p_value:.2g}" if p_value >= 0.0001 else "< 0.0001"


@document.register
def _(status: CanaryStatus) -> Document:
    low, high = status.interval
    step = f"To {percent(status.next_share)}"
    done = {"wait": "Waiting", "step": step, "finish": "Deployed", "rollback": "Taken back"}[status.decision]
    arms = [
        _arm("live", status.baseline, 1 - status.share),
        _arm("candidate", status.candidate, status.share),
    ]
    difference = UNKNOWN if low != low else f"{100 * low:+.1f} to {100 * high:+.1f} points"  # NaN
    blocks: list[Block] = [
        Note(f"{done}: {status.reason}.", warning=status.decision == "rollback"),
        *warn(status.missing),
        Table(("", "version", "share", "outcomes", "mean outcome"), arms, frozenset([2, 3, 4])),
        Facts([
            ("difference", f"{difference}, at {status.rules.confidence:.0%} at all times"),
            ("plan", " → ".join(f"{share:.0%}" for share in status.rules.shares)),
            ("margin", f"{100 * status.rules.margin:g} points of all traffic"),
        ]),
    ]  # fmt: skip
    title = f"{status.environment}: canary of {status.candidate.ref} at {status.share:.0%}"
    return Document(title, blocks, f"since {moment(status.started_at, seconds=True)} UTC")


def _arm(role: str, arm: VersionOutcomes, share: float) -> tuple[Cell, ...]:
    return role, arm.ref, f"{share:.0%}", arm.n, format_or_dash(arm.mean, "{:.1%}")
