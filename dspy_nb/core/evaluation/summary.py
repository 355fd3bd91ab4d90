"""From single results to numbers: means with intervals, errors, latency, usage, slices, classes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence

import dspy

from dspy_nb.core.data.metrics import Metric
from dspy_nb.core.errors import InputError
from dspy_nb.core.evaluation.classification import Classification, classify
from dspy_nb.core.evaluation.examples import ExampleResult
from dspy_nb.core.evaluation.labels import LabelClasses, is_categorical
from dspy_nb.core.evaluation.scorecard import Errors, Latency, MetricScore, Slice
from dspy_nb.core.statistics.means import bca_interval, clustered_interval
from dspy_nb.core.statistics.proportions import wilson_interval

_MESSAGES = 5


def metric_score(
    name: str, results: Sequence[ExampleResult], binary: bool | None, confidence: float, seed: int
) -> MetricScore:
    """Return the mean of one metric; a result without a score counts as 0.

    Args:
        name: The metric.
        results: May be none.
        binary: Whether it says right or wrong; ``None`` if its scores, all 0 or 1, can tell.
        confidence: Of the interval.
        seed: Of the bootstrap.
    """
    scores = [result.scores[name] for result in results]
    answered = [float(score) for score in scores if score is not None]
    values = [0.0 if score is None else float(score) for score in scores]
    if binary is None:
        binary = all(value in (0.0, 1.0) for value in values)
    ids = [result.example_id for result in results]
    return MetricScore(
        name,
        mean(values),
        mean_interval(values, ids, binary, confidence, seed),
        len(values),
        int(sum(values)) if binary else None,
        mean(answered),
    )


def mean_interval(
    values: Sequence[float], ids: Sequence[str], binary: bool, confidence: float, seed: int
) -> tuple[float, float]:
    """Return the interval of a mean of scores in [0, 1].

    Equal inputs are one cluster: answers to the same question say less than answers to as many questions.
    """
    distinct = len(set(ids))
    if distinct == 1 < len(values):
        return bca_interval([mean(values)], confidence)
    if distinct < len(values):
        return clustered_interval(values, ids, confidence, bounds=(0.0, 1.0))
    if binary:
        return wilson_interval(int(sum(values)), len(values), confidence)
    return bca_interval(values, confidence, seed=seed)


def errors_of(results: Sequence[ExampleResult]) -> Errors:
    """Count what went wrong."""
    failed = [(result.index, result.error) for result in results if result.error]
    kinds = Counter(error.kind for _, error in failed)
    return Errors(
        len(failed),
        len(failed) / len(results) if results else 0.0,
        dict(kinds.most_common()),
        tuple(f"example {index}: {error.kind}: {error.message}" for index, error in failed[:_MESSAGES]),
    )


def latency_of(results: Sequence[ExampleResult]) -> Latency | None:
    """Return how long the program took where it had to ask; ``None`` where it never had to.

    Errors are left out: one that comes at once would make the program look fast.
    """
    answered = [result for result in results if result.predicted or not result.error]
    times = sorted(result.latency_ms for result in answered if not result.cached)
    if not times:
        return None
    return Latency(len(times), mean(times), *(quantile(times, share) for share in (0.5, 0.95, 0.99)))


def quantile(ordered: Sequence[float], share: float) -> float:
    """Return a quantile of sorted numbers, interpolated linearly (numpy's default, Hyndman and Fan's 7th)."""
    place = share * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def slices_of(
    results: Sequence[ExampleResult],
    keys: Sequence[str],
    score: Callable[[Sequence[ExampleResult]], MetricScore],
) -> dict[str, Slice]:
    """Return the score of each slice, the largest slice first.

    Args:
        results: What to slice.
        keys: The slice of each example of the data set.
        score: Computes the score of some results.
    """
    groups: dict[str, list[ExampleResult]] = {}
    for result in results:
        groups.setdefault(keys[result.index], []).append(result)
    slices = {}
    for key, group in sorted(groups.items(), key=lambda item: (-len(item[1]), item[0])):
        mean = score(group)
        slices[key] = Slice(mean.score, mean.interval, mean.n, errors_of(group).count)
    return slices


def label_field(label: str | None, metric: Metric, examples: Sequence[dspy.Example]) -> str | None:
    """Return the field whose per-class numbers are wanted, ``None`` if there is none.

    Args:
        label: What the caller asked for.
        metric: Its field, or else the only label of the examples, is taken if it holds labels.
        examples: At least one.

    Raises:
        InputError: An example lacks the field that the caller asked for.
    """
    if label is not None:
        for number, example in enumerate(examples, 1):
            if example.get(label) is None:
                names = ", ".join(map(repr, example.labels().keys())) or "none"
                raise InputError(
                    f"label {label!r}: example {number} has no such value; its labels are {names}"
                )
        return label
    candidates = metric.fields or tuple(examples[0].labels().keys())
    if len(candidates) != 1:
        return None
    values = [example.get(candidates[0]) for example in examples]
    return candidates[0] if is_categorical(values, metric.same) else None


def classification_of(field: str, metric: Metric, results: Sequence[ExampleResult]) -> Classification | None:
    """Return the per-class numbers of a field; ``None`` if there are no results.

    Labels that the metric counts as the same are one class, under the most frequent of their texts; an answer
    that it calls right is in the class of its example, and one that it calls wrong is not. So the accuracy of
    the table is the metric's score, where the metric compares this field alone.
    """
    if not results:
        return None
    classes = LabelClasses(metric.same)
    labels = [result.expected.get(field, result.inputs.get(field)) for result in results]
    expected = [classes.label(label, metric.read(field, label)) for label in labels]
    decides = metric.binary is True and metric.fields == (field,)
    predicted: list[int | None] = []
    for label, result in zip(expected, results, strict=True):
        answer = result.predicted.get(field)
        if decides and result.score is True:  # where None is a value, the answer may be None
            predicted.append(label)
        elif answer is None:
            predicted.append(None)
        else:
            apart = decides and result.score is False
            predicted.append(classes.add(answer, but=label if apart else None))
    names = classes.names()
    return classify(
        field,
        [names[label] for label in expected],
        [None if label is None else names[label] for label in predicted],
    )


def mean(values: Sequence[float]) -> float:
    """Return the mean, NaN of nothing."""
    return math.fsum(values) / len(values) if values else math.nan
