"""Which language models a program asks, and copies of it that ask them anew."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Any

import dspy

from dspy_nb.core.errors import InputError
from dspy_nb.core.programs.copies import copy_of
from dspy_nb.core.programs.seams import engine_as_given
from dspy_nb.core.programs.spec import Program, predictors_of


def used_lms(program: Program, lm: dspy.BaseLM | None = None) -> list[dspy.BaseLM]:
    """Return the language models that a program asks, each once.

    Args:
        program: A ``dspy.Module`` or a function.
        lm: What predictors without a model of their own use; the configured one by default.

    Raises:
        InputError: A predictor has no language model.
    """
    default = lm or dspy.settings.lm
    if lm is not None and not isinstance(lm, dspy.BaseLM):
        raise InputError(
            f"lm must be a dspy.LM, got {type(lm).__name__}; such as dspy.LM('openai/gpt-4o-mini')"
        )
    found: dict[int, Any] = {}
    for predictor in _predictors(program) or [None]:
        model = getattr(predictor, "lm", None) or default
        if model is not None:
            found[id(model)] = model
        elif predictor is not None:
            raise InputError(
                "no language model: give lm=dspy.LM(...), or call dspy.configure(lm=dspy.LM(...))"
            )
    return list(found.values())


def name_lms(program: Program, lm: dspy.BaseLM | None = None) -> str | None:
    """Return the names of the language models that ``used_lms`` finds; ``None`` if there are none."""
    names = dict.fromkeys(str(getattr(model, "model", model)) for model in used_lms(program, lm))
    return ", ".join(names) or None


def asked_by(program: Program, lm: dspy.BaseLM | None = None) -> list[Any]:
    """Return what LM calls of a program are made with: its predictors, their language models and ``lm``."""
    predictors = _predictors(program)
    return [*predictors, *(predictor.lm for predictor in predictors if predictor.lm is not None), lm]


def answers_repeat(program: Program, lm: dspy.BaseLM | None = None) -> bool:
    """Tell whether a program asked twice answers the same, because of a cache or of temperature 0."""
    default = lm or dspy.settings.lm
    predictors = _predictors(program)
    return bool(predictors) and all(
        _setting(predictor, default, "cache") or _setting(predictor, default, "temperature") == 0
        for predictor in predictors
    )


def rollouts(
    program: Program, lm: dspy.BaseLM | None, repeats: int
) -> tuple[tuple[Program, ...], tuple[dict[str, Any], ...]]:
    """Return a program and DSPy settings for each repeat, whose answers are drawn anew.

    The answers of a repeat are cached under its number, so the same evaluation later costs nothing.

    Raises:
        InputError: A language model has temperature 0: its answers would all be the same.
    """
    if repeats == 1:
        return (program,), ({},)
    default = lm or dspy.settings.lm
    predictors = _predictors(program)
    for predictor in predictors or [None]:
        if _setting(predictor, default, "temperature") == 0:
            raise InputError(
                f"repeats={repeats} needs a temperature above 0, or every repeat would be the same; "
                "give lm=lm.copy(temperature=1.0)"
            )
    programs, settings = [], []
    for rollout_id in range(1, repeats + 1):
        programs.append(_with_lms(program, rollout_id=rollout_id))
        settings.append({} if default is None else {"lm": default.copy(rollout_id=rollout_id)})
    return tuple(programs), tuple(settings)


def are_confusable(lms: Iterable[dspy.BaseLM], others: Iterable[dspy.BaseLM]) -> bool:
    """Tell whether two of these language models have one name and differ in what answers.

    DSPy's cache knows a model by its name alone, so one would be given the answers of the other. Models with marks
    (see :func:`marked`) are told apart by these.
    """
    others = list(others)
    return any(
        lm.model == other.model and _source(lm) != _source(other)
        for lm in lms
        for other in others
        if lm is not other and (mark_of(lm) is None or mark_of(lm) == mark_of(other))
    )


_MARK = "dspy_nb_mark"


def marked(lm: dspy.BaseLM, mark: Hashable) -> Any:
    """Return a copy of a language model that caches its answers and has a mark; copies of it have the mark too.

    The cache in force must tell models of one name apart by their marks.
    """
    copy = lm.copy(cache=True)
    setattr(copy, _MARK, mark)
    return copy


def mark_of(lm: Any) -> Any:
    """Return the mark of a language model, ``None`` if it has none."""
    return getattr(lm, _MARK, None)


def told_apart(request: dict[str, Any], mark: Any) -> dict[str, Any]:
    """Return a request, as DSPy gives it to its cache, with the ``model`` of its mark: some of one name differ."""
    model = getattr(mark, "model", None)
    return {**request, "dspy_nb_model": model} if model else request


def _source(lm: dspy.BaseLM) -> tuple[Any, ...]:
    kwargs = getattr(lm, "kwargs", {})
    # Not lm.engine, which makes an engine of the LM's own where only a name was given.
    return engine_as_given(lm), *(kwargs.get(key) for key in ("api_base", "base_url", "api_key"))


def without_cache(program: Program, lm: dspy.BaseLM | None = None) -> tuple[Program, dict[str, Any]]:
    """Return a program and DSPy settings whose language models neither read nor fill the cache."""
    default = lm or dspy.settings.lm
    settings = {} if default is None else {"lm": default.copy(cache=False)}
    return _with_lms(program, cache=False), settings


def with_cache(program: Program) -> Program:
    """Return a program whose own language models, where predictors have any, cache their answers."""
    return _with_lms(program, cache=True)


def without_lms(program: dspy.Module) -> dspy.Module:
    """Return a program whose predictors have no language models of their own."""
    if not any(predictor.lm for predictor in predictors_of(program)):
        return program
    copy = copy_of(program)
    for predictor in predictors_of(copy):
        predictor.lm = None
    return copy


def _with_lms(program: Program, **changes: Any) -> Program:
    """Return the program, or a copy in which the language models that predictors have of their own are changed."""
    predictors = _predictors(program)
    if not any(predictor.lm for predictor in predictors):
        return program
    copy = copy_of(program)
    for original, copied in zip(predictors, _predictors(copy), strict=True):
        copied.lm = original.lm and original.lm.copy(**changes)
    return copy


def _predictors(program: Program) -> list[Any]:
    return predictors_of(program) if isinstance(program, dspy.Module) else []


def _setting(predictor: Any, default: Any, name: str) -> Any:
    """Return a setting of the calls that a predictor makes."""
    config = getattr(predictor, "config", {})
    lm = getattr(predictor, "lm", None) or default
    if name in config:
        return config[name]
    return lm.cache if name == "cache" else getattr(lm, "kwargs", {}).get(name)
