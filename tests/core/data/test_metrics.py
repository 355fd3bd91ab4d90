"""Metrics: what they score, what they refuse, and that DSPy's optimizers understand them."""

from __future__ import annotations

import datetime
import enum
import functools
import inspect
import math
import pickle
import re
from fractions import Fraction

import cloudpickle
import dspy
import numpy as np
import pydantic
import pytest
from dspy import lm15
from dspy.evaluate import SemanticF1, answer_exact_match
from dspy.teleprompt.simba_utils import wrap_program
from hypothesis import given
from hypothesis import strategies as st

from dspy_nb.core.data.metrics import (
    Metric,
    MetricError,
    accuracy,
    as_metric,
    exact_match,
    parse_metric,
    partial_credit,
    token_f1,
)
from dspy_nb.core.errors import InputError, NoField, NoPrediction

ALL = [exact_match("answer"), accuracy("answer"), token_f1("answer"), partial_credit("answer")]


def gold(answer="Paris", **fields):
    return dspy.Example(question="?", answer=answer, **fields).with_inputs("question")


def pred(answer="Paris", **fields):
    return dspy.Prediction(answer=answer, **fields)


class Size(enum.Enum):
    SMALL = "small"


class Person(pydantic.BaseModel):
    name: str
    age: int


# --- what they score -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expected", "given", "exact", "stripped"),
    [
        ("Paris", "Paris", True, True),
        ("Paris", " paris\n", True, True),
        ("New York", "new   york", True, False),
        ("straße", "STRASSE", True, False),
        ("é", "e\u0301", True, False),
        ("Paris", "Paris.", False, False),
        ("Paris", "Rome", False, False),
        ("Paris", "", False, False),
        ("", "", True, True),
        (4, "4", True, True),
        ("4.0", 4, True, True),
        (4, 4.0, True, True),
        (4, "four", False, False),
        (True, "true", True, True),
        ("False", False, True, True),
        (True, "yes", False, False),
        (None, None, True, True),
        (None, "None", False, False),
        (None, "", False, False),
        (["a", "B"], ["A", "b "], True, True),
        (["a", "b"], ["b", "a"], False, False),
        (["a"], ["a", "a"], False, False),
        (["b", "a"], {"a", "b"}, True, True),
        (["c", "a"], {"a", "b"}, False, False),
        ({"a"}, "a", False, False),
        ({"a"}, 1, False, False),
        (("a", 1), ["a", "1"], True, True),
        ({"a": "X", "b": [1]}, {"b": ["1"], "a": "x"}, True, True),
        ({"a": 1}, {"a": 1, "b": 2}, False, False),
        ("small", Size.SMALL, True, True),
        ("2024-01-02", datetime.date(2024, 1, 2), True, True),
        ({"name": "Ann", "age": 3}, Person(name="ann", age=3), True, True),
        ({"name": "Ann"}, dspy.Example(name="ann"), True, True),
        (3, np.int64(3), True, True),
        ([1, 2], np.array([1, 2]), True, True),
        (float("nan"), float("nan"), False, False),
    ],
)
def test_values_are_compared_with_sense(expected, given, exact, stripped):
    assert exact_match("answer")(gold(expected), pred(given)) is exact
    assert accuracy("answer")(gold(expected), pred(given)) is stripped
    if not isinstance(given, pydantic.BaseModel):
        assert exact_match("answer")(gold(given), pred(expected)) is exact, "comparison is symmetric"


def test_without_normalizing_values_must_be_equal():
    strict = exact_match("answer", normalize=False)
    assert strict(gold("Paris"), pred("Paris")) is True
    assert strict(gold(("a", 1)), pred(["a", 1])) is True
    assert strict(gold("Paris"), pred("paris")) is False
    assert strict(gold(4), pred("4")) is False
    assert repr(strict) == "exact_match('answer', normalize=False)"


def test_several_fields_must_all_match():
    metric = exact_match("answer", "city")
    assert metric(gold(city="Rome"), pred(city="rome")) is True
    assert metric(gold(city="Rome"), pred(city="Oslo")) is False
    with pytest.raises(NoField, match="no field 'city' in the answer; it has 'answer'"):
        metric(gold(city="Rome"), pred())


