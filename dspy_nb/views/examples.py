"""The examples behind a number: a plain table that a script, where one may run, searches, sorts, filters and folds.

Without the script (a notebook that is not trusted, a forge's preview) the table stands as it is: every example is a
row, and below it what else is known of it is folded. What is shown is capped, and a notice says so.
"""

from __future__ import annotations

import functools
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
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
from dspy_nb.core.programs.lm_call import LMCall
from dspy_nb.core.storage.plain import plain
from dspy_nb.core.text import one_line, value_text
from dspy_nb.views.documents import Block, Cell, Document, Interactive, Note, Table, document, markup
from dspy_nb.views.wording import UNKNOWN, count, dollars, excerpt, format_or_dash


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

_TEXT_ROWS: Final = 40
_CELL: Final = 160  # characters of a cell
_FIELD: Final = 2000  # characters of a field, or of a message, that is opened
_FIELDS: Final = 40
_SHARED: Final = 200  # characters of a message from which on it is shown once for all
_FIRST_SHARED: Final = 8000
_EMBEDDED: Final = re.compile(r"data:([\w.+/-]+);base64,([A-Za-z0-9+/=]{64,})")


@functools.cache
def _assets() -> str:
    lines = files(__package__).joinpath("examples.html").read_text(encoding="utf-8").splitlines()
    return "\n".join(line.strip() for line in lines)


@document.register
def _(table: ExampleTable) -> Document:
    chosen = f": {', '.join(table.filters)}" if table.filters else ""
    head = (
        f"{describe(table)}{chosen}"
        if not table.filters
        else f"{len(table):,} of {count(table.total, 'example')}{chosen}"
    )
    notes: list[Block] = [Note(table.note)] if table.note else []
    shown = (
        [examples_block(table, OPEN, fold=False)]
        if table.rows
        else [Note("No example fits.")]
        if table.total
        else []
    )
    return Document(table.title, [*notes, *shown], head)


def describe(table: ExampleTable) -> str:
    """Return ``40 examples: 12 wrong, 2 errors``, of two programs with the flips."""
    counts = [
        (
            sum(map(is_wrong, table)),
            "wrong" if len(table.arms) == 1 else f"wrong ({' or '.join(table.arms)})",
        ),
        (sum(map(has_error, table)), "with an error"),
    ]
    if len(table.arms) > 1:
        flips = Counter(map(flip_of, table))
        counts[:1] = [(flips["fixed"], "fixed"), (flips["broken"], "broken"), counts[0]]
    said = ", ".join(f"{n:,} {what}" for n, what in counts if n) or "none wrong"
    return f"{count(len(table), 'example')}: {said}"


def examples_block(
    table: ExampleTable, cap: Cap = FOLDED, *, fold: bool = True, plain_blocks: Sequence[Block] | None = None
) -> Interactive:
    """Return the examples as a block, the wrong ones first.

    Args:
        table: The examples.
        cap: How many HTML shows.
        fold: Whether HTML folds them away.
        plain_blocks: What stands for them in text and Markdown; by default a table of the first ones.
    """
    title = f"Examples: {describe(table).partition(': ')[2]}" if fold else ""
    blocks = [_plain(table)] if plain_blocks is None else plain_blocks
    return Interactive(title, functools.partial(_html, table, cap), blocks, _assets())


def _ordered(table: ExampleTable) -> list[tuple[ExampleResult, ...]]:
    """Return the rows with those first that one wants to see: errors, what broke, what was fixed, what is wrong."""

    def place(row: tuple[ExampleResult, ...]) -> tuple[Any, ...]:
        flip = {"broken": 0, "fixed": 1, "": 2}[flip_of(row)]
        return (
            not has_error(row),
            flip,
            -abs(difference_of(row)),
            not is_wrong(row),
            row[-1].score or 0,
            row[0].index,
        )

    return sorted(table.rows, key=place)


