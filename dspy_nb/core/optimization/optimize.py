"""optimize(): DSPy's optimizers under a budget, with events, and with something to show when stopped."""

from __future__ import annotations

import contextvars
import itertools
import logging
import threading
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import dspy

from dspy_nb.core.audience import Audience
from dspy_nb.core.data.identity import count_shared, fingerprint
from dspy_nb.core.data.metrics import Metric
from dspy_nb.core.doors import front
from dspy_nb.core.errors import InputError
from dspy_nb.core.event_log import EventLog
from dspy_nb.core.events import Listener
from dspy_nb.core.optimization.ending import SPOKEN, Voice
from dspy_nb.core.optimization.estimates import Estimate
from dspy_nb.core.optimization.known import remember
from dspy_nb.core.optimization.replay import (
    RunDirectory,
    describe_lm,
    describe_program,
    describe_schemas,
    text_hash,
)
from dspy_nb.core.optimization.run import OptimizationRun, RunSettings, readable
from dspy_nb.core.optimization.search import Search, Setup
from dspy_nb.core.optimization.task import Task, uncompiled
from dspy_nb.core.programs.spec import predictors_of
from dspy_nb.core.supervision.budget import Budget
from dspy_nb.core.text import value_text

logger = logging.getLogger(__name__)

_MODEL_OPTIONS = ("prompt_model", "task_model", "reflection_lm")


def optimize(
    program: dspy.Module | Sequence[dspy.Module] | Task,
    *,
    trainset: Sequence[dspy.Example] | None = None,
    metric: Callable[..., Any] | None = None,
    valset: Sequence[dspy.Example] | None = None,
    testset: Sequence[dspy.Example] | None = None,
    optimizer: str | None = None,
    options: Mapping[str, Any] | None = None,
    preset: str | None = None,
    budget: Budget | None = None,
    seed: int = 0,
    num_threads: int | None = None,
    recompile: bool = False,
    race: str | None = "auto",
    on_event: Listener | Sequence[Listener] | None = None,
    run_dir: str | Path | None = None,
    log_file: str | Path | None = None,
    background: bool = False,
    stop: threading.Event | None = None,
    progress: bool | None = None,
) -> OptimizationRun:
    """Optimize a DSPy program with one of DSPy's optimizers.

    Everything that can be wrong is found before the first LM call. The program that is given is not changed.
    An interrupt (Ctrl-C, or the notebook's stop button), :meth:`OptimizationRun.stop` and the budget all
    take effect at the next LM call, and the best candidate so far is kept.

    A warning tells of examples of the testset that the other sets hold too.

    Args:
        program: a ``dspy.Module``, for Ensemble a list of them; or a :class:`Task`, which has all that follows
            up to ``race``, of which only the budget may then be given.
        trainset: see :class:`Task`, as for the others.
        metric: what to improve.
        valset: labelled examples to compare candidates on.
        testset: labelled examples that the search never sees.
        optimizer: name of the optimizer.
        options: options of the optimizer by DSPy's own names.
        preset: name of a preset.
        budget: limits of the whole run.
        seed: for whatever is drawn at random.
        num_threads: program calls at a time.
        recompile: accept a program that an optimizer has compiled before.
        race: when to ask a candidate no further: "exact", "paired" or ``None``.
        on_event: one or several listeners for events.
        run_dir: directory that keeps every LM answer, so that the same call after a crash or a stop goes on
            where it ended without paying twice.
        log_file: file to which each event is appended as one JSON object a line; by default
            ``events.jsonl`` in the run directory, if there is one.
        background: return at once; the run works in a thread, and :func:`dspy_nb.runs` finds it again.
        stop: an event that ends the run when set, for callers that cannot reach the run.
        progress: whether to show how the run goes, with a Stop button in a notebook and as a bar on stderr in a
            terminal; by default where there is either, unless ``%config DspyNb.quiet`` or ``DSPY_NB_PROGRESS=off``
            say otherwise, or a listener is a display itself.

    Returns:
        The run. With ``background=True`` it is going on: see :meth:`OptimizationRun.wait`.

    Raises:
        InputError: something is wrong with the arguments, or the metric returned what is no score.
        OptimizationFailed: most calls of the program or the metric failed, or the optimizer itself did.
    """
    events = Audience(on_event, progress, stop, background=background)
    task = Task.of(
        program,
        {
            "trainset": trainset, "metric": metric, "valset": valset, "testset": testset, "optimizer": optimizer,
            "options": options, "preset": preset, "budget": budget, "seed": seed, "num_threads": num_threads,
            "recompile": recompile, "race": race,
        },
    )  # fmt: skip
    setup, directory = _prepare(task, run_dir)
    _warn_of_overlap(task)
    file = log_file or (directory.event_log if directory is not None else None)
    log = None if file is None else EventLog(file)
    if log is not None:
        log.open()
        events.listeners.insert(0, log)
    run = OptimizationRun(setup.plan, events.stop, events, task)
    remember(run)

    def work() -> None:
        try:
            result = Search(setup, events.stop, events).run()
            _warn_of_changed_inputs(setup)
            run.end(result)
        except BaseException as failure:
            run.end(None, failure)
        finally:
            for side in (log, directory):
                if side is not None:
                    side.close()

    if background:
        events.show()
        context = contextvars.copy_context()  # a plain thread would not see the caller's dspy.context
        threading.Thread(target=context.run, args=(work,), name="dspy-nb-optimize", daemon=True).start()
        return run
    work()
    return run.wait()


