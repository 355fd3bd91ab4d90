"""What can be said of calling a program before the first call, on every path that calls one."""

from __future__ import annotations

import enum
import functools
import warnings
from collections.abc import Callable
from typing import Any, Literal, Optional

import dspy
import pytest

import dspy_nb as nb
from dspy_nb.core.errors import NoPrediction
from dspy_nb.core.programs.calls import check_answer, check_calls, options_of
from dspy_nb.core.programs.inputs import check_call, check_program
from tests.scripted import ScriptedEngine, classifier, reviews, scripted_lm

SENTIMENT = nb.exact_match("sentiment")


class Mood(enum.Enum):
    GOOD = "good"
    BAD = "bad"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


def signature(given: dict[str, Any], answered: dict[str, Any]) -> type[dspy.Signature]:
    fields = {name: (kind, dspy.InputField()) for name, kind in given.items()}
    return dspy.Signature({**fields, **{name: (kind, dspy.OutputField()) for name, kind in answered.items()}})


def predict(answered: Any = str, name: str = "a") -> dspy.Predict:
    return dspy.Predict(signature({"q": str}, {name: answered}))


def data(n: int = 4, inputs: tuple[str, ...] = ("q",), **labels: Any) -> list[dspy.Example]:
    return [dspy.Example({"q": f"q{number}", **labels}).with_inputs(*inputs) for number in range(n)]


PATHS: dict[str, Callable[..., Any]] = {
    "evaluate": lambda program, examples, metric: nb.evaluate(program, examples, metric),
    "compare": lambda program, examples, metric: nb.compare(program, program, examples, metric),
    "compare_many": lambda program, examples, metric: nb.compare_many(program, [program], examples, metric),
    "estimate": lambda program, examples, metric: nb.estimate(program, trainset=examples, metric=metric),
    "optimize": lambda program, examples, metric: nb.optimize(program, trainset=examples, metric=metric),
}


