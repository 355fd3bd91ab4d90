"""How reports, progress and magics word numbers and endings, so that all say the same."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dspy_nb.core.programs.usage import Usage

UNKNOWN = "–"
"""What stands for a number that is not known, which is not the same as 0."""


def percent(share: float) -> str:
    """Return a share as a percentage with one decimal."""
    return f"{share:.1%}"


def level(confidence: float) -> str:
    """Return a confidence as ``95%`` or ``98.3%``."""
    return f"{100 * confidence:.3g}%"


def format_or_dash(value: float | None, form: str = "{:,}") -> str:
    """Return ``value`` in the format ``form``, a dash if it is not known."""
    return UNKNOWN if value is None else form.format(value)


def dollars(usd: float | None) -> str:
    """Return a cost with hundredths of a cent, a dash if it is not known."""
    return format_or_dash(usd, "${:,.4f}")


def points(low: float, high: float) -> str:
    """Return an interval of a difference in percentage points, as ``[-1.0, +17.0]``.

    An end too near to 0 to show on which side of it it lies is ``>0`` or ``<0``.
    """

    def end(value: float) -> str:
        text = f"{100 * value:+.1f}"
        return text if value == 0 or float(text) else ">0" if value > 0 else "<0"

    return f"[{end(low)}, {end(high)}]"


def describe_verdict(
    verdict: str, effect: float, interval: tuple[float, float], confidence: float, p_value: float
) -> str:
    """Return ``B better: B − A is +12.0 points [+3.1, +20.9] at 95% confidence, p 0.004``.

    The interval is left out where it is not known (NaN).
    """
    text = f"{capitalize(verdict)}: B − A is {100 * effect:+.1f} points"
    if not math.isnan(interval[0]):
        text += f" {points(*interval)} at {level(confidence)} confidence"
    return f"{text}, p {p_value:.2g}"


def describe_margin(margin: float, nothing: str) -> str:
    """Return what a margin makes of small differences; of none, ``nothing``."""
    return f"differences of up to {100 * margin:g} points make no practical difference" if margin else nothing


def capitalize(text: str) -> str:
    """Return the text with a capital at its start, and the rest as it is."""
    return text[:1].upper() + text[1:]


def sentence(text: str) -> str:
    """Return ``the disk is full`` as ``The disk is full.``."""
    return f"{capitalize(text)}."


def moment(at: str, *, seconds: bool = False) -> str:
    """Return a time in ISO format as ``2026-11-29 18:30``, or with its seconds."""
    return at[: 19 if seconds else 16].replace("T", " ")


def count(n: int, what: str) -> str:
    """Return ``1 demo``, ``2 demos``."""
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def duration(seconds: float) -> str:
    """Return a duration to about two digits: ``4.2 s``, ``37 s``, ``3 min 05 s``, ``2 h 10 min``."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


def roughly(seconds: float) -> str:
    """Return a guess of a duration, too coarse to jump about: ``5 s``, ``40 s``, ``3 min``, ``1 h 20 min``."""
    if seconds <= 55:
        return f"{max(5 * math.ceil(seconds / 5), 5)} s"
    minutes = max(round(seconds / 60), 1)
    if minutes < 60:
        return f"{minutes} min"
    hours, rest = divmod(round(minutes, -1), 60)
    return f"{hours:,} h {rest} min" if rest and hours < 10 else f"{hours:,} h"


def time_left(seconds: float, done: int, cached: int, left: int, at_once: int = 1) -> float | None:
    """Return in how many seconds ``left`` answers are there, if none of them comes from a cache.

    ``None`` as long as the rate is not known: those that are asked for at the same time come at the same time, and
    those from a cache at once.

    Args:
        seconds: That it took so far.
        done: Answers so far.
        cached: How many of them came from a cache.
        left: Answers to come.
        at_once: How many are asked for at the same time.
    """
    asked = done - cached
    return seconds / asked * left if asked > at_once and seconds > 0 and left > 0 else None


def say_rest(limit: int, n: int, what: str) -> str:
    """Return ``10 of 34 candidates are shown``, and ``""`` if all are."""
    return "" if n <= limit else f"{limit} of {n:,} {what} are shown"


def usage_facts(usage: Usage) -> list[tuple[str, str]]:
    """Return what was used: calls, tokens, dollars, and the time waited for a rate limit."""
    sent, received = (format_or_dash(n) for n in (usage.prompt_tokens, usage.completion_tokens))
    return [
        ("LM calls", f"{usage.lm_calls:,} asked, {usage.cache_hits:,} answered from a cache"),
        ("tokens", f"{sent} sent, {received} received"),
        ("cost", dollars(usage.usd)),
        *waiting_facts(usage.waited_s),
    ]


def waiting_facts(waited_s: float) -> list[tuple[str, str]]:
    """Return how long requests waited for a rate limit, as a fact, if they did."""
    return [("waited", f"{duration(waited_s)} for the rate limit")] if round(waited_s, 1) else []


def describe_ending(stopped_by: str | None, limits: Mapping[str, float]) -> str:
    """Return how a run ended.

    Args:
        stopped_by: see ``OptimizationRun.stopped_by``.
        limits: of the budget, by name.
    """
    budgets = {"lm_calls": "{:,} LM calls", "seconds": "{:,g} s", "tokens": "{:,} tokens", "usd": "${:,.2f}"}
    if stopped_by in budgets:
        return f"stopped by the budget of {budgets[stopped_by].format(limits[stopped_by])}"
    others = {
        None: "completed",
        "stop": "stopped on request",
        "interrupt": "interrupted",
        "errors": "stopped because the program kept failing",
        "metric": "stopped because the metric returned what is no score",
        "failure": "stopped because the optimizer failed",
    }
    return others.get(stopped_by, f"stopped by {stopped_by}")
