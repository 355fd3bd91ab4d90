"""DSPy's optimizers as data: what each takes, what it needs, how it is called, and what is wrong with it.

The options of an optimizer are the parameters of its DSPy class and of its ``compile`` method, by the same
names, so DSPy's documentation applies. What :func:`dspy_nb.optimize` manages itself (metric, data, threads,
seed) is not among them.
"""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import dspy
from dspy import teleprompt

from dspy_nb.core.errors import InputError
from dspy_nb.core.optimization import calls, checks, estimates
from dspy_nb.core.optimization.calls import Assignment, Made
from dspy_nb.core.optimization.estimates import Estimate, Sizes
from dspy_nb.core.text import did_you_mean, value_text

_MANAGED = {
    "self", "metric", "student", "programs", "trainset", "valset", "num_threads", "seed", "max_errors",
    "provide_traceback", "eval_kwargs", "requires_permission_to_run", "verbose", "optimizer_compile_args",
    "valset_ratio", "log_dir", "track_stats", "use_wandb", "wandb_api_key", "wandb_init_kwargs",
    "use_mlflow", "track_best_outputs", "_kwargs",
}  # fmt: skip


@dataclass(frozen=True)
class Optimizer:
    """What dspy_nb knows about one of DSPy's optimizers.

    Attributes:
        name: its class name in DSPy.
        summary: what it does, in one line.
        make: returns the DSPy optimizer and the arguments of its ``compile``; by default, each takes what it has
            names for.
        defaults: options that differ from DSPy's own defaults.
        extra: options that are not parameters of the class or of ``compile``.
        hidden: parameters that are another option under a second name.
        imports: modules that DSPy imports only when it runs.
        compares_on: "valset" or "trainset", the set that its candidates are scored on; ``None`` if it
            scores none.
        scores_student: True if the program as it was given is among those candidates.
        feedback: True if it learns from a metric's textual feedback.
        refuses_compiled: True if it rejects a program that another optimizer has compiled.
        replaces_program: True if its result is a program of another kind, not the student with other prompts.
        writes_demos: True if labelled examples may become demos of its result.
        resets_lms: True if it takes away language models that were pinned on predictors.
        at_least: the smallest value of options that are whole numbers, where that is not 0.
        check: refuses options and sizes that would fail later, and completes the options.
        estimate_search: the LM calls of its search, from the sizes of the data and all its options.
        needs_metric: True if it scores anything.
        asks_teacher: True if it asks a teacher and makes demos of what that did.
        combines: True if it takes a list of programs and searches nothing.
        made_of_steps: True if it is made of other optimizers, which alone may score on other examples.
        may_be_step: True if it may be one of those.
        in_batches: True if it scores candidates on batches of the trainset that only its metric sees.
        calls_per_answer: how many times its result calls the program for one answer, from all its options.
        compares_at_most: the most examples that it scores a candidate on, from all its options.
        races: whether its candidates may race: "exact" where the exact rule leaves its result as it is, which is so
            if it picks the first of the best and draws nothing from the scores; "estimates" where it can, and goes
            on from estimates; else why not.
        teleprompter: its DSPy class, where that is no attribute of ``dspy.teleprompt`` of the same name.
    """

    name: str
    summary: str
    make: Callable[[Assignment], Made] | None = None
    defaults: Mapping[str, Any] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)
    hidden: tuple[str, ...] = ()
    imports: tuple[str, ...] = ()
    compares_on: str | None = None
    scores_student: bool = False
    feedback: bool = False
    refuses_compiled: bool = False
    replaces_program: bool = False
    writes_demos: bool = True
    resets_lms: bool = True
    at_least: Mapping[str, int] = field(default_factory=dict)
    check: Callable[[dict[str, Any], set[str], Sizes], None] = lambda options, given, sizes: None
    estimate_search: Callable[[Sizes, Mapping[str, Any]], Estimate] = lambda sizes, options: Estimate()
    needs_metric: bool = True
    asks_teacher: bool = False
    combines: bool = False
    made_of_steps: bool = False
    may_be_step: bool = True
    in_batches: bool = False
    calls_per_answer: Callable[[Mapping[str, Any]], int] = lambda options: 1
    compares_at_most: Callable[[Mapping[str, Any]], int | None] = lambda options: None
    races: str = "it compares no candidates on a set"
    teleprompter: type | None = None

    @property
    def cls(self) -> Any:
        """The DSPy class."""
        return self.teleprompter or getattr(teleprompt, self.name)

    def build(self, job: Assignment) -> Made:
        """Return the DSPy optimizer, and the arguments of its ``compile``."""
        return self.make(job) if self.make else job.build(self.cls)

    @property
    def can_race(self) -> bool:
        """True if its candidates may race."""
        return self.races in ("exact", "estimates")

    @property
    def needs_valset(self) -> bool:
        """True if candidates are compared on a validation set."""
        return self.compares_on == "valset"

    def options(self) -> dict[str, Any]:
        """Return every option with its default."""
        found: dict[str, Any] = {}
        for function in (self.cls.__init__, self.cls.compile):
            for name, parameter in inspect.signature(function).parameters.items():
                if parameter.kind is not parameter.VAR_KEYWORD:
                    default = parameter.default
                    found.setdefault(name, None if default is parameter.empty else default)
        shown = {k: v for k, v in found.items() if k not in _MANAGED and k not in self.hidden}
        return shown | dict(self.defaults) | dict(self.extra)

    def estimate(self, options: Mapping[str, Any], sizes: Sizes) -> Estimate:
        """Return the LM calls that it will make, without the scoring before and after."""
        if not self.made_of_steps:
            return self.estimate_search(sizes, options)
        order = options["strategy"].split(" -> ")
        total = estimates.estimate_steps(1 + len(order), sizes)
        for step, step_options in (options["steps"][name] for name in order):
            total += step.estimate(step_options, sizes)
        return total


