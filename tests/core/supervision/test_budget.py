import threading

import dspy
import pytest
from dspy.utils.exceptions import AdapterParseError
from hypothesis import given
from hypothesis import strategies as st

from dspy_nb.core.errors import InputError
from dspy_nb.core.programs.usage import Usage
from dspy_nb.core.supervision import guard as guards
from dspy_nb.core.supervision.budget import Budget, ErrorCount, remaining
from dspy_nb.core.supervision.guard import Guard, StopRun
from tests.moments import HANG_S, Clock, wait_for_workers
from tests.scripted import ScriptedEngine, classifier, scripted_lm


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"lm_calls": 0}, "lm_calls=0"),
        ({"lm_calls": 2.5}, "lm_calls=2.5"),
        ({"tokens": True}, "tokens=True"),
        ({"seconds": -1}, "seconds=-1"),
        ({"seconds": float("nan")}, "seconds=nan"),
        ({"usd": "2"}, "usd='2'"),
    ],
)
def test_a_limit_that_is_not_a_positive_number_is_refused_by_name(limits, message):
    with pytest.raises(InputError, match=message):
        Budget(**limits)


def test_a_budget_says_its_limits_in_words():
    assert str(Budget(lm_calls=2000, seconds=600, usd=2)) == "2,000 LM calls, 600 s, $2.00"
    assert str(Budget()) == "no limit"


def test_what_is_left_of_a_budget_counts_what_was_used_and_what_is_reserved():
    budget = Budget(lm_calls=100, seconds=60.0)
    assert remaining(budget, Usage(lm_calls=30), 10.0, reserve=Usage(lm_calls=20)) == Budget(50, 50.0)
    assert remaining(budget, Usage(lm_calls=100), 0.0) == "lm_calls"
    assert remaining(budget, Usage(), 60.0) == "seconds"
    assert remaining(Budget(usd=2.0), Usage(usd=None), 0.0) == Budget(usd=2.0)


@given(st.lists(st.tuples(st.integers(0, 9), st.one_of(st.none(), st.integers(0, 99)))))
def test_usage_adds_up_and_unknown_stays_unknown(parts):
    total = sum((Usage(lm_calls=n, prompt_tokens=tokens) for n, tokens in parts), Usage())
    assert total.lm_calls == sum(n for n, _ in parts)
    known = [tokens for _, tokens in parts]
    assert total.prompt_tokens == (None if None in known else sum(known))


def _work(guard: Guard, program, n: int) -> None:
    with dspy.context(**guard.settings()):
        for i in range(n):
            program(review=f"number {i} is good")


def test_calls_tokens_and_hits_are_counted():
    engine = ScriptedEngine()
    guard = Guard(Budget(), threading.Event())
    with dspy.context(lm=scripted_lm(engine, "scripted/counted", cache=True)):
        _work(guard, classifier(), 3)
        _work(guard, classifier(), 3)
    assert engine.calls == 3
    assert guard.usage == Usage(lm_calls=3, cache_hits=3, prompt_tokens=30, completion_tokens=15, usd=None)


def test_a_request_for_several_completions_counts_as_several_calls():
    engine = ScriptedEngine()
    guard = Guard(Budget(), threading.Event())
    with dspy.context(lm=scripted_lm(engine)), dspy.context(**guard.settings()):
        classifier()(review="good", config={"n": 4, "temperature": 1.0})
    assert engine.calls == guard.usage.lm_calls == 4


def test_a_request_that_does_not_fit_the_budget_whole_is_not_made():
    engine = ScriptedEngine()
    guard = Guard(Budget(lm_calls=5), threading.Event())
    with dspy.context(lm=scripted_lm(engine)), dspy.context(**guard.settings()):
        classifier()(review="good", config={"n": 4, "temperature": 1.0})
        with pytest.raises(StopRun):
            classifier()(review="bad", config={"n": 4, "temperature": 1.0})
    assert engine.calls == 4
    assert guard.reason == "lm_calls"


@pytest.mark.parametrize("threads", [1, 8])
def test_the_budget_is_spent_to_the_last_call_and_never_exceeded(threads):
    engine = ScriptedEngine(delay_s=0.002)
    guard = Guard(Budget(lm_calls=50), threading.Event())
    program = classifier()

    def work(example):
        return program(**example)

    with dspy.context(lm=scripted_lm(engine)), dspy.context(**guard.settings()), pytest.raises(StopRun):
        executor = dspy.Parallel(num_threads=threads, disable_progress_bar=True)
        executor([(program, {"review": f"{i} is good"}) for i in range(200)])
    guard.wait_for_calls(HANG_S)
    assert engine.calls == guard.usage.lm_calls == 50


def test_cache_hits_in_flight_do_not_use_up_the_budget():
    engine = ScriptedEngine()
    lm = scripted_lm(engine, "scripted/flight", cache=True)
    program = classifier()
    with dspy.context(lm=lm):
        program(review="known is good")
        guard = Guard(Budget(lm_calls=1), threading.Event())
        with dspy.context(**guard.settings()):
            run = dspy.Parallel(num_threads=8, disable_progress_bar=True)
            run([(program, {"review": "known is good"}) for _ in range(40)])
            program(review="new is good")
    assert guard.usage.lm_calls == 1
    assert guard.usage.cache_hits == 40


@pytest.mark.parametrize(
    ("budget", "reason"), [(Budget(tokens=40), "tokens"), (Budget(seconds=0.05), "seconds")]
)
def test_tokens_and_seconds_stop_at_the_next_call(budget, reason, monkeypatch):
    clock = Clock()
    monkeypatch.setattr(guards, "time", clock)
    engine = ScriptedEngine()
    engine.on_call = lambda number: clock.move(0.02)
    guard = Guard(budget, threading.Event())
    with dspy.context(lm=scripted_lm(engine)), pytest.raises(StopRun) as stopped:
        _work(guard, classifier(), 50)
    assert stopped.value.reason == guard.reason == reason
    assert engine.calls == 3  # of 15 tokens and .02 s each


