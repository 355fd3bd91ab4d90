"""From a program to production in one call: optimize, evaluate, gate, staging, A/B, production.

No step is ever left out: what the gate or the comparison refuses is not deployed anywhere beyond, and the
refusal is recorded with the version, so that it cannot be promoted by hand either without ``force``.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import InitVar, dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

import dspy
from msgspec import structs

from dspy_nb.core.ab.compare import compare
from dspy_nb.core.ab.comparison import Comparison
from dspy_nb.core.arguments import number_between, probability, user_path
from dspy_nb.core.audience import Audience
from dspy_nb.core.data.identity import fingerprint
from dspy_nb.core.data.metrics import as_metric
from dspy_nb.core.deployment.environment import Environment
from dspy_nb.core.deployment.history import Deployment
from dspy_nb.core.errors import Conflict, InputError, Refused
from dspy_nb.core.evaluation.evaluate import evaluate
from dspy_nb.core.evaluation.scorecard import Evaluation
from dspy_nb.core.events import Listener, StepEnded, StepStarted
from dspy_nb.core.evidence import GateResult
from dspy_nb.core.models.names import check_environment, check_model_id
from dspy_nb.core.models.version import ModelVersion
from dspy_nb.core.optimization.ending import Voice, speaking
from dspy_nb.core.optimization.optimize import estimate, optimize
from dspy_nb.core.optimization.replay import describe_program, text_hash
from dspy_nb.core.optimization.run import OptimizationRun, readable
from dspy_nb.core.optimization.task import Task
from dspy_nb.core.pipeline.folder import PipelineFolder, PipelineResult, PipelineStep
from dspy_nb.core.pipeline.gate import QualityGate
from dspy_nb.core.registry.registry import Registry
from dspy_nb.core.supervision.budget import Budget
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
        create: Whether these may be new ones, beside development, staging and production.

    Raises:
        InputError: One of them is not valid.
    """

    gate: QualityGate
    margin: float = 0.02
    confidence: float = 0.95
    inconclusive: Inconclusive = "refuse"
    staging: str = "staging"
    production: str = "production"
    create: bool = False

    def __post_init__(self) -> None:
        number_between("margin", self.margin, 0, 1)
        probability("confidence", self.confidence)
        if self.inconclusive not in ("refuse", "ship"):
            raise InputError(f"inconclusive must be 'refuse' or 'ship', got {value_text(self.inconclusive)}")
        if check_environment(self.staging) == check_environment(self.production):
            raise InputError(f"staging and production are both {self.staging!r}: they must differ")


def run_pipeline(
    task: Task,
    model_id: str,
    rules: PipelineRules,
    *,
    registry: Registry,
    folder: str | Path,
    until: str = "production",
    bump: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    by: str | None = None,
    on_event: Listener | Sequence[Listener] | None = None,
    stop: threading.Event | None = None,
    progress: bool | None = None,
) -> PipelineResult:
    """Optimize a program and ship it if it is good enough, and not worse than what is in production.

    The first version of a model is compared with nothing: the gate alone decides. Interrupted, the same call
    with the same folder goes on after the last step that was over; an optimization that was under way pays for
    no answer twice.

    Args:
        task: What to optimize, and how. The gate and the comparison rest on its testset. The seconds of its
            budget, an hour where it has no limit, also bound the evaluation and the comparison, each.
        model_id: The model that it becomes a version of.
        rules: What it must show, and where it goes.
        registry: Where versions and environments are.
        folder: Where to keep what each step finds.
        until: The step to end with, of ``STEPS``; a later call does the rest.
        bump: Which part of the version to raise.
        metadata: Facts to store with the version.
        by: Who ships; the user of the process by default.
        on_event: One or several listeners: called with ``StepStarted`` and ``StepEnded``, and in between with the
            events of the optimization, the evaluation and the comparison.
        stop: Set it, from another thread, to interrupt.
        progress: Whether to show how it goes, in a notebook with a Stop button, in a terminal as a bar on stderr;
            by default where there is either, see ``optimize``.

    Raises:
        InputError: Something given is wrong; nothing has been spent or written.
        KeyboardInterrupt: It was interrupted; the same call goes on.
        DspyNbError: A step failed. That a rule said no is a result instead.
    """
    check_model_id(model_id)
    if until not in STEPS:
        raise InputError(f"until must be one of {', '.join(STEPS)}, got {value_text(until)}")
    events = Audience(on_event, progress, stop)
    path, within = user_path("folder", folder), {"on_event": events.send, "stop": events.stop}
    work = _Pipeline(task, model_id, rules, registry, path, bump, metadata, by, within)
    with events:
        for name in STEPS[: STEPS.index(until) + 1]:
            if (over := work.folder.step(name)) is not None:
                if over.status == "refused":
                    break
                continue
            events.send(StepStarted(name, str(folder)))
            started = time.monotonic()
            try:
                step = work.step(name)
            except Refused as error:
                step = PipelineStep(name, "refused", str(error))
            step = replace(step, duration_s=round(time.monotonic() - started, 3))
            work.folder.add(step)
            last = step.status == "refused" or name == until
            events.send(StepEnded(name, step.status, step.message, step.duration_s, last))
            if last:
                break
    return work.result()


