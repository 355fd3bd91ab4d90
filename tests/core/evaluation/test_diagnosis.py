"""What stands out in the answers behind a score, and what is no finding."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from enum import Enum
from typing import Any

import dspy
import pytest

from dspy_nb.core.data.metrics import exact_match
from dspy_nb.core.evaluation.diagnosis import diagnose, diagnose_candidates, diagnose_errors
from dspy_nb.core.evaluation.evaluate import evaluate
from dspy_nb.core.evaluation.examples import ExampleResult
from dspy_nb.core.evaluation.scorecard import Evaluation
from dspy_nb.core.events import Evaluated
from dspy_nb.core.programs.usage import Usage
from tests.core.evaluation.test_lm_calls import Says
from tests.scripted import classifier, reviews, scripted_lm


def results(
    *rows: tuple[dict[str, Any], dict[str, Any]], metric: str = "exact_match('label')"
) -> list[ExampleResult]:
    """Results with these labels and answers, right where both are equal."""
    return [
        ExampleResult(
            i, 0, str(i), {"text": f"text {i}"}, expected, predicted, right := expected == predicted,
            {metric: right}, 1.0, False, None, Usage(), Usage(),
        )
        for i, (expected, predicted) in enumerate(rows)
    ]  # fmt: skip


def labelled(expected: list[Any], predicted: list[Any]) -> list[ExampleResult]:
    pairs = zip(expected, predicted, strict=True)
    return results(*(({"label": e}, {"label": p}) for e, p in pairs))


def kinds(found: Any) -> list[str]:
    return [finding.kind for finding in found]


class Topic(Enum):
    ABBR = "abbr"
    NUM = "num"


# -- one class ----------------------------------------------------------------------------------------------------


def test_answers_nearly_all_of_one_class_are_told_with_the_examples_behind_them() -> None:
    expected = ["ABBR", "DESC", "ENTY", "HUM", "LOC"] * 8
    (found,) = diagnose(labelled(expected, ["ABBR"] * 35 + ["DESC"] * 5))
    assert (found.kind, found.count, found.of) == ("one_class", 35, 40)
    assert found.text == "35 of 40 answers are 'ABBR' (label), although that is right for 8 of 40"
    assert 0 not in found.examples
    assert found.examples[:3] == (1, 2, 3)


@pytest.mark.parametrize(
    ("expected", "said"),
    [
        ([True, False] * 10, True),
        ([True, False] * 10, "true"),
        ([1, 2, 3, 4] * 10, 3),
        ([1, 2, 3, 4] * 10, "3"),
        (["abbr", "num"] * 10, Topic.ABBR),
        ([Topic.ABBR, Topic.NUM] * 10, "ABBR"),
        (["yes", "no"] * 10, "maybe"),
    ],
)
def test_a_class_is_known_whatever_its_type(expected, said) -> None:
    assert "one_class" in kinds(diagnose(labelled(expected, [said] * len(expected))))


@pytest.mark.parametrize(
    ("expected", "predicted"),
    [
        (["yes"] * 36 + ["no"] * 4, ["yes"] * 40),  # unbalanced by nature
        (["yes"] * 4 + ["no"] * 4, ["yes"] * 8),  # a handful
        (["yes", "no"] * 10, ["yes", "no"] * 10),
        (["yes", "no"] * 10, ["yes"] * 13 + ["no"] * 7),
        (["yes"] * 20, ["yes"] * 20),
    ],
)
def test_classes_that_are_unbalanced_and_few_examples_give_no_finding(expected, predicted) -> None:
    assert diagnose(labelled(expected, predicted)) == ()


def test_a_field_among_several_and_a_field_of_another_name_are_seen() -> None:
    two = [({"topic": t, "tone": "calm"}, {"topic": "a", "tone": "calm"}) for t in "abcd" * 10]
    assert kinds(diagnose(results(*two))) == ["one_class"]
    named = [({"label": t}, {"reasoning": f"because {i}", "answer": "a"}) for i, t in enumerate("abcd" * 10)]
    assert "one_class" in kinds(diagnose(results(*named, metric="mine")))


def test_free_text_that_is_always_the_same_is_told_with_and_without_labels() -> None:
    assert "same_answer" in kinds(
        diagnose(labelled([f"text {i}" for i in range(20)], ["I cannot say."] * 20))
    )
    judged = [({}, {"summary": "A summary."}) for _ in range(20)]
    assert kinds(diagnose([*results(*judged, metric="judge")]))[0] == "same_answer"


# -- fields and metrics -------------------------------------------------------------------------------------------


def test_answers_that_differ_in_case_or_white_space_alone_are_told() -> None:
    expected = ["Positive", "Negative"] * 10
    (found,) = diagnose(labelled(expected, [f" {label.lower()}." for label in expected]))
    assert (found.kind, found.count) == ("spelling", 20)
    assert "('positive.' for 'Positive')" in found.text
    # with another field wrong for a reason of its own, spelling explains nothing
    both = [({"a": "X", "b": str(i)}, {"a": "x", "b": "wrong"}) for i in range(20)]
    assert "spelling" not in kinds(diagnose(results(*both, metric="exact_match('a', 'b')")))
    # and it does where it is not known which field counts
    both = [({"a": f"X{i}", "b": str(i)}, {"a": f"x{i}", "b": str(i % 7)}) for i in range(20)]
    assert "spelling" in kinds(diagnose(results(*both, metric="mine")))


def test_a_field_that_is_missing_or_empty_is_told() -> None:
    rows = [({"label": str(i % 5)}, {"answer": str(i % 3), "other": str(i)}) for i in range(20)]
    assert kinds(diagnose(results(*rows))) == ["missing_field"]
    for nothing in (None, "", "  ", []):
        empty = diagnose(labelled(["a", "b"] * 10, [nothing] * 20))
        assert kinds(empty) == ["empty_field"], nothing
    assert diagnose(labelled([None] * 20, [None] * 20)) == ()
    # what a data set knows besides is no field of the answers
    more = [({"label": str(i % 5), "source": "web"}, {"label": str(i % 5)}) for i in range(20)]
    right = [replace(result, score=True, scores={"mine": True}) for result in results(*more)]
    assert diagnose(right) == ()


def test_a_metric_that_fails_and_errors_of_one_kind_are_told() -> None:
    def metric(gold, pred, trace=None):
        if "item 1" in gold.review:
            raise OSError("the judge is down")
        return True

    data = reviews(20)
    lm = scripted_lm()
    found = evaluate(classifier(), data, metric, lm=lm, num_threads=1)
    (failing,) = found.findings
    assert (failing.kind, failing.count, failing.of, failing.examples[0]) == ("metric", 11, 20, 1)
    assert "the judge is down" in failing.text

    def program(review: str):
        if "good" in review:
            raise ValueError("too good")
        return {"sentiment": "negative"}

    found = evaluate(program, data, exact_match("sentiment"))
    assert kinds(found.findings) == ["errors"]
    assert found.findings[0].text.startswith("10 of 20 examples failed with ValueError: too good")


def test_scores_that_are_all_0_are_told_where_nothing_else_explains_them() -> None:
    assert kinds(diagnose(labelled([str(i) for i in range(20)], [str(i + 1) for i in range(20)]))) == [
        "all_wrong"
    ]


# -- what the language model did ----------------------------------------------------------------------------------


def test_second_tries_and_cut_off_answers_are_counted_and_dspy_warns_of_none_of_them(caplog) -> None:
    lm = scripted_lm(Says("It is positive", reason="length"), name="scripted/short")
    heard: list[Evaluated] = []
    with caplog.at_level(logging.WARNING):
        found = evaluate(classifier(), reviews(12), exact_match("sentiment"), lm=lm, on_event=heard.append)
    assert "truncated" not in caplog.text
    told = {finding.kind: finding for finding in found.findings}
    assert told["truncated"].text == (
        "on all 12 examples the answer of scripted/short was cut off by the limit of tokens after 5 tokens; "
        "give the LM max_tokens=10"
    )
    assert told["second_try"].text.startswith(
        "on all 12 examples the answer was not in the adapter's format, so DSPy asked again with JSONAdapter: "
        "24 LM calls instead of 12, twice as many; dspy.configure(adapter=dspy.JSONAdapter()) asks once"
    )
    assert heard[-1].findings == tuple(finding.text for finding in found.findings)
    assert kinds(Evaluation.from_dict(json.loads(json.dumps(found.to_dict()))).findings) == kinds(
        found.findings
    )
    assert {one["kind"] for one in found.to_dict(results=False)["findings"]} >= {"truncated", "second_try"}


def test_a_program_that_asks_its_predictor_twice_has_no_second_try() -> None:
    class Twice(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.ask = classifier()

        def forward(self, review: str):
            self.ask(review=f"{review}!")
            return self.ask(review=review)

    found = evaluate(Twice(), reviews(12), exact_match("sentiment"), lm=scripted_lm())
    assert [len(result.calls) for result in found.results] == [2] * 12
    assert "second_try" not in kinds(found.findings)


# -- candidates ---------------------------------------------------------------------------------------------------


def test_candidates_that_all_score_the_same_are_told() -> None:
    (found,) = diagnose_candidates([(0.45, 20)] * 7)
    assert found.text.startswith("all 7 candidates score 45.0%: nothing tells them apart")
    assert "nothing to learn from" in diagnose_candidates([(0.0, 20)] * 2)[0].text
    assert "harder ones" in diagnose_candidates([(1.0, 20)] * 2)[0].text
    for scored in ([(0.4, 20), (0.5, 20)], [(0.4, 20)] * 2, [(0.0, 20)], [(0.0, 2)] * 5, []):
        assert diagnose_candidates(scored) == ()


def test_errors_of_a_search_that_are_of_one_kind_are_told() -> None:
    (found,) = diagnose_errors({"Timeout": 9, "KeyError": 1}, {"Timeout": "no answer within 2 s"})
    assert found.text == "9 of 10 errors are Timeout: no answer within 2 s (give more time: timeout_s=…)"
    assert diagnose_errors({"Timeout": 2}, {}) == diagnose_errors({"A": 1, "B": 1, "C": 1}, {}) == ()
    assert diagnose_errors({}, {}) == ()
