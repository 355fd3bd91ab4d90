"""The commands ``evaluate`` and ``gate``."""

from __future__ import annotations

import functools
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

import click

import dspy_nb as nb
from dspy_nb.commands import common
from dspy_nb.commands.declaration import Kind, argument, command, given, name_of, option, option_group
from dspy_nb.commands.surface import Outcome, Surface

EXAMPLES: Final = click.Choice(["wrong", "errors", "all"])

_condition_options: Final = option_group(
    option("--min-score", "The least score, held against the lower end of its interval.", float),
    option("--max-error-rate", "The largest share of examples without an answer or a score.", float),
    option("--max-latency-p95-ms", "The largest 95th percentile of the latency, in ms.", float),
    option("--max-usd-per-call", "The largest mean price of a call of the program.", float),
    option("--min-n", "The least number of different examples.", int),
    option(
        "--not-worse-than",
        "A version, or a saved report, of the same examples.",
        common.REFERENCES,
        metavar="REF|FILE",
    ),
    option("--margin", "How much less still is not worse; 0.02 by default.", float),
    option(
        "--on", "Judge the end of the interval, or the estimate alone.", click.Choice(["interval", "score"])
    ),
    option(
        "--per-class floors",
        "Least precision, recall or f1 of a label, such as positive.recall=0.7; repeatable.",
        multiple=True,
        metavar="LABEL.MEASURE=X",
    ),
)


@command("evaluate", magic="dspy_evaluate", kept_as="_dspy_evaluation")
@common.program_argument
@option("--model", "A version, such as sentiment@1.1.0.", common.REFERENCES)
@common.program
@common.test_data
@common.inputs
@option(
    "--metric metrics",
    "exact_match:field, token_f1:field, ..., a function of the notebook, or module:function; repeatable, the first "
    "gives the score. By default the one that the version was optimized by.",
    common.METRICS,
    multiple=True,
)
@option("--by", "A field, or a function of the notebook: the score of each slice.", Kind("FIELD"))
@option("--label", "The field whose per-class numbers are wanted.", Kind("FIELD"))
@common.num_threads
@option("--repeats", "Times for each example.", int, default=1)
@common.timeout
@common.stop_after
@common.confidence
@common.seed
@common.lm
@option(
    "--gate conditions",
    "A condition such as min_score=0.85 or per_class.positive.recall=0.7, or on=score; repeatable.",
    common.CONDITIONS,
    multiple=True,
)
@option(
    "--report --out report",
    "Save the report, with every example, as JSON.",
    common.FILES,
    shell_names=("--out",),
)
@option("--examples which", "Also show the examples, or those that are wrong or failed.", EXAMPLES)
@option("--attach", "Record the result with the version, as evidence for promotion.", bool)
@option("--register-with", "Record the result with this version, of the same program.", common.REFERENCES)
@option("--plan effect", "Evaluate nothing: say how many examples show a difference of this size.", float)
@common.registry
@common.quiet
def evaluate(
    here: Surface,
    *,
    model: str | None,
    program: str | None,
    dataset: str | None,
    inputs: str | None,
    metrics: tuple[str, ...],
    by: str | None,
    lm: str | None,
    conditions: tuple[str, ...],
    report: str | None,
    which: str | None,
    attach: bool,
    register_with: str | None,
    effect: float | None,
    root: str,
    quiet: bool,
    **measured: Any,
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
        return _plan(effect, measured["confidence"])
    registry = nb.Registry(root)
    if model is not None:
        version: nb.ModelVersion | None = registry.get(model)
        found = None if program is None else here.program(program, name_of("program"))
    elif program is not None:
        found, version = common.resolve(here, program, name_of("program"), registry)
    else:
        raise nb.InputError("give a program, --model REF, or both")
    common.require({"dataset": dataset}, ("dataset",))
    if attach and version is None:
        raise nb.InputError("--attach needs the --model that the result is recorded with")
    quality = nb.QualityGate.parse(conditions) if conditions else None
    reference = _resolved(quality, registry)
    subject = registry.load(version, found) if version is not None else found
    target = version if attach else None
    if register_with is not None:
        target = registry.get(register_with)
        check_same_program(subject, target)
    measures = [here.metric(name, "--metric") for name in metrics or (common.own_metric(version),)]
    assert dataset is not None
    fields = functools.partial(common.input_names, inputs, lambda: subject)
    examples = here.examples(dataset, name_of("dataset"), fields)
    slices: Any = by
    # A field of the examples comes first: it is what the name most likely means.
    is_field = isinstance(examples, list) and examples and by in examples[0]
    if by is not None and not is_field and here.named(by) is not None:
        slices = here.named(by)
    if report is not None:
        check_target(name_of("report"), Path(report))
    with dspy.context(**here.lm_settings(lm)), here.progress(quiet=quiet) as progress:
        evaluation = nb.evaluate(
            subject,
            examples,
            measures[0] if len(measures) == 1 else measures,
            by=slices,
            on_event=progress,
            stop=progress.stop,
            **measured,
        )
    here.hold(evaluation)
    failure = None if report is None else here.write_late(evaluation.save, Path(report))
    result = None if reference is None else reference.check(evaluation, raises=False)
    note = "" if target is None else _attach(registry, target, evaluation, result)
    refused = result is not None and not result.passed
    tables = [] if which is None else [evaluation.examples(wrong=which == "wrong", errors=which == "errors")]
    data: dict[str, Any] = {"gate": None if result is None else result.to_dict()}
    if which is not None:
        data["examples"] = tables[0].to_list()
    return Outcome(
        evaluation,
        lambda: {**evaluation.to_dict(results=False), **data},
        also=tables,
        note=note,
        below=() if result is None else (result,),
        refusal=nb.GateFailed(list(result.reasons)) if result is not None and refused else None,
        status=0 if evaluation.complete and evaluation.errors.count < evaluation.n else 1,
        failure=failure,
    )


def _plan(effect: float, confidence: float) -> Outcome:
    from dspy_nb.core.statistics.sample_sizes import plan

    goes = ("effect", "confidence", "as_json", "kept", "root", "quiet")
    if unused := [shown for name, shown in given().items() if name not in goes]:
        raise nb.InputError(f"--plan evaluates nothing; {unused[0]} does not go with it")
    planned = plan(effect, confidence=confidence)
    return Outcome(planned, lambda: asdict(planned), str(planned), aside=True)


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


@command("gate")
@argument("report", common.FILES, "REPORT|REF")
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
