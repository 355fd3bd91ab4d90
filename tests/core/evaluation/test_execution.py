"""How examples are run: in order, at once, within limits, stoppable, here and elsewhere."""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import dspy
import pytest
from dspy.lm15 import Message, Response, Usage

from dspy_nb.core.data.metrics import as_metric, exact_match
from dspy_nb.core.errors import InputError
from dspy_nb.core.evaluation.attempts import ExampleMeter, Job, Work
from dspy_nb.core.evaluation.evaluate import evaluate
from dspy_nb.core.evaluation.execution import run
from dspy_nb.core.evaluation.travel import RemoteTask
from tests.scripted import ScriptedEngine, classifier, reviews, scripted_lm

SENTIMENT = exact_match("sentiment")
RIGHT = as_metric(lambda gold, pred, trace=None: gold.number == pred.number)


def numbers(n: int) -> list[dspy.Example]:
    return [dspy.Example(number=i).with_inputs("number") for i in range(n)]


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
def no_threads_left():
    """Fail if a test leaves a thread at work."""
    yield
    deadline = time.monotonic() + 10
    while left := [thread for thread in threading.enumerate() if thread.name == "dspy-nb-evaluate"]:
        assert time.monotonic() < deadline, left
        time.sleep(0.01)


# -- threads ---------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_threads_left")
@pytest.mark.parametrize("num_threads", [1, 8, 64])
def test_results_come_in_the_order_of_the_examples(num_threads) -> None:
    def slow_at_first(number: int) -> dspy.Prediction:
        time.sleep(0.02 if number < 5 else 0.001)
        return dspy.Prediction(number=number)

    ev = evaluate(slow_at_first, numbers(50), RIGHT, num_threads=num_threads)
    assert [result.index for result in ev.results] == list(range(50))
    assert ev.score == 1.0


def test_as_many_run_at_once_as_were_asked_for_and_no_more() -> None:
    lock, at_once, most = threading.Lock(), 0, 0

    def program(number: int) -> dspy.Prediction:
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        time.sleep(0.05)
        with lock:
            at_once -= 1
        return dspy.Prediction(number=number)

    evaluate(program, numbers(60), RIGHT, num_threads=12)
    assert most == 12


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


def test_what_is_no_exception_ends_the_run_and_reaches_the_caller() -> None:
    class OutOfBudget(BaseException):
        pass

    calls = []

    def program(number: int) -> dspy.Prediction:
        calls.append(number)
        if number == 5:
            raise OutOfBudget
        time.sleep(0.005)
        return dspy.Prediction(number=number)

    with pytest.raises(OutOfBudget):
        evaluate(program, numbers(500), RIGHT, num_threads=4)
    assert len(calls) < 100


# -- limits of time --------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_threads_left")
def test_an_example_that_takes_too_long_is_a_timeout_and_holds_nothing_up() -> None:
    hang = threading.Event()

    def program(number: int) -> dspy.Prediction:
        if number in (3, 8):
            hang.wait(60)
        return dspy.Prediction(number=number)

    ev = evaluate(program, numbers(20), RIGHT, num_threads=2, timeout_s=0.2)
    assert ev.duration_s < 30
    assert ev.errors.kinds == {"Timeout": 2}
    assert ev.errors.messages[0] == "example 3: Timeout: no answer within 0.2 s"
    assert (ev.n, ev.complete, ev.score) == (20, True, 0.9)
    before = ev.to_dict()
    hang.set()
    time.sleep(0.05)
    assert ev.to_dict() == before


