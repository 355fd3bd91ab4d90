"""What evaluate() reports, and what it refuses."""

from __future__ import annotations

import json
import math
import threading

import dspy
import numpy as np
import pytest

from dspy_nb.core.data.metrics import MetricError, exact_match, token_f1
from dspy_nb.core.errors import InputError
from dspy_nb.core.evaluation.evaluate import evaluate
from dspy_nb.core.evaluation.scorecard import Evaluation
from dspy_nb.core.statistics.means import bca_interval, clustered_interval
from dspy_nb.core.statistics.proportions import wilson_interval
from tests.scripted import ScriptedEngine, classifier, reviews, scripted_lm

SENTIMENT = exact_match("sentiment")


def examples(n: int, **labels) -> list[dspy.Example]:
    fields = labels or {"answer": lambda i: "even" if i % 2 == 0 else "odd"}
    return [
        dspy.Example(number=i, **{name: value(i) for name, value in fields.items()}).with_inputs("number")
        for i in range(n)
    ]


def parity(number: int) -> dspy.Prediction:
    """Wrong on every third number."""
    right = "even" if number % 2 == 0 else "odd"
    wrong = "odd" if number % 2 == 0 else "even"
    return dspy.Prediction(answer=wrong if number % 3 == 0 else right)


# -- scores and intervals --------------------------------------------------------------------------------


def test_a_metric_that_says_right_or_wrong_has_wilsons_interval() -> None:
    ev = evaluate(parity, examples(60), exact_match("answer"))
    assert (ev.score, ev.correct, ev.n) == (pytest.approx(40 / 60), 40, 60)
    assert ev.interval == wilson_interval(40, 60)
    assert ev.complete
    assert ev.reliable
    assert ev.score_without_errors == ev.score


def test_the_acceptance_value_of_wilsons_interval_comes_out() -> None:
    ev = evaluate(lambda number: dspy.Prediction(answer="a" if number < 81 else "b"),
                  examples(263, answer=lambda i: "a"), exact_match("answer"))  # fmt: skip
    assert ev.interval == pytest.approx((0.255289, 0.366210), abs=1e-6)
    ev = evaluate(lambda number: dspy.Prediction(answer="b"), examples(20, answer=lambda i: "a"),
                  exact_match("answer"))  # fmt: skip
    assert ev.interval == pytest.approx((0, 0.161125), abs=1e-6)


def test_a_metric_that_grades_has_a_bootstrap_interval_that_the_seed_repeats() -> None:
    def graded(example, prediction, trace=None):
        return (example.number % 7) / 7

    data = examples(50)
    ev = evaluate(parity, data, graded, seed=3)
    assert ev.correct is None
    assert ev.interval == bca_interval([(i % 7) / 7 for i in range(50)], 0.95, seed=3)
    assert evaluate(parity, data, graded, seed=3).interval == ev.interval
    assert evaluate(parity, data, graded, confidence=0.5).interval[0] > ev.interval[0]


def test_scores_of_zero_and_one_are_right_or_wrong_whatever_their_type() -> None:
    ev = evaluate(parity, examples(30), lambda gold, pred: float(gold.answer == pred.answer))
    assert ev.correct == 20
    assert ev.interval == wilson_interval(20, 30)


def test_several_metrics_are_scored_in_one_pass() -> None:
    engine = ScriptedEngine()
    ev = evaluate(
        classifier(),
        reviews(20),
        {"right": SENTIMENT, "words": token_f1("sentiment")},
        lm=scripted_lm(engine),
    )
    assert engine.calls == 20
    assert list(ev.metrics) == ["right", "words"]
    assert ev.metric == "right"
    assert ev.metrics["right"].score == ev.score
    assert ev.metrics["words"].interval != (0, 0)
    assert ev.results[0].scores.keys() == {"right", "words"}
    assert list(evaluate(parity, examples(6), [exact_match("answer"), token_f1("answer")]).metrics) == [
        "exact_match('answer')",
        "token_f1('answer')",
    ]


# -- errors ----------------------------------------------------------------------------------------------


