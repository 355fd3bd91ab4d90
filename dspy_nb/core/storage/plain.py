"""Any value as JSON data, for files that people and other tools read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import dspy
from pydantic import BaseModel

__all__ = ["plain"]


def plain(value: Any) -> Any:
    """Return JSON data: an unknown type becomes what it dumps as, holds, or prints."""
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, dspy.Example):
        return plain(dict(value.items()))
    if isinstance(value, BaseModel):
        return plain({name: getattr(value, name) for name in type(value).model_fields})
    if callable(getattr(value, "tolist", None)):  # NumPy
        return plain(value.tolist())
    return str(value)
