"""What an evaluation records of the LM calls behind each answer."""

from __future__ import annotations

import json
from concurrent.futures import ProcessPoolExecutor

import dspy
import pytest
from dspy.lm15 import Message, Response, Usage

from dspy_nb.core.data.metrics import exact_match
from dspy_nb.core.errors import InputError
from dspy_nb.core.evaluation import evaluate as module
from dspy_nb.core.evaluation.evaluate import evaluate
from dspy_nb.core.evaluation.scorecard import Evaluation
from dspy_nb.core.programs.lm_call import LONGEST_TEXT
from tests.scripted import ScriptedEngine, classifier, reviews, scripted_lm

SENTIMENT = exact_match("sentiment")


class Says:
    """Answers the ChatAdapter with one text and the JSONAdapter with another."""

    def __init__(self, chat: str, as_json: str = '{"sentiment": "positive"}', reason: str = "stop") -> None:
        self.chat, self.as_json, self.reason = chat, as_json, reason

    def __deepcopy__(self, memo):
        return self

    def complete(self, request):
        wants_json = "JSON object" in request.messages[-1].parts[-1].text
        return Response(
            id="1",
            model=request.model,
            message=Message.assistant(self.as_json if wants_json else self.chat),
            finish_reason=self.reason,
            usage=Usage(input_tokens=10, output_tokens=5, total_tokens=15),
        )


def test_each_result_holds_what_was_sent_what_came_back_and_what_it_took() -> None:
    found = evaluate(classifier(), reviews(6), SENTIMENT, lm=scripted_lm(name="scripted/calls"))
    for result in found.results:
        (call,) = result.calls
        assert [message["role"] for message in call.messages] == ["system", "user"]
        assert result.inputs["review"] in call.messages[-1]["content"]
        assert result.predicted["sentiment"] in call.output
        assert (call.prompt_tokens, call.completion_tokens, call.usd) == (10, 5, None)
        assert (call.cached, call.truncated, call.second_try, call.lm) == (
            False,
            False,
            False,
            "scripted/calls",
        )
    assert len({id(result.calls[0].messages[0]) for result in found.results}) == 1, "instructions are shared"


def test_a_call_answered_by_the_cache_cost_nothing_nor_does_one_of_an_equal_example() -> None:
    lm = scripted_lm(name="scripted/cached-calls", cache=True)
    evaluate(classifier(), reviews(2), SENTIMENT, lm=lm)
    again = evaluate(classifier(), [*reviews(2), *reviews(2)], SENTIMENT, lm=lm)
    calls = [call for result in again.results for call in result.calls]
    assert len(calls) == 4
    assert {(c.cached, c.prompt_tokens, c.completion_tokens, c.usd) for c in calls} == {(True, 0, 0, 0.0)}
    assert all(call.messages and call.output for call in calls)


def test_a_second_try_of_the_adapter_and_an_answer_that_was_cut_off_are_told() -> None:
    lm = scripted_lm(Says("positive, I should say", reason="length"))
    found = evaluate(classifier(), reviews(2), SENTIMENT, lm=lm)
    assert [[call.second_try for call in result.calls] for result in found.results] == [[False, True]] * 2
    assert found.to_frame()["truncated"].tolist() == [True, True]
    for adapter in (dspy.JSONAdapter(), dspy.XMLAdapter()):
        engine = Says("<sentiment>positive</sentiment>")
        found = evaluate(classifier(), reviews(1), SENTIMENT, lm=scripted_lm(engine), adapter=adapter)
        assert [(call.second_try, call.truncated) for call in found.results[0].calls] == [(False, False)]


def test_an_example_without_an_answer_holds_its_calls_too() -> None:
    found = evaluate(classifier(), reviews(1), SENTIMENT, lm=scripted_lm(Says("no", "no")))
    assert found.errors.kinds == {"AdapterParseError": 1}
    assert [call.output for call in found.results[0].calls] == ["no", "no"]


def test_calls_of_the_metric_are_none_of_the_program() -> None:
    def judge(gold, pred, trace=None):
        return bool(dspy.Predict("text -> verdict")(text=pred.sentiment).verdict)

    with dspy.context(lm=scripted_lm()):
        found = evaluate(classifier(), reviews(2), judge)
    assert [len(result.calls) for result in found.results] == [1, 1]
    assert found.metric_usage.lm_calls == 2


def test_texts_are_kept_of_the_first_examples_and_numbers_of_all(monkeypatch) -> None:
    monkeypatch.setattr(module, "PROMPTS_KEPT", 2)
    found = evaluate(classifier(), reviews(4), SENTIMENT, lm=scripted_lm())
    calls = [result.calls[0] for result in found.results]
    assert [(call.messages is None, call.output is None) for call in calls] == [(False, False)] * 2 + [
        (True, True)
    ] * 2
    assert [call.prompt_tokens for call in calls] == [10] * 4


def test_a_long_text_is_cut_in_the_middle_and_an_image_is_named() -> None:
    example = dspy.Example(
        text="x" * 3 * LONGEST_TEXT, image=dspy.Image("data:image/png;base64," + "A" * 100), label="yes"
    )
    program = dspy.Predict("text, image: dspy.Image -> label")
    found = evaluate(program, [example.with_inputs("text", "image")], exact_match("label"), lm=scripted_lm())
    sent = found.results[0].calls[0].messages[-1]["content"]
    assert len(sent) < LONGEST_TEXT + 100
    assert "characters left out" in sent
    assert "AAAA" not in sent


def test_calls_are_saved_and_loaded_and_files_without_them_are_read(tmp_path) -> None:
    found = evaluate(classifier(), reviews(3), SENTIMENT, lm=scripted_lm())
    file = found.save(tmp_path / "found.json")
    assert Evaluation.load(file).results == found.results
    data = json.loads(file.read_text())
    assert len(data["messages"]) == 4, "instructions are written once"
    with pytest.raises(InputError, match="its LM calls cannot be read"):
        Evaluation.from_dict({**data, "messages": []})
    del data["messages"]
    for result in data["results"]:
        del result["calls"]
    assert [result.calls for result in Evaluation.from_dict(data).results] == [()] * 3


def test_no_secret_that_the_process_knows_is_in_a_recorded_text(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("SHOP_API_KEY", "of-the-environment")
    program = dspy.Predict(dspy.Signature("review -> sentiment", "The key is of-the-environment."))
    program.lm = scripted_lm(Says("[[ ## sentiment ## ]]\nof-the-model"))
    program.lm.api_key = "of-the-model"
    text = evaluate(program, reviews(2), SENTIMENT).save(tmp_path / "found.json").read_text()
    data = json.loads(text)
    calls = str([data["messages"], *(result["calls"] for result in data["results"])])
    assert "of-the-environment" not in calls
    assert "of-the-model" not in calls
    assert "(hidden)" in calls


@pytest.mark.heavy
def test_calls_come_back_from_other_processes(forkserver) -> None:
    lm = scripted_lm(Says("good"), callbacks=[])
    with ProcessPoolExecutor(1, mp_context=forkserver) as pool:
        found = evaluate(classifier(), reviews(3), SENTIMENT, lm=lm, executor=pool)
    assert [len(result.calls) for result in found.results] == [2] * 3
    assert [call.second_try for call in found.results[0].calls] == [False, True]


def test_a_request_that_failed_is_counted_and_leaves_no_call() -> None:
    engine = ScriptedEngine(failing=lambda number, request: ValueError("no") if number == 1 else None)
    found = evaluate(classifier(), reviews(2), SENTIMENT, lm=scripted_lm(engine), num_threads=1)
    assert sorted(len(result.calls) for result in found.results) == [0, 1]
