"""Rows with their place: read them from files, DataFrames and lists, and say where one is wrong."""

from __future__ import annotations

import codecs
import csv
import io
import json
import sys
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import dspy

from dspy_nb.core.arguments import DEEPEST, is_too_deep, user_path
from dspy_nb.core.errors import InputError
from dspy_nb.core.text import value_text

if TYPE_CHECKING:
    import pandas as pd

Row = tuple[str, Mapping[str, Any]]
"""Where a row stands ("data.csv, line 3"), and its fields."""

FORMATS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv")
"""How the names of the files end that can be read."""

_JSON = FORMATS[:3]
_QUOTING = (",", ";", "\t", "|")  # cells between these may be quoted
_LINES_LOOKED_AT = 20


Source: TypeAlias = "str | Path | pd.DataFrame | Iterable[Mapping[str, Any] | dspy.Example]"
"""What ``load_examples`` reads: a file, a frame, or what there is already."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How a text file is laid out, where its name does not say it.

    Attributes:
        sep: What stands between two cells; by default a comma, in a .tsv a tab.
        encoding: Of the text.
        names: Of the columns, where the file has no header.
    """

    sep: str | None = None
    encoding: str = "utf-8"
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.sep is not None and (not isinstance(self.sep, str) or not self.sep or "\n" in self.sep):
            raise InputError(
                f"sep must be the text between two cells, such as ';', got {value_text(self.sep)}"
            )
        try:
            codecs.lookup(self.encoding)
        except (LookupError, TypeError):
            raise InputError(
                f"no encoding {self.encoding!r}; valid are utf-8, latin-1, cp1252, ..."
            ) from None
        if not all(isinstance(name, str) and name for name in self.names):
            raise InputError(f"names must be the names of the columns, got {list(self.names)!r}")
        _refuse_duplicates(self.names, "names")

    @property
    def is_table(self) -> bool:
        """Whether it was said that the file is a table."""
        return self.sep is not None or bool(self.names)


def read_rows(source: Source, layout: Layout | None = None) -> Iterator[Row]:
    """Iterate over the rows of a file, a DataFrame or an iterable, as ``load_examples`` describes them.

    Raises:
        InputError: The source is of no known kind, unreadable, malformed, or names a column twice.
    """
    if isinstance(source, str | Path):
        return _file_rows(user_path("the path", source), layout or Layout())
    if layout is not None and layout != Layout():
        raise InputError(f"sep, encoding and names say how a file is read, not a {type(source).__name__}")
    pandas = sys.modules.get("pandas")  # whoever has a DataFrame has imported it
    if pandas is not None and isinstance(source, pandas.DataFrame):
        return _frame_rows(source)
    if isinstance(source, Iterable) and not isinstance(source, Mapping | bytes | dspy.Example):
        return _item_rows(source)
    raise InputError(
        f"cannot load examples from {source_name(source)}; give a path, a DataFrame, "
        "or a list of dicts or dspy.Example"
    )


def _item_rows(items: Iterable[Any]) -> Iterator[Row]:
    for number, item in enumerate(items, 1):
        if not isinstance(item, Mapping | dspy.Example):
            raise InputError(f"item {number}: expected a dict or a dspy.Example, got {type(item).__name__}")
        yield f"item {number}", item


def _frame_rows(frame: Any) -> Iterator[Row]:
    columns = list(frame.columns)
    for column in columns:
        if not isinstance(column, str):
            raise InputError(f"DataFrame: column {column!r} is not named by a string")
    _refuse_duplicates(columns, "DataFrame")
    values = frame.astype(object).where(frame.notna(), None)
    for number, row in enumerate(values.to_dict("records"), 1):
        yield f"DataFrame, row {number}", row


def _file_rows(path: Path, layout: Layout) -> Iterator[Row]:
    suffix = path.suffix.lower()
    if suffix not in FORMATS and not layout.is_table:
        raise InputError(
            f"{path}: unknown kind of file {suffix!r}; valid are {', '.join(FORMATS)}, or a table, with sep= or "
            "names="
        )
    if layout.is_table and suffix in _JSON:
        raise InputError(f"{path}: sep and names are for tables, and its name says that it is JSON")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    text = _decode(data, path, layout.encoding)
    if suffix == ".json":
        return _json_rows(text, path)
    if suffix in _JSON:
        return _json_line_rows(text, path)
    return _table_rows(text, path, layout)


def _decode(data: bytes, path: Path, encoding: str) -> str:
    is_utf8 = codecs.lookup(encoding).name == "utf-8"
    try:
        return data.decode("utf-8-sig" if is_utf8 else encoding)
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        byte = error.object[error.start]
        hint = "; if it is another encoding: load_examples(..., encoding='latin-1')" if is_utf8 else ""
        name = "UTF-8" if is_utf8 else encoding
        raise InputError(f"{path}, line {line}: not {name} text (byte 0x{byte:02x}){hint}") from None


def _json_line_rows(text: str, path: Path) -> Iterator[Row]:
    if text.lstrip().startswith("[") and _is_json_text(text):
        raise InputError(f"{path}, line 1: it looks like one array of objects: name it .json")
    # Not splitlines(): a JSON string may hold U+2028 and other characters that it takes for line ends.
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            where = f"{path}, line {number}"
            yield where, _object(_parse_json(line, where), where)


