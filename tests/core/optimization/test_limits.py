"""A limit holds even when a call never comes back, and what failed is counted and loses nothing."""

from __future__ import annotations

import asyncio
import functools
import random
import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import dspy
import pytest
from dspy.lm15 import RateLimitError, Request
from hypothesis import given
from hypothesis import strategies as st

from dspy_nb import demo
from dspy_nb.core.ab.compare import compare
from dspy_nb.core.data.metrics import exact_match
from dspy_nb.core.errors import InputError, OptimizationFailed
from dspy_nb.core.evaluation.evaluate import evaluate
from dspy_nb.core.events import Completed
from dspy_nb.core.local.engine import local_lm
from dspy_nb.core.optimization import search
from dspy_nb.core.optimization.optimize import optimize
from dspy_nb.core.optimization.run import OptimizationRun
from dspy_nb.core.programs.meter import Meter, watch_requests
from dspy_nb.core.registry.registry import Registry
from dspy_nb.core.supervision import guard
from dspy_nb.core.supervision.budget import Budget
from dspy_nb.core.supervision.guard import Guard
from tests import ROOT, name_of
from tests.children import Children
from tests.core.optimization.test_optimize import CALLING, EVALUATING, OPTIONS
from tests.moments import HANG_S, Clock, wait_until
from tests.properties import tries
from tests.scripted import ScriptedEngine, classifier, reviews, scripted_lm

METRIC = exact_match("sentiment")
TRAIN, VAL, TEST = reviews(16, "train"), reviews(10, "val"), reviews(6, "test")
AT_ONCE = Budget(grace=0)


class Hanging(ScriptedEngine):
    """An engine of which some calls never come back, until the test is over.

    Args:
        hangs: Tells, by its number from 1, whether a call hangs.
    """

    def __init__(self, hangs: Callable[[int], bool]) -> None:
        super().__init__()
        self.hangs = hangs
        self.over = threading.Event()
        self.hung = threading.Event()
        self.on_call = self._hang

    def _hang(self, number: int) -> None:
        if self.hangs(number):
            self.hung.set()
            self.over.wait(HANG_S)


@pytest.fixture
def hanging() -> Iterator[Callable[[Callable[[int], bool]], Hanging]]:
    engines: list[Hanging] = []

    def make(hangs: Callable[[int], bool]) -> Hanging:
        engines.append(Hanging(hangs))
        return engines[-1]

    yield make
    for engine in engines:
        engine.over.set()


def settled(engine: ScriptedEngine, run: OptimizationRun) -> bool:
    """Whether the engine got as many calls as the run counted: one may have been on its way to it at the end."""
    return wait_until(lambda: engine.calls >= run.usage.lm_calls) and engine.calls == run.usage.lm_calls


def run_it(engine: Any, name: str = "BootstrapFewShotWithRandomSearch", **changes: Any) -> OptimizationRun:
    arguments: dict[str, Any] = {
        "trainset": TRAIN, "valset": VAL, "metric": METRIC, "optimizer": name, "num_threads": 4,
        "options": OPTIONS.get(name, {}), "budget": AT_ONCE,
    }  # fmt: skip
    with dspy.context(lm=scripted_lm(engine, num_retries=0)):
        return optimize(classifier(), **arguments | changes)


# -- calls that never come back -----------------------------------------------------------------------------------


@pytest.mark.heavy
@pytest.mark.parametrize("all_hang", [False, True], ids=["one hangs", "all hang from there on"])
@pytest.mark.parametrize("name", CALLING)
def test_a_stop_ends_every_optimizer_though_a_call_never_comes_back(
    name: str, all_hang: bool, hanging: Any
) -> None:
    engine = hanging(lambda number: number >= 13 if all_hang else number == 13)
    stop = threading.Event()
    threading.Thread(target=lambda: engine.hung.wait(HANG_S) and stop.set(), daemon=True).start()
    with pytest.warns(UserWarning, match="left behind in"):
        run = run_it(engine, name, stop=stop)
    assert run.stopped_by == "stop"
    assert settled(engine, run)
    assert 0 < len(run.left_behind) <= 5  # four calls, and the thread that waits for them


@pytest.mark.heavy
@tries(0.15)
@given(st.sampled_from(CALLING), st.integers(1, 70), st.booleans(), st.integers(1, 8), st.booleans())
def test_wherever_a_call_hangs_a_run_ends_and_counts_what_it_sent(
    name: str, place: int, all_hang: bool, threads: int, tested: bool
) -> None:
    engine = Hanging(lambda number: number >= place if all_hang else number == place)
    stop = threading.Event()
    threading.Thread(target=lambda: engine.hung.wait(HANG_S) and stop.set(), daemon=True).start()
    with warnings.catch_warnings(action="ignore"):
        run = run_it(engine, name, stop=stop, num_threads=threads, testset=TEST if tested else None)
    assert settled(engine, run)
    assert run.stopped_by == ("stop" if engine.hung.is_set() else None)
    assert bool(run.left_behind) == engine.hung.is_set()
    engine.hung.set()
    engine.over.set()


