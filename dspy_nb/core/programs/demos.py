"""Demos as JSON, and back: a prompt is rendered from them alike before and after.

A value is stored as DSPy's adapters show it to a language model, and read back by the type that its field
declares if the value that this gives is shown the same; else it stays plain JSON. Where neither does (a tuple in a
field that declares no type, which DSPy shows otherwise than a list), the demo names the value's own plain type
under ``dspy_nb_types``, a key that adapters do not show and DSPy's own ``load`` does not mind.
"""

from __future__ import annotations

import ast
import enum
import json
import math
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from dspy_nb.core.arguments import DEEPEST, is_too_deep
from dspy_nb.core.errors import Corrupt, InputError
from dspy_nb.core.programs.field_types import parse_type, type_text
from dspy_nb.core.text import error_text

if TYPE_CHECKING:
    import dspy
    from pydantic import TypeAdapter

_TYPES: Final = "dspy_nb_types"
_LARGEST_INT: Final = 2**63  # beyond it, readers of JSON make a float of it
# What a value in a field of another type may be read back as.
_PLAIN: Final[Mapping[str, Any]] = {
    "None": type(None), "tuple": tuple, "set": set | frozenset, "float": float, "int": int, "bytes": bytes
}  # fmt: skip
_ADDRESS: Final = " at 0x"


class LiveObject(InputError):
    """A demo holds an object that is nothing but a place in memory, such as a function or a client."""


def dump_demo(demo: Any, signature: type[dspy.Signature]) -> dict[str, Any]:
    """Return a demo as JSON data.

    What is no field of the signature, such as an unused column of the data, is not shown to a language model: it is
    kept if it is JSON as it is, and left out if not.

    Raises:
        LiveObject: A field holds an object without content of its own.
        InputError: A field holds what would not come back the same; the message names it and its type.
    """
    try:
        values = dict(demo.items())
    except (AttributeError, TypeError, ValueError):
        raise InputError(f"a demo must be a dspy.Example or a dict, not a {type(demo).__name__}") from None
    stored: dict[str, Any] = {}
    own_types: dict[str, str] = {}
    for name, value in values.items():
        if name == _TYPES:
            continue
        if name not in signature.fields:
            if isinstance(name, str) and _is_exact_json(value):
                stored[name] = value
            continue
        annotation = signature.fields[name].annotation
        try:
            stored[name], own_type = _store(name, value, annotation)
        except InputError:
            raise
        except ValueError as error:  # an integer of more than 4,300 digits
            raise InputError(f"the field {name!r} of a demo cannot be stored: {error_text(error)}") from None
        if own_type is not None:
            own_types[name] = own_type
    return {**stored, _TYPES: own_types} if own_types else stored


def load_demo(stored: Mapping[str, Any], signature: type[dspy.Signature]) -> dict[str, Any]:
    """Return a demo with values of the types that the signature declares, where the stored ones are such.

    Raises:
        Corrupt: What it says of its types is not as it should be.
    """
    own_types = stored.get(_TYPES, {})
    if not isinstance(own_types, Mapping) or not all(isinstance(text, str) for text in own_types.values()):
        raise Corrupt(f"a demo has {_TYPES} that are no table of types")
    demo = {name: value for name, value in stored.items() if name != _TYPES}
    for name, field in signature.fields.items():
        if name in demo:
            own = own_types.get(name)
            demo[name] = _restore(demo[name], field.annotation if own is None else parse_type(own))
    return demo


def _store(name: str, value: Any, annotation: Any) -> tuple[Any, str | None]:
    """Return a value as JSON, and its own type where the declared one does not bring it back."""
    if annotation is str and (value is None or type(value) in (str, bool)):
        return _check(name, value, value), None
    if is_too_deep(value):
        raise InputError(f"the field {name!r} of a demo is nested deeper than {DEEPEST} levels")
    for shown in (_show(value), _show_alone(value)):
        plain = _check(name, value, _spell_numbers(shown))
        if _are_shown_alike(_restore(plain, annotation), value):
            return plain, None
        for own, known in _PLAIN.items():
            if isinstance(value, known) and _are_shown_alike(_restore(plain, parse_type(own)), value):
                return plain, own
    raise InputError(
        f"the field {name!r} of a demo holds a {type(value).__name__} that JSON does not bring back as it is "
        f"shown to the language model; its type is declared as {type_text(annotation)}"
    )


