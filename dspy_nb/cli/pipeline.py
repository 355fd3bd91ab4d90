"""The command ``dspy-nb pipeline``."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

import dspy_nb as nb
from dspy_nb.cli.output import echo, json_option, print_result, registry_option
from dspy_nb.cli.task import lm_settings, read_task, run_listener, task_options
from dspy_nb.core.text import one_line

if TYPE_CHECKING:
    from dspy_nb.core.pipeline.folder import PipelineResult, Step

__all__ = ["pipeline"]

_UNTIL: Final = ("optimize", "evaluate", "gate", "staging", "ab-test", "production")


@click.command()
@task_options
@click.option("--model-id", metavar="NAME", help="The model that the program becomes a version of.")
@click.option(
    "--bump",
    type=click.Choice(["major", "minor", "patch", "prerelease"]),
    help="Which part of the version to raise; minor by default.",
)
@click.option(
    "--gate",
    "conditions",
    multiple=True,
    metavar="NAME=VALUE",
    help="What the new version must show on the test data, such as min_score=0.85; repeatable, at least one.",
)
@click.option(
    "--margin",
    type=float,
    default=0.02,
    show_default=True,
    metavar="M",
    help="How much worse than what is in production still is not worse.",
)
@click.option(
    "--confidence", type=float, default=0.95, show_default=True, metavar="C", help="Of the comparison."
)
@click.option(
    "--inconclusive",
    type=click.Choice(["refuse", "ship"]),
    default="refuse",
    show_default=True,
    help="What to do if the comparison cannot tell.",
)
@click.option("--staging", metavar="NAME", default="staging", show_default=True, help="Environment.")
@click.option("--environment", metavar="NAME", default="production", show_default=True, help="Environment.")
@click.option(
    "--until",
    type=click.Choice(_UNTIL),
    default="production",
    show_default=True,
    help="End with this step; the same command with the same --out does the rest.",
)
@click.option(
    "--out",
    metavar="DIR",
    help="Folder of what each step finds; an interrupted pipeline goes on there. By default the last "
    "interrupted one in runs/, else a new one.",
)
@click.option("--by", metavar="NAME", help="Who ships; the user by default.")
@registry_option
@json_option
def pipeline(
    bump: str | None,
    conditions: tuple[str, ...],
    margin: float,
    confidence: float,
    inconclusive: str,
    staging: str,
    environment: str,
    until: str,
    out: str | None,
    by: str | None,
    root: str,
    as_json: bool,
    **given: Any,
) -> int:
    r"""Optimize a program and ship it if it is good enough.

    Optimize, evaluate, gate, staging, A/B against what is in production, production: no step is left out. The
    exit status is 1, and nothing is deployed beyond, if the gate says no or the new version is worse than what
    is in production. Interrupted, it goes on where it was.

    In a CI job, the report is added to the summary of the job ($GITHUB_STEP_SUMMARY).

    \b
    Examples:
      dspy-nb pipeline                                            (everything in dspy-nb.toml)
      dspy-nb pipeline --config pipeline.toml --optimizer MIPROv2
      dspy-nb pipeline --program app.py:classifier --metric exact_match:label --model-id sentiment \
          --train-data train.jsonl --val-data val.jsonl --test-data test.jsonl \
          --gate min_score=0.8 --margin 0.05 --timeout 1800
      dspy-nb pipeline --until gate --out artefacts               (a job of its own for each step)
    """
    import dspy

    from dspy_nb.core.pipeline.folder import next_folder
    from dspy_nb.core.pipeline.pipeline import DEFAULT_BUDGET, PipelineRules, run_pipeline

    if not conditions:
        raise nb.InputError(
            "a pipeline needs a gate: --gate min_score=0.85, or min_score under [pipeline.gate]"
        )
    task = read_task(given, registry=root)
    if task.model_id is None:
        raise click.UsageError("Missing option '--model-id'.", click.get_current_context())
    arguments = dict(task.arguments)
    for name in ("trainset", "testset", "metric"):
        if arguments[name] is None:
            flag = "--metric" if name == "metric" else f"--{name.removesuffix('set')}-data"
            raise click.UsageError(f"Missing option '{flag}'.", click.get_current_context())
    what = nb.Task(
        task.program,
        **{name: value for name, value in arguments.items() if value is not None},
        budget=task.budget if task.budget.limits() else DEFAULT_BUDGET,
        seed=task.seed,
        num_threads=task.num_threads,
    )
    rules = PipelineRules(
        gate=nb.QualityGate.parse(conditions),
        margin=margin,
        confidence=confidence,
        inconclusive="ship" if inconclusive == "ship" else "refuse",
        staging=staging,
        production=environment,
    )
    folder = Path(out) if out is not None else next_folder(Path("runs"), task.model_id)
    with _resumable(), dspy.context(**lm_settings(task.lm)):
        expected = nb.estimate(task.program, **task.arguments)
        result = run_pipeline(
            what,
            task.model_id,
            rules,
            registry=nb.Registry(root),
            folder=folder,
            until=until,
            bump=bump,
            metadata={"command": task.command},
            by=by,
            on_step=_say(folder),
            on_event=run_listener(expected, what.budget),
            **_listeners(),
        )
    _keep_reports(result)
    print_result(as_json, {**result.to_dict(), "folder": str(folder)}, result.report)
    if result.shipped is False:
        echo(f"Error: {result.steps[-1].name}: {one_line(result.reason)}", err=True)
        return 1
    return 0


@contextlib.contextmanager
def _resumable() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        echo("\nNote: the same command goes on where it was interrupted", err=True)
        raise


def _say(folder: Path) -> Any:
    def say(name: str, step: Step | None) -> None:
        if step is None:
            echo(f"{name} ... ({folder})" if name == "optimize" else f"{name} ...", err=True)
        else:
            echo(f"{name}: {step.status}, {step.message}", err=True)

    return say


def _listeners() -> dict[str, Any]:
    from dspy_nb.views.progress.evaluation import TerminalEvaluationProgress

    if not sys.stderr.isatty():
        return {}
    bar = TerminalEvaluationProgress()
    return {
        "on_evaluation": TerminalEvaluationProgress(),
        "on_comparison": lambda duel, planned: bar(duel.n, planned, 0),
    }


def _keep_reports(result: PipelineResult) -> None:
    """Write the reports of the steps done now beside what they found, and into the summary of a CI job."""
    parts = [result.to_markdown()]
    pages: dict[str, str] = {}
    for name, found in (("run", result.run), ("ab", result.comparison)):
        if found is not None:
            parts.append(found.to_markdown())
            pages |= {f"{name}.md": parts[-1], f"{name}.html": found.to_html()}
    summary = "\n".join(parts)
    for name, text in {**pages, "summary.md": summary}.items():
        with _said(f"{result.folder / name} is not written"):
            (result.folder / name).write_text(text, encoding="utf-8")
    if job := os.environ.get("GITHUB_STEP_SUMMARY"):
        with _said("the summary of the job is not written"), Path(job).open("a", encoding="utf-8") as file:
            file.write(summary)


@contextlib.contextmanager
def _said(what: str) -> Iterator[None]:
    """Say what failed, for what was decided stands whether or not its reports can be written."""
    try:
        yield
    except (OSError, UnicodeError) as error:
        echo(f"Note: {what}: {one_line(error, 200)}", err=True)