@pytest.mark.parametrize("hangs", [1, 11, 30], ids=["before", "at first", "later"])
def test_a_time_limit_ends_a_run_whose_calls_hang(
    hangs: int, hanging: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    for module in (guard, search):
        monkeypatch.setattr(module, "time", clock)
    engine = hanging(lambda number: number >= hangs and (clock.move(60), True)[1])
    with pytest.warns(UserWarning, match="left behind in"):
        run = run_it(engine, budget=Budget(seconds=60, grace=0), testset=TEST)
    assert run.stopped_by == "seconds"
    assert settled(engine, run)
    assert run.origin == ("candidate" if hangs == 30 else "given")


def test_a_limit_on_calls_ends_a_run_whose_last_calls_hang(hanging: Any) -> None:
    engine = hanging(lambda number: number > 25)
    with pytest.warns(UserWarning, match="left behind in"):
        run = run_it(engine, budget=Budget(lm_calls=28, grace=0))
    assert run.stopped_by == "lm_calls"
    assert run.usage.lm_calls == engine.calls == 28
    assert run.origin == "candidate"


def test_a_second_interrupt_ends_the_wait_for_what_hangs(hanging: Any) -> None:
    engine = hanging(lambda number: number == 13)
    waiting = threading.Event()

    def press_twice() -> None:
        engine.hung.wait(HANG_S)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        waiting.wait(HANG_S)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    class Waits(float):
        """So long that the test would fail, and it tells when it is looked at."""

        def __radd__(self, other: float) -> float:
            waiting.set()
            return float(self) + other

    threading.Thread(target=press_twice, daemon=True).start()
    with pytest.warns(UserWarning, match="left behind in"):
        run = run_it(engine, budget=Budget(grace=Waits(10 * HANG_S)))
    assert run.stopped_by == "interrupt"
    assert settled(engine, run)


def test_calls_that_come_back_within_the_grace_are_counted_with_their_tokens(hanging: Any) -> None:
    engine = hanging(lambda number: number == 13)
    stop = threading.Event()
    threading.Thread(
        target=lambda: engine.hung.wait(HANG_S) and (stop.set(), engine.over.set()), daemon=True
    ).start()
    run = run_it(engine, budget=Budget(grace=HANG_S), stop=stop)
    assert run.left_behind == ()
    assert (run.usage.lm_calls, run.usage.tokens) == (engine.calls, 15 * engine.calls)


def test_a_background_run_is_stopped_though_a_call_hangs(hanging: Any) -> None:
    engine = hanging(lambda number: number == 13)
    with warnings.catch_warnings(action="ignore"):
        run = run_it(engine, background=True)
        assert engine.hung.wait(HANG_S)
        run.stop()
        assert run.wait(HANG_S).stopped_by == "stop"


def test_a_metric_and_a_tool_that_hang_are_left_behind_too() -> None:
    over, hung, stop = threading.Event(), threading.Event(), threading.Event()

    def metric(gold: Any, pred: Any, trace: Any = None) -> float:
        hung.set()
        over.wait(HANG_S)
        return 1.0

    threading.Thread(target=lambda: hung.wait(HANG_S) and stop.set(), daemon=True).start()
    with pytest.warns(UserWarning, match="left behind in"):
        run = run_it(ScriptedEngine(), "BootstrapFewShot", valset=None, metric=metric, stop=stop)
    over.set()
    assert run.stopped_by == "stop"
    assert len(run.left_behind) == 2  # the optimizer's thread, which called the metric, is said once each


def test_nothing_is_told_of_a_run_after_its_end(hanging: Any) -> None:
    engine = hanging(lambda number: number == 13)
    stop, events = threading.Event(), []
    threading.Thread(target=lambda: engine.hung.wait(HANG_S) and stop.set(), daemon=True).start()
    with pytest.warns(UserWarning, match="left behind in"):
        run = run_it(engine, stop=stop, on_event=events.append)
    candidates, usage = run.candidates, run.usage
    left = [thread for thread in threading.enumerate() if thread.name in run.left_behind]
    engine.over.set()
    for thread in left:
        thread.join(HANG_S)
    assert isinstance(events[-1], Completed)
    assert (run.candidates, run.usage) == (candidates, usage)


@pytest.mark.heavy
def test_a_process_ends_though_a_call_of_its_run_hangs(children: Children) -> None:
    assert children(_stopped_in_a_process).rest() == ["seconds"]


def _stopped_in_a_process() -> Iterator[str | None]:
    engine = Hanging(lambda number: number > 20)
    with warnings.catch_warnings(action="ignore"):
        yield run_it(engine, budget=Budget(seconds=1, grace=0)).stopped_by


# -- the time limit of a call -------------------------------------------------------------------------------------


@pytest.mark.heavy
@pytest.mark.parametrize("name", CALLING)
def test_a_lost_call_is_one_error_and_the_run_goes_on(name: str, hanging: Any) -> None:
    engine = hanging(lambda number: number == 9)
    run = run_it(engine, name, budget=Budget(call_seconds=1.5))
    assert run.stopped_by is None
    assert settled(engine, run)
    assert run.errors.kinds["CallTimeout"] == 1
    assert "no answer within 1.5 s" in run.errors.first["CallTimeout"]


def test_a_lost_call_of_an_asynchronous_program_is_one_error() -> None:
    class Engine(ScriptedEngine):
        async def complete(self, request: Request) -> Any:  # type: ignore[override]
            if self.calls == 2:
                self.calls += 1
                await asyncio.sleep(HANG_S)
            return super().complete(request)

    class Asynchronous(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.predict = classifier()

        async def aforward(self, review: str) -> dspy.Prediction:
            return await self.predict.acall(review=review)

    engine = Engine()
    lm = dspy.LM("scripted/async", engine=ScriptedEngine(), async_engine=engine, cache=False, num_retries=0)
    watch_requests()
    meter = Meter(lambda *_: None, lambda *_: None, call_seconds=1.5)
    with dspy.context(lm=lm, usage_tracker=meter):
        found = evaluate(Asynchronous(), TRAIN[:6], METRIC, num_threads=2)
    assert dict(found.errors.kinds) == {"CallTimeout": 1}
    assert found.usage.lm_calls == engine.calls


@pytest.mark.local_model
def test_a_call_of_the_embedded_model_that_hangs_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = local_lm(cache=False)
    complete, over, asked = lm.engine.complete, threading.Event(), []

    def hang_once(request: Request) -> Any:
        asked.append(request)
        if len(asked) == 5:
            over.wait(HANG_S)
        return complete(request)

    monkeypatch.setattr(lm.engine, "complete", hang_once)
    asked_of = demo.reviews()
    random.Random(0).shuffle(
        asked_of
    )  # as a comparison does, so that the answers are among the recorded ones
    with dspy.context(lm=lm, adapter=dspy.JSONAdapter()):
        run = optimize(
            Registry(ROOT / "registry").load("sentiment@1.0.0"), trainset=asked_of[8:12], valset=asked_of[:6],
            metric=METRIC, optimizer="LabeledFewShot", options={"k": 0}, num_threads=2,
            budget=Budget(call_seconds=12),
        )  # fmt: skip
    over.set()
    assert run.stopped_by is None
    assert dict(run.errors.kinds) == {"CallTimeout": 1}
    assert run.usage.lm_calls == len(asked) == 12


@pytest.mark.parametrize("grace", [-1, "5", None, True, float("nan")], ids=str)
def test_a_grace_that_is_no_time_is_refused(grace: Any) -> None:
    with pytest.raises(InputError, match="grace"):
        Budget(grace=grace)


# -- requests that are sent again ---------------------------------------------------------------------------------


def _busy(number: int, request: Request) -> Exception | None:
    return RateLimitError("too many", retry_after=0.0) if number % 3 == 0 else None


def busy_lm(engine: ScriptedEngine, **options: Any) -> dspy.LM:
    return scripted_lm(engine, num_retries=3, **options)


@pytest.mark.parametrize("threads", [1, 8], ids=str)
@pytest.mark.parametrize("limit", [1, 2, 3, 20, 60], ids=str)
def test_retries_count_as_calls_and_never_exceed_the_budget(limit: int, threads: int) -> None:
    engine = ScriptedEngine(failing=_busy)
    with dspy.context(lm=busy_lm(engine)):
        run = optimize(
            classifier(), trainset=TRAIN, valset=VAL, metric=METRIC, num_threads=threads,
            optimizer="BootstrapFewShotWithRandomSearch", budget=Budget(lm_calls=limit),
        )  # fmt: skip
    assert run.stopped_by == "lm_calls"
    assert run.usage.lm_calls == engine.calls == limit


def test_a_request_of_several_completions_counts_each_and_each_retry() -> None:
    engine = ScriptedEngine(failing=_busy)
    counting = Guard(Budget(), threading.Event())
    with dspy.context(**counting.settings()):
        assert len(busy_lm(engine)("hello", n=5)) == 5
    assert counting.usage.lm_calls == engine.calls == 7


def test_retries_count_in_an_evaluation() -> None:
    engine = ScriptedEngine(failing=_busy)
    with dspy.context(lm=busy_lm(engine)):
        found = evaluate(classifier(), TRAIN, METRIC)
    assert found.errors.count == 0
    assert found.usage.lm_calls == engine.calls > len(TRAIN)


def test_a_call_that_fails_in_the_end_counts_all_its_requests() -> None:
    engine = ScriptedEngine(failing=lambda number, request: RateLimitError("too many", retry_after=0.0))
    with dspy.context(lm=busy_lm(engine)):
        found = evaluate(classifier(), TRAIN[:2], METRIC)
    assert found.usage.lm_calls == engine.calls == 8


def test_a_stop_ends_the_retries() -> None:
    stop = threading.Event()

    def failing(number: int, request: Request) -> Exception | None:
        if number < 5:
            return None
        stop.set()
        return RateLimitError("too many", retry_after=0.0)

    engine = ScriptedEngine(failing=failing)
    with dspy.context(lm=busy_lm(engine)):
        run = optimize(
            classifier(), trainset=TRAIN, metric=METRIC, num_threads=1, stop=stop,
            options={"max_bootstrapped_demos": 16},
        )  # fmt: skip
    assert (run.stopped_by, run.usage.lm_calls, engine.calls) == ("stop", 5, 5)


# -- what fails late ----------------------------------------------------------------------------------------------


class Leaves(BaseException):
    pass


_LATE = sorted({*EVALUATING} - {"GEPA"})  # which keeps no candidate of this model
_ERRORS = [RuntimeError("down"), SystemExit(3), asyncio.CancelledError(), Leaves()]
_FAILURES = [*((name, _ERRORS[0]) for name in _LATE), *(("COPRO", error) for error in _ERRORS[1:])]


@pytest.mark.parametrize(("name", "error"), _FAILURES, ids=name_of)
def test_an_optimizer_that_fails_late_keeps_the_best(
    name: str, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    cls = getattr(dspy.teleprompt, name)
    usual = cls.compile

    @functools.wraps(usual)
    def fail_in_the_end(self: Any, *arguments: Any, **named: Any) -> None:
        usual(self, *arguments, **named)
        raise error

    monkeypatch.setattr(cls, "compile", fail_in_the_end)
    with pytest.warns(UserWarning, match="the best candidate until then is kept"):
        run = run_it(ScriptedEngine(), name)
    assert (run.stopped_by, run.origin) == ("failure", "candidate")
    assert run.score is not None
    assert run.errors.fatal is not None


@pytest.mark.parametrize("error", [RuntimeError("down"), SystemExit(3)], ids=name_of)
def test_an_optimizer_that_fails_before_any_candidate_fails_the_run(
    error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Any, *args: Any, **named: Any) -> Any:
        raise error

    monkeypatch.setattr(dspy.BootstrapFewShotWithRandomSearch, "compile", fail)
    with pytest.raises(OptimizationFailed, match=type(error).__name__):
        run_it(ScriptedEngine())


def test_a_prompt_model_that_fails_late_loses_no_candidate() -> None:
    def failing(number: int, request: Request) -> Exception | None:
        return RuntimeError("provider down") if number > 9 else None

    prompts = scripted_lm(ScriptedEngine(failing=failing), name="scripted/prompts", num_retries=0)
    options = {"breadth": 3, "depth": 4, "prompt_model": prompts}
    with pytest.warns(UserWarning, match="provider down"):
        run = run_it(ScriptedEngine(), "COPRO", options=options)
    assert run.stopped_by == "failure"
    assert run.candidates


def test_a_metric_that_returns_nonsense_late_loses_no_candidate() -> None:
    calls = [0]

    def metric(gold: Any, pred: Any, trace: Any = None) -> float:
        calls[0] += 1
        return 7.0 if calls[0] > 45 else float(METRIC(gold, pred, trace))

    with pytest.warns(UserWarning, match=r"returned 7; .*the best candidate until then is kept"):
        run = run_it(ScriptedEngine(), metric=metric, num_threads=1)
    assert (run.stopped_by, run.origin) == ("metric", "candidate")


# -- evaluations --------------------------------------------------------------------------------------------------


def test_an_evaluation_ends_at_its_time_though_a_call_hangs(hanging: Any) -> None:
    engine = hanging(lambda number: number == 5)
    with dspy.context(lm=scripted_lm(engine)):
        found = evaluate(classifier(), TRAIN, METRIC, num_threads=2, stop_after_s=1)
    assert not found.complete
    assert found.n < len(TRAIN)
    with pytest.raises(InputError, match="stop_after_s"):
        evaluate(classifier(), TRAIN, METRIC, stop_after_s=0)


def test_a_comparison_ends_at_its_time_though_a_call_hangs(hanging: Any) -> None:
    engine = hanging(lambda number: number == 25)
    with dspy.context(lm=scripted_lm(engine)):
        found = compare(
            classifier(), classifier(), TRAIN, METRIC, num_threads=2, stop_after_s=1, max_examples=16
        )
    assert not found.complete
    assert found.n < 16
