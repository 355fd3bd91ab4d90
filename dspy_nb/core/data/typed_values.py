"""What a typed value holds, and plain values read as its type: dates, UUIDs, enums, models, dataclasses.

A data set holds texts, numbers, lists and dicts where a program answers with objects. Pydantic reads the one as
the other, as DSPy does with the answers of a language model; what it cannot read is simply not read.
"""

from __future__ import annotations

import ast
import contextlib
import copy
import dataclasses
import functools
import json
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from enum import Enum
from typing import Any, Final, TypeGuard

import dspy
from pydantic import AliasChoices, BaseModel, RootModel, TypeAdapter
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined, to_json

JSON_TYPES: Final = frozenset({str, int, float, bool, type(None), list, dict})
_PLAIN: Final = (str, int, float, list, dict, set, frozenset, type(None))
_MISSING: Final = object()


def open_up(value: Any) -> Any:
    """Return NumPy's values, tuples, mappings and examples as plain ones; what they contain stays as it is."""
    if type(value) in JSON_TYPES or isinstance(value, Enum | BaseModel):
        return open_up(value.root) if isinstance(value, RootModel) else value
    if isinstance(value, tuple):
        return value if is_named_tuple(value) else list(value)
    if isinstance(value, dspy.Example):
        return dict(value.items())
    if isinstance(value, deque):
        return list(value)
    if isinstance(value, Mapping):
        return dict(value)
    if callable(getattr(value, "tolist", None)):  # NumPy, pandas
        kind = getattr(getattr(value, "dtype", None), "kind", "")
        # Python's dates know microseconds; of nanoseconds, NumPy makes plain integers.
        return (value.astype(f"{kind}8[us]") if kind and kind in "mM" else value).tolist()
    return value


def is_plain(value: Any) -> bool:
    """Tell whether a value is text, a number, a boolean, ``None`` or a container, rather than of a type."""
    return isinstance(value, _PLAIN) and not isinstance(value, Enum)  # an enum may be a str or an int


def is_json(value: Any) -> bool:
    """Tell whether JSON holds a value as it is."""
    if isinstance(value, list):
        return all(map(is_json, value))
    if isinstance(value, dict):
        return all(isinstance(key, str) for key in value) and all(map(is_json, value.values()))
    return type(value) in JSON_TYPES


def is_named_tuple(value: Any) -> bool:
    """Tell whether a value is a tuple with names."""
    return isinstance(value, tuple) and hasattr(value, "_fields")


def is_same_class(a: type, b: type) -> bool:
    """Tell whether two classes are one, one inherits the other, or a notebook's cell defined one twice."""
    return a.__name__ == b.__name__ or issubclass(a, b) or issubclass(b, a)


def fields_of(value: Any) -> dict[str, Any] | None:
    """Return what a model, a dataclass or a named tuple holds, by name; ``None`` for everything else."""
    if isinstance(value, BaseModel):
        # Not model_dump(): DSPy types override it with a rendering for the prompt.
        return {
            name: getattr(value, name) for name in [*type(value).model_fields, *(value.model_extra or ())]
        }
    if _is_dataclass(value):
        compared = (field.name for field in dataclasses.fields(value) if field.compare)
        return {name: getattr(value, name, None) for name in compared}
    if is_named_tuple(value):
        return dict(value._asdict())
    return None


def fill_in(kind: type, given: Mapping[Any, Any]) -> dict[str, Any] | None:
    """Return the fields of a record, whatever alias they are given by, the missing ones with their defaults.

    Returns:
        What to compare with ``fields_of`` an instance; ``None`` if a field is missing that has no default, or
        the type has no such field.
    """
    rest = dict(given)
    values = {}
    for name, aliases, default in _slots(kind):
        found = next((key for key in (name, *aliases) if key in rest), None)
        value = default() if found is None else rest.pop(found)
        if value is _MISSING:
            return None
        values[name] = value
    if issubclass(kind, BaseModel) and kind.model_config.get("extra") == "allow":
        return {**values, **rest}
    return None if rest else values


