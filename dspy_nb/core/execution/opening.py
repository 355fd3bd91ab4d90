"""The first answers of a run: where they show that there will be no score, the others are not paid for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from dspy_nb.core.data.metrics import MetricError
from dspy_nb.core.errors import DspyNbError, NoField, NoPrediction
from dspy_nb.core.execution.attempts import Failure, Job, Outcome


class Opening:
    """Says whether a run is hopeless: nothing has been scored, and enough outcomes tell that nothing will be.

    A metric that fails on the first answer fails on all. A program whose first answers are none, or lack the
    field that is compared, has a mistake too, but a few are waited for: it may have no answer to one example.
    What a program raises tells nothing, for a service may be down for a moment.

    Args:
        names: Of programs that are compared: each has an opening of its own.

    Attributes:
        error: What to raise, once the run is hopeless.
    """

    def __init__(self, names: Sequence[str] = ()) -> None:
        self.error: DspyNbError | None = None
        self._names = names
        self._told: Counter[int] = Counter()
        self._scored: set[int] = set()

    @property
    def undecided(self) -> bool:
        """Whether nothing has been scored yet, of one program at least."""
        return len(self._scored) < max(len(self._names), 1)

    def take(self, job: Job, outcome: Outcome) -> bool:
        """Take note of an outcome; return whether the run is hopeless."""
        program = job.repeat if self._names else 0
        if outcome.scores[0] is not None:
            self._scored.add(program)
        elif (
            outcome.hopeless_after and outcome.failure and program not in self._scored and self.error is None
        ):
            self._told[program] += 1
            if self._told[program] >= outcome.hopeless_after:
                self.error = _error(outcome.failure, self._told[program], self._names[program:][:1])
        return self.error is not None


def _error(failure: Failure, answers: int, name: Sequence[str]) -> DspyNbError:
    """Return what to raise, of the kind that the failure has."""
    what = failure.message
    kinds: dict[str, type[DspyNbError]] = {
        kind.__name__: kind for kind in (NoPrediction, NoField, MetricError)
    }
    if failure.kind not in kinds:
        what = f"the metric fails with {failure.kind}: {what}"
    who = f"{name[0]}: " if name else ""
    first = "the first answer" if answers == 1 else f"all of the first {answers} answers"
    return kinds.get(failure.kind, MetricError)(f"{who}{what} (so with {first}; no others were asked for)")