def test_errors_are_failures_in_the_score_and_shown_beside_it() -> None:
    def flaky(number: int) -> dspy.Prediction:
        if number < 7:
            raise ValueError(f"cannot do\n{number}")
        return dspy.Prediction(answer="even" if number % 2 == 0 else "odd")

    ev = evaluate(flaky, examples(50), exact_match("answer"))
    assert (ev.n, ev.correct, ev.errors.count, ev.errors.rate) == (50, 43, 7, 0.14)
    assert ev.score == 43 / 50
    assert ev.score_without_errors == 1.0
    assert ev.errors.kinds == {"ValueError": 7}
    assert ev.errors.messages[0] == "example 0: ValueError: cannot do 0"
    assert len(ev.errors.messages) == 5
    assert not ev.reliable
    assert evaluate(flaky, examples(50), exact_match("answer"), max_error_rate=0.2).reliable
    assert ev.results[0].score is None
    assert ev.results[0].error.kind == "ValueError"
    assert ev.results[0].predicted == {}
    assert "NOT RELIABLE" in ev.report()
    assert "7 ValueError" in ev.report()
    assert ev.worst(8)[:7] == list(ev.results[:7])


def test_errors_of_the_language_model_are_named() -> None:
    engine = ScriptedEngine(
        failing=lambda number, request: RuntimeError("down") if "item 3 " in str(request.messages) else None
    )
    ev = evaluate(classifier(), reviews(10), SENTIMENT, lm=scripted_lm(engine))
    assert ev.errors.count == 1
    assert "LMUnexpectedError" in ev.errors.messages[0]
    assert "down" in ev.errors.messages[0]


@pytest.mark.parametrize("returned", [None, math.nan, "right", [1], 85.0, -0.5])
def test_a_metric_that_returns_no_score_ends_the_evaluation_at_the_first_answer(returned) -> None:
    asked = []

    def program(number: int) -> dspy.Prediction:
        asked.append(number)
        return parity(number)

    def broken(gold, pred, trace=None):
        return returned

    with pytest.raises(
        MetricError, match=r"metric broken returned .* \(so with the first answer; no others"
    ) as error:
        evaluate(program, examples(40), broken, num_threads=1)
    assert "\n" not in str(error.value)
    assert len(asked) == 1


@pytest.mark.parametrize("returned", [None, math.nan, "right", [1], 85.0, -0.5])
def test_a_metric_that_returns_no_score_later_on_is_an_error_of_those_examples(returned) -> None:
    def broken(gold, pred, trace=None):
        return 1.0 if gold.number == 0 else returned

    ev = evaluate(parity, examples(5), broken, num_threads=1)
    assert ev.errors.kinds == {"MetricError": 4}
    assert "metric broken returned" in ev.errors.messages[0]
    assert not ev.reliable
    assert ev.score == 0.2
    assert ev.score_without_errors == 1.0
    assert [result.score for result in ev.results] == [1.0] + [None] * 4


@pytest.mark.parametrize(
    ("returned", "score"),
    [
        (np.True_, True),
        (np.float32(0.5), 0.5),
        (dspy.Prediction(score=0.25, feedback="so so"), 0.25),
        (1, 1.0),
    ],
)
def test_a_metric_may_return_numpy_values_and_predictions(returned, score) -> None:
    ev = evaluate(parity, examples(4), lambda gold, pred, trace=None: returned)
    assert ev.errors.count == 0
    assert ev.score == float(score)
    assert [type(result.score) for result in ev.results] == [type(score)] * 4


def test_a_second_metric_that_fails_leaves_the_first_score_alone() -> None:
    def broken(gold, pred, trace=None):
        raise ZeroDivisionError("oh")

    ev = evaluate(parity, examples(9), [exact_match("answer"), broken])
    assert ev.score == ev.score_without_errors == pytest.approx(6 / 9)
    assert ev.errors.count == 9
    assert ev.errors.messages[0] == "example 0: ZeroDivisionError: broken: oh"
    assert ev.metrics["broken"].score == 0.0


# -- labels and slices -----------------------------------------------------------------------------------


def test_a_labelled_field_gets_per_class_numbers() -> None:
    ev = evaluate(parity, examples(60), exact_match("answer"))
    assert ev.classification.field == "answer"
    assert ev.per_class["even"].support == 30
    assert ev.accuracy == ev.score
    assert ev.confusion.labels == ("even", "odd")
    assert ev.macro.f1 == pytest.approx(2 / 3)
    assert ev.weighted.recall == pytest.approx(ev.accuracy)
    assert "macro average" in ev.report()