# -- columns ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Column:
    """A column: what its cells say, what they are sorted and chosen by, and how they look."""

    name: str
    text: Callable[[Sequence[ExampleResult]], str]
    value: Callable[[Sequence[ExampleResult]], Any] | None = None
    kind: str = "text"
    colour: Callable[[Sequence[ExampleResult]], str] = lambda row: ""


def _columns(table: ExampleTable) -> list[_Column]:
    results = [result for row in table.rows for result in row]
    names = {name for result in results for name in result.expected} & {
        n for r in results for n in r.predicted
    }
    columns = [
        _Column("example", lambda row: str(row[0].index), lambda row: row[0].index, "num"),
        _Column("input", lambda row: fields_text(row[0].inputs)),
        _class_column("expected", table, 0, "expected", lambda row: fields_text(row[0].expected)),
    ]
    if any(result.repeat for result in results):
        repeat = _Column("repeat", lambda row: str(row[0].repeat), lambda row: row[0].repeat, "num")
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
            _Column("change", _change, difference_of, "num", lambda row: _COLOURS.get(flip_of(row), ""))
        )
    if any(result.usage.lm_calls or result.usage.cache_hits for result in results):
        columns.append(_Column("LM calls", _calls, lambda row: sum(r.usage.lm_calls for r in row), "num"))
    if any(result.usage.usd for result in results):
        columns.append(_Column("cost", lambda row: dollars(_cost(row)), _cost, "num"))
    if not any(math.isnan(result.latency_ms) for result in results):
        columns.append(_Column("ms", lambda row: f"{_latency(row):,.0f}", _latency, "num"))
    return columns


_COLOURS: Final = {"fixed": "good", "broken": "bad"}


def _class_column(
    name: str, table: ExampleTable, place: int, part: str, text: Callable[[Sequence[ExampleResult]], str]
) -> _Column:
    """Return a column that can be filtered by class, where a field holds classes."""
    field = table.field
    if field is None:
        return _Column(name, text)

    def label(row: Sequence[ExampleResult]) -> str:
        values = getattr(row[place], part)
        return excerpt(label_text(values[field]), 60) if field in values else "(none)"

    return _Column(name, text, label, "choice")


def _scored_answer(place: int, names: set[str], row: Sequence[ExampleResult]) -> str:
    return f"{_answer(row[place], names)} ({_score(row[place].score)})"


def _score_column(title: str, metric: str) -> _Column:
    def score(row: Sequence[ExampleResult]) -> bool | float | None:
        return row[0].scores.get(metric)

    def colour(row: Sequence[ExampleResult]) -> str:
        return "" if (found := score(row)) is not None and found >= 1 else "bad"

    return _Column(title, lambda row: _score(score(row)), score, "num", colour)


def _score(score: bool | float | None) -> str:
    if score is None:
        return "no score"
    if isinstance(score, bool):
        return "right" if score else "wrong"
    return f"{score:.3g}"


def _answer(result: ExampleResult, names: set[str]) -> str:
    """Return what the program answered: of several fields those that are expected; or why there is no answer."""
    if not result.predicted:
        return f"no answer: {_error(result)}" if result.error else "no answer"
    wanted = {name: value for name, value in result.predicted.items() if name in names} or result.predicted
    return fields_text(wanted) + (f"; {_error(result)}" if result.error else "")


def _error(result: ExampleResult) -> str:
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
    if isinstance(value, bytes | bytearray):
        return f"({len(value):,} bytes)"
    if not isinstance(value, str):
        try:
            held = plain(value)
            value = held if isinstance(held, str) else json.dumps(held, ensure_ascii=False, indent=indent)
        except Exception:  # it contains itself, or what it says of itself fails
            value = value_text(value)
    return _EMBEDDED.sub(lambda found: f"({found[1]}, {len(found[2]) * 3 / 4096:,.0f} KB)", value)


def fields_text(fields: Mapping[str, Any], length: int = _CELL) -> str:
    """Return fields on one line of at most ``length`` characters: one by its value, several with their names."""
    if len(fields) == 1:
        return excerpt(field_text(next(iter(fields.values()))), length)
    return excerpt(", ".join(f"{name}: {field_text(value)}" for name, value in fields.items()), length)


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[:length]}… ({len(text) - length:,} more characters)"


