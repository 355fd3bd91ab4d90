"""What travels together, and how much of it at a time."""

from __future__ import annotations

import os
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from dspy_nb.core.execution.courier import Known
from dspy_nb.core.execution.dask import DaskCluster
from dspy_nb.core.execution.leases import Lease

_LARGEST: Final = 1024


@dataclass(eq=False)
class Chunk:
    """Some jobs that travel together.

    Attributes:
        places: Their places among all jobs.
        losses: How often it was lost with its worker.
        deaths: How often its worker died of nothing else; of one example only.
        known: Answers that the run knows, which its jobs need.
        looked_up: Whether what the run knows has been looked up for it.
        brings_work: Whether it must bring the work along.
    """

    places: list[int]
    losses: int = 0
    deaths: int = 0
    known: list[Known] = field(default_factory=list)
    looked_up: bool = False
    brings_work: bool = False

    @property
    def suspect(self) -> bool:
        """Whether it may kill its worker by itself."""
        return self.losses > 1 and len(self.places) == 1


class Share(NamedTuple):
    """How much a task gets.

    Attributes:
        together: How many jobs belong together.
        threads: How many jobs keep a task busy.
        early: Whether outcomes may end the run.
    """

    together: int
    threads: int
    early: bool

    @property
    def tasks(self) -> int:
        """How many each worker is given, those in reserve included."""
        return 1 if self.early else 2

    def size(self, jobs: int, workers: int) -> int:
        """Return how many of all jobs a task gets."""
        return self.whole(self.threads if self.early else max(1, min(_LARGEST, jobs // workers)))

    def whole(self, jobs: int) -> int:
        """Return about so many jobs: a multiple of what keeps a task busy to its end, and of those that are one."""
        if jobs > self.threads:
            jobs = -(-jobs // self.threads) * self.threads
        return -(-jobs // self.together) * self.together


class Flight(NamedTuple):
    """A chunk under way, where it is, and what it may spend."""

    chunk: Chunk
    executor: Executor
    lease: Lease | None


def width_of(executor: Executor, dask: DaskCluster | None) -> int:
    """Return how many tasks an executor runs at once, as far as that can be known."""
    if dask:
        return dask.width
    return int(getattr(executor, "_max_workers", None) or os.cpu_count() or 1)
