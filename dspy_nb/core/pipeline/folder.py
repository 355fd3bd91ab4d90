"""What a pipeline leaves: its steps, its result, and the folder that lets an interrupted one go on.

folder/
  pipeline.json     what it is, and each step that is over
  run/              the answers of the language model while optimizing (see replay.py)
  run.json  evaluation.json  gate.json  ab.json      what each step found
  decision.json     written last: shipped or refused, and why
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from dspy_nb.core.doors import Shown
from dspy_nb.core.errors import InputError, RegistryError
from dspy_nb.core.storage.files import (
    dump_json,
    explain_failure,
    make_folders,
    parse_json,
    read_file,
    replace_file,
)
from dspy_nb.core.storage.log import utc_now
from dspy_nb.core.text import repaired

if TYPE_CHECKING:
    from dspy_nb.core.ab.comparison import Comparison
    from dspy_nb.core.deployment.history import Deployment
    from dspy_nb.core.evaluation.scorecard import Evaluation
    from dspy_nb.core.evidence import GateResult
    from dspy_nb.core.optimization.run import OptimizationRun

_SCHEMA_VERSION: Final = 1

Status = Literal["passed", "refused", "skipped"]


@dataclass(frozen=True, slots=True)
class PipelineStep:
    """A step that is over.

    Attributes:
        name: One of ``pipeline.STEPS``.
        status: ``passed``; ``refused``, which ends the pipeline; ``skipped``, where there is nothing to do.
        message: What it found, in one line.
        at: When it ended, ISO 8601 in UTC.
        duration_s: Time it took.
        facts: What later steps need to know, as JSON data.
    """

    name: str
    status: Status
    message: str
    at: str = field(default_factory=utc_now)
    duration_s: float = 0.0
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class PipelineResult(Shown):
    """How far a pipeline came.

    Attributes:
        shipped: Whether the new version is live; ``None`` if the pipeline was to end before that is decided.
        ref: The new version, if it was registered.
        baseline: What was in production before, if anything.
        steps: The steps that are over, those of an earlier call included.
        folder: Where everything is kept.
        run: The optimization; ``None`` if an earlier call did it.
        evaluation: Of the new version, if it came that far.
        gate: What the gate said, if it came that far.
        comparison: With the baseline; ``None`` if there was none, or an earlier call did it.
        deployment: That made it live, if one did.
    """

    shipped: bool | None
    ref: str | None
    baseline: str | None
    steps: tuple[PipelineStep, ...]
    folder: Path
    run: OptimizationRun | None = None
    evaluation: Evaluation | None = None
    gate: GateResult | None = None
    comparison: Comparison | None = None
    deployment: Deployment | None = None

    @property
    def reason(self) -> str | None:
        """Why it was refused, ``None`` if it was not."""
        return next((step.message for step in self.steps if step.status == "refused"), None)

    def to_dict(self) -> dict[str, Any]:
        """Return the decision as JSON data; the artefacts have the rest."""
        return {
            "schema_version": _SCHEMA_VERSION,
            "shipped": self.shipped,
            "ref": self.ref,
            "baseline": self.baseline,
            "reason": self.reason,
            "steps": [asdict(step) for step in self.steps],
        }


class PipelineFolder:
    """The folder of one pipeline.

    Args:
        path: Made if it does not exist.
        identity: What the pipeline is, as JSON data; an earlier call must have had the same.

    Raises:
        InputError: Its pipeline is over, or was another one; the message names what differs.
        RegistryError: It cannot be read or written.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any]) -> None:
        self.path = path
        self.steps: list[PipelineStep] = []
        self._identity = repaired({"schema_version": _SCHEMA_VERSION, **identity})
        there = self.read("pipeline.json")
        if there is None:
            return
        if (decision := self.read("decision.json")) is not None:
            outcome = f"{'shipped' if decision.get('shipped') else 'refused'} {decision.get('ref')}"
            raise InputError(f"{path} holds a pipeline that is over ({outcome}): use another")
        old, new = there.get("plan"), parse_json(dump_json(self._identity, "the pipeline"), path)
        try:
            if changed := sorted(name for name in {*old, *new} if old.get(name) != new.get(name)):
                names = ", ".join(changed)
                raise InputError(f"{path} belongs to another pipeline: {names} changed; use another folder")
            self.steps = [PipelineStep(**step) for step in there["steps"]]
        except (AttributeError, KeyError, TypeError):
            raise InputError(f"{path / 'pipeline.json'} is damaged: use another folder") from None

    def step(self, name: str) -> PipelineStep | None:
        """Return a step that is over."""
        return next((step for step in self.steps if step.name == name), None)

    def add(self, step: PipelineStep) -> None:
        """Record a step that is over."""
        self.steps.append(step)
        self.save()

    def save(self) -> None:
        """Record what it is and the steps that are over."""
        self.write("pipeline.json", {"plan": self._identity, "steps": [asdict(step) for step in self.steps]})

    def read(self, name: str) -> Any:
        """Return what a JSON file of the folder holds, ``None`` if there is none."""
        with explain_failure(f"read {self.path / name}"):
            try:
                found = parse_json(read_file(self.path / name), self.path / name)
            except FileNotFoundError:
                return None
            except NotADirectoryError:
                raise InputError(f"{self.path} is no folder") from None
        if not isinstance(found, dict):
            raise RegistryError(f"{self.path / name} holds no JSON object")
        return found

    def write(self, name: str, content: object) -> None:
        """Write a JSON file of the folder, whole or not at all."""
        path = self.path / name
        with explain_failure(f"write {path}"):
            make_folders(self.path)
            replace_file(path, dump_json(repaired(content), name))


def next_folder(parent: Path, model_id: str) -> Path:
    """Return the folder for a pipeline of a model: the last one if it was interrupted, else a new one.

    They are called ``<model_id>-001``, ``<model_id>-002``, ...
    """
    found = [path.name.rpartition("-") for path in parent.glob(f"{model_id}-[0-9][0-9][0-9]*")]
    numbers = [int(number) for name, _, number in found if name == model_id and number.isdigit()]
    last = max(numbers, default=0)
    folder = parent / f"{model_id}-{last:03}"
    interrupted = (folder / "pipeline.json").exists() and not (folder / "decision.json").exists()
    return folder if last and interrupted else parent / f"{model_id}-{last + 1:03}"
