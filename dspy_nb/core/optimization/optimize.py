"""optimize(): DSPy's optimizers under a budget, with events, and with something to show when stopped."""

from __future__ import annotations

import contextvars
import logging
import threading
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import dspy

from dspy_nb.core.data.copying import own_copy
from dspy_nb.core.data.examples import example_id, fingerprint
from dspy_nb.core.data.metrics import as_metric
from dspy_nb.core.errors import InputError
from dspy_nb.core.events import Broadcaster, EventLog, Listener
from dspy_nb.core.optimization.budget import Budget
from dspy_nb.core.optimization.estimates import Estimate, Sizes, calls_per_run
from dspy_nb.core.optimization.optimizers import Optimizer, get_optimizer, resolve_options
from dspy_nb.core.optimization.preflight import (
    check_data,
    check_models,
    check_program,
    check_teacher,
    run_model,
    uncompiled,
    warn_of_live_objects,
)
from dspy_nb.core.optimization.presets import get_preset
from dspy_nb.core.optimization.replay import (
    RunDirectory,
    describe_lm,
    describe_program,
    describe_schemas,
    text_hash,
)
from dspy_nb.core.optimization.run import OptimizationRun, RunPlan, readable
from dspy_nb.core.optimization.search import Search, Task
from dspy_nb.core.programs.declared import declared_types
from dspy_nb.core.programs.spec import predictors_of
from dspy_nb.core.text import value_text

__all__ = ["estimate", "optimize"]

logger = logging.getLogger(__name__)

_MODEL_OPTIONS = ("prompt_model", "task_model", "reflection_lm")


def optimize(
    program: Any,
    *,
    trainset: Any = None,
    metric: Any = None,
    valset: Any = None,
    testset: Any = None,
    optimizer: Any = None,
    options: Mapping[str, Any] | None = None,
    preset: str | None = None,
    budget: Budget | None = None,
    seed: int = 0,
    num_threads: int | None = None,
    on_event: Listener | Sequence[Listener] | None = None,
    run_dir: str | Path | None = None,
    log_file: str | Path | None = None,
    background: bool = False,
    recompile: bool = False,
    stop: threading.Event | None = None,
) -> OptimizationRun:
    """Optimize a DSPy program with one of DSPy's optimizers.

    Everything that can be wrong is found before the first LM call. The program that is given is not changed.
    An interrupt (Ctrl-C, or the notebook's stop button), :meth:`OptimizationRun.stop` and the budget all
    take effect at the next LM call, and the best candidate so far is kept.

    Args:
        program: a ``dspy.Module``; for Ensemble a list of them.
        trainset: labelled examples to learn from.
        metric: what to improve: one of ``dspy_nb.exact_match("field")`` and its like, or any function of
            (gold, pred[, trace[, pred_name, pred_trace]]) that returns a bool or a float.
        valset: labelled examples to compare candidates on; needed by the optimizers that compare.
        testset: labelled examples that the search never sees. The program is scored on them before and
            after, which is the honest figure: the best of many scores on the valset is too good. A warning
            tells of examples that the other sets hold too.
        optimizer: name of the optimizer, ``BootstrapFewShot`` if neither it nor a preset is given.
        options: options of the optimizer by DSPy's own names; they win over the preset's.
        preset: name of a preset.
        budget: limits of the whole run, the scoring before and after included.
        seed: for whatever is drawn at random.
        num_threads: program calls at a time; DSPy's setting (8) by default.
        on_event: one or several listeners for events.
        run_dir: directory that keeps every LM answer, so that the same call after a crash or a stop goes on
            where it ended without paying twice.
        log_file: file to which each event is appended as one JSON object a line; by default
            ``events.jsonl`` in the run directory, if there is one.
        background: return at once; the run works in a thread.
        recompile: accept a program that an optimizer has compiled before.
        stop: an event that ends the run when set, for callers that cannot reach the run.

    Returns:
        The run. With ``background=True`` it is going on: see :meth:`OptimizationRun.wait`.

    Raises:
        InputError: something is wrong with the arguments, or the metric returned what is no score.
        OptimizationFailed: most calls of the program or the metric failed, or the optimizer itself did.
    """
    listeners = [] if on_event is None else list(on_event) if isinstance(on_event, Sequence) else [on_event]
    if wrong := [listener for listener in listeners if not callable(listener)]:
        raise InputError(
            f"on_event must be a function of an event, or a list of such, got {value_text(wrong[0])}"
        )
    if stop is not None and not callable(getattr(stop, "is_set", None)):
        raise InputError(f"stop must be a threading.Event, got {type(stop).__name__}")
    task, directory = _prepare(
        program, trainset, metric, valset, testset, optimizer, options, preset, budget, seed, num_threads,
        run_dir, recompile,
    )  # fmt: skip
    _warn_of_overlap(task)
    file = log_file or (directory.event_log if directory is not None else None)
    log = None if file is None else EventLog(file)
    if log is not None:
        log.open()
        listeners.insert(0, log)
    stop = stop or threading.Event()
    run = OptimizationRun(task.plan, stop)

    def work() -> None:
        try:
            result = Search(task, stop, Broadcaster(listeners)).run()
            _warn_of_changed_inputs(task)
            run.end(result)
        except BaseException as failure:
            run.end(None, failure)
        finally:
            for side in (log, directory):
                if side is not None:
                    side.close()

    if background:
        context = contextvars.copy_context()  # a plain thread would not see the caller's dspy.context
        threading.Thread(target=context.run, args=(work,), name="dspy-nb-optimize", daemon=True).start()
        return run
    work()
    return run.wait()


