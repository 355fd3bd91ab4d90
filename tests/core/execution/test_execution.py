"""How examples are run: in order, at once, within limits, stoppable, here and elsewhere."""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import dspy
import pytest
from dspy.lm15 import Message, Response, Usage

from dspy_nb.core.data.metrics import as_metric, exact_match
from dspy_nb.core.errors import InputError
from dspy_nb.core.evaluation.evaluate import evaluate
from dspy_nb.core.events import Evaluated
from dspy_nb.core.execution import chunks, executors, threads, travel
from dspy_nb.core.execution.attempts import ExampleMeter, Job, Work
from dspy_nb.core.execution.threads import run
from dspy_nb.core.execution.travel import Parcel, RemoteTask
from tests.clusters import dask_client
from tests.moments import HANG_S, Clock, interrupting, wait_for_workers
from tests.scripted import ScriptedEngine, classifier, reviews, scripted_lm
from tests.travelling import numbers, same_number

SENTIMENT = exact_match("sentiment")
RIGHT = as_metric(lambda gold, pred, trace=None: gold.number == pred.number)


class Echo(dspy.Module):
    """Answers with what it was asked."""

    def forward(self, number: int) -> dspy.Prediction:
        return dspy.Prediction(number=number)


class EchoEngine:
    """A language model that can travel to another process."""

    def complete(self, request):
        time.sleep(0.02)
        return Response(
            id="echo",
            model=request.model,
            message=Message.assistant("[[ ## sentiment ## ]]\npositive\n\n[[ ## completed ## ]]"),
            finish_reason="stop",
            usage=Usage(input_tokens=10, output_tokens=5, total_tokens=15),
        )


class AsyncEchoEngine:
    async def complete(self, request):
        await asyncio.sleep(0.02)
        return EchoEngine().complete(request)


