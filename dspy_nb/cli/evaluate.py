"""The commands ``dspy-nb evaluate`` and ``dspy-nb gate``."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

import dspy_nb as nb
from dspy_nb.cli.output import json_option, lm_option, print_result, registry_option, write_late
from dspy_nb.cli.task import lm_settings

__all__ = ["evaluate", "gate", "own_metric"]

_CONDITIONS: dict[str, tuple[Any, str, str]] = {
    "min_score": (float, "X", "The least score, held against the lower end of its interval."),
    "max_error_rate": (float, "X", "The largest share of examples without an answer or a score."),
    "max_latency_p95_ms": (float, "MS", "The largest 95th percentile of the latency."),
    "max_usd_per_call": (float, "X", "The largest mean price of a call of the program."),
    "min_n": (int, "N", "The least number of different examples."),
    "not_worse_than": (str, "REF|FILE", "A version, or a saved report, of the same examples."),
    "margin": (float, "X", "How much less still is not worse; 0.02 by default."),
    "on": (click.Choice(["interval", "score"]), "", "Judge the end of the interval, or the estimate alone."),
}


def _condition_options(command: Callable[..., Any]) -> Callable[..., Any]:
    command = click.option(
        "--per-class",
        "floors",
        multiple=True,
        metavar="LABEL.MEASURE=X",
        help="Least precision, recall or f1 of a label, such as positive.recall=0.7; repeatable.",
    )(command)
    for name, (kind, metavar, text) in reversed(_CONDITIONS.items()):
        option = f"--{name.replace('_', '-')}"
        command = click.option(option, name, type=kind, metavar=metavar or None, help=text)(command)
    return command


@click.command()
@click.option("--model", metavar="REF", help="A version in the registry, such as sentiment@1.1.0.")
@click.option(
    "--program",
    "program_name",
    metavar="MODULE:NAME",
    help="A dspy.Module, or what makes one: package.module:name or file.py:name. With --model, the class of "
    "the version's program.",
)
@click.option(
    "--test-data", required=True, metavar="FILE", help="Labelled examples (.jsonl, .json, .csv, .tsv)."
)
@click.option(
    "--inputs", metavar="FIELDS", help="Input fields, comma-separated; by default the program's own."
)
@click.option(
    "--metric",
    "metric_names",
    multiple=True,
    metavar="METRIC",
    help="exact_match:field, token_f1:field, ..., or module:function; repeatable, the first gives the score. By "
    "default the one that the --model was optimized by.",
)
@click.option("--by", metavar="FIELD", help="A field: the score of each of its values.")
@click.option("--label", metavar="FIELD", help="The field whose per-class numbers are wanted.")
@click.option("--num-threads", type=int, metavar="N", help="Examples at a time.")
@click.option(
    "--repeats", type=int, default=1, show_default=True, metavar="N", help="Times for each example."
)
@click.option("--timeout", type=float, metavar="S", help="Seconds after which an example is an error.")
@click.option("--stop-after", type=float, metavar="S", help="End after so many seconds, with what is done.")
@click.option(
    "--confidence", type=float, default=0.95, show_default=True, metavar="C", help="Of the intervals."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the bootstrap.")
@lm_option
@click.option(
    "--gate",
    "conditions",
    multiple=True,
    metavar="NAME=VALUE",
    help="A condition such as min_score=0.85 or per_class.positive.recall=0.7; repeatable.",
)
@click.option("--out", metavar="FILE", help="Save the report, with every example, as JSON.")
@click.option("--attach", is_flag=True, help="Record the result with the --model, as evidence for promotion.")
@registry_option
@json_option
def evaluate(
    model: str | None,
    program_name: str | None,
    test_data: str,
    inputs: str | None,
    metric_names: tuple[str, ...],
    by: str | None,
    label: str | None,
    num_threads: int | None,
    repeats: int,
    timeout: float | None,
    stop_after: float | None,
    confidence: float,
    seed: int,
    lm: str | None,
    conditions: tuple[str, ...],
    out: str | None,
    attach: bool,
    root: str,
    as_json: bool,
) -> int:
    r"""Evaluate a program, and let a gate decide.

    The exit status is 1 if the gate says no, if the evaluation was interrupted, or if no example was answered.

    \b
    Examples:
      dspy-nb evaluate --model sentiment@latest --test-data test.jsonl
      dspy-nb evaluate --program app.py:classifier --test-data test.jsonl --metric exact_match:label
      dspy-nb evaluate --model sentiment@1.1.0 --test-data test.jsonl --metric exact_match:label \
          --gate min_score=0.85 --gate max_error_rate=0.01 --attach --out report.json
    """
    import dspy

    from dspy_nb.cli import parsing
    from dspy_nb.core.storage.files import check_target
    from dspy_nb.views.progress.evaluation import TerminalEvaluationProgress

    if attach and model is None:
        raise nb.InputError("--attach needs the --model that the result is recorded with")
    quality = nb.QualityGate.parse(conditions) if conditions else None
    registry = nb.Registry(root)
    program, version = _program(model, program_name, registry)
    reference = _resolved(quality, registry)
    names = parsing.input_fields(program) if inputs is None else [name.strip() for name in inputs.split(",")]
    metrics = [parsing.load_metric(name) for name in metric_names or own_metric(version)]
    examples = nb.load_examples(test_data, names)
    if out is not None:
        check_target("--out", Path(out))
    with dspy.context(**lm_settings(lm)):
        evaluation = nb.evaluate(
            program,
            examples,
            metrics[0] if len(metrics) == 1 else metrics,
            num_threads=num_threads,
            confidence=confidence,
            label=label,
            by=by,
            repeats=repeats,
            timeout_s=timeout,
            stop_after_s=stop_after,
            seed=seed,
            on_event=TerminalEvaluationProgress() if sys.stderr.isatty() else None,
        )
    failure = None if out is None else write_late(evaluation.save, Path(out))
    result = None if reference is None else reference.check(evaluation, raises=False)
    if attach and version is not None and evaluation.complete:
        registry.attach(version, evaluation if result is None else result)
    data = {**evaluation.to_dict(results=False), "gate": None if result is None else result.to_dict()}
    report = evaluation.report() + ("" if result is None else f"\n\n{result.report()}")
    print_result(as_json, data, lambda: report)
    if failure is not None:
        raise failure
    if result is not None and not result.passed:
        raise nb.GateFailed(list(result.reasons))
    return 0 if evaluation.complete and evaluation.errors.count < evaluation.n else 1


@click.command()
@click.argument("report", metavar="REPORT|REF")
@_condition_options
@registry_option
@json_option
def gate(report: str, floors: tuple[str, ...], root: str, as_json: bool, **given: Any) -> None:
    r"""Let a gate judge a saved report, or a version.

    The exit status is 1 if it says no. What the report does not tell never passes.

    \b
    Examples:
      dspy-nb gate report.json --min-score 0.85 --max-error-rate 0.01
      dspy-nb gate report.json --min-score 0.85 --json > gate.json    (for promote --evidence gate.json)
      dspy-nb gate sentiment@1.1.0 --not-worse-than sentiment@production --margin 0.03
    """
    texts = [f"per_class.{floor}" for floor in floors]
    texts += [f"{name}={value}" for name, value in given.items() if value is not None]
    registry = nb.Registry(root)
    quality = _resolved(nb.QualityGate.parse(texts), registry)
    assert quality is not None
    result = quality.check(_evaluation(report, registry), raises=False)
    print_result(as_json, result.to_dict(), result.report)
    if not result.passed:
        raise nb.GateFailed(list(result.reasons))


def _program(
    model: str | None, name: str | None, registry: nb.Registry
) -> tuple[Any, nb.ModelVersion | None]:
    from dspy_nb.cli import parsing

    program = None if name is None else parsing.load_program(name)
    if model is None:
        if program is None:
            raise nb.InputError("give --model REF, --program MODULE:NAME, or both")
        return program, None
    version = registry.get(model)
    return registry.load(version, program), version


def own_metric(version: nb.ModelVersion | None) -> list[str]:
    """Return the metric that a version was optimized by, where ``dspy-nb optimize`` has stored it."""
    metric = None if version is None else (version.metadata.get("command") or {}).get("metric")
    if metric is None:
        known = "" if version is None else f", {version.ref} does not say which"
        raise nb.InputError(f"give --metric, such as exact_match:label{known}")
    return [metric]


def _resolved(quality: nb.QualityGate | None, registry: nb.Registry) -> nb.QualityGate | None:
    """Return the gate with its reference read: it must not be missing when everything is paid for."""
    from dataclasses import replace

    if quality is None or not isinstance(quality.not_worse_than, str):
        return quality
    return replace(quality, not_worse_than=_evaluation(quality.not_worse_than, registry))


def _evaluation(text: str, registry: nb.Registry) -> nb.Evaluation | nb.ModelVersion:
    return nb.Evaluation.load(text) if text.endswith(".json") else registry.get(text)