def get_optimizer(name: Any) -> Optimizer:
    """Return the optimizer of that name; upper and lower case do not matter, a DSPy class will do too.

    Raises:
        InputError: there is none, or DSPy ships it broken; the message says what is valid.
    """
    text = name if isinstance(name, str) else getattr(name, "__name__", repr(name))
    if not isinstance(name, str | type):
        raise InputError(
            f"optimizer must be a name, got an object of type {type(name).__name__} (settings go into options); "
            f"valid: {', '.join(OPTIMIZERS)}"
        )
    text = _ALIASES.get(text, text)
    for known, optimizer in OPTIMIZERS.items():
        if known.lower() == text.lower():
            return optimizer
    for known, reason in _REFUSED.items():
        if known.lower() == text.lower():
            raise InputError(f"optimizer {known} is refused: {reason}")
    raise InputError(f"unknown optimizer {text!r}{_hint(text, OPTIMIZERS)}; valid: {', '.join(OPTIMIZERS)}")


def resolve_options(optimizer: Optimizer, given: Mapping[str, Any], sizes: Sizes) -> dict[str, Any]:
    """Check ``given`` and return every option of ``optimizer`` with its effective value.

    Raises:
        InputError: an option is unknown, has a value of the wrong type, contradicts another one or does not
            fit the data; the message says what is valid.
    """
    options = optimizer.options()
    if optimizer.made_of_steps:
        given = _with_steps(given, options, sizes)
    for name, value in given.items():
        if not isinstance(name, str):
            raise InputError(f"options must be named by text, got {name!r}")
        if name in ("metric", "trainset", "valset", "num_threads", "seed"):
            raise InputError(f"{name!r} is an argument of optimize(), not an option of {optimizer.name}")
        if name in _MANAGED:
            raise InputError(
                f"{name!r} is set by optimize() itself, not an option of {optimizer.name}; "
                f"valid: {', '.join(sorted(options))}"
            )
        if name not in options:
            raise InputError(
                f"{optimizer.name} has no option {name!r}{_hint(name, options)}; "
                f"valid: {', '.join(sorted(options))}"
            )
        checks.check_value(optimizer.name, name, value, options[name])
    options |= given
    for name in ("prompt_model", "task_model", "reflection_lm"):
        if name in options:
            options[name] = _as_lm(name, options[name])
    if (settings := options.get("teacher_settings")) and "lm" in settings:
        options["teacher_settings"] = {**settings, "lm": _as_lm("teacher_settings['lm']", settings["lm"])}
    for module in optimizer.imports:
        if importlib.util.find_spec(package := module.partition(".")[0]) is None:
            raise InputError(f"{optimizer.name} needs {package}: pip install {package}")
    for name, minimum in optimizer.at_least.items():
        checks.check_minimum(optimizer.name, options, minimum, name)
    if "metric_threshold" in options:  # without one, every score but 0 would count as a success
        options["metric_threshold"] = options["metric_threshold"] or 1.0
    optimizer.check(options, set(given), sizes)
    return options


def _hint(word: str, valid: Iterable[str]) -> str:
    meant = did_you_mean(word, valid)
    return f" ({meant}?)" if meant else ""


