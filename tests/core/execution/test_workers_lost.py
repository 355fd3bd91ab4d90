"""Lost workers: whose fault it was is found out, all others are answered, and nothing waits for ever."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from pathlib import Path
from typing import Any

import dspy
import pytest

from dspy_nb.core.errors import InputError
from dspy_nb.core.evaluation.evaluate import evaluate
from dspy_nb.core.events import Evaluated
from dspy_nb.core.execution import chunks, executors, travel
from dspy_nb.core.execution import dask as clusters
from tests.clusters import dask_client
from tests.moments import HANG_S
from tests.travelling import numbers, same_number

pytestmark = [pytest.mark.heavy, pytest.mark.filterwarnings("ignore")]  # of Dask's own: ports, closed loops


class Fatal(dspy.Module):
    """Kills its process at some numbers, as often as said, and notes that; at others it holds the interpreter."""

    def __init__(self, notes: Path, times: dict[int, int], hangs: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.notes, self.times, self.hangs = str(notes), times, hangs

    def forward(self, number: int) -> dspy.Prediction:
        with Path(self.notes).open("a+") as notes:
            notes.seek(0)
            if notes.read().split().count(str(number)) < self.times.get(number, 0):
                notes.write(f"{number} ")
                notes.flush()
                os._exit(1)
        if number in self.hangs:
            import ctypes

            ctypes.PyDLL(None).sleep(int(HANG_S))
        return dspy.Prediction(number=number)


@pytest.fixture(scope="module")
def local(forkserver: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Two workers of one thread each, with nannies."""
    with dask_client(tmp_path_factory.mktemp("dask"), workers=2, processes=True) as client:
        yield client


@pytest.fixture
def threads(tmp_path: Path) -> Iterator[Any]:
    """A cluster in this process, without nannies; no worker yet."""
    with dask_client(tmp_path, workers=0, processes=False) as client:
        yield client


ALWAYS = 100


def test_on_dask_who_kills_two_workers_is_an_error_and_all_others_are_answered(local, tmp_path) -> None:
    """Apart and side by side; one kills a worker once only, by accident, beside one that always does."""
    notes = tmp_path / "notes"
    notes.touch()
    program = Fatal(notes, {1: ALWAYS, 2: 1, 9: ALWAYS})
    ev = evaluate(program, numbers(16), same_number, executor=local.get_executor(), num_threads=1)
    assert ev.errors.kinds == {"WorkerLost": 2}
    assert [message.split(":")[0] for message in ev.errors.messages] == ["example 1", "example 9"]
    assert (ev.n, ev.score, ev.complete) == (16, 14 / 16, True)
    killed = Counter(map(int, notes.read_text().split()))
    assert set(killed) == {1, 2, 9}
    assert max(killed.values()) <= 3  # within its chunk, and twice by itself


