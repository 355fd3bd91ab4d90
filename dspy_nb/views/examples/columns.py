"""What is shown of a table of examples: rows, columns, what the cells say; and values of fields as text."""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from dspy_nb.core.evaluation.examples import (
    ExampleResult,
    ExampleTable,
    difference_of,
    flip_of,
    has_error,
    is_wrong,
)
from dspy_nb.core.evaluation.labels import label_text
from dspy_nb.core.storage.plain import plain
from dspy_nb.core.text import excerpt, value_text
from dspy_nb.views.wording import count, dollars


@dataclass(frozen=True)
class Cap:
    """How much of a table HTML shows: at most so many examples, and so many bytes of their markup."""

    rows: int
    kilobytes: int


FOLDED: Final = Cap(100, 64)
"""Within a report."""

OPEN: Final = Cap(1000, 512)
"""By themselves."""

SMALL: Final = Cap(20, 16)
"""Where there are several within a report."""

CELL: Final = 160  # characters of a cell
_EMBEDDED: Final = re.compile(r"data:([\w.+/-]+);base64,([A-Za-z0-9+/=]{64,})")


def ordered(table: ExampleTable) -> list[tuple[ExampleResult, ...]]:
    """Return the rows with those first that one wants to see: errors, what broke, what was fixed, what is wrong."""

    def place(row: tuple[ExampleResult, ...]) -> tuple[Any, ...]:
        flip = {"broken": 0, "fixed": 1, "": 2}[flip_of(row)]
        wrong = not is_wrong(row), row[-1].score or 0, row[0].index
        return not has_error(row), flip, -abs(difference_of(row)), *wrong

    return sorted(table.rows, key=place)


def notice(table: ExampleTable, shown: int, cap: Cap | None) -> str:
    """Return what is left out, and how to see it; ``""`` if nothing is."""
    if shown == len(table):
        return ""
    limit = "" if cap is None else f" (at most {cap.rows:,}, and {cap.kilobytes} KB)"
    more = "filters such as .examples(wrong=True) show others" if cap is OPEN else ".examples() shows more"
    first = "the wrong ones" if len(table.arms) == 1 else "errors and flips"
    counted = f"{shown:,} of {count(len(table), 'example')} are shown"
    return f"{counted}, {first} first{limit}; {more}, .examples().to_frame() has all."


@dataclass(frozen=True)
class Column:
    """A column: what its cells say, what they are sorted and chosen by, and how they look."""

    name: str
    text: Callable[[Sequence[ExampleResult]], str]
    value: Callable[[Sequence[ExampleResult]], Any] | None = None
    kind: str = "text"
    colour: Callable[[Sequence[ExampleResult]], str] = lambda row: ""


def wrong_word(table: ExampleTable) -> str:
    """Return what one says of an example without a full score: a grade below it is not wrong."""
    grades = (score for row in table.rows for result in row if (score := result.score) is not None)
    return "wrong" if all(score in (0, 1) for score in grades) else "not fully right"


def columns_of(table: ExampleTable) -> list[Column]:
    """Return the columns in which there is something to be said."""
    results = [result for row in table.rows for result in row]
    names = {name for result in results for name in result.expected} & {
        n for r in results for n in r.predicted
    }
    columns = [
        Column("example", lambda row: str(row[0].index), lambda row: row[0].index, "num"),
        Column("input", lambda row: fields_text(row[0].inputs)),
        _class_column("expected", table, 0, "expected", lambda row: fields_text(row[0].expected)),
    ]
    if any(result.repeat for result in results):
        repeat = Column("repeat", lambda row: str(row[0].repeat), lambda row: row[0].repeat, "num")
        columns.insert(1, repeat)
    if len(table.arms) == 1:
        columns.append(_class_column("answer", table, 0, "predicted", lambda row: _answer(row[0], names)))
        metrics = [*dict.fromkeys(name for result in results for name in result.scores)]
        columns += [_score_column(name if len(metrics) > 1 else "score", name) for name in metrics]
    else:
        for place, arm in enumerate(table.arms):
            answer = functools.partial(_scored_answer, place, names)
            columns.append(_class_column(arm, table, place, "predicted", answer))
        columns.append(
            Column("change", _change, difference_of, "num", lambda row: _COLOURS.get(flip_of(row), ""))
        )
    if any(result.usage.lm_calls or result.usage.cache_hits for result in results):
        columns.append(Column("LM calls", _calls, lambda row: sum(r.usage.lm_calls for r in row), "num"))
    if any(result.usage.usd for result in results):
        columns.append(Column("cost", lambda row: dollars(_cost(row)), _cost, "num"))
    if not any(math.isnan(result.latency_ms) for result in results):
        columns.append(Column("ms", lambda row: f"{_latency(row):,.0f}", _latency, "num"))
    return columns


