"""What a program is called with, as far as its signature or its forward method tells."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

import dspy

from dspy_nb.core.data.identity import input_names
from dspy_nb.core.errors import InputError

__all__ = ["check_inputs", "forward_of", "required_parameters"]

_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def check_inputs(name: str, examples: Iterable[dspy.Example], program: Any) -> None:
    """Check that ``program`` can be called with the inputs of the examples.

    DSPy only logs a warning about a missing input, and asks the language model without it. A function, a
    module whose forward is set on the instance, and an example whose inputs are not set are not checked.

    Args:
        name: What the examples are called in messages, such as "trainset".
        examples: Of labelled data.
        program: The one that is to be called.

    Raises:
        InputError: An example lacks an input, or has one that the program does not take.
    """
    if not isinstance(program, dspy.Module) or forward_of(program) is None:
        return
    needed, taken = _needed(program), _taken(program)
    for index, example in enumerate(examples):
        inputs = input_names(example)
        if inputs is None:
            continue
        if missing := [field for field in needed if field not in inputs]:
            has = f"the inputs {', '.join(map(repr, sorted(inputs)))}" if inputs else "no inputs"
            raise InputError(f"{name}[{index}] has {has}, but the program needs {missing[0]!r}")
        if taken is not None and (surplus := sorted(inputs - taken)):
            raise InputError(
                f"{name}[{index}] has the input {surplus[0]!r}, which the program does not take; it takes "
                f"{', '.join(map(repr, sorted(taken)))}: set them with .with_inputs(...)"
            )


def forward_of(program: dspy.Module) -> Any:
    """Return the forward method of a program's class, ``None`` if it has none."""
    # Not program.forward: DSPy logs a warning about whoever asks a module for it.
    return getattr(type(program), "forward", None) or getattr(type(program), "aforward", None)


def required_parameters(program: dspy.Module) -> list[str]:
    """Return the names of the parameters without which ``program`` cannot be called; none without a forward."""
    return [p.name for p in _parameters(program) if p.default is p.empty and p.kind in _NAMED]


def _needed(program: dspy.Module) -> list[str]:
    signature = getattr(program, "signature", None)
    if signature is not None and hasattr(signature, "input_fields"):
        return [name for name, field in signature.input_fields.items() if field.is_required()]
    return required_parameters(program)


def _taken(program: dspy.Module) -> set[str] | None:
    """Return the names of all arguments that ``program`` takes; ``None`` if it takes any."""
    parameters = _parameters(program)
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return None
    return {p.name for p in parameters if p.kind in _NAMED}


def _parameters(program: dspy.Module) -> list[inspect.Parameter]:
    forward = forward_of(program)
    return [] if forward is None else list(inspect.signature(forward).parameters.values())[1:]  # without self
