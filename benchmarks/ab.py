"""A/B: examples and LM calls to a verdict beside a fixed design, and what updates and live traffic cost.

    python benchmarks/ab.py [--runs 500] [--comparisons 30] [--events 1000000] [--processes 8]

"Fixed" is the design that looks once, at the size that finds the effect with a power of 80 %. Two programs
agree on 70 % of the examples. Examples to a verdict are simulated with the sequences themselves; LM calls are
counted in whole comparisons, whose programs make one call an answer, with 8 threads, so what is under way when
the verdict falls counts too. Times of updates are CPU time of one thread; an event of live traffic is a request
that is assigned, answered by a program that does nothing, and given its outcome. How often verdicts are wrong is
simulated by the slow tests: ``pytest tests/core/statistics tests/core/ab -m slow -s``.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from multiprocessing import get_context
from typing import Any

import dspy
import numpy as np

import dspy_nb as nb
from dspy_nb.core.statistics.sample_sizes import sample_size_paired, sample_size_unpaired
from dspy_nb.core.statistics.sequences import PairedSequence, paired_evalue
from dspy_nb.core.statistics.two_arm import TwoArmSequence
from dspy_nb.core.statistics.verdicts import decide

_DISCORDANCE = 0.3
_EFFECTS = (0.05, 0.10, 0.20)
_THREADS = 8


def table(title: str, columns: tuple[str, ...], rows: list[tuple[object, ...]]) -> None:
    texts = [columns, *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(row[i]) for row in texts) for i in range(len(columns))]
    print(f"\n{title}")
    for row in texts:
        first, *rest = (
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        print("  ".join([first, *rest]))


# -- examples to a verdict ----------------------------------------------------------------------------------


def paired_sizes(effect: float, margin: float, cap: int, runs: int) -> list[tuple[str, int]]:
    """Return the verdict of each run, and after how many examples."""
    rng = np.random.default_rng(1)
    shares = [(_DISCORDANCE - effect) / 2, 1 - _DISCORDANCE, (_DISCORDANCE + effect) / 2]
    points = (-margin, margin) if margin else ()
    return [
        to_verdict(
            PairedSequence(0.95, True, points=points), (rng.choice([-1, 0, 1], cap, p=shares),), margin
        )
        for _ in range(runs)
    ]


def two_arm_sizes(effect: float, split: float, cap: int, runs: int) -> list[tuple[str, int]]:
    rng = np.random.default_rng(2)
    found = []
    for _ in range(runs):
        is_b = rng.random(cap) < split
        outcomes = rng.random(cap) < np.where(is_b, 0.6 + effect, 0.6)
        found.append(to_verdict(TwoArmSequence(0.95), (is_b, outcomes, np.full(cap, split)), 0.0))
    return found


def to_verdict(sequence: PairedSequence | TwoArmSequence, columns: tuple, margin: float) -> tuple[str, int]:
    n = len(columns[0])
    block = max(1, n // 500)  # looked at this often, to be quick
    for start in range(0, n, block):
        verdict = decide(
            *sequence.update_many(*(column[start : start + block] for column in columns)), margin
        )
        if verdict != "inconclusive":
            return verdict, sequence.n
    return "inconclusive", n


def summary(found: list[tuple[str, int]], right: str) -> tuple[int, int, str]:
    """Return the median, the 80th percentile, and the share of runs with the right verdict."""
    sizes = [n for _, n in found]
    share = sum(verdict == right for verdict, _ in found) / len(found)
    return int(np.median(sizes)), int(np.quantile(sizes, 0.8)), f"{share:.1%}"


def examples_to_a_verdict(runs: int) -> None:
    rows: list[tuple[object, ...]] = []
    for effect in _EFFECTS:
        fixed = sample_size_paired(effect, _DISCORDANCE)
        median, most, right = summary(paired_sizes(effect, 0.0, 8 * fixed, runs), "B better")
        rows.append((f"+{effect:.2f}", fixed, median, most, f"{median / fixed:.2f}", right))
    for margin in (0.10, 0.05):
        median, most, right = summary(paired_sizes(0.0, margin, 4000, runs), "no practical difference")
        rows.append((f"0, margin {margin:.2f}", "-", median, most, "-", right))
    columns = ("paired, 70 % agreement", "fixed", "median", "80th", "median/fixed", "right verdict")
    table(f"Examples to a verdict ({runs} simulated comparisons each)", columns, rows)
    rows = []
    for split in (0.5, 0.1):
        ratio = (1 - split) / split
        for effect in _EFFECTS[1:]:
            fixed = round(sample_size_unpaired(0.6, 0.6 + effect, ratio=ratio) * (1 + ratio))
            found = two_arm_sizes(effect, split, 6 * fixed, max(50, runs // 5))
            median, most, right = summary(found, "B better")
            rows.append(
                (f"+{effect:.2f}, split {split}", fixed, median, most, f"{median / fixed:.2f}", right)
            )
    columns = ("two arms, base .6", "fixed", "median", "80th", "median/fixed", "right verdict")
    table(f"Units to a verdict ({max(50, runs // 5)} simulated experiments each)", columns, rows)


def calls_to_a_verdict(comparisons: int) -> None:
    rows = []
    for effect, margin in ((0.10, 0.0), (0.20, 0.0), (0.0, 0.10)):
        calls, sizes = zip(
            *(one_comparison(effect, margin, seed) for seed in range(comparisons)), strict=True
        )
        median = int(statistics.median(calls))
        fixed = 2 * sample_size_paired(effect, _DISCORDANCE) if effect else None
        late = statistics.median(made - 2 * n for made, n in zip(calls, sizes, strict=True))
        name = f"+{effect:.2f}" if effect else f"0, margin {margin:.2f}"
        rows.append((name, fixed or "-", median, f"{median / fixed:.2f}" if fixed else "-", f"{late:g}"))
    columns = ("true difference", "fixed", "median", "median/fixed", "after the verdict")
    table(f"LM calls to a verdict ({comparisons} whole comparisons each, {_THREADS} threads)", columns, rows)


def one_comparison(effect: float, margin: float, seed: int) -> tuple[int, int]:
    """Return how many calls a comparison made, and after how many examples its verdict fell."""
    draw = random.Random(seed)
    kinds = draw.choices(
        ["both", "a", "b"],
        [1 - _DISCORDANCE, (_DISCORDANCE - effect) / 2, (_DISCORDANCE + effect) / 2],
        k=3000,
    )
    calls = 0
    lock = threading.Lock()

    def program(arm: str) -> Callable[[int], dspy.Prediction]:
        def answer(x: int) -> dspy.Prediction:
            nonlocal calls
            with lock:
                calls += 1
            time.sleep(0.003)
            return dspy.Prediction(y="yes" if kinds[x] in ("both", arm) else "no")

        return answer

    data = [dspy.Example(x=i, y="yes").with_inputs("x") for i in range(len(kinds))]
    found = nb.compare(
        program("a"), program("b"), data, nb.exact_match("y"), margin=margin, num_threads=_THREADS
    )
    return calls, found.n_at_verdict or found.n


# -- time ---------------------------------------------------------------------------------------------------


def cpu_us(work: Callable[[], object], count: int) -> float:
    start = time.process_time()
    work()
    return (time.process_time() - start) / count * 1e6


def time_of_updates(events: int) -> None:
    rng = np.random.default_rng(0)
    few = 2000
    wins = rng.choice([-1, 0, 1], few, p=[0.10, 0.70, 0.20])
    scores = np.clip(rng.normal(0.05, 0.2, few), -1, 1)
    is_b = rng.random(events) < 0.1
    outcomes = rng.random(events) < np.where(is_b, 0.61, 0.60)
    splits = np.full(events, 0.1)
    PairedSequence(), PairedSequence(binary=False)  # computes the bets, once in a process

    def one_by_one(sequence: PairedSequence, values: np.ndarray) -> None:
        for value in values:
            sequence.update(value)

    def arms_one_by_one() -> None:
        sequence = TwoArmSequence()
        for unit in zip(is_b[:few], outcomes[:few], splits[:few], strict=True):
            sequence.update(*unit)

    rows = {
        "paired_evalue": cpu_us(lambda: [paired_evalue(20, 10) for _ in range(few)], few),
        "PairedSequence.update, yes/no, n to 100": cpu_us(
            lambda: one_by_one(PairedSequence(), wins[:100]), 100
        ),
        "PairedSequence.update, yes/no, n to 2000": cpu_us(lambda: one_by_one(PairedSequence(), wins), few),
        "PairedSequence.update, graded, n to 2000": cpu_us(
            lambda: one_by_one(PairedSequence(binary=False), scores), few
        ),
        "TwoArmSequence.update, n to 2000": cpu_us(arms_one_by_one, few),
    }
    table("Time of an update", ("", "us"), [(name, f"{value:.1f}") for name, value in rows.items()])
    sequence = TwoArmSequence()
    seconds = cpu_us(lambda: sequence.update_many(is_b, outcomes, splits), 1) / 1e6
    print(f"TwoArmSequence.update_many of {events:,} events: {seconds:.2f} s, interval {sequence.interval}")
    state = json.dumps(sequence.to_state())
    restore_ms = cpu_us(lambda: TwoArmSequence.from_state(json.loads(state)), 1) / 1e3
    print(f"its state: {len(state) / 1e3:.1f} kB; from_state {restore_ms:.1f} ms")


# -- live traffic -------------------------------------------------------------------------------------------


def echo(x: int) -> int:
    return x


def serve(folder: str, writer: int, seconds: float, ready: Any, served: Any) -> None:
    """Serve and record until the time is over, in a process of its own; say how many events that were."""
    experiment = nb.Experiment("traffic", echo, echo, registry=folder)
    ready.wait()  # until every process has imported everything
    end = time.perf_counter() + seconds
    count = 0
    while time.perf_counter() < end:
        _, request_id = experiment.predict(f"user-{writer}-{count}", x=count)
        experiment.record(request_id, success=count % 3 > 0)
        count += 1
    served.put(count)
    experiment.close()


def live_traffic(processes: int, seconds: float = 5.0) -> None:
    rows = []
    alone = 0.0
    spawn = get_context("spawn")
    for count in dict.fromkeys((1, processes)):
        with tempfile.TemporaryDirectory() as folder:
            nb.Experiment("traffic", echo, echo, split=0.5, registry=folder).close()
            ready, served = spawn.Barrier(count), spawn.Queue()
            writers = [
                spawn.Process(target=serve, args=(folder, writer, seconds, ready, served))
                for writer in range(count)
            ]
            for process in writers:
                process.start()
            total = sum(served.get() for _ in writers)
            for process in writers:
                process.join()
            experiment = nb.Experiment("traffic", registry=folder)
            lost = total - experiment.status().total
            experiment.close()
        rate = total / seconds
        alone = alone or rate
        rows.append((count, f"{rate:,.0f}", f"{rate / alone:.2f}", lost))
    table("Live traffic", ("processes", "events/s", "to one process", "lost"), rows)


def looks(events: int) -> None:
    rng = np.random.default_rng(3)
    with tempfile.TemporaryDirectory() as folder:
        experiment = nb.Experiment("looks", echo, echo, split=0.5, registry=folder)
        store = experiment._traffic
        start = time.perf_counter()
        for first in range(0, events, 10_000):
            numbers = range(first, min(first + 10_000, events))
            places = rng.random(len(numbers))
            with store.file.writing() as connection:  # many at once, which is what only a benchmark does
                made = [
                    store._assign(connection, f"user-{i}", place, None)
                    for i, place in zip(numbers, places, strict=True)
                ]
            store.record_many((one.request_id, float(rng.random() < 0.6)) for one in made)
        filled_s = time.perf_counter() - start
        cold_s = wall_s(experiment.status)
        again = nb.Experiment("looks", registry=folder)
        stored_s = wall_s(again.status)
        again.close()
        warm = []
        for i in range(20):
            _, request_id = experiment.predict(f"late-{i}", x=i)
            experiment.record(request_id, success=True)
            warm.append(wall_s(experiment.status))
        warm_s = statistics.median(warm)
        experiment.close()
    rows = [
        ("cold", f"{1000 * cold_s:,.0f}", "1"),
        ("cold, but somebody looked before", f"{1000 * stored_s:,.0f}", f"{stored_s / cold_s:.3f}"),
        ("warm, one more event", f"{1000 * warm_s:,.1f}", f"{warm_s / cold_s:.3f}"),
    ]
    table(
        f"status() of {events:,} events (stored at {events / filled_s:,.0f} a second)",
        ("", "ms", "to cold"),
        rows,
    )


def wall_s(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description="A/B: examples, LM calls and time to a verdict.")
    parser.add_argument("--runs", type=int, default=500, help="simulated comparisons of each kind")
    parser.add_argument("--comparisons", type=int, default=30, help="whole comparisons of each kind")
    parser.add_argument(
        "--events", type=int, default=1_000_000, help="of the large batch, and of the experiment looked at"
    )
    parser.add_argument("--processes", type=int, default=8, help="that serve live traffic at once")
    arguments = parser.parse_args()
    examples_to_a_verdict(arguments.runs)
    calls_to_a_verdict(arguments.comparisons)
    time_of_updates(arguments.events)
    live_traffic(arguments.processes)
    looks(arguments.events)


if __name__ == "__main__":
    main()
