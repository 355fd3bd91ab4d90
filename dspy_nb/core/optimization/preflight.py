"""Everything about a run that can be found wrong before the first LM call."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import dspy

from dspy_nb.core.data.identity import input_names
from dspy_nb.core.data.metrics import Metric
from dspy_nb.core.errors import InputError, RegistryWarning
from dspy_nb.core.evaluation.attempts import is_asynchronous
from dspy_nb.core.optimization.optimizers import Optimizer
from dspy_nb.core.programs import calls
from dspy_nb.core.programs.copies import check_copies, student_of
from dspy_nb.core.programs.demos import LiveObject, dump_demo
from dspy_nb.core.programs.inputs import forward_of
from dspy_nb.core.programs.seams import DEMO_NAMES, is_compiled, mark_compiled
from dspy_nb.core.programs.spec import check_named, parameters_of, predictors_of
from dspy_nb.core.programs.state import dump_state
from dspy_nb.core.storage.files import dump_json
from dspy_nb.core.text import value_text

__all__ = [
    "check_data",
    "check_models",
    "check_program",
    "check_storable",
    "check_teacher",
    "run_model",
    "uncompiled",
    "warn_of_live_objects",
]

# Those that ask a teacher and make demos of what it did.
_BOOTSTRAPPING = (
    *("BetterTogether", "BootstrapFewShot", "BootstrapFewShotWithOptuna", "BootstrapFewShotWithRandomSearch"),
    *("KNNFewShot", "MIPROv2", "SIMBA"),
)


def check_program(program: Any, optimizer: Optimizer, *, recompile: bool) -> None:
    """Check that ``optimizer`` can work on ``program``.

    Raises:
        InputError: it is not a module, has no forward, has nothing to optimize, or was compiled before; or it
            cannot be called, or has a field that would be lost in a demo.
    """
    if optimizer.name == "Ensemble":
        programs = program if isinstance(program, Sequence) else []
        if len(programs) < 2 or not all(isinstance(one, dspy.Module) for one in programs):
            raise InputError("Ensemble needs a list of two or more programs in place of the program")
        return
    if not isinstance(program, dspy.Module):
        what = f"the class {program.__name__}" if isinstance(program, type) else repr(program)
        raise InputError(f"program must be a dspy.Module instance, got {what}")
    if is_asynchronous(program):
        raise InputError(
            f"{type(program).__name__} has only aforward, and DSPy's optimizers call forward: give it one too"
        )
    if is_compiled(program) and optimizer.refuses_compiled and not recompile:
        raise InputError(
            f"the program is compiled already and {optimizer.name} wants one that is not: pass the original "
            "program, or recompile=True to start from this one"
        )
    check_named(program)
    if not predictors_of(program, frozen=False):
        raise InputError(
            f"{type(program).__name__} has no predictor to optimize (sub-modules that were compiled are frozen)"
        )
    if forward_of(program) is None:
        raise InputError(f"{type(program).__name__} has no forward method")
    calls.check_program(program)
    if optimizer.name in _BOOTSTRAPPING:
        for name, predictor in program.named_predictors():
            if clash := sorted(DEMO_NAMES & set(predictor.signature.fields)):
                raise InputError(
                    f"{optimizer.name} cannot make a demo of {name}: it has a field called {clash[0]!r}, which "
                    "DSPy takes for something else: rename it"
                )
    check_copies(program)


def check_teacher(program: Any, teacher: Any) -> None:
    """Check that demos of ``teacher`` fit ``program``, as DSPy does once the scores before are paid for.

    Raises:
        InputError: it cannot be called, has other predictors, or one with another signature.
    """
    if teacher is None:
        return
    calls.check_program(teacher)
    wanted, given = (dict(parameters_of(one, frozen=False)) for one in (program, teacher))
    if list(wanted) != list(given):
        raise InputError(
            f"teacher has the predictors {', '.join(given) or 'none'}, the program has {', '.join(wanted)}: "
            "they must be the same"
        )
    for name, predictor in wanted.items():
        if not predictor.signature.equals(given[name].signature):
            raise InputError(
                f"teacher: the signature of {name} is not that of the program (fields and instructions must "
                "be the same); give a stronger language model in teacher_settings instead"
            )


def uncompiled(program: dspy.Module) -> dspy.Module:
    """Return a copy of ``program`` that every optimizer accepts; instructions and demos stay."""
    copy = student_of(program)
    mark_compiled(copy, False)
    return copy


def check_data(name: str, examples: Any, program: Any, metric: Metric | None) -> list[dspy.Example]:
    """Check labelled examples against the program and the metric, and return them as a list.

    Args:
        name: what they are called in messages: trainset, valset, testset.
        examples: what the caller gave.
        program: the program they are for.
        metric: its fields must be labelled; ``None`` to skip that.

    Raises:
        InputError: not a list of examples, empty, or one lacks inputs or a label.
    """
    if examples is None:
        raise InputError(f"{name} is missing")
    if (
        not isinstance(examples, Iterable)
        or isinstance(examples, str | Mapping | dspy.Example)
        or hasattr(examples, "columns")  # a DataFrame, which would give the names of its columns
    ):
        raise InputError(
            f"{name} must be a list of dspy.Example, got {type(examples).__name__}; dspy_nb.load_examples() "
            "makes one from a file, a DataFrame or dicts"
        )
    checked = list(examples)
    if not checked:
        raise InputError(f"{name} is empty")
    for number, example in enumerate(checked):
        if not isinstance(example, dspy.Example):
            raise InputError(
                f"{name}[{number}] must be a dspy.Example, got {type(example).__name__}; "
                "dspy_nb.load_examples() makes examples from dicts"
            )
        if input_names(example) is None:
            raise InputError(f"{name}[{number}] has no inputs: call .with_inputs('field', ...) on it")
    if metric is not None:
        try:
            metric.check(checked)
        except InputError as error:
            raise InputError(f"{name}: {error}") from None
    for one in program if isinstance(program, Sequence) else [program]:
        calls.check_calls(name, checked, one, [] if metric is None else [metric])
    return checked


def check_storable(program: dspy.Module, trainset: Iterable[dspy.Example]) -> None:
    """Try to store the program with each labelled example as a demo, which is what the search may make of it.

    Raises:
        LiveObject: a field holds an object that has no content, such as a function: DSPy runs it, no file holds it.
        InputError: a field holds what no file brings back the same; the message names it and its type.
    """
    dump_json(dump_state(program), "the state of the program")
    signatures = {id(part.signature): part.signature for part in predictors_of(program, frozen=False)}
    for number, example in enumerate(trainset):
        for signature in signatures.values():
            try:
                dump_demo(example, signature)
            except InputError as error:
                raise type(error)(f"trainset[{number}]: {error}") from None


def warn_of_live_objects(program: dspy.Module, trainset: Iterable[dspy.Example]) -> None:
    """Warn of labelled examples that can be learned from and not be registered."""
    try:
        check_storable(program, trainset)
    except LiveObject as error:
        warnings.warn(
            f"{error}; with it as a demo no registry takes the result", RegistryWarning, stacklevel=4
        )


def run_model(program: Any, optimizer: Optimizer) -> Any:
    """Return the language model that ``program`` is optimized on.

    A model that is pinned on all predictors is used like a configured one: several optimizers take pins
    away, and would then silently optimize for another model.

    Raises:
        InputError: there is none, or predictors are pinned to different models and the optimizer would
            lose them.
    """
    predictors = predictors_of(program[0] if isinstance(program, Sequence) else program, frozen=False)
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
    if optimizer.resets_lms:
        raise InputError(
            f"{optimizer.name} would lose the language models pinned on the predictors: pin the same one on "
            "all of them (program.set_lm), or none; COPRO and GEPA keep different ones"
        )
    return configured or next(iter(pinned.values()))


def check_models(models: Iterable[Any]) -> None:
    """Check that DSPy's cache can tell the language models of a run apart.

    Its key is the request with the model's name: neither the engine nor the address is part of it.

    Raises:
        InputError: two models have the same name and different engines or addresses.
    """
    known: dict[str, Any] = {}
    for model in models:
        first = known.setdefault(model.model, model)
        if not (model.cache and first.cache):
            continue
        if _destination(first) != _destination(model):
            raise InputError(
                f"two language models are both called {model.model!r} but answer from different places: "
                "DSPy's cache would mix their answers; give them different names, or cache=False"
            )


def _destination(model: Any) -> tuple[Any, ...]:
    engine = getattr(model, "engine", None)
    address = model.kwargs.get("api_base") or model.kwargs.get("base_url")
    return (engine if isinstance(engine, str) else id(engine), address)
