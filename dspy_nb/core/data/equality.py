"""When are two values the same? A label may be text where a program returns a number, a date or a model.

One side is what a data set holds, the other what a program answers; it does not matter which is which. Where one
is of a type (a date, a UUID, an enum, a model, ...) and the other is plain, the plain one is read as that type, as
DSPy reads the answer of a language model, and both are compared as the type compares, with the metric's rule for
the texts inside. What cannot be read is not equal; nothing raises.

- An enum's member is given by its value or, if there is no such value, by its name. Members of two enums are equal
  if name and value are (a notebook's cell that ran twice defines two).
- Two models, or dataclasses, with equal fields are equal if their classes have one name or inherit one another.
- A list is the set of its items where the other side is a set; a tuple is a list. Keys of a dict are compared
  exactly, read as the type that the other side has.
- Unknown keys are a matter of the type: pydantic ignores or refuses them. NaN equals nothing.
"""

from __future__ import annotations

import contextlib
import unicodedata
from collections.abc import Callable, Iterable
from decimal import Decimal
from enum import Enum
from typing import Any, Final

from dspy_nb.core.data.typed_values import (
    JSON_TYPES,
    are_equal,
    fields_of,
    fill_in,
    is_json,
    is_named_tuple,
    is_plain,
    is_same_class,
    open_up,
    parse_text,
    readings,
)

TextRule = Callable[[str], str]
_SETS: Final = (set, frozenset)
_CONTAINERS: Final = (list, dict, *_SETS)


def same_exactly(gold: Any, pred: Any) -> bool:
    """Compare by value: ``4`` is not ``"4"``, though an enum is its value, a tuple its list, a date its text."""
    return _same(gold, pred, _as_it_is)


def same_stripped(gold: Any, pred: Any) -> bool:
    """Compare text regardless of case and outer white space, and a number or boolean with its text."""
    return _same(gold, pred, _strip)


def same_normalized(gold: Any, pred: Any) -> bool:
    """Compare as ``same_stripped``, and regardless of runs of white space and Unicode composition."""
    return _same(gold, pred, _normalize)


def text_rule(same: Callable[[Any, Any], bool]) -> TextRule:
    """Return what is equal of two texts if, and only if, one of the comparisons above calls them the same."""
    rules: dict[Any, TextRule] = {same_exactly: _as_it_is, same_stripped: _strip, same_normalized: _normalize}
    return rules[same]


def is_gap(value: Any) -> bool:
    """Tell whether a value stands for none: ``None``, NaN, pandas' NA and NaT."""
    try:
        return value is None or bool(value != value)
    except Exception:  # NA is neither; an array is several
        return not hasattr(value, "__len__")


def word_set(value: Any) -> set[str]:
    """Return the lower-case words of a text, or of everything in a list, dict or record; none for ``None``."""
    value = open_up(value)
    if isinstance(value, Enum):
        return word_set(value.value)
    if value is None:
        return set()
    fields = fields_of(value)
    if fields is not None:
        value = fields
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | set | frozenset):
        return set().union(*map(word_set, value))
    if callable(getattr(value, "isoformat", None)):
        value = value.isoformat()
    return set(str(value).lower().split())


def words_of_both(gold: Any, pred: Any) -> tuple[set[str], set[str]]:
    """Return the words of two values, one read as the type of the other where it can be."""
    if not (isinstance(gold, str) and isinstance(pred, str)) and same_normalized(gold, pred):
        words = word_set(pred)  # however it is spelled: with another time zone, or "1" for True
        return words, words
    return word_set(_read_like(gold, pred)), word_set(_read_like(pred, gold))


def _as_it_is(text: str) -> str:
    return text


def _strip(text: str) -> str:
    return text.lower().strip()


def _normalize(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).casefold().split())


def _same(gold: Any, pred: Any, text: TextRule) -> bool:
    if type(gold) is str and type(pred) is str:  # most are
        return text(gold) == text(pred)
    if type(gold) in JSON_TYPES and type(pred) in JSON_TYPES:
        return _same_plain(gold, pred, text)
    kinds = type(gold), type(pred)
    gold, pred = open_up(gold), open_up(pred)
    if isinstance(gold, str) and isinstance(pred, _CONTAINERS) and kinds[1] not in JSON_TYPES:
        return _spells(gold, pred, text)
    if isinstance(pred, str) and isinstance(gold, _CONTAINERS) and kinds[0] not in JSON_TYPES:
        return _spells(pred, gold, text)
    if is_plain(gold):
        return _same_plain(gold, pred, text) if is_plain(pred) else _same_typed(pred, gold, text)
    return _same_typed(gold, pred, text) if is_plain(pred) else _same_pair(gold, pred, text)


def _same_plain(gold: Any, pred: Any, text: TextRule) -> bool:
    """Compare texts, numbers, booleans, lists, dicts and sets."""
    if isinstance(gold, str):
        return text(gold) == text(pred) if isinstance(pred, str) else _is_text_of(gold, pred, text)
    if isinstance(pred, str):
        return _is_text_of(pred, gold, text)
    if isinstance(gold, list) and isinstance(pred, list):
        return len(gold) == len(pred) and all(_same(a, b, text) for a, b in zip(gold, pred, strict=True))
    if isinstance(gold, dict) and isinstance(pred, dict):
        return _same_dict(gold, pred, text)
    if isinstance(gold, _SETS) or isinstance(pred, _SETS):
        return _same_set(gold, pred, text)
    return are_equal(gold, pred)


def _same_set(gold: Any, pred: Any, text: TextRule) -> bool:
    """Compare without order: one side is a set, the other may be a list (JSON has no sets)."""
    if not isinstance(gold, (list, *_SETS)) or not isinstance(pred, (list, *_SETS)):
        return False
    return all(any(_same(a, b, text) for b in pred) for a in gold) and all(
        any(_same(a, b, text) for a in gold) for b in pred
    )