def estimate(
    program: dspy.Module | Sequence[dspy.Module] | Task,
    *,
    trainset: Sequence[dspy.Example] | None = None,
    metric: Callable[..., Any] | None = None,
    valset: Sequence[dspy.Example] | None = None,
    testset: Sequence[dspy.Example] | None = None,
    optimizer: str | None = None,
    options: Mapping[str, Any] | None = None,
    preset: str | None = None,
    recompile: bool = False,
    race: str | None = "auto",
) -> Estimate:
    """Return how many LM calls :func:`optimize` would make at most, without making any.

    Takes the same arguments and raises the same errors.
    """
    task = Task.of(
        program,
        {
            "trainset": trainset, "metric": metric, "valset": valset, "testset": testset, "optimizer": optimizer,
            "options": options, "preset": preset, "recompile": recompile, "race": race,
        },
    )  # fmt: skip
    _models(task)
    return task.estimate


def _prepare(task: Task, run_dir: str | Path | None) -> tuple[Setup, RunDirectory | None]:
    """Return what carries the task out: with which model, and with what is kept in a run directory."""
    models, options = _models(task), task.effective_options
    model = models[0]
    plan = RunSettings(
        optimizer=task.method.name,
        options=options,
        preset=task.preset,
        metric=repr(task.metric),
        base_model=model.model,
        seed=task.seed,
        num_threads=task.num_threads or dspy.settings.num_threads,
        budget=task.budget,
        estimate=task.estimate,
        datasets={name: {"n": len(e), "fingerprint": fingerprint(e)} for name, e in task.sets.items()},
        given=task.options or {},
        voice=_voice(run_dir),
        race=task.rule,
    )
    directory = None
    settings: dict[str, Any] = {}
    if run_dir is not None:
        directory = RunDirectory(run_dir, _manifest(task, plan, models))
        settings = directory.settings()
        model = _cached(model)
        plan = replace(plan, options=_with_cached_models(options), run_dir=directory.path)
    return Setup(task, plan, _student(task), model, settings), directory


def _voice(run_dir: str | Path | None) -> Voice:
    """Return how what to do next is said to whoever calls."""
    voice = SPOKEN.get()
    if voice is None:
        name, package = front("called")()
        voice = Voice(name or "run", package)
    return replace(voice, run_dir=None if run_dir is None else str(run_dir))


def _warn_of_overlap(task: Task) -> None:
    """Warn of held-out examples that are none: their score would be too good."""
    sets = {"test": (), **task.sets}
    held_out = sets.pop("test")
    if seen := count_shared(held_out, itertools.chain(*sets.values())):
        warnings.warn(
            f"{seen} of the {len(held_out)} examples of the testset are in the trainset or the valset too, so "
            "its score is too good; dspy_nb.split() makes sets that share none",
            stacklevel=3,
        )


def _warn_of_changed_inputs(setup: Setup) -> None:
    """Warn if the search scored examples into which the program had written; the caller's are not those."""
    known = setup.plan.datasets
    if changed := [
        f"{name}set"
        for name, examples in setup.task.sets.items()
        if fingerprint(examples) != known[name]["fingerprint"]
    ]:
        logger.warning(
            "the program writes into its inputs, so that the search asked about changed examples of the %s; "
            "copy a list or a dict before you change it",
            " and the ".join(changed),
        )