def test_free_text_gets_none() -> None:
    ev = evaluate(parity, examples(60, answer=lambda i: f"answer {i}"), exact_match("answer"))
    assert ev.classification is None
    assert ev.per_class == {}
    assert ev.accuracy is ev.macro is ev.weighted is ev.confusion is None


def test_the_only_label_is_used_for_a_function_and_any_field_can_be_asked_for() -> None:
    data = examples(20, answer=lambda i: "even" if i % 2 == 0 else "odd")
    assert evaluate(parity, data, lambda gold, pred: True).classification.field == "answer"
    two = examples(20, answer=lambda i: "even" if i % 2 == 0 else "odd", size=lambda i: i)
    assert evaluate(parity, two, lambda gold, pred: True).classification is None
    assert evaluate(parity, two, lambda gold, pred: True, label="answer").classification.field == "answer"
    with pytest.raises(
        InputError, match=r"label 'colour': example 1 has no such value; its labels are 'answer', 'size'"
    ):
        evaluate(parity, two, lambda gold, pred: True, label="colour")


def test_spelling_that_the_metric_accepts_is_no_class_of_its_own() -> None:
    ev = evaluate(lambda number: dspy.Prediction(answer=" EVEN"), examples(20), exact_match("answer"))
    assert set(ev.per_class) == {"even", "odd"}
    assert ev.accuracy == ev.score == 0.5
    assert ev.confusion.matrix == ((10, 0), (10, 0))


def test_by_gives_the_score_of_each_slice() -> None:
    data = examples(
        30, answer=lambda i: "even" if i % 2 == 0 else "odd", size=lambda i: "big" if i > 9 else "small"
    )
    ev = evaluate(parity, data, exact_match("answer"), by="size")
    assert list(ev.slices) == ["big", "small"]
    assert ev.slices["big"].n == 20
    assert ev.slices["small"].interval == wilson_interval(6, 10)
    assert ev.by == "size"
    assert "by size" in ev.report()
    assert (
        evaluate(parity, data, exact_match("answer"), by=lambda example: example.number % 3).slices["0"].score
        == 0
    )


# -- what is counted -------------------------------------------------------------------------------------


def test_calls_tokens_and_latency_are_exact_under_threads() -> None:
    engine = ScriptedEngine(delay_s=0.002)
    ev = evaluate(classifier(), reviews(200), SENTIMENT, lm=scripted_lm(engine), num_threads=16)
    assert engine.calls == ev.usage.lm_calls == 200
    assert (ev.usage.prompt_tokens, ev.usage.completion_tokens, ev.usage.cache_hits) == (2000, 1000, 0)
    assert ev.usage.usd is None  # a scripted engine has no price
    assert all(result.usage.lm_calls == 1 for result in ev.results)
    assert ev.latency.n == 200
    assert 2 <= ev.latency.p50_ms <= ev.latency.p95_ms <= ev.latency.p99_ms
    assert [result.index for result in ev.results] == list(range(200))
    assert ev.slowest(1)[0].latency_ms == max(result.latency_ms for result in ev.results)


def test_cache_hits_cost_nothing_and_have_no_latency() -> None:
    engine = ScriptedEngine()
    lm = scripted_lm(engine, "scripted/hits", cache=True)
    data = reviews(20, "cache")
    first = evaluate(classifier(), data[:5], SENTIMENT, lm=lm)
    assert first.usage.lm_calls == 5
    second = evaluate(classifier(), data, SENTIMENT, lm=lm)
    assert engine.calls == 20
    assert (second.usage.lm_calls, second.usage.cache_hits, second.latency.n) == (15, 5, 15)
    assert [result.cached for result in second.results] == [True] * 5 + [False] * 15
    third = evaluate(classifier(), data, SENTIMENT, lm=lm)
    assert (third.usage.lm_calls, third.usage.cache_hits, third.latency) == (0, 20, None)
    assert third.usage.usd == 0.0
    assert third.score == second.score


def test_a_program_without_a_language_model_is_not_cached() -> None:
    ev = evaluate(parity, examples(5), exact_match("answer"))
    assert not any(result.cached for result in ev.results)
    assert ev.usage.lm_calls == 0
    assert ev.latency.n == 5


