"""The command ``dspy-nb optimize``."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict
from typing import Any

import click

import dspy_nb as nb
from dspy_nb.commands.output import json_option, print_result, registry_option

__all__ = ["lm_settings", "optimize"]


@click.command()
@click.option(
    "--program",
    "program_name",
    required=True,
    metavar="MODULE:NAME",
    help="A dspy.Module, or a class or function that makes one: package.module:name or file.py:name.",
)
@click.option("--train-data", metavar="FILE", help="Examples to learn from (.jsonl, .json, .csv, .tsv).")
@click.option("--val-data", metavar="FILE", help="Examples to compare candidates on.")
@click.option(
    "--test-data", metavar="FILE", help="Examples that the search never sees, scored before and after."
)
@click.option(
    "--inputs", metavar="FIELDS", help="Input fields, comma-separated; by default the program's own."
)
@click.option(
    "--metric",
    "metric_name",
    metavar="METRIC",
    help="exact_match:field, accuracy:field, token_f1:field, partial_credit:field, or module:function.",
)
@click.option("--optimizer", metavar="NAME", help="Such as MIPROv2; BootstrapFewShot by default.")
@click.option(
    "--option", "options", multiple=True, metavar="NAME=VALUE", help="Of the optimizer; repeatable."
)
@click.option("--preset", metavar="NAME", help="See dspy-nb presets; an --option wins over it.")
@click.option("--budget-calls", type=int, metavar="N", help="Stop after so many LM calls.")
@click.option("--budget-seconds", "--timeout", type=float, metavar="S", help="Stop after so many seconds.")
@click.option("--budget-tokens", type=int, metavar="N", help="Stop after so many tokens.")
@click.option("--budget-usd", type=float, metavar="X", help="Stop after so many US dollars.")
@click.option("--seed", type=int, default=0, show_default=True, help="For whatever is drawn at random.")
@click.option("--num-threads", type=int, metavar="N", help="Program calls at a time.")
@click.option("--run-dir", metavar="DIR", help="Keep every LM answer, to go on later without paying twice.")
@click.option("--log-file", metavar="FILE", help="Append each event as a line of JSON.")
@click.option(
    "--lm",
    metavar="MODEL",
    help="Such as openai/gpt-4o-mini; else $DSPY_NB_LM, else what the program's module configured, else the "
    "embedded model.",
)
@click.option("--recompile", is_flag=True, help="Accept a program that was compiled before.")
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
    program_name: str,
    train_data: str | None,
    val_data: str | None,
    test_data: str | None,
    inputs: str | None,
    metric_name: str | None,
    optimizer: str | None,
    options: tuple[str, ...],
    preset: str | None,
    budget_calls: int | None,
    budget_seconds: float | None,
    budget_tokens: int | None,
    budget_usd: float | None,
    seed: int,
    num_threads: int | None,
    run_dir: str | None,
    log_file: str | None,
    lm: str | None,
    recompile: bool,
    model_id: str | None,
    bump: str | None,
    dry_run: bool,
    root: str,
    as_json: bool,
) -> int:
    r"""Optimize a program and register the result.

    What can be wrong is found before the first LM call. Ctrl-C and a budget keep the best candidate so far.

    \b
    Examples:
      dspy-nb optimize --program app.py:classifier --metric exact_match:label \
          --train-data train.jsonl --val-data val.jsonl --test-data test.jsonl \
          --optimizer MIPROv2 --option num_candidates=6 --budget-calls 500 --save-as sentiment
      dspy-nb optimize --program app.py:classifier --metric exact_match:label \
          --train-data train.jsonl --val-data val.jsonl --preset light --dry-run
    """
    import dspy

    from dspy_nb import parsing
    from dspy_nb.progress import TerminalProgress
    from dspy_nb.report import estimate_text, run_text  # noqa: TID251 - a front end

    program = parsing.load_program(program_name)
    names = parsing.input_fields(program) if inputs is None else [name.strip() for name in inputs.split(",")]
    files = {"trainset": train_data, "valset": val_data, "testset": test_data}
    task: dict[str, Any] = {
        "metric": None if metric_name is None else parsing.load_metric(metric_name),
        "optimizer": optimizer,
        "options": parsing.parse_options(options),
        "preset": preset,
        "recompile": recompile,
        **{name: None if path is None else nb.load_examples(path, names) for name, path in files.items()},
    }
    budget = nb.Budget(lm_calls=budget_calls, seconds=budget_seconds, tokens=budget_tokens, usd=budget_usd)
    if model_id is not None:
        _check_registrable(program, model_id)
    with dspy.context(**lm_settings(lm)):
        if dry_run:
            expected = nb.estimate(program, **task)
            data = {"lm_calls": expected.lm_calls, **asdict(expected)}
            print_result(as_json, data, lambda: estimate_text(expected, budget))
            return 0
        run = nb.optimize(
            program,
            **task,
            budget=budget,
            seed=seed,
            num_threads=num_threads,
            run_dir=run_dir,
            log_file=log_file,
            on_event=TerminalProgress() if sys.stderr.isatty() else None,
        )
    nothing_found = run.stopped_by is not None and not run.candidates
    version = None
    if model_id is not None and not nothing_found:
        version = nb.Registry(root).register(run, model_id, bump=bump)
    registered = "" if version is None else f"\n\nRegistered {version.ref} in {version.path}"
    print_result(as_json, _facts(run, version), lambda: run_text(run) + registered)
    if model_id is not None and version is None:
        click.echo("Error: stopped before any candidate was scored: nothing is registered", err=True)
        return 1
    return 0


def _check_registrable(program: Any, model_id: str) -> None:
    """Refuse what a registry would refuse, before anything is spent."""
    from dspy_nb.core.submission import Submission
    from dspy_nb.core.versions import check_model_id

    check_model_id(model_id)
    if not isinstance(program, list):
        Submission(program, model_id, metadata=None, evaluation=None, notes=None)


def lm_settings(lm: str | None) -> dict[str, Any]:
    """Return DSPy's settings for the run; none where the program's module has made its own."""
    import dspy

    if lm is not None:
        if "/" not in lm.strip("/"):
            raise nb.InputError(f"--lm {lm!r} is not provider/model, as in openai/gpt-4o-mini")
        return {"lm": dspy.LM(lm)}
    if dspy.settings.lm is not None and "DSPY_NB_LM" not in os.environ:
        return {}
    return {"lm": nb.local_lm(), "adapter": dspy.settings.adapter or dspy.JSONAdapter()}


def _facts(run: nb.OptimizationRun, version: nb.ModelVersion | None) -> dict[str, Any]:
    """Return the run as JSON can hold it."""
    from dspy_nb.core.run import readable

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