def _same_dict(gold: dict[Any, Any], pred: dict[Any, Any], text: TextRule) -> bool:
    if gold.keys() == pred.keys():
        return all(_same(gold[key], pred[key], text) for key in gold)
    if len(gold) != len(pred):
        return False
    left = list(pred)
    for key, value in gold.items():
        found = next((other for other in left if _same_key(key, other)), None)
        if found is None or not _same(value, pred[found], text):
            return False
        left.remove(found)
    return True


def _same_key(a: Any, b: Any) -> bool:
    """Compare keys: in JSON they are all texts, whatever the program declares."""
    if isinstance(a, str) != isinstance(b, str):
        return _same(a, b, _strip)
    return _same(a, b, _as_it_is)


def _is_text_of(spelled: str, value: Any, text: TextRule) -> bool:
    """Tell whether a text spells a value of another type: tables hold text where programs return numbers."""
    if value is None:
        return False
    if isinstance(value, _CONTAINERS):
        # To the letter, a JSON text is not what it spells; but of what JSON has no word for, it is the form.
        return not (text is _as_it_is and is_json(value)) and _spells(spelled, value, text)
    if text is _as_it_is:
        return False
    if isinstance(value, bool):
        return spelled.strip().lower() in (str(value).lower(), str(int(value)))
    try:  # a float would round a large integer
        return bool((float(spelled) if isinstance(value, float) else Decimal(spelled)) == value)
    except (ValueError, ArithmeticError):
        return False


def _spells(spelled: str, value: Any, text: TextRule) -> bool:
    found = parse_text(spelled)
    return found is not None and _same(found, value, text)


def _same_typed(typed: Any, plain: Any, text: TextRule) -> bool:
    """Compare a value of a type with a plain one."""
    if isinstance(typed, Enum):
        return _is_member(typed, plain, text)
    fields = fields_of(typed)
    if fields is not None and isinstance(plain, dict):
        given = fill_in(type(typed), plain)
        if given is not None and _same_dict(fields, given, text):
            return True
    if is_named_tuple(typed) and isinstance(plain, list) and _same_plain(list(typed), plain, text):
        return True
    if isinstance(plain, str):
        return _is_text_of_typed(plain, typed, text)
    return any(_same_pair(typed, read, text) for read in readings(type(typed), plain)) or are_equal(
        typed, plain
    )


def _is_text_of_typed(spelled: str, typed: Any, text: TextRule) -> bool:
    found = parse_text(spelled)
    if found is not None and _same_typed(typed, found, text):
        return True
    read = list(readings(type(typed), spelled))
    if text is not _as_it_is and spelled != spelled.strip():
        read += readings(type(typed), spelled.strip())
    if not read:  # pydantic does not know how; the type itself does
        return str(typed) == spelled.strip()
    return any(_same_pair(typed, value, text) for value in read)


def _same_pair(gold: Any, pred: Any, text: TextRule) -> bool:
    """Compare two values that are both of a type."""
    if isinstance(gold, Enum) and isinstance(pred, Enum):
        if type(gold) is type(pred):
            return gold is pred
        return gold.name == pred.name and _same(gold.value, pred.value, text)
    if isinstance(gold, Enum):
        return _is_member(gold, pred, text)
    if isinstance(pred, Enum):
        return _is_member(pred, gold, text)
    fields, others = fields_of(gold), fields_of(pred)
    if fields is not None and others is not None:
        related = is_same_class(type(gold), type(pred))
        return (related and _same_dict(fields, others, text)) or are_equal(gold, pred)
    if type(gold) is type(pred) or are_equal(gold, pred):
        return are_equal(gold, pred)
    # A datetime is a date of midnight, and so on: one may be read as the other.
    return any(are_equal(pred, read) for read in readings(type(pred), gold)) or any(
        are_equal(gold, read) for read in readings(type(gold), pred)
    )


def _is_member(member: Enum, given: Any, text: TextRule) -> bool:
    """Tell whether a value or a name means this member; what fits another one better does not."""
    means = _find_members(type(member), given, text)
    return member in means if means else given == member.name or _same(member.value, given, text)


def _find_members(enum: type[Enum], given: Any, text: TextRule) -> list[Enum]:
    """Return the members that a value or a name means: by value before by name, to the letter before loosely."""
    members = enum.__members__
    for rule in dict.fromkeys((_as_it_is, text)):
        if by_value := [member for member in members.values() if _same(member.value, given, rule)]:
            return by_value
        if isinstance(given, str):
            wanted = rule(given)
            if by_name := [member for name, member in members.items() if rule(name) == wanted]:
                return by_name
    with contextlib.suppress(Exception):  # an enum may know more spellings, or combine flags
        return [enum(given)]
    return list(readings(enum, given))


def _read_like(value: Any, like: Any) -> Any:
    """Return a value read as the type of another one, as far as that can be."""
    value, like = open_up(value), open_up(like)
    if isinstance(value, str) and not isinstance(like, str | int | float | None):
        found = parse_text(value)
        value = value if found is None else found
    if isinstance(value, list) and isinstance(like, list) and like:
        pairs: Iterable[Any] = zip(value, like, strict=False) if len(value) == len(like) else ()
        return [_read_like(*pair) for pair in pairs] or [_read_like(item, like[0]) for item in value]
    if isinstance(value, dict) and isinstance(like, dict):
        return {key: _read_like(item, like.get(key)) for key, item in value.items()}
    if not is_plain(value) or is_plain(like):
        return value
    if isinstance(like, Enum):
        return next(iter(_find_members(type(like), value, _strip)), value)
    return next(readings(type(like), value), value)
