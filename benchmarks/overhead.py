"""What events, budget, usage counting and candidates add to a bare DSPy optimizer.

    python benchmarks/overhead.py [--rounds 5]

Runs BootstrapFewShotWithRandomSearch with and without dspy_nb in turn, on a scripted engine that answers at
once (CPU time, so that other work on the machine does not show) and on one that takes 50 ms (wall-clock), and
prints the shortest time an LM call of each over the rounds, and the difference.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import tempfile
import time

os.environ.setdefault("DSPY_CACHEDIR", tempfile.mkdtemp(prefix="dspy-nb-bench-"))

import dspy
from dspy.lm15 import Message, Request, Response, Usage
from dspy.utils.callback import BaseCallback

import dspy_nb as nb

OPTIONS = {"max_bootstrapped_demos": 2, "max_labeled_demos": 2}


class Engine:
    """Answers "yes" after a fixed time, and counts."""

    def __init__(self, delay_s: float) -> None:
        self.delay_s = delay_s
        self.calls = 0

    def complete(self, request: Request) -> Response:
        """Answer."""
        self.calls += 1
        if self.delay_s:
            time.sleep(self.delay_s)
        text = "[[ ## answer ## ]]\nyes\n\n[[ ## completed ## ]]"
        usage = Usage(input_tokens=10, output_tokens=5, total_tokens=15)
        return Response(
            id="r", model=request.model, message=Message.assistant(text), finish_reason="stop", usage=usage
        )


class Nothing(BaseCallback):
    """The least that DSPy's callbacks can cost."""


def examples(n: int) -> list[dspy.Example]:
    return [dspy.Example(question=f"question {i}", answer="yes").with_inputs("question") for i in range(n)]


def bare(metric, trainset, valset, candidates, threads, callbacks=()) -> None:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        optimizer = dspy.BootstrapFewShotWithRandomSearch(
            metric=metric,
            num_candidate_programs=candidates,
            num_threads=threads,
            metric_threshold=1.0,
            **OPTIONS,
        )
        with dspy.context(callbacks=list(callbacks)):
            optimizer.compile(dspy.Predict("question -> answer"), trainset=trainset, valset=valset)


def ours(metric, trainset, valset, candidates, threads) -> None:
    nb.optimize(
        dspy.Predict("question -> answer"),
        trainset=trainset,
        valset=valset,
        metric=metric,
        optimizer="BootstrapFewShotWithRandomSearch",
        options={"num_candidate_programs": candidates, **OPTIONS},
        budget=nb.Budget(lm_calls=10**6, seconds=3600),
        num_threads=threads,
        on_event=lambda event: None,
    )


def per_call_us(work, delay_s: float, *arguments, **named) -> float:
    engine = Engine(delay_s)
    with dspy.context(lm=dspy.LM("scripted/bench", engine=engine, cache=False)):
        clock = time.perf_counter if delay_s else time.process_time
        started = clock()
        work(*arguments, **named)
        return (clock() - started) / engine.calls * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    metric = nb.exact_match("answer")
    cases = [
        ("instant, 1 thread", 0.0, (metric, examples(20), examples(300), 4, 1)),
        ("instant, 8 threads", 0.0, (metric, examples(20), examples(300), 4, 8)),
        ("50 ms, 8 threads", 0.05, (metric, examples(8), examples(160), 2, 8)),
    ]
    print(
        f"{'engine':20} {'bare':>9} {'+ no-op callback':>17} {'dspy_nb':>9} {'added':>9} {'of that ours':>13}"
    )
    for name, delay_s, arguments in cases:
        per_call_us(ours, 0.0, *arguments)  # imports and caches
        times: dict[str, list[float]] = {"bare": [], "callback": [], "ours": []}
        for _ in range(rounds if not delay_s else max(1, rounds // 2)):
            times["bare"].append(per_call_us(bare, delay_s, *arguments))
            times["callback"].append(per_call_us(bare, delay_s, *arguments, callbacks=[Nothing()]))
            times["ours"].append(per_call_us(ours, delay_s, *arguments))
        plain, callback, full = (min(times[key]) for key in ("bare", "callback", "ours"))
        print(
            f"{name:20} {plain:7.0f} µs {callback:14.0f} µs {full:6.0f} µs {full - plain:+6.0f} µs "
            f"{full - callback:+10.0f} µs   ({100 * (full / plain - 1):+.1f} %)"
        )


if __name__ == "__main__":
    main()