def readings(kind: Any, plain: Any) -> Iterator[Any]:
    """Yield what a plain value is when it is read as a type, or annotation; nothing if it cannot be."""
    try:
        adapter = _adapter(kind)
    except TypeError:  # an annotation that cannot be a key of the cache
        return
    if adapter is None:
        return
    failed = True
    with contextlib.suppress(Exception):  # a validator of the user may raise anything
        # A copy: a validator may change what it is given.
        yield adapter.validate_python(copy.deepcopy(plain))
        failed = False
    # JSON is read more freely where a model is strict, and differently where its bytes are base64. A text that
    # has been read is not read again: to a path or to bytes its quotes belong.
    if failed or not isinstance(plain, str):
        with contextlib.suppress(Exception):
            yield adapter.validate_json(plain if isinstance(plain, str) else to_json(plain))


def parse_text(text: str) -> Any:
    """Return the list or dict that a text spells in JSON or as Python's literal; ``None`` if it does not."""
    text = text.strip()
    if not text.startswith(("[", "{", "(")):
        return None
    with contextlib.suppress(ValueError, RecursionError):
        return json.loads(text)
    if "\\" not in text:  # Python would warn of an unknown escape
        with contextlib.suppress(ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            return _container(ast.literal_eval(text))
    return None


def are_equal(a: Any, b: Any) -> bool:
    """Compare as the types themselves do; what cannot be compared is not equal."""
    try:
        return bool(a == b)
    except Exception:
        return False


def _container(value: Any) -> Any:
    value = open_up(value)
    return value if isinstance(value, list | dict | set) else None


def _is_dataclass(value: Any) -> TypeGuard[Any]:
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


@functools.lru_cache(maxsize=512)
def _adapter(kind: Any) -> TypeAdapter[Any] | None:
    """Return what reads values as a type, or as the type that it inherits (a pandas Timestamp is a datetime)."""
    for ancestor in kind.__mro__[:-1] if isinstance(kind, type) else (kind,):
        with contextlib.suppress(Exception):
            adapter: TypeAdapter[Any] = TypeAdapter(ancestor)
            adapter.validator  # noqa: B018 (a type that cannot be resolved fails only here)
            return adapter
    return None


def _slots(kind: type) -> Iterator[tuple[str, Iterable[str], Any]]:
    """Yield name, aliases and what makes the default of each field of a record."""
    if issubclass(kind, BaseModel):
        for name, info in kind.model_fields.items():
            yield name, _aliases(info), functools.partial(_model_default, info)
    elif dataclasses.is_dataclass(kind):
        for field in dataclasses.fields(kind):
            if field.compare:
                yield field.name, (), functools.partial(_dataclass_default, field)
    elif issubclass(kind, tuple):
        defaults = getattr(kind, "_field_defaults", {})
        for name in getattr(kind, "_fields", ()):
            yield name, (), functools.partial(defaults.get, name, _MISSING)


def _aliases(info: FieldInfo) -> Iterable[str]:
    choices = info.validation_alias
    listed = choices.choices if isinstance(choices, AliasChoices) else [choices]
    return [alias for alias in (info.alias, *listed, info.serialization_alias) if isinstance(alias, str)]


def _model_default(info: FieldInfo) -> Any:
    with contextlib.suppress(Exception):  # a factory of the user, or one that wants the other fields
        value = info.get_default(call_default_factory=True)
        return _MISSING if value is PydanticUndefined else value
    return _MISSING


def _dataclass_default(field: dataclasses.Field[Any]) -> Any:
    if isinstance(field.default, FieldInfo):
        return _model_default(field.default)
    if field.default is not dataclasses.MISSING:
        return field.default
    if field.default_factory is not dataclasses.MISSING:
        with contextlib.suppress(Exception):
            return field.default_factory()
    return _MISSING
