"""The examples behind a number: filters, classes, flips, and the table as a data frame."""

from __future__ import annotations

from dataclasses import replace

import dspy
import pytest

import dspy_nb as nb
from dspy_nb.core.evaluation.examples import ExampleTable
from tests.scripted import ScriptedEngine, classifier, reviews, scripted_lm


def _fails_on_3(number: int, request: object) -> BaseException | None:
    return RuntimeError("down") if "item 3 " in str(request) else None


@pytest.fixture(scope="module")
def compared() -> nb.Comparison:
    """A is fooled by some reviews, B has a demo and is not; both fail on review 3."""
    taught = classifier()
    taught.demos = reviews(1, "demo")
    with dspy.context(lm=scripted_lm(ScriptedEngine(failing=_fails_on_3))):
        return nb.compare(
            classifier(), taught, reviews(30), nb.exact_match("sentiment"), sequential=False, num_threads=1
        )


@pytest.fixture(scope="module")
def evaluation() -> nb.Evaluation:
    with dspy.context(lm=scripted_lm(ScriptedEngine(failing=_fails_on_3))):
        return nb.evaluate(classifier(), reviews(30), nb.exact_match("sentiment"), num_threads=1)


def places(table: ExampleTable) -> set[int]:
    return {row[0].index for row in table}


def test_wrong_ones_are_those_without_a_full_score_and_errors_are_among_them(evaluation) -> None:
    wrong, errors = evaluation.examples(wrong=True), evaluation.examples(errors=True)
    assert len(wrong) == 30 - evaluation.correct
    assert places(errors) == {3} < places(wrong)
    assert (wrong.total, wrong.filters) == (30, ("wrong",))
    assert len(evaluation.examples()) == 30


def test_filters_that_are_given_together_must_all_fit(evaluation) -> None:
    chosen = evaluation.examples(wrong=True, label="Positive", answer="negative")
    assert len(chosen) > 0
    assert all(r.expected["sentiment"] == "positive" for (r,) in chosen)
    assert all(r.predicted["sentiment"] == "negative" for (r,) in chosen)
    assert chosen.filters == ("wrong", "label positive", "answer negative")
    assert evaluation.examples(label="positive").classes("predicted").keys() == {"positive", "negative"}


def test_flips_are_those_of_the_comparison(compared) -> None:
    assert places(compared.examples(flips="fixed")) == {flip.index for flip in compared.fixed}
    assert places(compared.examples(flips="broken")) == {flip.index for flip in compared.broken}
    assert places(compared.examples(flips="any")) == {flip.index for flip in compared.flips}
    for a, b in compared.examples(flips="fixed"):
        assert (a.score, b.score) == (False, True)


@pytest.mark.parametrize(
    ("filters", "says"),
    [
        ({"label": "neutral"}, "label: there is no 'neutral'; there are negative, positive"),
        ({"answer": 4}, "answer: there is no 4; there are negative, positive"),
        ({"flips": "fixed"}, "flips: this is about one program; a comparison of two has flips"),
        ({"flips": "lost"}, "flips is one of fixed, broken, any, not 'lost'"),
    ],
)
def test_a_filter_that_cannot_fit_says_what_there_is(evaluation, filters, says) -> None:
    with pytest.raises(nb.InputError) as raised:
        evaluation.examples(**filters)
    assert str(raised.value) == says


def test_where_no_field_holds_classes_there_is_nothing_to_choose_by() -> None:
    data = [dspy.Example(q=f"q{i}", a=f"a{i}").with_inputs("q") for i in range(4)]
    found = nb.evaluate(lambda q: {"a": q}, data, nb.exact_match("a"))
    with pytest.raises(nb.InputError, match="label: no field of these examples holds classes"):
        found.examples(label="a1")


def test_the_frame_has_everything_of_the_rows_that_fit(evaluation, compared) -> None:
    frame = evaluation.examples(wrong=True).to_frame()
    assert list(frame["predicted_sentiment"].dropna()) == [
        r.predicted["sentiment"] for (r,) in evaluation.examples(wrong=True) if r.predicted
    ]
    assert evaluation.to_frame().equals(evaluation.examples().to_frame())
    flips = compared.examples(flips="fixed").to_frame()
    assert list(flips["difference"]) == [1.0] * len(compared.fixed)
    assert {"review", "sentiment", "a_sentiment", "b_sentiment", "a_score", "b_error"} <= set(flips.columns)


def test_rows_are_matched_by_their_places_and_what_one_program_lacks_is_left_out(evaluation) -> None:
    turned = replace(evaluation, results=tuple(reversed(evaluation.results[1:])))
    table = ExampleTable.of("t", {"A": evaluation.results, "B": turned.results})
    assert places(table) == set(range(1, 30))
    assert all(a.example_id == b.example_id for a, b in table)


def test_an_evaluation_that_was_stored_without_its_examples_says_so(evaluation) -> None:
    table = replace(evaluation, results=()).examples()
    assert len(table) == 0
    assert "stored without its single examples" in table.report()