@pytest.mark.usefixtures("no_threads_left")
def test_a_timed_out_program_makes_no_further_call() -> None:
    engine = ScriptedEngine(delay_s=0.3)

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
    deadline = time.monotonic() + 5
    while any(thread.name == "dspy-nb-evaluate" for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert engine.calls == 4


# -- interrupts ------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_threads_left")
@pytest.mark.parametrize("after", [0, 1, 7, 30, 60])
def test_stopping_at_any_point_keeps_what_was_finished(after) -> None:
    stop = threading.Event()
    engine = ScriptedEngine(delay_s=0.005)
    engine.on_call = lambda number: stop.set() if number > after else None
    ev = evaluate(classifier(), reviews(80), SENTIMENT, lm=scripted_lm(engine), num_threads=4, stop=stop)
    asked = engine.calls
    time.sleep(0.05)
    assert engine.calls == asked <= after + 4
    assert ev.n <= asked
    assert ev.n >= after - 4
    assert ev.n_planned == 80
    assert not ev.complete
    assert all(result.predicted for result in ev.results)
    assert ev.usage.lm_calls == ev.n


@pytest.mark.usefixtures("no_threads_left")
@pytest.mark.parametrize("after", [0, 10, 40])
def test_an_interrupt_returns_a_partial_result(after) -> None:
    engine = ScriptedEngine(delay_s=0.005)
    engine.on_call = lambda number: os.kill(os.getpid(), signal.SIGINT) if number == after + 1 else None
    ev = evaluate(classifier(), reviews(400), SENTIMENT, lm=scripted_lm(engine), num_threads=4)
    assert after - 4 <= ev.n < 400
    assert not ev.complete
    assert "PARTIAL" in ev.report()
    time.sleep(0.05)  # for the calls that were under way
    asked = engine.calls
    assert asked <= ev.n + 4
    time.sleep(0.05)
    assert engine.calls == asked


def test_an_interrupt_in_the_listener_or_after_the_last_example_loses_nothing(monkeypatch) -> None:
    def impatient(done, planned, failed):
        if 0 < done < planned:
            raise KeyboardInterrupt

    def slow(number: int) -> dspy.Prediction:
        time.sleep(0.01)
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
        await asyncio.sleep(60 if number == 3 else 0)
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
    stop = threading.Event()

    async def program(number: int) -> dspy.Prediction:
        if number == 20:
            stop.set()
        await asyncio.sleep(60 if number >= 20 else 0.001)
        return dspy.Prediction(number=number)

    ev = evaluate(program, numbers(500), RIGHT, num_threads=4, stop=stop)
    assert 17 <= ev.n <= 20
    assert ev.duration_s < 30


# -- executors -------------------------------------------------------------------------------------------


def test_a_thread_pool_is_used_as_it_is_and_can_be_stopped() -> None:
    program = classifier()
    engine = ScriptedEngine(delay_s=0.002)
    heard = []
    with ThreadPoolExecutor(4) as pool:
        with dspy.context(lm=scripted_lm(engine)), dspy.track_usage() as tracker:
            ev = evaluate(program, reviews(60), SENTIMENT, executor=pool,
                          on_event=lambda *numbers: heard.append(numbers))  # fmt: skip
        assert len(tracker.usage_data["scripted/model"]) == 60
        assert (ev.n, ev.usage.lm_calls, heard[-1]) == (60, 60, (60, 60, 0))
        assert [result.index for result in ev.results] == list(range(60))
        assert len(program.history) == 60  # the program itself was at work, not a copy

        stop = threading.Event()
        engine.on_call = lambda number: stop.set() if number > 160 else None
        ev = evaluate(program, reviews(400), SENTIMENT, lm=scripted_lm(engine), executor=pool, stop=stop)
        assert 90 <= ev.n < 200  # also what the chunks under way had done
        assert not ev.complete


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
            _same_number,
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


def _same_number(gold, pred, trace=None) -> bool:
    return gold.number == pred.number


def test_what_cannot_travel_is_named(forkserver) -> None:
    with ProcessPoolExecutor(1, mp_context=forkserver) as pool:
        with pytest.raises(
            InputError, match=r"metric right cannot travel .* 'make it picklable|metric right cannot"
        ):
            evaluate(Echo(), numbers(4), {"m": _unpicklable_metric()}, executor=pool)
        lm = scripted_lm()  # its engine holds a lock
        with pytest.raises(InputError, match=r"^lm cannot travel to the executor's workers \(TypeError"):
            evaluate(classifier(), reviews(4), SENTIMENT, lm=lm, executor=pool)
        program = Echo()
        program.lock = threading.Lock()
        with pytest.raises(InputError, match="the program cannot travel"):
            evaluate(program, numbers(4), _same_number, executor=pool)


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
        evaluate(Echo(), numbers(40), _same_number, executor=pool)


def test_a_pool_that_breaks_for_good_leaves_what_was_answered(caplog) -> None:
    def crash_later(number: int) -> dspy.Prediction:
        if number > 300:
            pool._broken = "gone"
            time.sleep(0.05)
        return dspy.Prediction(number=number)

    with ThreadPoolExecutor(2) as pool:
        ev = evaluate(crash_later, numbers(1000), RIGHT, executor=pool)
    assert 100 <= ev.n < 1000
    assert not ev.complete
    assert "executor is broken" in caplog.text


def test_a_task_hands_back_what_it_has_no_time_for_and_answers_that_cannot_travel_become_text() -> None:
    def program(number: int) -> dspy.Prediction:
        time.sleep(0.05)
        return dspy.Prediction(number=threading.Lock())

    work = Work((program,), ({},), (as_metric(_same_number),), {})
    task = pickle.loads(pickle.dumps(RemoteTask.of(work, num_threads=1, timeout_s=None, lease_s=0.2)))
    outcomes = task.unpack(task(task.pack([Job(example) for example in numbers(20)])))
    done = [outcome for outcome in outcomes if outcome is not None]
    assert 1 <= len(done) < 20
    assert outcomes[len(done) :] == [None] * (20 - len(done))
    assert "lock" in done[0].predicted["number"]


@pytest.mark.filterwarnings("ignore")  # of Dask's own: ports, closed loops
def test_a_dask_cluster_survives_the_death_of_a_worker(tmp_path, forkserver) -> None:
    """Two real processes, one of which is killed in the middle: every answer is there, and right."""
    distributed = pytest.importorskip("distributed")
    dask = pytest.importorskip("dask")
    lm = dspy.LM("scripted/dask", engine=EchoEngine(), cache=False)
    with (
        dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"}),
        distributed.LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            processes=True,
            dashboard_address=None,
            local_directory=str(tmp_path),
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        killed = []

        def kill(done: int, planned: int, failed: int) -> None:
            if done > 30 and not killed:
                killed.append(next(iter(cluster.workers.values())).pid)
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