def test_what_a_metric_asks_is_counted_apart() -> None:
    judge = dspy.Predict("review, sentiment -> verdict")

    def judged(gold, pred, trace=None):
        return bool(judge(review=gold.review, sentiment=pred.sentiment).verdict)

    engine = ScriptedEngine()
    ev = evaluate(classifier(), reviews(6), judged, lm=scripted_lm(engine))
    assert engine.calls == 12
    assert ev.usage.lm_calls == ev.metric_usage.lm_calls == 6
    assert "LM calls of the metric  6 asked" in ev.report()


def test_a_tracker_outside_sees_every_call() -> None:
    with dspy.track_usage() as tracker:
        evaluate(classifier(), reviews(12), SENTIMENT, lm=scripted_lm())
    assert len(tracker.usage_data["scripted/model"]) == 12


def test_settings_of_the_caller_reach_the_workers() -> None:
    lm = scripted_lm(name="scripted/context")
    with dspy.context(lm=lm, adapter=dspy.JSONAdapter()):
        ev = evaluate(classifier(), reviews(10), SENTIMENT)
    assert ev.base_model == "scripted/context"
    assert ev.errors.count == 0
    assert len(lm.history) == 10


def test_a_metric_sees_the_usage_of_a_prediction_if_that_is_tracked() -> None:
    def cheap(gold, pred, trace=None):
        return pred.get_lm_usage()["scripted/model"]["total_tokens"] == 15

    with dspy.context(track_usage=True):
        assert evaluate(classifier(), reviews(5), cheap, lm=scripted_lm()).score == 1.0


def test_equal_examples_are_asked_once_if_the_answer_would_be_the_same() -> None:
    data = [*reviews(10), *reviews(5)]
    data.append(dspy.Example(review="item 0 is bad", sentiment="positive").with_inputs("review"))
    engine = ScriptedEngine()
    ev = evaluate(classifier(), data, SENTIMENT, lm=scripted_lm(engine, temperature=0))
    assert engine.calls == ev.usage.lm_calls == 11  # another label makes another example
    assert (ev.n, ev.n_distinct) == (16, 10)
    assert ev.results[10].predicted == ev.results[0].predicted
    assert ev.results[10].cached
    assert [result.score for result in ev.results[10:15]] == [result.score for result in ev.results[:5]]
    assert ev.latency.n == 11
    values = [float(result.score) for result in ev.results]
    assert ev.interval == clustered_interval(
        values, [result.example_id for result in ev.results], bounds=(0.0, 1.0)
    )
    assert "10 of the 16 examples differ" in ev.report()

    warm = ScriptedEngine()
    evaluate(classifier(), data, SENTIMENT, lm=scripted_lm(warm, temperature=0.7))
    assert warm.calls == 16


def test_repeats_ask_anew_and_cluster_by_example() -> None:
    engine = ScriptedEngine()
    lm = scripted_lm(engine, "scripted/repeats", cache=True, temperature=1.0)
    data = reviews(10, "repeat")
    ev = evaluate(classifier(), data, SENTIMENT, lm=lm, repeats=3)
    assert engine.calls == 30
    assert (ev.n, ev.n_planned, ev.repeats) == (30, 30, 3)
    assert [(result.index, result.repeat) for result in ev.results[:4]] == [(0, 0), (0, 1), (0, 2), (1, 0)]
    assert ev.interval == clustered_interval(
        [float(result.score) for result in ev.results],
        [result.example_id for result in ev.results],
        bounds=(0.0, 1.0),
    )
    assert evaluate(classifier(), data, SENTIMENT, lm=lm, repeats=3).usage.lm_calls == 0

    pinned = classifier()
    pinned.lm = lm
    evaluate(pinned, reviews(10, "pinned"), SENTIMENT, repeats=2)
    assert engine.calls == 50
    assert pinned.lm is lm


def test_labels_that_differ_in_case_alone_stay_apart() -> None:
    ev = evaluate(
        lambda number: dspy.Prediction(answer="us" if number < 4 else "US"),
        examples(20, answer=lambda i: "us" if i < 10 else "US"),
        exact_match("answer", normalize=False),
    )
    assert ev.confusion.labels == ("US", "us")
    assert ev.confusion.matrix == ((10, 0), (6, 4))
    assert ev.accuracy == ev.score


