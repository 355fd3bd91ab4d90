"""What would make an optimizer fail after money was spent, found out before.

Each check gets all options of one optimizer (and may complete them), the names of those that the caller
gave, and the sizes of the data. It raises an InputError that says what is valid.
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import dspy

from dspy_nb.core.errors import InputError
from dspy_nb.core.optimization.estimates import MIPRO_AUTO, Sizes, mipro_num_trials
from dspy_nb.core.text import value_text


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_mapping(value: Any) -> bool:
    return isinstance(value, Mapping)


_COUNT = (lambda value: _is_whole(value) and value >= 1, "a whole number, 1 or more")
_GEPA_SELECTIONS = ("pareto", "current_best", "epsilon_greedy", "top_k_pareto")

# Options whose default (mostly None) does not tell what they take.
_VALUES: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "teacher": (lambda value: isinstance(value, dspy.Module), "a dspy.Module"),
    "teacher_settings": (_is_mapping, "a dict of DSPy settings, such as {'lm': dspy.LM(...)}"),
    "metric_threshold": (
        lambda value: _is_number(value) and 0 < value <= 1,
        "a number above 0 and at most 1; scores from it on make a demo",
    ),
    # DSPy compares it with its score in percent: 0.9 would end the search at the first candidate.
    "stop_at_score": (
        lambda value: _is_number(value) and 1 < value <= 100,
        "a number in percent, such as 90",
    ),
    "restrict": (
        lambda value: isinstance(value, Iterable) and all(map(_is_whole, value)),
        "a list of candidate numbers, from -3 upwards",
    ),
    "max_metric_calls": _COUNT,
    "max_full_evals": _COUNT,
    "candidate_selection_strategy": (
        lambda value: not isinstance(value, str) or value in _GEPA_SELECTIONS,
        f"one of {', '.join(_GEPA_SELECTIONS)}",
    ),
    "component_selector": (
        lambda value: value in ("round_robin", "all") or callable(value),
        "round_robin, all, or a function",
    ),
    "instruction_proposer": (callable, "a function"),
    "code_proposer": (callable, "a function"),
    "reduce_fn": (callable, "a function"),
    "size": _COUNT,
    "gepa_kwargs": (_is_mapping, "a dict"),
}


def check_value(optimizer: str, name: str, value: Any, default: Any) -> None:
    """Check the value of one option by itself; ``None`` stands for DSPy's own default.

    Raises:
        InputError: it is of the wrong kind; the message says what is valid.
    """
    if value is None:
        return
    if name in _VALUES:
        fits, kind = _VALUES[name]
        valid = fits(value)
    elif isinstance(default, bool):
        valid, kind = isinstance(value, bool), "True or False"
    elif isinstance(default, int):
        valid, kind = _is_whole(value) and value >= 0, "a whole number, 0 or more"
    elif isinstance(default, float) and "temperature" in name:
        valid, kind = _is_number(value) and value >= 0, "a number, 0 or more"
    elif isinstance(default, float):
        valid, kind = _is_number(value), "a number"
    else:
        return
    if not valid:
        of = "" if default is None else f" (default {value_text(default)})"
        shown = " ".join(reprlib.repr(value).split())  # a module's repr has several lines
        raise InputError(f"{optimizer} option {name}={shown}: expected {kind}{of}")


def check_minimum(optimizer: str, options: Mapping[str, Any], minimum: int, *names: str) -> None:
    """Check that some options are whole numbers of at least ``minimum``.

    Raises:
        InputError: one is not.
    """
    for name in names:
        value = options[name]
        if not isinstance(value, int) or value < minimum:
            raise InputError(
                f"{optimizer} option {name}={value_text(value)}: expected a whole number, {minimum} or more"
            )


def check_mipro(options: dict[str, Any], given: set[str], sizes: Sizes) -> None:
    """Check MIPROv2: fails with labeled demos only, takes auto or num_candidates."""
    bootstrapped, labeled = options["max_bootstrapped_demos"], options["max_labeled_demos"]
    if not bootstrapped and labeled:
        raise InputError(
            f"MIPROv2 fails with labeled demos only (max_bootstrapped_demos=0, max_labeled_demos={labeled}): "
            "set both to 0 to search instructions only, or max_bootstrapped_demos to 1 or more"
        )
    if options["auto"] is not None:
        if options["auto"] not in MIPRO_AUTO:
            raise InputError(
                f"MIPROv2 option auto={value_text(options['auto'])}: valid: {', '.join(MIPRO_AUTO)}"
            )
        if clash := {"num_candidates", "num_trials"} & given:
            raise InputError(f"MIPROv2: give either auto or {' and '.join(sorted(clash))}, not both")
        options["num_candidates"] = options["num_trials"] = None
    else:
        check_minimum("MIPROv2", options, 2, "num_candidates")
        if options["num_trials"] is None:
            options["num_trials"] = mipro_num_trials(
                options["num_candidates"], sizes.predictors, zero_shot=not bootstrapped and not labeled
            )
        check_minimum("MIPROv2", options, 1, "num_trials", "minibatch_size", "minibatch_full_eval_steps")
        if options["minibatch"] and options["minibatch_size"] > sizes.val:
            if {"minibatch", "minibatch_size"} & given:
                raise InputError(
                    f"MIPROv2: minibatch_size={options['minibatch_size']} exceeds the {sizes.val} validation "
                    "examples; lower it, or set minibatch=False"
                )
            options["minibatch"] = False


def check_simba(options: dict[str, Any], given: set[str], sizes: Sizes) -> None:
    """Check SIMBA: takes its batches from the training set."""
    if options["bsize"] > sizes.train:
        if "bsize" in given:
            raise InputError(f"SIMBA: bsize={options['bsize']} exceeds the {sizes.train} training examples")
        options["bsize"] = sizes.train


def check_gepa(options: dict[str, Any], given: set[str], sizes: Sizes) -> None:
    """Check GEPA: needs exactly one limit, and takes no teacher."""
    limits = ("auto", "max_full_evals", "max_metric_calls")
    chosen = [name for name in limits if options[name] is not None]
    if len(chosen) > 1:
        raise InputError(f"GEPA: give one of {', '.join(limits)}, not {' and '.join(chosen)}")
    if not chosen:
        options["auto"] = "light"
    elif options["auto"] is not None and options["auto"] not in MIPRO_AUTO:
        raise InputError(f"GEPA option auto={value_text(options['auto'])}: valid: {', '.join(MIPRO_AUTO)}")
    if options["reflection_minibatch_size"] > sizes.train:
        size = options["reflection_minibatch_size"]
        raise InputError(
            f"GEPA: reflection_minibatch_size={size} exceeds the {sizes.train} training examples"
        )
    if options.get("teacher") is not None:
        raise InputError("GEPA takes no teacher; give a stronger reflection_lm instead")


def check_knn(options: dict[str, Any], given: set[str], sizes: Sizes) -> None:
    """Check KNNFewShot: needs an embedder, and enough neighbours."""
    if not isinstance(options["vectorizer"], dspy.Embedder):
        raise InputError(
            "KNNFewShot needs options={'vectorizer': dspy.Embedder(...)} to find similar examples"
        )
    if options["k"] > sizes.train:
        raise InputError(f"KNNFewShot: k={options['k']} exceeds the {sizes.train} training examples")