_COLOURS: Final = {"fixed": "good", "broken": "bad"}


def _class_column(
    name: str, table: ExampleTable, place: int, part: str, text: Callable[[Sequence[ExampleResult]], str]
) -> Column:
    """Return a column that can be filtered by class, where a field holds classes."""
    field = table.field
    if field is None:
        return Column(name, text)

    def label(row: Sequence[ExampleResult]) -> str:
        values = getattr(row[place], part)
        return excerpt(label_text(values[field]), 60) if field in values else "(none)"

    return Column(name, text, label, "choice")


def _scored_answer(place: int, names: set[str], row: Sequence[ExampleResult]) -> str:
    return f"{_answer(row[place], names)} ({score_text(row[place].score)})"


def _score_column(title: str, metric: str) -> Column:
    def score(row: Sequence[ExampleResult]) -> bool | float | None:
        return row[0].scores.get(metric)

    def colour(row: Sequence[ExampleResult]) -> str:
        return "" if (found := score(row)) is not None and found >= 1 else "bad"

    return Column(title, lambda row: score_text(score(row)), score, "num", colour)


def score_text(score: bool | float | None) -> str:
    """Return ``right``, ``wrong``, a grade, or ``no score``."""
    if score is None:
        return "no score"
    if isinstance(score, bool):
        return "right" if score else "wrong"
    return f"{score:.3g}"


def _answer(result: ExampleResult, names: set[str]) -> str:
    """Return what the program answered: of several fields those that are expected; or why there is no answer."""
    if not result.predicted:
        return f"no answer: {error_text(result)}" if result.error else "no answer"
    wanted = {name: value for name, value in result.predicted.items() if name in names} or result.predicted
    return fields_text(wanted) + (f"; {error_text(result)}" if result.error else "")


def error_text(result: ExampleResult) -> str:
    """Return why there is no answer or no score, ``""`` if there are."""
    return "" if result.error is None else f"{result.error.kind}: {result.error.message}"


def _change(row: Sequence[ExampleResult]) -> str:
    return flip_of(row) or "same"


def _calls(row: Sequence[ExampleResult]) -> str:
    asked = sum(result.usage.lm_calls for result in row)
    cached = sum(result.usage.cache_hits for result in row)
    return f"{asked:,} + {cached:,} cached" if cached else f"{asked:,}"


def _cost(row: Sequence[ExampleResult]) -> float | None:
    prices = [result.usage.usd for result in row]
    return None if None in prices else sum(price or 0 for price in prices)


def _latency(row: Sequence[ExampleResult]) -> float:
    return sum(result.latency_ms for result in row)


# -- values -----------------------------------------------------------------------------------------------------


def field_text(value: Any, *, indent: int | None = None) -> str:
    """Return a value of a field as text: what is nested as JSON, and what is embedded by its kind and size."""
    if value is None or isinstance(value, bool):
        return str(value)
    if isinstance(value, bytes | bytearray):
        return f"({len(value):,} bytes)"
    if not isinstance(value, str):
        try:
            held = plain(value)
            value = held if isinstance(held, str) else json.dumps(held, ensure_ascii=False, indent=indent)
        except Exception:  # it contains itself, or what it says of itself fails
            value = value_text(value)
    return without_files(value)


def fields_text(fields: Mapping[str, Any], length: int = CELL) -> str:
    """Return fields on one line of at most ``length`` characters: one by its value, several with their names."""
    if len(fields) == 1:
        return excerpt(field_text(next(iter(fields.values()))), length)
    return excerpt(", ".join(f"{name}: {field_text(value)}" for name, value in fields.items()), length)


def cut(text: str, length: int) -> str:
    """Return at most ``length`` characters, and how many more there are."""
    return text if len(text) <= length else f"{text[:length]}… ({len(text) - length:,} more characters)"


def without_files(text: str) -> str:
    """Return text with what is embedded in it, such as images, by its kind and size."""
    return _EMBEDDED.sub(lambda found: f"({found[1]}, {len(found[2]) * 3 / 4096:,.0f} KB)", text)
