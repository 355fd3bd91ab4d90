"""Candidates keep the examples that the search scored them on, and not without a limit."""

from __future__ import annotations

import dspy
import pytest

import dspy_nb as nb
from dspy_nb.core.supervision import candidates
from dspy_nb.core.supervision.candidates import Prompt, Recorder
from tests.scripted import classifier, reviews, scripted_lm


@pytest.mark.parametrize(
    ("optimizer", "options"),
    [
        ("BootstrapFewShotWithRandomSearch", {"num_candidate_programs": 1}),
        pytest.param("SIMBA", {"bsize": 6, "num_candidates": 2, "max_steps": 1}, marks=pytest.mark.heavy),
    ],
)
def test_the_examples_of_a_candidate_are_those_that_gave_its_score(optimizer, options) -> None:
    sets = {"trainset": reviews(8, "train")} | ({} if optimizer == "SIMBA" else {"valset": reviews(6, "val")})
    with dspy.context(lm=scripted_lm()):
        run = nb.optimize(
            classifier(), metric=nb.exact_match("sentiment"), optimizer=optimizer, options=options, **sets
        )
    full = [candidate for candidate in run.candidates if candidate.full]
    assert full
    for candidate in full:
        results = [result for (result,) in candidate.examples()]
        assert results
        if optimizer != "SIMBA":  # which scores an example again and again
            assert sum(result.score for result in results) / len(results) == candidate.score
            assert [result.index for result in results] == list(range(6))
    assert "\n" not in str(run.candidates[0])
    assert str(run.candidates).count("<Candidate") == len(run.candidates)


def scored(recorder: Recorder, program: dspy.Module, examples: list[dspy.Example], answer: str, score: float):
    prompt = Prompt.of(program)
    recorder.add(prompt, score, len(examples))
    recorder.keep(prompt, [(one, dspy.Prediction(sentiment=answer), score) for one in examples])


def program(instructions: str) -> dspy.Module:
    return dspy.Predict(dspy.Signature("review -> sentiment", instructions))


def test_a_score_on_the_whole_set_replaces_minibatches_and_stays() -> None:
    data = reviews(4)
    recorder = Recorder(classifier(), 4, examples=data)
    one = program("one")
    scored(recorder, one, data[2:], "early", 0.0)
    scored(recorder, one, data, "whole", 1.0)
    scored(recorder, one, data[:1], "late", 0.0)
    (found,) = recorder.with_examples()
    assert [(s.place, s.answer["sentiment"]) for s in found.scored] == [(i, "whole") for i in range(4)]


def test_a_candidate_without_an_answer_has_an_error_there() -> None:
    data = reviews(2)
    recorder = Recorder(classifier(), 2, examples=data)
    prompt = Prompt.of(program("one"))
    recorder.add(prompt, 0.0, 2)
    recorder.keep(prompt, [(one, dspy.Prediction(), 0.0) for one in data])
    (found,) = recorder.with_examples()
    assert len(found.examples(errors=True)) == 2


def test_where_the_answers_are_too_long_the_worst_candidates_keep_none(monkeypatch) -> None:
    monkeypatch.setattr(candidates, "_MOST_KEPT", 1000)
    data = reviews(4)
    recorder = Recorder(classifier(), 4, examples=data)
    for number, score in enumerate((0.5, 0.25, 1.0, 0.75)):
        scored(recorder, program(f"p{number}"), data, "x" * 100, score)
    assert [len(found.scored) for found in recorder.with_examples()] == [0, 0, 4, 4]
    poor = recorder.with_examples()[0]
    assert "were not kept" in poor.report()
    assert "were not kept" in poor.examples().report()