# -- refusals --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dataset": []}, "dataset is empty"),
        ({"dataset": "data.jsonl"}, "dataset must be a list of dspy.Example, got str"),
        ({"dataset": [{"number": 1}]}, "dataset[0] must be a dspy.Example, got dict"),
        ({"dataset": [dspy.Example(number=1, answer="odd")]}, "with_inputs"),
        ({"dataset": 7}, "dataset must be a list of dspy.Example, got int"),
        ({"program": "parity"}, "program must be a dspy.Module or a function, got str"),
        ({"metric": None}, "is not a metric"),
        ({"metric": []}, "metric is empty"),
        ({"metric": [exact_match("answer")] * 2}, "two metrics have the same name"),
        ({"metric": exact_match("colour")}, "has no field 'colour'"),
        ({"confidence": 95}, "confidence must be"),
        ({"repeats": 0}, "repeats must be"),
        ({"seed": -1}, "seed must be a whole number of at least 0, got -1"),
        ({"num_threads": 0}, "num_threads must be"),
        ({"timeout_s": -1}, "timeout_s must be"),
        ({"max_error_rate": 2}, "max_error_rate must be"),
        ({"executor": 4}, "executor must be a concurrent.futures.Executor, a Dask client or cluster"),
        ({"by": "colour"}, "by='colour': example 1 has no such field; it has 'number', 'answer'"),
        ({"by": lambda example: example.colour}, "by fails on an example"),
        ({"lm": "openai/gpt"}, "lm must be a dspy.LM, got str"),
        ({"program": dspy.Predict("number -> answer")}, "no language model"),
        (
            {"program": dspy.Predict("number -> answer"), "repeats": 2, "lm": scripted_lm(temperature=0)},
            "repeats=2 needs a temperature above 0",
        ),
    ],
)  # fmt: skip
def test_wrong_arguments_are_refused_in_one_line_before_anything_runs(change, message) -> None:
    ran = []
    arguments = {"program": ran.append, "dataset": examples(3), "metric": exact_match("answer"), **change}
    with pytest.raises(InputError) as error:
        evaluate(**arguments)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert not ran


# -- progress --------------------------------------------------------------------------------------------


def test_progress_starts_at_zero_and_ends_with_everything() -> None:
    heard = []
    found = evaluate(parity, examples(10), exact_match("answer"), on_event=heard.append)
    first, *_, last = heard
    assert (first.done, first.total, first.errors, first.mean, first.over) == (0, 10, 0, None, False)
    assert (last.done, last.total, last.errors, last.mean, last.over) == (10, 10, 0, found.score, True)
    assert [event.done for event in heard] == sorted(event.done for event in heard)
    assert [event.over for event in heard].count(True) == 1


def test_a_broken_listener_is_logged_once_and_changes_nothing(caplog) -> None:
    def broken(event):
        raise RuntimeError("deaf")

    assert evaluate(parity, examples(10), exact_match("answer"), on_event=broken).n == 10
    (record,) = caplog.records
    assert record.message.endswith("failed; the call goes on")


def test_stopping_before_the_start_gives_an_empty_result() -> None:
    stop = threading.Event()
    stop.set()
    ev = evaluate(parity, examples(10), exact_match("answer"), stop=stop)
    assert (ev.n, ev.n_planned, ev.complete, ev.reliable) == (0, 10, False, False)
    assert math.isnan(ev.score)
    assert ev.interval == (0.0, 1.0)
    assert "PARTIAL" in ev.report()


# -- table and file --------------------------------------------------------------------------------------


def test_a_saved_evaluation_is_the_same_after_loading(tmp_path) -> None:
    data = examples(30, answer=lambda i: "even" if i % 2 == 0 else "odd", size=lambda i: i % 2)

    def flaky(number: int) -> dspy.Prediction:
        if number == 4:
            raise ValueError("four")
        return parity(number)

    ev = evaluate(flaky, data, {"right": exact_match("answer"), "half": lambda gold, pred: 0.5}, by="size")
    path = ev.save(tmp_path / "report.json")
    assert Evaluation.load(path) == ev
    assert json.loads(path.read_text())["schema_version"] == 1
    assert [file.name for file in tmp_path.iterdir()] == ["report.json"]
    ev.save(path)  # again


def test_an_empty_evaluation_is_saved_too(tmp_path) -> None:
    stop = threading.Event()
    stop.set()
    path = evaluate(parity, examples(3), exact_match("answer"), stop=stop).save(tmp_path / "empty.json")
    loaded = Evaluation.load(path)
    assert math.isnan(loaded.score)
    assert not loaded.complete


