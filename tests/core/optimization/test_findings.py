"""What a run says of the answers behind its scores."""

from __future__ import annotations

import dspy

from dspy_nb.core.data.metrics import exact_match
from dspy_nb.core.events import Completed, Event
from dspy_nb.core.optimization.optimize import optimize
from dspy_nb.core.optimization.run import OptimizationRun
from dspy_nb.views.rendering.text import to_text
from tests.core.evaluation.test_lm_calls import Says
from tests.scripted import classifier, reviews, scripted_lm

SENTIMENT = exact_match("sentiment")


def test_a_run_tells_what_its_calls_its_candidates_and_its_answers_have_in_common(caplog) -> None:
    heard: list[Event] = []
    with dspy.context(lm=scripted_lm(Says("It is positive.", reason="length"))):
        run = optimize(
            classifier(), trainset=reviews(20, "train"), metric=SENTIMENT, valset=reviews(12, "val"),
            optimizer="BootstrapFewShotWithRandomSearch", options={"num_candidate_programs": 2},
            on_event=heard.append,
        )  # fmt: skip
    told = {finding.kind: finding for finding in run.findings}
    assert set(told) == {"truncated", "second_try", "same_scores", "one_class"}
    answered = run.usage.lm_calls + run.usage.cache_hits
    assert (told["truncated"].count, told["truncated"].of) == (answered, answered)
    assert told["second_try"].count * 2 == answered
    assert told["one_class"].where == "search"
    assert told["one_class"].text.startswith(
        "the chosen program, on the examples of the search: all 12 answers"
    )
    (completed,) = [event for event in heard if isinstance(event, Completed)]
    assert completed.findings == tuple(finding.text for finding in run.findings)
    shown = " ".join(to_text(run).split())
    assert all(" ".join(finding.text.split())[1:] in shown for finding in run.findings)


def test_a_run_on_held_out_examples_says_of_which_answers_it_speaks() -> None:
    with dspy.context(lm=scripted_lm(Says("[[ ## sentiment ## ]]\npositive", reason="length"))):
        run = optimize(
            classifier(),
            trainset=reviews(8, "train"),
            metric=SENTIMENT,
            testset=reviews(20, "test"),
            optimizer="LabeledFewShot",
        )
    told = {finding.kind: finding for finding in run.findings}
    assert set(told) == {"truncated", "one_class"}
    assert (told["one_class"].where, told["one_class"].count) == ("after", 20)
    assert told["one_class"].text.startswith("held out, after: all 20 answers are 'positive' (sentiment)")
    assert len(told["truncated"].examples) == 20


def test_a_run_in_which_nothing_stands_out_says_nothing() -> None:
    with dspy.context(lm=scripted_lm()):
        assert _few_shots().findings == ()


def _few_shots() -> OptimizationRun:
    train, test = reviews(20, "train"), reviews(20, "test")
    return optimize(classifier(), trainset=train, metric=SENTIMENT, testset=test, optimizer="LabeledFewShot")