@pytest.mark.parametrize(
    ("expected", "given", "f1", "credit"),
    [
        ("the red fox", "The red fox ", 1.0, 1.0),
        ("the red fox", "a red fox jumps", 2 * (2 / 4) * (2 / 3) / (2 / 4 + 2 / 3), 2 / 4),
        ("red fox", "fox red", 1.0, 1.0),
        ("red red fox", "red fox", 1.0, 1.0),
        ("red", "blue", 0.0, 0.0),
        ("red", "", 0.0, 0.0),
        ("", "red", 0.0, 0.0),
        ("", "", 0.0, 1.0),
        (None, "red", 0.0, 0.0),
        (["red fox", "owl"], ["Owl", "fox"], 2 * 1 * (2 / 3) / (1 + 2 / 3), 2 / 3),
        ({"a": "red"}, {"b": "red"}, 1.0, 1.0),
        (12, "12", 1.0, 1.0),
    ],
)
def test_graded_metrics_follow_their_formulas(expected, given, f1, credit):
    for metric, score in ((token_f1("answer"), f1), (partial_credit("answer"), credit)):
        result = metric(gold(expected), pred(given))
        assert type(result) is float
        assert result == pytest.approx(score)


@given(
    words=st.lists(st.sampled_from(["a", "b", "c", "d"])),
    others=st.lists(st.sampled_from(["a", "b", "x", "y"])),
)
def test_a_grade_lies_between_0_and_1_and_is_symmetric(words, others):
    one, other = " ".join(words), " ".join(others)
    for metric in (token_f1("answer"), partial_credit("answer")):
        score = metric(gold(one), pred(other))
        assert 0 <= score <= 1
        assert score == metric(gold(other), pred(one))
        assert (score == 0) == (
            not set(words) & set(others) and not (metric.name == "partial_credit" and one == other)
        )


@pytest.mark.parametrize("metric", ALL, ids=repr)
@pytest.mark.parametrize(
    ("empty", "error", "message"),
    [
        (None, NoPrediction, "the program returned None; its forward must return a prediction"),
        ("Paris", NoPrediction, "the program returned a str, not a dspy.Prediction"),
        (("Paris",), NoPrediction, "the program returned a tuple, not a dspy.Prediction"),
        (1.5, NoPrediction, "the program returned a float, not a dspy.Prediction"),
        (dspy.Prediction(), NoField, "no field 'answer' in the answer; it has none"),
        (dspy.Prediction(other="Paris"), NoField, "no field 'answer' in the answer; it has 'other'"),
        ({}, NoField, "no field 'answer' in the answer; it has none"),
        (Size.SMALL, NoField, "no field 'answer' in the answer; it is a Size"),
    ],
    ids=repr,
)
def test_a_prediction_without_the_field_is_no_answer_and_never_a_wrong_one(metric, empty, error, message):
    for example in (gold(), gold(None)):
        with pytest.raises(error, match=re.escape(message)):
            metric(example, empty)


def test_a_bare_answer_is_what_evaluate_calls_output_and_its_methods_are_no_fields():
    example = dspy.Example(question="?", output="Paris", title="Paris").with_inputs("question")
    assert exact_match("output")(example, "paris") is True
    assert exact_match("output")(example, "Rome") is False
    with pytest.raises(NoPrediction):
        exact_match("title")(example, "paris")  # str.title is a method


@pytest.mark.parametrize("metric", ALL, ids=repr)
def test_an_example_without_the_field_is_refused_by_name(metric):
    bad = dspy.Example(question="?", label="x").with_inputs("question")
    message = re.escape(f"metric {metric!r}: the example has no field 'answer'; it has 'question', 'label'")
    with pytest.raises(InputError, match=message):
        metric(bad, pred())
    with pytest.raises(InputError, match="example 2 has no field 'answer'"):
        metric.check([gold(), bad])
    metric.check([gold(), gold()])