def test_a_budget_in_dollars_that_cannot_be_enforced_stops_after_one_call():
    engine = ScriptedEngine()
    guard = Guard(Budget(usd=1.0), threading.Event())
    with dspy.context(lm=scripted_lm(engine)), pytest.raises(StopRun):
        _work(guard, classifier(), 5)
    assert guard.reason == "unknown usd"
    assert engine.calls == 1


def test_once_stopped_nothing_starts_any_more_in_any_thread():
    """Also not in the pool that DSPy leaves behind: only the calls that the other threads are at come after it."""
    others = set(threading.enumerate())
    engine = ScriptedEngine(delay_s=0.01)
    stop = threading.Event()
    guard = Guard(Budget(), stop)
    engine.on_call = lambda number: stop.set() if number == 5 else None
    program = classifier()
    with dspy.context(lm=scripted_lm(engine)), dspy.context(**guard.settings()), pytest.raises(StopRun):
        run = dspy.Parallel(num_threads=4, disable_progress_bar=True)
        run([(program, {"review": f"{i} is good"}) for i in range(100)])
    guard.wait_for_calls(HANG_S)
    calls = engine.calls
    wait_for_workers("ThreadPoolExecutor", besides=others)
    assert engine.calls == calls <= 8


def test_a_call_that_was_about_to_begin_at_a_stop_is_not_made():
    """Else it would be made, and paid for, after the run has found no call in flight and has ended."""
    engine = ScriptedEngine()
    stop, at_the_door = threading.Event(), threading.Event()
    guard = Guard(Budget(), stop)

    class Door(threading.Condition):
        def __enter__(self):
            at_the_door.set()
            return super().__enter__()

    def call():
        with dspy.context(lm=scripted_lm(engine)), pytest.raises(StopRun):
            _work(guard, classifier(), 1)

    guard._settled = Door()
    caller = threading.Thread(target=call)
    guard._settled.acquire()
    caller.start()
    assert at_the_door.wait(HANG_S)
    stop.set()
    guard._settled.release()
    caller.join()
    assert engine.calls == 0
    assert guard.reason == "stop"


def test_a_failed_call_counts_as_one_and_as_an_error():
    engine = ScriptedEngine(failing=lambda number, request: ValueError("down") if number == 2 else None)
    guard = Guard(Budget(), threading.Event())
    with dspy.context(lm=scripted_lm(engine, num_retries=0)), dspy.context(**guard.settings()):
        program = classifier()
        program(review="good")
        with pytest.raises(Exception, match="down"):
            program(review="bad")
    assert guard.usage.lm_calls == engine.calls == 2
    assert guard.errors.count == 1
    assert "down" in str(guard.errors)


def test_a_program_that_always_fails_is_given_up_after_ten_calls():
    engine = ScriptedEngine(failing=lambda number, request: ValueError("down"))
    guard = Guard(Budget(), threading.Event())
    failures = 0
    with (
        dspy.context(lm=scripted_lm(engine, num_retries=0), adapter=dspy.JSONAdapter()),
        pytest.raises(StopRun),
        dspy.context(**guard.settings()),
    ):
        for _ in range(100):
            try:
                classifier()(review="good")
            except Exception:
                failures += 1
    assert failures == 9
    assert guard.reason == "errors"
    assert guard.hopeless


def test_answers_in_the_wrong_format_are_no_reason_to_give_up():
    """Demos often mend them: the run goes on, and counts them."""
    guard = Guard(Budget(), threading.Event())
    with dspy.context(lm=scripted_lm()), dspy.context(**guard.settings()):
        for _ in range(30):
            with pytest.raises(AdapterParseError):
                dspy.Predict("review -> sentiment: int")(review="good")
    assert guard.errors.kinds == {"AdapterParseError": 30}
    assert not guard.hopeless


def test_what_dspy_raises_over_an_answer_in_the_wrong_format_counts_as_that():
    """GEPA of DSPy 3.4.1 raises a TypeError while it handles one."""
    guard = Guard(Budget(), threading.Event())
    error = TypeError("unsupported operand type(s) for /: 'list' and 'list'")
    error.__context__ = AdapterParseError("ChatAdapter", dspy.Signature("a -> b"), "no format")
    for _ in range(30):
        guard.add_error(error)
    assert guard.errors.kinds == {"AdapterParseError": 30}
    assert not guard.hopeless


def test_a_model_that_goes_down_later_is_given_up_after_a_row_of_failures():
    guard = Guard(Budget(), threading.Event())
    with dspy.context(lm=scripted_lm()):
        _work(guard, classifier(), 100)
    for _ in range(24):
        guard.add_error(ValueError("down"))
    with pytest.raises(StopRun):
        guard.add_error(ValueError("down"))
    assert not guard.hopeless


def test_errors_are_counted_by_kind_with_the_first_message_of_each():
    errors = ErrorCount()
    for error in (ValueError("first"), ValueError("second"), KeyError("k")):
        errors.add(error)
    assert str(errors + ErrorCount()) == "2 x ValueError: first; 1 x KeyError: 'k'"


def test_a_usage_tracker_of_the_caller_goes_on_counting():
    guard = Guard(Budget(), threading.Event())
    with dspy.context(lm=scripted_lm()), dspy.track_usage() as tracker:
        _work(guard, classifier(), 2)
    assert tracker.get_total_tokens()["scripted/model"]["prompt_tokens"] == 20
