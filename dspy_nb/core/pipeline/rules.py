"""What a pipeline is given: a program to optimize, what it must show to pass, and where it goes then."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

from dspy_nb.core.ab.comparison import Comparison
from dspy_nb.core.arguments import number_between, probability
from dspy_nb.core.data.examples import fingerprint
from dspy_nb.core.data.metrics import as_metric
from dspy_nb.core.errors import InputError
from dspy_nb.core.models.names import check_environment
from dspy_nb.core.optimization.budget import Budget
from dspy_nb.core.optimization.replay import describe_program, text_hash
from dspy_nb.core.optimization.run import readable
from dspy_nb.core.optimization.task import Task
from dspy_nb.core.pipeline.gate import QualityGate
from dspy_nb.core.text import value_text

STEPS: Final = ("optimize", "evaluate", "gate", "staging", "ab-test", "production")
DEFAULT_BUDGET: Final = Budget(seconds=3600)
"""Of the optimization, where none is given: no pipeline waits for ever."""

_RULES: Final = ("margin", "confidence", "inconclusive", "staging", "production")

Inconclusive = Literal["refuse", "ship"]


@dataclass(frozen=True, kw_only=True)
class PipelineRules:
    """What a new version must show, and where it goes then.

    Attributes:
        gate: What its evaluation must show.
        margin: How much worse than what is in production still is not worse, in [0, 1].
        confidence: Of the comparison with what is in production.
        inconclusive: Whether a comparison that cannot tell refuses the new version, or ships it.
        staging: The environment that it goes to after the gate.
        production: The environment that it goes to after the comparison.

    Raises:
        InputError: One of them is not valid.
    """

    gate: QualityGate
    margin: float = 0.02
    confidence: float = 0.95
    inconclusive: Inconclusive = "refuse"
    staging: str = "staging"
    production: str = "production"

    def __post_init__(self) -> None:
        number_between("margin", self.margin, 0, 1)
        probability("confidence", self.confidence)
        if self.inconclusive not in ("refuse", "ship"):
            raise InputError(f"inconclusive must be 'refuse' or 'ship', got {value_text(self.inconclusive)}")
        if check_environment(self.staging) == check_environment(self.production):
            raise InputError(f"staging and production are both {self.staging!r}: they must differ")


def describe_pipeline(task: Task, model_id: str, rules: PipelineRules) -> dict[str, Any]:
    """Return as JSON data what must be the same when an interrupted pipeline goes on."""
    assert task.metric is not None
    metric = as_metric(task.metric)
    sets = {f"{name}set": fingerprint(examples) for name, examples in task.sets.items()}
    return {
        "model_id": model_id,
        "program": text_hash(repr(describe_program(task.programs[0]))),
        "metric": {"name": repr(metric), "source": text_hash(metric.source)},
        "valset": None,
        **sets,
        "optimizer": task.optimizer,
        "options": readable(task.options),
        "preset": task.preset,
        "seed": task.seed,
        "gate": _describe_gate(rules.gate),
        "rules": {name: getattr(rules, name) for name in _RULES},
    }


def passes(found: Comparison, inconclusive: Inconclusive) -> tuple[bool, str]:
    """Return whether a comparison with what is in production lets the new version (B) pass, and why."""
    low, high = found.interval
    points = f"{100 * found.effect:+.1f} points [{100 * low:+.1f}, {100 * high:+.1f}] on {found.n:,} examples"
    better = {"A better": f"{found.a_name} is better", "B better": f"{found.b_name} is better"}
    message = f"{better.get(found.verdict, found.verdict)}: {found.b_name} differs by {points}"
    if found.verdict == "A better":
        return False, message
    if found.verdict in ("B better", "no practical difference") or found.not_worse:
        return True, message if found.verdict != "inconclusive" else f"not worse: {message}"
    if inconclusive == "ship":
        return True, f"{message}; shipped all the same, as asked"
    if found.more_needed is not None:
        message += f"; about {found.more_needed:,} more examples would settle it"
    return False, message


def _describe_gate(gate: QualityGate) -> dict[str, Any]:
    """Return a gate as JSON data, to tell whether another one is the same."""
    reference = gate.not_worse_than
    named = reference if isinstance(reference, str | None) else getattr(reference, "ref", "an evaluation")
    return {name: value for name, value in vars(gate).items() if value is not None} | {
        "not_worse_than": named
    }
