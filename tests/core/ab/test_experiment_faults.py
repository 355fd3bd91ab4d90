"""Many writers at once, and writers that are killed: no call that returned is lost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from dspy_nb.core.ab.columns import Columns
from dspy_nb.core.ab.experiment import Experiment
from dspy_nb.core.ab.traffic import Traffic
from tests.children import Children


def stored_by(name: str, folder: Path, n: int) -> Iterator[int]:
    traffic = Traffic(folder / "t.sqlite3")
    traffic.set_split(0.5, only_first=True)
    for i in range(n):
        made = traffic.assign(f"{name}-{i}", i / 100)
        traffic.finish(made.number, 1.0)
        traffic.record(made.request_id, i % 3 == 0)
        yield made.number


def answered_by(name: str, registry: Path, n: int) -> Iterator[tuple[str, str]]:
    experiment = Experiment("t", _a, _b, split=0.5, registry=registry)
    for i in range(n):
        answer, request_id = experiment.predict(f"{name}-{i}", x=1)
        experiment.record(request_id, i % 3 == 0)
        yield request_id, answer


def _a(x: int) -> str:
    return "a"


def _b(x: int) -> str:
    return "b"


def test_eight_writers_lose_nothing(tmp_path: Path, children: Children) -> None:
    writers = [children(stored_by, str(k), tmp_path, 50) for k in range(8)]
    returned = [number for writer in writers for number in writer.rest()]
    assert sorted(returned) == list(range(1, 401))
    stored = Columns()
    stored.refresh(Traffic(tmp_path / "t.sqlite3"))
    assert len(stored) == 400
    assert stored.outcome.sum() == 8 * 17
    assert (stored.latency_us == 1000).all()


def test_processes_that_begin_an_experiment_at_once_share_it(tmp_path: Path, children: Children) -> None:
    writers = [children(answered_by, str(k), tmp_path, 30) for k in range(2)]
    returned = [answered for writer in writers for answered in writer.rest()]
    status = Experiment("t", registry=tmp_path).status()
    assert status.total == status.n == len({request_id for request_id, _ in returned}) == 60
    assert status.b.requests == sum(answer == "b" for _, answer in returned)
    assert status.a.successes + status.b.successes == 2 * 10


def test_a_writer_that_is_killed_loses_no_call_that_returned(tmp_path: Path, children: Children) -> None:
    writer = children(answered_by, "k", tmp_path, 100_000)
    returned = [next(writer) for _ in range(100)]
    writer.kill()
    returned += writer
    experiment = Experiment("t", registry=tmp_path)
    assert experiment.status().n >= len(returned)
    for i, (request_id, _) in enumerate(returned[:100]):
        experiment.record(
            request_id, i % 3 == 0
        )  # it is there, with its outcome: the same again changes nothing
