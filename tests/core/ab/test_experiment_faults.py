"""Many writers at once, and writers that are killed: no call that returned is lost."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from dspy_nb.core.ab.columns import Columns
from dspy_nb.core.ab.experiment import Experiment
from dspy_nb.core.ab.traffic import Traffic

STORE_WRITER = """
import sys
from dspy_nb.core.ab.traffic import Traffic
traffic = Traffic(sys.argv[1] + "/t.sqlite3")
traffic.set_split(0.5, only_first=True)
for i in range(int(sys.argv[3])):
    made = traffic.assign(f"{sys.argv[2]}-{i}", i / 100)
    traffic.finish(made.number, 1.0)
    traffic.record(made.request_id, i % 3 == 0)
    print(made.number, flush=True)
"""

WRITER = """
import sys
from dspy_nb.core.ab.experiment import Experiment
def a(x): return "a"
def b(x): return "b"
experiment = Experiment("t", a, b, split=0.5, registry=sys.argv[1])
for i in range(int(sys.argv[3])):
    answer, request_id = experiment.predict(f"{sys.argv[2]}-{i}", x=1)
    experiment.record(request_id, i % 3 == 0)
    print(request_id, answer, flush=True)
"""


def _writer(registry: Path, name: str, n: int, script: str = WRITER) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", script, str(registry), name, str(n)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_eight_writers_lose_nothing(tmp_path: Path) -> None:
    writers = [_writer(tmp_path, str(k), 50, STORE_WRITER) for k in range(8)]
    printed = [int(line) for writer in writers for line in writer.communicate(timeout=200)[0].split()]
    assert sorted(printed) == list(range(1, 401))
    stored = Columns()
    stored.refresh(Traffic(tmp_path / "t.sqlite3"))
    assert len(stored) == 400
    assert stored.outcome.sum() == 8 * 17
    assert (stored.latency_us == 1000).all()


def test_processes_that_begin_an_experiment_at_once_share_it(tmp_path: Path) -> None:
    writers = [_writer(tmp_path, str(k), 30) for k in range(2)]
    printed = [line.split() for writer in writers for line in writer.communicate(timeout=200)[0].splitlines()]
    status = Experiment("t", registry=tmp_path).status()
    assert status.total == status.n == len({request_id for request_id, _ in printed}) == 60
    assert status.b.requests == sum(answer == "b" for _, answer in printed)
    assert status.a.successes + status.b.successes == 2 * 10


def test_a_writer_that_is_killed_loses_no_call_that_returned(tmp_path: Path) -> None:
    with _writer(tmp_path, "k", 100_000) as writer:
        assert writer.stdout is not None
        printed = [writer.stdout.readline() for _ in range(100)]
        writer.kill()
        printed += [line for line in writer.stdout.read().split("\n")[:-1] if line]
    experiment = Experiment("t", registry=tmp_path)
    assert experiment.status().n >= len(printed)
    for i, line in enumerate(
        printed[:100]
    ):  # each is there, with its outcome: the same again changes nothing
        experiment.record(line.split()[0], i % 3 == 0)
