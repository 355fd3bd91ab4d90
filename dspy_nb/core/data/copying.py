"""Copies of examples and predictions for those who may write into them: a program, a metric, an optimizer."""

from __future__ import annotations

import copy
from types import NoneType
from typing import Any, TypeVar

import dspy

_T = TypeVar("_T")

_CONSTANT = frozenset({NoneType, bool, bytes, float, int, str})


def own_copy(value: _T) -> _T:
    """Return a copy with lists, dicts, models and arrays of its own, at any depth.

    What is compared by identity (a client, a lock, a function) is shared, for a copy of it would be something
    else; and so is what cannot be copied.
    """
    try:
        copied: _T = _copy(value)
    except RecursionError:  # it contains itself
        return value
    return copied


def _copy(value: Any) -> Any:
    kind: Any = type(value)
    if kind in _CONSTANT:
        return value
    if kind is list:
        return [_copy(item) for item in value]
    if kind is dict:
        return {key: _copy(item) for key, item in value.items()}
    if kind is tuple:
        return tuple([_copy(item) for item in value])
    if isinstance(value, dspy.Example):
        made = kind.__new__(kind)  # its constructor takes fields
        parts = vars(made)
        parts.update(vars(value), _store=_copy(vars(value)["_store"]))
        if (completions := parts.get("_completions")) is not None:
            lists = {name: _copy(values) for name, values in completions.items()}
            parts["_completions"] = type(completions)(lists, completions.signature)
        return made
    if kind.__eq__ is object.__eq__:
        return value
    try:
        return copy.deepcopy(value)
    except Exception:
        return value
