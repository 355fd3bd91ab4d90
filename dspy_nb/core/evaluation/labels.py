"""Labels: which of them are one class, and whether values are labels at all."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable
from enum import Enum
from typing import Any

from dspy_nb.core.data.equality import same_exactly, text_rule
from dspy_nb.core.storage.plain import plain
from dspy_nb.core.text import value_text

_MOST_LABELS = 20


class LabelClasses:
    """Which labels are one: those that a metric counts as the same, under the most frequent of their texts.

    A number stands for each class. Values of data sets come first, so that no answer gives a class its name.
    """

    def __init__(self, same: Callable[[Any, Any], bool]) -> None:
        """Start without a class.

        Args:
            same: When two values are the same: one of the comparisons in ``core.data.equality``.
        """
        self._same = same
        self._rule = text_rule(same)
        self._first: list[Any] = []
        self._texts: list[Counter[str]] = []
        self._known: dict[Any, int] = {}
        self._typed: list[int] = []

    def add(self, value: Any, *, but: int | None = None) -> int:
        """Return the class of a value, a new one if there is none.

        Args:
            value: A label or an answer.
            but: A class that it is not in.
        """
        is_text = type(value) is str
        # Texts are the same if what the rule leaves of them is equal; so only other values have to be tried.
        key = (str, self._rule(value)) if is_text else (type(value), _hashable(value))
        for known in (key, (key, but)):
            if self._known.get(known, but) != but:
                return self._known[known]
        candidates = self._typed if is_text else range(len(self._first))
        matches = (one for one in candidates if one != but and self._same(self._first[one], value))
        found = next(matches, len(self._first))
        if found == len(self._first):
            self._first.append(value)
            self._texts.append(Counter())
            if not is_text:
                self._typed.append(found)
        self._known[(key, but) if key in self._known else key] = found
        return found

    def label(self, value: Any, read: Any) -> int:
        """Return the class of a label as the metric reads it, and let its own text count for the class's name."""
        found = self.add(read)
        self._texts[found][label_text(value)] += 1
        return found

    def names(self) -> list[str]:
        """Return the name of each class; no two are equal."""
        names: dict[str, None] = {}
        for value, texts in zip(self._first, self._texts, strict=True):
            text = texts.most_common(1)[0][0] if texts else label_text(value)
            kind = type(value).__name__
            shown = value_text(value)
            spare = (f"{shown} ({kind} {number})" for number in itertools.count(2))
            choices = itertools.chain((text, shown, f"{text} ({kind})"), spare)
            names[next(name for name in choices if name not in names)] = None
        return list(names)


def is_categorical(values: Iterable[Any], same: Callable[[Any, Any], bool] = same_exactly) -> bool:
    """Tell whether values are labels: at most 20 distinct texts, bools, ints or enums, fewer than half of all."""
    listed = list(values)
    if not all(isinstance(value, str | bool | int | Enum) for value in listed):
        return False
    most = min(_MOST_LABELS, (len(listed) - 1) // 2)
    classes = LabelClasses(same)
    return all(classes.add(value) < most for value in listed) and most >= 0


def label_text(value: Any) -> str:
    """Return a label as text: an enum's is that of its value."""
    value = value.value if isinstance(value, Enum) else value
    return str(plain(value) if isinstance(value, int) else value).strip()


def _hashable(value: Any) -> Any:
    try:
        hash(value)
    except TypeError:
        return repr(value)
    return value
