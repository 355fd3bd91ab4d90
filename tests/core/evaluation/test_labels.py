"""Labels that the metric counts as the same are one class, in every table."""

from __future__ import annotations

import enum
import unicodedata
import uuid

import dspy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspy_nb.core.data.metrics import accuracy, as_metric, exact_match, partial_credit
from dspy_nb.core.evaluation.evaluate import evaluate
from dspy_nb.core.evaluation.examples import ExampleResult
from dspy_nb.core.evaluation.labels import LabelClasses, is_categorical
from dspy_nb.core.evaluation.summary import classification_of
from dspy_nb.core.pipeline.gate import QualityGate
from dspy_nb.core.programs.usage import Usage

DECOMPOSED = unicodedata.normalize("NFD", "café")
METRICS = [
    exact_match("a"),
    exact_match("a", normalize=False),
    accuracy("a"),
    as_metric(partial_credit("a"), binary=True),
]


class Mood(enum.Enum):
    GOOD = "good"
    BAD = "bad"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


def result(place, expected, answer, metric):
    score = metric(dspy.Example(a=expected), dspy.Prediction(a=answer))
    return ExampleResult(
        index=place,
        repeat=0,
        example_id=str(place),
        inputs={},
        expected={"a": expected},
        predicted={"a": answer},
        score=score,
        scores={metric.label: score},
        latency_ms=0.0,
        cached=False,
        error=None,
        usage=Usage(),
        metric_usage=Usage(),
    )


def table(pairs, metric):
    return classification_of("a", metric, [result(i, *pair, metric) for i, pair in enumerate(pairs)])


def evaluated(golds, answers, metric, **options):
    data = [dspy.Example(n=n, a=label).with_inputs("n") for n, label in enumerate(golds)]
    return evaluate(lambda n: dspy.Prediction(a=answers[n]), data, metric, num_threads=1, **options)


TEXTS = ["café", DECOMPOSED, "CAFÉ ", "tea", "Tea", " tea", "5 o'clock"]
SPELLED = ["4", 4, "4.0", 1, "1", "2", True, "true", "True", uuid.UUID(int=4), str(uuid.UUID(int=4))]
MEMBERS = [Mood.GOOD, "good", "GOOD", Mood.BAD, "Bad", Level.LOW, "LOW", Level.HIGH, "HIGH"]
LABELS = st.sampled_from([*TEXTS, *SPELLED, *MEMBERS])


@given(st.lists(st.tuples(LABELS, LABELS | st.none()), min_size=1, max_size=30))
def test_the_accuracy_of_the_table_is_the_score_of_the_metric(pairs) -> None:
    for metric in METRICS[:3]:
        found = table(pairs, metric)
        right = sum(metric(dspy.Example(a=gold), dspy.Prediction(a=answer)) for gold, answer in pairs)
        assert found.accuracy == right / len(pairs)
        matrix = found.confusion.matrix
        assert sum(matrix[i][i] for i in range(len(matrix))) == right
        assert sum(map(sum, matrix)) + sum(found.confusion.unanswered) == len(pairs)
        assert [score.support for score in found.per_class.values()] == [
            sum(row) + none for row, none in zip(matrix, found.confusion.unanswered, strict=True)
        ]
        assert [score.predicted for score in found.per_class.values()] == [
            sum(column) for column in zip(*matrix, strict=True)
        ]


@given(st.lists(st.text(max_size=3), min_size=1), st.lists(st.text(max_size=3)))
def test_two_texts_are_one_class_if_the_metric_counts_them_as_the_same(labels, answers) -> None:
    for metric in METRICS:
        classes = LabelClasses(metric.same)
        found = [*map(classes.label, labels, labels), *map(classes.add, answers)]
        texts = [*labels, *answers]
        assert len(set(classes.names())) == len(classes.names()) == len(set(found))
        for one, a in zip(found, texts, strict=True):
            for other, b in zip(found, texts, strict=True):
                assert (one == other) == metric.same(a, b)


