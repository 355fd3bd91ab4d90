"""JSON and TOML in the shape of a class: msgspec holds them against its types, one line says what does not fit.

Not Pydantic: to import it takes longer than ``dspy-nb list`` may, and msgspec is there for the JSON anyway.
"""

from __future__ import annotations

import re
from itertools import chain
from typing import Annotated, Any, Final, Literal, TypeVar, get_args, get_origin, get_type_hints

import msgspec

from dspy_nb.core.errors import Corrupt, InputError, Refused
from dspy_nb.core.text import one_line

T = TypeVar("T")

_TYPES: Final = {
    "str": "text", "int": "a whole number", "float": "a number", "bool": "true or false", "array": "a list",
    "object": "a table", "null": "nothing",
}  # fmt: skip


def fit(values: object, shape: type[T], where: str = "") -> T:
    """Return values as an instance of ``shape``, a ``msgspec.Struct`` that forbids unknown fields.

    Args:
        values: What was parsed.
        shape: The class.
        where: Where it stands, for the message.

    Raises:
        InputError: They do not fit; the message names the place, and what is valid there.
    """
    try:
        return msgspec.convert(values, shape)
    except msgspec.ValidationError as error:
        found = re.fullmatch(r"(.+?)(?: - at (?:`key` in )?`\$\.?(.*)`)?", one_line(error, 500))
        assert found is not None
    what, place = found[1], found[2] or ""
    hint = {"": shape, **get_type_hints(shape)}.get(place.partition("[")[0])
    names = ", ".join(getattr(hint, "__struct_encode_fields__", _choices(hint)))
    at = ": ".join(filter(None, (where, place)))
    if found := re.fullmatch("Expected `([^`]+)`(.*?)(?:, got `?([^`]+)`?)?", what):
        wanted, got = (
            " or ".join(_TYPES.get(kind, kind) for kind in (kinds or "").split(" | "))
            for kinds in found.group(1, 3)
        )
        wanted = f"{'one' if wanted == 'text' else wanted} of {names}" if names else f"{wanted}{found[2]}"
        raise InputError(f"{at} must be {wanted}{', not ' if got else ''}{got}".lstrip())
    if found := re.fullmatch("Object missing required field `(.+)`", what):
        raise InputError(f"{at}{'.' if place else ': ' if at else ''}{found[1]} is missing")
    if found := re.fullmatch("(?:Object contains unknown field|Invalid enum value) [`'\"](.+)[`'\"]", what):
        what = f"{found[1]!r} is none of {names}"
    raise InputError(": ".join(filter(None, (at, what))))


class _Dated(msgspec.Struct):
    schema_version: Annotated[int, msgspec.Meta(ge=1)]


def fit_file(values: object, shape: type[T], path: object, what: str, newest: int) -> T:
    """Return what a file of ours holds, with its ``schema_version``, as an instance of ``shape``.

    Args:
        values: What was parsed.
        shape: A ``msgspec.Struct``.
        path: The file, for the message.
        what: What it should be, for the message.
        newest: The schema that this version writes.

    Raises:
        Corrupt: It does not fit.
        Refused: A newer dspy_nb wrote it.
    """
    try:
        if (schema := fit(values, _Dated).schema_version) <= newest:
            return fit(values, shape)
    except InputError as error:
        raise Corrupt(f"{path} is not {what}: {error}") from error
    raise Refused(f"{path} was written by a newer dspy_nb (schema {schema}, this reads {newest}): upgrade")


def _choices(hint: Any) -> tuple[str, ...]:
    """Return the texts that a type allows."""
    inner = get_args(hint)
    return inner if get_origin(hint) is Literal else tuple(chain.from_iterable(map(_choices, inner)))