# -- text -------------------------------------------------------------------------------------------------------


def _plain(table: ExampleTable) -> Table:
    columns = [column for column in _columns(table) if column.name not in ("LM calls", "cost", "ms")]
    widths = {"input": 40, "expected": 18, "answer": 30, **dict.fromkeys(table.arms, 24)}
    rows: list[Sequence[Cell]] = [
        [excerpt(column.text(row), widths.get(column.name, 30)) for column in columns]
        for row in _ordered(table)[:_TEXT_ROWS]
    ]
    numbers = frozenset([0]) if columns and columns[0].kind == "num" else frozenset()
    return Table([column.name for column in columns], rows, numbers, _notice(table, len(rows), None))


def _notice(table: ExampleTable, shown: int, cap: Cap | None) -> str:
    """Return what is left out, and how to see it; ``""`` if nothing is."""
    if shown == len(table):
        return ""
    limit = "" if cap is None else f" (at most {cap.rows:,}, and {cap.kilobytes} KB)"
    more = "filters such as .examples(wrong=True) show others" if cap is OPEN else ".examples() shows more"
    first = "the wrong ones" if len(table.arms) == 1 else "errors and flips"
    counted = f"{shown:,} of {count(len(table), 'example')} are shown"
    return f"{counted}, {first} first{limit}; {more}, .examples().to_frame() has all."


# -- HTML -------------------------------------------------------------------------------------------------------


def _html(table: ExampleTable, cap: Cap) -> str:
    columns = _columns(table)
    chosen = _ordered(table)[: cap.rows]
    shared = _Shared(chosen)
    parts: list[str] = []
    left = 1000 * cap.kilobytes
    for row in chosen:
        before = shared.size
        part = _example(row, table.arms, columns, shared, _FIELD)
        if len(part) > left / 4:  # one example with a book in it must not be the only one
            part = _example(row, table.arms, columns, shared, _CELL)
        left -= len(part.encode()) + shared.size - before
        if left < 0 and parts:
            break
        parts.append(part)
    head = "".join(f'<th scope="col" class="{column.kind}">{markup(column.name)}</th>' for column in columns)
    notice = _notice(table, len(parts), cap)
    below = f'<p class="soft notice">{markup(notice)}</p>' if notice else ""
    shown = f"<table><thead><tr>{head}</tr></thead>{''.join(parts)}</table>"
    scroll = f'<div class="scroll" role="region" tabindex="0" aria-label="Examples">{shown}</div>'
    return f'<div class="examples">{shared.html()}{scroll}{below}</div>'


def _example(
    row: Sequence[ExampleResult],
    arms: Sequence[str],
    columns: Sequence[_Column],
    shared: _Shared,
    length: int,
) -> str:
    kinds = [name for name, holds in (("wrong", is_wrong), ("error", has_error)) if holds(row)]
    if len(row) > 1:
        kinds += filter(None, [flip_of(row)])
    cells = "".join(_cell(column, row, first=column is columns[0]) for column in columns)
    more = "".join(
        _result(result, arm if len(arms) > 1 else "", shared, length)
        for arm, result in zip(arms, row, strict=True)
    )
    inputs = _fields_html("input", row[0].inputs, length) + _fields_html("expected", row[0].expected, length)
    details = f"<details><summary>Example {row[0].index}, more</summary><dl>{inputs}</dl>{more}</details>"
    below = f'<tr class="more"><td colspan="{len(columns)}">{details}</td></tr>'
    return f'<tbody class="{" ".join(kinds)}"><tr>{cells}</tr>{below}</tbody>'


def _cell(column: _Column, row: Sequence[ExampleResult], *, first: bool) -> str:
    text, colour = markup(column.text(row)), column.colour(row)
    value = "" if column.value is None else f' data-value="{markup(_key(column.value(row)))}"'
    tag = 'th scope="row"' if first else 'td dir="auto"'
    shown = f'<span class="{colour}">{text}</span>' if colour else text
    return f'<{tag} class="{column.kind}"{value}>{shown}</{"th" if first else "td"}>'


