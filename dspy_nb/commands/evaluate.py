"""The commands ``evaluate`` and ``gate``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click

import dspy_nb as nb
from dspy_nb.commands import common, words
from dspy_nb.commands.declaration import argument, command, given, name_of, option
from dspy_nb.commands.surface import Outcome, Surface

__all__ = ["evaluate", "gate"]

_CONDITIONS: dict[str, tuple[Any, str, str]] = {
    "min_score": (float, "X", "The least score, held against the lower end of its interval."),
    "max_error_rate": (float, "X", "The largest share of examples without an answer or a score."),
    "max_latency_p95_ms": (float, "MS", "The largest 95th percentile of the latency."),
    "max_usd_per_call": (float, "X", "The largest mean price of a call of the program."),
    "min_n": (int, "N", "The least number of different examples."),
    "not_worse_than": (common.REFERENCES, "REF|FILE", "A version, or a saved report, of the same examples."),
    "margin": (float, "X", "How much less still is not worse; 0.02 by default."),
    "on": (click.Choice(["interval", "score"]), "", "Judge the end of the interval, or the estimate alone."),
}


@command("evaluate", magic="dspy_evaluate", kept_as="_dspy_evaluation")
@common.program_argument
@option("--model", type=common.REFERENCES, metavar="REF", help="A version, such as sentiment@1.1.0.")
@option(
    "--program",
    type=common.PROGRAMS,
    metavar="NAME|MODULE:NAME",
    help="A dspy.Module, or what makes one: a name in the notebook, package.module:name or file.py:name. With "
    "--model, the class of the version's program.",
)
@common.test_data
@common.inputs
@option(
    "--metric",
    "metrics",
    type=common.METRICS,
    multiple=True,
    metavar="METRIC",
    help="exact_match:field, token_f1:field, ..., a function of the notebook, or module:function; repeatable, the "
    "first gives the score. By default the one that the version was optimized by.",
)
@option("--by", metavar="FIELD", help="A field, or a function of the notebook: the score of each slice.")
@option("--label", metavar="FIELD", help="The field whose per-class numbers are wanted.")
@common.num_threads
@option("--repeats", type=int, default=1, show_default=True, metavar="N", help="Times for each example.")
@option(
    "--timeout",
    type=float,
    metavar="S",
    means="timeout_s",
    help="Seconds after which an example is an error.",
)
@common.stop_after
@common.confidence
@option("--seed", type=int, default=0, show_default=True, help="Of the bootstrap.")
@common.lm
@option(
    "--gate",
    "conditions",
    type=common.CONDITIONS,
    multiple=True,
    metavar="NAME=VALUE",
    help="A condition such as min_score=0.85 or per_class.positive.recall=0.7, or on=score; repeatable.",
)
@option(
    "--report",
    "--out",
    "out",
    shell_names=("--out",),
    type=common.FILES,
    metavar="FILE",
    help="Save the report, with every example, as JSON.",
)
@option("--attach", is_flag=True, help="Record the result with the version, as evidence for promotion.")
@option(
    "--register-with",
    type=common.REFERENCES,
    metavar="REF",
    help="Record the result with this version, of the same program.",
)
@option("--plan", "effect", type=float, metavar="EFFECT", means="effect",
        help="Evaluate nothing: say how many examples show a difference of this size.")  # fmt: skip
@common.registry
@common.quiet
def evaluate(
    here: Surface,
    model: str | None,
    program: str | None,
    test_data: str | None,
    inputs: str | None,
    metrics: tuple[str, ...],
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
    register_with: str | None,
    effect: float | None,
    root: str,
    quiet: bool,
) -> Outcome:
    r"""Evaluate a program, and let a gate decide.

    The exit status is 1, and the cell of a notebook fails, if the gate says no; the exit status is also 1 if the
    evaluation was interrupted, or if no example was answered. A notebook returns the evaluation, and keeps the last
    one as _dspy_evaluation.

    \b
    Examples:
      dspy-nb evaluate --model sentiment@latest --test-data test.jsonl
      dspy-nb evaluate --program app.py:classifier --test-data test.jsonl --metric exact_match:label
      dspy-nb evaluate --model sentiment@1.1.0 --test-data test.jsonl --metric exact_match:label \
          --gate min_score=0.85 --gate max_error_rate=0.01 --attach --report report.json
      %dspy_evaluate program --data test --metric exact_match:label --gate min_score=0.85
    """
    import dspy

    from dspy_nb.core.models.subject import check_same_program
    from dspy_nb.core.storage.files import check_target

    if effect is not None:
        return _plan(effect, confidence)
    registry = nb.Registry(root)
    if model is not None:
        version: nb.ModelVersion | None = registry.get(model)
        found = None if program is None else here.program(program, "--program")
    elif program is not None:
        found, version = common.resolve(here, program, "--program", registry)
    else:
        raise nb.InputError("give a program, --model REF, or both")
    common.require({"test_data": test_data}, ("test_data",))
    if attach and version is None:
        raise nb.InputError("--attach needs the --model that the result is recorded with")
    quality = nb.QualityGate.parse(conditions) if conditions else None
    reference = _resolved(quality, registry)
    subject = registry.load(version, found) if version is not None else found
    target = version if attach else None
    if register_with is not None:
        target = registry.get(register_with)
        check_same_program(subject, target)

    def fields() -> list[str]:
        return words.input_fields(subject) if inputs is None else common.split_fields(inputs)

    measures = [here.metric(name, "--metric") for name in metrics or (common.own_metric(version),)]
    assert test_data is not None
    examples = here.examples(test_data, name_of("test_data"), fields)
    slices: Any = by
    # A field of the examples comes first: it is what the name most likely means.
    if by is not None and not (examples and by in examples[0]) and here.named(by) is not None:
        slices = here.named(by)
    if out is not None:
        check_target(name_of("out"), Path(out))
    with dspy.context(**here.lm_settings(lm)), here.progress(quiet=quiet) as progress:
        evaluation = nb.evaluate(
            subject,
            examples,
            measures[0] if len(measures) == 1 else measures,
            num_threads=num_threads,
            confidence=confidence,
            label=label,
            by=slices,
            repeats=repeats,
            timeout_s=timeout,
            stop_after_s=stop_after,
            seed=seed,
            on_event=progress,
            stop=progress.stop,
        )
    here.hold(evaluation)
    failure = None if out is None else here.write_late(evaluation.save, Path(out))
    result = None if reference is None else reference.check(evaluation, raises=False)
    note = "" if target is None else _attach(registry, target, evaluation, result)
    refused = result is not None and not result.passed
    return Outcome(
        evaluation,
        lambda: {
            **evaluation.to_dict(results=False),
            "gate": None if result is None else result.to_dict(),
        },
        note="\n".join(filter(None, (note, "" if result is None else result.report()))),
        refusal=nb.GateFailed(list(result.reasons)) if result is not None and refused else None,
        status=0 if evaluation.complete and evaluation.errors.count < evaluation.n else 1,
        failure=failure,
    )


def _plan(effect: float, confidence: float) -> Outcome:
    from dspy_nb.core.statistics.sample_sizes import plan

    names = (
        "first",
        "model",
        "program",
        "test_data",
        "metrics",
        "conditions",
        "attach",
        "register_with",
        "out",
    )
    if unused := given(names):
        raise nb.InputError(f"--plan evaluates nothing; {next(iter(unused.values()))} does not go with it")
    planned = plan(effect, confidence=confidence)
    return Outcome(planned, lambda: asdict(planned), str(planned))


def _attach(
    registry: nb.Registry,
    version: nb.ModelVersion,
    evaluation: nb.Evaluation,
    result: nb.GateResult | None,
) -> str:
    if not evaluation.complete:
        return f"not recorded with {version.ref}, because it was interrupted"
    registry.attach(version, evaluation if result is None else result)
    what = "the evaluation" if result is None else f"the gate that {'passed' if result.passed else 'said no'}"
    return f"recorded {what} with {version.ref}"


def _condition_options(command: Callable[..., Any]) -> Callable[..., Any]:
    command = option(
        "--per-class",
        "floors",
        multiple=True,
        metavar="LABEL.MEASURE=X",
        help="Least precision, recall or f1 of a label, such as positive.recall=0.7; repeatable.",
    )(command)
    for name, (kind, metavar, text) in reversed(_CONDITIONS.items()):
        shown = f"--{name.replace('_', '-')}"
        command = option(shown, name, type=kind, metavar=metavar or None, help=text)(command)
    return command


@command("gate")
@argument("report", metavar="REPORT|REF", type=common.FILES)
@_condition_options
@common.registry
def gate(here: Surface, report: str, floors: tuple[str, ...], root: str, **conditions: Any) -> Outcome:
    r"""Let a gate judge a saved report, or a version.

    The exit status is 1 if it says no. What the report does not tell never passes.

    \b
    Examples:
      dspy-nb gate report.json --min-score 0.85 --max-error-rate 0.01
      dspy-nb gate report.json --min-score 0.85 --json > gate.json    (for promote --evidence gate.json)
      dspy-nb gate sentiment@1.1.0 --not-worse-than sentiment@production --margin 0.03
    """
    texts = [f"per_class.{floor}" for floor in floors]
    texts += [f"{name}={value}" for name, value in conditions.items() if value is not None]
    registry = nb.Registry(root)
    quality = _resolved(nb.QualityGate.parse(texts), registry)
    assert quality is not None
    result = quality.check(_evaluation(report, registry), raises=False)
    refusal = None if result.passed else nb.GateFailed(list(result.reasons))
    return Outcome(result, result.to_dict, refusal=refusal)


def _resolved(quality: nb.QualityGate | None, registry: nb.Registry) -> nb.QualityGate | None:
    """Return the gate with its reference read: it must not be missing when everything is paid for."""
    if quality is None or not isinstance(quality.not_worse_than, str):
        return quality
    return replace(quality, not_worse_than=_evaluation(quality.not_worse_than, registry))


def _evaluation(text: str, registry: nb.Registry) -> nb.Evaluation | nb.ModelVersion:
    return nb.Evaluation.load(text) if text.endswith(".json") else registry.get(text)
