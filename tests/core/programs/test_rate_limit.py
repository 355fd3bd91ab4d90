"""A run takes no more requests and tokens a minute than it may, and no wait outlives a stop."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import copy
import dataclasses
import pickle
import threading
from collections.abc import Callable, Coroutine, Iterator
from types import SimpleNamespace
from typing import Any

import dspy
import pytest
from dspy.lm15 import RateLimitError, Request, Response
from dspy.lm15 import Usage as NotReported
from hypothesis import given
from hypothesis import strategies as st

import dspy_nb as nb
from dspy_nb.core.programs import rate_limit
from dspy_nb.core.programs.meter import Meter, watch_requests
from dspy_nb.core.programs.rate_limit import RateLimit, Turn, limited
from dspy_nb.core.programs.usage import Usage
from dspy_nb.core.supervision.budget import Budget
from dspy_nb.core.supervision.guard import Guard, StopRun
from dspy_nb.views.progress.states import EvaluationState
from dspy_nb.views.wording import usage_facts
from tests.moments import HANG_S, Clock, wait_for_workers, wait_until
from tests.properties import tries
from tests.scripted import ScriptedEngine, classifier, reviews, scripted_lm

METRIC = nb.exact_match("sentiment")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of the rate limits; a request that waits looks at it 200 times a second."""
    found = Clock()
    monkeypatch.setattr(rate_limit, "time", found)
    monkeypatch.setattr(rate_limit, "_TICK_S", 0.005)
    return found


