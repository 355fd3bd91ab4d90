"""Checks of what is given, numbers, texts and outcomes: one line names the argument and what is valid."""

from __future__ import annotations

import functools
import inspect
import math
import os
import unicodedata
from collections.abc import Iterable
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from dspy_nb.core.errors import InputError
from dspy_nb.core.text import value_text

if TYPE_CHECKING:
    from numpy.typing import NDArray


def whole_number(name: str, value: float, minimum: int = 0) -> int:
    """Return a count as an int; a float that holds a whole number (``3.0``) is one.

    Raises:
        InputError: It is not a whole number, or is below ``minimum``.
    """
    try:
        number = int(value)
        valid = number == value and number >= minimum
    except (TypeError, ValueError, OverflowError):
        valid = False
    if not valid:
        raise InputError(f"{name} must be a whole number of at least {minimum}, got {value_text(value)}")
    return number


def successes_of(name: str, successes: float, n: float) -> tuple[int, int]:
    """Return ``(successes, n)`` as ints.

    Raises:
        InputError: Either is not a count, or there are more successes than trials.
    """
    n = whole_number(f"n{name}", n)
    successes = whole_number(f"successes{name}", successes)
    if successes > n:
        raise InputError(f"successes{name} must be at most n{name} ({n}), got {successes}")
    return successes, n


def number_between(name: str, value: object, low: float, high: float, *, ends: bool = True) -> float:
    """Return a finite number between two bounds; ``ends`` says whether the bounds themselves are allowed.

    Raises:
        InputError: It is not a number, or is out of bounds.
    """
    try:
        number = float(value) if isinstance(value, Real) else math.nan
    except OverflowError:
        number = math.inf
    if not math.isfinite(number) or not (low <= number <= high if ends else low < number < high):
        left, right = ("[", "]") if ends else ("(", ")")
        bounds = f"{left}{low:g}, {high:g}{right}"
        raise InputError(f"{name} must be a finite number in {bounds}, got {value_text(value)}")
    return number


def time_limit(name: str, value: object) -> float | None:
    """Return a limit in seconds, ``None`` where there is none.

    Raises:
        InputError: It is not a finite number above 0.
    """
    return None if value is None else number_between(name, value, 0, math.inf, ends=False)


def probability(name: str, value: object) -> float:
    """Return a probability strictly between 0 and 1, such as a confidence, a power or a traffic split.

    Raises:
        InputError: It is not in (0, 1).
    """
    return number_between(name, value, 0, 1, ends=False)


def numbers_between(
    name: str, values: Iterable[float], low: float = -math.inf, high: float = math.inf, *, whole: bool = False
) -> NDArray[Any]:
    """Return finite numbers within two bounds, whole ones if asked, as a float array of one dimension.

    Raises:
        InputError: One is not a number, is NaN or is out of bounds; the message gives its index.
    """
    import numpy as np

    wanted = f"{name} must be {'whole' if whole else 'finite'} numbers in [{low:g}, {high:g}]"
    try:
        values = values if isinstance(values, np.ndarray) else list(values)
        array = np.asarray(values)
    except (TypeError, ValueError):  # not iterable, or lists of different lengths
        raise InputError(f"{wanted}, in one dimension") from None
    if array.ndim != 1:
        raise InputError(f"{wanted}, in one dimension, got {array.ndim}")
    if array.dtype.kind not in "biuf":
        wrong = next((value for value in values if not isinstance(value, Real)), array.dtype)
        raise InputError(f"{wanted}, got {value_text(wrong)}")
    array = array.astype(float)
    valid = np.isfinite(array) & (array >= low) & (array <= high)
    if whole:
        valid &= array == np.floor(array)
    if not valid.all():
        index = int(np.argmin(valid))
        raise InputError(f"{wanted}, got {array[index]:g} at index {index}")
    return array


def check_texts(**texts: object) -> None:
    """Check optional texts.

    Raises:
        InputError: One is neither text nor None.
    """
    for name, text in texts.items():
        if not isinstance(text, str | None):
            raise InputError(f"{name} must be text, not a {type(text).__name__}")


