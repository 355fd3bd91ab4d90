"""What a sweep says while it works, besides the events of the calls within its cells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dspy_nb.core.events import Event


@dataclass(frozen=True)
class SweepStarted(Event):
    """A sweep began.

    Attributes:
        cells: names of its cells.
        rungs: how many of them each rung of the race is to have.
        budget: the limits in force, ``{}`` for none.
        folder: where its answers are kept, "" if nowhere.
    """

    cells: tuple[str, ...]
    rungs: tuple[int, ...] = ()
    budget: Mapping[str, int | float] = field(default_factory=dict)
    folder: str = ""


@dataclass(frozen=True)
class CellStarted(Event):
    """A cell goes on, in a rung of the race; or the finalists are compared, which is no cell.

    Attributes:
        name: of the cell; "" for the comparison.
        rung: which one, from 1.
        lm_calls: LM calls that it may make at most in this rung, ``None`` if there is no limit.
    """

    name: str
    rung: int = 0
    lm_calls: int | None = None


@dataclass(frozen=True)
class CellEnded(Event):
    """A cell is over for this rung, or for good.

    Attributes:
        name: of the cell; "" for the comparison.
        status: "done", "dropped", "failed", "finalist" or "waiting".
        reason: how it ended, in one line.
        score: of its best program on the validation examples; of a finalist that was compared on the test examples,
            on those.
        lm_calls: what it has used so far.
        usage: what the whole sweep has used so far, as in ``Progress``.
    """

    name: str
    status: str
    reason: str = ""
    score: float | None = None
    lm_calls: int = 0
    usage: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class SweepEnded(Event):
    """A sweep is over.

    Attributes:
        best: name of the best cell, ``None`` if there is none.
        message: what was found, in one line.
        lm_calls: what it has used.
        duration_s: wall-clock seconds.
        stopped_by: what ended it early; ``None`` if nothing did.
    """

    best: str | None
    message: str = ""
    lm_calls: int = 0
    duration_s: float = 0.0
    stopped_by: str | None = None
