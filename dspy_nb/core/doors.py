"""Doors from a result to what shows it: ``run.report()``, ``run.to_html()``, ``run.plot()``.

Also from a call to who knows what its result will be called. Core names no front end. The package registers in
``dspy_nb.FRONTS`` who answers at which door; it is imported when somebody comes through.
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
    """A result that shows as a report, wherever it is shown, and in one line where it is printed.

    What both say is its view's.
    """

    __slots__ = ()

    def __init_subclass__(cls, **options: Any) -> None:
        """Let ``repr`` be a line: a dataclass would list everything, and leaves alone what its class has itself."""
        super().__init_subclass__(**options)
        for name in ("__str__", "__repr__") if Shown in cls.__bases__ else ():
            if name not in vars(cls):
                setattr(cls, name, vars(Shown)[name])

    def __str__(self) -> str:
        """Return the result in one line."""
        return str(through("line", self))

    def __repr__(self) -> str:
        """Return the same with its type."""
        name, line = type(self).__name__, str(self)
        return f"<{line}>" if line.startswith(name) else f"<{name}: {line}>"

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
