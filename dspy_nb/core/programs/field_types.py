"""Types of signature fields as text, and back, without executing or importing anything.

DSPy's own parser of ``"question: module.Type -> answer"`` imports the modules that the text names, so a file
that somebody else wrote must never reach it. Here only the names in a fixed table mean anything.
"""

from __future__ import annotations

import ast
import re
import types
from collections.abc import Mapping
from datetime import date, datetime
from functools import cache
from typing import Any, Final, Literal, Union, get_args, get_origin

from dspy_nb.core.errors import Corrupt

_PLAIN: Final[Mapping[str, Any]] = {
    "str": str, "int": int, "float": float, "bool": bool, "bytes": bytes, "None": type(None), "Any": Any,
    "date": date, "datetime": datetime, "list": list, "dict": dict, "set": set, "tuple": tuple,
}  # fmt: skip
_CONTAINERS: Final = (list, dict, set, tuple)
_DSPY: Final = ("Audio", "History", "Image")
_LONGEST: Final = 2_000
_MODULES: Final = re.compile(r"(?:[\w<>]+\.)+")


def type_text(annotation: Any) -> str:
    """Return a type as text, such as ``list[str]`` or ``Literal['a', 'b']``; others as module.Class."""
    origin = get_origin(annotation)
    if origin is Literal:
        return f"Literal[{', '.join(repr(value) for value in get_args(annotation))}]"
    if origin is Union or origin is types.UnionType:
        return " | ".join(type_text(member) for member in get_args(annotation))
    if origin in _CONTAINERS:
        members = ", ".join("..." if item is ... else type_text(item) for item in get_args(annotation))
        return f"{origin.__name__}[{members}]" if members else origin.__name__
    for name, plain in _names().items():
        if annotation is plain or (annotation is None and name == "None"):
            return name
    if origin is None and isinstance(annotation, type):
        return f"{annotation.__module__}.{annotation.__qualname__}"
    return str(annotation).replace("typing.", "")


def same_type(a: str, b: str) -> bool:
    """Return whether two texts name the same type; a class may have moved to another module."""
    return a == b or (
        not is_plain_type(a) and not is_plain_type(b) and _MODULES.sub("", a) == _MODULES.sub("", b)
    )


def is_plain_type(text: str) -> bool:
    """Return whether ``parse_type`` understands ``text``."""
    try:
        parse_type(text)
    except Corrupt:
        return False
    return True


def parse_type(text: str) -> Any:
    """Return the type that ``text`` names.

    Raises:
        Corrupt: It is none of the plain types, their containers, unions and literals.
    """
    try:
        if len(text) > _LONGEST:
            raise ValueError("it is too long")
        return _build(ast.parse(text, mode="eval").body)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError) as error:
        raise Corrupt(f"the field type {text[:80]!r} is not one of the plain types") from error


def _build(node: ast.expr) -> Any:
    match node:
        case ast.Name(id=name) if name in _names():
            return _names()[name]
        case ast.Constant(value=None):
            return type(None)
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return Union[_build(left), _build(right)]  # noqa: UP007 (a type that is known only at run time)
        case ast.Subscript(value=ast.Name(id="Literal"), slice=inside):
            return Literal[tuple(_literal(item) for item in _items(inside))]
        case ast.Subscript(value=ast.Name(id=name), slice=inside) if _PLAIN.get(name) in _CONTAINERS:
            members = tuple(
                ... if isinstance(item, ast.Constant) and item.value is ... else _build(item)
                for item in _items(inside)
            )
            return types.GenericAlias(_PLAIN[name], members)
    raise ValueError("not a plain type")


def _items(node: ast.expr) -> list[ast.expr]:
    return node.elts if isinstance(node, ast.Tuple) else [node]


def _literal(node: ast.expr) -> object:
    value = ast.literal_eval(node)
    if not isinstance(value, str | int | bool | None):
        raise ValueError("not a literal value")
    return value


@cache
def _names() -> Mapping[str, Any]:
    import dspy

    return {**_PLAIN, **{name: getattr(dspy, name) for name in _DSPY}}