def test_fields_may_be_named_like_methods_of_a_prediction():
    example = dspy.Example(question="?", items="a", labels="b").with_inputs("question")
    assert exact_match("items", "labels")(example, dspy.Prediction(items="A", labels="B")) is True
    assert exact_match("items")(example, dspy.Prediction(items="b")) is False
    with pytest.raises(NoField, match="no field 'items'"):
        exact_match("items")(example, dspy.Prediction())


# --- the one shape -------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", [*ALL, as_metric(lambda gold, pred: 1)], ids=repr)
def test_every_metric_takes_two_to_five_arguments(metric):
    assert list(inspect.signature(metric).parameters) == ["gold", "pred", "trace", "pred_name", "pred_trace"]
    for extras in ([], [[]], [[], "predict", []]):
        assert metric(gold(), pred(), *extras) == 1
    assert metric(gold=gold(), pred=pred(), trace=None) == 1


@pytest.mark.parametrize("metric", ALL, ids=repr)
def test_metrics_of_fields_say_what_they_are_and_can_be_pickled(metric):
    assert metric.fields == ("answer",)
    assert metric.binary is (metric.name in ("exact_match", "accuracy"))
    assert repr(metric) == f"{metric.__name__}('answer')" == metric.source
    for dumps in (pickle.dumps, cloudpickle.dumps):
        copy = pickle.loads(dumps(metric))
        assert (repr(copy), copy.__name__, copy.binary) == (repr(metric), metric.__name__, metric.binary)
        assert copy(gold(), pred()) == 1


def module_level_metric(gold, pred, trace=None) -> bool:
    """Say whether it is right."""
    return gold.answer == pred.answer


def test_a_wrapped_function_keeps_its_name_documentation_and_source():
    metric = as_metric(module_level_metric)
    assert repr(metric) == metric.__name__ == "module_level_metric"
    assert metric.__doc__ == "Say whether it is right."
    assert metric.__module__ == __name__
    assert metric.source == inspect.getsource(module_level_metric)
    assert pickle.loads(pickle.dumps(metric))(gold(), pred()) is True
    local = as_metric(lambda gold, pred: 0.5)
    assert pickle.loads(cloudpickle.dumps(local))(gold(), pred()) == 0.5
    made = {}
    exec("def written(gold, pred): return 1", made)
    assert as_metric(made["written"]).source == "written", "there is no source to show"


def test_binary_comes_from_the_return_annotation_or_the_caller():
    def graded(gold, pred) -> float:
        return True

    assert as_metric(module_level_metric).binary is True
    assert as_metric(graded).binary is False
    assert type(as_metric(graded)(gold(), pred())) is float
    assert as_metric(lambda gold, pred: 1).binary is None
    assert as_metric(lambda gold, pred: 1, binary=True).binary is True
    assert as_metric(token_f1("answer"), binary=True).binary is True
    assert as_metric(ALL[0]).binary is True


def test_a_function_gets_the_arguments_it_takes_and_no_others():
    calls = []

    def record(*args):
        calls.append(args)
        return 1

    shapes = [
        lambda gold, pred: record(gold, pred),
        lambda gold, pred, trace=None: record(gold, pred, trace),
        lambda gold, pred, trace: record(gold, pred, trace),
        lambda g, p, t=None, n=None, pt=None: record(g, p, t, n, pt),
        lambda gold, pred, threshold=0.5, trace=None: record(gold, pred, threshold, trace),
        lambda gold, pred, trace=None, frac=1.0: record(gold, pred, trace, frac),
        lambda gold, pred, *, trace=None: record(gold, pred, trace),
        functools.partial(lambda gold, pred, k: record(gold, pred, k), k=7),
        record,
    ]
    for shape in shapes:
        metric = as_metric(shape)
        metric(1, 2)
        metric(1, 2, "t", "n", "pt")
    assert calls == [
        (1, 2), (1, 2),
        (1, 2, None), (1, 2, "t"),
        (1, 2, None), (1, 2, "t"),
        (1, 2, None, None, None), (1, 2, "t", "n", "pt"),
        (1, 2, 0.5, None), (1, 2, 0.5, None),
        (1, 2, None, 1.0), (1, 2, "t", 1.0),
        (1, 2, None), (1, 2, None),
        (1, 2, 7), (1, 2, 7),
        (1, 2), (1, 2, "t", "n", "pt"),
    ]  # fmt: skip


