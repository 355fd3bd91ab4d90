"""The examples behind a number: a plain table that a script, where one may run, searches, sorts, filters and folds.

Without the script (a notebook that is not trusted, a forge's preview) the table stands as it is: every example is a
row, and below it what else is known of it is folded. What is shown is capped, and a notice says so.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Sequence
from importlib.resources import files
from typing import Final

from dspy_nb.core.evaluation.examples import ExampleTable, flip_of, has_error, is_wrong
from dspy_nb.core.text import excerpt
from dspy_nb.views.documents import Block, Cell, Document, Interactive, Note, Table, document
from dspy_nb.views.examples.columns import FOLDED, OPEN, Cap, columns_of, notice, ordered, wrong_word
from dspy_nb.views.examples.markup import draw
from dspy_nb.views.wording import count

_TEXT_ROWS: Final = 40


@functools.cache
def _assets() -> str:
    lines = files(__package__).joinpath("assets.html").read_text(encoding="utf-8").splitlines()
    return "\n".join(line.strip() for line in lines)


@document.register
def _(table: ExampleTable) -> Document:
    chosen = f"{len(table):,} of {count(table.total, 'example')}: {', '.join(table.filters)}"
    blocks: list[Block] = [Note(table.note)] if table.note else []
    if table.rows:
        blocks.append(examples_block(table, OPEN, fold=False))
    elif table.total:
        blocks.append(Note("No example fits."))
    return Document(table.title, blocks, chosen if table.filters else describe(table))


def describe(table: ExampleTable) -> str:
    """Return ``40 examples: 12 wrong, 2 errors``, of two programs with the flips."""
    several = f" ({' or '.join(table.arms)})" if len(table.arms) > 1 else ""
    counts = [
        (sum(map(is_wrong, table)), f"{wrong_word(table)}{several}"),
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
    return Interactive(title, functools.partial(draw, table, cap), blocks, _assets())


# -- text -------------------------------------------------------------------------------------------------------


def _plain(table: ExampleTable) -> Table:
    columns = [column for column in columns_of(table) if column.name not in ("LM calls", "cost", "ms")]
    widths = {**dict.fromkeys(table.arms, 24), "input": 40, "expected": 18, "answer": 40}
    rows: list[Sequence[Cell]] = [
        [excerpt(column.text(row), widths.get(column.name, 30)) for column in columns]
        for row in ordered(table)[:_TEXT_ROWS]
    ]
    numbers = frozenset([0]) if columns and columns[0].kind == "num" else frozenset()
    return Table([column.name for column in columns], rows, numbers, notice(table, len(rows), None))
