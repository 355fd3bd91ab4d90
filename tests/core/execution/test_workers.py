"""What may be given as ``executor``, and that each kind does the same work."""

from __future__ import annotations

import builtins
import multiprocessing
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import dspy
import pytest

import dspy_nb as nb
from dspy_nb.core.errors import InputError
from dspy_nb.core.execution.workers import check_workers, open_workers
from dspy_nb.core.programs.rate_limit import limits_in_force
from tests.clusters import dask_client
from tests.moments import HANG_S
from tests.scripted import classifier, reviews
from tests.travelling import TravellingEngine, same_number, travelling_lm

pytestmark = [pytest.mark.heavy, pytest.mark.filterwarnings("ignore")]  # of Dask's and ipyparallel's own

SENTIMENT = nb.exact_match("sentiment")


@pytest.fixture(scope="module")
def client(forkserver: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with dask_client(tmp_path_factory.mktemp("dask"), workers=2, processes=True) as client:
        yield client


@pytest.fixture
def engine(tmp_path: Path) -> TravellingEngine:
    return TravellingEngine(tmp_path / "calls")


def all_right(engine: TravellingEngine, executor: Any) -> None:
    """Evaluate, and optimize within a budget."""
    with dspy.context(lm=travelling_lm(engine)):
        ev = nb.evaluate(classifier(), reviews(40), SENTIMENT, executor=executor, num_threads=2)
        assert (ev.n, ev.errors.count, ev.complete, engine.asked) == (40, 0, True, 40)
        run = nb.optimize(
            classifier(),
            trainset=reviews(8, "train"),
            valset=reviews(16, "val"),
            metric=SENTIMENT,
            optimizer="BootstrapFewShotWithRandomSearch",
            options={"num_candidate_programs": 2, "max_bootstrapped_demos": 1, "max_labeled_demos": 2},
            budget=nb.Budget(lm_calls=50),
            num_threads=2,
            executor=executor,
        )
    assert (run.usage.lm_calls, run.stopped_by, engine.asked) == (50, "lm_calls", 90)


@pytest.mark.parametrize("kind", ["client", "executor", "cluster", "address"])
def test_dask_may_be_given_in_any_form(client: Any, engine: TravellingEngine, kind: str) -> None:
    forms = {
        "client": client,
        "executor": client.get_executor(),
        "cluster": client.cluster,
        "address": client.scheduler.address,
    }
    all_right(engine, forms[kind])
    assert client.status == "running"


def test_threads_of_a_pool_keep_to_the_budget_too(engine: TravellingEngine) -> None:
    with ThreadPoolExecutor(3) as pool:
        all_right(engine, pool)


@pytest.mark.slow
def test_a_cluster_of_this_machine_is_begun_and_ended(engine: TravellingEngine) -> None:
    all_right(engine, "local:2")


@pytest.mark.slow
def test_ipyparallel_may_be_given_as_a_client_or_a_view(engine: TravellingEngine, tmp_path: Path) -> None:
    ipyparallel = pytest.importorskip("ipyparallel")
    with ipyparallel.Cluster(n=2, ipython_dir=str(tmp_path), log_level=40) as client:
        all_right(engine, client)
        view = client.load_balanced_view()
        with dspy.context(lm=travelling_lm(engine)):
            for executor in (view, view.executor):
                assert nb.evaluate(classifier(), reviews(8), SENTIMENT, executor=executor).n == 8


@pytest.mark.parametrize("wrong", [4, "locale", "local:0", "local:-1", "tcp:", "", object(), [1]])
def test_what_is_no_executor_is_refused_in_one_line(wrong: object) -> None:
    with pytest.raises(InputError, match=r"^executor must be a concurrent.futures.Executor, .*'local:4'"):
        check_workers(wrong)


def test_a_scheduler_that_does_not_answer_is_told_and_so_is_a_missing_dask(
    monkeypatch: pytest.MonkeyPatch, engine: TravellingEngine
) -> None:
    from dspy_nb.core.execution import workers

    monkeypatch.setattr(workers, "_ANSWERS_S", 0.2)
    with (
        dspy.context(lm=travelling_lm(engine)),
        pytest.raises(InputError, match=r"^scheduler tcp://127.0.0.1:1 does not answer"),
    ):
        nb.evaluate(classifier(), reviews(4), SENTIMENT, executor="tcp://127.0.0.1:1")
    usual = builtins.__import__

    def without_dask(name: str, *args: Any) -> Any:
        if name == "distributed":
            raise ImportError(name)
        return usual(name, *args)

    monkeypatch.setattr(builtins, "__import__", without_dask)
    with (
        pytest.raises(
            InputError, match=r"^scheduler local needs Dask: pip install 'dspy-nb\[distributed\]'$"
        ),
        open_workers("local"),
    ):
        pass
    assert engine.asked == 0


def in_force(number: int) -> dspy.Prediction:
    return dspy.Prediction(number=number, text=" + ".join(map(str, limits_in_force())))


def test_workers_share_a_rate_limit(forkserver: Any) -> None:
    data = [dspy.Example(number=i).with_inputs("number") for i in range(8)]
    with ProcessPoolExecutor(2, mp_context=forkserver) as pool:
        limit = nb.RateLimit(requests_per_minute=601, tokens_per_minute=10_000)
        ev = nb.evaluate(in_force, data, same_number, executor=pool, rate_limit=limit)
        told = {result.predicted["text"] for result in ev.results}
        assert told == {"300 requests and 5,000 tokens a minute"}
        with pytest.raises(
            InputError, match="a rate limit of 1 request a minute is too small to be shared by 2"
        ):
            nb.evaluate(in_force, data, same_number, executor=pool, rate_limit=nb.RateLimit(1))


@pytest.mark.slow
def test_a_script_that_its_own_workers_would_run_again_is_told_what_it_lacks(tmp_path: Path) -> None:
    """Of the fast one below, with real workers."""
    script = tmp_path / "unguarded.py"
    script.write_text(
        "from dspy_nb.core.execution.workers import open_workers\nwith open_workers('local:1'):\n    pass\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=HANG_S)
    assert done.returncode == 1
    assert done.stderr.count("each of them imports it") == 2  # of the worker, and of the script
    assert done.stderr.count("Traceback") == 1


def test_a_worker_that_would_begin_workers_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multiprocessing.current_process(), "_inheriting", True, raising=False)
    with pytest.raises(SystemExit, match="under if __name__ == '__main__'"), open_workers("local:1"):
        pass
