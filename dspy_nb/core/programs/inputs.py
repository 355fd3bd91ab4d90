"""What a program is called with, as far as its signature, its forward method or its parameters tell."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, get_args, get_origin

import dspy

from dspy_nb.core.arguments import returns_later
from dspy_nb.core.data.identity import input_names
from dspy_nb.core.errors import InputError
from dspy_nb.core.programs.seams import reserved_names
from dspy_nb.core.programs.spec import Program, parts_of

_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
_HIDDEN = "dspy_"  # dspy.Example keeps fields called so to itself


def check_program(program: Program) -> None:
    """Check that calling ``program`` gives an answer, whatever its inputs are.

    Raises:
        InputError: It cannot be called, gives a coroutine or a generator in place of an answer, or has a
            field that DSPy takes for something else.
    """
    if not callable(program) or (isinstance(program, type) and issubclass(program, dspy.Module)):
        what = f"the class {program.__name__}" if isinstance(program, type) else type(program).__name__
        raise InputError(f"program must be a dspy.Module or a function, got {what}")
    if not isinstance(program, dspy.Module):
        if returns_later(program) == "a generator":
            name = getattr(program, "__name__", type(program).__name__)
            raise InputError(f"{name} is a generator; a program returns one answer: return in place of yield")
        return
    _check_forward(program)
    _check_names(program)


def check_inputs(name: str, examples: Iterable[dspy.Example], program: Program) -> None:
    """Check that ``program`` can be called with the inputs of the examples.

    DSPy only logs a warning about a missing input, and asks the language model without it. A program that does
    not tell what it takes, and an example whose inputs are not set, are not checked. ``check_calls`` describes the
    arguments.

    Raises:
        InputError: An example lacks an input, or has one that the program does not take.
    """
    needed, taken = _needed(program), taken_parameters(program)
    for index, example in enumerate(examples):
        inputs = input_names(example)
        if inputs is None:
            continue
        if hidden := sorted(field for field in inputs if field.startswith(_HIDDEN)):
            raise InputError(
                f"{name}[{index}] has the input {hidden[0]!r}, which dspy.Example hides from every program: "
                f"rename it, for names that begin with {_HIDDEN} are DSPy's own"
            )
        if missing := [field for field in needed if field not in inputs]:
            has = f"the inputs {', '.join(map(repr, sorted(inputs)))}" if inputs else "no inputs"
            raise InputError(f"{name}[{index}] has {has}, but the program needs {missing[0]!r}")
        if taken is not None and (surplus := sorted(inputs - taken)):
            raise InputError(
                f"{name}[{index}] has the input {surplus[0]!r}, which the program does not take; it takes "
                f"{_list_names(taken)}: set them with .with_inputs(...)"
            )


def check_call(program: Program, inputs: Mapping[str, Any], own: tuple[str, ...] = ()) -> None:
    """Check that ``program`` can be called with these inputs.

    Args:
        program: A ``dspy.Module`` or a function.
        inputs: By name.
        own: Arguments of the function that was given them, which cannot be inputs too.

    Raises:
        InputError: It cannot; the message names what is wrong and what is valid.
    """
    check_program(program)
    needed, taken = _needed(program), taken_parameters(program)
    takes = needed if taken is None else taken
    if hidden := [name for name in own if name in takes]:
        raise InputError(
            f"the program has an input called {hidden[0]!r}, which is an argument of this call itself: wrap the "
            "program in one that gives it another name"
        )
    if taken is not None:
        # A dict of options for one call is part of DSPy's interface.
        options = {"config"} if signature_of(program) and isinstance(inputs.get("config"), Mapping) else set()
        if surplus := [name for name in inputs if name not in taken | options]:
            raise InputError(f"the program does not take {surplus[0]!r}; it takes {_list_names(taken)}")
    if missing := [name for name in needed if name not in inputs]:
        given = f"got {_list_names(inputs)}" if inputs else "got nothing"
        raise InputError(f"the program needs {missing[0]!r}, {given}")


def forward_of(program: dspy.Module) -> Any:
    """Return the forward method of a program's class, ``None`` if it has none."""
    # Not program.forward: DSPy logs a warning about whoever asks a module for it.
    return getattr(type(program), "forward", None) or getattr(type(program), "aforward", None)


def signature_of(program: Program) -> type[dspy.Signature] | None:
    """Return the signature that says what a program takes and answers.

    Returns:
        ``None`` where the program has a forward method of its own: it may take and answer anything.
    """
    if not isinstance(program, dspy.Module) or "forward" in vars(program):
        return None
    if not all(map(_is_of_dspy, (forward_of(program), type(program).__call__))):
        return None
    if isinstance(program, dspy.ChainOfThought):
        return signature_of(getattr(program, "predict", None))
    if isinstance(program, dspy.BestOfN | dspy.Refine):
        return signature_of(getattr(program, "module", None))
    return _own_signature(program)


