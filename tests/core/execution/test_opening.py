"""A run whose first answers show that nothing will be scored ends there, wherever it runs."""

from __future__ import annotations

import threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import dspy
import pytest

from dspy_nb.core.ab.compare import compare, compare_many
from dspy_nb.core.data.metrics import MetricError, exact_match
from dspy_nb.core.errors import DspyNbError, NoField, NoPrediction
from dspy_nb.core.evaluation.evaluate import evaluate
from tests.scripted import ScriptedEngine, classifier, reviews, scripted_lm

RIGHT = exact_match("answer")
N = 60


def examples(n: int = N) -> list[dspy.Example]:
    return [dspy.Example(number=number, answer="yes").with_inputs("number") for number in range(n)]


class Returning(dspy.Module):
    """Counts its calls, and returns what a function makes of the number of the example."""

    def __init__(self, answer) -> None:
        super().__init__()
        self.answer = answer
        self.asked: list[int] = []

    def forward(self, number):
        self.asked.append(number)
        return self.answer(number)


async def _later():
    return "yes"


def _generate():
    yield "yes"


NO_ANSWERS = {
    "None": (lambda number: None, NoPrediction, "the program returned None"),
    "a str": (lambda number: "yes", NoPrediction, "the program returned a str, not a dspy.Prediction"),
    "a tuple": (lambda number: ("yes", 1), NoPrediction, "the program returned a tuple"),
    "a list": (lambda number: ["yes"], NoPrediction, "the program returned a list"),
    "a generator": (lambda number: _generate(), NoPrediction, "the program returned a generator"),
    "a coroutine": (lambda number: _later(), NoPrediction, "an asynchronous forward is called aforward"),
    "an object": (lambda number: object(), NoPrediction, "the program returned an object"),
    "another field": (
        lambda number: dspy.Prediction(label="yes"),
        NoField,
        "no field 'answer' .* it has 'label'",
    ),
    "no field": (lambda number: dspy.Prediction(), NoField, "no field 'answer' in the answer; it has none"),
}


@pytest.mark.parametrize("case", NO_ANSWERS)
def test_a_program_whose_first_answers_are_none_ends_after_a_handful(case) -> None:
    answer, error, message = NO_ANSWERS[case]
    program = Returning(answer)
    with pytest.raises(error, match=message) as raised:
        evaluate(program, examples(), RIGHT, num_threads=1)
    assert "\n" not in str(raised.value)
    assert "all of the first 5 answers; no others were asked for" in str(raised.value)
    assert len(program.asked) == 5


@pytest.mark.parametrize("case", NO_ANSWERS)
def test_single_answers_that_are_none_are_errors_of_their_kind_and_never_a_zero(case) -> None:
    answer, error, _ = NO_ANSWERS[case]
    program = Returning(lambda number: dspy.Prediction(answer="yes") if number % 2 else answer(number))
    ev = evaluate(program, examples(), RIGHT, num_threads=1)
    assert ev.errors.kinds == {error.__name__: N // 2}
    assert ev.score_without_errors == 1.0
    assert [result.score for result in ev.results[:4]] == [None, True, None, True]
    assert not ev.reliable


def test_an_asynchronous_program_is_held_to_the_same() -> None:
    class Later(dspy.Module):
        asked = 0

        async def aforward(self, number):
            Later.asked += 1
            return "yes"

    with pytest.raises(NoPrediction, match="the program returned a str"):
        evaluate(Later(), examples(), RIGHT, num_threads=2)
    assert Later.asked <= 5 + 2


def test_a_function_may_return_a_bare_value_that_the_metric_can_read() -> None:
    data = [dspy.Example(number=1, output="yes").with_inputs("number")]
    assert evaluate(lambda number: "yes", data, exact_match("output")).score == 1.0
    assert evaluate(lambda number: "yes", data, lambda gold, pred: pred == "yes").score == 1.0
    ev = evaluate(lambda number: "yes", examples(3), RIGHT)
    assert ev.errors.kinds == {"NoPrediction": 3}


def _misspelt(gold, pred, trace=None):
    return gold.anser == pred.answer


def _silent(gold, pred, trace=None):
    print("looks good", end="")


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        (_misspelt, "the metric fails with AttributeError: _misspelt: .* no attribute 'anser'"),
        (_silent, "metric _silent returned None; valid is a bool"),
        (lambda gold, pred: _later(), "metric <lambda> returned <coroutine"),
        (lambda gold, pred: 1 / 0, "the metric fails with ZeroDivisionError"),
        (lambda gold, pred: pred.score, "the metric fails with AttributeError"),
        ([_silent, RIGHT], "metric _silent returned None"),
    ],
)
@pytest.mark.parametrize("num_threads", [1, 4])
def test_a_metric_that_never_works_ends_the_run_with_the_calls_in_flight(
    metric, message, num_threads
) -> None:
    program = Returning(lambda number: dspy.Prediction(answer="yes"))
    with pytest.raises(MetricError, match=message) as raised:
        evaluate(program, examples(), metric, num_threads=num_threads)
    assert "\n" not in str(raised.value)
    assert len(program.asked) <= num_threads