@pytest.fixture
def no_threads_left() -> Iterator[None]:
    """Fail if a test leaves a thread at work."""
    yield
    wait_for_workers()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock that limits of time are measured by."""
    clock = Clock()
    for module in (threads, travel):
        monkeypatch.setattr(module, "time", clock)
    return clock


class Held:
    """Holds the LM calls after the first ones until all threads are at one, and from then on until released.

    Nobody goes on to a further call by then, so what the moment finds is known: all calls before it are over,
    and each thread is at one of those after it.

    Args:
        after: How many calls are not held.
        threads: How many threads there are.
        then: What happens when all of them are held.
    """

    def __init__(self, after: int, threads: int, then: Callable[[], object]) -> None:
        self._after = after
        self._all_here = threading.Barrier(threads, action=then, timeout=HANG_S)
        self._released = threading.Event()

    def __call__(self, number: int) -> None:
        if number > self._after:
            self._all_here.wait()
            self._released.wait(HANG_S)

    def release(self) -> None:
        self._released.set()


# -- threads ---------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_threads_left")
@pytest.mark.parametrize("num_threads", [1, 8, 64])
def test_results_come_in_the_order_of_the_examples(num_threads) -> None:
    last_began = threading.Event()

    def slow_at_first(number: int) -> dspy.Prediction:
        if number == 49:
            last_began.set()
        if number == 0 and num_threads > 1:
            assert last_began.wait(HANG_S)
        return dspy.Prediction(number=number)

    ev = evaluate(slow_at_first, numbers(50), RIGHT, num_threads=num_threads)
    assert [result.index for result in ev.results] == list(range(50))
    assert ev.score == 1.0


def test_as_many_run_at_once_as_were_asked_for_and_no_more() -> None:
    lock, at_once, most = threading.Lock(), 0, 0
    twelve = threading.Barrier(12, timeout=HANG_S)

    def program(number: int) -> dspy.Prediction:
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        twelve.wait()
        with lock:
            at_once -= 1
        return dspy.Prediction(number=number)

    ev = evaluate(program, numbers(60), RIGHT, num_threads=12)
    assert most == 12
    assert ev.errors.count == 0  # each time there were twelve


def test_examples_are_not_taken_ahead_of_the_threads() -> None:
    """Jobs are drawn one at a time, so memory does not grow with what is waiting."""
    drawn = 0

    class Counted(list):
        def __iter__(self):
            nonlocal drawn
            for job in super().__iter__():
                drawn += 1
                yield job

    seen = []

    def program(number: int) -> dspy.Prediction:
        seen.append(drawn)
        return dspy.Prediction(number=number)

    run(Work((program,), ({},), (RIGHT,), {}), Counted(Job(e) for e in numbers(20)), num_threads=1)
    assert seen == list(range(1, 21))


def test_it_works_in_a_background_thread_and_in_a_running_event_loop() -> None:
    lm = scripted_lm(name="scripted/background")

    async def cell():
        with dspy.context(lm=lm):
            return evaluate(classifier(), reviews(10), SENTIMENT)

    assert asyncio.run(cell()).usage.lm_calls == 10
    found = []
    thread = threading.Thread(
        target=lambda: found.append(evaluate(classifier(), reviews(10), SENTIMENT, lm=lm))
    )
    thread.start()
    thread.join()
    assert found[0].usage.lm_calls == 10


@pytest.mark.usefixtures("no_threads_left")
def test_what_is_no_exception_ends_the_run_and_reaches_the_caller() -> None:
    """Nothing begins after it, not even when the calling thread is late: the others end what they are at."""

    class OutOfBudget(BaseException):
        pass

    calls, raising = [], []
    held, late = threading.Event(), threading.Event()
    all_here = threading.Barrier(4, action=held.set, timeout=HANG_S)

    def program(number: int) -> dspy.Prediction:
        calls.append(number)
        if number == 5:
            raising.append(threading.current_thread())
        if number >= 5:
            all_here.wait()
        if number == 5:
            late.wait(HANG_S)
            raise OutOfBudget
        if number > 5:
            raising[0].join(HANG_S)
        return dspy.Prediction(number=number)

    def listener(event: Evaluated) -> None:
        if held.is_set():  # in the calling thread, which can do nothing until the workers have ended
            late.set()
            wait_for_workers()

    with pytest.raises(OutOfBudget):
        evaluate(program, numbers(500), RIGHT, num_threads=4, on_event=listener)
    assert sorted(calls) == list(range(9))


# -- limits of time --------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_threads_left")
def test_an_example_that_takes_too_long_is_a_timeout_and_holds_nothing_up(clock) -> None:
    hang, woken = threading.Event(), []
    both_hang = threading.Barrier(2, action=lambda: clock.move(0.3), timeout=HANG_S)

    def program(number: int) -> dspy.Prediction:
        if number in (3, 8):
            both_hang.wait()
            hang.wait(HANG_S)
            woken.append(number)
        return dspy.Prediction(number=number)

    ev = evaluate(program, numbers(20), RIGHT, num_threads=2, timeout_s=0.2)
    assert not woken
    assert ev.errors.kinds == {"Timeout": 2}
    assert ev.errors.messages[0] == "example 3: Timeout: no answer within 0.2 s"
    assert (ev.n, ev.complete, ev.score) == (20, True, 0.9)
    before = ev.to_dict()
    hang.set()
    wait_for_workers()
    assert sorted(woken) == [3, 8]
    assert ev.to_dict() == before


@pytest.mark.usefixtures("no_threads_left")
def test_a_program_that_holds_up_its_event_loop_is_a_timeout_and_another_loop_goes_on(clock) -> None:
    hang = threading.Event()

    async def program(number: int) -> dspy.Prediction:
        if number == 3:
            clock.move(2)
            hang.wait(HANG_S)  # it does not await
        return dspy.Prediction(number=number)

    ev = evaluate(program, numbers(20), RIGHT, num_threads=1, timeout_s=0.2)
    assert dict(ev.errors.kinds) == {"Timeout": 1}
    assert (ev.n, ev.complete, ev.score) == (20, True, 0.95)
    hang.set()


@pytest.mark.usefixtures("no_threads_left")
def test_time_runs_out_on_a_real_clock_too() -> None:
    hang = threading.Event()
    ev = evaluate(lambda number: hang.wait(HANG_S), numbers(3), RIGHT, num_threads=2, timeout_s=0.05)
    assert ev.errors.kinds == {"Timeout": 3}
    hang.set()


@pytest.mark.usefixtures("no_threads_left")
def test_a_timed_out_program_makes_no_further_call(clock) -> None:
    engine = ScriptedEngine()
    # A first call of each is over when time runs out in the second one.
    engine.on_call = held = Held(after=2, threads=2, then=lambda: clock.move(0.5))

    class Chatty(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.ask = classifier()

        def forward(self, review: str) -> dspy.Prediction:
            for _ in range(20):
                answer = self.ask(review=review)
            return answer

    ev = evaluate(Chatty(), reviews(2), SENTIMENT, lm=scripted_lm(engine), num_threads=2, timeout_s=0.4)
    assert ev.errors.kinds == {"Timeout": 2}
    assert ev.usage.lm_calls == 2  # one of each was over when time ran out
    held.release()
    wait_for_workers()
    assert engine.calls == 4


# -- interrupts ------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_threads_left")
@pytest.mark.parametrize("after", [0, 1, 7, 30, 60])
def test_stopping_at_any_point_keeps_what_was_finished(after) -> None:
    """It does not wait for the call that each thread is at, and none makes another one."""
    stop = threading.Event()
    engine = ScriptedEngine()
    engine.on_call = held = Held(after, threads=4, then=stop.set)
    ev = evaluate(classifier(), reviews(80), SENTIMENT, lm=scripted_lm(engine), num_threads=4, stop=stop)
    held.release()
    wait_for_workers()
    assert engine.calls == after + 4
    assert ev.n == after
    assert ev.n_planned == 80
    assert not ev.complete
    assert all(result.predicted for result in ev.results)
    assert ev.usage.lm_calls == ev.n


@pytest.mark.usefixtures("no_threads_left")
@pytest.mark.parametrize("after", [0, 10, 40])
def test_an_interrupt_returns_a_partial_result(after) -> None:
    """As a stop does."""
    engine = ScriptedEngine()
    engine.on_call = held = Held(after, threads=4, then=lambda: os.kill(os.getpid(), signal.SIGINT))
    ev = evaluate(classifier(), reviews(400), SENTIMENT, lm=scripted_lm(engine), num_threads=4)
    assert ev.n == after
    assert not ev.complete
    assert "PARTIAL" in ev.report()
    held.release()
    wait_for_workers()
    assert engine.calls == after + 4


@pytest.mark.usefixtures("no_threads_left")
def test_an_interrupt_loses_no_more_than_the_calls_that_the_threads_are_at() -> None:
    """Here they go on until it has taken effect."""
    engine = ScriptedEngine()
    with interrupting(at=20) as engine.on_call:
        ev = evaluate(classifier(), reviews(400), SENTIMENT, lm=scripted_lm(engine), num_threads=4)
    wait_for_workers()
    assert ev.n <= engine.calls <= ev.n + 4
    assert engine.calls >= 20


def test_an_interrupt_in_the_listener_or_after_the_last_example_loses_nothing(monkeypatch) -> None:
    interrupt = threading.Event()

    def impatient(event):
        if event.done > 0 and not interrupt.is_set():
            interrupt.set()
            raise KeyboardInterrupt

    def slow(number: int) -> dspy.Prediction:
        if number >= 20:
            interrupt.wait(HANG_S)
        return dspy.Prediction(number=number)

    ev = evaluate(slow, numbers(200), RIGHT, num_threads=2, on_event=impatient)
    assert 0 < ev.n < 200

    from dspy_nb.core.evaluation import evaluate as evaluation

    count, interrupts = evaluation.errors_of, iter([KeyboardInterrupt])

    def interrupted(results):
        for interrupt in interrupts:
            raise interrupt
        return count(results)

    monkeypatch.setattr(evaluation, "errors_of", interrupted)
    assert evaluate(Echo(), numbers(10), RIGHT).n == 10


def test_a_closed_meter_ends_the_program_at_its_next_answer() -> None:
    meter = ExampleMeter()
    work = Work((classifier(),), ({},), (SENTIMENT,), {"lm": scripted_lm()})
    work.attempt(Job(reviews(1)[0]), meter)
    meter.close()
    with pytest.raises(BaseException) as error:
        work.attempt(Job(reviews(1)[0]), meter)
    assert not isinstance(error.value, Exception)


# -- asynchronous programs -------------------------------------------------------------------------------


class AsyncProgram(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ask = classifier()

    async def aforward(self, review: str) -> dspy.Prediction:
        return await self.ask.acall(review=review)


def async_lm() -> dspy.LM:
    return dspy.LM("scripted/async", engine=EchoEngine(), async_engine=AsyncEchoEngine(), cache=False)


def test_a_program_with_only_aforward_runs_on_an_event_loop() -> None:
    ev = evaluate(AsyncProgram(), reviews(40), SENTIMENT, lm=async_lm(), num_threads=20)
    assert ev.errors.count == 0
    assert (ev.n, ev.score, ev.usage.lm_calls) == (40, 0.5, 40)
    assert [result.index for result in ev.results] == list(range(40))


def test_an_asynchronous_function_is_a_program_too() -> None:
    async def program(number: int) -> dspy.Prediction:
        if number == 3:
            await asyncio.sleep(HANG_S)  # the others are over before the loop could look at its clock
        if number == 4:
            raise TimeoutError("not ours")
        return dspy.Prediction(number=number)

    ev = evaluate(program, numbers(10), RIGHT, timeout_s=0.2)
    assert ev.errors.messages == (
        "example 3: Timeout: no answer within 0.2 s",
        "example 4: TimeoutError: not ours",
    )
    assert ev.score == 0.8


@pytest.mark.usefixtures("no_threads_left")
def test_an_asynchronous_run_can_be_stopped() -> None:
    """It does not wait for what the tasks are at: by then there are three that began before the last one."""
    stop, waited = threading.Event(), []

    async def program(number: int) -> dspy.Prediction:
        if number == 20:
            stop.set()
        await asyncio.sleep(HANG_S if number >= 20 else 0.001)
        if number >= 20:
            waited.append(number)
        return dspy.Prediction(number=number)

    ev = evaluate(program, numbers(500), RIGHT, num_threads=4, stop=stop)
    assert 17 <= ev.n <= 20
    wait_for_workers()
    assert not waited


# -- executors -------------------------------------------------------------------------------------------


def test_a_thread_pool_is_used_as_it_is_and_can_be_stopped(monkeypatch) -> None:
    monkeypatch.setattr(executors, "_GRACE_S", HANG_S)  # to hand in what is finished
    program = classifier()
    engine = ScriptedEngine(delay_s=0.002)
    heard = []
    with ThreadPoolExecutor(4) as pool:
        with dspy.context(lm=scripted_lm(engine)), dspy.track_usage() as tracker:
            ev = evaluate(program, reviews(60), SENTIMENT, executor=pool,
                          on_event=heard.append)  # fmt: skip
        assert len(tracker.usage_data["scripted/model"]) == 60
        assert (ev.n, ev.usage.lm_calls, heard[-1].done) == (60, 60, 60)
        assert [result.index for result in ev.results] == list(range(60))
        assert len(program.history) == 60  # the program itself was at work, not a copy

        stop = threading.Event()
        engine.on_call = held = Held(after=160, threads=4, then=stop.set)
        ev = evaluate(program, reviews(400), SENTIMENT, lm=scripted_lm(engine), executor=pool, stop=stop)
        held.release()
        assert ev.n == 100  # also what the chunks under way had done
        assert not ev.complete
    wait_for_workers()
    assert engine.calls == 164


def test_other_processes_do_the_same_work_and_lost_workers_are_replaced(tmp_path, forkserver) -> None:
    lm = dspy.LM("scripted/process", engine=EchoEngine(), cache=False, callbacks=[])
    lm.history.append("a prompt that stays at home")
    program = classifier()
    program.lm = lm
    with ProcessPoolExecutor(2, mp_context=forkserver) as pool:
        ev = evaluate(program, reviews(60), SENTIMENT, executor=pool, num_threads=4)
        assert (ev.n, ev.score, ev.usage.lm_calls, ev.errors.count) == (60, 0.5, 60, 0)
        assert [result.index for result in ev.results] == list(range(60))
        assert ev.base_model == "scripted/process"
        assert len(lm.history) == 1

        # One example kills its worker once, by accident; another one always.
        accident = tmp_path / "accident"
        ev = evaluate(
            Fatal(once_at=5, always_at=21, mark=str(accident)),
            numbers(40),
            same_number,
            executor=pool,
            num_threads=2,
        )
        assert accident.exists()
        assert ev.errors.kinds == {"WorkerLost": 1}
        assert ev.errors.messages[0].startswith("example 21: WorkerLost: BrokenProcessPool")
        assert (ev.n, ev.score) == (40, 39 / 40)


class Fatal(dspy.Module):
    """Kills its process at one number always, at another one the first time only."""

    def __init__(self, once_at: int, always_at: int, mark: str) -> None:
        super().__init__()
        self.once_at, self.always_at, self.mark = once_at, always_at, mark

    def forward(self, number: int) -> dspy.Prediction:
        if number == self.once_at and not Path(self.mark).exists():
            Path(self.mark).touch()
            os._exit(1)
        if number == self.always_at:
            os._exit(1)
        return dspy.Prediction(number=number)


def test_what_cannot_travel_is_named(forkserver) -> None:
    with ProcessPoolExecutor(1, mp_context=forkserver) as pool:
        with pytest.raises(
            InputError, match=r"metric right cannot travel .* 'make it picklable|metric right cannot"
        ):
            evaluate(Echo(), numbers(4), {"m": _unpicklable_metric()}, executor=pool)
        lm = scripted_lm()  # its engine holds a lock
        with pytest.raises(InputError, match=r"^the language model scripted/model cannot travel to the exec"):
            evaluate(classifier(), reviews(4), SENTIMENT, lm=lm, executor=pool)
        program = Echo()
        program.lock = threading.Lock()
        with pytest.raises(InputError, match="the program cannot travel"):
            evaluate(program, numbers(4), same_number, executor=pool)


def _unpicklable_metric():
    lock = threading.Lock()

    def right(gold, pred, trace=None):
        with lock:
            return True

    return right


def test_an_executor_that_is_shut_down_is_refused() -> None:
    pool = ThreadPoolExecutor(1)
    pool.shutdown()
    with pytest.raises(
        InputError, match="executor takes no work: cannot schedule new futures after shutdown"
    ):
        evaluate(Echo(), numbers(4), RIGHT, executor=pool)


def test_a_pool_whose_processes_all_die_is_refused(forkserver) -> None:
    pool = ProcessPoolExecutor(1, mp_context=forkserver, initializer=os._exit, initargs=(1,))
    with pytest.raises(InputError, match="executor keeps losing its workers: BrokenProcessPool"):
        evaluate(Echo(), numbers(40), same_number, executor=pool)


def test_a_pool_that_breaks_for_good_leaves_what_was_answered(caplog, monkeypatch) -> None:
    monkeypatch.setattr(executors, "_LEASE_S", HANG_S)  # chunks come back whole
    monkeypatch.setattr(chunks, "_LARGEST", 125)
    first_is_back = threading.Event()

    def crash_later(number: int) -> dspy.Prediction:
        if number > 300:  # of the third chunk
            first_is_back.wait(HANG_S)
            pool._broken = "gone"
        return dspy.Prediction(number=number)

    def listener(event: Evaluated) -> None:
        if event.done >= 100:
            first_is_back.set()

    with ThreadPoolExecutor(2) as pool:
        ev = evaluate(crash_later, numbers(1000), RIGHT, executor=pool, on_event=listener)
    assert 100 <= ev.n < 1000
    assert not ev.complete
    assert "executor is broken" in caplog.text


def test_a_task_hands_back_what_it_has_no_time_for_and_answers_that_cannot_travel_become_text(clock) -> None:
    def program(number: int) -> dspy.Prediction:
        from dspy_nb.core.execution import travel  # not the copy of the clock that travels with the program

        travel.time.move(1)
        return dspy.Prediction(number=threading.Lock())

    work = Work((program,), ({},), (as_metric(same_number),), {})
    task = pickle.loads(pickle.dumps(RemoteTask.of(work, num_threads=1, timeout_s=None, lease_s=4)))
    parcel = Parcel([Job(example) for example in numbers(20)])
    outcomes = task.unpack(task(task.pack(parcel))).outcomes
    done = [outcome for outcome in outcomes if outcome is not None]
    assert len(done) == 4
    assert outcomes[4:] == [None] * 16
    assert "lock" in done[0].predicted["number"]


@pytest.mark.filterwarnings("ignore")  # of Dask's own: ports, closed loops
def test_a_dask_cluster_survives_the_death_of_a_worker(tmp_path, forkserver) -> None:
    """Two real processes, one of which is killed in the middle: every answer is there, and right."""
    lm = dspy.LM("scripted/dask", engine=EchoEngine(), cache=False)
    with dask_client(tmp_path, workers=2, processes=True) as client:
        killed = []

        def kill(event: Evaluated) -> None:
            if event.done > 30 and not killed:
                killed.append(next(iter(client.cluster.workers.values())).pid)
                os.kill(killed[0], signal.SIGKILL)

        ev = evaluate(
            classifier(),
            reviews(200),
            SENTIMENT,
            lm=lm,
            executor=client.get_executor(),
            num_threads=2,
            on_event=kill,
        )
    assert killed
    assert (ev.n, ev.errors.count, ev.score, ev.usage.lm_calls) == (200, 0, 0.5, 200)
    assert [result.index for result in ev.results] == list(range(200))


def test_after_a_task_that_could_not_do_it_all_the_next_ones_get_as_much_as_it_did(monkeypatch) -> None:
    given = []

    def do_four(work: Work, jobs: list[Job], *, landed, **_: object) -> None:
        given.append(len(jobs))
        for place, job in enumerate(jobs[:4]):
            landed(place, work.attempt(job, ExampleMeter()))

    monkeypatch.setattr(threads, "run", do_four)
    with ThreadPoolExecutor(1) as pool:
        ev = evaluate(Echo(), numbers(30), same_number, executor=pool, num_threads=2)
    assert ev.complete
    assert ev.correct == 30
    assert given[:2] == [30, 4]  # 26 are handed back
    assert max(given[2:]) == 8  # after one that had time left


def test_a_task_gets_what_keeps_all_its_threads_busy_to_the_end() -> None:
    share = chunks.Share(together=1, threads=32, early=False)
    assert share.size(2000, 2) == 1024
    assert share.size(1000, 2) == 512
    assert share.size(40, 2) == 20
    assert share.size(10**6, 2) == 1024
    assert chunks.Share(together=3, threads=32, early=False).size(2000, 2) % 3 == 0
    assert chunks.Share(together=2, threads=5, early=True).size(2000, 2) == 6
