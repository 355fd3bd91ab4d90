"""Labelled data: read it from files, frames and lists, and split it without leaking duplicates."""

from __future__ import annotations

import hashlib
import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import dspy

from dspy_nb.core.data.identity import example_id, input_names, value_key
from dspy_nb.core.data.rows import Layout, Source, read_rows, source_name
from dspy_nb.core.errors import InputError
from dspy_nb.core.text import error_text, repaired, value_text

_HIDDEN = "dspy_"


def load_examples(
    source: Source,
    inputs: str | Sequence[str] | None = None,
    *,
    sep: str | None = None,
    encoding: str = "utf-8",
    names: Sequence[str] | None = None,
    labels: Mapping[Any, Any] | None = None,
) -> list[dspy.Example]:
    """Read labelled examples.

    Every row must have the fields of the first one (further fields are kept), and a value in each input
    field: ``None`` and NaN are refused there. An empty cell of a .csv or .tsv file is ``None``, all others
    are text; NaN in a DataFrame is ``None``. A .tsv whose quotes do not balance is read as if it had none.

    Args:
        source: The path of a UTF-8 file (.jsonl or .ndjson: an object a line; .json: an array of objects;
            .csv or .tsv: with a header), a pandas DataFrame, or an iterable of dicts or ``dspy.Example``.
        inputs: The names of the fields that the program is given; all others are labels. May be left out
            if every item is a ``dspy.Example`` that has its inputs set.
        sep: What separates the cells of a table, such as ``";"``; the file may then have any name. What is no
            comma, semicolon, tab or bar separates without quotes, and the last of ``names`` takes the rest of
            its line.
        encoding: Of a file that is not UTF-8, such as ``"latin-1"``.
        names: The names of the columns of a table that has no header.
        labels: What the values of a field stand for: ``{"label": {0: "negative", 1: "positive"}}``, or a
            function in place of the inner dict. Where there is one label field, the inner dict is enough.
            A key matches the text of a table too: ``0`` and ``"0"``.

    Raises:
        InputError: The file cannot be read, is empty or malformed, or a row lacks a field. The message
            names the file, the line (counted from 1) and the field.
    """
    chosen = _check_input_names(inputs)
    given = (names,) if isinstance(names, str) else tuple(names or ())
    examples: list[dspy.Example] = []
    first: list[str] = []
    meanings: dict[str, _Meaning] = {}
    broken = []
    for where, row in read_rows(source, Layout(sep, encoding, given)):
        if isinstance(row, dict) and (whole := repaired(row)) is not row:
            broken.append(where)
            row = whole
        example = _with_inputs(row, chosen, where)
        if not examples:
            first = list(row.keys())
            meanings = _read_labels(labels, example)
        elif missing := [name for name in first if name not in row]:
            raise InputError(f"{where}: no field {missing[0]!r}, which the first row has")
        for name, meaning in meanings.items():
            example[name] = meaning(example.get(name), where)
        examples.append(example)
    if not examples:
        raise InputError(f"{source_name(source)}: no examples in it")
    if broken:
        warnings.warn(
            f"{len(broken):,} examples held half of a surrogate pair, which is no text by itself: it is written as "
            f"\\ud83d now; the first is {broken[0]}",
            stacklevel=2,
        )
    return examples


def check_examples(name: str, examples: Any) -> list[dspy.Example]:
    """Return what should be a data set as a list.

    Args:
        name: What it is called in messages, such as "trainset".
        examples: What the caller gave.

    Raises:
        InputError: It is empty, or holds what is no example.
    """
    if (
        not isinstance(examples, Iterable)
        or isinstance(examples, str | Mapping | dspy.Example)
        or hasattr(examples, "columns")  # a DataFrame, which would give the names of its columns
    ):
        raise InputError(
            f"{name} must be a list of dspy.Example, got {type(examples).__name__}; dspy_nb.load_examples() "
            "makes one from a file, a DataFrame or dicts"
        )
    checked = list(examples)
    if not checked:
        raise InputError(f"{name} is empty")
    for number, example in enumerate(checked):
        if not isinstance(example, dspy.Example):
            raise InputError(
                f"{name}[{number}] must be a dspy.Example, got {type(example).__name__}; "
                "dspy_nb.load_examples() makes examples from dicts"
            )
    return checked


