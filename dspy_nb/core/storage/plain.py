"""Any value as JSON data, for files that people and other tools read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any

_LONGEST_INT = 14_284  # bits: Python writes no longer one in decimals


def plain(value: Any) -> Any:
    """Return JSON data: an unknown type becomes what it dumps as, holds, or prints."""
    if isinstance(value, Enum):
        return plain(value.value)
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()  # half of a surrogate pair is no text
    if isinstance(value, int) and value.bit_length() > _LONGEST_INT:
        return hex(value)
    if value is None or isinstance(value, int):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {_text(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value)}
    import dspy
    from pydantic import BaseModel

    if isinstance(value, dspy.Example):
        return plain(dict(value.items()))
    if isinstance(value, dspy.Tool):
        return plain({"name": value.name, "desc": value.desc, "args": value.args})
    if isinstance(value, BaseModel):
        return plain({name: getattr(value, name) for name in type(value).model_fields})
    if callable(getattr(value, "tolist", None)):  # NumPy
        return plain(value.tolist())
    return _text(value)


def _text(value: Any) -> str:
    if isinstance(value, bytes | bytearray):
        return value.decode("utf-8", "backslashreplace")
    if callable(value) and hasattr(value, "__qualname__"):
        return str(value.__qualname__)
    text = plain(value) if isinstance(value, Enum) else str(value)
    return str(text).encode("utf-8", "backslashreplace").decode()