@pytest.mark.parametrize(
    ("golds", "answers", "names"),
    [
        (["café"] * 6 + ["tea"] * 3, [DECOMPOSED] * 9, ["café", "tea"]),
        (["Yes"] * 4 + ["yes"] * 3 + ["no"] * 2, ["YES"] * 9, ["Yes", "no"]),
        ([Mood.GOOD] * 4 + [Mood.BAD] * 3, ["GOOD", "good"] * 3 + ["Good"], ["bad", "good"]),
        (["GOOD"] * 4 + ["BAD"] * 3, [Mood.GOOD] * 7, ["BAD", "GOOD"]),
        (["4"] * 4 + ["5"] * 3, [4] * 7, ["4", "5"]),
        ([4] * 4 + [5] * 3, ["4", 4.0, "4.0"] + ["4"] * 4, ["4", "5"]),
        (["1"] * 4 + ["0"] * 3, [True] * 7, ["0", "1"]),
    ],
)
def test_answers_are_in_the_class_that_the_metric_counts_them_in(golds, answers, names) -> None:
    ev = evaluated(golds, answers, exact_match("a"))
    assert list(ev.per_class) == names
    assert ev.accuracy == ev.score
    first = max(ev.per_class.values(), key=lambda one: one.predicted)
    assert first.precision == pytest.approx(ev.score * len(golds) / first.predicted)


def test_the_issues_example_has_the_precision_that_the_metric_implies() -> None:
    ev = evaluated(["café"] * 6 + ["tea"] * 3, [DECOMPOSED] * 9, exact_match("a"))
    assert ev.per_class["café"].precision == pytest.approx(6 / 9)
    assert ev.per_class["tea"].recall == 0
    assert ev.confusion.matrix == ((6, 0), (3, 0))


def test_to_the_letter_spellings_stay_apart() -> None:
    strict = exact_match("a", normalize=False)
    found = table([("café", DECOMPOSED), ("Tea", "tea"), ("4", 4), ("tea ", "tea")], strict)
    assert found.accuracy == 0
    assert len(found.per_class) == 7
    assert {"4", "4 (int)", "tea", "'tea'"} < set(found.per_class)


def test_the_most_frequent_text_of_the_data_names_a_class() -> None:
    found = table([("yes", "YES"), ("Yes", "YES"), ("Yes", "YES")], exact_match("a"))
    assert list(found.per_class) == ["Yes"]


def test_slices_by_the_label_are_its_classes() -> None:
    golds = ["café"] * 3 + [DECOMPOSED] * 2 + ["tea"] * 2
    ev = evaluated(golds, ["tea"] * 7, exact_match("a"), by="a")
    assert {name: part.n for name, part in ev.slices.items()} == {"café": 5, "tea": 2}
    assert set(ev.slices) == set(ev.per_class)
    strict = evaluated(golds, ["tea"] * 7, exact_match("a", normalize=False), by="a")
    assert {name: part.n for name, part in strict.slices.items()} == {"café": 3, DECOMPOSED: 2, "tea": 2}


def test_the_floor_of_a_class_may_be_spelled_as_the_metric_accepts() -> None:
    ev = evaluated(["café"] * 6 + ["tea"] * 3, ["café"] * 9, exact_match("a"))
    for spelled in ("café", DECOMPOSED, "Café"):
        check = QualityGate(per_class={spelled: {"recall": 0.5}}).check(ev)
        assert check.passed
    strict = evaluated(["Yes"] * 4 + ["yes"] * 3, ["yes"] * 7, exact_match("a", normalize=False))
    assert not QualityGate(per_class={"Yes": {"recall": 0.5}}).check(strict, raises=False).passed
    assert not QualityGate(per_class={"YES": {"recall": 0.0}}).check(strict, raises=False).passed


def test_spellings_of_a_label_count_as_one_when_labels_are_told_from_free_text() -> None:
    assert is_categorical([Mood.GOOD, Mood.BAD] * 3)
    spelled = ["yes", "Yes", "YES", "no", "No"]
    assert is_categorical(spelled, exact_match("a").same)
    assert not is_categorical(spelled)
