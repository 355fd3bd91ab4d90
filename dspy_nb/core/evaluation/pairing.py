"""Two evaluations of the same examples, compared example by example."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dspy_nb.core.errors import InputError
from dspy_nb.core.evaluation.scorecard import Evaluation
from dspy_nb.core.evaluation.summary import mean
from dspy_nb.core.statistics.means import bca_interval, clustered_interval
from dspy_nb.core.statistics.proportions import paired_difference_interval


@dataclass(frozen=True)
class Flip:
    """An example on which the two differ.

    Attributes:
        index: Its place in the data set, from 0.
        inputs: What both were given.
        expected: The labels.
        a: The fields of A's answer; empty if it failed.
        b: Those of B's.
        difference: Score of B less that of A: positive where B fixed something, negative where it broke it.
    """

    index: int
    inputs: dict[str, Any]
    expected: dict[str, Any]
    a: dict[str, Any]
    b: dict[str, Any]
    difference: float


@dataclass(frozen=True)
class Difference:
    """What an evaluation scored more than another one, on the same examples.

    Attributes:
        difference: Score minus reference score, in [-1, 1].
        interval: Of the difference. It is paired: both answered the same examples.
        better: Examples that scored higher than in the reference.
        worse: Examples that scored lower.
        n: Examples with different inputs.
    """

    difference: float
    interval: tuple[float, float]
    better: int
    worse: int
    n: int

    @property
    def verdict(self) -> str:
        """What the interval allows to say: "better", "worse" or "no clear difference"."""
        if self.interval[0] > 0:
            return "better"
        return "worse" if self.interval[1] < 0 else "no clear difference"


def paired_difference(
    evaluation: Evaluation,
    reference: Evaluation,
    *,
    names: tuple[str, str] = ("the evaluation", "the reference"),
) -> Difference:
    """Compare two evaluations of the same data, aligned by the identity of the examples.

    The order of the data set does not matter; repeats of an example are averaged first. The interval is
    Tango's where both score each example once as right or wrong, BCa's for graded scores, and clustered
    where inputs occur more than once.

    Args:
        evaluation: What is judged; its confidence is that of the interval.
        reference: What it is compared with.
        names: What the two are called in errors.

    Raises:
        InputError: The two differ in their data or in their metric, or one is not complete or holds no
            single results.
    """
    _check(evaluation, reference, names)
    confidence = evaluation.confidence
    new, old = _scores(evaluation), _scores(reference)
    differences = {key: mean(new[key]) - mean(old[key]) for key in new}
    better = sum(value > 0 for value in differences.values())
    worse = sum(value < 0 for value in differences.values())
    # An input that occurs k times counts k times, as it does in both scores.
    copies = {key: len(scores) // evaluation.repeats for key, scores in new.items()}
    values = [value for key, value in differences.items() for _ in range(copies[key])]
    keys = [key for key in differences for _ in range(copies[key])]
    once = evaluation.repeats == reference.repeats == 1 and len(differences) == len(values)
    if once and evaluation.correct is not None and reference.correct is not None:
        both = evaluation.correct - better
        neither = len(values) - both - better - worse
        interval = paired_difference_interval(both, better, worse, neither, confidence)
    elif 1 < len(differences) < len(values):
        interval = clustered_interval(values, keys, confidence)
    else:
        interval = bca_interval(differences.values(), confidence, bounds=(-1.0, 1.0), seed=evaluation.seed)
    return Difference(mean(values), interval, better, worse, len(differences))


def flips_between(evaluation: Evaluation, reference: Evaluation) -> list[Flip]:
    """Return the examples that one of two evaluations scored higher than the other; the reference is A.

    Of the repeats of an example the first one is shown. The two are such as ``paired_difference`` compares.
    """
    new, old = _scores(evaluation), _scores(reference)
    shown = {result.example_id: result for result in reversed(reference.results)}
    flips: dict[str, Flip] = {}
    for result in evaluation.results:
        key = result.example_id
        difference = mean(new[key]) - mean(old[key])
        if difference and key not in flips:
            was = shown[key].predicted
            flips[key] = Flip(result.index, result.inputs, result.expected, was, result.predicted, difference)
    return [*flips.values()]


def _check(evaluation: Evaluation, reference: Evaluation, names: tuple[str, str]) -> None:
    name, other = names
    if evaluation.data_fingerprint != reference.data_fingerprint:
        raise InputError(
            f"{other} was evaluated on other data: {_data(reference)}, not {_data(evaluation)}; "
            "evaluate both on the same examples"
        )
    if evaluation.metric != reference.metric:
        raise InputError(f"{other} was scored with {reference.metric}, not with {evaluation.metric}")
    for what, one in ((name, evaluation), (other, reference)):
        if not one.complete:
            raise InputError(f"{what} is partial: {one.n:,} of {one.n_planned:,} examples were finished")
        if len(one.results) != one.n:
            raise InputError(f"{what} holds no single results: it was stored without them")
    if _scores(evaluation).keys() != _scores(reference).keys():
        raise InputError(f"{other} says that it was evaluated on the same data, and holds other examples")


def _data(evaluation: Evaluation) -> str:
    return f"{evaluation.n_examples:,} examples with fingerprint {evaluation.data_fingerprint[:12]}"


def _scores(evaluation: Evaluation) -> Mapping[str, list[float]]:
    scores: dict[str, list[float]] = {}
    for result in evaluation.results:
        scores.setdefault(result.example_id, []).append(float(result.score or 0))
    return scores
