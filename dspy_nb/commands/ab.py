"""The command ``ab-test``: programs on the same examples, and whether the new one is better."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import click

import dspy_nb as nb
from dspy_nb.commands import common
from dspy_nb.commands.declaration import argument, command, given, name_of, option
from dspy_nb.commands.surface import Outcome, Surface
from dspy_nb.core.text import repaired

_SUFFIXES: Final = (".md", ".html", ".json")
_ONLINE: Final = (
    "a", "as_json", "attach", "b", "confidence", "experiment", "kept", "margin", "min_samples", "model_a",
    "model_b", "quiet", "root", "split",
)  # fmt: skip


@command("ab-test", magic="dspy_ab", kept_as="_dspy_comparison")
@argument("a", common.SUBJECTS, "[A]", required=False)
@argument("b", common.SUBJECTS, "[B]...", nargs=-1)
@option("--model-a", "What is in use, such as qa-model@production; the same as A.", common.SUBJECTS)
@option(
    "--model-b",
    "What may replace it, such as qa-model@latest; repeatable, and the more there are, the more evidence each "
    "needs. The same as B.",
    common.SUBJECTS,
    multiple=True,
)
@common.program
@common.test_data
@common.inputs
@common.metric
@option(
    "--margin", "Largest difference that makes no practical difference, such as 0.02.", float, default=0.0
)
@common.confidence
@option("--max-examples", "At most so many, drawn at random.", int)
@option("--one-look", "Answer all, and look once at the end with an exact test.", bool)
@option("--not-worse", "Also say yes if B is shown to be at most --margin worse, not better.", bool)
@common.num_threads
@common.timeout
@common.stop_after
@common.seed
@common.lm
@option(
    "--examples which",
    "Which examples to show: all, or those that B fixed or broke, that are wrong or failed; by default the first "
    "ones that B fixed or broke.",
    click.Choice(["fixed", "broken", "wrong", "errors", "all"]),
)
@option("--report reports", "Also write it to .md, .html or .json; repeatable.", common.FILES, multiple=True)
@option(
    "--attach",
    "Record the verdict with each B, as evidence for promotion; it concludes an online experiment.",
    bool,
)
@option(
    "--experiment",
    "Online, on live traffic: begin the experiment of this name, or say how it stands.",
    common.EXPERIMENTS,
)
@option("--split", "Online: share of new units that go to B, such as 0.1.", float)
@option("--min-samples", "Online: units that the classical test needs.", int)
@common.registry
@common.quiet
def ab_test(
    here: Surface,
    *,
    a: str | None,
    b: tuple[str, ...],
    model_a: str | None,
    model_b: tuple[str, ...],
    root: str,
    attach: bool,
    experiment: str | None,
    split: float | None,
    min_samples: int | None,
    **options: Any,
) -> Outcome:
    r"""Compare programs on the same examples, for a verdict.

    It ends as soon as the verdict is in, and may be watched or interrupted: the interval is valid at every look.
    The exit status is 0 if a B is better, 1 if none is or the examples do not settle it. A notebook returns the
    comparison, and keeps the last one as _dspy_comparison.

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
      %dspy_ab old new --data test --metric exact_match:answer --margin 0.02
    """
    words_of_a = [word for word in (model_a, a) if word is not None]
    first, seconds = next(iter(words_of_a), None), [*model_b, *words_of_a[1:], *b]
    if experiment is not None or split is not None or min_samples is not None:
        settings = {"split": split, "min_samples": min_samples, **options}
        return _show_experiment(experiment, first, seconds, settings, root, attach=attach)
    return _compare(here, first, seconds, root, attach, **options)


def _compare(
    here: Surface,
    first: str | None,
    seconds: Sequence[str],
    root: str,
    attach: bool,
    *,
    program: str | None,
    dataset: str | None,
    inputs: str | None,
    metric: str | None,
    one_look: bool,
    not_worse: bool,
    lm: str | None,
    which: Any,
    reports: tuple[str, ...],
    quiet: bool,
    **terms: Any,
) -> Outcome:
    import dspy

    from dspy_nb.views.progress.comparison import most_answers

    if first is None or not seconds or dataset is None:
        raise nb.InputError(
            "ab-test needs --model-a, --model-b and --test-data (A and B will do as well); or --experiment NAME "
            "for one on live traffic"
        )
    if not_worse and not terms["margin"]:
        raise nb.InputError("--not-worse needs a --margin: by how much it may be worse, such as 0.02")
    _check_reports(reports)
    registry, texts = nb.Registry(root), (first, *seconds)
    found = [common.resolve(here, text, "program", registry) for text in texts]
    versions = [version for _, version in found]
    programs = [one if version is None else version.ref for one, version in found]
    for text, one in zip(texts[1:], programs[1:], strict=True):
        if isinstance(one, str) and one == programs[0]:
            raise nb.InputError(f"{first} and {text} are both {one}: there is nothing to compare")
    if attach and None in versions[1:]:
        raise nb.InputError("--attach needs versions: each --model-b must be one in the registry")
    own = None if program is None else here.program(program, "--program")
    known = [version for version in (*versions[1:], versions[0]) if version is not None]
    score = here.metric(metric or common.own_metric(known[0] if known else None), "--metric")

    fields = functools.partial(
        common.input_names,
        inputs,
        lambda: programs[0] if versions[0] is None else registry.load(versions[0], own),
    )
    examples = here.examples(dataset, name_of("dataset"), fields)
    if not hasattr(examples, "__len__"):
        raise nb.InputError(f"{name_of('dataset')} {dataset} is a {type(examples).__name__}, not a list")
    cost = most_answers(min(len(examples), terms["max_examples"] or len(examples)), len(programs))
    listeners = [] if quiet or not here.watched else here.announce(cost)
    with dspy.context(**here.lm_settings(lm)), here.progress(quiet=quiet) as progress:
        compared = nb.compare_many(
            programs[0],
            programs[1:],
            examples,
            score,
            sequential=not one_look,
            registry=registry,
            program=own,
            names=[text.replace("@", " ") for text in texts],  # of those that are no versions
            on_event=[*listeners, progress],
            stop=progress.stop,
            **terms,
        )
    result = compared[0] if len(compared) == 1 else compared
    here.hold(result)
    failures = [
        here.write_late(_writing(result, compared.baseline, report), report) for report in map(Path, reports)
    ]
    if attach:
        for version, one in zip(versions[1:], compared, strict=True):
            if version is not None and one.n:
                registry.attach(version, _evidence(one, not_worse))
    verdicts = ", ".join(f"{one.b_name}: {one.verdict}" for one in compared)
    wanted = "not to be worse" if not_worse else "to be better"
    accepted = any(_accepted(one, not_worse) for one in compared)
    from dspy_nb.views.comparison import without_examples

    flips = which if which in ("fixed", "broken") else None
    tables = [
        one.examples(wrong=which == "wrong", errors=which == "errors", flips=flips)
        for one in compared
        if which is not None
    ]
    data = {"examples": [table.to_list() for table in tables]} if tables else {}
    return Outcome(
        result,
        lambda: {**result.to_dict(results=False), **data},
        without_examples(result) if tables else None,
        tables,
        status=0 if accepted else 1,
        complaint="" if accepted else f"nothing is shown {wanted} than {compared.baseline} ({verdicts})",
        failure=next(filter(None, failures), None),
    )


def _accepted(found: nb.Comparison, not_worse: bool) -> bool:
    return found.verdict == "B better" or (not_worse and found.not_worse)


def _evidence(found: nb.Comparison, not_worse: bool) -> Any:
    """Return the evidence, and with --not-worse whether that passes, for its verdict alone may not."""
    if not not_worse:
        return found.to_evidence()
    return found.to_evidence(passed=_accepted(found, not_worse), rule=f"at most {found.margin:g} worse")


def _check_reports(reports: Sequence[str]) -> None:
    from dspy_nb.core.storage.files import check_target

    for report in map(Path, reports):
        if report.suffix not in _SUFFIXES:
            raise nb.InputError(f"--report {report}: the name must end in {', '.join(_SUFFIXES)}")
        check_target("--report", report)


def _writing(result: Any, baseline: str, report: Path) -> Callable[[Path], None]:
    from dspy_nb.core.storage.files import explain_failure, replace_file

    made: dict[str, Callable[[], str]] = {
        ".md": result.to_markdown,
        ".html": lambda: _page(f"A/B: {baseline}", result.to_html()),
        ".json": lambda: json.dumps(repaired(result.to_dict()), ensure_ascii=False, allow_nan=False),
    }
    text = made[report.suffix]()

    def write(path: Path) -> None:
        with explain_failure(f"write {path}"):
            replace_file(path, text.encode())

    return write


def _page(title: str, body: str) -> str:
    from dspy_nb.views.rendering.html import markup

    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{markup(title)}</title></head>'
        f'<body style="margin:2em">{body}</body></html>\n'
    )


# -- online -----------------------------------------------------------------------------------------------------


def _show_experiment(
    name: str | None,
    first: str | None,
    seconds: Sequence[str],
    options: dict[str, Any],
    root: str,
    *,
    attach: bool,
) -> Outcome:
    """Begin the experiment that the command line names, or show its status.

    The exit status is 0 if it was begun now or if B is better, 1 if there is no such verdict.

    Raises:
        InputError: An option belongs to a comparison on labelled data, or something is missing.
        NotFound, Refused: As for ``Experiment``.
    """
    from dspy_nb.core.ab.experiment import experiments

    typed = given()
    if others := [shown for parameter, shown in typed.items() if parameter not in _ONLINE]:
        goes = "goes" if len(others) == 1 else "go"
        raise nb.InputError(f"{', '.join(others)} {goes} with a comparison, not with an online experiment")
    registry = nb.Registry(root)
    models = [*filter(None, [first]), *seconds]
    if models and (len(models) != 2 or first is None or any(":" in model for model in models)):
        raise nb.InputError("an online experiment takes one --model-a and one --model-b, both versions")
    if name is None:
        if not models:
            raise nb.InputError("--split needs --experiment NAME, or --model-a and --model-b")
        name = "-".join(registry.get(model).ref for model in models).replace("@", "-")
    settings = {key: options[key] for key in ("split", "min_samples", "confidence", "margin") if key in typed}
    begun = name in experiments(registry)
    experiment = nb.Experiment(name, *models, registry=registry, **settings)
    status = experiment.conclude() if attach else experiment.status()
    fine = not begun or status.verdict == "B better"
    complaint = f"{status.b.name} is not shown to be better than {status.a.name}: {status.verdict}"
    new = f"Begun. Serve with nb.Experiment({name!r}).predict(unit=...), and record() what came of it."
    return Outcome(
        status,
        status.to_dict,
        note="" if begun else new,
        status=0 if fine else 1,
        complaint="" if fine else complaint,
        aside=True,
    )
