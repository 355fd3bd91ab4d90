"""How a program is called and what it answers: checked before the first call, and when an answer comes."""

from __future__ import annotations

import enum
import inspect
import reprlib
import types
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin

import dspy

from dspy_nb.core.data.identity import input_names
from dspy_nb.core.data.metrics import Metric, exact_match
from dspy_nb.core.errors import InputError, NoPrediction
from dspy_nb.core.programs.inputs import (
    check_inputs,
    check_program,
    signature_of,
    taken_parameters,
)
from dspy_nb.core.programs.spec import Program, parameters_of

# Fields that DSPy's own modules add to the outputs of their signature.
_ADDED: Final = frozenset(["final_reasoning", "history", "reasoning", "termination_reason", "trajectory"])


def check_calls(
    name: str,
    examples: Sequence[dspy.Example],
    program: Program,
    metrics: Iterable[Metric] = (),
    *,
    label: str | None = None,
) -> None:
    """Check, before the first call, that ``program`` can answer the examples and be scored on them.

    Args:
        name: What the examples are called in messages, such as "trainset".
        examples: Of labelled data.
        program: A ``dspy.Module`` or a function.
        metrics: What its answers are scored by.
        label: A further field that it is to answer.

    Raises:
        InputError: It cannot; the message names what is wrong and what is valid.
    """
    metrics = tuple(metrics)
    check_program(program)
    _check_not_inputs(name, examples, program, metrics)
    check_inputs(name, examples, program)
    _check_labels(name, examples, program, metrics, label)


def declared_types(*programs: Program) -> dict[str, tuple[Any, ...]]:
    """Return the types of all output fields, by name: usually one; none of functions, which declare nothing."""
    found: dict[str, list[Any]] = {}
    for program in programs:
        for _, part in parameters_of(program) if isinstance(program, dspy.Module) else ():
            for name, field in getattr(getattr(part, "signature", None), "output_fields", {}).items():
                declared = found.setdefault(name, [])
                if field.annotation not in declared:
                    declared.append(field.annotation)
    return {name: tuple(declared) for name, declared in found.items()}


def check_answer(program: Program, answer: Any) -> None:
    """Check that what a program returned is an answer; a function may return any value.

    Raises:
        NoPrediction: It is none; the message says what came instead.
    """
    if inspect.iscoroutine(answer):
        answer.close()  # or Python warns that nobody awaited it
    if isinstance(answer, dspy.Example | Mapping):
        return
    later = inspect.isawaitable(answer) or inspect.isgenerator(answer) or inspect.isasyncgen(answer)
    if isinstance(program, dspy.Module) or answer is None or later:
        raise NoPrediction.of(answer)


def options_of(annotation: Any) -> tuple[Any, ...] | None:
    """Return all values that a field of this type can have, or the items of a list of them.

    Returns:
        ``None`` where it is no choice of ``Literal`` values, members of an ``Enum``, or both.
    """
    origin, inner = get_origin(annotation), get_args(annotation)
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return tuple(annotation)
    if annotation is type(None):
        return (None,)
    if origin is Literal:
        return inner
    if origin is Annotated:
        return options_of(inner[0])
    if origin is Union or origin is types.UnionType:
        parts = [options_of(part) for part in inner]
        return None if None in parts else tuple(option for part in parts for option in part or ())
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return options_of(inner[1])
    if isinstance(origin, type) and issubclass(origin, Iterable) and set(inner[1:]) <= {...}:
        return options_of(inner[0])
    if alias := getattr(annotation, "__value__", None) or getattr(annotation, "__supertype__", None):
        return options_of(alias)
    return None


