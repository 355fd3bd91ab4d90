"""When are two values the same? A label may be text where a program returns a number, a date or an enum."""

from __future__ import annotations

import contextlib
import datetime
import unicodedata
from collections.abc import Callable
from enum import Enum
from typing import Any

import dspy
from pydantic import BaseModel

__all__ = ["same_exactly", "same_normalized", "same_stripped", "word_set"]


def same_exactly(gold: Any, pred: Any) -> bool:
    """Compare by value: ``4`` is not ``"4"``, though an enum is its value and a tuple its list."""
    return bool(_plain(gold) == _plain(pred))


def same_stripped(gold: Any, pred: Any) -> bool:
    """Compare text regardless of case and outer white space, and a number or boolean with its text."""
    return _same(gold, pred, _strip)


def same_normalized(gold: Any, pred: Any) -> bool:
    """Compare as ``same_stripped``, and regardless of runs of white space and Unicode composition."""
    return _same(gold, pred, _normalize)


def word_set(value: Any) -> set[str]:
    """Return the lower-case words of a text, or of everything in a list or dict; none for ``None``."""
    value = _plain(value)
    if value is None:
        return set()
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | set | frozenset):
        return set().union(*map(word_set, value))
    return set(str(value).lower().split())


def _strip(text: str) -> str:
    return text.lower().strip()


def _normalize(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).casefold().split())


def _same(gold: Any, pred: Any, text: Callable[[str], str]) -> bool:
    gold, pred = _plain(gold), _plain(pred)
    if isinstance(gold, str) and isinstance(pred, str):
        return text(gold) == text(pred)
    if isinstance(gold, str):
        return _is_text_of(gold, pred)
    if isinstance(pred, str):
        return _is_text_of(pred, gold)
    if isinstance(gold, set | frozenset) or isinstance(pred, set | frozenset):
        return _same_set(gold, pred, text)
    if isinstance(gold, list) and isinstance(pred, list):
        return len(gold) == len(pred) and all(_same(a, b, text) for a, b in zip(gold, pred, strict=True))
    if isinstance(gold, dict) and isinstance(pred, dict):
        return gold.keys() == pred.keys() and all(_same(gold[key], pred[key], text) for key in gold)
    return bool(gold == pred)


def _same_set(gold: Any, pred: Any, text: Callable[[str], str]) -> bool:
    """Compare without order: one side is a set, the other may be a list (JSON has no sets)."""
    if not isinstance(gold, list | set | frozenset) or not isinstance(pred, list | set | frozenset):
        return False
    return all(any(_same(a, b, text) for b in pred) for a in gold) and all(
        any(_same(a, b, text) for a in gold) for b in pred
    )


def _is_text_of(text: str, value: Any) -> bool:
    """Tell whether a text spells a value of another type: tables hold text where programs return numbers."""
    if isinstance(value, bool):
        return text.strip().lower() == str(value).lower()
    if isinstance(value, int | float):
        with contextlib.suppress(ValueError):
            return float(text) == value
    return False


def _plain(value: Any) -> Any:
    """Return the plain value behind a typed one; what it contains stays as it is."""
    if isinstance(value, Enum):
        return value.value
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, tuple):
        return list(value)
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, BaseModel):
        return {name: getattr(value, name) for name in type(value).model_fields}
    if isinstance(value, dspy.Example):
        return dict(value.items())
    if callable(getattr(value, "tolist", None)):  # NumPy
        return value.tolist()
    return value
