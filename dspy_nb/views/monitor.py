"""The health of an environment and the state of its canary, as text, Markdown and HTML: the verdict first."""

from __future__ import annotations

from collections.abc import Sequence

from dspy_nb.core.deployment.canary_state import Arm, CanaryStatus
from dspy_nb.core.deployment.health import HealthReport, ObjectiveHealth
from dspy_nb.views.documents import (
    Block,
    Cell,
    Document,
    Facts,
    Note,
    Score,
    Table,
    to_html,
    to_markdown,
    to_text,
)
from dspy_nb.views.wording import UNKNOWN, known, percent

__all__ = ["canary_html", "canary_text", "health_html", "health_markdown", "health_text"]


def health_text(report: HealthReport) -> str:
    """Return what a look at an environment found, as text."""
    return to_text(_health(report))


def health_markdown(report: HealthReport) -> str:
    """Return what a look at an environment found, as Markdown."""
    return to_markdown(_health(report))


def health_html(report: HealthReport) -> str:
    """Return what a look at an environment found, as HTML."""
    return to_html(_health(report))


def canary_text(status: CanaryStatus) -> str:
    """Return how a canary stands, as text."""
    return to_text(_canary(status))


def canary_html(status: CanaryStatus) -> str:
    """Return how a canary stands, as HTML."""
    return to_html(_canary(status))


def _health(report: HealthReport) -> Document:
    blocks: list[Block] = [Note(_verdict(report))]
    if report.rolled_back is not None:
        blocks.append(Note(f"Rolled back: {report.rolled_back.ref} is live in {report.environment} now."))
    if report.rollback_error is not None:
        blocks.append(Note(f"Not rolled back: {report.rollback_error}.", warning=True))
    blocks += _missing(report.missing)
    blocks.append(
        Table(
            (
                "objective",
                "verdict",
                "observed [95% at all times]",
                "last 100",
                "promised",
                "tolerated",
                "requests",
                "p-value",
            ),
            [_row(item) for item in report.objectives],
            frozenset([3, 4, 5, 6, 7]),
            caption=f"An alarm is raised at a p-value of {_p(min(item.alpha for item in report.objectives))}; "
            "it stays valid however often one looks.",
        )
    )
    since = report.live_since[:19].replace("T", " ")
    subtitle = f"live since {since} UTC · level: {report.level_source}"
    return Document(f"{report.environment}: {report.ref} is {report.verdict}", blocks, subtitle)


def _missing(sentences: Sequence[str]) -> list[Block]:
    return [Note(f"{text[0].upper()}{text[1:]}.", warning=True) for text in sentences]


def _verdict(report: HealthReport) -> str:
    if report.degraded:
        parts = [
            f"{item.name} fell below the {percent(item.tolerated)} that is tolerated, found at request "
            f"{item.alarm_at:,}"
            for item in report.degraded
        ]
        return f"Degraded: {'; '.join(parts)}."
    if report.verdict == "too early":
        return "Too early: nothing speaks against it, but there are only a few requests."
    return "Healthy: nothing speaks against what was promised."


def _row(item: ObjectiveHealth) -> tuple[Cell, ...]:
    return (
        f"{item.name}: {item.meaning}",
        item.verdict,
        Score(item.observed, item.interval),
        known(item.recent, "{:.1%}"),
        percent(item.level),
        percent(item.tolerated),
        f"{item.n:,}",
        _p(item.p_value),
    )


def _p(p_value: float) -> str:
    return f"{p_value:.2g}" if p_value >= 0.0001 else "< 0.0001"


def _canary(status: CanaryStatus) -> Document:
    low, high = status.interval
    words = {
        "wait": f"Waiting: {status.reason}.",
        "step": f"To {percent(status.next_share)}: {status.reason}.",
        "finish": f"Deployed: {status.reason}.",
        "rollback": f"Taken back: {status.reason}.",
    }
    difference = UNKNOWN if low != low else f"{100 * low:+.1f} to {100 * high:+.1f} points"  # NaN
    blocks: list[Block] = [
        Note(words[status.decision], warning=status.decision == "rollback"),
        *_missing(status.missing),
        Table(
            ("", "version", "share", "outcomes", "mean outcome"),
            [
                _arm("live", status.baseline, 1 - status.share),
                _arm("candidate", status.candidate, status.share),
            ],
            frozenset([2, 3, 4]),
        ),
        Facts([
            ("difference", f"{difference}, at {status.rules.confidence:.0%} at all times"),
            ("plan", " → ".join(f"{share:.0%}" for share in status.rules.plan)),
            ("margin", f"{100 * status.rules.margin:g} points of all traffic"),
        ]),
    ]  # fmt: skip
    since = status.started_at[:19].replace("T", " ")
    title = f"{status.environment}: canary of {status.candidate.ref} at {status.share:.0%}"
    return Document(title, blocks, f"since {since} UTC")


def _arm(role: str, arm: Arm, share: float) -> tuple[str, ...]:
    return role, arm.ref, f"{share:.0%}", f"{arm.n:,}", known(arm.mean, "{:.1%}")