def _json_rows(text: str, path: Path) -> Iterator[Row]:
    first, *others = [line for line in text.split("\n") if line.strip()] or [""]
    if others and first.lstrip().startswith("{") and _is_json_text(first) and not _is_json_text(text):
        raise InputError(f"{path}: it looks like JSON lines, an object a line: name it .jsonl")
    items = _parse_json(text, str(path)) if text.strip() else []
    if not isinstance(items, list):
        raise InputError(f"{path}: expected an array of objects, got {_json_kind(items)}")
    for number, item in enumerate(items, 1):
        where = f"{path}, item {number}"
        yield where, _object(item, where)


def _is_json_text(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _parse_json(text: str, where: str) -> Any:
    try:
        value = json.loads(text, object_pairs_hook=_unique_fields)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}" if error.lineno > 1 else f"column {error.colno}"
        raise InputError(f"{where}: not valid JSON ({error.msg} at {place})") from None
    except RecursionError:
        deep = True
    except (_DuplicateField, ValueError) as error:  # an integer of more than 4,300 digits
        raise InputError(f"{where}: {error}") from None
    else:
        deep = is_too_deep(value)
    if deep:
        raise InputError(f"{where}: not valid JSON (nested deeper than {DEEPEST} levels)")
    return value


class _DuplicateField(Exception):
    """A JSON object has a field twice."""


def _unique_fields(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        name = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise _DuplicateField(f"field {name!r} occurs twice")
    return fields


def _object(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise InputError(f"{where}: expected an object with named fields, got {_json_kind(value)}")
    return value


def _table_rows(text: str, path: Path, layout: Layout) -> Iterator[Row]:
    sep = layout.sep or ("\t" if path.suffix.lower() == ".tsv" else ",")
    rows = _cells(text, path, sep) if sep in _QUOTING else _split_rows(text, path, sep, layout)
    header = list(layout.names)
    if not header:
        _, header = next(rows, (1, []))
        for number, name in enumerate(header, 1):
            if not name:
                raise InputError(f"{path}, line 1: column {number} has no name")
        _refuse_duplicates(header, f"{path}, line 1")
        if layout.sep is None and len(header) == 1 and (looks := _separator(text)):
            raise InputError(
                f"{path}: its cells look separated by {looks!r}: load_examples(..., sep={looks!r})"
            )
    for line, cells in rows:
        if layout.names and line == 1 and len(cells) < len(header) and set(cells) <= set(header):
            continue  # a header after all, that does not name all columns
        if len(cells) > len(header):
            raise InputError(f"{path}, line {line}: {len(cells)} cells, the header has {len(header)}")
        if len(cells) < len(header):
            raise InputError(f"{path}, line {line}: no cell for {header[len(cells)]!r}")
        yield f"{path}, line {line}", {name: cell or None for name, cell in zip(header, cells, strict=True)}


def _separator(text: str) -> str | None:
    """Return what separates the cells of a table whose header seems to be one name, if something does."""
    lines = [line for line in text.splitlines()[:_LINES_LOOKED_AT] if line.strip()]
    for sep in (";", "\t", "|"):
        counts = {line.count(sep) for line in lines}
        if len(counts) == 1 and counts != {0}:
            return sep
    return None


def _split_rows(text: str, path: Path, sep: str, layout: Layout) -> Iterator[tuple[int, list[str]]]:
    """Yield the lines of a file without quotes; what follows the last separator may hold it again."""
    width = len(layout.names)
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            cells = line.split(sep, width - 1) if width else line.split(sep)
            width = width or len(cells)
            yield number, cells


def _cells(text: str, path: Path, sep: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the line on which each row begins, and its cells; blank lines are left out."""
    # The limit is the process's, 128 kB a cell by default: too little for documents, so it is raised.
    csv.field_size_limit(max(csv.field_size_limit(), len(text) + 1))
    file = io.StringIO(text, newline="")
    if sep != "\t" or _quotes_balance(text):
        reader = csv.reader(file, delimiter=sep, strict=True)
    else:
        reader = csv.reader(file, delimiter=sep, quoting=csv.QUOTE_NONE)
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise InputError(f"{path}, line {line}: {error}") from None
        if cells:
            yield line, cells


def _quotes_balance(text: str) -> bool:
    try:
        deque(csv.reader(io.StringIO(text, newline=""), delimiter="\t", strict=True), maxlen=0)
    except csv.Error:
        return False
    return True


def _refuse_duplicates(columns: Sequence[str], where: str) -> None:
    if len(set(columns)) < len(columns):
        name = Counter(columns).most_common(1)[0][0]
        raise InputError(f"{where}: column {name!r} occurs twice")


def source_name(source: object) -> str:
    """Return how an error message calls a source: its path, or its type."""
    return str(source) if isinstance(source, str | Path) else type(source).__name__


def _json_kind(value: object) -> str:
    kinds = {dict: "an object", list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return kinds.get(type(value), "a number")