@dataclass
class _Pipeline:
    """One pipeline under way; ``within`` holds what every call within its steps gets."""

    task: Task
    model_id: str
    rules: PipelineRules
    registry: Registry
    path: InitVar[Path]
    bump: str | None
    metadata: Mapping[str, Any] | None
    by: str | None
    within: Mapping[str, Any]
    run: OptimizationRun | None = None
    evaluation: Evaluation | None = None
    gate: GateResult | None = None
    comparison: Comparison | None = None
    deployment: Deployment | None = None

    def __post_init__(self, path: Path) -> None:
        if not self.task.budget.limits():
            self.task = replace(self.task, budget=DEFAULT_BUDGET)
        self._check()
        self.folder = PipelineFolder(path, _describe(self.task, self.model_id, self.rules))
        compared = self.folder.step("ab-test")
        if compared is not None and self._outdated(compared):
            self.folder.steps.remove(compared)  # another version went live meanwhile: compare with that one

    # -- what is known before anything is spent ----------------------------------------------------------

    def _check(self) -> None:
        if not isinstance(self.task.program, dspy.Module):
            raise InputError("a pipeline needs one program, a dspy.Module")
        for name in ("testset", "metric"):
            if not getattr(self.task, name):
                raise InputError(f"{name} is missing: the gate and the comparison rest on it")
        estimate(self.task)
        self.registry.check_registrable(self.task.program, self.model_id)
        if isinstance(self.rules.gate.not_worse_than, str):
            self.registry.get(self.rules.gate.not_worse_than)
        for name in (self.rules.staging, self.rules.production):
            live = self.registry.environment(name, create=self.rules.create).current
            if live is not None and live.model_id != self.model_id:
                words = f"{live.ref} is live in {name}, another model: an environment serves one"
                raise InputError(f"{words}, name another such as {name}-{self.model_id}")

    @property
    def _production(self) -> Environment:
        return self.registry.environment(self.rules.production)

    def _baseline(self) -> ModelVersion | None:
        """Return what is in production: what is live there, else what the registry approved for it."""
        if (live := self._production.current) is not None:
            return live
        return self.registry.production(self.model_id) if self.model_id in self.registry.models() else None

    def _baseline_ref(self) -> str | None:
        """Return the reference of what is in production."""
        found = self._baseline()
        return None if found is None else found.ref

    def _outdated(self, compared: PipelineStep) -> bool:
        """Whether another version has gone live since the comparison, other than by this pipeline."""
        return self._baseline_ref() not in (self.ref, compared.facts.get("baseline"))

    # -- the steps ---------------------------------------------------------------------------------------

    def step(self, name: str) -> PipelineStep:
        """Do one step; Refused where a rule of the registry says no."""
        steps: dict[str, Callable[[], PipelineStep]] = {
            "optimize": self._optimize, "evaluate": self._evaluate, "gate": self._gate, "staging": self._stage,
            "ab-test": self._compare, "production": self._ship,
        }  # fmt: skip
        return steps[name]()

    @property
    def ref(self) -> str | None:
        """The new version, once it is registered."""
        step = self.folder.step("optimize")
        return None if step is None else step.facts.get("ref")

    def _version(self) -> ModelVersion:
        assert self.ref is not None
        return self.registry.get(self.ref)

    def _optimize(self) -> PipelineStep:
        self.folder.save()  # an interrupted optimization goes on in this folder
        with speaking(Voice(silent=True)):  # what follows is for the pipeline to decide
            run = self.run = optimize(self.task, run_dir=self.folder.path / "run", **self.within)
        if run.stopped_by in ("interrupt", "stop"):
            raise KeyboardInterrupt
        if run.origin == "given":
            message = f"stopped by {run.stopped_by} before any candidate was scored"
            return PipelineStep("optimize", "refused", message)
        version = self.registry.register(
            run, self.model_id, bump=self.bump, metadata=self.metadata, by=self.by
        )
        self.folder.write("run.json", {"ref": version.ref, **dict(version.metadata)})
        ended = "" if run.stopped_by is None else f", stopped by {run.stopped_by}"
        score, held = "", run.held_out
        if held is not None and held.verdict:
            score = f", held-out {held.before:.1%} -> {held.after:.1%}, {held.verdict}"
        elif run.score is not None:
            score = f", validation score {run.score:.1%}"
        message = f"{run.plan.optimizer}{ended}{score}: registered {version.ref}"
        return PipelineStep("optimize", "passed", message, facts={"ref": version.ref})

    @property
    def _measuring(self) -> dict[str, Any]:
        """How the evaluation and the comparison are done."""
        limits = {"num_threads": self.task.num_threads, "stop_after_s": self.task.budget.seconds}
        return {**limits, "rate_limit": self.task.rate_limit, "seed": self.task.seed, **self.within}

    def _evaluate(self) -> PipelineStep:
        version = self._version()
        stored = version.evaluation  # measured by the optimization, on the same examples
        found = None if stored is None else Evaluation.from_dict(dict(stored), source=version.ref)
        if found is None or not found.complete:
            found = evaluate(
                self.registry.load(version, self.task.program),
                self.task.testset,
                self.task.metric,
                **self._measuring,
            )
            self._check_complete(found, "evaluation")
            self.registry.attach(version, found, by=self.by)
        self.evaluation = found
        self.folder.write("evaluation.json", found.to_dict())
        low, high = found.interval
        message = f"score {found.score:.1%} [{low:.1%}, {high:.1%}] on {found.n:,} held-out examples"
        return PipelineStep("evaluate", "passed", message)

    def _check_complete(self, found: Evaluation | Comparison, what: str) -> None:
        """Raise where a step was ended before it was over; nothing is noted then, so that it can be repeated."""
        limit = self.task.budget.seconds
        if not found.complete and limit is not None and found.duration_s >= limit:
            words = f"the {what} was not over after {limit:,g} s, the budget's"
            raise InputError(f"{words}: run again to repeat this step")
        if not found.complete:
            raise KeyboardInterrupt

    def _measured(self) -> Evaluation:
        if self.evaluation is None:
            data = self.folder.read("evaluation.json")
            self.evaluation = Evaluation.from_dict(data, source=str(self.folder.path / "evaluation.json"))
        return self.evaluation

    def _gate(self) -> PipelineStep:
        version = self._version()
        found = self.rules.gate.check(self._measured(), registry=self.registry, raises=False)
        self.gate = structs.replace(found, ref=version.ref)
        self.registry.attach(version, self.gate, by=self.by)
        self.folder.write("gate.json", self.gate.to_dict())
        if not self.gate.passed:
            return PipelineStep("gate", "refused", "; ".join(self.gate.reasons))
        return PipelineStep("gate", "passed", f"all {len(self.gate.checks)} conditions hold")

    def _stage(self) -> PipelineStep:
        version, proof = self._version(), self.folder.read("gate.json")
        if version.stage == "development":
            self.registry.promote(version, "staging", evidence=proof, by=self.by)
        self._switch(self.registry.environment(self.rules.staging), proof)
        return PipelineStep("staging", "passed", f"{self.ref} answers in {self.rules.staging}")

    def _compare(self) -> PipelineStep:
        version, baseline = self._version(), self._baseline()
        if baseline is None or baseline.ref == version.ref:
            return PipelineStep("ab-test", "skipped", "nothing is in production yet: the gate alone decides")
        program = self.task.program
        found = compare(
            self.registry.load(baseline, program),
            self.registry.load(version, program),
            self.task.testset,
            self.task.metric,
            margin=self.rules.margin,
            confidence=self.rules.confidence,
            max_examples=len(self.task.testset),  # all, and that was settled beforehand
            names=(baseline.ref.replace("@", " "), version.ref.replace("@", " ")),
            sequential=False,  # nobody watches, and one look tells more of the same examples
            **self._measuring,
        )
        self._check_complete(found, "comparison")
        found = self.comparison = replace(found, a_name=baseline.ref, b_name=version.ref)
        passed, message = _passes(found, self.rules.inconclusive)
        evidence = found.to_evidence(passed=passed)
        self.registry.attach(version, evidence, by=self.by)
        self.folder.write("ab.json", {**found.to_dict(), "passed": passed})
        facts = {"baseline": baseline.ref, "evidence": evidence.to_dict()}
        return PipelineStep("ab-test", "passed" if passed else "refused", message, facts=facts)

    def _ship(self) -> PipelineStep:
        compared = self.folder.step("ab-test")
        assert compared is not None
        if self._outdated(compared):
            words = f"{self._baseline_ref()} went live in {self.rules.production} meanwhile"
            raise Conflict(f"{words}: run again to compare with it")
        proof = compared.facts.get("evidence") or self.folder.read("gate.json")
        if self._version().stage != "production":
            self.registry.promote(self._version(), "production", evidence=proof, by=self.by)
        self.deployment = self._switch(self._production, proof)
        return PipelineStep("production", "passed", f"{self.ref} is live in {self.rules.production}")

    def _switch(self, environment: Environment, evidence: Mapping[str, Any]) -> Deployment | None:
        """Load the new version, let it answer one example, and only then make it live."""
        live = environment.current
        if live is not None and live.ref == self.ref:
            return None
        smoke = dict(self.task.testset[0].inputs())
        prepared = environment.prepare(self._version(), program=self.task.program, smoke=smoke)
        return prepared.switch(by=self.by, reason="pipeline", evidence=evidence)

    # -- the end -----------------------------------------------------------------------------------------

    def result(self) -> PipelineResult:
        """Return how far it came, and write the decision if there is one."""
        last = self.folder.steps[-1]
        decided = last.status == "refused" or last.name == STEPS[-1]
        compared = self.folder.step("ab-test")
        result = PipelineResult(
            shipped=last.status == "passed" if decided else None,
            ref=self.ref,
            baseline=compared.facts.get("baseline") if compared else None,
            steps=tuple(self.folder.steps),
            folder=self.folder.path,
            run=self.run,
            evaluation=self.evaluation or (self._measured() if self.folder.step("evaluate") else None),
            gate=self.gate,
            comparison=self.comparison,
            deployment=self.deployment,
        )
        if decided:
            self.folder.write("decision.json", result.to_dict())
        return result


def _describe(task: Task, model_id: str, rules: PipelineRules) -> dict[str, Any]:
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


def _passes(found: Comparison, inconclusive: Inconclusive) -> tuple[bool, str]:
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
    conditions = {name: value for name, value in vars(gate).items() if value is not None}
    return conditions | {"not_worse_than": named}
