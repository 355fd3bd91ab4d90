"""The metric as an optimizer gets it: what it returns and raises is looked at, and when it is at work."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any

import dspy

from dspy_nb.core.data.metrics import Metric, MetricError
from dspy_nb.core.errors import NoPrediction
from dspy_nb.core.supervision.guard import GUARD_SETTING, SCORING, Guard
from dspy_nb.core.text import error_text


def ending_on_no_score(metric: Callable[..., Any] | None, guard: Guard) -> Metric | None:
    """Return ``metric`` in a form that stops ``guard`` when it returns what is no score between 0 and 1.

    DSPy would take such a value for a 0, or fail at the very end. Whatever else the metric raises is counted:
    the guard ends a run in which most calls break.
    """
    if metric is None:
        return None
    assert isinstance(metric, Metric)  # the task has seen to it
    return _Watched(**{f.name: getattr(metric, f.name) for f in fields(metric)}, own_guard=guard)


@dataclass(frozen=True, repr=False, eq=False)
class _Watched(Metric):
    """A metric and its guard; where it has travelled to a worker, that is the guard in force there."""

    own_guard: Guard | None = field(kw_only=True)

    def __reduce__(self) -> Any:
        given = {f.name: getattr(self, f.name) for f in fields(Metric)}
        return _unpack, (given,)

    @property
    def guard(self) -> Guard:
        return self.own_guard or dspy.settings.get(GUARD_SETTING)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        outside = SCORING.set(True)
        try:
            with self.guard.busy():
                score = super().__call__(*arguments, **named)
            if 0 <= float(score) <= 1:
                return score
            raise MetricError(f"metric {self.label} returned {float(score):g}; a score is between 0 and 1")
        except MetricError as error:
            self.guard.errors.fatal = error
            raise self.guard.halt("metric") from None
        except NoPrediction:
            raise  # counted when the program returned it
        except Exception as error:
            where = "" if self.label in error_text(error) else f"metric {self.label}: "
            self.guard.add_error(error, where)
            raise
        finally:
            SCORING.reset(outside)


def _unpack(given: dict[str, Any]) -> _Watched:
    return _Watched(**given, own_guard=None)
