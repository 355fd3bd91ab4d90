"""Doors from a result to what shows it: ``run.report()``, ``run.to_html()``, ``run.plot()``.

Core names no front end. The package registers in ``dspy_nb.FRONTS`` who answers at which door; it is imported when
somebody comes through.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import dspy_nb


def front(door: str) -> Callable[..., Any]:
    """Return who answers at ``door``, a key of ``dspy_nb.FRONTS``."""
    module, name = dspy_nb.FRONTS[door].split(":")
    answer: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return answer


def through(door: str, result: object) -> Any:
    """Return what the front end behind ``door`` makes of ``result``.

    Args:
        door: A key of ``dspy_nb.FRONTS``.
        result: What is to be shown.
    """
    return front(door)(result)


class Shown:
    """A result that shows as a report, wherever it is shown; what the report says is its view's."""

    __slots__ = ()

    def report(self) -> str:
        """Return the report as text for a terminal."""
        return str(through("text", self))

    def to_markdown(self) -> str:
        """Return the report as GitHub-flavoured Markdown."""
        return str(through("markdown", self))

    def to_html(self) -> str:
        """Return the report as HTML that loads nothing, with everything escaped."""
        return str(through("html", self))

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, str]:
        """Return what a notebook shows of a cell's result; within a list or a dict the report is out of place."""
        return {"text/plain": self.report(), "text/html": self.to_html()}