class _Meaning:
    """What the values of a field stand for."""

    def __init__(self, field: str, values: Mapping[Any, Any] | Callable[[Any], Any]) -> None:
        self.field = field
        self._values = values
        self._by_text = (
            {str(key): value for key, value in values.items()} if isinstance(values, Mapping) else {}
        )

    def __call__(self, value: Any, where: str) -> Any:
        if callable(self._values):
            try:
                return self._values(value)
            except Exception as error:
                what = f"{type(error).__name__}: {error_text(error)}"
                raise InputError(
                    f"{where}: labels of {self.field!r} fail on {value_text(value, 80)} ({what})"
                ) from error
        if str(value) not in self._by_text:
            raise InputError(
                f"{where}: {self.field} is {value_text(value, 80)}, for which labels has nothing; it has "
                f"{_list_names(map(str, self._by_text))}"
            )
        return self._by_text[str(value)]


def _read_labels(labels: Mapping[Any, Any] | None, example: dspy.Example) -> dict[str, _Meaning]:
    if labels is None:
        return {}
    if not isinstance(labels, Mapping) or not labels:
        raise InputError(
            f"labels must be a dict such as {{'label': {{0: 'no', 1: 'yes'}}}}, got {value_text(labels, 80)}"
        )
    if not any(isinstance(values, Mapping) or callable(values) for values in labels.values()):
        fields = sorted(set(example.keys()) - (input_names(example) or set()))
        if len(fields) != 1:
            raise InputError(f"labels must say of which field: {{{(fields or ['label'])[0]!r}: {{...}}}}")
        labels = {fields[0]: labels}
    for field, values in labels.items():
        if field not in example:
            raise InputError(f"labels: no field {field!r}; there are {_list_names(example.keys())}")
        if not isinstance(values, Mapping) and not callable(values):
            raise InputError(f"labels of {field!r} must be a dict or a function, got {values!r:.80}")
    return {field: _Meaning(field, values) for field, values in labels.items()}


def split(
    examples: Sequence[dspy.Example],
    fractions: Sequence[float] = (0.4, 0.3, 0.3),
    *,
    seed: int = 0,
    stratify: str | None = None,
) -> tuple[list[dspy.Example], ...]:
    """Split examples into disjoint parts, the same ones every time.

    Examples with equal inputs go into one part together, so no part holds a question of another. They are
    ordered by a keyed hash of their inputs, not by a random generator: the parts depend on the data and
    the seed, not on the order of the data nor on the Python version.

    Args:
        examples: Examples with their inputs set.
        fractions: The size of each part: fractions that add up to 1 (whole examples are shared out by
            largest remainder), or whole numbers of examples, where what is left over is in no part. Groups
            of equal inputs may make a size inexact.
        seed: Another seed gives another split.
        stratify: A field whose values get about the same share in each part (of two, within two examples).

    Raises:
        InputError: The sizes do not fit the examples, a part would be empty, or a field is missing.
    """
    sizes, exhaustive = _part_sizes(fractions, len(examples))
    groups: dict[str, list[dspy.Example]] = {}
    for example in examples:
        groups.setdefault(example_id(example), []).append(example)
    ids = sorted(groups, key=lambda key: _keyed_hash(seed, key))
    if stratify is not None:
        ids = _interleave(ids, [_stratum(groups[key], stratify) for key in ids], seed)

    remaining = [groups[key] for key in ids]
    parts: list[list[dspy.Example]] = []
    for number, size in enumerate(sizes, 1):
        part: list[dspy.Example] = []
        later: list[list[dspy.Example]] = []
        takes_all = exhaustive and number == len(sizes)
        for group in remaining:
            if takes_all or len(part) + len(group) <= size:
                part.extend(group)
            else:
                later.append(group)
        if not part:
            raise InputError(
                f"part {number} of {len(sizes)} would be empty: {len(examples)} examples with "
                f"{len(groups)} different inputs cannot be split into {_write_fractions(fractions)}"
            )
        parts.append(part)
        remaining = later
    return tuple(parts)


