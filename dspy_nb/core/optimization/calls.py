"""How each of DSPy's optimizers is made and called, around what is wrong with it in DSPy 3.4.1.

Each ``make_*`` returns the optimizer and the arguments that its ``compile`` takes after the student.
"""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import dspy
from dspy import teleprompt

from dspy_nb.core.programs.copies import student_of
from dspy_nb.core.programs.seams import seed_optuna

__all__ = ["SEED_SETTING", "Job", "Made"]

SEED_SETTING = "dspy_nb_seed"
"""DSPy setting (for ``dspy.context``) that seeds what DSPy leaves unseeded."""

Made: TypeAlias = tuple[Any, dict[str, Any]]


@dataclass(frozen=True)
class Job:
    """One optimization, fully specified.

    Attributes:
        student: the program, a copy that may be changed; for Ensemble a list of programs.
        trainset: labelled examples.
        valset: labelled examples that candidates are compared on; empty if there are none.
        metric: in the one shape.
        options: every option of the optimizer with its value.
        seed: for whatever the optimizer draws at random.
        num_threads: program calls at a time.
    """

    student: Any
    trainset: Sequence[dspy.Example]
    valset: Sequence[dspy.Example]
    metric: Callable[..., Any]
    options: Mapping[str, Any]
    seed: int
    num_threads: int

    def pick(self, function: Callable[..., Any], **extra: Any) -> dict[str, Any]:
        """Return the options that ``function`` takes, and ``extra``."""
        names = inspect.signature(function).parameters
        picked = {name: value for name, value in self.options.items() if name in names} | extra
        if picked.get("teacher") is not None:
            picked["teacher"] = student_of(
                picked["teacher"]
            )  # its predictors must be found like the student's
        return picked

    @property
    def data(self) -> dict[str, Any]:
        """The two sets as arguments of ``compile``; lists of their own, which it may shuffle."""
        return {"trainset": list(self.trainset), "valset": list(self.valset)}


def make_labeled(job: Job) -> Made:
    """LabeledFewShot: no metric, no calls."""
    cls = teleprompt.LabeledFewShot
    return cls(**job.pick(cls.__init__)), job.pick(cls.compile, trainset=list(job.trainset))


def make_bootstrap(job: Job) -> Made:
    """BootstrapFewShot."""
    cls = teleprompt.BootstrapFewShot
    optimizer = cls(**job.pick(cls.__init__, metric=job.metric))
    return optimizer, job.pick(cls.compile, trainset=list(job.trainset))


def make_random_search(job: Job) -> Made:
    """BootstrapFewShotWithRandomSearch: would compare on the training set if there were no valset."""
    cls = teleprompt.BootstrapFewShotWithRandomSearch
    managed = {"metric": job.metric, "num_threads": job.num_threads}
    return cls(**job.pick(cls.__init__, **managed)), job.pick(cls.compile, **job.data)


def make_optuna(job: Job) -> Made:
    """BootstrapFewShotWithOptuna: has no threshold of its own, and draws from an unseeded sampler."""
    threshold = job.options["metric_threshold"]

    def metric(gold: Any, pred: Any, trace: Any = None, pred_name: Any = None, pred_trace: Any = None) -> Any:
        score = job.metric(gold, pred, trace)
        return score if trace is None else score >= threshold  # a trace means: shall this become a demo?

    seed_optuna(SEED_SETTING)
    cls = teleprompt.BootstrapFewShotWithOptuna
    optimizer = cls(**job.pick(cls.__init__, metric=metric, num_threads=job.num_threads))
    return optimizer, job.pick(cls.compile, max_demos=job.options["max_bootstrapped_demos"], **job.data)


class _MIPROv2(teleprompt.MIPROv2):
    """Leaves the level of optuna's log as it was."""

    @functools.wraps(teleprompt.MIPROv2.compile)  # BetterTogether looks at the signature
    def compile(self, *args: Any, **kwargs: Any) -> Any:
        logger = logging.getLogger("optuna")
        level = logger.level
        try:
            return super().compile(*args, **kwargs)
        finally:
            logger.setLevel(level)