def _models(task: Task) -> list[dspy.BaseLM]:
    """Return the language models of a run, its own first, after a look whether it can be held to its budget."""
    model, options = _run_model(task), task.effective_options
    others = [*map(options.get, _MODEL_OPTIONS), (options.get("teacher_settings") or {}).get("lm")]
    models = [model, *(other for other in others if other is not None)]
    _check_models(models)
    if task.budget.usd is not None and not isinstance(getattr(model, "engine", ""), str):
        raise InputError(
            f"a budget in usd needs a model with a known price, {model.model} has none; use lm_calls"
        )
    return models


def _run_model(task: Task) -> Any:
    """Return the language model that the program is optimized on.

    A model that is pinned on all predictors is used like a configured one: several optimizers take pins
    away, and would then silently optimize for another model.

    Raises:
        InputError: there is none, or predictors are pinned to different models and the optimizer would
            lose them.
    """
    predictors = predictors_of(task.programs[0], frozen=False)
    pinned = {id(p.lm): p.lm for p in predictors if p.lm is not None}
    configured = dspy.settings.lm
    if not pinned and configured is None:
        raise InputError("no language model: call dspy.configure(lm=...) first, e.g. with dspy_nb.local_lm()")
    for model in (configured, *pinned.values()):
        if model is not None and not isinstance(model, dspy.BaseLM):
            raise InputError(
                f"the language model must be a dspy.LM, got {value_text(model)}: give dspy.LM('provider/model')"
            )
    if not pinned:
        return configured
    every = all(p.lm is not None for p in predictors)
    if len(pinned) == 1 and every:
        return next(iter(pinned.values()))
    if task.method.resets_lms:
        raise InputError(
            f"{task.method.name} would lose the language models pinned on the predictors: pin the same one on "
            "all of them (program.set_lm), or none; COPRO and GEPA keep different ones"
        )
    return configured or next(iter(pinned.values()))


def _check_models(models: Iterable[Any]) -> None:
    """Check that DSPy's cache can tell the language models of a run apart.

    Its key is the request with the model's name: neither the engine nor the address is part of it.

    Raises:
        InputError: two models have the same name and different engines or addresses.
    """
    known: dict[str, Any] = {}
    for model in models:
        first = known.setdefault(model.model, model)
        if model.cache and first.cache and _destination(first) != _destination(model):
            raise InputError(
                f"two language models are both called {model.model!r} but answer from different places: "
                "DSPy's cache would mix their answers; give them different names, or cache=False"
            )


def _destination(model: Any) -> tuple[Any, ...]:
    engine = getattr(model, "engine", None)
    address = model.kwargs.get("api_base") or model.kwargs.get("base_url")
    return (engine if isinstance(engine, str) else id(engine), address)


def _cached(model: Any) -> Any:
    """Return ``model`` with its answers kept: in the run directory, and nowhere else."""
    return model if getattr(model, "cache", False) else model.copy(cache=True)


def _with_cached_models(options: Mapping[str, Any]) -> dict[str, Any]:
    changed = {name: _cached(options[name]) for name in _MODEL_OPTIONS if options.get(name) is not None}
    teacher = options.get("teacher_settings")
    if teacher and teacher.get("lm") is not None:
        changed["teacher_settings"] = {**teacher, "lm": _cached(teacher["lm"])}
    return {**options, **changed}


def _student(task: Task) -> Any:
    if task.method.combines:
        return list(task.programs)
    student = uncompiled(task.programs[0])
    if task.method.resets_lms:
        for predictor in predictors_of(student, frozen=False):
            predictor.lm = None  # the run's model is the pinned one; the result gets its pins back
    return student


def _manifest(task: Task, plan: RunSettings, models: Sequence[dspy.BaseLM]) -> dict[str, Any]:
    source = text_hash(task.metric.source) if isinstance(task.metric, Metric) else None
    return {
        "program": [describe_program(program) for program in task.programs],
        "metric": {"name": plan.metric, "source": source},
        "optimizer": plan.optimizer,
        "options": readable(plan.options),
        "seed": plan.seed,
        "models": [describe_lm(model) for model in models],
        "adapter": dict(plan.adapter),
        "schemas": [describe_schemas(program) for program in task.programs],
        **{f"{name}set": data["fingerprint"] for name, data in plan.datasets.items()},
    }