def _key(value: Any) -> str:
    return value if isinstance(value, str) else "" if value is None else f"{float(value):g}"


def _result(result: ExampleResult, arm: str, shared: _Shared, length: int) -> str:
    facts = _fields_html(f"{arm} answered".strip(), result.predicted, length)
    scores = ", ".join(f"{name} {_score(score)}" for name, score in result.scores.items())
    said = {
        f"{arm} error".strip(): _error(result),
        f"{arm} score".strip(): scores,
        f"{arm} took".strip(): "" if math.isnan(result.latency_ms) else f"{result.latency_ms:,.0f} ms",
    }
    facts += "".join(f"<dt>{markup(name)}</dt><dd>{markup(text)}</dd>" for name, text in said.items() if text)
    calls = "".join(
        _call(call, f"{arm}: " if arm else "", number, len(result.calls), shared, length)
        for number, call in enumerate(result.calls, 1)
    )
    return f"<dl>{facts}</dl>{calls}"


def _fields_html(what: str, fields: Mapping[str, Any], length: int) -> str:
    items = [
        _term(f"{what} {one_line(name, 80)}", _cut(field_text(value, indent=1), length))
        for name, value in list(fields.items())[:_FIELDS]
    ]
    if len(fields) > _FIELDS:
        items.append(f"<dt>{markup(what)}</dt><dd>… and {len(fields) - _FIELDS:,} more fields</dd>")
    return "".join(items)


def _term(name: str, text: str) -> str:
    return f'<dt>{markup(name)}</dt><dd dir="auto"><pre>{markup(text)}</pre></dd>'


def _call(call: LMCall, arm: str, number: int, of: int, shared: _Shared, length: int) -> str:
    sent, received = (format_or_dash(n) for n in (call.prompt_tokens, call.completion_tokens))
    facts = [call.lm, f"{sent} + {received} tokens", dollars(call.usd)]
    if call.cached:
        facts[1:] = ["from a cache"]
    facts += [
        text
        for holds, text in (
            (call.second_try, "second try"),
            (call.truncated, "cut off by the limit of tokens"),
        )
        if holds
    ]
    title = f"{arm}LM call {number}{f' of {of}' if of > 1 else ''}: {', '.join(filter(None, facts))}"
    if call.messages is None:
        return f"<p>{markup(title)} (its prompt was not kept)</p>"
    items = [(message["role"], shared.text(message["content"], length)) for message in call.messages]
    items.append(("answer", _cut(call.output or UNKNOWN, length)))
    listed = "".join(_term(role, text) for role, text in items)
    return f"<details><summary>{markup(title)}</summary><dl>{listed}</dl></details>"


class _Shared:
    """The long messages that several calls have sent, such as instructions and demos: they are shown once.

    Attributes:
        size: Bytes of those that were referred to.
    """

    def __init__(self, rows: Iterable[Sequence[ExampleResult]]) -> None:
        texts = (
            message["content"]
            for row in rows
            for result in row
            for call in result.calls
            for message in call.messages or ()
        )
        self._often = {text for text, n in Counter(texts).items() if n > 1 and len(text) >= _SHARED}
        self._numbers: dict[str, int] = {}
        self.size = 0

    def text(self, content: str, length: int) -> str:
        """Return the content of a message, or where it is."""
        if content not in self._often:
            return _cut(_EMBEDDED.sub(r"(\1)", content), length)
        if content not in self._numbers:
            self._numbers[content] = len(self._numbers) + 1
            self.size += len(markup(_cut(content, _FIRST_SHARED)).encode())
        return f"message {self._numbers[content]}, above the table"

    def html(self) -> str:
        """Return those that were referred to, folded."""
        if not self._numbers:
            return ""
        items = "".join(
            _term(f"message {number}", _cut(content, _FIRST_SHARED))
            for content, number in self._numbers.items()
        )
        title = f"Messages that several LM calls have sent ({len(self._numbers)})"
        return f"<details><summary>{title}</summary><dl>{items}</dl></details>"