def estimate(
    program: Any,
    *,
    trainset: Any = None,
    metric: Any = None,
    valset: Any = None,
    testset: Any = None,
    optimizer: Any = None,
    options: Mapping[str, Any] | None = None,
    preset: str | None = None,
    recompile: bool = False,
) -> Estimate:
    """Return how many LM calls :func:`optimize` would make at most, without making any.

    Takes the same arguments and raises the same errors.
    """
    task, _ = _prepare(
        program, trainset, metric, valset, testset, optimizer, options, preset, None, 0, None, None, recompile
    )
    return task.plan.estimate


def _prepare(
    program: Any,
    trainset: Any,
    metric: Any,
    valset: Any,
    testset: Any,
    optimizer: Any,
    options: Mapping[str, Any] | None,
    preset: str | None,
    budget: Budget | None,
    seed: int,
    num_threads: int | None,
    run_dir: str | Path | None,
    recompile: bool,
) -> tuple[Task, RunDirectory | None]:
    chosen, given = _choose(optimizer, options, preset)
    check_program(program, chosen, recompile=recompile)
    if budget is not None and not isinstance(budget, Budget):
        raise InputError(
            f"budget must be a dspy_nb.Budget, e.g. Budget(lm_calls=500), got {value_text(budget)}"
        )
    if (
        not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**32
    ):  # NumPy's and optuna's range
        raise InputError(f"seed must be a whole number from 0 to {2**32 - 1}, got {value_text(seed)}")
    if num_threads is not None and (not isinstance(num_threads, int) or num_threads < 1):
        raise InputError(f"num_threads must be a whole number, 1 or more, got {value_text(num_threads)}")
    data, scored_by = _check_sets(program, chosen, trainset, valset, testset, metric)
    if chosen.writes_demos:
        warn_of_live_objects(program, data["train"])
    model = run_model(program, chosen)
    first = program[0] if chosen.name == "Ensemble" else program
    predictors = len(predictors_of(first))
    sizes = Sizes(len(data["train"]), len(data["val"]), predictors, calls_per_run(first))
    effective = resolve_options(chosen, given, sizes)
    for step_options in (effective, *(options for _, options in effective.get("steps", {}).values())):
        check_teacher(program, step_options.get("teacher"))
    models = [model, *_other_models(effective)]
    check_models(models)
    most = sum(_scoring_calls(chosen, effective, data, sizes.calls))
    expected = replace(chosen.estimate(effective, sizes), scoring=most)
    before, after = _scoring_calls(chosen, effective, data, predictors)
    budget = budget or Budget()
    if budget.lm_calls is not None and budget.lm_calls <= before + after:
        raise InputError(
            f"a budget of {budget.lm_calls:,} LM calls leaves nothing for the search: the scores before and "
            f"after take {before + after:,}; raise it, or use a smaller testset or valset"
        )
    if budget.usd is not None and not isinstance(getattr(model, "engine", ""), str):
        raise InputError(
            f"a budget in usd needs a model with a known price, {model.model} has none; use lm_calls"
        )
    plan = RunPlan(
        optimizer=chosen.name,
        options=effective,
        preset=preset,
        metric=repr(scored_by),
        base_model=model.model,
        seed=seed,
        num_threads=num_threads or dspy.settings.num_threads,
        budget=budget,
        estimate=expected,
        datasets={name: {"n": len(e), "fingerprint": fingerprint(e)} for name, e in data.items() if e},
        given=given,
    )
    directory = None
    settings: dict[str, Any] = {}
    if run_dir is not None:
        programs = program if isinstance(program, list) else [program]
        directory = RunDirectory(run_dir, _manifest(plan, programs, models, scored_by))
        settings = directory.settings()
        model = _cached(model)
        plan = replace(plan, options=_with_cached_models(effective))
    student = _student(program, chosen)
    task = Task(
        plan,
        chosen,
        program,
        student,
        data["train"],
        data["val"],
        data["test"],
        scored_by,
        model,
        after,
        settings,
    )
    return task, directory


def _choose(
    optimizer: Any, options: Mapping[str, Any] | None, preset: str | None
) -> tuple[Optimizer, dict[str, Any]]:
    if options is not None and not isinstance(options, Mapping):
        raise InputError(f"options must be a dict of option names and values, got {type(options).__name__}")
    if preset is None:
        return get_optimizer("BootstrapFewShot" if optimizer is None else optimizer), dict(options or {})
    named = get_preset(preset)
    chosen = get_optimizer(named.optimizer)
    if optimizer is not None and get_optimizer(optimizer) is not chosen:
        raise InputError(f"preset {preset!r} is for {chosen.name}; give either it or another optimizer")
    return chosen, {**named.options, **(options or {})}