def _part_sizes(fractions: Any, n: int) -> tuple[list[int], bool]:
    """Return the size of each part, and whether together they must hold everything."""
    if not isinstance(fractions, Sequence) or not all(isinstance(f, int | float) for f in fractions):
        raise InputError(
            f"a split needs a list of fractions or of whole numbers, got {value_text(fractions)}"
        )
    shown = _write_fractions(fractions)
    if not fractions or not all(0 < f < math.inf for f in fractions):
        raise InputError(f"every part of a split must be larger than 0, got {shown}")
    if all(isinstance(f, int) for f in fractions):
        if sum(fractions) > n:
            raise InputError(
                f"a split into {shown} needs {value_text(sum(fractions))} examples, there are {n}"
            )
        return list(fractions), sum(fractions) == n
    if not math.isclose(total := math.fsum(fractions), 1.0, abs_tol=1e-6):
        raise InputError(f"the fractions of a split must add up to 1, {shown} add up to {total:g}")
    # Rounding away the float error of 0.3 * 10 keeps a whole number whole.
    quotas = [round(f * n, 6) for f in fractions]
    sizes = [math.floor(quota) for quota in quotas]
    by_remainder = sorted(range(len(sizes)), key=lambda i: (sizes[i] - quotas[i], i))
    for i in by_remainder[: n - sum(sizes)]:
        sizes[i] += 1
    return sizes, True


def _interleave(ids: list[str], strata: list[str], seed: int) -> list[str]:
    """Spread each stratum evenly over the sequence, so that every stretch of it has about the same shares.

    This is systematic sampling with a random start: a stratum of n stands at (start + i) / n, i < n.
    """
    totals = Counter(strata)
    seen: Counter[str] = Counter()
    places: dict[str, float] = {}
    for key, stratum in zip(ids, strata, strict=True):
        start = int.from_bytes(_keyed_hash(seed, stratum)[:8]) / 2**64
        places[key] = (start + seen[stratum]) / totals[stratum]
        seen[stratum] += 1
    return sorted(ids, key=places.__getitem__)


def _keyed_hash(seed: int, key: str) -> bytes:
    return hashlib.sha256(f"{value_text(seed)}:{key}".encode()).digest()


def _stratum(group: list[dspy.Example], field: str) -> str:
    for example in group:
        if field not in example:
            raise InputError(
                f"cannot stratify by {field!r}: an example has only {_list_names(example.keys())}"
            )
    # The smallest of the labels of equal inputs, so that their order does not matter.
    return min(value_key(example[field]) for example in group)


def _check_input_names(inputs: str | Sequence[str] | None) -> list[str] | None:
    if inputs is None:
        return None
    names = [inputs] if isinstance(inputs, str) else list(inputs)
    if not names:
        raise InputError("inputs is empty; name at least one input field")
    for name in names:
        if not isinstance(name, str) or not name.isidentifier():
            raise InputError(f"{name!r} cannot name an input field; a field name is a Python identifier")
    return names


def _with_inputs(row: Mapping[str, Any], names: list[str] | None, where: str) -> dspy.Example:
    if isinstance(row, Mapping) and (hidden := [name for name in row if str(name).startswith(_HIDDEN)]):
        raise InputError(f"{where}: DSPy hides fields that begin with {_HIDDEN!r}: rename {hidden[0]!r}")
    example = row.copy() if isinstance(row, dspy.Example) else dspy.Example(dict(row))
    if names is None:
        names = sorted(input_names(example) or ())
        if not names:
            raise InputError(
                f"{where}: its inputs are not set; give inputs=[...], of {_list_names(row.keys())}"
            )
    for name in names:
        if name not in example:
            raise InputError(f"{where}: no input field {name!r}; it has {_list_names(row.keys())}")
        value = example[name]
        if value is None or (isinstance(value, float) and math.isnan(value)):
            raise InputError(f"{where}: input field {name!r} has no value ({value})")
    return example.with_inputs(*names)


def _list_names(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names)) or "no fields"


def _write_fractions(fractions: Sequence[float]) -> str:
    return f"({', '.join(map(value_text, fractions))})"