def outcome_of(success: object, value: object) -> float | None:
    """Return the outcome that was given as ``success`` or as ``value``, None if neither was.

    Raises:
        InputError: Both were, or it is not valid.
    """
    if success is not None and value is not None:
        raise InputError("give either success= or value=, not both")
    if success is not None:
        return yes_or_no(success)
    return None if value is None else number_between("value", value, 0, 1)


def given_outcome(success: object, value: object) -> float:
    """Return the outcome that was given as ``success`` or as ``value``.

    Raises:
        InputError: Neither was, or both, or it is not valid.
    """
    if (outcome := outcome_of(success, value)) is None:
        raise InputError("give either success=True or False, or value= in [0, 1]")
    return outcome


def yes_or_no(success: object) -> float:
    """Return 1 for a success, 0 for a failure.

    Raises:
        InputError: It is neither.
    """
    scalar = success.item() if hasattr(success, "item") else success  # NumPy's
    if not isinstance(scalar, int) or scalar not in (0, 1):
        raise InputError(f"success must be True or False, got {value_text(success, 80)}: a grade is value=")
    return float(scalar)


def user_path(name: str, value: object, kind: str = "path") -> Path:
    """Return a path that a user gave, with ``~`` at its beginning as the home, also ``~somebody``'s.

    Args:
        name: What the message calls it.
        value: The path; where there is no such user, ``~nobody`` is a name like any other.
        kind: What it must be: a path, a folder.

    Raises:
        InputError: It is no path, or is empty.
    """
    if not isinstance(value, str | os.PathLike) or not isinstance(text := os.fspath(value), str):
        raise InputError(f"{name} must be a {kind}, not a {type(value).__name__}")
    try:
        valid = os.fsencode(text) and "\0" not in text
    except UnicodeEncodeError:
        valid = False
    if not valid:
        raise InputError(f"{name} must be a {kind}, got {text!r:.80}")
    return Path(os.path.expanduser(text))  # noqa: PTH111 (it raises where there is no such user)


_LONGEST_NAME = 500


def check_text(name: str, value: object) -> str:
    """Return a unit or a request id.

    Raises:
        InputError: It is no text, empty, longer than 500 characters, or holds a control character.
    """
    if not isinstance(value, str) or not 0 < len(value) <= _LONGEST_NAME:
        wanted = f"a text of 1 to {_LONGEST_NAME} characters"
        raise InputError(f"{name} must be {wanted}, got {value_text(value, 80)}")
    # Joiners and other invisible characters belong into names; half of a surrogate pair cannot be stored.
    if not value.isprintable() and not {"Cc", "Cs"}.isdisjoint(map(unicodedata.category, value)):
        raise InputError(f"{name} must be text without control characters, got {value_text(value, 80)}")
    return value


DEEPEST: Final = 100
"""How many lists and dicts of JSON data may hold each other: more than data has, less than Python's recursion."""


def is_too_deep(value: object) -> bool:
    """Return whether more than ``DEEPEST`` lists and dicts hold each other, without recursion."""
    level, depth = [value], 0
    while level := [item for item in level if isinstance(item, dict | list)]:
        depth += 1
        if depth > DEEPEST:
            return True
        level = [part for item in level for part in (item.values() if isinstance(item, dict) else item)]
    return False


def returns_later(function: object) -> str | None:
    """Say what calling a function gives in place of its result: a coroutine, or a generator.

    Returns:
        ``asynchronous``, ``a generator``, or ``None`` where it returns its result, as far as can be told.
    """
    while isinstance(function, functools.partial):
        function = function.func
    for called in (function, type(function).__call__) if callable(function) else ():
        if inspect.iscoroutinefunction(called):
            return "asynchronous"
        if inspect.isgeneratorfunction(called) or inspect.isasyncgenfunction(called):
            return "a generator"
    return None
