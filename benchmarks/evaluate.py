"""evaluate() beside dspy.Evaluate and a bare thread pool, in one process, taking turns.

    python benchmarks/evaluate.py [--quick] [--growth] [--rounds 3]

The language model is a scripted engine, so what is measured is the loop, the scoring and DSPy's own work for
a call. "instant" answers at once, as a cache does; "50 ms" waits as long as a fast provider. The bare pool is
``ThreadPoolExecutor.map`` over ``program(**inputs)``: no scores, no errors, no results kept. Each figure is
the best of the rounds, because a busy machine only ever adds time.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import dspy
from dspy.clients.base_lm import GLOBAL_HISTORY
from dspy.lm15 import Message, Request, Response, Usage

import dspy_nb as nb

_ANSWER = "[[ ## answer ## ]]\nyes\n\n[[ ## completed ## ]]"


class Engine:
    """Says yes, after a while."""

    def __init__(self, delay_s: float) -> None:
        self.delay_s = delay_s

    def complete(self, request: Request) -> Response:
        """Answer a request."""
        if self.delay_s:
            time.sleep(self.delay_s)
        return Response(
            id="1",
            model=request.model,
            message=Message.assistant(_ANSWER),
            finish_reason="stop",
            usage=Usage(input_tokens=10, output_tokens=5, total_tokens=15),
        )


def examples(n: int) -> list[dspy.Example]:
    return [
        dspy.Example(question=f"question {i}", answer="yes" if i % 3 else "no").with_inputs("question")
        for i in range(n)
    ]


def is_right(gold: dspy.Example, pred: dspy.Prediction, trace: object = None) -> bool:
    return gold.answer == pred.answer


def ours(program: dspy.Module, data: list[dspy.Example], threads: int) -> None:
    assert nb.evaluate(program, data, is_right, num_threads=threads).errors.count == 0


def dspys(program: dspy.Module, data: list[dspy.Example], threads: int) -> None:
    dspy.Evaluate(devset=data, metric=is_right, num_threads=threads, max_errors=len(data) + 1)(program)


def pool(program: dspy.Module, data: list[dspy.Example], threads: int) -> None:
    with ThreadPoolExecutor(threads) as executor:
        list(executor.map(lambda example: program(**example.inputs()), data))


def direct(program: dspy.Module, data: list[dspy.Example], threads: int) -> None:
    for example in data:
        program(**example.inputs())


Loop = Callable[[dspy.Module, list[dspy.Example], int], None]


def measure(loops: list[Loop], n: int, threads: int, delay_s: float, rounds: int) -> list[float]:
    """Return the best wall-clock seconds of each loop."""
    data = examples(n)
    best = [float("inf")] * len(loops)
    for _ in range(rounds):
        for place, loop in enumerate(loops):
            program = dspy.Predict("question -> answer")
            dspy.configure(lm=dspy.LM("scripted/benchmark", engine=Engine(delay_s), cache=False))
            GLOBAL_HISTORY.clear()
            gc.collect()
            started = time.perf_counter()
            loop(program, data, threads)
            best[place] = min(best[place], time.perf_counter() - started)
    return best


def bytes_per_example() -> float:
    """Return the memory that an Evaluation keeps for one example more."""

    def kept(n: int) -> int:
        data = examples(n)
        gc.collect()
        tracemalloc.start()
        evaluation = nb.evaluate(lambda question: dspy.Prediction(answer="yes"), data, is_right)
        gc.collect()
        size = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        assert evaluation.n == n
        return size

    return (kept(4000) - kept(2000)) / 2000


def growth(rounds: int) -> None:
    """Print what an example costs among 50,000 against among 1,000, side by side."""
    print("growth: microseconds an example, the median of 10 runs of 1,000 beside one of 50,000")
    dspy.configure(lm=dspy.LM("scripted/benchmark", engine=Engine(0.0), cache=False))
    program = dspy.Predict("question -> answer")
    for _ in range(rounds):
        costs = []
        for n, times in ((1000, 10), (50_000, 1)):
            seconds = []
            for _ in range(times):
                data = examples(n)
                gc.collect()
                started = time.perf_counter()
                ours(program, data, 8)
                seconds.append(time.perf_counter() - started)
            costs.append(1e6 * statistics.median(seconds) / n)
        print(f"{costs[0]:10.0f}{costs[1]:10.0f}  ratio {costs[1] / costs[0]:.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="evaluate() beside dspy.Evaluate and a bare thread pool.")
    parser.add_argument("--quick", action="store_true", help="a minute instead of half an hour")
    parser.add_argument("--growth", action="store_true", help="only whether the cost grows with n")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    sizes = (1000, 5000) if given.quick else (1000, 5000, 20_000, 50_000)
    dspy.disable_logging()
    if given.growth:
        growth(given.rounds)
        return
    measure([ours, dspys, pool, direct], 200, 8, 0.0, 1)  # warm up

    print("instant engine, microseconds an example")
    print(f"{'n':>7}{'threads':>9}{'evaluate':>10}{'Evaluate':>10}{'ratio':>8}{'direct':>9}{'overhead':>10}")
    for n in sizes:
        for threads in (8,) if n > 5000 else (1, 8, 32, 128):
            times = measure([ours, dspys, direct], n, threads, 0.0, 1 if n > 20_000 else given.rounds)
            a, b, c = (1e6 * seconds / n for seconds in times)
            print(f"{n:7,}{threads:9}{a:10.0f}{b:10.0f}{a / b:8.2f}{c:9.0f}{a - c:10.0f}", flush=True)

    print("50 ms engine, seconds")
    print(f"{'n':>7}{'threads':>9}{'evaluate':>10}{'Evaluate':>10}{'ratio':>8}{'pool':>9}{'of pool':>10}")
    for n, threads in (
        ((1000, 32), (2000, 128)) if given.quick else ((1000, 8), (5000, 32), (5000, 128), (20_000, 128))
    ):
        a, b, c = measure([ours, dspys, pool], n, threads, 0.05, given.rounds)
        print(f"{n:7,}{threads:9}{a:10.2f}{b:10.2f}{a / b:8.2f}{c:9.2f}{c / a:9.0%}", flush=True)

    print(f"memory that the result keeps: {bytes_per_example():,.0f} bytes an example")


if __name__ == "__main__":
    main()
