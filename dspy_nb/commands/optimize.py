"""The command ``optimize``."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import dspy_nb as nb
from dspy_nb.commands import common
from dspy_nb.commands.common import note_new_model
from dspy_nb.commands.declaration import command, given, option
from dspy_nb.commands.surface import Outcome, Surface
from dspy_nb.commands.tasks import reading_task, task_options


@command("optimize", magic="dspy_optimize", kept_as="_dspy_run")
@task_options
@option("--run-dir", "Keep every LM answer, to go on later without paying twice.", common.DIRECTORY)
@option("--log-file", "Append each event as a line of JSON.", common.FILES)
@option("--dry-run", "Check everything and say how many LM calls it can take.", bool)
@option("--background", "Return at once; see run.wait(), run.stop() and %dspy_runs.", bool, only="notebook")
@common.registry
@common.quiet
def optimize(
    here: Surface,
    *,
    bump: str | None,
    dry_run: bool,
    root: str,
    quiet: bool,
    run_dir: str | None,
    log_file: str | None,
    background: bool = False,
    **options: Any,
) -> Outcome:
    r"""Optimize a program and, if wanted, register the result.

    What can be wrong is found before the first LM call, and the most calls that it can take are said. An interrupt
    and a budget keep the best candidate so far. A notebook returns the run, and keeps the last one as _dspy_run.

    \b
    Examples:
      dspy-nb optimize --program app.py:classifier --metric exact_match:label \
          --train-data train.jsonl --val-data val.jsonl --test-data test.jsonl \
          --optimizer MIPROv2 --option num_candidates=6 --budget-calls 500 --model-id sentiment
      dspy-nb optimize --program app.py:classifier --metric exact_match:label \
          --train-data train.jsonl --val-data val.jsonl --preset light --dry-run
      dspy-nb optimize --like sentiment@1.2.0 --seed 1
      %dspy_optimize program --train train --val val --test test --metric exact_match:label -o run
    """
    from dspy_nb.core.optimization.ending import speaking
    from dspy_nb.views.ending import describe_change, describe_end, say_next
    from dspy_nb.views.listings import short_path
    from dspy_nb.views.run import describe_estimate

    model_id = options["model_id"]
    typed = given(("bump", "root", "model_id"))
    if model_id is None and options["like"] is None and (alone := typed.get("bump") or typed.get("root")):
        raise nb.InputError(f"{alone} goes with --save-as MODEL")
    if model_id is not None and background:
        raise nb.InputError(
            f"{typed.get('model_id', '--save-as')} does not go with --background; register the run when it has "
            f"ended: dspy_nb.Registry({root!r}).register({optimize.kept_as}, {model_id!r})"
        )
    with reading_task(here, options, root) as wanted:
        task = wanted.task
        cost = describe_estimate(wanted.estimate, task.budget)
        if dry_run:
            estimate = wanted.estimate
            data = {"lm_calls": estimate.lm_calls, "fewest": estimate.fewest, **asdict(estimate)}
            return Outcome(wanted.estimate, data, cost, aside=True)
        listeners = [] if quiet else here.announce(cost)
        voice = here.voice(wanted.model_id, root)
        with speaking(voice), here.progress(quiet=quiet, background=background) as progress:
            run = nb.optimize(
                task,
                run_dir=run_dir,
                log_file=log_file,
                on_event=[*listeners, progress],
                stop=progress.stop,
                background=background,
            )
    here.hold(run)
    if background:
        return Outcome(run)
    version, why = (None, "") if wanted.model_id is None else _register(here, run, wanted, bump, root)
    ref = None if version is None else version.ref
    run.plan = replace(run.plan, voice=replace(run.plan.voice, ref=ref, registers=False))
    status = 1 if why and not here.keeps_results else 0
    said = [why] if why and not status else []
    if version is not None:
        changed = "" if run.held_out is None else f": {describe_change(run.held_out)};"
        said.append(f"Registered {version.ref}{changed} in {short_path(version.path)}")
    if not here.shows_ends(quiet):
        said += [*([] if ref else [describe_end(run)]), say_next(run.next_step)]
    return Outcome(
        run, lambda: _facts(run, version), note="\n".join(said), status=status, complaint=why, line=False
    )


def _register(
    here: Surface, run: nb.OptimizationRun, wanted: Any, bump: str | None, root: str
) -> tuple[nb.ModelVersion | None, str]:
    """Register a run; return the version, or why there is none."""
    if run.origin == "given":
        return None, f"stopped by {run.stopped_by} before any candidate was scored: nothing is registered"
    if here.keeps_results and run.stopped_by in ("interrupt", "stop"):
        kept = run.plan.voice.name
        return None, f"not registered, because the run was interrupted; it is kept as {kept}"
    try:
        facts = {"command": wanted.command}
        found = nb.Registry(root)
        version = found.register(run, wanted.model_id, bump=bump, metadata=facts)
    except nb.DspyNbError:
        here.rescue(run.program.save, "program.json", "Not registered; the optimized program")
        raise
    note_new_model(here, version, found)
    return version, ""


def _facts(run: nb.OptimizationRun, version: nb.ModelVersion | None) -> dict[str, Any]:
    """Return the run as JSON can hold it."""
    from dspy_nb.core.optimization.run import readable

    plan, gain = run.plan, run.improvement
    held_out = run.held_out
    return {
        "verdict": None if held_out is None else held_out.verdict or None,
        "held_out": None if held_out is None else asdict(held_out),
        "next_step": run.next_step,
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
            {
                "number": c.number,
                "score": c.score,
                "n": c.n,
                "full": c.full,
                "abandoned": None if c.abandoned is None else asdict(c.abandoned),
            }
            for c in run.candidates
        ],
        "race": {"rule": plan.race, "skipped": run.skipped, "raced": run.raced},
        "usage": run.usage.to_dict(),
        "errors": run.errors.count,
        "findings": [asdict(finding) for finding in run.findings],
        "estimated_lm_calls": plan.estimate.lm_calls,
        "fewest_lm_calls": plan.estimate.fewest,
        "stopped_by": run.stopped_by,
        "duration_s": round(run.duration_s, 3),
    }


def _score(evaluation: nb.Evaluation | None) -> dict[str, Any] | None:
    if evaluation is None:
        return None
    report = evaluation.to_dict(results=False)
    return {name: report[name] for name in ("score", "interval", "n", "errors")}
