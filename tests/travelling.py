"""What travels to other processes: an LM by script that counts its calls in a file; examples; a metric."""

from __future__ import annotations

import os
import time
from pathlib import Path

import dspy
from dspy.lm15 import Request, Response

from tests.scripted import ScriptedEngine


class TravellingEngine(ScriptedEngine):
    """Counts its calls of all processes, as the bytes of a file.

    Args:
        notes: The file.
        delay_s: How long each call takes.
        kills: A call whose prompt holds this text ends its process, the first time.
    """

    def __init__(self, notes: Path, delay_s: float = 0.0, kills: str = "") -> None:
        super().__init__()
        self.notes, self.pause_s, self.kills = str(notes), delay_s, kills
        notes.touch()

    def __reduce__(self):
        return TravellingEngine, (Path(self.notes), self.pause_s, self.kills)

    def complete(self, request: Request) -> Response:
        with Path(self.notes).open("ab", buffering=0) as notes:
            notes.write(b".")
        time.sleep(self.pause_s)
        marker = Path(f"{self.notes}.killed")
        if self.kills and self.kills in str(request.messages[-1]) and not marker.exists():
            marker.touch()
            os._exit(1)
        return super().complete(request)

    @property
    def asked(self) -> int:
        return Path(self.notes).stat().st_size


def travelling_lm(engine: TravellingEngine, name: str = "scripted/model", **more) -> dspy.LM:
    return dspy.LM(name, engine=engine, **{"cache": False, **more})


def numbers(n: int) -> list[dspy.Example]:
    """Return examples that are numbers."""
    return [dspy.Example(number=i).with_inputs("number") for i in range(n)]


def same_number(gold, pred, trace=None) -> bool:
    return gold.number == pred.number
