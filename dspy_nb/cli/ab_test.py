"""The command ``dspy-nb ab-test``: programs on the same examples, and whether the new one is better."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import click
from click.core import ParameterSource

import dspy_nb as nb
from dspy_nb.cli.evaluate import own_metric
from dspy_nb.cli.output import echo, json_option, lm_option, print_result, registry_option, write_late
from dspy_nb.cli.task import lm_settings
from dspy_nb.core.text import repaired

__all__ = ["ab_test"]

_SUFFIXES: Final = (".md", ".html", ".json")
_ONLINE: Final = (
    "as_json", "attach", "confidence", "config", "experiment", "margin", "min_samples", "model_a", "model_b",
    "root", "split",
)  # fmt: skip


def _experiment_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of an online experiment."""
    for option in (
        click.option(
            "--min-samples", type=int, metavar="N", help="Online: units that the classical test needs."
        ),
        click.option(
            "--split", type=float, metavar="X", help="Online: share of new units that go to B, such as 0.1."
        ),
        click.option(
            "--experiment",
            metavar="NAME",
            help="Online, on live traffic: begin the experiment of this name, or say how it stands.",
        ),
    ):
        command = option(command)
    return command


@click.command("ab-test")
@click.option("--model-a", metavar="REF|MODULE:NAME", help="What is in use, such as qa-model@production.")
@click.option(
    "--model-b",
    metavar="REF|MODULE:NAME",
    multiple=True,
    help="What may replace it, such as qa-model@latest; repeatable, and the more there are, the more evidence "
    "each needs.",
)
@click.option(
    "--program",
    "program_name",
    metavar="MODULE:NAME",
    help="The class of the versions' programs, where it is your own.",
)
@click.option(
    "--test-data",
    metavar="FILE",
    help="Labelled examples that none of them has learnt from (.jsonl, .json, .csv, .tsv).",
)
@click.option(
    "--inputs", metavar="FIELDS", help="Input fields, comma-separated; by default the program's own."
)
@click.option(
    "--metric",
    "metric_name",
    metavar="METRIC",
    help="exact_match:field, token_f1:field, ..., or module:function. By default the one that the new version "
    "was optimized by.",
)
@click.option(
    "--margin",
    type=float,
    default=0.0,
    show_default=True,
    metavar="X",
    help="Largest difference that makes no practical difference, such as 0.02.",
)
@click.option(
    "--confidence", type=float, default=0.95, show_default=True, metavar="C", help="Of all verdicts together."
)
@click.option("--max-examples", type=int, metavar="N", help="At most so many, drawn at random.")
@click.option("--one-look", is_flag=True, help="Answer all, and look once at the end with an exact test.")
@click.option(
    "--not-worse", is_flag=True, help="Also say yes if B is shown to be at most --margin worse, not better."
)
@click.option("--num-threads", type=int, metavar="N", help="Examples at a time.")
@click.option("--timeout", type=float, metavar="S", help="Seconds after which an answer is an error.")
@click.option("--stop-after", type=float, metavar="S", help="End after so many seconds, with what is done.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the order of the examples.")
@lm_option
@click.option(
    "--report",
    "reports",
    multiple=True,
    metavar="FILE",
    help="Also write it to .md, .html or .json; repeatable.",
)
@click.option(
    "--attach",
    is_flag=True,
    help="Record the verdict with each --model-b, as evidence for promotion; it concludes an online experiment.",
)
@_experiment_options
@registry_option
@json_option
def ab_test(
    model_a: str | None,
    model_b: tuple[str, ...],
    program_name: str | None,
    test_data: str | None,
    inputs: str | None,
    metric_name: str | None,
    margin: float,
    confidence: float,
    max_examples: int | None,
    one_look: bool,
    not_worse: bool,
    num_threads: int | None,
    timeout: float | None,
    stop_after: float | None,
    seed: int,
    lm: str | None,
    reports: tuple[str, ...],
    attach: bool,
    experiment: str | None,
    split: float | None,
    min_samples: int | None,
    root: str,
    as_json: bool,
) -> int:
    r"""Compare programs on the same examples, for a verdict.

    It ends as soon as the verdict is in, and Ctrl-C keeps what was compared. The exit status is 0 if a --model-b
    is better, 1 if none is or the examples do not settle it.

    With --split or --experiment it is an online experiment instead: begun if it is new, else its status, from
    what the processes that serve have recorded.

    \b
    Examples:
      dspy-nb ab-test --model-a qa-model@production --model-b qa-model@latest --test-data test.jsonl \
          --metric exact_match:answer --margin 0.02 --attach
      dspy-nb ab-test --model-a qa-model@production --model-b app.py:shorter --test-data test.jsonl \
          --metric exact_match:answer --margin 0.02 --not-worse --report report.md
      dspy-nb ab-test --model-a qa-model@1.0.0 --model-b qa-model@1.1.0 --model-b qa-model@1.2.0 \
          --test-data test.jsonl --metric exact_match:answer
      dspy-nb ab-test --model-a qa-model@production --model-b qa-model@latest --split 0.1 --experiment shorter
      dspy-nb ab-test --experiment shorter
    """
    if experiment is not None or split is not None or min_samples is not None:
        return _show_experiment(root, as_json, attach=attach)

    import dspy

    from dspy_nb.cli import parsing
    from dspy_nb.views.progress.comparison import TerminalComparisonProgress, most_answers

    if model_a is None or not model_b or test_data is None:
        raise nb.InputError(
            "ab-test needs --model-a, --model-b and --test-data; or --experiment NAME for one on live traffic"
        )
    if not_worse and not margin:
        raise nb.InputError("--not-worse needs a --margin: by how much it may be worse, such as 0.02")
    _check_reports(reports)
    registry = nb.Registry(root)
    versions, programs = _programs((model_a, *model_b), registry)
    if attach and None in versions[1:]:
        raise nb.InputError("--attach needs versions: each --model-b must be one in the registry")
    own = None if program_name is None else parsing.load_program(program_name)
    first = programs[0] if versions[0] is None else registry.load(versions[0], own)
    names = parsing.input_fields(first) if inputs is None else [name.strip() for name in inputs.split(",")]
    metric = parsing.load_metric(metric_name or _metric_of(versions))
    examples = nb.load_examples(test_data, names)
    if sys.stderr.isatty():
        echo(most_answers(min(len(examples), max_examples or len(examples)), len(programs)), err=True)
    with dspy.context(**lm_settings(lm)), TerminalComparisonProgress() as progress:
        found = nb.compare_many(
            programs[0],
            programs[1:],
            examples,
            metric,
            confidence=confidence,
            margin=margin,
            max_examples=max_examples,
            sequential=not one_look,
            num_threads=num_threads,
            timeout_s=timeout,
            stop_after_s=stop_after,
            seed=seed,
            registry=registry,
            program=own,
            names=[text.replace("@", " ") for text in (model_a, *model_b)],  # of those that are no versions
            on_event=progress,
        )
    result = found[0] if len(found) == 1 else found
    data = result.to_dict(results=False)
    title = f"A/B: {found.baseline}"
    written: dict[str, Callable[[], str]] = {
        ".md": result.to_markdown,
        ".html": lambda: _page(title, result.to_html()),
        ".json": lambda: json.dumps(repaired(result.to_dict()), ensure_ascii=False, allow_nan=False),
    }
    failures = [write_late(_writing(written[report.suffix]()), report) for report in map(Path, reports)]
    if attach:
        for version, one in zip(versions[1:], found, strict=True):
            if version is not None and one.n:
                registry.attach(version, _evidence(one, not_worse))
    print_result(as_json, data, result.report)
    for failure in filter(None, failures):
        raise failure
    if any(_accepted(one, not_worse) for one in found):
        return 0
    verdicts = ", ".join(f"{one.b_name}: {one.verdict}" for one in found)
    wanted = "not to be worse" if not_worse else "to be better"
    echo(f"Error: nothing is shown {wanted} than {found.baseline} ({verdicts})", err=True)
    return 1


