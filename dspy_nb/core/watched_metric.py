"""A metric that ends the run at the first return value that is no score, and counts what it raises."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from dspy_nb.core.guard import Guard, StopRun
from dspy_nb.core.metrics import Metric, MetricError

__all__ = ["ending_on_no_score"]


def ending_on_no_score(metric: Metric | None, guard: Guard) -> Metric | None:
    """Return ``metric`` in a form that stops ``guard`` when it returns what is no score between 0 and 1.

    DSPy would take such a value for a 0, or fail at the very end. Whatever else the metric raises is counted:
    the guard ends a run in which most calls break.
    """
    if metric is None:
        return None

    def end(error: MetricError) -> StopRun:
        guard.errors.fatal = error
        return guard.halt("metric")

    def count(error: Exception) -> None:
        guard.add_error(error, "" if metric.label in str(error) else f"metric {metric.label}: ")

    return _Watched(**{f.name: getattr(metric, f.name) for f in fields(metric)}, end=end, count=count)


@dataclass(frozen=True, repr=False, eq=False)
class _Watched(Metric):
    """The metric, what makes the exception that ends the run, and what hears of all others."""

    end: Callable[[MetricError], StopRun] = lambda error: StopRun("metric")
    count: Callable[[Exception], None] = lambda error: None

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        try:
            score = super().__call__(*arguments, **named)
            if 0 <= float(score) <= 1:
                return score
            raise MetricError(f"metric {self.label} returned {float(score):g}; a score is between 0 and 1")
        except MetricError as error:
            raise self.end(error) from None
        except Exception as error:
            self.count(error)
            raise
