"""Examples as HTML: for each a row, and below it, folded, the fields in full and the LM calls."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from dspy_nb.core.evaluation.examples import ExampleResult, ExampleTable, flip_of, has_error, is_wrong
from dspy_nb.core.programs.lm_call import LMCall, Message
from dspy_nb.core.text import one_line
from dspy_nb.views.examples.columns import (
    CELL,
    Cap,
    Column,
    columns_of,
    cut,
    error_text,
    field_text,
    notice,
    ordered,
    score_text,
    without_files,
    wrong_word,
)  # fmt: skip
from dspy_nb.views.rendering.html import markup, term
from dspy_nb.views.wording import UNKNOWN, count, dollars, format_or_dash

_FIELD: Final = 2000  # characters of a field, or of a message, that is opened
_FIELDS: Final = 40
_TO_THE_LEFT: Final = (
    ' style="text-align:left"'  # JupyterLab, where the style sheet is not trusted: to the right
)
_BEGINNING: Final = 12_000  # characters of what several prompts begin with


def draw(table: ExampleTable, cap: Cap) -> str:
    """Return the table, as many of its rows as ``cap`` allows, and a notice where that is not all."""
    columns = columns_of(table)
    chosen = ordered(table)[: cap.rows]
    shared = _Shared(chosen)
    parts: list[str] = []
    left = 1000 * cap.kilobytes
    for row in chosen:
        before = shared.size
        part = _example(row, table.arms, columns, shared, _FIELD)
        if len(part) > left / 4:  # one example with a book in it must not be the only one
            part = _example(row, table.arms, columns, shared, CELL)
        left -= len(part.encode()) + shared.size - before
        if left < 0 and parts:
            break
        parts.append(part)
    head = "".join(
        f'<th scope="col" class="{column.kind}"{_side(column)}>{markup(column.name)}</th>'
        for column in columns
    )
    said = notice(table, len(parts), cap)
    below = f'<p class="soft notice">{markup(said)}</p>' if said else ""
    shown = f"<table><thead><tr>{head}</tr></thead>{''.join(parts)}</table>"
    scroll = f'<div class="scroll" role="region" tabindex="0" aria-label="Examples">{shown}</div>'
    wrong = wrong_word(table).capitalize()
    return f'<div class="examples" data-wrong="{wrong}">{shared.html()}{scroll}{below}</div>'


def _example(
    row: Sequence[ExampleResult],
    arms: Sequence[str],
    columns: Sequence[Column],
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
    below = f'<tr class="more"><td colspan="{len(columns)}"{_TO_THE_LEFT}>{details}</td></tr>'
    return f'<tbody class="{" ".join(kinds)}"><tr>{cells}</tr>{below}</tbody>'


def _cell(column: Column, row: Sequence[ExampleResult], *, first: bool) -> str:
    text, colour = markup(column.text(row)), column.colour(row)
    value = "" if column.value is None else f' data-value="{markup(_key(column.value(row)))}"'
    tag = 'th scope="row"' if first else 'td dir="auto"'
    shown = f'<span class="{colour}">{text}</span>' if colour else text
    return f'<{tag} class="{column.kind}"{_side(column)}{value}>{shown}</{"th" if first else "td"}>'


def _side(column: Column) -> str:
    return "" if column.kind == "num" else _TO_THE_LEFT


def _key(value: Any) -> str:
    return value if isinstance(value, str) else "" if value is None else f"{float(value):g}"


def _result(result: ExampleResult, arm: str, shared: _Shared, length: int) -> str:
    facts = _fields_html(f"{arm} answered".strip(), result.predicted, length)
    scores = ", ".join(f"{name} {score_text(score)}" for name, score in result.scores.items())
    said = {
        f"{arm} error".strip(): error_text(result),
        f"{arm} score".strip(): scores,
        f"{arm} took".strip(): "" if math.isnan(result.latency_ms) else f"{result.latency_ms:,.0f} ms",
    }
    facts += "".join(term(name, markup(text)) for name, text in said.items() if text)
    calls = "".join(
        _call(call, f"{arm}: " if arm else "", number, len(result.calls), shared, length)
        for number, call in enumerate(result.calls, 1)
    )
    return f"<dl>{facts}</dl>{calls}"


def _fields_html(what: str, fields: Mapping[str, Any], length: int) -> str:
    items = [
        _term(f"{what} {one_line(name, 80)}", cut(field_text(value, indent=1), length))
        for name, value in list(fields.items())[:_FIELDS]
    ]
    if len(fields) > _FIELDS:
        items.append(term(what, f"… and {len(fields) - _FIELDS:,} more fields"))
    return "".join(items)


def _term(name: str, text: str) -> str:
    return term(name, f"<pre>{markup(text)}</pre>", ' dir="auto"')


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
    *before, last = call.messages
    items = [*shared.begin(before, length), (last["role"], cut(without_files(last["content"]), length))]
    items.append(("answer", cut(call.output or UNKNOWN, length)))
    return f"<details><summary>{markup(title)}</summary><dl>{_terms(items)}</dl></details>"


def _terms(items: Iterable[tuple[str, str]]) -> str:
    return "".join(_term(name, text) for name, text in items)


class _Shared:
    """What the prompts of several calls begin with, such as instructions and demos: it is shown once.

    Attributes:
        size: Bytes of what was referred to.
    """

    def __init__(self, rows: Iterable[Sequence[ExampleResult]]) -> None:
        sent = (call.messages for row in rows for result in row for call in result.calls if call.messages)
        often = Counter(_key_of(messages[:-1]) for messages in sent)
        self._often = {key for key, n in often.items() if n > 1}
        self._shown: dict[tuple[tuple[str, str], ...], str] = {}
        self.size = 0

    def begin(self, messages: Sequence[Message], length: int) -> list[tuple[str, str]]:
        """Return the messages before the last one, each with its role, or where they are."""
        key = _key_of(messages)
        if not messages or key not in self._often:
            return [(role, cut(without_files(content), length)) for role, content in key]
        if key not in self._shown:
            self._shown[key] = _beginning(len(self._shown) + 1, key)
            self.size += len(self._shown[key].encode())
        number = [*self._shown].index(key) + 1
        return [("begins with", f"beginning {number}, above the table ({count(len(messages), 'message')})")]

    def html(self) -> str:
        """Return what was referred to, folded."""
        if not self._shown:
            return ""
        title = "What the prompts of several LM calls begin with"
        return f"<details><summary>{title}</summary>{''.join(self._shown.values())}</details>"


def _key_of(messages: Sequence[Message]) -> tuple[tuple[str, str], ...]:
    return tuple((message["role"], message["content"]) for message in messages)


def _beginning(number: int, messages: Sequence[tuple[str, str]]) -> str:
    items, left = list[tuple[str, str]](), _BEGINNING
    for role, content in messages:
        if left <= 0:
            items.append(("…", f"and {len(messages) - len(items):,} more messages"))
            break
        text = cut(without_files(content), min(left, _FIELD * 2))
        left -= len(text)
        items.append((role, text))
    return f"<p>Beginning {number}</p><dl>{_terms(items)}</dl>"