def _accepted(found: nb.Comparison, not_worse: bool) -> bool:
    return found.verdict == "B better" or (not_worse and found.not_worse)


def _evidence(found: nb.Comparison, not_worse: bool) -> dict[str, Any]:
    """Return the evidence, and with --not-worse whether that passes, for its verdict alone may not."""
    evidence = found.to_evidence()
    if not_worse:
        evidence |= {"passed": _accepted(found, not_worse), "rule": f"at most {found.margin:g} worse"}
    return evidence


def _programs(texts: Sequence[str], registry: nb.Registry) -> tuple[list[nb.ModelVersion | None], list[Any]]:
    """Return the version that each text stands for, if it is one, and what to compare."""
    from dspy_nb.cli import parsing

    versions: list[nb.ModelVersion | None] = []
    programs: list[Any] = []
    for text in texts:
        version = None if ":" in text else registry.get(text)
        versions.append(version)
        programs.append(parsing.load_program(text) if version is None else version.ref)
    for text, program in zip(texts[1:], programs[1:], strict=True):
        if isinstance(program, str) and program == programs[0]:
            raise nb.InputError(f"{texts[0]} and {text} are both {program}: there is nothing to compare")
    return versions, programs


def _metric_of(versions: Sequence[nb.ModelVersion | None]) -> str:
    known = [version for version in (*versions[1:], versions[0]) if version is not None]
    return own_metric(known[0] if known else None)[0]


