"""Many writers at once, and writers that are killed: no request that was returned is lost."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from dspy_nb.core.traffic import Traffic

WRITER = """
import sys
from dspy_nb.core.traffic import Traffic
traffic = Traffic(sys.argv[1])
for i in range(int(sys.argv[3])):
    made = traffic.assign(f"{sys.argv[2]}-{i}", i % 2 == 0, 0.5)
    traffic.record(made.request_id, i % 3 == 0)
    print(made.number, flush=True)
"""


def _writer(path: Path, name: str, n: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, str(path), name, str(n)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def _stored(path: Path) -> list[int]:
    traffic = Traffic(path)
    numbers = [row[0] for row in traffic.matured()]
    traffic._connection().close()
    return numbers


def test_eight_writers_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "t.sqlite3"
    writers = [_writer(path, str(k), 50) for k in range(8)]
    printed = [int(line) for writer in writers for line in writer.communicate(timeout=120)[0].split()]
    assert sorted(printed) == _stored(path) == list(range(1, 401))


def test_a_writer_that_is_killed_loses_no_call_that_returned(tmp_path: Path) -> None:
    path = tmp_path / "t.sqlite3"
    with _writer(path, "k", 100_000) as writer:
        assert writer.stdout is not None
        printed = [int(writer.stdout.readline()) for _ in range(100)]
        writer.kill()
        printed += [int(line) for line in writer.stdout.read().split("\n")[:-1] if line]
    assert set(printed) <= set(_stored(path))
