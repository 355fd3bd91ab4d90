"""Keep DSPy's own bars, prints and log lines out of a run, and only out of the run.

DSPy shows its progress in four ways that no option turns off. The names it prints through are replaced once,
by versions that look at the calling context: inside :data:`QUIET_SETTINGS` they are silent, elsewhere they do
what they always did. So a user's own DSPy call in another cell or thread keeps its bars, and nothing touches
``sys.stdout``. The same for random numbers: DSPy takes some of the caller's whenever it makes a predictor.
"""

from __future__ import annotations

import builtins
import contextlib
import importlib
import logging
import random
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import dspy

_SETTING = "dspy_nb_quiet"
QUIET_SETTINGS = {_SETTING: True}
"""DSPy settings (for ``dspy.context``) under which DSPy is silent, once :func:`install` was called."""

_PRINTING_MODULES = (
    "dspy.teleprompt.bootstrap",
    "dspy.teleprompt.random_search",
    "dspy.teleprompt.teleprompt_optuna",
    "dspy.teleprompt.utils",
    "dspy.propose.dataset_summary_generator",
    "dspy.propose.grounded_proposer",
)
_MODULES_WITH_BARS = ("dspy.teleprompt.bootstrap", "dspy.evaluate.evaluate", "dspy.utils.parallelizer")
_LOGGERS = ("dspy", "optuna")


def _is_quiet() -> bool:
    return bool(dspy.settings.get(_SETTING))


def _silence(show: Any) -> Any:
    def show_unless_quiet(*args: Any, **kwargs: Any) -> None:
        if not _is_quiet():
            show(*args, **kwargs)

    return show_unless_quiet


_print = _silence(builtins.print)


def _quiet_bar(bar: type) -> type:
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        if _is_quiet():
            kwargs["disable"] = True
        bar.__init__(self, *args, **kwargs)  # type: ignore[misc]

    return type(bar.__name__, (bar,), {"__init__": __init__, "dspy_nb": True})


def _not_in_a_quiet_run(record: logging.LogRecord) -> bool:
    return not _is_quiet() or record.name.startswith("dspy_nb.")  # whose handlers may be the same


_TOLD = "dspy_nb_truncation_told"
TRUNCATION_IS_TOLD = {_TOLD: True}
"""DSPy settings under which DSPy does not warn of each answer that was cut off: the caller says it once."""


def _unless_told(record: logging.LogRecord) -> bool:
    return "truncated" not in str(record.msg) or not dspy.settings.get(_TOLD)


def install_truncation_filter() -> None:
    """Let :data:`TRUNCATION_IS_TOLD` have its effect; calling it again does no harm."""
    logging.getLogger("dspy.clients.lm").addFilter(_unless_told)


class _Random:
    """The module random; within a quiet run one of its own."""

    def __init__(self) -> None:
        self._own = random.Random()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._own if _is_quiet() else random, name)


@contextlib.contextmanager
def making_predictors() -> Iterator[None]:
    """Let DSPy make predictors without the caller's random numbers."""
    _install_random()
    with dspy.context(**QUIET_SETTINGS):
        yield


def _install_random() -> None:
    module: Any = importlib.import_module("dspy.predict.predict")
    if module.random is random:
        module.random = _Random()


def install() -> None:
    """Replace the names that DSPy prints through; calling it again does no harm."""
    for name in _PRINTING_MODULES:
        vars(importlib.import_module(name)).setdefault("print", _print)
    for name in _MODULES_WITH_BARS:
        module: Any = importlib.import_module(name)
        if not hasattr(module.tqdm.tqdm, "dspy_nb"):
            module.tqdm = SimpleNamespace(tqdm=_quiet_bar(module.tqdm.tqdm))
    _install_random()
    engine: Any = sys.modules.get("gepa.core.engine")  # GEPA binds the class itself
    if engine is not None and engine.tqdm is not None and not hasattr(engine.tqdm, "dspy_nb"):
        engine.tqdm = _quiet_bar(engine.tqdm)
    base_lm: Any = importlib.import_module("dspy.clients.base_lm")
    if base_lm.pretty_print_history.__module__ != __name__:  # COPRO shows its prompt model's last call
        base_lm.pretty_print_history = _silence(base_lm.pretty_print_history)
    logging.getLogger().addFilter(_not_in_a_quiet_run)  # DSPy logs failed deep copies to no named logger
    for name in _LOGGERS:
        for handler in logging.getLogger(name).handlers:
            handler.addFilter(_not_in_a_quiet_run)
