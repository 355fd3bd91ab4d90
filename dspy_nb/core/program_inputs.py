"""What a program is called with, as far as its signature or its forward method tells."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence
from typing import Any

import dspy

from dspy_nb.core.errors import InputError

__all__ = ["check_inputs", "needed_inputs", "taken_inputs"]

_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def check_inputs(program: Any, examples: Iterable[dspy.Example]) -> None:
    """Check that ``program`` can be called with the inputs of the examples.

    DSPy only logs a warning about a missing input, and asks the language model without it. A function, and a
    module whose forward is set on the instance, are not checked.

    Raises:
        InputError: An example lacks an input, or has one that the program does not take.
    """
    if not isinstance(program, dspy.Module) or _forward(program) is None:
        return
    needed, taken = set(needed_inputs(program)), taken_inputs(program)
    for number, example in enumerate(examples, 1):
        inputs = set(example._input_keys or ())
        if not inputs:
            continue  # said elsewhere
        if missing := sorted(needed - inputs):
            has = ", ".join(map(repr, sorted(inputs)))
            raise InputError(
                f"example {number} of dataset has the inputs {has}, but the program needs {missing[0]!r}"
            )
        if taken is not None and (surplus := sorted(inputs - taken)):
            raise InputError(
                f"example {number} of dataset has the input {surplus[0]!r}, which the program does not take; "
                f"it takes {', '.join(map(repr, sorted(taken)))}"
            )


def needed_inputs(program: Any) -> list[str]:
    """Return the names of the arguments without which ``program`` (or the first of a list) cannot be called.

    Raises:
        InputError: it has no forward method.
    """
    if isinstance(program, Sequence):
        return needed_inputs(program[0])
    signature = getattr(program, "signature", None)
    if signature is not None and hasattr(signature, "input_fields"):
        return [name for name, field in signature.input_fields.items() if field.is_required()]
    return [p.name for p in _parameters(program) if p.default is p.empty and p.kind in _NAMED]


def taken_inputs(program: Any) -> set[str] | None:
    """Return the names of all arguments that ``program`` takes; ``None`` if it takes any.

    Raises:
        InputError: it has no forward method.
    """
    if isinstance(program, Sequence):
        return taken_inputs(program[0])
    parameters = _parameters(program)
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return None
    return {p.name for p in parameters if p.kind in _NAMED}


def _parameters(program: Any) -> list[inspect.Parameter]:
    forward = _forward(program)
    if forward is None:
        raise InputError(f"{type(program).__name__} has no forward method")
    return list(inspect.signature(forward).parameters.values())[1:]  # without self


def _forward(program: Any) -> Any:
    # Not program.forward: DSPy logs a warning about whoever asks a module for it.
    return getattr(type(program), "forward", None) or getattr(type(program), "aforward", None)
