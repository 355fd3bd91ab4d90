"""A picture of what belongs to the caller and not to a call: two of them are equal, or the call left something."""

from __future__ import annotations

import logging
import os
import random
import signal
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import dspy
import numpy as np

_LOGGERS = ("", "dspy", "dspy_nb", "LiteLLM", "optuna", "gepa", "asyncio", "py.warnings")


def picture() -> dict[str, Any]:
    """Return what a process has once, by name; handlers and the like by identity."""
    kind, keys, *rest = np.random.get_state()
    return {
        "dspy.settings": dict(dspy.settings.config),
        "random": random.getstate(),
        "numpy.random": (kind, keys.tolist(), *rest),
        "warnings.filters": list(warnings.filters),
        "showwarning": warnings.showwarning,
        **{f"logger {name!r}": _logger(logging.getLogger(name)) for name in _LOGGERS},
        "logging.disable": logging.root.manager.disable,
        "signals": {number: signal.getsignal(number) for number in signal.Signals},
        "streams": (sys.stdin, sys.stdout, sys.stderr),
        "hooks": (sys.excepthook, sys.displayhook, threading.excepthook, sys.unraisablehook),
        "tracing": (sys.gettrace(), sys.getprofile(), threading.gettrace()),
        "sys.path": list(sys.path),
        "recursion limit": sys.getrecursionlimit(),
        "current directory": Path.cwd(),
        "environment": dict(os.environ),
    }


def _logger(logger: logging.Logger) -> Any:
    return logger.level, logger.propagate, logger.disabled, list(logger.handlers)


def differences(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """Return what differs between two pictures, before and after."""
    return {name: (before[name], after[name]) for name in before if before[name] != after[name]}
