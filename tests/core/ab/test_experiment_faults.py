"""Processes that begin an experiment at once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from dspy_nb.core.ab.experiment import Experiment
from tests.children import Children


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


def test_processes_that_begin_an_experiment_at_once_share_it(tmp_path: Path, children: Children) -> None:
    writers = [children(answered_by, str(k), tmp_path, 30) for k in range(2)]
    returned = [answered for writer in writers for answered in writer.rest()]
    status = Experiment("t", registry=tmp_path).status()
    assert status.total == status.n == len({request_id for request_id, _ in returned}) == 60
    assert status.b.requests == sum(answer == "b" for _, answer in returned)
    assert status.a.successes + status.b.successes == 2 * 10
