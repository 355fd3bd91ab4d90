"""Tab completion of the magics: arguments, optimizers and their options, presets, models, names that fit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from itertools import pairwise
from typing import Any

import dspy

from dspy_nb.core.ab.experiment import experiments
from dspy_nb.core.data.metrics import accuracy, exact_match, partial_credit, token_f1
from dspy_nb.core.errors import DspyNbError
from dspy_nb.core.models.names import BUMPS, STAGES
from dspy_nb.core.optimization.optimizers import OPTIMIZERS, get_optimizer
from dspy_nb.core.optimization.presets import get_preset, list_presets
from dspy_nb.core.pipeline.gate import QualityGate
from dspy_nb.core.registry.registry import Registry

__all__ = ["PATTERN", "completer"]

PATTERN = r".*%dspy_(ab|deploy|evaluate|monitor|optimize|presets|promote|registry|rollback)\b"
"""What a line up to the cursor looks like, an assignment in front of the magic included."""


_METRICS = [f"{make.__name__}:" for make in (exact_match, accuracy, token_f1, partial_credit)]
_EXAMPLES = ("--train", "--val", "--test", "--data")


def completer(ipython: Any) -> Callable[[Any, Any], list[str]]:
    """Return the hook that IPython calls with itself and the line."""

    def complete(shell: Any, event: Any) -> list[str]:
        line: str = event.text_until_cursor
        magic, *words = line[line.rindex("%dspy_") + 1 :].split(" ")
        function = ipython.find_line_magic(magic)
        if function is None or not words:
            return []
        try:
            return _candidates(function, [word for word in words[:-1] if word], event.symbol, ipython)
        except DspyNbError:  # a broken file of presets, say, must not get in the way of typing
            return []

    return complete


def _candidates(function: Any, words: Sequence[str], symbol: str, ipython: Any) -> list[str]:
    """Return what can follow ``words`` on the line of a magic."""
    last = words[-1] if words else ""
    if last == "--optimizer":
        return list(OPTIMIZERS)
    if last == "--option":
        return [f"{name}=" for name in _options(words)]
    if last == "--preset":
        return [preset.name for preset in list_presets()]
    if last == "--bump":
        return list(BUMPS)
    if last == "--save-as":
        return _models(function)
    if last == "--register-with":
        return [f"{model}@" for model in _models(function)]
    if last == "--gate":
        return [f"{field.name}=" for field in fields(QualityGate) if field.name != "per_class"]
    if last == "--metric":
        return [*_METRICS, *_names(ipython, lambda value: callable(value) and not isinstance(value, type))]
    if last == "--environment" or (last == "--to" and function.__name__ == "dspy_deploy"):
        return _environments(function)
    if last == "--to":
        return list(STAGES)
    if last == "--diff":
        return _references(function)
    if last in _EXAMPLES:
        return _names(ipython, lambda value: isinstance(value, list))
    if last == "--experiment":
        return experiments(function.__self__.registry())
    if last == "--program":
        return _programs(ipython)
    arguments = [text for action in function.parser._actions for text in action.option_strings]
    if symbol.startswith("-"):
        return arguments
    if function.__name__ == "dspy_ab" and not _takes_value(function, last):  # as many programs as one likes
        return [*_programs(ipython), *_references(function)]
    if words:
        return []
    if function.__name__ in ("dspy_evaluate", "dspy_optimize"):
        return _programs(ipython)
    if function.__name__ == "dspy_presets":
        return [preset.name for preset in list_presets()]
    if function.__name__ in ("dspy_monitor", "dspy_rollback"):
        return _environments(function)
    return _models(function) if function.__name__ == "dspy_registry" else _references(function)


def _takes_value(function: Any, word: str) -> bool:
    return any(word in action.option_strings and action.nargs != 0 for action in function.parser._actions)


def _options(words: Sequence[str]) -> list[str]:
    given = dict(pairwise(words))
    name = given.get("--optimizer") or "BootstrapFewShot"
    if "--preset" in given:
        name = get_preset(given["--preset"]).optimizer
    return sorted(get_optimizer(name).options())


def _models(function: Any) -> list[str]:
    registry: Registry = function.__self__.registry()
    return registry.models()


def _references(function: Any) -> list[str]:
    registry: Registry = function.__self__.registry()
    return [version.ref for version in registry.list()]


def _environments(function: Any) -> list[str]:
    registry: Registry = function.__self__.registry()
    return sorted({"development", "staging", "production", *registry.environments()})


def _programs(ipython: Any) -> list[str]:
    return _names(ipython, lambda value: isinstance(value, dspy.Module))


def _names(ipython: Any, fits: Callable[[Any], bool]) -> list[str]:
    return sorted(n for n, value in ipython.user_ns.items() if not n.startswith("_") and fits(value))