@pytest.mark.slow
def test_on_dask_an_example_that_holds_the_interpreter_is_a_timeout(local, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(executors, "_SILENCE_S", 1.0)
    monkeypatch.setattr(executors, "_LEASE_S", 0.5)
    program = Fatal(tmp_path / "notes", {}, hangs=(1,))
    ev = evaluate(
        program, numbers(4), same_number, executor=local.get_executor(), num_threads=1, timeout_s=0.5
    )
    assert (ev.n, ev.errors.kinds) == (4, {"Timeout": 1})


def test_a_dask_cluster_may_have_no_worker_at_the_start(threads) -> None:
    def first_worker(event: Evaluated) -> None:
        if not threads.nthreads():
            threads.cluster.scale(1)

    ev = evaluate(
        fine,
        numbers(8),
        same_number,
        executor=threads.get_executor(pure=True, retries=2),
        on_event=first_worker,
    )
    assert (ev.n, ev.errors.count) == (8, 0)


def fine(number: int) -> dspy.Prediction:
    return dspy.Prediction(number=number)


def test_a_dask_cluster_without_workers_is_refused_and_one_that_loses_them_keeps_what_was_done(
    threads, monkeypatch, caplog
) -> None:
    monkeypatch.setattr(clusters, "_COMES_S", 0.2)
    monkeypatch.setattr(clusters, "_COMES_BACK_S", 0.2)
    monkeypatch.setattr(clusters, "_LOOK_S", 0.05)
    executor = threads.get_executor()
    with pytest.raises(
        InputError, match=r"^executor's Dask cluster has no workers, and none came within 0.2 s$"
    ):
        evaluate(fine, numbers(8), same_number, executor=executor)

    threads.cluster.scale(1)
    threads.wait_for_workers(1)

    def none_left(event: Evaluated) -> None:
        if event.done:
            threads.cluster.scale(0)

    monkeypatch.setattr(chunks, "_LARGEST", 1)
    ev = evaluate(slow, numbers(200), same_number, executor=executor, num_threads=1, on_event=none_left)
    assert 1 <= ev.n < 200
    assert not ev.complete
    assert "has no workers left, and none came within 0.2 s; what was finished is kept" in caplog.text


def slow(number: int) -> dspy.Prediction:
    time.sleep(0.05)
    return dspy.Prediction(number=number)


def test_a_dask_client_that_is_closed_in_the_middle_ends_the_run_with_what_was_done(
    threads, monkeypatch, caplog
) -> None:
    threads.cluster.scale(1)
    threads.wait_for_workers(1)
    monkeypatch.setattr(chunks, "_LARGEST", 1)

    def close(event: Evaluated) -> None:
        if event.done:
            threads.close()

    executor = threads.get_executor()
    ev = evaluate(slow, numbers(200), same_number, executor=executor, num_threads=1, on_event=close)
    assert 1 <= ev.n < 200
    assert "what was finished is kept" in caplog.text
    with pytest.raises(InputError, match=r"^executor takes no work: Client is closed"):
        evaluate(fine, numbers(8), same_number, executor=executor)


# -- pools -----------------------------------------------------------------------------------------------------


def test_a_pool_whose_examples_all_kill_their_processes_names_each(forkserver, tmp_path) -> None:
    program = Fatal(tmp_path / "notes", dict.fromkeys(range(12), ALWAYS))
    with ProcessPoolExecutor(1, mp_context=forkserver) as pool:
        ev = evaluate(program, numbers(12), same_number, executor=pool, num_threads=1)
    assert (ev.n, ev.errors.kinds) == (12, {"WorkerLost": 12})


def test_a_process_that_holds_the_interpreter_is_a_timeout(forkserver, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(executors, "_SILENCE_S", 1.0)
    monkeypatch.setattr(executors, "_LEASE_S", 0.5)
    program = Fatal(tmp_path / "notes", {}, hangs=(3,))
    with ProcessPoolExecutor(1, mp_context=forkserver) as pool:
        ev = evaluate(program, numbers(8), same_number, executor=pool, num_threads=1, timeout_s=0.2)
    assert (ev.n, ev.errors.kinds) == (8, {"Timeout": 1})


class Engines(Executor):
    """As ipyparallel's: a task fails with its engine, others go on; it takes none when there is no engine left."""

    def __init__(self, fatal: set[int], engines: int = ALWAYS) -> None:
        self._fatal, self._engines = fatal, engines

    def submit(self, function, /, task, packed):  # type: ignore[override]
        if not self._engines:
            raise LookupError("no engines\nregistered")
        future: Future[Any] = Future()
        import cloudpickle

        parcel = cloudpickle.loads(packed)
        if any(job.example.number in self._fatal for job in parcel.jobs):
            self._engines -= 1
            future.set_exception(LookupError("Engine died"))
        else:
            future.set_result(function(task, packed))
        return future


def test_any_executor_may_lose_workers_in_its_own_way() -> None:
    ev = evaluate(fine, numbers(40), same_number, executor=Engines({3, 4, 20}))
    assert (ev.n, ev.errors.kinds) == (40, {"WorkerLost": 3})
    assert ev.errors.messages[0] == "example 3: WorkerLost: LookupError: Engine died"


def test_an_executor_that_has_lost_all_its_workers_keeps_what_was_done(caplog) -> None:
    ev = evaluate(fine, numbers(40), same_number, executor=Engines({39}, engines=2))
    assert 20 <= ev.n < 40
    assert "executor takes no work: no engines registered; what was finished is kept" in caplog.text
    with pytest.raises(InputError, match=r"^executor takes no work: no engines registered$"):
        evaluate(fine, numbers(40), same_number, executor=Engines(set(), engines=0))


class Forgetful(Executor):
    """Runs tasks at once, in a process that forgets now and then what came to it; counts what comes."""

    _max_workers = 1

    def __init__(self) -> None:
        self.tasks: list[bool] = []  # whether each brought the work

    def submit(self, function, /, task, packed):  # type: ignore[override]
        self.tasks.append(task.packed is not None)
        if len(self.tasks) % 5 == 0:
            travel._WORK.clear()
        future: Future[Any] = Future()
        future.set_result(function(task, packed))
        return future


def test_the_work_travels_to_a_worker_once_and_again_where_it_is_not_there(monkeypatch) -> None:
    monkeypatch.setattr(chunks, "_LARGEST", 4)
    executor = Forgetful()
    ev = evaluate(fine, numbers(100), same_number, executor=executor)
    assert (ev.n, ev.score, ev.errors.count) == (100, 1.0, 0)
    assert executor.tasks[:3] == [True, True, False]
    assert sum(executor.tasks) == 2 + (len(executor.tasks) - 25)  # each task that found nothing is made again
    assert len(executor.tasks) > 25
