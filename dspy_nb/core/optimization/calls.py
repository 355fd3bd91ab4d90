"""How each of DSPy's optimizers is made and called, around what is wrong with it in DSPy 3.4.1.

Each ``make_*`` returns the optimizer and the arguments that its ``compile`` takes after the student; where there
is none, ``Assignment.build`` does.
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

SEED_SETTING = "dspy_nb_seed"
"""DSPy setting (for ``dspy.context``) that seeds what DSPy leaves unseeded."""

Made: TypeAlias = tuple[Any, dict[str, Any]]


@dataclass(frozen=True)
class Assignment:
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

    def pick(self, function: Callable[..., Any], **own: Any) -> dict[str, Any]:
        """Return the arguments that ``function`` has names for: data, options and the rest; ``own`` ones first."""
        given = {
            "metric": self.metric, "num_threads": self.num_threads, "seed": self.seed, **self.options,
            "trainset": list(self.trainset), "valset": list(self.valset), **own,  # it may shuffle the lists
        }  # fmt: skip
        picked = {name: given[name] for name in inspect.signature(function).parameters if name in given}
        if picked.get("teacher") is not None:  # its predictors must be found like the student's
            picked["teacher"] = student_of(picked["teacher"])
        return picked

    def build(self, cls: Any, **own: Any) -> Made:
        """Return an optimizer of one of DSPy's classes, and the arguments of its ``compile``."""
        return cls(**self.pick(cls.__init__, **own)), self.pick(cls.compile, **own)


def make_optuna(job: Assignment) -> Made:
    """BootstrapFewShotWithOptuna: has no threshold of its own, and draws from an unseeded sampler."""
    threshold = job.options["metric_threshold"]

    def metric(gold: Any, pred: Any, trace: Any = None, pred_name: Any = None, pred_trace: Any = None) -> Any:
        score = job.metric(gold, pred, trace)
        return score if trace is None else score >= threshold  # a trace means: shall this become a demo?

    seed_optuna(SEED_SETTING)
    most = job.options["max_bootstrapped_demos"]
    return job.build(teleprompt.BootstrapFewShotWithOptuna, metric=metric, max_demos=most)


class MIPROv2(teleprompt.MIPROv2):
    """Leaves the level of optuna's log as it was."""

    @functools.wraps(teleprompt.MIPROv2.compile)  # BetterTogether looks at the signature
    def compile(self, *args: Any, **kwargs: Any) -> Any:
        """Compile as MIPROv2 does."""
        logger = logging.getLogger("optuna")
        level = logger.level
        try:
            return super().compile(*args, **kwargs)
        finally:
            logger.setLevel(level)


def make_copro(job: Assignment) -> Made:
    """COPRO: has no argument of its own for the threads."""
    evaluate = {"num_threads": job.num_threads, "display_progress": False}
    return job.build(teleprompt.COPRO, eval_kwargs=evaluate)


def make_simba(job: Assignment) -> Made:
    """SIMBA: writes into the parameters of the teacher's language model, so it gets a copy."""
    teacher = job.options["teacher_settings"]
    if teacher and teacher.get("lm") is not None:
        teacher = {**teacher, "lm": teacher["lm"].copy()}
    return job.build(teleprompt.SIMBA, teacher_settings=teacher)


def make_gepa(job: Assignment) -> Made:
    """GEPA: reflects with the program's own model where no other is given."""
    return job.build(teleprompt.GEPA, reflection_lm=job.options["reflection_lm"] or dspy.settings.lm)


def make_knn(job: Assignment) -> Made:
    """KNNFewShot: takes its data in the constructor, with what it hands on to BootstrapFewShot."""
    cls, options = teleprompt.KNNFewShot, job.options
    bootstrap = job.pick(teleprompt.BootstrapFewShot.__init__)
    return cls(options["k"], list(job.trainset), options["vectorizer"], **bootstrap), job.pick(cls.compile)


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


def make_better_together(job: Assignment) -> Made:
    """BetterTogether: each step is an optimizer of its own; each predictor must have a language model."""
    optimizers, arguments = {}, {}
    for key, (step, options) in job.options["steps"].items():
        optimizers[key], made = step.build(replace(job, options=options))
        arguments[key] = {name: value for name, value in made.items() if name not in ("trainset", "valset")}
    job.student.set_lm(dspy.settings.lm)
    compiling = job.pick(teleprompt.BetterTogether.compile, optimizer_compile_args=arguments)
    return _BetterTogether(job.metric, **optimizers), compiling