def make_mipro(job: Job) -> Made:
    """MIPROv2: ignores seed=0 in compile but not in the constructor."""
    cls = teleprompt.MIPROv2
    managed = {
        "metric": job.metric, "num_threads": job.num_threads, "seed": job.seed
    }  # fmt: skip
    return _MIPROv2(**job.pick(cls.__init__, **managed)), job.pick(cls.compile, **job.data)


def make_copro(job: Job) -> Made:
    """COPRO: compares on the training set."""
    cls = teleprompt.COPRO
    evaluate = {"num_threads": job.num_threads, "display_progress": False}
    optimizer = cls(**job.pick(cls.__init__, metric=job.metric))
    return optimizer, {"trainset": list(job.trainset), "eval_kwargs": evaluate}


def make_simba(job: Job) -> Made:
    """SIMBA: writes into the parameters of the teacher's language model, so it gets a copy."""
    cls = teleprompt.SIMBA
    options = job.pick(cls.__init__, metric=job.metric, num_threads=job.num_threads)
    teacher = options["teacher_settings"]
    if teacher and teacher.get("lm") is not None:
        options["teacher_settings"] = {**teacher, "lm": teacher["lm"].copy()}
    return cls(**options), {"trainset": list(job.trainset), "seed": job.seed}


def make_gepa(job: Job) -> Made:
    """GEPA: reflects with the program's own model where no other is given."""
    cls = teleprompt.GEPA
    options = job.pick(cls.__init__, metric=job.metric, num_threads=job.num_threads, seed=job.seed)
    options["reflection_lm"] = options["reflection_lm"] or dspy.settings.lm
    return cls(**options), job.data


def make_knn(job: Job) -> Made:
    """KNNFewShot: takes its data in the constructor."""
    bootstrap = job.pick(teleprompt.BootstrapFewShot.__init__, metric=job.metric)
    options = job.options
    cls = teleprompt.KNNFewShot
    optimizer = cls(options["k"], list(job.trainset), options["vectorizer"], **bootstrap)
    return optimizer, job.pick(cls.compile)


def make_ensemble(job: Job) -> Made:
    """Ensemble: its student is a list of programs."""
    cls = teleprompt.Ensemble
    return cls(**job.pick(cls.__init__)), {}


class _BetterTogether(teleprompt.BetterTogether):
    """Raises what a step raised: DSPy's own logs it and returns the best of the steps before."""

    def __init__(self, metric: Callable[..., Any], **steps: Any) -> None:
        super().__init__(metric, **steps)
        self._failures: list[Exception] = []
        for step in steps.values():
            step.compile = self._remembering(step.compile)

    def compile(self, student: dspy.Module, **arguments: Any) -> dspy.Module:
        compiled = super().compile(student, **arguments)
        if self._failures:
            raise self._failures[0]
        return compiled

    def _remembering(self, compile_step: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(compile_step)  # DSPy looks at the signature
        def remember(*args: Any, **kwargs: Any) -> Any:
            try:
                return compile_step(*args, **kwargs)
            except Exception as error:
                self._failures.append(error)
                raise

        return remember


def make_better_together(job: Job) -> Made:
    """BetterTogether: each step is an optimizer of its own; each predictor must have a language model."""
    cls = teleprompt.BetterTogether
    optimizers, arguments = {}, {}
    for key, (step, options) in job.options["steps"].items():
        optimizers[key], made = step.make(replace(job, options=options))
        arguments[key] = {name: value for name, value in made.items() if name not in ("trainset", "valset")}
    job.student.set_lm(dspy.settings.lm)
    managed = {
        "num_threads": job.num_threads,
        "seed": job.seed,
        "optimizer_compile_args": arguments,
    }
    return _BetterTogether(job.metric, **optimizers), job.pick(cls.compile, **job.data, **managed)