def _check_labels(
    name: str,
    examples: Sequence[dspy.Example],
    program: Program,
    metrics: tuple[Metric, ...],
    label: str | None,
) -> None:
    """Check that a field that is compared is answered, and that a label is an option of its field."""
    signature = signature_of(program)
    outputs = {} if signature is None else dict(signature.output_fields)
    if signature is not None:
        wanted = [(f"metric {metric.label} compares", field) for metric in metrics for field in metric.fields]
        wanted += [("label is", label)] if label is not None else []
        for what, field in wanted:
            if field not in outputs and field not in _ADDED:
                answers = ", ".join(map(repr, outputs))
                raise InputError(f"{what} {field!r}, which the program does not answer; it answers {answers}")
    for metric in metrics:
        for field in metric.fields:
            if field in outputs:
                options = [outputs[field].annotation]
                if wrong := _find_impossible(name, examples, metric, field, options, "the program"):
                    raise InputError(f"{wrong}: correct or drop them, or add the option")
            elif signature is None:
                given = declared_types(program).get(field, ())
                if wrong := _find_impossible(name, examples, metric, field, given, "any predictor"):
                    _warn(f"{wrong}, unless the forward of the program makes it so")
    if not all(metric.fields for metric in metrics):  # a function may compare anything
        for field, info in outputs.items():
            same = exact_match(field)
            if wrong := _find_impossible(name, examples, same, field, [info.annotation], "the program"):
                _warn(f"{wrong}, unless the metric makes it so")


def _check_not_inputs(
    name: str, examples: Sequence[dspy.Example], program: Program, metrics: tuple[Metric, ...]
) -> None:
    """Check that no label is marked as an input: the program would be given its answer, or fail on it.

    A field that the forward of the program names as a parameter is no mistake.
    """
    signature, taken = signature_of(program), taken_parameters(program) or set()
    answered = {field for metric in metrics for field in metric.fields}
    answered |= set() if signature is None else set(signature.output_fields)
    for index, example in enumerate(examples):
        if marked := sorted(((input_names(example) or set()) & answered) - taken):
            raise InputError(
                f"{name}[{index}] marks {marked[0]!r} as an input, but it is what the program is to answer: leave "
                "it out of .with_inputs(...)"
            )


def _find_impossible(
    name: str,
    examples: Sequence[dspy.Example],
    metric: Metric,
    field: str,
    annotations: Sequence[Any],
    who: str,
) -> str | None:
    """Say which labels no answer of these types can match; ``None`` if there are none."""
    parts = [options_of(annotation) for annotation in annotations]
    options = tuple(option for part in parts for option in part or ())
    if None in parts or not options:
        return None
    many = any(map(_holds_many, annotations))
    known: dict[str, bool] = {}
    wrong = []
    for index, example in enumerate(examples):
        gold = example.get(field)
        key = repr(gold)
        if key not in known:
            items = _items(metric.read(field, gold)) if many else (gold,)
            known[key] = all(_is_option(metric, example, field, item, options) for item in items)
        if not known[key]:
            wrong.append(index)
    if not wrong:
        return None
    shown = ", ".join(repr(option.value if isinstance(option, enum.Enum) else option) for option in options)
    gold = reprlib.repr(examples[wrong[0]].get(field))
    return (
        f"{name}[{wrong[0]}] has the label {gold} in {field!r}, which is no option of {who}: {shown}; "
        f"{len(wrong)} of {len(examples)} examples have such labels, and no answer to them can be right"
    )


def _is_option(
    metric: Metric, example: dspy.Example, field: str, gold: Any, options: tuple[Any, ...]
) -> bool:
    """Tell whether the metric would give anything for one of the options, or cannot tell."""
    if gold is None or (isinstance(gold, float) and gold != gold):
        return True  # a gap in the data, of which the metric warns
    if any(isinstance(option, enum.Enum) and gold == option.name for option in options):
        return True
    labels = {name: example.get(name) for name in metric.fields}
    given = dspy.Example({**labels, field: gold})

    def scores(value: Any) -> bool:
        return float(metric(given, dspy.Prediction({**labels, field: value}))) > 0

    return not scores(gold) or any(map(scores, options))


def _items(gold: Any) -> Iterator[Any]:
    if isinstance(gold, Mapping):
        yield from gold.values()
    elif isinstance(gold, list | tuple | set | frozenset):
        yield from gold
    else:
        yield gold


def _holds_many(annotation: Any) -> bool:
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin in (Annotated, Union, types.UnionType):
        return any(map(_holds_many, inner))
    return isinstance(origin, type) and issubclass(origin, Iterable)


def _warn(text: str) -> None:
    warnings.warn(text, stacklevel=5)  # of whoever called evaluate() or its like
