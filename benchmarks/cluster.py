"""evaluate() on a cluster of this machine beside one process, and what a long evaluation keeps.

    python benchmarks/cluster.py [--examples 2000] [--workers 2] [--threads 32] [--rounds 3] [--keep 100000]

The language model waits 50 ms, so the ideal is examples x 50 ms over all threads. The cluster is Dask's, on this
machine, and is there before the time is taken. "bare pools" is ``ThreadPoolExecutor.map`` over
``program(**inputs)`` in each worker, with its share of the examples and nothing kept: what DSPy itself needs of
this machine. "waits only" is a program that waits 50 ms and asks no language model: what evaluate() and Dask need.
``--keep`` says instead how much memory the process takes for an example more, while so many are evaluated on the
cluster: results, answers and scores of all are kept.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from typing import Any

os.environ.setdefault("DSPY_CACHEDIR", tempfile.mkdtemp(prefix="dspy-nb-bench-"))

import dspy
from evaluate import Engine, examples, is_right, pool

import dspy_nb as nb

DELAY_S = 0.05


@contextlib.contextmanager
def cluster(workers: int) -> Iterator[Any]:
    """Begin a cluster, and have its workers import what they need."""
    import distributed

    with distributed.LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None) as made:
        timed(made, 8 * workers, 1, 0.0)
        yield made


def timed(
    executor: Any, n: int, threads: int, delay_s: float, program: Any = None
) -> tuple[float, nb.Evaluation]:
    """Return the seconds that an evaluation takes, and what it found."""
    lm = dspy.LM("scripted/benchmark", engine=Engine(delay_s), cache=False)
    program, data = program or dspy.Predict("question -> answer"), examples(n)
    with dspy.context(lm=lm):
        started = time.perf_counter()
        found = nb.evaluate(program, data, is_right, num_threads=threads, executor=executor, progress=False)
        return time.perf_counter() - started, found


def waits(question: str) -> dspy.Prediction:
    """Answer after a while, without a language model."""
    time.sleep(DELAY_S)
    return dspy.Prediction(answer="yes")


def bare_pool(n: int, threads: int) -> None:
    """Ask DSPy for each example, in a worker, and keep nothing."""
    program = dspy.Predict("question -> answer")
    program.set_lm(dspy.LM("scripted/benchmark", engine=Engine(DELAY_S), cache=False))
    pool(program, examples(n), threads)


def bare_pools(made: Any, n: int, workers: int, threads: int) -> float:
    """Return the seconds that pools of threads take, one in each worker."""
    with made.get_client() as client:
        started = time.perf_counter()
        client.gather([client.submit(bare_pool, n // workers, threads, pure=False) for _ in range(workers)])
        return time.perf_counter() - started


def walls(n: int, workers: int, threads: int, rounds: int) -> dict[str, float]:
    """Return the median seconds of each way, taking turns, and the ideal."""
    taken: dict[str, list[float]] = {}
    with cluster(workers) as made:
        for _ in range(rounds):
            here_s, here = timed(None, n, workers * threads, DELAY_S)
            there_s, there = timed(made, n, threads, DELAY_S)
            assert [one.scores for one in here.results] == [one.scores for one in there.results]
            assert (here.score, here.interval, here.n) == (there.score, there.interval, there.n)
            for name, seconds in (
                ("one process", here_s),
                ("cluster", there_s),
                ("bare pools", bare_pools(made, n, workers, threads)),
                ("waits only", timed(made, n, threads, 0.0, waits)[0]),
            ):
                taken.setdefault(name, []).append(seconds)
    return {
        **{name: statistics.median(times) for name, times in taken.items()},
        "ideal": n * DELAY_S / (workers * threads),
    }


def keeping(n: int, workers: int) -> tuple[float, float]:
    """Return the bytes that the process keeps for an example, and the seconds that it takes for all."""
    import psutil

    me = psutil.Process()
    with cluster(workers) as made:
        timed(made, 1000, 8, 0.0)
        before = me.memory_info().rss
        seconds, found = timed(made, n, 8, 0.0)
        assert found.n == n
        return (me.memory_info().rss - before) / n, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--examples", type=int, default=2000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--threads", type=int, default=32, help="of each worker")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--keep", type=int, help="examples whose memory is measured")
    given = parser.parse_args()
    if given.keep:
        size, seconds = keeping(given.keep, given.workers)
        print(f"{given.keep:,} examples: {size:,.0f} bytes an example, {seconds:.0f} s")
        return
    found = walls(given.examples, given.workers, given.threads, given.rounds)
    print(f"{given.examples:,} examples at 50 ms, {given.workers} workers x {given.threads} threads")
    for name, seconds in found.items():
        print(f"{name:12}{seconds:8.2f} s{seconds / found['ideal']:8.2f} x ideal")


if __name__ == "__main__":  # a worker is a new process, which imports this file
    main()
