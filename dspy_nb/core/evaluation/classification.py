"""Precision, recall, F1 and the confusion matrix of labelled answers: pure counting, no DSPy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class ClassScore:
    """How well one label is told from the others; a ratio whose denominator is 0 is 0.

    Attributes:
        precision: Of the answers with this label, the share that is right.
        recall: Of the examples with this label, the share that got it.
        f1: The harmonic mean of both.
        support: How many examples have this label.
        predicted: How many answers have it.
    """

    precision: float
    recall: float
    f1: float
    support: int
    predicted: int


@dataclass(frozen=True)
class Confusion:
    """Expected against predicted labels.

    Attributes:
        labels: The labels, sorted.
        matrix: One row per expected and one column per predicted label, both in the order of ``labels``.
        unanswered: For each expected label, how many examples have no answer.
    """

    labels: tuple[str, ...]
    matrix: tuple[tuple[int, ...], ...]
    unanswered: tuple[int, ...]


@dataclass(frozen=True)
class Classification:
    """What a labelled field says beyond the score.

    Attributes:
        field: The field.
        accuracy: The share of the examples whose label is right; one without an answer is wrong.
        per_class: The scores of each label that was expected or predicted.
        macro: Their mean, each label counting the same.
        weighted: Their mean, each label counting by its support.
        confusion: The confusion matrix.
    """

    field: str
    accuracy: float
    per_class: dict[str, ClassScore]
    macro: ClassScore
    weighted: ClassScore
    confusion: Confusion


def classify(field: str, expected: Sequence[str], predicted: Sequence[str | None]) -> Classification:
    """Score labels against labels.

    The numbers are scikit-learn's ``precision_recall_fscore_support`` over the labels that occur on either
    side, with ``zero_division=0``. An example without an answer (``None``) counts against the recall of its
    label, and as no label's prediction.

    Args:
        field: The name of the labelled field.
        expected: At least one label.
        predicted: As many, in the same order.
    """
    pairs = Counter(zip(expected, predicted, strict=True))
    support = Counter(expected)
    answered = Counter(label for label in predicted if label is not None)
    labels = sorted(support.keys() | answered.keys())
    per_class = {
        label: _class_score(pairs[label, label], support[label], answered[label]) for label in labels
    }
    return Classification(
        field,
        accuracy=sum(pairs[label, label] for label in labels) / len(expected),
        per_class=per_class,
        macro=average(per_class, dict.fromkeys(labels, 1)),
        weighted=average(per_class, support),
        confusion=Confusion(
            tuple(labels),
            tuple(tuple(pairs[row, column] for column in labels) for row in labels),
            tuple(pairs[row, None] for row in labels),
        ),
    )


def average(per_class: Mapping[str, ClassScore], weights: Mapping[str, int]) -> ClassScore:
    """Return the weighted mean of precision, recall and F1, and the sums of support and predictions."""
    total = sum(weights.values())

    def mean(name: str) -> float:
        weighted = (getattr(score, name) * weights[label] for label, score in per_class.items())
        return sum(weighted) / total if total else 0.0

    scores = per_class.values()
    return ClassScore(
        mean("precision"),
        mean("recall"),
        mean("f1"),
        sum(score.support for score in scores),
        sum(score.predicted for score in scores),
    )


def _class_score(right: int, support: int, predicted: int) -> ClassScore:
    precision = right / predicted if predicted else 0.0
    recall = right / support if support else 0.0
    f1 = 2 * right / (support + predicted) if support + predicted else 0.0
    return ClassScore(precision, recall, f1, support, predicted)
