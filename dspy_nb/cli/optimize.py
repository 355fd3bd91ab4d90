"""The command ``dspy-nb optimize``."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

import dspy_nb as nb
from dspy_nb.cli.output import echo, json_option, keep_elsewhere, print_result, registry_option
from dspy_nb.cli.task import lm_settings, read_task, run_listener, task_options

__all__ = ["optimize"]


@click.command()
@task_options
@click.option("--run-dir", metavar="DIR", help="Keep every LM answer, to go on later without paying twice.")
@click.option("--log-file", metavar="FILE", help="Append each event as a line of JSON.")
@click.option("--model-id", "--save-as", metavar="NAME", help="Register the optimized program as this model.")
@click.option(
    "--bump",
    type=click.Choice(["major", "minor", "patch", "prerelease"]),
    help="Which part of the version to raise; minor by default.",
)
@click.option("--dry-run", is_flag=True, help="Check everything and say how many LM calls it can take.")
@registry_option
@json_option
def optimize(
    run_dir: str | None,
    log_file: str | None,
    bump: str | None,
    dry_run: bool,
    root: str,
    as_json: bool,
    **given: Any,
) -> int:
    r"""Optimize a program and register the result.

    What can be wrong is found before the first LM call. Ctrl-C and a budget keep the best candidate so far.

    \b
    Examples:
      dspy-nb optimize --program app.py:classifier --metric exact_match:label \
          --train-data train.jsonl --val-data val.jsonl --test-data test.jsonl \
          --optimizer MIPROv2 --option num_candidates=6 --budget-calls 500 --model-id sentiment
      dspy-nb optimize --program app.py:classifier --metric exact_match:label \
          --train-data train.jsonl --val-data val.jsonl --preset light --dry-run
      dspy-nb optimize --like sentiment@1.2.0 --seed 1
    """
    import dspy

    from dspy_nb.views.run import describe_estimate

    task = read_task(given, registry=root)
    with dspy.context(**lm_settings(task.lm)):
        expected = nb.estimate(task.program, **task.arguments)
        if dry_run:
            data = {"lm_calls": expected.lm_calls, **asdict(expected)}
            print_result(as_json, data, lambda: describe_estimate(expected, task.budget))
            return 0
        run = nb.optimize(
            task.program,
            **task.arguments,
            budget=task.budget,
            seed=task.seed,
            num_threads=task.num_threads,
            run_dir=run_dir,
            log_file=log_file,
            on_event=run_listener(expected, task.budget),
        )
    version = None
    if task.model_id is not None and run.origin != "given":
        facts = {"command": task.command}
        try:
            version = nb.Registry(root).register(run, task.model_id, bump=bump, metadata=facts)
        except nb.DspyNbError:
            keep_elsewhere(run.program.save, "program.json", "Not registered; the optimized program")
            raise
    registered = "" if version is None else f"\n\nRegistered {version.ref} in {version.path}"
    print_result(as_json, _facts(run, version), lambda: run.report() + registered)
    if task.model_id is not None and version is None:
        echo("Error: stopped before any candidate was scored: nothing is registered", err=True)
        return 1
    return 0


def _facts(run: nb.OptimizationRun, version: nb.ModelVersion | None) -> dict[str, Any]:
    """Return the run as JSON can hold it."""
    from dspy_nb.core.optimization.run import readable

    plan, gain = run.plan, run.improvement
    return {
        "model": None if version is None else version.ref,
        "path": None if version is None else str(version.path),
        "optimizer": plan.optimizer,
        "preset": plan.preset,
        "options": readable(plan.options),
        "metric": plan.metric,
        "base_model": plan.base_model,
        "seed": plan.seed,
        "datasets": readable(plan.datasets),
        "score": run.score,
        "baseline_score": run.baseline_score,
        "test_before": _score(run.test_before),
        "test_after": _score(run.test_after),
        "improvement": None if gain is None else {**asdict(gain), "verdict": gain.verdict},
        "candidates": [
            {"number": c.number, "score": c.score, "n": c.n, "full": c.full} for c in run.candidates
        ],
        "usage": run.usage.to_dict(),
        "errors": run.errors.count,
        "estimated_lm_calls": plan.estimate.lm_calls,
        "stopped_by": run.stopped_by,
        "duration_s": round(run.duration_s, 3),
    }


def _score(evaluation: nb.Evaluation | None) -> dict[str, Any] | None:
    if evaluation is None:
        return None
    report = evaluation.to_dict(results=False)
    return {name: report[name] for name in ("score", "interval", "n", "errors")}