class CallableMetric:
    def __call__(self, gold, pred, trace=None):
        return 0.25


def test_objects_methods_and_dspy_modules_are_metrics_too():
    assert as_metric(CallableMetric())(gold(), pred(), []) == 0.25
    assert as_metric(CallableMetric()).name == "CallableMetric"
    assert "return 0.25" in as_metric(CallableMetric()).source
    assert as_metric(CallableMetric().__call__)(gold(), pred()) == 0.25
    semantic = as_metric(SemanticF1())
    assert (semantic.name, semantic.required, semantic.arity) == ("SemanticF1", 2, 3)
    dspy_own = as_metric(answer_exact_match)
    assert dspy_own(gold("Paris"), pred("Paris"), None, "predict", None) is True


async def asynchronous(gold, pred):
    return 1


async def asynchronous_with_options(gold, pred, trace=None, *, strict=False):
    return 1


def generating(gold, pred):
    yield 1


class AsynchronousCall:
    async def __call__(self, gold, pred, trace=None):
        return 1

    async def score(self, gold, pred, trace=None):
        return 1


class OnlyAforward(dspy.Module):
    async def aforward(self, gold, pred, trace=None):
        return 1


class AsynchronousForward(dspy.Module):
    async def forward(self, gold, pred, trace=None):
        return 1


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        (None, "None is not a metric; a metric is a function of (gold, pred) and, optionally, (trace,"),
        ("exact_match", "metric 'exact_match' needs the name of at least one field"),
        ("helpful", "no metric 'helpful'; valid are exact_match"),
        (
            lambda gold: 1,
            "metric <lambda>(gold) cannot be called as a metric; a metric is a function of (gold, pred)",
        ),
        (lambda: 1, "metric <lambda>() cannot be called as a metric"),
        (lambda a, b, c, d, e, f: 1, "metric <lambda>(a, b, c, d, e, f) cannot be called as a metric"),
        (lambda a, b, *, k: 1, "metric <lambda>(a, b, *, k) cannot be called as a metric"),
        (lambda a, *, k=None: 1, "cannot be called as a metric"),
        (lambda **kwargs: 1, "cannot be called as a metric"),
        (
            exact_match,
            "exact_match makes a metric; it needs the name of at least one field: exact_match:field[,field]",
        ),
        (token_f1, "token_f1 makes a metric; it needs the name of one field"),
        (SemanticF1, "metric SemanticF1 is a class; give an instance of it"),
        (asynchronous, "metric asynchronous is asynchronous"),
        (
            functools.partial(asynchronous_with_options, strict=True),
            "is asynchronous; a metric is a function",
        ),
        (AsynchronousCall(), "metric AsynchronousCall is asynchronous; a metric is a function"),
        (functools.partial(AsynchronousCall()), "metric AsynchronousCall is asynchronous"),
        (AsynchronousCall().score, "metric score is asynchronous"),
        (OnlyAforward(), "metric OnlyAforward has only aforward; a metric is called, so give it a forward"),
        (functools.partial(OnlyAforward(), trace=None), "metric OnlyAforward has only aforward"),
        (AsynchronousForward(), "metric AsynchronousForward is asynchronous"),
        (dspy.Module(), "metric Module has no forward"),
        (generating, "metric generating is a generator; a metric is a function"),
        (max, "metric max has no signature to check"),
    ],
)
def test_what_cannot_be_called_as_a_metric_is_refused_before_it_is_called(metric, message):
    with pytest.raises(InputError, match=re.escape(message)):
        as_metric(metric)


