"""The magic %dspy_evaluate: parse a line, evaluate, show, and let a gate decide."""

# mypy: disable-error-code="no-untyped-call, untyped-decorator"

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from IPython.core.magic import Magics, line_magic, magics_class, needs_local_scope
from IPython.core.magic_arguments import argument, magic_arguments
from IPython.display import display

from dspy_nb.core.errors import GateFailed, InputError
from dspy_nb.core.evaluation.evaluate import Evaluation, evaluate
from dspy_nb.core.evidence import GateResult
from dspy_nb.core.models.subject import check_same_program
from dspy_nb.core.models.version import ModelVersion
from dspy_nb.core.pipeline.gate import QualityGate
from dspy_nb.core.registry.registry import Registry
from dspy_nb.core.statistics.sample_sizes import plan
from dspy_nb.notebook.arguments import (
    check_name,
    find,
    find_metric,
    given_options,
    help_option,
    parse,
    say,
    without_semicolon,
)
from dspy_nb.notebook.listeners import evaluation_progress

__all__ = ["EvaluateMagics"]

_LAST_EVALUATION = "_dspy_evaluation"


@magics_class
class EvaluateMagics(Magics):
    """%dspy_evaluate."""

    shell: Any

    def __init__(self, shell: Any, defaults: Any) -> None:
        super().__init__(shell)
        self.defaults = defaults

    @magic_arguments()
    @argument("program", nargs="?", help="the program, or a reference such as sentiment@1.0.0")
    @argument("--data", metavar="NAME", help="labelled examples")
    @argument(
        "--metric",
        metavar="METRIC",
        action="append",
        default=[],
        help="a function, or exact_match:field, token_f1:field, ...; repeatable, the first one gives the score",
    )
    @argument("--by", metavar="NAME", help="a field, or a function of the example: the score of each slice")
    @argument("--label", metavar="FIELD", help="field whose per-class numbers are wanted")
    @argument("--threads", metavar="N", type=int, help="examples at a time")
    @argument("--repeats", metavar="N", type=int, default=1, help="times that each example is evaluated")
    @argument("--timeout", metavar="S", type=float, help="seconds after which an example is an error")
    @argument("--stop-after", metavar="S", type=float, help="end after so many seconds, with what is done")
    @argument("--confidence", metavar="C", type=float, help="of the intervals")
    @argument(
        "--gate",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="a condition such as min_score=0.85 or per_class.positive.recall=0.7, or on=score; repeatable",
    )
    @argument("--register-with", metavar="REF", help="record the result with this version, as evidence")
    @argument("--registry", metavar="DIR", help="folder of the registry")
    @argument("--plan", metavar="EFFECT", type=float, help="examples needed to see a difference of this size")
    @argument("-q", "--quiet", action="store_true", help="show no progress")
    @argument("-o", "--out", metavar="NAME", help="also store the evaluation under this name")
    @help_option
    @needs_local_scope
    @line_magic
    def dspy_evaluate(self, line: str, local_ns: Mapping[str, Any] | None = None) -> Any:
        """Evaluate a program and return the evaluation, which shows as a report.

        A gate that says no shows the report and its reasons, and then fails the cell. The last evaluation is
        kept as _dspy_evaluation, whatever happens: behind a trailing semicolon it is not shown. With --plan,
        nothing is evaluated.
        """
        line, silent = without_semicolon(line)
        arguments = parse(self.dspy_evaluate, line)
        if arguments is None:
            return None
        if arguments.out:
            check_name(arguments.out)
        confidence = self.defaults.confidence if arguments.confidence is None else arguments.confidence
        if arguments.plan is not None:
            return self._plan(arguments, confidence, silent)
        for name in ("program", "data", "metric"):
            if not getattr(arguments, name):
                option = name if name == "program" else f"--{name} {name.upper()}"
                raise InputError(f"%dspy_evaluate: {option} is missing")
        gate = QualityGate.parse(arguments.gate) if arguments.gate else None
        registry = self.registry(arguments.registry)
        if gate is not None and isinstance(gate.not_worse_than, str):
            registry.get(gate.not_worse_than)  # it must not be missing when everything is paid for
        program, what = self._task(arguments, {**self.shell.user_ns, **(local_ns or {})}, registry)
        version = None if arguments.register_with is None else registry.get(arguments.register_with)
        if version is not None:
            check_same_program(program, version)
        quiet = arguments.quiet or self.defaults.quiet
        evaluation = evaluate(
            program,
            **what,
            num_threads=(self.defaults.num_threads or None)
            if arguments.threads is None
            else arguments.threads,
            confidence=confidence,
            label=arguments.label,
            repeats=arguments.repeats,
            timeout_s=arguments.timeout,
            stop_after_s=arguments.stop_after,
            on_event=None if quiet else evaluation_progress(),
        )
        self.shell.user_ns[_LAST_EVALUATION] = evaluation
        if arguments.out:
            self.shell.user_ns[arguments.out] = evaluation
        result = None if gate is None else gate.check(evaluation, registry=registry, raises=False)
        if version is not None:
            _attach(registry, version, evaluation, result)
        if result is not None:
            if not (result.passed or silent):
                display(evaluation)
            say(result.report())
            if not result.passed:
                raise GateFailed(list(result.reasons))
        return None if silent else evaluation

    def registry(self, root: str | None = None) -> Registry:
        """Return the registry in the folder ``root``, or the default one."""
        return Registry(Path(root or self.defaults.registry).expanduser())

    def _plan(self, arguments: Any, confidence: float, silent: bool) -> Any:
        if unused := given_options(arguments, ("program", "data", "metric", "gate", "register_with", "out")):
            raise InputError(f"%dspy_evaluate: --plan evaluates nothing; {unused[0]} does not go with it")
        planned = plan(arguments.plan, confidence=confidence)
        return None if silent else planned

    def _task(
        self, arguments: Any, namespace: Mapping[str, Any], registry: Registry
    ) -> tuple[Any, dict[str, Any]]:
        if "@" in arguments.program:
            program: Any = registry.load(arguments.program)
        else:
            program = find(arguments.program, namespace, "program")
        metrics = [find_metric(text, namespace) for text in arguments.metric]
        data = find(arguments.data, namespace, "--data")
        by = arguments.by
        # A field of the examples comes first: it is what the name most likely means.
        if by is not None and not (isinstance(data, list) and data and by in data[0]) and by in namespace:
            by = namespace[by]
        return program, {"dataset": data, "metric": metrics[0] if len(metrics) == 1 else metrics, "by": by}


def _attach(
    registry: Registry, version: ModelVersion, evaluation: Evaluation, result: GateResult | None
) -> None:
    if not evaluation.complete:
        say(f"not recorded with {version.ref}, because it was interrupted; it is kept as {_LAST_EVALUATION}")
        return
    registry.attach(version, evaluation if result is None else result)
    what = "the evaluation" if result is None else f"the gate that {'passed' if result.passed else 'said no'}"
    say(f"recorded {what} with {version.ref}")
