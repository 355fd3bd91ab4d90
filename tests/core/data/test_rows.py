"""Files as people have them: other separators, encodings, no header, and labels that stand for something."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import dspy
import pytest

from dspy_nb.core.data.examples import load_examples
from dspy_nb.core.errors import InputError


def written(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def fields(examples: list[dspy.Example]) -> list[dict[str, Any]]:
    return [example.toDict() for example in examples]


@pytest.mark.parametrize("sep", [";", "\t", "|", ","])
def test_any_separator_may_be_said_whatever_the_file_is_called(tmp_path: Path, sep: str) -> None:
    file = written(tmp_path / "data.txt", f"text{sep}label\ngood{sep}1\n'bad'{sep}0\n")
    assert fields(load_examples(file, "text", sep=sep)) == [
        {"text": "good", "label": "1"},
        {"text": "'bad'", "label": "0"},
    ]


@pytest.mark.parametrize(
    ("name", "sep"), [("data.csv", ";"), ("data.csv", "\t"), ("data.csv", "|"), ("data.tsv", ";")]
)
def test_a_table_with_another_separator_is_told_what_it_looks_like(
    tmp_path: Path, name: str, sep: str
) -> None:
    file = written(tmp_path / name, f"text{sep}label\ngood{sep}1\nbad{sep}0\n")
    with pytest.raises(InputError, match=r"its cells look separated by .*: load_examples\(\.\.\., sep="):
        load_examples(file, "text")
    assert len(load_examples(file, "text", sep=sep)) == 2


def test_one_column_with_a_semicolon_here_and_there_is_one_column(tmp_path: Path) -> None:
    file = written(tmp_path / "data.csv", "text\ngood; really\nbad\n")
    assert [example.text for example in load_examples(file, "text")] == ["good; really", "bad"]


def test_json_lines_in_a_json_file_and_an_array_in_a_jsonl_file_are_told(tmp_path: Path) -> None:
    rows = [{"text": "good", "label": 1}, {"text": "bad", "label": 0}]
    lines = written(tmp_path / "data.json", "\n".join(map(json.dumps, rows)))
    with pytest.raises(InputError, match=r"it looks like JSON lines, an object a line: name it \.jsonl"):
        load_examples(lines, "text")
    array = written(tmp_path / "data.jsonl", json.dumps(rows))
    with pytest.raises(InputError, match=r"it looks like one array of objects: name it \.json"):
        load_examples(array, "text")
    indented = written(tmp_path / "more.jsonl", json.dumps(rows, indent=2))
    with pytest.raises(InputError, match=r"name it \.json"):
        load_examples(indented, "text")


def test_a_json_file_that_is_neither_says_where_it_is_wrong(tmp_path: Path) -> None:
    file = written(tmp_path / "data.json", '[{"text": "good"},\n{"text" "bad"}]')
    with pytest.raises(InputError, match="not valid JSON"):
        load_examples(file, "text")


def test_a_file_in_another_encoding_loads_if_that_is_said(tmp_path: Path) -> None:
    file = written(tmp_path / "data.csv", "text,label\ncafé,1\n".encode("latin-1"))
    with pytest.raises(InputError, match=r"not UTF-8 text .* encoding='latin-1'"):
        load_examples(file, "text")
    assert load_examples(file, "text", encoding="latin-1")[0].text == "café"


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8", "utf-8-sig"])
def test_a_byte_order_mark_is_no_part_of_the_first_name(tmp_path: Path, encoding: str) -> None:
    written(tmp_path / "data.csv", b"")
    (tmp_path / "data.csv").write_text("text,label\ngood,1\n", encoding=encoding)
    assert list(load_examples(tmp_path / "data.csv", "text", encoding=encoding)[0].keys()) == [
        "text",
        "label",
    ]


def test_the_text_is_checked_against_the_encoding_that_was_said(tmp_path: Path) -> None:
    file = written(tmp_path / "data.csv", "text,label\ncafé,1\n")
    with pytest.raises(InputError, match="line 2: not ascii text"):
        load_examples(file, "text", encoding="ascii")


def test_a_table_without_a_header_gets_names(tmp_path: Path) -> None:
    file = written(tmp_path / "amazon.tsv", "It works.\t1\nIt broke.\t0\n")
    examples = load_examples(file, "text", names=["text", "label"], labels={0: "negative", 1: "positive"})
    assert fields(examples) == [
        {"text": "It works.", "label": "positive"},
        {"text": "It broke.", "label": "negative"},
    ]
    assert [set(example.inputs().keys()) for example in examples] == [{"text"}, {"text"}]


def test_a_header_that_does_not_name_all_columns_is_not_an_example(tmp_path: Path) -> None:
    file = written(tmp_path / "data.tsv", "text\nIt works.\t1\n")
    with pytest.raises(InputError, match="line 2: 2 cells, the header has 1"):
        load_examples(file, "text")
    assert fields(load_examples(file, "text", names=["text", "label"])) == [
        {"text": "It works.", "label": "1"}
    ]


def test_lines_of_a_class_and_a_text_load_without_parsing(tmp_path: Path) -> None:
    lines = "DESC:manner How did serfdom develop ?\nENTY:cremat What is a fianc\xe9 ?\n"
    file = written(tmp_path / "train_5500.label", lines.encode("latin-1"))
    examples = load_examples(
        file,
        "question",
        sep=" ",
        encoding="latin-1",
        names=["label", "question"],
        labels={"label": lambda text: text.partition(":")[0]},
    )
    assert fields(examples) == [
        {"label": "DESC", "question": "How did serfdom develop ?"},
        {"label": "ENTY", "question": "What is a fiancé ?"},
    ]


def test_the_last_name_takes_the_rest_of_a_line_whatever_separates(tmp_path: Path) -> None:
    file = written(tmp_path / "data.txt", "DESC:manner: how so?\nENTY:animal\n")
    assert fields(load_examples(file, "text", sep=":", names=["label", "text"])) == [
        {"label": "DESC", "text": "manner: how so?"},
        {"label": "ENTY", "text": "animal"},
    ]
    file = written(tmp_path / "more.txt", '0 ||| it\'s "fine" ||| really\n')
    (example,) = load_examples(file, "text", sep=" ||| ", names=["label", "text"])
    assert example.text == 'it\'s "fine" ||| really'


def test_labels_may_be_said_for_several_fields_of_any_source() -> None:
    rows = [{"text": "a", "kind": True, "stars": 1.0}, {"text": "b", "kind": False, "stars": 2.0}]
    labels = {"kind": {True: "yes", False: "no"}, "stars": lambda n: round(n)}
    assert fields(load_examples(rows, "text", labels=labels)) == [
        {"text": "a", "kind": "yes", "stars": 1},
        {"text": "b", "kind": "no", "stars": 2},
    ]
    assert rows[0]["kind"] is True, "the caller's rows stay as they are"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"labels": {"label": {"2": "two"}}},
            "item 1: label is '1', for which labels has nothing; it has '2'",
        ),
        ({"labels": {"lable": {}}}, "labels: no field 'lable'; there are 'text', 'label'"),
        ({"labels": []}, "labels must be a dict such as"),
        ({"labels": {"label": lambda text: text.nothing}}, "labels of 'label' fail on '1'"),
        (
            {"labels": {"label": {"1": "one"}, "text": 3}},
            "labels of 'text' must be a dict or a function, got 3",
        ),
        ({"sep": ";"}, "sep, encoding and names say how a file is read, not a list"),
        ({"names": ["a", "b"]}, "sep, encoding and names say how a file is read, not a list"),
    ],
)
def test_what_does_not_fit_is_one_line(options: dict[str, Any], message: str) -> None:
    rows = [{"text": "a", "label": "1"}]
    with pytest.raises(InputError) as caught:
        load_examples(rows, "text", **options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sep": ""}, "sep must be the text between two cells"),
        ({"sep": 3}, "sep must be the text between two cells"),
        ({"encoding": "latin-7½"}, "no encoding 'latin-7½'"),
        ({"names": ["a", "a"]}, "names: column 'a' occurs twice"),
        ({"names": ["a", ""]}, "names must be the names of the columns"),
        ({"names": ["a"]}, "2 cells, the header has 1"),
        ({"names": ["a", "b", "c"]}, "no cell for 'c'"),
    ],
)
def test_a_layout_that_cannot_be_is_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    file = written(tmp_path / "data.csv", "x,1\ny,2\n")
    with pytest.raises(InputError, match="(?s)" + message.replace("(", r"\(")):
        load_examples(file, "a", **options)


def test_a_json_file_is_no_table(tmp_path: Path) -> None:
    file = written(tmp_path / "data.jsonl", '{"text": "a"}')
    with pytest.raises(InputError, match="sep and names are for tables, and its name says that it is JSON"):
        load_examples(file, "text", sep=";")


@pytest.mark.parametrize("column", ["dspy_id", "dspy_uuid", "dspy_"])
def test_columns_that_dspy_hides_are_refused_by_name(tmp_path: Path, column: str) -> None:
    file = written(tmp_path / "data.csv", f"text,{column},label\na,1,x\n")
    with pytest.raises(
        InputError, match=f"line 2: DSPy hides fields that begin with 'dspy_': rename '{column}'"
    ):
        load_examples(file, "text")
    with pytest.raises(InputError, match="item 1: DSPy hides"):
        load_examples([{"text": "a", column: 1}], "text")
