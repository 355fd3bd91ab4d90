"""The command ``pipeline``."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

import dspy_nb as nb
from dspy_nb.commands import common
from dspy_nb.commands.declaration import command, option
from dspy_nb.commands.surface import Outcome, Surface
from dspy_nb.commands.tasks import reading_task, task_options
from dspy_nb.core.text import one_line

if TYPE_CHECKING:
    from dspy_nb.core.pipeline.folder import PipelineResult

_UNTIL: Final = ("optimize", "evaluate", "gate", "staging", "ab-test", "production")


@command("pipeline")
@task_options
@option(
    "--gate conditions",
    "What the new version must show on the test data, such as min_score=0.85; repeatable, at least one.",
    common.CONDITIONS,
    multiple=True,
)
@option("--margin", "How much worse than what is in production still is not worse.", float, default=0.02)
@common.confidence
@option(
    "--inconclusive",
    "What to do if the comparison cannot tell.",
    click.Choice(["refuse", "ship"]),
    default="refuse",
)
@option("--staging", "Environment.", common.ENVIRONMENTS, default="staging")
@option("--environment production", "Environment.", common.ENVIRONMENTS, default="production")
@common.create
@option(
    "--until",
    "End with this step; the same command with the same --out does the rest.",
    click.Choice(_UNTIL),
    default="production",
)
@option(
    "--out",
    "Folder of what each step finds; an interrupted pipeline goes on there. By default the last interrupted one in "
    "runs/, else a new one.",
    common.DIRECTORY,
)
@common.by
@common.registry
@common.quiet
def pipeline(
    here: Surface,
    *,
    bump: str | None,
    conditions: tuple[str, ...],
    margin: float,
    confidence: float,
    inconclusive: Any,
    staging: str,
    production: str,
    create: bool,
    until: str,
    out: str | None,
    by: str | None,
    root: str,
    quiet: bool,
    **options: Any,
) -> Outcome:
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
    from dspy_nb.core.pipeline.folder import next_folder
    from dspy_nb.core.pipeline.pipeline import DEFAULT_BUDGET, PipelineRules, run_pipeline
    from dspy_nb.views.run import describe_estimate

    if not conditions:
        raise nb.InputError(
            "a pipeline needs a gate: --gate min_score=0.85, or min_score under [pipeline.gate]"
        )
    needed = ("model_id", "trainset", "testset", "metric")
    with reading_task(here, options, root, needed) as wanted, _resumable(here):
        assert wanted.model_id is not None
        rules = PipelineRules(
            gate=nb.QualityGate.parse(conditions),
            margin=margin,
            confidence=confidence,
            inconclusive=inconclusive,
            staging=staging,
            production=production,
            create=create,
        )
        folder = Path(out) if out is not None else next_folder(Path("runs"), wanted.model_id)
        budget = wanted.task.budget if wanted.task.budget.limits() else DEFAULT_BUDGET
        listeners = [] if quiet else here.announce(describe_estimate(wanted.estimate, budget))
        with here.progress(quiet=quiet) as progress:
            result = run_pipeline(
                wanted.task,
                wanted.model_id,
                rules,
                registry=nb.Registry(root),
                folder=folder,
                until=until,
                bump=bump,
                metadata={"command": wanted.command},
                by=by,
                on_event=[progress, *listeners],
            )
    _keep_reports(here, result)
    refused = result.shipped is False
    why = f"{result.steps[-1].name}: {one_line(result.reason)}" if refused else ""
    return Outcome(
        result, {**result.to_dict(), "folder": str(folder)}, refusal=nb.Refused(why) if refused else None
    )


@contextlib.contextmanager
def _resumable(here: Surface) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        here.say("\nNote: the same command goes on where it was interrupted")
        raise


def _keep_reports(here: Surface, result: PipelineResult) -> None:
    """Write the reports of the steps done now beside what they found, and into the summary of a CI job."""
    parts = [result.to_markdown()]
    pages: dict[str, str] = {}
    for name, found in (("run", result.run), ("ab", result.comparison)):
        if found is not None:
            parts.append(found.to_markdown())
            pages |= {f"{name}.md": parts[-1], f"{name}.html": found.to_html()}
    summary = "\n".join(parts)
    for name, text in {**pages, "summary.md": summary}.items():
        with _noting(here, f"{result.folder / name} is not written"):
            (result.folder / name).write_text(text, encoding="utf-8")
    if job := os.environ.get("GITHUB_STEP_SUMMARY"):
        with (
            _noting(here, "the summary of the job is not written"),
            Path(job).open("a", encoding="utf-8") as file,
        ):
            file.write(summary)


@contextlib.contextmanager
def _noting(here: Surface, what: str) -> Iterator[None]:
    """Say what failed, for what was decided stands whether or not its reports can be written."""
    try:
        yield
    except (OSError, UnicodeError) as error:
        here.say(f"Note: {what}: {one_line(error, 200)}")
