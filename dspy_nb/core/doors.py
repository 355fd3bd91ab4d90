"""Doors from a result to what shows it: ``run.plot()``, ``evaluation.report()``, ``diff.to_html()``.

Core names no front end. The package registers in ``dspy_nb.FRONTS`` who answers at which door; it is imported when
somebody comes through.
"""

from __future__ import annotations

import importlib
from typing import Any

import dspy_nb

__all__ = ["through"]


def through(door: str, result: object) -> Any:
    """Return what the front end behind ``door`` makes of ``result``.

    Args:
        door: A key of ``dspy_nb.FRONTS``.
        result: What is to be shown.
    """
    module, name = dspy_nb.FRONTS[door].split(":")
    return getattr(importlib.import_module(module), name)(result)