class Asynchronous(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ask = predict()

    async def forward(self, q):
        return self.ask(q=q)


class Generating(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ask = predict()

    def forward(self, q):
        yield self.ask(q=q)


class GeneratingLater(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ask = predict()

    async def forward(self, q):
        yield self.ask(q=q)


class Stage(dspy.Module):
    """A program with a forward of its own, which calls a predictor with the field that is given."""

    def __init__(self, field: str) -> None:
        super().__init__()
        self.ask = dspy.Predict(signature({field: str}, {"a": str}))
        self.field = field

    def forward(self, q):
        return self.ask(**{self.field: q})


class Nested(dspy.Module):
    def __init__(self, field: str) -> None:
        super().__init__()
        self.steps = [Stage(field)]

    def forward(self, q):
        return self.steps[0](q=q)


# name: program, examples, metric, what is said
REFUSED: dict[str, tuple[Any, list[dspy.Example], Any, str]] = {
    "a field that is not answered": (
        predict(name="sentiment"), data(label="x"), nb.exact_match("label"),
        r"metric exact_match\('label'\) compares 'label', which the program does not answer; it answers 'sent",
    ),
    "one of two fields that is not answered": (
        dspy.ChainOfThought("q -> a"), data(a="x", b="y"), nb.exact_match("a", "b"),
        r"compares 'b', which the program does not answer; it answers 'reasoning', 'a'",
    ),
    "a field that a program with tools does not answer": (
        dspy.ReAct("q -> a", tools=[]), data(b="x"), nb.token_f1("b"), "compares 'b', which .* answers 'a'",
    ),
    "an asynchronous forward": (Asynchronous(), data(a="x"), nb.exact_match("a"), "name it aforward"),
    "a forward that yields": (
        Generating(), data(a="x"), nb.exact_match("a"), "the forward of Generating is a generator, and a program",
    ),
    "an asynchronous forward that yields": (
        GeneratingLater(), data(a="x"), nb.exact_match("a"), "the forward of GeneratingLater is a generator",
    ),
    "a label marked as input": (
        predict(), data(inputs=("q", "a"), a="x"), nb.exact_match("a"),
        r"set\[0\] marks 'a' as an input, but it is what the program is to answer: leave it out of .with_inputs",
    ),
    "an output marked as input, which the metric does not compare": (
        dspy.Predict("q -> a, b"), data(inputs=("q", "b"), a="x", b="y"), nb.exact_match("a"),
        r"set\[0\] marks 'b' as an input",
    ),
    "an unknown input": (
        predict(), data(inputs=("q", "r"), a="x", r="y"), nb.exact_match("a"),
        r"set\[0\] has the input 'r', which the program does not take; it takes 'q'",
    ),
    "an input that is missing": (
        dspy.ReAct("q, r -> a", tools=[]), data(a="x"), nb.exact_match("a"), "but the program needs 'r'",
    ),
    "an input that dspy.Example hides": (
        Stage("q"), [dspy.Example(q="q", dspy_q="q", a="x").with_inputs("q", "dspy_q")], nb.exact_match("a"),
        r"set\[0\] has the input 'dspy_q', which dspy.Example hides from every program",
    ),
    "a label that is no option": (
        predict(Literal["yes", "no"]), [*data(3, a="yes"), *data(1, a="maybe")], nb.exact_match("a"),
        r"set\[3\] has the label 'maybe' in 'a', which is no option of the program: 'yes', 'no'; 1 of 4 examples",
    ),
    "a label that is no member": (
        predict(Mood), data(a="fine"), nb.exact_match("a"), "no option of the program: 'good', 'bad'; 4 of 4",
    ),
    "a label that is no option of what may be missing": (
        predict(Optional[Literal["yes", "no"]]), data(a="maybe"), nb.accuracy("a"),  # noqa: UP045
        "label 'maybe' in 'a', which is no option",
    ),
    "an item that is no option": (
        predict(list[Literal["x", "y"]]), data(a=["x", "z"]), nb.exact_match("a"), "no option of the program: 'x'",
    ),
    "a label of a program that reasons": (
        dspy.ChainOfThought(signature({"q": str}, {"a": Literal[1, 2]})), data(a="3"), nb.exact_match("a"),
        "no option of the program: 1, 2; 4 of 4",
    ),
    **{
        f"an input called {name}": (
            dspy.Predict(signature({name: str}, {"a": str})),
            [dspy.Example({name: "v", "a": "x"}).with_inputs(name)] * 3, nb.exact_match("a"),
            f"the program has an input called '{name}', a name that DSPy takes for something else",
        )
        for name in ("demos", "config", "lm", "new_signature", "self", "instance", "completions", "dspy_q")
    },
    "an output that dspy.Example hides": (
        predict(name="dspy_a"), data(dspy_a="x"), nb.exact_match("dspy_a"), "has an output called 'dspy_a'",
    ),
    "an input of a part": (Stage("demos"), data(a="x"), nb.exact_match("a"), "ask has an input called 'demos'"),
    "an input deep within": (
        Nested("config"), data(a="x"), nb.exact_match("a"), r"steps\[0\].ask has an input called 'config'",
    ),
    "an input that only ReAct takes": (
        dspy.ReAct("max_iters -> a", tools=[]), [dspy.Example(max_iters="3", a="x").with_inputs("max_iters")] * 3,
        nb.exact_match("a"), "the program has an input called 'max_iters'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("case", REFUSED)
def test_what_the_signature_tells_is_refused_by_name_before_the_first_call(case, path) -> None:
    program, examples, metric, message = REFUSED[case]
    engine = ScriptedEngine()
    with dspy.context(lm=scripted_lm(engine)), pytest.raises(nb.InputError, match=message) as error:
        PATHS[path](program, examples, metric)
    assert "\n" not in str(error.value)
    assert engine.calls == 0


def test_each_set_of_a_run_is_checked_under_its_name() -> None:
    program, good, bad = predict(Literal["yes", "no"]), data(4, a="yes"), data(3, a="maybe")
    engine = ScriptedEngine()
    for name in ("trainset", "valset", "testset"):
        sets = {"trainset": good, "valset": good, "testset": good, name: bad}
        for call in (nb.optimize, nb.estimate):
            with (
                dspy.context(lm=scripted_lm(engine)),
                pytest.raises(nb.InputError, match=rf"^{name}\[0\] has the label 'maybe' in 'a'"),
            ):
                call(program, **sets, metric=nb.exact_match("a"))
    assert engine.calls == 0


def test_each_program_of_an_ensemble_is_checked() -> None:
    with (
        dspy.context(lm=scripted_lm()),
        pytest.raises(nb.InputError, match="compares 'a', which the program"),
    ):
        nb.optimize(
            [predict(), predict(name="b")],
            optimizer="Ensemble",
            valset=data(a="x"),
            metric=nb.exact_match("a"),
        )


@pytest.mark.parametrize("path", ["evaluate", "compare"])
def test_functions_that_cannot_answer_are_refused_too(path) -> None:
    def generating(q):
        yield q

    async def generating_later(q):
        yield q

    def other(question):
        return {"a": "x"}

    for program, message in (
        (generating, "generating is a generator; a program returns one answer"),
        (generating_later, "generating_later is a generator"),
        (functools.partial(generating), "is a generator"),
        (other, r"dataset\[0\] has the inputs 'q', but the program needs 'question'"),
        (lambda: {"a": "x"}, r"has the input 'q', which the program does not take; it takes nothing"),
        (dspy.Module(), "Module has no forward method"),
    ):
        with pytest.raises(nb.InputError, match=message):
            PATHS[path](program, data(a="x"), nb.exact_match("a"))


def test_a_field_whose_classes_are_wanted_must_be_answered() -> None:
    with (
        dspy.context(lm=scripted_lm()),
        pytest.raises(nb.InputError, match="label is 'topic', which the program"),
    ):
        nb.evaluate(predict(), data(a="x", topic="t"), nb.exact_match("a"), label="topic")


@pytest.mark.parametrize(
    ("annotation", "gold"),
    [
        (Literal["Yes", "No"], "  yes "),
        (Literal["café"], "cafe\u0301"),
        (Literal[1, 2], "1"),
        (Literal["a", None], None),
        (Mood, Mood.GOOD),
        (Mood, "good"),
        (Mood, "GOOD"),
        (Level, 2),
        (Level, "HIGH"),
        (Optional[Mood], "bad"),  # noqa: UP045
        (Mood | Literal["none"], "none"),
        (Literal["a", "b"] | str, "anything"),
        (list[Literal["a", "b"]], ["b", "a"]),
        (list[Mood], []),
        (set[Mood], {"good"}),
        (tuple[Literal["a"], ...], ("a",)),
        (dict[str, Mood], {"x": "bad"}),
        (str, "anything"),
        (bool, "yes"),
    ],
)
def test_labels_that_count_as_an_option_are_fine(annotation, gold) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_calls("dataset", data(a=gold), predict(annotation), [nb.exact_match("a")])


def test_a_label_that_is_partly_right_is_fine_where_grades_are_given() -> None:
    check_calls("dataset", data(a="very good"), predict(Literal["good", "bad"]), [nb.token_f1("a")])
    with pytest.raises(nb.InputError, match="no option"):
        check_calls("dataset", data(a="fine"), predict(Literal["good", "bad"]), [nb.token_f1("a")])


def test_labels_that_no_predictor_of_a_program_can_answer_are_warned_of() -> None:
    program = Stage("q")
    program.ask = predict(Literal["yes", "no"])
    with pytest.warns(
        UserWarning, match="label 'maybe' in 'a', which is no option of any predictor: 'yes', 'no'"
    ):
        check_calls("dataset", data(a="maybe"), program, [nb.exact_match("a")])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_calls("dataset", data(a="yes"), program, [nb.exact_match("a")])
        check_calls("dataset", data(b="maybe"), program, [nb.exact_match("b")])


def test_labels_that_are_no_option_are_warned_of_where_a_function_compares_them() -> None:
    program, metric = predict(Literal["yes", "no"]), nb.as_metric(lambda gold, pred: gold.a == pred.a)
    with pytest.warns(
        UserWarning, match="label 'maybe' in 'a', .* can be right, unless the metric makes it so"
    ):
        check_calls("dataset", data(a="maybe"), program, [metric])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_calls("dataset", data(a="yes"), program, [metric])
        check_calls("dataset", data(other="maybe"), program, [metric])


def test_a_list_in_place_of_one_option_is_none() -> None:
    with pytest.raises(nb.InputError, match=r"label \['yes'\] in 'a', which is no option"):
        check_calls("dataset", data(a=["yes"]), predict(Literal["yes", "no"]), [nb.exact_match("a")])


def test_a_parameter_that_dspy_takes_for_something_else_is_refused() -> None:
    class Instances(dspy.Module):
        def forward(self, instance):
            return dspy.Prediction(a=instance)

    with pytest.raises(nb.InputError, match="the forward of Instances has a parameter called 'instance'"):
        check_program(Instances())


def test_a_program_with_a_forward_of_its_own_may_take_and_answer_anything() -> None:
    class Own(dspy.Predict):
        def forward(self, q, **more):
            return dspy.Prediction(label=q)

    class Echo(dspy.Module):
        def forward(self, q):
            return dspy.Prediction(q=q)

    check_calls(
        "dataset", data(inputs=("q", "r"), r="r", label="x"), Own("text -> a"), [nb.exact_match("label")]
    )
    check_calls("dataset", data(), Echo(), [nb.exact_match("q")])  # an input that it names is no mistake
    replaced = predict()
    replaced.forward = lambda **inputs: dspy.Prediction(label="x")
    check_calls("dataset", data(label="x"), replaced, [nb.exact_match("label")])


def test_what_dspys_own_modules_add_may_be_compared() -> None:
    check_calls("dataset", data(reasoning="x"), dspy.ChainOfThought("q -> a"), [nb.token_f1("reasoning")])
    best = dspy.BestOfN(predict(), N=2, reward_fn=lambda inputs, answer: 1.0, threshold=1.0)
    check_calls("dataset", data(a="x"), best, [nb.exact_match("a")])
    with pytest.raises(
        nb.InputError, match="compares 'b', which the program does not answer; it answers 'a'"
    ):
        check_calls("dataset", data(b="x"), best, [nb.exact_match("b")])


@pytest.mark.parametrize(
    ("annotation", "options"),
    [
        (Literal["a", "b"], ("a", "b")),
        (Optional[Literal["a"]], ("a", None)),  # noqa: UP045
        (Mood, (Mood.GOOD, Mood.BAD)),
        (Literal["a"] | Level, ("a", Level.LOW, Level.HIGH)),
        (list[Literal[1, 2]], (1, 2)),
        (tuple[Literal["a"], ...], ("a",)),
        (tuple[Literal["a"], str], None),
        (dict[str, Literal["a"]], ("a",)),
        (Literal["a"] | str, None),
        (list[str], None),
        (list, None),
        (str, None),
        (Any, None),
    ],
)
def test_the_options_of_a_type(annotation, options) -> None:
    assert options_of(annotation) == options


# -- one call ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("program", "inputs", "message"),
    [
        (predict(), {"r": 1}, "the program does not take 'r'; it takes 'q'"),
        (predict(), {}, "the program needs 'q', got nothing"),
        (predict(), {"q": 1, "r": 2}, "the program does not take 'r'"),
        (predict(), {"q": 1, "lm": "openai/gpt"}, "the program does not take 'lm'"),
        (predict(), {"q": 1, "config": "hot"}, "the program does not take 'config'"),
        (dspy.ChainOfThought("q -> a"), {"r": 1}, "the program does not take 'r'; it takes 'q'"),
        (Stage("text"), {"text": 1}, "the program does not take 'text'; it takes 'q'"),
        (lambda q: q, {"r": 1}, "the program does not take 'r'; it takes 'q'"),
        (Asynchronous(), {"q": 1}, "name it aforward"),
        (predict(), {"unit": 1}, "the program does not take 'unit'"),
        (
            dspy.Predict("unit -> a"),
            {},
            "the program has an input called 'unit', which is an argument of this call",
        ),
    ],
)
def test_a_call_that_cannot_be_answered_is_refused_by_name(program, inputs, message) -> None:
    with pytest.raises(nb.InputError, match=message) as error:
        check_call(program, inputs, own=("unit",))
    assert "\n" not in str(error.value)


def test_a_call_that_can_be_answered_is_let_through() -> None:
    class Shop(dspy.Signature):
        review: str = dspy.InputField()
        shop: str = dspy.InputField(default="ours")
        city: str | None = dspy.InputField()
        sentiment: str = dspy.OutputField()

    check_call(dspy.Predict(Shop), {"review": "good"})
    check_call(predict(), {"q": 1, "config": {"temperature": 1.0}})  # an option of DSPy's own
    check_call(lambda **inputs: inputs, {"anything": 1})
    check_call(functools.partial(lambda q, r: q, r=1), {"q": 1})
    check_program(max)


def test_what_a_program_returned_is_told_from_an_answer() -> None:
    async def later():
        return {}

    def generating():
        yield 1

    for answer, what in (
        (None, "None"), ("x", "a str"), (("x",), "a tuple"), (["x"], "a list"), (object(), "an object"),
        (later(), r"a coroutine, not a dspy.Prediction; .* \(an asynchronous forward is called aforward\)"),
        (generating(), "a generator"),
    ):  # fmt: skip
        with pytest.raises(NoPrediction, match=f"the program returned {what}"):
            check_answer(classifier(), answer)
    check_answer(classifier(), dspy.Prediction(a=1))
    check_answer(classifier(), {"a": 1})
    check_answer(len, "x")  # a function may return any value
    for answer in (None, later(), generating()):
        with pytest.raises(NoPrediction):
            check_answer(len, answer)


def test_programs_and_data_that_fit_are_answered_as_before() -> None:
    with dspy.context(lm=scripted_lm()):
        assert nb.evaluate(classifier(), reviews(6), SENTIMENT).errors.count == 0