def _restore(plain: Any, annotation: Any) -> Any:
    """Return the value of a type behind stored JSON, if there is one that is stored the same; else the JSON."""
    if annotation is str or annotation is Any:
        return plain
    if annotation is bytes and (found := _read_bytes(plain)) is not None:
        return found
    text = _write_json(plain)
    if isinstance(annotation, enum.EnumMeta):
        members: list[Any] = list(annotation)
        return next(
            (member for member in members if _write_json(_spell_numbers(_show(member))) == text), plain
        )
    for by_name in (None, True):  # DSPy shows models by the names of their fields, whatever aliases they have
        try:
            value = _adapter_of(annotation).validate_json(text, by_name=by_name)
            if any(_write_json(_spell_numbers(show(value))) == text for show in (_show, _show_alone)):
                return value
        except Exception:  # validators are the user's own; the plain value is shown the same
            continue
    return plain


def _read_bytes(plain: Any) -> bytes | None:
    """Return the bytes that are no text, which are shown as Python writes them."""
    if not isinstance(plain, str) or not plain.startswith(("b'", 'b"')):
        return None
    try:
        value = ast.literal_eval(plain)
        value.decode()
    except UnicodeDecodeError:
        return bytes(value) if str(value) == plain else None
    except (ValueError, SyntaxError, AttributeError):
        pass
    return None


def _show(value: Any) -> Any:
    """Return a value as DSPy's adapters show it among others, as Python's JSON data."""
    try:
        return _adapter_of(Any).dump_python(value, mode="json", fallback=str, warnings=False)
    except Exception:
        return _Spoilt(value)


class _Spoilt(str):
    """Text of a value that is no JSON: it spoils what stands beside it, too."""


def _show_alone(value: Any) -> Any:
    """Return a value as DSPy's adapters show it by itself."""
    kind: Any = type(value)
    try:
        return _adapter_of(kind).dump_python(value, mode="json", fallback=str, warnings=False)
    except Exception:
        return str(value)


def _are_shown_alike(a: Any, b: Any) -> bool:
    return _showings(a) == _showings(b)


def _showings(value: Any) -> tuple[Any, ...]:
    """Return all that adapters make of a value: beside others and alone, missing, and a list as a numbered one."""
    beside, alone = _show(value), _show_alone(value)
    return (
        value is None,
        isinstance(value, list),
        type(beside) is _Spoilt,
        json.dumps(beside),  # with NaN, as adapters have it
        json.dumps(alone) if isinstance(alone, list | dict) else str(alone),
    )


def _spell_numbers(shown: Any) -> Any:
    """Return JSON data without what JSON has no numbers for; pydantic reads the texts as these numbers."""
    if isinstance(shown, float) and not math.isfinite(shown):
        return "NaN" if math.isnan(shown) else "Infinity" if shown > 0 else "-Infinity"
    if isinstance(shown, int) and not isinstance(shown, bool) and not -_LARGEST_INT <= shown < _LARGEST_INT:
        return str(shown)
    if isinstance(shown, list):
        return [_spell_numbers(item) for item in shown]
    if isinstance(shown, dict):
        return {key: _spell_numbers(item) for key, item in shown.items()}
    return shown


def _check(name: str, value: Any, plain: Any) -> Any:
    """Return stored JSON if it is text that has a meaning elsewhere too."""
    text = _write_json(plain)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"the field {name!r} of a demo ({type(value).__name__}) cannot be stored: it holds "
            f"U+{ord(text[error.start]):04X}, half of a surrogate pair, which is no text by itself: remove it"
        ) from None
    if _ADDRESS in text and (live := _find_live_part(value)) is not None:
        raise LiveObject(
            f"the field {name!r} of a demo holds a {type(live).__name__}, which cannot be stored: it is shown to "
            "the language model as a place in memory"
        )
    return plain


def _find_live_part(value: Any) -> Any:
    """Return what is in a value that has no content of its own, if anything."""
    found: list[Any] = []

    def name(part: Any) -> str:
        if _ADDRESS in str(part):
            found.append(part)
        return str(part)

    try:
        _adapter_of(Any).dump_python(value, mode="json", fallback=name, warnings=False)
    except Exception:
        return value
    return found[0] if found else None


def _write_json(plain: Any) -> str:
    return json.dumps(plain, ensure_ascii=False)


def _is_exact_json(value: Any) -> bool:
    if value is None or type(value) in (bool, int):
        return True
    if type(value) is float:
        return math.isfinite(value)
    if type(value) is str:
        return not any("\ud800" <= letter <= "\udfff" for letter in value)
    if type(value) is list:
        return all(map(_is_exact_json, value))
    return (
        type(value) is dict
        and all(type(key) is str and _is_exact_json(key) for key in value)
        and all(map(_is_exact_json, value.values()))
    )


@lru_cache(256)
def _adapter_of(annotation: Any) -> TypeAdapter[Any]:
    from pydantic import TypeAdapter

    return TypeAdapter(annotation)