@pytest.mark.parametrize(
    ("result", "score"),
    [
        (True, True),
        (1, 1.0),
        (0.5, 0.5),
        (-2, -2.0),
        (np.float32(0.5), 0.5),
        (np.float64(0.5), 0.5),
        (np.int64(1), 1.0),
        (np.bool_(True), True),
        (np.array(0.5), 0.5),
        (Fraction(1, 2), 0.5),
        (dspy.Prediction(score=0.5, feedback="so so"), 0.5),
        (dspy.Prediction(score=np.bool_(False)), False),
    ],
    ids=repr,
)
def test_scores_become_plain_python_values(result, score):
    for feedback in (False, True) if not isinstance(result, dspy.Prediction) else (False,):
        value = as_metric(lambda gold, pred: result, feedback=feedback)(gold(), pred())
        assert value == score
        assert type(value) is type(score)


@pytest.mark.parametrize(
    "result",
    [
        None,
        math.nan,
        math.inf,
        -math.inf,
        10**400,
        "1.0",
        1j,
        [1],
        {"score": 1},
        np.array([0.5, 0.5]),
        np.float32("nan"),
        dspy.Prediction(),
        dspy.Prediction(score=None),
        dspy.Prediction(score="good"),
        dspy.Prediction(score=math.nan, feedback="?"),
    ],
    ids=lambda result: repr(result)[:20],
)
@pytest.mark.parametrize("feedback", [False, True])
def test_what_is_no_score_is_refused_with_the_name_of_the_metric_and_the_value(result, feedback):
    def judge(gold, pred):
        return result

    with pytest.raises(
        MetricError, match=r"^metric judge returned .*; valid is a bool, a finite number"
    ) as caught:
        as_metric(judge, feedback=feedback)(gold(), pred())
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, InputError)


def test_an_error_inside_a_metric_passes_through():
    with pytest.raises(ZeroDivisionError):
        as_metric(lambda gold, pred: 1 / 0)(gold(), pred())


def test_feedback_is_handed_on_only_when_asked_for():
    def judge(gold, pred):
        return dspy.Prediction(score=np.float32(0.5), feedback="Too short.", objective_scores={"length": 0.1})

    assert as_metric(judge)(gold(), pred()) == 0.5
    metric = as_metric(judge, feedback=True)
    result = metric(gold(), pred())
    assert result.toDict() == {"score": 0.5, "feedback": "Too short.", "objective_scores": {"length": 0.1}}
    assert as_metric(metric)(gold(), pred()) == 0.5, "and can be taken off again"
    silent = as_metric(lambda gold, pred: dspy.Prediction(score=1, feedback=None), feedback=True)
    assert silent(gold(), pred()) == 1.0


def test_metrics_of_fields_explain_themselves():
    metric = as_metric(exact_match("answer", "city"), feedback=True)
    result = metric(gold(city="Rome"), pred(city=None))
    assert result.score is False
    assert result.feedback == "answer: got 'Paris', expected 'Paris'. city: got None, expected 'Rome'."
    with pytest.raises(NoField, match="no field 'city'"):
        metric(gold(city="Rome"), pred())


# --- by name -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("exact_match:sentiment", "exact_match('sentiment')"),
        (" exact_match : a , b ", "exact_match('a', 'b')"),
        ("accuracy:answer", "accuracy('answer')"),
        ("token_f1:answer", "token_f1('answer')"),
        ("partial_credit:answer", "partial_credit('answer')"),
    ],
)
def test_a_metric_can_be_written_as_text(text, label):
    metric = parse_metric(text)
    assert isinstance(metric, Metric)
    assert repr(metric) == label


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "f1:answer",
            "no metric 'f1'; valid are exact_match, accuracy, token_f1, partial_credit, followed by :field",
        ),
        ("", "no metric ''; valid are exact_match"),
        ("accuracy", "metric 'accuracy' needs the name of one field: accuracy:field"),
        ("accuracy:", "needs the name of one field: accuracy:field"),
        ("accuracy:a,b", "needs the name of one field: accuracy:field"),
        ("exact_match", "needs the name of at least one field: exact_match:field[,field]"),
        ("exact_match:a b", "exact_match needs names of fields, such as exact_match('answer'); got 'a b'"),
    ],
)
def test_text_that_names_no_metric_is_refused_with_what_is_valid(text, message):
    with pytest.raises(InputError, match=re.escape(message)):
        parse_metric(text)