def _as_lm(name: str, value: Any) -> Any:
    if isinstance(value, str):
        return dspy.LM(value)
    if value is None or isinstance(value, dspy.BaseLM):
        return value
    raise InputError(
        f"{name} must be a dspy.LM or a model name such as 'openai/gpt-4o-mini', got {value_text(value)}"
    )


def _with_steps(given: Mapping[str, Any], options: Mapping[str, Any], sizes: Sizes) -> dict[str, Any]:
    """Resolve BetterTogether's steps: name -> optimizer, or {"optimizer": ..., "options": ...}."""
    wanted = given.get("steps", options["steps"])
    if not isinstance(wanted, Mapping) or not wanted:
        raise InputError(
            f"BetterTogether option steps={value_text(wanted)}: expected e.g. {{'p': 'MIPROv2'}}"
        )
    steps = {}
    for key, step in wanted.items():
        if not isinstance(key, str) or not key.isidentifier():
            raise InputError(f"BetterTogether: {key!r} cannot name a step; a name is a Python identifier")
        name, step_options = _parts(key, step)
        optimizer = get_optimizer(name)
        if not optimizer.may_be_step:
            raise InputError(f"BetterTogether: {optimizer.name} cannot be a step")
        steps[key] = (optimizer, resolve_options(optimizer, step_options, sizes))
    strategy = given.get("strategy") or " -> ".join(steps)
    if not isinstance(strategy, str):
        raise InputError(
            f"BetterTogether option strategy={value_text(strategy)}: expected text such as 'p -> w -> p'"
        )
    order = [name.strip() for name in strategy.split("->")]
    if unknown := set(order) - set(steps):
        raise InputError(
            f"BetterTogether: strategy names {', '.join(sorted(unknown))}; steps: {', '.join(steps)}"
        )
    return {**given, "steps": steps, "strategy": " -> ".join(order)}


def _parts(key: str, step: Any) -> tuple[Any, Mapping[str, Any]]:
    """Return the optimizer and the options of one of BetterTogether's steps."""
    if not isinstance(step, Mapping):
        return step, {}
    if "optimizer" not in step or set(step) - {"optimizer", "options"}:
        raise InputError(
            f"BetterTogether step {key!r} has {', '.join(map(str, step)) or 'nothing'}; "
            "valid: 'optimizer' and, if wanted, 'options'"
        )
    step_options = step.get("options") or {}
    if not isinstance(step_options, Mapping):
        raise InputError(f"BetterTogether step {key!r}: options must be a dict, got {step_options!r}")
    return step["optimizer"], step_options


