"""An online experiment with a million recorded events: status() cold, from a checkpoint and warm; 8 writers.

Run: python benchmarks/experiment.py [events]
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from dspy_nb.core.experiment import Experiment
from dspy_nb.core.traffic import Traffic

WRITER = """
import sys, time
from dspy_nb.core.traffic import Traffic
traffic = Traffic(sys.argv[1])
traffic.set_split(0.5, only_first=True)
start = time.time() + 1
while time.time() < start: pass
for i in range(1000):
    made = traffic.assign(f"{sys.argv[2]}-{i}", i / 1000)
    traffic.finish(made.number, 1.0)
    traffic.record(made.request_id, 1)
print(start, time.time())
"""


def _program(x: str) -> str:
    return x


def _fill(experiment: Experiment, n: int, effect: float) -> None:
    """Write n events, as predict and record would have, but in one transaction."""
    rng = np.random.default_rng(0)
    is_b = rng.random(n) < 0.5
    outcome = rng.random(n) < 0.6 + effect * is_b
    latency_us = rng.exponential(300_000, n).astype(int)
    now = time.time()
    rows = zip(is_b.tolist(), outcome.tolist(), latency_us.tolist(), range(n), strict=True)
    with experiment._traffic.file.writing() as connection:
        connection.executemany(
            "INSERT INTO events (is_b, first, split_id, outcome, cached, latency_us, assigned_at, recorded_at, "
            "request_id, unit) VALUES (?, 1, 1, ?, 0, ?, ?, ?, ?, ?)",
            ((int(b), float(y), ms, now, now, f"{i:032x}", f"user-{i}") for b, y, ms, i in rows),
        )
        connection.execute("INSERT INTO changes (number) SELECT number FROM events")
        connection.execute("INSERT INTO changes (number) SELECT number FROM events")


def _timed(call: object) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    call()  # type: ignore[operator]
    return time.perf_counter() - wall, time.process_time() - cpu


def _looks(n: int, effect: float) -> None:
    with tempfile.TemporaryDirectory() as folder:
        experiment = Experiment("bench", _program, _program, split=0.5, registry=folder)
        _fill(experiment, n, effect)
        print(f"\n{n:,} events, effect {effect:g}                   wall      CPU")
        print("status(), cold, nobody looked before  {:6.2f} s {:6.2f} s".format(*_timed(experiment.status)))
        other = Experiment("bench", registry=folder)
        print("status(), cold, another process looked{:6.2f} s {:6.2f} s".format(*_timed(other.status)))
        looks = []
        for i in range(20):
            _, request_id = experiment.predict(f"new-{i}", x="")
            experiment.record(request_id, success=True)
            looks.append(_timed(experiment.status))
        wall, cpu = np.median(looks, axis=0)
        print(f"status(), warm, one new event         {1000 * wall:6.1f} ms{1000 * cpu:6.1f} ms")
        experiment.close()
        other.close()


def _writers(count: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t.sqlite3"
        Traffic(path).set_split(0.5)
        running = [
            subprocess.Popen(
                [sys.executable, "-c", WRITER, str(path), str(k)], stdout=subprocess.PIPE, text=True
            )
            for k in range(count)
        ]
        times = [tuple(map(float, writer.communicate()[0].split())) for writer in running]
        took = max(end for _, end in times) - min(start for start, _ in times)
        print(f"{count} writers: {1000 * count / took:,.0f} events/s (assigned, finished and recorded)")


if __name__ == "__main__":
    events = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    for effect in (0.0, 0.02):
        _looks(events, effect)
    for count in (1, 8):
        _writers(count)