def _check_sets(
    program: Any, chosen: Optimizer, trainset: Any, valset: Any, testset: Any, metric: Any
) -> tuple[dict[str, list[dspy.Example]], Any]:
    needs_data = chosen.name != "Ensemble"
    if metric is None and needs_data and chosen.name != "LabeledFewShot":
        raise InputError(f"{chosen.name} needs a metric, e.g. dspy_nb.exact_match('field')")
    if metric is None and (valset is not None or testset is not None):
        raise InputError("a valset or testset needs a metric to score it, e.g. dspy_nb.exact_match('field')")
    scored_by = None
    if metric is not None:
        students = program if isinstance(program, list) else [program]
        scored_by = as_metric(metric, feedback=chosen.feedback).declaring(declared_types(*students))
    if valset is None and chosen.needs_valset:
        raise InputError(
            f"{chosen.name} needs a valset to compare candidates on; dspy_nb.split() makes one from your data"
        )
    sets = {"train": trainset, "val": valset, "test": testset}
    data: dict[str, list[dspy.Example]] = {}
    for name, examples in sets.items():
        wanted = examples is not None or (name == "train" and needs_data)
        checked = check_data(f"{name}set", examples, program, scored_by) if wanted else []
        data[name] = [own_copy(example) for example in checked]  # DSPy makes demos of the very examples
    return data, scored_by


def _warn_of_overlap(task: Task) -> None:
    """Warn of held-out examples that are none: their score would be too good."""
    searched = {example_id(example) for example in (*task.trainset, *task.valset)}
    if seen := sum(example_id(example) in searched for example in task.testset):
        warnings.warn(
            f"{seen} of the {len(task.testset)} examples of the testset are in the trainset or the valset too, so "
            "its score is too good; dspy_nb.split() makes sets that share none",
            stacklevel=3,
        )


def _warn_of_changed_inputs(task: Task) -> None:
    """Warn if the search scored examples into which the program had written; the caller's are not those."""
    sets = {"train": task.trainset, "val": task.valset, "test": task.testset}
    known = {name: data["fingerprint"] for name, data in task.plan.datasets.items()}
    if changed := [f"{name}set" for name, found in known.items() if fingerprint(sets[name]) != found]:
        logger.warning(
            "the program writes into its inputs, so that the search asked about changed examples of the %s; "
            "copy a list or a dict before you change it",
            " and the ".join(changed),
        )


def _scoring_calls(
    chosen: Optimizer, options: Mapping[str, Any], data: Mapping[str, Sequence[Any]], calls: int
) -> tuple[int, int]:
    """Return the LM calls of the scores before and after the search, where a program call makes ``calls``."""
    if chosen.name == "Ensemble":
        return 0, 0
    per_call = calls
    if chosen.name == "KNNFewShot":  # each call collects demos from its neighbours first
        per_call *= 1 + options["k"] * options["max_rounds"]
    before = len(data["test"]) + (0 if chosen.scores_student else len(data["val"]))
    after = len(data["test"]) + (0 if chosen.needs_valset else len(data["val"]))
    return before * calls, after * per_call


def _other_models(options: Mapping[str, Any]) -> list[Any]:
    models = [options.get(name) for name in _MODEL_OPTIONS]
    models.append((options.get("teacher_settings") or {}).get("lm"))
    return [model for model in models if model is not None]


def _cached(model: Any) -> Any:
    """Return ``model`` with its answers kept: in the run directory, and nowhere else."""
    return model if getattr(model, "cache", False) else model.copy(cache=True)


def _with_cached_models(options: Mapping[str, Any]) -> dict[str, Any]:
    changed = {name: _cached(options[name]) for name in _MODEL_OPTIONS if options.get(name) is not None}
    teacher = options.get("teacher_settings")
    if teacher and teacher.get("lm") is not None:
        changed["teacher_settings"] = {**teacher, "lm": _cached(teacher["lm"])}
    return {**options, **changed}


def _student(program: Any, chosen: Optimizer) -> Any:
    if chosen.name == "Ensemble":
        return list(program)
    student = uncompiled(program)
    if chosen.resets_lms:
        for predictor in predictors_of(student, frozen=False):
            predictor.lm = None  # the run's model is the pinned one; the result gets its pins back
    return student


def _manifest(plan: RunPlan, programs: Sequence[Any], models: Sequence[Any], metric: Any) -> dict[str, Any]:
    return {
        "program": [describe_program(program) for program in programs],
        "metric": {"name": plan.metric, "source": text_hash(metric.source) if metric else None},
        "optimizer": plan.optimizer,
        "options": readable(plan.options),
        "seed": plan.seed,
        "models": [describe_lm(model) for model in models],
        "adapter": dict(plan.adapter),
        "schemas": [describe_schemas(program) for program in programs],
        **{f"{name}set": data["fingerprint"] for name, data in plan.datasets.items()},
    }