def test_values_that_json_lacks_are_saved_as_text_or_content(tmp_path) -> None:
    from datetime import date

    data = [dspy.Example(day=date(2024, 1, 31), answer={"x": {1}}, nan=math.nan).with_inputs("day")]
    ev = evaluate(lambda day: dspy.Prediction(answer=np.arange(2)), data, lambda gold, pred: True)
    result = Evaluation.load(ev.save(tmp_path / "odd.json")).results[0]
    assert result.inputs == {"day": "2024-01-31"}
    assert result.expected == {"answer": {"x": [1]}, "nan": None}
    assert result.predicted == {"answer": [0, 1]}


def test_single_examples_can_be_left_out() -> None:
    data = evaluate(parity, examples(30), exact_match("answer")).to_dict(results=False)
    assert "results" not in data
    assert json.dumps(data)
    assert Evaluation.from_dict(data).results == ()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"schema_version": 2}', "schema version 2 is newer than 1"),
        ('{"schema_version": 1}', "no complete evaluation"),
        ("[]", "no evaluation"),
        ("{", "no evaluation can be read"),
    ],
)
def test_a_file_that_holds_no_evaluation_is_refused(tmp_path, content, message) -> None:
    path = tmp_path / "report.json"
    path.write_text(content)
    with pytest.raises(InputError) as error:
        Evaluation.load(path)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="no evaluation can be read"):
        Evaluation.load(tmp_path / "missing.json")


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch) -> None:
    ev = evaluate(parity, examples(3), exact_match("answer"))
    path = ev.save(tmp_path / "report.json")
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(InputError, match="disk full"):
        ev.save(path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["report.json"]


def test_the_table_has_a_row_per_example() -> None:
    frame = evaluate(parity, examples(12), [exact_match("answer"), token_f1("answer")]).to_frame()
    assert len(frame) == 12
    assert {"input_number", "expected_answer", "predicted_answer", "score", "latency_ms", "cached", "error",
            "score_token_f1('answer')", "lm_calls", "usd"} <= set(frame.columns)  # fmt: skip
    assert frame["score"].sum() == 8


def test_a_program_that_returns_nothing_is_an_error_and_no_wrong_answer():
    ev = evaluate(lambda review: None, reviews(4), exact_match("sentiment"))
    assert ev.errors.kinds == {"NoPrediction": 4}
    assert "the program returned None; its forward must return a prediction" in ev.errors.messages[0]
    assert ev.reliable is False


@pytest.mark.parametrize(
    ("program", "field", "message"),
    [
        (classifier(), "text", r"dataset\[0\] has the inputs 'text', but the program needs 'review'"),
        (dspy.Predict, "review", "program must be a dspy.Module or a function, got the class Predict"),
    ],
)
def test_a_program_that_cannot_be_called_with_the_inputs_is_refused(program, field, message):
    engine = ScriptedEngine()
    examples = [dspy.Example({field: "good", "sentiment": "positive"}).with_inputs(field)]
    with dspy.context(lm=scripted_lm(engine)), pytest.raises(InputError, match=message):
        evaluate(program, examples, exact_match("sentiment"))
    assert engine.calls == 0


def test_an_input_with_a_default_may_be_left_out():
    class Shop(dspy.Signature):
        review: str = dspy.InputField()
        shop: str = dspy.InputField(default="ours")
        sentiment: str = dspy.OutputField()

    with dspy.context(lm=scripted_lm()):
        assert evaluate(dspy.Predict(Shop), reviews(4), exact_match("sentiment")).errors.count == 0


def test_a_report_that_cannot_be_saved_says_so_in_one_line(tmp_path):
    ev = evaluate(lambda review: {"sentiment": "positive"}, reviews(4), exact_match("sentiment"))
    assert ev.save(tmp_path / "new" / "report.json").exists()
    with pytest.raises(InputError, match=r"report\.json cannot be written: "):
        ev.save(tmp_path / "new" / "report.json" / "report.json")


def test_without_a_single_answer_no_score_without_errors_is_told():
    text = str(evaluate(lambda review: None, reviews(4), exact_match("sentiment")).report())
    assert "nan" not in text