def test_a_metric_that_fails_after_it_has_worked_is_counted() -> None:
    def picky(gold, pred, trace=None):
        if gold.number % 2:
            raise KeyError("odd")
        return True

    ev = evaluate(Returning(lambda number: dspy.Prediction(answer="yes")), examples(), picky, num_threads=1)
    assert ev.errors.kinds == {"KeyError": N // 2}


def test_a_service_that_a_metric_asks_may_be_down_for_a_moment() -> None:
    def judged(down: int):
        calls = []

        def metric(gold, pred, trace=None):
            calls.append(gold.number)
            if len(calls) <= down:
                raise ConnectionError("the judge is down")
            return True

        return metric

    program = Returning(lambda number: dspy.Prediction(answer="yes"))
    assert evaluate(program, examples(), judged(4), num_threads=1).errors.kinds == {"ConnectionError": 4}
    program.asked.clear()
    with pytest.raises(
        MetricError, match=r"fails with ConnectionError: metric: the judge is down .* first 5"
    ):
        evaluate(program, examples(), judged(N), num_threads=1)
    assert len(program.asked) == 5


def test_what_a_program_raises_never_ends_the_evaluation() -> None:
    def down(number):
        raise RuntimeError("the service is down")

    ev = evaluate(Returning(down), examples(), RIGHT)
    assert ev.errors.kinds == {"RuntimeError": N}
    assert not ev.reliable


def test_errors_of_the_program_hide_no_broken_metric() -> None:
    def flaky(number):
        if number < 20:
            raise RuntimeError("down")
        return dspy.Prediction(answer="yes")

    program = Returning(flaky)
    with pytest.raises(MetricError, match="returned None"):
        evaluate(program, examples(), _silent, num_threads=1)
    assert len(program.asked) == 21


# -- comparisons ---------------------------------------------------------------------------------------------


def test_a_comparison_ends_where_one_program_never_answers() -> None:
    works, silent = Returning(lambda number: dspy.Prediction(answer="yes")), Returning(lambda number: "yes")
    for ask in (
        lambda: compare(works, silent, examples(), RIGHT, names=("old", "new"), num_threads=1),
        lambda: compare_many(
            works, [works, silent], examples(), RIGHT, names=("old", "other", "new"), num_threads=1
        ),
    ):
        silent.asked.clear()
        with pytest.raises(NoPrediction, match=r"^new: the program returned a str.* first 5 answers"):
            ask()
        assert len(silent.asked) == 5


@pytest.mark.parametrize("metric", [_misspelt, _silent])
def test_a_comparison_ends_where_the_metric_never_works(metric) -> None:
    program = Returning(lambda number: dspy.Prediction(answer="yes"))
    with pytest.raises(DspyNbError, match=metric.__name__):
        compare(program, program, examples(), metric, num_threads=1)
    assert len(program.asked) == 1


def test_a_comparison_counts_single_answers_without_the_field_as_errors() -> None:
    works = Returning(lambda number: dspy.Prediction(answer="yes"))
    worse = Returning(
        lambda number: dspy.Prediction(answer="yes") if number % 2 else dspy.Prediction(label="yes")
    )
    found = compare(works, worse, examples(), RIGHT, num_threads=1, sequential=False)
    assert found.b.errors.kinds == {"NoField": N // 2}
    assert found.verdict == "A better"


# -- executors -----------------------------------------------------------------------------------------------


def test_a_thread_pool_ends_too() -> None:
    program = Returning(lambda number: dspy.Prediction(answer="yes"))
    with ThreadPoolExecutor(2) as pool, pytest.raises(MetricError, match="returned None"):
        evaluate(program, examples(600), _silent, executor=pool)
    assert len(program.asked) <= 8


class Noting(dspy.Module):
    """Leaves a file for each call, for it runs in other processes."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def forward(self, number):
        (self.folder / str(number)).touch()
        return dspy.Prediction(label="yes")


@pytest.mark.parametrize(("metric", "error"), [(RIGHT, NoField), (_silent, MetricError)])
def test_other_processes_end_too(tmp_path, metric, error) -> None:
    with ProcessPoolExecutor(1) as pool, pytest.raises(error):
        evaluate(Noting(tmp_path), examples(600), metric, executor=pool, num_threads=1)
    assert len(list(tmp_path.iterdir())) <= 15


def test_a_pool_whose_first_chunk_fails_goes_on_where_others_were_scored() -> None:
    lock, scored = threading.Lock(), []

    def later(gold, pred, trace=None):
        with lock:
            scored.append(gold.number)
        if 20 <= gold.number < 40:
            raise KeyError("gap")
        return True

    program = Returning(lambda number: dspy.Prediction(answer="yes"))
    with ThreadPoolExecutor(1) as pool:
        ev = evaluate(program, examples(), later, executor=pool)
    assert ev.complete
    assert ev.errors.kinds == {"KeyError": 20}
    assert sorted(scored) == list(range(N))


# -- what the language model costs ---------------------------------------------------------------------------


def test_a_broken_metric_costs_one_call_of_the_language_model() -> None:
    engine = ScriptedEngine()
    with dspy.context(lm=scripted_lm(engine)), pytest.raises(MetricError):
        evaluate(classifier(), reviews(40), _silent, num_threads=1)
    assert engine.calls == 1
