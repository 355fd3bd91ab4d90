"""What makes two examples, or two data sets, the same: hashes that hold across processes and versions."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

import dspy
from pydantic import BaseModel

from dspy_nb.core.errors import InputError

__all__ = ["example_id", "fingerprint", "input_names", "value_key"]


def fingerprint(examples: Iterable[dspy.Example]) -> str:
    """Return the identity of a data set: 64 hexadecimal digits (SHA-256).

    It depends on every field name and value, on which fields are inputs, and on how often an example
    occurs. It does not depend on the order of fields, nor on the order of the examples: a score over a
    shuffled data set is a score over the same data.

    Values are hashed as canonical JSON. Dates, enums, sets, bytes, NumPy values, dataclasses, pydantic and
    DSPy types are spelled out by type and content; anything else by its ``repr``, or by its attributes
    where the ``repr`` is a memory address.

    Raises:
        InputError: An item is not a ``dspy.Example``, or a value has no content that can be hashed.
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
    return hashlib.sha256(_canonical_json(inputs)).hexdigest()[:16]


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
    return _canonical_json(value).decode("ascii")


def _row_digest(example: dspy.Example, index: int) -> bytes:
    if not isinstance(example, dspy.Example):
        raise InputError(f"item {index}: expected a dspy.Example, got {_kind(example)}")
    keys = input_names(example)
    row = {"fields": dict(example.items()), "inputs": None if keys is None else sorted(keys)}
    return hashlib.sha256(_canonical_json(row)).digest()


def _canonical_json(value: Any) -> bytes:
    try:
        text = json.dumps(_canonical(value), sort_keys=True, separators=(",", ":"), allow_nan=False)
    except RecursionError:
        raise InputError("cannot hash a value that contains itself or is nested too deeply") from None
    return text.encode("ascii")


def _canonical(value: Any) -> Any:
    """Return JSON data that is equal for equal values; what JSON lacks becomes ``["$type", content]``."""
    if isinstance(value, enum.Enum):
        return [f"${type(value).__name__}", value.name]
    if value is None or isinstance(value, str | int):
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
    if not hasattr(value, "__dict__") or callable(value):
        raise InputError(
            f"cannot hash a {type(value).__name__}: its repr is a memory address; "
            "give plain data, a dataclass, a pydantic model or a class with its own __repr__"
        )
    return _canonical(vars(value))


def _sorted(values: Iterable[Any]) -> list[Any]:
    return sorted((_canonical(value) for value in values), key=lambda item: json.dumps(item, sort_keys=True))


def _kind(value: object) -> str:
    return "an Example without inputs" if isinstance(value, dspy.Example) else type(value).__name__


def place_of(salt: str, unit: str) -> float:
    """Return where a unit lies in [0, 1): always the same, uniform, and independent between salts.

    It goes to B if the place is below the split. So raising the split moves nobody from B to A, and with the
    hash independent of who comes when, the probability of B is the split in force at the first request.

    Source: the first 53 bits of SHA-256, as a fraction.
    """
    digest = hashlib.sha256(f"{salt}\0{unit}".encode()).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53
