"""What makes two examples, or two data sets, the same: hashes that hold across processes and versions."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import functools
import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any, Final

import dspy
from pydantic import BaseModel

from dspy_nb.core.errors import InputError

_FUNCTIONS: Final = (FunctionType, MethodType, BuiltinFunctionType)


def fingerprint(examples: Iterable[dspy.Example]) -> str:
    """Return the identity of a data set: 64 hexadecimal digits (SHA-256).

    It depends on every field name and value, on which fields are inputs, and on how often an example
    occurs. It does not depend on the order of fields, nor on the order of the examples: a score over a
    shuffled data set is a score over the same data.

    Values are hashed as canonical JSON. Dates, enums, sets, bytes, NumPy values, dataclasses, pydantic and
    DSPy types are spelled out by type and content; a ``dspy.Tool`` by what a language model sees of it (name,
    description and arguments), a function by its module, its name and what it is bound to; anything else by its
    ``repr``, or by its attributes where the ``repr`` is a memory address.

    Raises:
        InputError: An item is not a ``dspy.Example``, or a field has no content that can be hashed (a lock, a
            lambda, a client); the message names the field.
    """
    rows = sorted(_row_digest(example, index) for index, example in enumerate(examples, 1))
    return hashlib.sha256(b"".join(rows)).hexdigest()


def example_id(example: dspy.Example) -> str:
    """Return 16 hexadecimal digits that identify an example by its inputs alone.

    Two evaluations are aligned on it. Labels do not count: correcting a label keeps the identity.

    Raises:
        InputError: The example does not say which of its fields are inputs.
    """
    keys = input_names(example) if isinstance(example, dspy.Example) else None
    if keys is None:
        raise InputError(
            f"expected a dspy.Example with inputs, got {_kind(example)}; "
            "mark them with example.with_inputs('field') or load_examples(..., inputs=['field'])"
        )
    inputs = {name: value for name, value in example.items() if name in keys}
    return hashlib.sha256(_fields_text(inputs).encode("ascii")).hexdigest()[:16]


def input_names(example: dspy.Example) -> set[str] | None:
    """Return the names that were given as inputs, ``None`` if none ever were.

    A seam: DSPy has no interface that tells the two apart without an error, or names what is no field.
    """
    names: set[str] | None = getattr(example, "_input_keys", None)
    return names


def value_key(value: Any) -> str:
    """Return a string that is equal for equal values, whatever their type: a key for grouping.

    Raises:
        InputError: The value has no content that can be hashed.
    """
    try:
        return _ENCODER.encode(_canonical(value))
    except RecursionError:
        raise InputError("cannot hash a value that contains itself or is nested too deeply") from None


def _row_digest(example: dspy.Example, index: int) -> bytes:
    if not isinstance(example, dspy.Example):
        raise InputError(f"item {index}: expected a dspy.Example, got {_kind(example)}")
    keys = input_names(example)
    inputs = "null" if keys is None else _names_text(frozenset(keys))
    row = f'{{"fields":{_fields_text(dict(example.items()))},"inputs":{inputs}}}'
    return hashlib.sha256(row.encode("ascii")).digest()


def _fields_text(fields: Mapping[str, Any]) -> str:
    """Return the canonical JSON of the fields of an example; what has none is told by its field.

    Field by field, for most hold text: two thirds of the time of an encoder for all of them.
    """
    parts = []
    for name, value in fields.items():
        try:
            parts.append((name, _quote(value) if type(value) is str else value_key(value)))
        except InputError as error:
            raise InputError(f"field {name!r} of an example ({type(value).__name__}): {error}") from None
    return f"{{{','.join(f'{_quote(name)}:{text}' for name, text in sorted(parts))}}}"


@functools.lru_cache
def _names_text(names: frozenset[str]) -> str:
    return value_key(sorted(names))


_quote: Final = json.encoder.encode_basestring_ascii
_ENCODER: Final = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False)


_STR: Final = frozenset({str})
_LONGEST_INT = 14_284  # bits: Python writes no longer one in decimals


def _canonical(value: Any) -> Any:
    """Return JSON data that is equal for equal values; what JSON lacks becomes ``["$type", content]``."""
    kind = type(value)
    if kind is str or kind is bool or value is None:  # most are
        return value
    if kind is dict and _STR.issuperset(map(type, value)):
        return {key: _canonical(item) for key, item in value.items()}
    if isinstance(value, enum.Enum):
        return [f"${type(value).__name__}", value.name]
    if isinstance(value, int) and value.bit_length() > _LONGEST_INT:
        return ["$int", hex(value)]
    if isinstance(value, str | int):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else ["$float", str(float(value))]
    if isinstance(value, list | tuple):
        return [_canonical(item) for item in value]
    if isinstance(value, Mapping):
        if all(isinstance(key, str) for key in value):
            return {str(key): _canonical(item) for key, item in value.items()}
        return ["$dict", _sorted([key, item] for key, item in value.items())]
    if callable(getattr(value, "tolist", None)):  # a NumPy value is the Python value it holds
        return _canonical(value.tolist())
    return [f"${type(value).__name__}", _content(value)]


def _content(value: Any) -> Any:
    if isinstance(value, set | frozenset):
        return _sorted(value)
    if isinstance(value, dspy.Tool):
        return _canonical({"name": value.name, "desc": value.desc, "args": value.args})
    if isinstance(value, functools.partial):
        return _canonical([value.func, value.args, value.keywords])
    if isinstance(value, _FUNCTIONS):
        return _function(value)
    if isinstance(value, bytes | bytearray):
        return value.hex()
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, dspy.Example):
        return _canonical(dict(value.items()))
    if isinstance(value, BaseModel):
        # Not model_dump(): DSPy types override it with a rendering for the prompt.
        names = [*type(value).model_fields, *(value.model_extra or {})]
        return _canonical({name: getattr(value, name) for name in names})
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _canonical({field.name: getattr(value, field.name) for field in dataclasses.fields(value)})
    text = repr(value)
    if " at 0x" not in text:
        return text
    if not hasattr(value, "__dict__") or callable(value):  # what is called may change with each call
        raise _no_content(value)
    return _canonical(vars(value))


def _function(value: Any) -> Any:
    """Return where a function is defined and what it is bound to, which is what tells it in another process."""
    if value.__name__ == "<lambda>":
        raise _no_content(value)
    bound = getattr(value, "__self__", None)
    parts = {
        "name": f"{value.__module__}.{value.__qualname__}",
        "self": None if isinstance(bound, ModuleType) else bound,
        "closure": [cell.cell_contents for cell in getattr(value, "__closure__", None) or ()],
        "defaults": getattr(value, "__defaults__", None),
        "keywords": getattr(value, "__kwdefaults__", None),
    }
    return {name: _canonical(part) for name, part in parts.items()}


def _no_content(value: Any) -> InputError:
    return InputError(
        f"cannot hash a {type(value).__name__}: its repr is a memory address; give plain data, a dataclass, a "
        "pydantic model, a dspy.Tool, a named function or a class with its own __repr__"
    )


def _sorted(values: Iterable[Any]) -> list[Any]:
    return sorted((_canonical(value) for value in values), key=lambda item: json.dumps(item, sort_keys=True))


def _kind(value: object) -> str:
    return "an Example without inputs" if isinstance(value, dspy.Example) else type(value).__name__


def count_shared(examples: Iterable[dspy.Example], others: Iterable[dspy.Example]) -> int:
    """Return how many of ``examples`` are among ``others`` too."""
    known = {example_id(example) for example in others}
    return sum(example_id(example) in known for example in examples)
