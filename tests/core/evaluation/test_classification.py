"""Per-class numbers, against scikit-learn."""

from __future__ import annotations

from enum import Enum

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from dspy_nb.core.evaluation.classification import classify
from dspy_nb.core.evaluation.labels import is_categorical, label_text

LABELS = st.sampled_from(["angry", "calm", "glad", "sad", "shy"])


@pytest.mark.filterwarnings("ignore:A single label was found")
@given(st.lists(st.tuples(LABELS, LABELS), min_size=1, max_size=60))
def test_numbers_equal_those_of_scikit_learn(pairs) -> None:
    expected, predicted = [list(side) for side in zip(*pairs, strict=True)]
    found = classify("mood", expected, predicted)
    labels = sorted(set(expected) | set(predicted))
    assert list(found.per_class) == labels == list(found.confusion.labels)
    matrix = confusion_matrix(expected, predicted, labels=labels)
    assert [list(row) for row in found.confusion.matrix] == matrix.tolist()
    reference = precision_recall_fscore_support(expected, predicted, labels=labels, zero_division=0)
    ours = [(s.precision, s.recall, s.f1, s.support) for s in found.per_class.values()]
    assert ours == [pytest.approx(row) for row in zip(*reference, strict=True)]
    for how in ("macro", "weighted"):
        average = precision_recall_fscore_support(
            expected, predicted, labels=labels, average=how, zero_division=0
        )
        mean = getattr(found, how)
        assert (mean.precision, mean.recall, mean.f1) == pytest.approx(average[:3])
    right = sum(a == b for a, b in zip(expected, predicted, strict=True))
    assert found.accuracy == right / len(expected)


@given(st.lists(st.tuples(LABELS, st.one_of(st.none(), LABELS)), min_size=1, max_size=40))
def test_every_example_is_in_the_matrix_or_unanswered(pairs) -> None:
    expected, predicted = [list(side) for side in zip(*pairs, strict=True)]
    confusion = classify("mood", expected, predicted).confusion
    assert sum(map(sum, confusion.matrix)) + sum(confusion.unanswered) == len(pairs)


def test_no_answer_counts_against_recall_and_for_no_label() -> None:
    found = classify("mood", ["calm", "calm", "sad"], ["calm", None, "sad"])
    assert found.per_class["calm"].recall == 0.5
    assert found.per_class["calm"].precision == 1.0
    assert found.confusion.unanswered == (1, 0)
    assert found.accuracy == pytest.approx(2 / 3)
    assert list(found.per_class) == ["calm", "sad"]


def test_nothing_answered_scores_zero() -> None:
    found = classify("mood", ["calm", "sad"], [None, None])
    assert found.accuracy == found.macro.f1 == found.weighted.precision == 0.0


@pytest.mark.parametrize(
    ("values", "categorical"),
    [
        (["yes", "no"] * 5, True),
        ([True, False, True, False, True], True),
        ([1, 2, 3] * 3, True),
        ([str(i) for i in range(100)], False),  # all different
        ([str(i % 21) for i in range(100)], False),  # more than 20
        ([str(i % 20) for i in range(100)], True),
        (["yes", "no", "yes", "no"], False),  # not fewer than half
        ([0.5, 0.1] * 5, False),
        ([["yes"], ["no"]] * 5, False),
        ([None, "yes"] * 5, False),
        ([], False),
    ],
)
def test_few_texts_bools_or_ints_are_labels(values, categorical) -> None:
    assert is_categorical(values) is categorical


def test_a_label_is_its_text() -> None:
    class Mood(Enum):
        CALM = "calm"

    assert [label_text(value) for value in (1, " 1 ", True, Mood.CALM)] == ["1", "1", "True", "calm"]
