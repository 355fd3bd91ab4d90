"""Programs that change themselves when they answer: found out by their attributes before and after."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import dspy

from dspy_nb.core.programs.spec import KEPT_BY_DSPY, Program, parts_of

logger = logging.getLogger(__name__)

_MOST = 10_000  # values that are looked at in a program; of larger collections, the size
_COLLECTIONS = (list, tuple, dict, set, frozenset)
_CONSTANT = (type(None), bool, bytes, complex, float, int, str)


def watch(programs: Sequence[Program]) -> Callable[[], None]:
    """Remember the attributes of some programs; return what warns if they have changed since.

    Seen are values that are replaced, and what is put into lists, dicts, sets and demos; not what objects of other
    classes keep to themselves.
    """
    before = [_take_picture(program) for program in programs]

    def warn() -> None:
        for program, then in zip(programs, before, strict=True):
            now = _take_picture(program)
            changed = [name for name in dict.fromkeys([*then, *now]) if then.get(name) != now.get(name)]
            if then and changed:
                logger.warning(
                    "%s changes itself when it answers (%s): its next answers may depend on the ones before",
                    type(program).__name__,
                    ", ".join(changed[:5]),
                )

    return warn


def _take_picture(program: Program) -> dict[str, Any]:
    """Return what the attributes of a program are, of its sub-modules too; equal if nothing has changed."""
    left = [_MOST]
    with contextlib.suppress(Exception):  # it changes right now, or has attributes of a kind of its own
        return {name: _describe_value(value, left) for name, value in _attributes(program)}
    return {}


def _attributes(program: Program) -> Iterator[tuple[str, Any]]:
    modules = parts_of(program) if isinstance(program, dspy.Module) else [("self", program)]
    for name, module in modules:
        for attribute, value in getattr(module, "__dict__", {}).items():
            if attribute not in KEPT_BY_DSPY:
                yield f"{name}.{attribute}".removeprefix("self."), value


def _describe_value(value: Any, left: list[int]) -> Any:
    if isinstance(value, _CONSTANT):
        return value
    if isinstance(value, dspy.Example):
        return _Same(value), _items(dict(value.items()), left)
    if not isinstance(value, _COLLECTIONS):
        return _Same(value)
    if len(value) > left[0]:
        return _Same(value), len(value)
    left[0] -= len(value)
    return _Same(value), _items(value, left)


def _items(value: Collection[Any], left: list[int]) -> Any:
    if isinstance(value, Mapping):
        return {key: _describe_value(item, left) for key, item in value.items()}
    if isinstance(value, set | frozenset):
        return frozenset(value)
    return [_describe_value(item, left) for item in value]


class _Same:
    """Equal to what holds the very same object, which it keeps alive."""

    def __init__(self, value: Any) -> None:
        self._value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self._value is other._value

    __hash__ = None  # type: ignore[assignment]