def required_parameters(program: Program) -> list[str]:
    """Return the names of the parameters without which ``program`` cannot be called; none without a forward."""
    return [p.name for p in _parameters(program) or () if p.default is p.empty and p.kind in _NAMED]


def taken_parameters(program: Program) -> set[str] | None:
    """Return the names of all arguments that ``program`` takes; ``None`` if it takes any, or does not tell."""
    if (signature := signature_of(program)) is not None:
        return set(signature.input_fields)
    parameters = _parameters(program)
    if parameters is None or any(p.kind is p.VAR_KEYWORD for p in parameters):
        return None
    return {p.name for p in parameters if p.kind in _NAMED}


def _needed(program: Program) -> list[str]:
    signature, named = signature_of(program), required_parameters(program)
    if signature is None and isinstance(program, dspy.Module) and not named:
        # A forward that takes just anything hands it on.
        signature = _own_signature(program) if taken_parameters(program) is None else None
    if signature is None:
        return named
    fields = signature.input_fields.items()
    return [name for name, field in fields if field.is_required() and not _allows_none(field.annotation)]


def _parameters(program: Program) -> list[inspect.Parameter] | None:
    """Return the parameters of a program; ``None`` if they cannot be told."""
    if not isinstance(program, dspy.Module):
        return _parameters_of_function(program)
    forward = forward_of(program)
    if forward is None or "forward" in vars(program) or not _is_of_dspy(type(program).__call__):
        return None
    parameters = _parameters_of_function(forward)
    return None if parameters is None else parameters[1:]  # without self


def _parameters_of_function(function: Callable[..., Any]) -> list[inspect.Parameter] | None:
    if inspect.isbuiltin(function):
        return None  # few of them tell the names of their arguments
    try:
        return list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return None


def _is_of_dspy(function: Any) -> bool:
    return str(getattr(function, "__module__", None)).partition(".")[0] == "dspy"


def _own_signature(program: Program) -> type[dspy.Signature] | None:
    signature: type[dspy.Signature] | None = getattr(program, "signature", None)
    return signature if hasattr(signature, "input_fields") else None


def _allows_none(annotation: Any) -> bool:
    if get_origin(annotation) is Annotated:
        return _allows_none(get_args(annotation)[0])
    return annotation is type(None) or type(None) in get_args(annotation)


def _check_forward(program: dspy.Module) -> None:
    name, kind = type(program).__name__, type(program)
    own = vars(program).get("forward")
    called = own or getattr(kind, "forward", None)
    if called is None and getattr(kind, "aforward", None) is None and _is_of_dspy(kind.__call__):
        raise InputError(f"{name} has no forward method")
    for method, function in (("forward", called), ("__call__", kind.__call__)):
        if returns_later(function) == "asynchronous":
            raise InputError(
                f"the {method} of {name} is asynchronous, and nobody awaits it: name it aforward"
            )
    awaited = None if called else getattr(kind, "aforward", None)
    for method, function in (("forward", called), ("__call__", kind.__call__), ("aforward", awaited)):
        if returns_later(function) == "a generator":
            raise InputError(
                f"the {method} of {name} is a generator, and a program returns one dspy.Prediction: return in "
                "place of yield"
            )
    if any(parameter.name == "instance" for parameter in _parameters(program) or ()):
        raise InputError(
            f"the forward of {name} has a parameter called 'instance', which DSPy takes for something else: "
            "rename it"
        )


def _check_names(program: dspy.Module) -> None:
    """Refuse fields whose names DSPy takes for something else, in any part of a program."""
    for path, part in parts_of(program):
        signature = _own_signature(part)
        if signature is None:
            continue
        reserved = reserved_names(part)
        where = "the program" if path == "self" else path
        inputs = ("input", signature.input_fields, reserved.inputs)
        for role, fields, names in (inputs, ("output", signature.output_fields, reserved.outputs)):
            for field in fields:
                if field in names or field.startswith(_HIDDEN):
                    others = ", ".join((*sorted(names), f"{_HIDDEN}*"))
                    raise InputError(
                        f"{where} has an {role} called {field!r}, a name that DSPy takes for something else, so "
                        f"that it would never get there: rename it; the others are {others}"
                    )


def _list_names(names: Iterable[str]) -> str:
    return ", ".join(map(repr, sorted(names))) or "nothing"