class Virtual(asyncio.SelectorEventLoop):
    """An event loop in which nothing takes time: where it would sleep, it moves the clock."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock
        self._look: Callable[[float | None], Any] = self._selector.select  # type: ignore[attr-defined]
        self._selector.select = self._skip  # type: ignore[attr-defined]

    def time(self) -> float:
        return self._clock.now

    def _skip(self, timeout: float | None) -> Any:
        if timeout is None:  # a thread is at work
            return self._look(None)
        if not (found := self._look(0)):
            self._clock.move(timeout)
        return found


def run_virtually(clock: Clock, work: Coroutine[Any, Any, Any]) -> None:
    with asyncio.Runner(loop_factory=lambda: Virtual(clock)) as runner:
        runner.run(work)


class Waiting(Meter):
    """Hears of requests that wait."""

    def __init__(self) -> None:
        super().__init__(lambda *_: None, lambda *_: None)
        self.waits = 0
        self.error: BaseException | None = None

    def waiting(self, wait_s: float, new_s: float) -> None:
        self.waits += 1
        if self.error is not None:
            raise self.error


@pytest.fixture
def heard() -> Iterator[Waiting]:
    watch_requests()
    found = Waiting()
    with dspy.context(usage_tracker=found):
        yield found


def ask(lm: dspy.LM, number: int = 1) -> list[threading.Thread]:
    """Call a language model in threads of their own, each in the DSPy context of this one."""

    def call() -> None:
        with contextlib.suppress(dspy.LMError, Interrupted):
            lm("hello")

    threads = [threading.Thread(target=contextvars.copy_context().run, args=(call,)) for _ in range(number)]
    for thread in threads:
        thread.start()
    return threads


def join(threads: list[threading.Thread]) -> None:
    for thread in threads:
        thread.join(HANG_S)
    assert not any(thread.is_alive() for thread in threads)


class Interrupted(BaseException):
    """What ends a wait."""


# -- what it is -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({}, "rate limit: give requests_per_minute, tokens_per_minute or both"),
        ({"requests_per_minute": 0}, "rate limit: requests_per_minute=0 is not a positive whole number"),
        ({"tokens_per_minute": 2.5}, "rate limit: tokens_per_minute=2.5 is not a positive whole number"),
        (
            {"requests_per_minute": True},
            "rate limit: requests_per_minute=True is not a positive whole number",
        ),
    ],
)
def test_a_rate_that_is_no_positive_whole_number_is_refused_by_name(limits: Any, message: str) -> None:
    with pytest.raises(nb.InputError) as refused:
        RateLimit(**limits)
    assert str(refused.value) == message


def test_a_rate_limit_says_itself_in_words() -> None:
    assert str(RateLimit(1)) == "1 request a minute"
    assert repr(RateLimit(60, 90_000)) == "RateLimit(60 requests and 90,000 tokens a minute)"


@given(st.integers(1, 10_000), st.integers(1, 10**6), st.integers(1, 500))
def test_shares_keep_together_to_the_whole(requests: int, tokens: int, parts: int) -> None:
    whole = RateLimit(requests, tokens)
    if min(requests, tokens) < parts:
        with pytest.raises(nb.InputError, match="is too small to be shared by"):
            whole.share(parts)
        return
    one = whole.share(parts)
    assert 1 <= one.requests_per_minute * parts <= requests  # type: ignore[operator]
    assert 1 <= one.tokens_per_minute * parts <= tokens  # type: ignore[operator]


def test_what_travels_is_one_limit_where_it_arrives() -> None:
    limit = RateLimit(60).share(2)
    packed = pickle.dumps(limit)
    first, second = pickle.loads(packed), pickle.loads(packed)
    assert first is second
    assert str(first) == "30 requests a minute"
    assert copy.deepcopy(limit) is limit


def test_what_is_no_rate_limit_is_refused_before_anything_is_asked() -> None:
    engine = ScriptedEngine()
    data: Any = reviews(4)
    with dspy.context(lm=scripted_lm(engine)):
        for call in (
            lambda: nb.evaluate(classifier(), data, METRIC, rate_limit=60),  # type: ignore[arg-type]
            lambda: nb.compare(classifier(), classifier(), data, METRIC, rate_limit=60),  # type: ignore[arg-type]
            lambda: nb.optimize(classifier(), trainset=data, metric=METRIC, rate_limit=60),  # type: ignore[arg-type]
            lambda: nb.sweep(
                classifier(),
                over={"lm": [scripted_lm(name="a/b")]},
                testset=data,
                metric=METRIC,
                rate_limit=60,  # type: ignore[arg-type]
            ),
        ):
            with pytest.raises(nb.InputError, match=r"rate_limit must be a dspy_nb\.RateLimit"):
                call()
    assert engine.calls == 0


# -- requests ---------------------------------------------------------------------------------------------------


def send(limit: RateLimit, arrivals: list[float], took_s: float, tokens: int) -> list[float]:
    """Let requests arrive on an event loop where nothing takes time; return when each was sent, in order."""
    clock, sent = Clock(), []

    async def request(arrival: float) -> None:
        await asyncio.sleep(arrival)
        with Turn(lambda: 1) as turn:
            for seconds in turn.waits(lambda *_: None):
                await asyncio.sleep(seconds)
            turn.begin()
            sent.append(clock.now - 100.0)
            await asyncio.sleep(took_s)
            turn.used = tokens

    async def all_of_them() -> None:
        await asyncio.gather(*map(request, arrivals))

    with pytest.MonkeyPatch.context() as patch, limited(limit):
        patch.setattr(rate_limit, "time", clock)
        patch.setattr(rate_limit, "_TICK_S", 5.0)
        run_virtually(clock, all_of_them())
    return sent


@tries(0.5)
@given(
    st.integers(1, 6), st.lists(st.floats(0, 300), min_size=1, max_size=20), st.sampled_from([0.0, 0.5, 90.0])
)
def test_no_60_seconds_have_more_requests_than_the_limit_and_none_waits_in_vain(
    limit: int, arrivals: list[float], took_s: float
) -> None:
    sent = send(RateLimit(limit), arrivals, took_s, 10)
    assert all(later - sooner > 60 - 1e-6 for sooner, later in zip(sent, sent[limit:], strict=False))
    for place, arrival in enumerate(sorted(arrivals)):
        earliest = arrival if place < limit else max(arrival, sent[place - limit] + 60)
        assert sent[place] == pytest.approx(earliest)


def test_tokens_push_later_requests_back_for_as_long_as_they_would_have_taken() -> None:
    assert send(RateLimit(None, 100), [0, 1, 2], 0.5, 250) == pytest.approx([0, 150.5, 301])
    assert send(RateLimit(None, 100), [0, 1, 2, 3], 0.5, 50) == pytest.approx([0, 1, 60.5, 61.5])
    # Until one has been answered nobody knows what they take; then as many are under way as fit.
    assert send(RateLimit(None, 100), [0, 0, 0, 70, 70, 70], 0.5, 50) == pytest.approx(
        [0, 0, 0, 70, 70, 130.5]
    )


def test_many_threads_send_no_more_than_the_limit_and_a_retry_is_a_request(
    clock: Clock, heard: Waiting
) -> None:
    failed = threading.Event()

    def failing(number: int, request: Request) -> Exception | None:
        first = number == 1 and not failed.is_set()
        failed.set()
        return RateLimitError("too many", retry_after=0.0) if first else None

    engine = ScriptedEngine(failing=failing)
    limit = RateLimit(4)
    with limited(limit):
        threads = ask(scripted_lm(engine), 9)
    for calls in (4, 8):
        assert wait_until(lambda: engine.calls == calls)  # noqa: B023
        waits = heard.waits
        assert wait_until(lambda: heard.waits > waits + 50)  # noqa: B023
        assert engine.calls == calls
        clock.move(60)
    join(threads)
    assert engine.calls == 10
    assert limit.waited_s > 0


def test_an_event_loop_waits_without_holding_up_its_other_tasks(clock: Clock, heard: Waiting) -> None:
    class Engine(ScriptedEngine):
        async def complete(self, request: Request) -> Response:  # type: ignore[override]
            sent.append(clock.now - 100.0)
            return super().complete(request)

    sent: list[float] = []
    lm = dspy.LM("scripted/async", engine=ScriptedEngine(), async_engine=Engine(), cache=False)

    async def work() -> None:
        await asyncio.gather(*(lm.acall("hello") for _ in range(5)))

    with limited(RateLimit(2)):
        run_virtually(clock, work())
    assert sent == pytest.approx([0, 0, 60, 60, 120])


def test_a_language_model_made_of_another_one_takes_one_turn(clock: Clock, heard: Waiting) -> None:
    class Wrapper(ScriptedEngine):
        def complete(self, request: Request) -> Response:
            inner("hello")
            return super().complete(request)

    inner = scripted_lm(name="scripted/inner")
    with limited(limit := RateLimit(2, 40)):
        for _ in range(2):
            scripted_lm(Wrapper(), name="scripted/outer")("hello")
    assert heard.waits == 0
    assert limit.waited_s == 0


def test_where_no_tokens_are_reported_they_are_counted_by_the_text(clock: Clock, heard: Waiting) -> None:
    class Silent(ScriptedEngine):
        def complete(self, request: Request) -> Response:
            return dataclasses.replace(super().complete(request), usage=NotReported())

    limit = RateLimit(None, 1000)
    with limited(limit):
        scripted_lm(Silent())("x" * 4000)
        threads = ask(scripted_lm())
    assert wait_until(lambda: heard.waits > 0)
    clock.move(61)
    join(threads)


# -- what ends a wait, or makes one -------------------------------------------------------------------------------


def test_a_retry_after_holds_up_all_threads_and_the_retry_comes_after_it(
    clock: Clock, heard: Waiting
) -> None:
    def failing(number: int, request: Request) -> Exception | None:
        return RateLimitError("too many", retry_after=30) if number == 1 else None

    engine = ScriptedEngine(failing=failing)
    with limited(RateLimit(1000)):
        threads = ask(scripted_lm(engine))
        assert wait_until(lambda: heard.waits > 0)
        threads += ask(scripted_lm(engine), 3)
    waits = heard.waits
    assert wait_until(lambda: heard.waits > waits + 20)
    clock.move(29)
    assert wait_until(lambda: heard.waits > waits + 40)
    assert engine.calls == 1
    clock.move(1)
    join(threads)
    assert engine.calls == 5


def test_dspy_does_not_sleep_where_the_limit_waits_for_it(
    clock: Clock, heard: Waiting, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(number: int, request: Request) -> Exception | None:
        return RateLimitError("too many", retry_after=7) if number % 2 else None

    slept: list[float] = []
    monkeypatch.setattr("dspy.clients.execution.time", SimpleNamespace(sleep=slept.append))
    lm = scripted_lm(ScriptedEngine(failing=failing))
    with limited(RateLimit(1000)):
        threads = ask(lm)
    assert wait_until(lambda: heard.waits > 0)
    clock.move(7)
    join(threads)
    lm("hello")
    assert slept == [0.0, 7.0]


def test_what_the_meter_raises_ends_the_wait_and_takes_nothing(clock: Clock, heard: Waiting) -> None:
    engine = ScriptedEngine()
    with limited(RateLimit(1)):
        scripted_lm(engine)("hello")
        threads = ask(scripted_lm(engine), 2)
        assert wait_until(lambda: heard.waits > 0)
        heard.error = Interrupted()
        join(threads)
        heard.error = None
        clock.move(60)
        scripted_lm(engine)("hello")
    assert engine.calls == 2


@pytest.mark.parametrize("ending", ["stop", "seconds"])
def test_a_stop_and_the_end_of_a_budgets_time_end_the_wait(
    clock: Clock, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dspy_nb.core.supervision.guard.time", clock)
    stop = threading.Event()
    guard = Guard(Budget(seconds=50), stop)
    with dspy.context(**guard.settings(), lm=scripted_lm()), limited(RateLimit(1)):
        classifier()(review="good")
        ended: list[str] = []

        def work() -> None:
            try:
                classifier()(review="bad")
            except StopRun as stopped:
                ended.append(stopped.reason)

        thread = threading.Thread(target=contextvars.copy_context().run, args=(work,))
        thread.start()
        assert wait_until(lambda: guard.usage.waited_s > 0)
        stop.set() if ending == "stop" else clock.move(50)
        join([thread])
    assert ended == [ending]
    assert guard.usage.lm_calls == 1


def test_a_request_that_a_budget_refuses_takes_no_turn(clock: Clock) -> None:
    def failing(number: int, request: Request) -> Exception | None:
        return RateLimitError("too many", retry_after=0.0) if number == 1 else None

    engine, limit = ScriptedEngine(failing=failing), RateLimit(2)
    guard = Guard(Budget(lm_calls=1), threading.Event())
    with limited(limit), dspy.context(lm=scripted_lm(engine)):
        with dspy.context(**guard.settings()), pytest.raises(StopRun):
            classifier()(review="good")
        assert engine.calls == 1
        classifier()(review="good")
    assert engine.calls == 2
    assert limit.waited_s == 0


# -- in whole runs ------------------------------------------------------------------------------------------------


def begin(work: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    done: list[Any] = []
    context = contextvars.copy_context()
    thread = threading.Thread(target=context.run, args=(lambda: done.append(work()),))
    thread.start()
    return thread, done


def test_all_threads_of_an_evaluation_share_its_limit_and_it_says_how_long_they_waited(clock: Clock) -> None:
    engine, limit, said = ScriptedEngine(), RateLimit(3), []
    with dspy.context(lm=scripted_lm(engine)):
        thread, done = begin(
            lambda: nb.evaluate(
                classifier(), reviews(6), METRIC, num_threads=4, rate_limit=limit, on_event=said.append
            )
        )
        assert wait_until(lambda: engine.calls == 3 and limit.waited_s > 0)
        clock.move(60)
        join([thread])
    (found,) = done
    assert engine.calls == found.n == 6
    assert found.usage.waited_s == pytest.approx(limit.waited_s) == said[-1].waited_s
    assert found.latency.p99_ms < 1000 * found.duration_s


def test_a_stop_ends_an_evaluation_that_waits(clock: Clock) -> None:
    engine, limit, stop = ScriptedEngine(), RateLimit(2), threading.Event()
    with dspy.context(lm=scripted_lm(engine)):
        thread, done = begin(
            lambda: nb.evaluate(classifier(), reviews(6), METRIC, rate_limit=limit, stop=stop)
        )
        assert wait_until(lambda: engine.calls == 2 and limit.waited_s > 0)
        stop.set()
        join([thread])
    wait_for_workers()
    assert done[0].n == engine.calls == 2
    assert not done[0].complete


def test_all_phases_of_an_optimization_share_its_limit(clock: Clock) -> None:
    engine, limit = ScriptedEngine(), RateLimit(5)
    with dspy.context(lm=scripted_lm(engine)):
        thread, done = begin(
            lambda: nb.optimize(
                classifier(), trainset=reviews(8, "train"), valset=reviews(4, "val"), testset=reviews(4, "test"),
                metric=METRIC, rate_limit=limit, num_threads=2,
            )
        )  # fmt: skip
        calls, waited_s = 0, 0.0
        while True:
            assert wait_until(lambda: limit.waited_s > waited_s or not thread.is_alive())  # noqa: B023
            if not thread.is_alive():
                break
            calls += 5
            assert wait_until(lambda: engine.calls >= calls)  # noqa: B023
            assert engine.calls == calls
            waited_s = limit.waited_s
            clock.move(60)
    (run,) = done
    assert run.usage.lm_calls == engine.calls > 15
    assert run.usage.waited_s == pytest.approx(limit.waited_s)


@pytest.mark.heavy
def test_all_cells_of_a_sweep_share_its_limit(clock: Clock) -> None:
    engine, limit = ScriptedEngine(), RateLimit(15)
    over = {"lm": [scripted_lm(engine, name=f"scripted/{name}", cache=True) for name in "ab"]}
    thread, done = begin(
        lambda: nb.sweep(classifier(), over=over, testset=reviews(12), metric=METRIC, rate_limit=limit)
    )
    assert wait_until(lambda: engine.calls == 15 and limit.waited_s > 0)
    clock.move(60)
    join([thread])
    assert engine.calls == done[0].usage.lm_calls == 24
    assert done[0].usage.waited_s == pytest.approx(limit.waited_s)


def test_the_wait_is_said_where_calls_and_tokens_are() -> None:
    assert ("waited", "12 s for the rate limit") in usage_facts(waited := Usage(3, waited_s=12.3))
    assert waited == Usage(3)
    assert "waited" not in dict(usage_facts(Usage(3)))
    state = EvaluationState()
    state.add(nb.Evaluated(5, 10, waited_s=12.3))
    assert [form.text for form in state.meter.parts[-1]] == ["waited 12 s for the rate limit", "waited 12 s"]
    assert "12 s for the rate limit" in str(state.blocks)
