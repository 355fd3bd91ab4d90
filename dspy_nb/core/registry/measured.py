"""How two versions score against each other: side by side, and example by example where the same were answered."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dspy_nb.core.errors import InputError
from dspy_nb.core.models.version import ModelVersion

if TYPE_CHECKING:
    from dspy_nb.core.evaluation.pairing import Difference, Flip
    from dspy_nb.core.evaluation.scorecard import Evaluation


@dataclass(frozen=True, slots=True)
class ScoreOf:
    """How a version scores, as a list shows it.

    Attributes:
        score: Its score, if one was measured.
        interval: Of the score, if it is known.
        kind: ``test``, ``evaluation`` or ``validation``.
    """

    score: float | None
    interval: tuple[float, float] | None
    kind: str | None


@dataclass(frozen=True, slots=True)
class ClassChange:
    """What became of one class.

    Attributes:
        label: The class.
        support: Examples that are of it.
        recall: Share of these that were answered right, before and after.
        f1: Its F1, before and after.
    """

    label: str
    support: int
    recall: tuple[float, float]
    f1: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Paired:
    """What the evaluations of two versions, stored with them, say of the same examples.

    Attributes:
        difference: Score of the newer less that of the older, with its interval.
        scores: The two scores, of the older and of the newer.
        metric: What scored.
        confidence: Of the interval.
        field: The field whose classes these are; None where no field holds labels.
        classes: What became of each class.
        flips: Examples that one of them scored higher; A is the older.
        right_or_wrong: Whether the metric says right or wrong, so that a flip is something fixed or broken.
    """

    difference: Difference
    scores: tuple[float, float]
    metric: str
    confidence: float
    field: str | None
    classes: tuple[ClassChange, ...]
    flips: tuple[Flip, ...]
    right_or_wrong: bool


@dataclass(frozen=True, slots=True)
class Measured:
    """How an older and a newer version score.

    Attributes:
        a: The older.
        b: The newer.
        paired: The comparison example by example; None if there can be none.
        why_not: Why there is none.
    """

    a: ScoreOf
    b: ScoreOf
    paired: Paired | None
    why_not: str | None

    @property
    def change(self) -> float | None:
        """Score of the newer less that of the older; None where they are not measured on the same kind of data."""
        if self.a.score is None or self.b.score is None or self.a.kind != self.b.kind:
            return None
        return self.b.score - self.a.score


def measure(a: ModelVersion, b: ModelVersion) -> Measured:
    """Compare how two versions score, the older one first.

    Raises:
        Corrupt: A stored evaluation was changed.
    """
    standings = [ScoreOf(version.score, version.interval, version.score_kind) for version in (a, b)]
    paired, why_not = None, None
    try:
        paired = _pair(_stored(a), _stored(b), (b.ref, a.ref))
    except (InputError, ArithmeticError) as error:  # whatever numbers somebody has put there
        why_not = str(error)
    return Measured(standings[0], standings[1], paired, why_not)


def _stored(version: ModelVersion) -> Evaluation:
    """Return the evaluation that is stored with a version.

    Raises:
        InputError: There is none that can be read.
    """
    content = version.evaluation
    if content is None:
        raise InputError(f"{version.ref} has no evaluation stored with it")
    from dspy_nb.core.evaluation.scorecard import Evaluation

    try:
        found = Evaluation.from_dict({**content})
    except InputError as error:
        raise InputError(f"{version.ref} has no whole evaluation stored with it") from error
    total = math.fsum(float(result.score or 0) for result in found.results)
    agree = math.isclose(total, found.n * found.score, abs_tol=1e-6) and found.correct in (None, round(total))
    if found.results and (found.repeats < 1 or not agree):
        raise InputError(f"the evaluation that is stored with {version.ref} contradicts itself")
    return found


def _pair(a: Evaluation, b: Evaluation, names: tuple[str, str]) -> Paired:
    from dspy_nb.core.evaluation.pairing import flips_between, paired_difference

    difference = paired_difference(b, a, names=names)
    return Paired(
        difference,
        (a.score, b.score),
        b.metric,
        b.confidence,
        b.classification.field if b.classification else None,
        tuple(_classes(a, b)),
        tuple(flips_between(b, a)),
        a.correct is not None and b.correct is not None,
    )


def _classes(a: Evaluation, b: Evaluation) -> list[ClassChange]:
    if (
        a.classification is None
        or b.classification is None
        or a.classification.field != b.classification.field
    ):
        return []
    return [
        ClassChange(
            label, new.support, (a.per_class[label].recall, new.recall), (a.per_class[label].f1, new.f1)
        )
        for label, new in b.per_class.items()
        if label in a.per_class
    ]
