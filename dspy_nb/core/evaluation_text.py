"""An evaluation as text for a terminal."""

from __future__ import annotations

import math

from dspy_nb.core.scorecard import Evaluation
from dspy_nb.core.usage import Usage

__all__ = ["text"]

_SHOWN = 10


def text(evaluation: Evaluation) -> str:
    """Return the result as lines of at most about 100 characters."""
    parts = [
        [f"{evaluation.program} on {evaluation.n:,} examples, {evaluation.metric}"],
        _headline(evaluation),
        _classes(evaluation),
        _slices(evaluation),
        _cost(evaluation),
    ]
    return "\n".join(line for part in parts for line in part)


def _headline(evaluation: Evaluation) -> list[str]:
    low, high = evaluation.interval
    right = "" if evaluation.correct is None else f", {evaluation.correct:,} of {evaluation.n:,} right"
    lines = [
        f"  score {_percent(evaluation.score)}  "
        f"[{_percent(low)}, {_percent(high)}] at {evaluation.confidence:.0%} confidence{right}"
    ]
    for name, score in list(evaluation.metrics.items())[1:]:
        low, high = score.interval
        lines.append(f"  {name} {_percent(score.score)}  [{_percent(low)}, {_percent(high)}]")
    errors = evaluation.errors
    if errors.count:
        kinds = ", ".join(f"{count} {kind}" for kind, count in errors.kinds.items())
        lines.append(
            f"  {errors.count} errors ({errors.rate:.1%}) count as failures: {kinds}; "
            f"{_without(evaluation.score_without_errors)}"
        )
        lines.extend(f"    {message}" for message in errors.messages)
    if not evaluation.complete:
        lines.append(f"  PARTIAL: interrupted after {evaluation.n:,} of {evaluation.n_planned:,}")
    if not evaluation.reliable:
        reason = (
            f"more than {evaluation.max_error_rate:.0%} errors" if evaluation.n else "nothing was finished"
        )
        lines.append(f"  NOT RELIABLE: {reason}")
    if evaluation.n_distinct < evaluation.n_examples:
        lines.append(
            f"  {evaluation.n_distinct:,} of the {evaluation.n_examples:,} examples differ in their inputs; "
            "the interval allows for it"
        )
    return lines


def _classes(evaluation: Evaluation) -> list[str]:
    found = evaluation.classification
    if found is None:
        return []
    rows = [(label, score) for label, score in found.per_class.items()]
    rows += [("macro average", found.macro), ("weighted average", found.weighted)]
    width = min(30, max(len(label) for label, _ in rows))
    lines = [f"  {found.field:{width}.{width}}  precision  recall     f1  support  predicted"]
    for label, score in rows:
        lines.append(
            f"  {label:{width}.{width}}  {score.precision:9.3f}  {score.recall:6.3f}  {score.f1:5.3f}"
            f"  {score.support:7,}  {score.predicted:9,}"
        )
    lines.append(f"  accuracy {_percent(found.accuracy)}")
    return lines


def _slices(evaluation: Evaluation) -> list[str]:
    if not evaluation.slices:
        return []
    shown = list(evaluation.slices.items())[:_SHOWN]
    width = min(30, max(len(key) for key, _ in shown))
    lines = [f"  by {evaluation.by}:"]
    for key, part in shown:
        low, high = part.interval
        lines.append(
            f"    {key:{width}.{width}}  {_percent(part.score)}  [{_percent(low)}, {_percent(high)}]  n {part.n:,}"
        )
    if len(evaluation.slices) > _SHOWN:
        lines.append(f"    and {len(evaluation.slices) - _SHOWN} more")
    return lines


def _cost(evaluation: Evaluation) -> list[str]:
    latency = evaluation.latency
    lines = []
    if latency:
        lines.append(
            f"  latency mean {latency.mean_ms:,.0f} ms, p50 {latency.p50_ms:,.0f}, p95 {latency.p95_ms:,.0f}, "
            f"p99 {latency.p99_ms:,.0f} (n {latency.n:,}, cache hits left out)"
        )
    lines.append(f"  {_usage(evaluation.usage)}; {evaluation.duration_s:,.1f} s")
    if evaluation.metric_usage != Usage():
        lines.append(f"  the metric used {_usage(evaluation.metric_usage)}")
    return lines


def _usage(usage: Usage) -> str:
    tokens = [
        "unknown" if count is None else f"{count:,}"
        for count in (usage.prompt_tokens, usage.completion_tokens)
    ]
    price = "price unknown" if usage.usd is None else f"${usage.usd:,.4f}"
    return (
        f"{usage.lm_calls:,} LM calls, {usage.cache_hits:,} cache hits, "
        f"{tokens[0]} + {tokens[1]} tokens, {price}"
    )


def _without(score: float) -> str:
    return "there is no other" if math.isnan(score) else f"without them the score is {_percent(score)}"


def _percent(share: float) -> str:
    return f"{share:.1%}"