@pytest.mark.parametrize("fields", [(), (["a", "b"],), (gold(), pred()), ("",), ("a b",)], ids=repr)
def test_a_metric_needs_names_of_fields(fields):
    with pytest.raises(InputError, match="exact_match needs names of fields"):
        exact_match(*fields)


# --- DSPy's optimizers ---------------------------------------------------------------------------------


class Parrot:
    """An engine that answers every question with the same words."""

    def complete(self, request):
        text = "[[ ## answer ## ]]\nthe red fox\n\n[[ ## completed ## ]]"
        usage = lm15.Usage(input_tokens=1, output_tokens=1, total_tokens=2)
        return lm15.Response(
            id="1",
            model=request.model,
            message=lm15.Message.assistant(text),
            finish_reason="stop",
            usage=usage,
        )


@pytest.fixture
def program():
    with dspy.context(lm=dspy.LM("scripted/parrot", engine=Parrot(), cache=False)):
        yield dspy.Predict("question -> answer")


EXAMPLES = [
    dspy.Example(question=f"q{i}", answer=answer).with_inputs("question")
    for i, answer in enumerate(["the red fox", "the red owl", "a bee"])
]
EXPECTED = {
    "exact_match": [1, 0, 0],
    "accuracy": [1, 0, 0],
    "token_f1": [1, 2 / 3, 0],
    "partial_credit": [1, 2 / 3, 0],
}


@pytest.mark.parametrize("metric", ALL, ids=repr)
def test_evaluate_and_simba_see_the_same_scores(program, metric):
    result = dspy.Evaluate(devset=EXAMPLES, metric=metric, num_threads=1)(program)
    assert [score for *_, score in result.results] == pytest.approx(EXPECTED[metric.name])
    scores = [wrap_program(program, metric)(example)["score"] for example in EXAMPLES]
    assert scores == pytest.approx(EXPECTED[metric.name])
    explained = wrap_program(program, as_metric(metric, feedback=True))(EXAMPLES[1])
    assert explained["score"] == pytest.approx(EXPECTED[metric.name][1])
    assert explained["output_metadata"]["feedback"].startswith("answer: got 'the red fox', expected")


@pytest.mark.parametrize(
    "metric", [*ALL, as_metric(lambda g, p: dspy.Prediction(score=g.answer == p.answer))], ids=repr
)
def test_bootstrapping_takes_right_answers_only_as_demos(program, metric):
    threshold = None if metric.binary is not False else 1.0
    optimizer = dspy.BootstrapFewShot(metric=metric, metric_threshold=threshold, max_labeled_demos=0)
    assert [demo.question for demo in optimizer.compile(program, trainset=EXAMPLES).demos] == ["q0"]


@pytest.mark.parametrize("metric", [*ALL, as_metric(lambda gold, pred: 1)], ids=repr)
def test_gepa_accepts_every_metric(program, metric):
    for feedback in (False, True):
        dspy.GEPA(
            metric=as_metric(metric, feedback=feedback), max_metric_calls=1, reflection_lm=dspy.settings.lm
        )


def test_a_metric_may_be_given_as_text_as_on_a_command_line():
    metric = as_metric("token_f1:answer")
    assert repr(metric) == "token_f1('answer')"
    assert metric(dspy.Example(answer="the cat"), dspy.Prediction(answer="the dog")) == 0.5


@pytest.mark.parametrize("nothing", [None, float("nan")])
def test_examples_without_a_value_to_compare_are_warned_of(nothing):
    examples = [dspy.Example(answer=answer) for answer in ("a", nothing, "b", nothing)]
    with pytest.warns(UserWarning, match="2 of 4 examples have no value of 'answer' .the first is example 2"):
        exact_match("answer").check(examples)