_TABLE = (
    Optimizer(
        "BootstrapFewShot", "demos from the program's own right answers, filled up with labelled examples",
        defaults={"max_bootstrapped_demos": 4, "max_labeled_demos": 8, "max_rounds": 1},
        at_least={"max_rounds": 1}, estimate_search=estimates.estimate_bootstrap,
        refuses_compiled=True, asks_teacher=True,
    ),
    Optimizer(
        "MIPROv2", "writes instructions, collects demo sets, and searches their combinations",
        teleprompter=calls.MIPROv2, imports=("optuna",),
        defaults={"auto": None, "num_candidates": 10, "init_temperature": 1.0},
        at_least={"view_data_batch_size": 1}, check=checks.check_mipro, estimate_search=estimates.estimate_mipro,
        compares_on="valset", compares_at_most=estimates.mipro_compares_at_most, scores_student=True,
        races="estimates", refuses_compiled=True, asks_teacher=True,
    ),
    Optimizer(
        "COPRO", "rewrites the instruction of each predictor in turn, round by round", calls.make_copro,
        defaults={"breadth": 10, "depth": 3, "init_temperature": 1.4},
        at_least={"breadth": 2, "depth": 1}, estimate_search=estimates.estimate_copro,
        races="estimates", compares_on="trainset", resets_lms=False, writes_demos=False,
    ),
    Optimizer(
        "BootstrapFewShotWithRandomSearch",
        "many BootstrapFewShot runs on shuffled data, the best on the validation set wins",
        at_least={"max_bootstrapped_demos": 1, "num_candidate_programs": 1, "max_rounds": 1},
        estimate_search=estimates.estimate_random_search,
        races="exact", compares_on="valset", scores_student=True, refuses_compiled=True, asks_teacher=True,
    ),
    Optimizer(
        "BootstrapFewShotWithOptuna",
        "one BootstrapFewShot run, then a search for the best single demo of each predictor",
        calls.make_optuna, imports=("optuna",), extra={"metric_threshold": None},
        hidden=("max_demos",),  # compile wants again what the constructor calls max_bootstrapped_demos
        at_least={
            "max_bootstrapped_demos": 1, "max_labeled_demos": 1,  # it picks one of each predictor's demos
            "num_candidate_programs": 1, "max_rounds": 1,
        },
        estimate_search=estimates.estimate_optuna,
        races="estimates", compares_on="valset", refuses_compiled=True, asks_teacher=True,
    ),
    Optimizer("LabeledFewShot", "k labelled examples as demos, no LM call", needs_metric=False),
    Optimizer(
        "KNNFewShot", "at each call, demos from the k most similar training examples", calls.make_knn,
        defaults={"k": 3},
        extra={"metric_threshold": None, "max_bootstrapped_demos": 4, "max_labeled_demos": 16,
               "max_rounds": 1, "teacher_settings": None},
        at_least={"k": 1, "max_rounds": 1}, check=checks.check_knn,
        calls_per_answer=lambda options: 1 + options["k"] * options["max_rounds"],  # first for the demos
        refuses_compiled=True, replaces_program=True, writes_demos=False, asks_teacher=True, may_be_step=False,
    ),
    Optimizer(
        "SIMBA", "samples trajectories in batches and learns demos and rules from the hardest ones",
        calls.make_simba, at_least={"bsize": 1, "num_candidates": 1, "max_steps": 1},
        check=checks.check_simba, estimate_search=estimates.estimate_simba,
        races="it scores its candidates on batches", compares_on="trainset", in_batches=True, asks_teacher=True,
    ),
    Optimizer(
        "GEPA", "reflects on failures in words and evolves instructions on a Pareto front",
        calls.make_gepa, imports=("gepa.core.engine",),
        at_least={"reflection_minibatch_size": 1}, check=checks.check_gepa, estimate_search=estimates.estimate_gepa,
        races="it keeps candidates by their scores on each example", compares_on="valset", scores_student=True,
        feedback=True, resets_lms=False, writes_demos=False,
    ),
    Optimizer(
        "Ensemble", "asks several programs and takes the majority (student: a list of programs)",
        defaults={"reduce_fn": dspy.majority}, combines=True, needs_metric=False, replaces_program=True,
        resets_lms=False, writes_demos=False, may_be_step=False,
    ),
    Optimizer(
        "BetterTogether", "several optimizers one after the other, each starting from what the one before made",
        calls.make_better_together, imports=("optuna", "gepa.core.engine"),
        extra={"steps": {"p": "BootstrapFewShotWithRandomSearch"}, "strategy": None},
        races="estimates", compares_on="valset", scores_student=True,
        refuses_compiled=True, asks_teacher=True, made_of_steps=True, may_be_step=False,
    ),
)  # fmt: skip

OPTIMIZERS: Mapping[str, Optimizer] = {optimizer.name: optimizer for optimizer in _TABLE}
"""Every supported optimizer by name."""

RACERS: Final = tuple(name for name, optimizer in OPTIMIZERS.items() if optimizer.can_race)
"""The optimizers whose candidates can race."""

_IN_PLACE_OF: Final = ("MIPROv2", "GEPA", "SIMBA", "BootstrapFewShotWithRandomSearch", "COPRO")
"""What to try where another optimizer found nothing, those first that change most of a prompt."""


def another_optimizer(tried: Iterable[str], sets: Iterable[str]) -> str | None:
    """Return an optimizer to try where others found nothing; ``None`` if none fits.

    Args:
        tried: names of those others.
        sets: names of the sets of examples that there are, of train, val and test.
    """
    known, there = set(tried), set(sets)
    for name in _IN_PLACE_OF:
        optimizer = OPTIMIZERS[name]
        packages = (module.partition(".")[0] for module in optimizer.imports)
        fits = name not in known and (not optimizer.needs_valset or "val" in there)
        if fits and all(map(importlib.util.find_spec, packages)):
            return name
    return None


_ALIASES = {"BootstrapRS": "BootstrapFewShotWithRandomSearch"}  # DSPy's own alias

_REFUSED = {
    "InferRules": "DSPy 3.4.1 changes the caller's signature in place and returns the instructions of the "
    "last candidate instead of the best; use MIPROv2 or SIMBA",
    "AvatarOptimizer": "DSPy 3.4.1 ships it broken (it needs the removed dspy.TypedPredictor); use MIPROv2",
    "BootstrapFinetune": "it changes the weights of a model, which a registry of prompts cannot hold; use a "
    "prompt optimizer",
    "GRPO": "it changes the weights of a model, which a registry of prompts cannot hold; use a prompt optimizer",
}