def _check_reports(reports: Sequence[str]) -> None:
    from dspy_nb.core.storage.files import check_target

    for report in map(Path, reports):
        if report.suffix not in _SUFFIXES:
            raise nb.InputError(f"--report {report}: the name must end in {', '.join(_SUFFIXES)}")
        check_target("--report", report)


def _writing(text: str) -> Callable[[Path], None]:
    from dspy_nb.core.storage.files import explained, replace_file

    def write(path: Path) -> None:
        with explained(f"write {path}"):
            replace_file(path, text.encode())

    return write


def _page(title: str, body: str) -> str:
    from dspy_nb.views.documents import markup

    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{markup(title)}</title></head>'
        f'<body style="margin:2em">{body}</body></html>\n'
    )


# -- online -----------------------------------------------------------------------------------------------------


def _show_experiment(root: str, as_json: bool, *, attach: bool) -> int:
    """Begin the experiment that the command line names, or show its status.

    Returns:
        0 if it was begun now or if B is better, 1 if there is no such verdict.

    Raises:
        InputError: An option belongs to a comparison on labelled data, or something is missing.
        NotFound, Refused: As for ``Experiment``.
    """
    from dspy_nb.core.ab.experiment import experiments

    context = click.get_current_context()
    given = context.params
    for option in context.command.params:
        name = str(option.name)
        if name not in _ONLINE and context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise nb.InputError(
                f"{option.opts[0]} goes with a comparison on --test-data, not with an online experiment"
            )
    registry = nb.Registry(root)
    name, models = given["experiment"], [*filter(None, [given["model_a"]]), *given["model_b"]]
    if models and (len(models) != 2 or not given["model_a"] or any(":" in model for model in models)):
        raise nb.InputError("an online experiment takes one --model-a and one --model-b, both versions")
    if name is None:
        if not models:
            raise nb.InputError("--split needs --experiment NAME, or --model-a and --model-b")
        name = "-".join(registry.get(model).ref for model in models).replace("@", "-")
    options = {
        key: given[key]
        for key in ("split", "min_samples", "confidence", "margin")
        if given[key] is not None and context.get_parameter_source(key) is not ParameterSource.DEFAULT
    }
    begun = name in experiments(registry)
    experiment = nb.Experiment(name, *models, registry=registry, **options)
    status = experiment.conclude() if attach else experiment.status()
    text = status.report()
    if not begun:
        text += (
            f"\n\nBegun. Serve with nb.Experiment({name!r}).predict(unit=...), and record() what came of it."
        )
    print_result(as_json, status.to_dict(), lambda: text)
    if not begun or status.verdict == "B better":
        return 0
    echo(f"Error: {status.b.name} is not shown to be better than {status.a.name}: {status.verdict}", err=True)
    return 1
