"""The two users of the store of traffic, an experiment and an environment, so that one test is about both."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dspy

from dspy_nb.core.ab.experiment import Experiment
from dspy_nb.core.deployment.environment import Environment
from dspy_nb.core.deployment.objectives import MonitorSettings
from dspy_nb.core.registry.registry import Registry
from dspy_nb.core.traffic.serving import Answer
from dspy_nb.core.traffic.store import Traffic
from tests.registry_samples import EVALUATION
from tests.scripted import scripted_lm

OPEN_S = 60.0
"""How long an outcome may be open before the others go on."""

_LM = scripted_lm()
_SETTINGS = MonitorSettings(level=0.9, wait_s=OPEN_S)


class Program(dspy.Module):
    """Answers, or does what its input says."""

    def __init__(self) -> None:
        super().__init__()
        self.ask = dspy.Predict("review -> sentiment")

    def forward(self, review: Any) -> Any:
        return _answer(review)


class Later(dspy.Module):
    """Can only be awaited."""

    def __init__(self) -> None:
        super().__init__()
        self.ask = dspy.Predict("review -> sentiment")

    async def aforward(self, review: Any) -> Any:
        return _answer(review)


def _answer(review: Any) -> Any:
    if callable(review):
        review = review()
    if review == "break":
        raise TimeoutError("too slow")
    if review == "interrupt":
        raise KeyboardInterrupt
    return review if review == "text" else dspy.Prediction(sentiment="positive")


class User:
    """What both have, under one name.

    Args:
        root: Of the registry.
        program: Class of the programs that answer.
        clock: Seconds since 1970.
    """

    traffic: Traffic
    view: Any

    def __init__(
        self, root: Path, program: type[dspy.Module] = Program, clock: Callable[[], float] = time.time
    ) -> None:
        self.root, self.program, self.clock = root, program, clock

    @property
    def path(self) -> Path:
        return self.traffic.path

    @property
    def asides(self) -> list[Path]:
        """What was set aside, without what SQLite keeps beside it."""
        found = sorted(self.path.parent.glob(f"{self.path.name}.damaged-*"))
        return [path for path in found if not path.name.endswith(("-wal", "-shm"))]

    def again(self) -> Any:
        """Return the user as another process has it."""
        return type(self)(self.root, self.program, self.clock)

    def closed(self) -> Path:
        """Close the file, so that all that it holds is in one, and return it."""
        self.traffic.close()
        return self.path

    def record(self, request_id: str | None, *success: Any, **outcome: Any) -> None:
        self.view.record(request_id, *success, **outcome)

    def total(self) -> int:
        return self.traffic.count("1")

    def fill(self, n: int, first: str = "before") -> list[str]:
        """Answer requests, with good outcomes."""
        made = [self.ask(f"{first} {number}", request_id=f"{first} {number}") for number in range(n)]
        for request_id in made:
            self.record(request_id, True)
        return made

    def ask(self, unit: str, review: Any = "fine", *, request_id: str | None = None) -> str:
        raise NotImplementedError


class OfExperiment(User):
    """An experiment with the program in both arms."""

    def __init__(self, *arguments: Any, **given: Any) -> None:
        super().__init__(*arguments, **given)
        programs = self.program(), self.program()
        for program in programs:
            program.set_lm(_LM)
        options = {"split": 0.5, "outcome_within_s": OPEN_S, "clock": self.clock}
        self.view: Experiment = Experiment("t", *programs, registry=self.root, **options)
        self.traffic = self.view._traffic

    def predict(self, unit: str = "u", **inputs: Any) -> Answer:
        return self.view.predict(unit, **inputs)

    async def apredict(self, unit: str = "u", **inputs: Any) -> Answer:
        return await self.view.apredict(unit, **inputs)

    def ask(self, unit: str, review: Any = "fine", *, request_id: str | None = None) -> str:
        made = self.view.predict(unit, review=review, request_id=request_id).request_id
        assert made is not None
        return made

    def counted(self) -> tuple[int, float]:
        status = self.view.status()
        return status.n, status.a.successes + status.b.successes

    def missing(self) -> list[str]:
        return [warning for warning in self.view.status().warnings if "damaged" in warning]

    def looks(self) -> list[Callable[[], object]]:
        """What only looks, beginning with what opens the file."""
        return [
            lambda: Experiment.open("t", registry=self.root),
            lambda: Experiment("t", registry=self.root),
            lambda: self.view.split,
        ]


class OfEnvironment(User):
    """An environment in which the program is live."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        registry = Registry(self.root)
        self.view: Environment = registry.environment("staging")
        if self.view.current is None:
            registry.register(self.program(), "m")
            registry.register(self.program(), "m", version="1.1.0")
            self.view.deploy("m@1.0.0", evidence=EVALUATION)
        self.traffic = self.view.traffic
        self.traffic.clock = self.clock

    def predict(self, unit: str = "u", **inputs: Any) -> Answer:
        return self.view.predict(self.program, unit=unit, **inputs)

    async def apredict(self, unit: str = "u", **inputs: Any) -> Answer:
        return await self.view.apredict(self.program, unit=unit, **inputs)

    def ask(self, unit: str, review: Any = "fine", *, request_id: str | None = None) -> str:
        if request_id is not None:
            return self.view.observe(unit=unit, request_id=request_id)
        return str(self.predict(unit, review=review).request_id)

    def counted(self) -> tuple[int, float]:
        quality = self.view.check_health(_SETTINGS)["quality"]
        return quality.n, quality.n * (quality.observed or 0.0)

    def missing(self) -> list[str]:
        return list(self.view.check_health(_SETTINGS).missing)

    def looks(self) -> list[Callable[[], object]]:
        """What only looks, beginning with what opens the file."""
        return [
            lambda: self.again().view.check_health(_SETTINGS),
            lambda: self.again().view.canary_status(),
            lambda: self.again().view.advance_canary(),
        ]


USERS = [OfExperiment, OfEnvironment]
