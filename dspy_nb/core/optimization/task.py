"""The task of an optimization: what is wrong with it is found when it is made, before the first LM call."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, fields, replace
from typing import Any

import dspy

from dspy_nb.core.data.copying import own_copy
from dspy_nb.core.data.examples import check_examples
from dspy_nb.core.data.identity import input_names
from dspy_nb.core.data.metrics import Metric, as_metric
from dspy_nb.core.errors import InputError, RegistryWarning
from dspy_nb.core.evaluation.attempts import is_asynchronous
from dspy_nb.core.optimization.estimates import Estimate, Sizes, calls_per_run
from dspy_nb.core.optimization.optimizers import RACERS, Optimizer, get_optimizer, resolve_options
from dspy_nb.core.optimization.presets import get_preset
from dspy_nb.core.programs.calls import check_calls, declared_types
from dspy_nb.core.programs.copies import check_copies, student_of
from dspy_nb.core.programs.demos import LiveObject, dump_demo
from dspy_nb.core.programs.inputs import check_program, forward_of
from dspy_nb.core.programs.seams import DEMO_NAMES, is_compiled, mark_compiled
from dspy_nb.core.programs.spec import check_named, parameters_of, predictors_of
from dspy_nb.core.programs.state import dump_state
from dspy_nb.core.storage.files import dump_json
from dspy_nb.core.supervision.budget import Budget
from dspy_nb.core.supervision.racing import RULES, Rule
from dspy_nb.core.text import value_text

_SEEDS = 2**32  # NumPy's and optuna's range


@dataclass(frozen=True, eq=False, repr=False)
class Task:
    """What to optimize, and how; ``dataclasses.replace`` makes another one with something changed.

    It is checked when it is made, and copies the examples, so that what happens to them later changes nothing.

    Attributes:
        program: a ``dspy.Module``; for Ensemble a list of them.
        trainset: labelled examples to learn from. A set that is not given is an empty tuple.
        metric: what to improve: one of ``dspy_nb.exact_match("field")`` and its like, or any function of
            (gold, pred[, trace[, pred_name, pred_trace]]) that returns a bool or a float.
        valset: labelled examples to compare candidates on; needed by the optimizers that compare.
        testset: labelled examples that the search never sees. The program is scored on them before and
            after, which is the honest figure: the best of many scores on the valset is too good.
        optimizer: name of the optimizer, ``BootstrapFewShot`` if neither it nor a preset is given.
        options: options of the optimizer by DSPy's own names; they win over the preset's, and are then both.
        preset: name of a preset.
        budget: limits of the whole run, the scoring before and after included; none by default.
        seed: for whatever is drawn at random, from 0 to 2**32 - 1.
        num_threads: program calls at a time; DSPy's setting (8) by default.
        recompile: accept a program that an optimizer has compiled before.
        race: when to ask a candidate no further: "exact" (it cannot win), "paired" (it very probably will not) or
            ``None`` (never); "auto" is "exact" where that leaves the result as it is, else never. See
            ``core/supervision/racing.py``.
        method: what is known of the optimizer.
        effective_options: every option of the optimizer with its effective value.
        rule: by which candidates race; ``None`` if they do not.
        estimate: LM calls that it will take at most.
        reserve: those of them for the scores after the search.

    Raises:
        InputError: something is wrong with it; the message names it and says what is valid.
    """

    program: dspy.Module | Sequence[dspy.Module]
    _: KW_ONLY
    trainset: Sequence[dspy.Example] = ()
    metric: Metric | Callable[..., Any] | None = None
    valset: Sequence[dspy.Example] = ()
    testset: Sequence[dspy.Example] = ()
    optimizer: str | None = None
    options: Mapping[str, Any] | None = None
    preset: str | None = None
    budget: Budget = field(default_factory=Budget)
    seed: int = 0
    num_threads: int | None = None
    recompile: bool = False
    race: str | None = "auto"
    method: Optimizer = field(init=False, repr=False)
    effective_options: Mapping[str, Any] = field(init=False, repr=False)
    rule: Rule | None = field(init=False, repr=False)
    estimate: Estimate = field(init=False, repr=False)
    reserve: int = field(init=False, repr=False)

    def __post_init__(self) -> None:
        method, options = _choose(self.optimizer, self.options, self.preset)
        check_optimizable(self.program, method, recompile=self.recompile)
        _check_numbers(self.budget, self.seed, self.num_threads)
        rule = _choose_rule(self.race, method)
        metric = self._check_metric(method)
        data: dict[str, Sequence[dspy.Example]] = {}
        for name, examples in self._sets(method).items():
            checked = () if _is_absent(examples) else check_data(name, examples, self.program, metric)
            data[name] = tuple(map(own_copy, checked))  # DSPy makes demos of the very examples
        if method.writes_demos:
            check_storable(self.program, data["trainset"])
        first = self.programs[0]
        sizes = Sizes(
            len(data["trainset"]), len(data["valset"]), len(predictors_of(first)), calls_per_run(first)
        )
        effective = resolve_options(method, options, sizes)
        for step_options in (effective, *(options for _, options in effective.get("steps", {}).values())):
            check_teacher(self.program, step_options.get("teacher"))
        most = sum(_scoring_calls(method, effective, data, sizes.calls))
        before, after = _scoring_calls(method, effective, data, sizes.predictors)
        budget = self.budget
        if budget.lm_calls is not None and budget.lm_calls <= before + after:
            raise InputError(
                f"a budget of {budget.lm_calls:,} LM calls leaves nothing for the search: the scores before and "
                f"after take {before + after:,}; raise it, or use a smaller testset or valset"
            )
        estimate = method.estimate(effective, sizes)
        vars(self).update(
            **data,
            metric=metric,
            rule=rule,
            optimizer=method.name,
            options=options,
            method=method,
            effective_options=effective,
            estimate=replace(estimate, scoring=most, savable=estimate.savable if rule else 0),
            reserve=after,
        )

    def __repr__(self) -> str:
        sets = "".join(f", {len(examples):,} {name}" for name, examples in self.sets.items())
        return f"Task({self.optimizer} on {type(self.programs[0]).__name__}{sets}, seed {self.seed})"

    @classmethod
    def of(cls, program: Any, arguments: Mapping[str, Any]) -> Task:
        """Return the task that a function was given: as one, or as a program and other attributes by name.

        Raises:
            InputError: it is not valid, or a task came with attributes besides a budget.
        """
        plain = {f.name: f.default for f in fields(cls)}
        race = {"race": arguments["race"]} if arguments.get("race", "auto") != "auto" else {}  # None is one
        given = race | {name: v for name, v in arguments.items() if v is not None and v is not plain[name]}
        if not isinstance(program, cls):
            return cls(program, **given)
        if others := [name for name in given if name != "budget"]:
            raise InputError(
                f"a task has its own {others[0]}: dataclasses.replace(task, {others[0]}=...) makes another task"
            )
        return replace(program, **given) if given else program

    @property
    def programs(self) -> Sequence[dspy.Module]:
        """The program in a list, or for Ensemble its programs."""
        return self.program if isinstance(self.program, Sequence) else [self.program]

    @property
    def sets(self) -> dict[str, Sequence[dspy.Example]]:
        """The examples by the name of their set, train, val and test; only the sets that there are."""
        every = {"train": self.trainset, "val": self.valset, "test": self.testset}
        return {name: examples for name, examples in every.items() if examples}

    def _sets(self, method: Optimizer) -> dict[str, Any]:
        """Return what was given for each set, after a look whether all that are needed are there."""
        if _is_absent(self.valset) and method.needs_valset:
            raise InputError(
                f"{method.name} needs a valset to compare candidates on; dspy_nb.split() makes one from your data"
            )
        if _is_absent(self.trainset) and not method.combines:
            raise InputError("trainset is missing")
        return {"trainset": self.trainset, "valset": self.valset, "testset": self.testset}

    def _check_metric(self, method: Optimizer) -> Metric | None:
        if self.metric is None:
            if method.needs_metric:
                raise InputError(f"{method.name} needs a metric, e.g. dspy_nb.exact_match('field')")
            if not (_is_absent(self.valset) and _is_absent(self.testset)):
                raise InputError(
                    "a valset or testset needs a metric to score it, e.g. dspy_nb.exact_match('field')"
                )
            return None
        return as_metric(self.metric, feedback=method.feedback).declaring(declared_types(*self.programs))


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


def _choose_rule(race: Any, method: Optimizer) -> Rule | None:
    """Return the rule by which candidates race, ``None`` for none."""
    if race == "auto":
        return "exact" if method.races == "exact" else None
    if race is not None and race not in RULES:
        raise InputError(
            f"race must be {', '.join(map(repr, RULES))}, 'auto' or None, got {value_text(race)}"
        )
    if race is not None and not method.can_race:
        raise InputError(f"{method.name} cannot race: {method.races}; those that can: {', '.join(RACERS)}")
    return race


def _is_absent(examples: Any) -> bool:
    """Whether a set was not given: an empty tuple is what a task says then, an empty list is a mistake."""
    return examples is None or (isinstance(examples, tuple) and not examples)


def _check_numbers(budget: Any, seed: Any, num_threads: Any) -> None:
    if not isinstance(budget, Budget):
        raise InputError(
            f"budget must be a dspy_nb.Budget, e.g. Budget(lm_calls=500), got {value_text(budget)}"
        )
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < _SEEDS:
        raise InputError(f"seed must be a whole number from 0 to {_SEEDS - 1}, got {value_text(seed)}")
    if num_threads is not None and (not isinstance(num_threads, int) or num_threads < 1):
        raise InputError(f"num_threads must be a whole number, 1 or more, got {value_text(num_threads)}")


def _scoring_calls(
    method: Optimizer, options: Mapping[str, Any], data: Mapping[str, Sequence[Any]], calls: int
) -> tuple[int, int]:
    """Return the LM calls of the scores before and after the search, where a program call makes ``calls``."""
    if method.combines:
        return 0, 0
    before = len(data["testset"]) + (0 if method.scores_student else len(data["valset"]))
    after = len(data["testset"]) + (0 if method.needs_valset else len(data["valset"]))
    return before * calls, after * calls * method.calls_per_answer(options)


def check_optimizable(program: Any, optimizer: Optimizer, *, recompile: bool) -> None:
    """Check that ``optimizer`` can work on ``program``.

    Raises:
        InputError: it is not a module, has no forward, has nothing to optimize, or was compiled before; or it
            cannot be called, or has a field that would be lost in a demo.
    """
    if optimizer.combines:
        programs = program if isinstance(program, Sequence) else []
        if len(programs) < 2 or not all(isinstance(one, dspy.Module) for one in programs):
            raise InputError(f"{optimizer.name} needs a list of two or more programs in place of the program")
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
    check_program(program)
    if optimizer.asks_teacher:
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
    check_program(teacher)
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
    checked = check_examples(name, examples)
    for number, example in enumerate(checked):
        if input_names(example) is None:
            raise InputError(f"{name}[{number}] has no inputs: call .with_inputs('field', ...) on it")
    if metric is not None:
        try:
            metric.check(checked)
        except InputError as error:
            raise InputError(f"{name}: {error}") from None
    for one in program if isinstance(program, Sequence) else [program]:
        check_calls(name, checked, one, [] if metric is None else [metric])
    return checked


def check_storable(program: dspy.Module, trainset: Iterable[dspy.Example]) -> None:
    """Try to store the program with each labelled example as a demo, which is what the search may make of it.

    Warns of an example that can be learned from and not be registered: a field holds an object that has no content,
    such as a function, which DSPy runs and no file holds.

    Raises:
        InputError: a field holds what no file brings back the same; the message names it and its type.
    """
    signatures = {id(part.signature): part.signature for part in predictors_of(program, frozen=False)}
    try:
        dump_json(dump_state(program), "the state of the program")
        for number, example in enumerate(trainset):
            for signature in signatures.values():
                try:
                    dump_demo(example, signature)
                except InputError as error:
                    raise type(error)(f"trainset[{number}]: {error}") from None
    except LiveObject as error:
        text = f"{error}; with it as a demo no registry takes the result"
        warnings.warn(text, RegistryWarning, stacklevel=4)
