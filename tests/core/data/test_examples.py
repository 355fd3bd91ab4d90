"""Loading and splitting labelled data."""

from __future__ import annotations

import json
import re
from collections import Counter

import dspy
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspy_nb.core.data.examples import load_examples, split
from dspy_nb.core.data.identity import example_id
from dspy_nb.core.errors import InputError

ROWS = [{"review": "Good.", "sentiment": "positive"}, {"review": "Bad, “very”.", "sentiment": "negative"}]


def write(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return path


def as_rows(examples):
    return [example.toDict() for example in examples]


def numbered(n, labels=("positive", "negative")):
    return [
        dspy.Example(review=f"r{i}", sentiment=labels[i % len(labels)]).with_inputs("review")
        for i in range(n)
    ]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("d.jsonl", "\n".join(map(json.dumps, ROWS))),
        ("d.ndjson", "\r\n".join(map(json.dumps, ROWS)) + "\r\n\r\n"),
        ("d.jsonl", "\ufeff" + "\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS)),
        ("d.json", json.dumps(ROWS, indent=2)),
        ("D.CSV", 'review,sentiment\nGood.,positive\n"Bad, “very”.",negative\n'),
        ("d.csv", '\ufeffreview,sentiment\r\n\r\nGood.,positive\r\n"Bad, “very”.",negative'),
        ("d.tsv", "review\tsentiment\nGood.\tpositive\nBad, “very”.\tnegative\n"),
    ],
)
def test_every_file_format_gives_the_same_examples(tmp_path, name, content):
    path = write(tmp_path, name, content)
    for source in (path, str(path)):
        examples = load_examples(source, inputs=["review"])
        assert as_rows(examples) == ROWS
        assert examples[0].inputs().keys() == ["review"]
        assert examples[0].labels().keys() == ["sentiment"]


def test_frames_dicts_and_examples_are_loaded_too():
    examples = [dspy.Example(row) for row in ROWS]
    for source in (pd.DataFrame(ROWS), ROWS, iter(ROWS), examples, [examples[0], ROWS[1]]):
        assert as_rows(load_examples(source, "review")) == ROWS
    assert examples[0]._input_keys is None, "the caller's examples stay as they are"


def test_inputs_may_be_left_out_if_every_example_has_them():
    examples = [dspy.Example(row).with_inputs("review") for row in ROWS]
    assert load_examples(examples)[1].inputs().toDict() == {"review": "Bad, “very”."}
    with pytest.raises(
        InputError, match=r"item 2: its inputs are not set; give inputs=\[\.\.\.\], of 'review'"
    ):
        load_examples([examples[0], dspy.Example(ROWS[1])])


def test_json_text_may_hold_unicode_line_separators(tmp_path):
    path = write(tmp_path, "d.jsonl", '{"review": "a\u2028b\x85c"}\n{"review": "d"}')
    assert [e.review for e in load_examples(path, "review")] == ["a\u2028b\x85c", "d"]


def test_a_csv_cell_may_span_lines_and_be_very_long(tmp_path):
    long = "x" * 300_000
    path = write(tmp_path, "d.csv", f'review,n\n"two\nlines",1\n{long},2\n,3\n')
    with pytest.raises(InputError, match=r"line 5: input field 'review' has no value"):
        load_examples(path, "review")
    examples = load_examples(path, "n")
    assert [e.review for e in examples] == ["two\nlines", long, None]


def test_a_tsv_with_unbalanced_quotes_is_read_without_quoting(tmp_path):
    path = write(tmp_path, "d.tsv", 'review\tn\n"Nice" he said\t1\nA 5" screen\t2\n')
    assert [e.review for e in load_examples(path, "review")] == ['"Nice" he said', 'A 5" screen']
    path = write(tmp_path, "d.tsv", 'review\tn\n"a\ttab"\t1\n')
    assert load_examples(path, "review")[0].review == "a\ttab"


def test_frame_values_become_plain_python_values_and_missing_ones_none():
    frame = pd.DataFrame({"q": ["a", "b"], "n": [1, 2], "note": [float("nan"), "x"], "tags": [["u"], []]})
    first, _ = load_examples(frame, "q")
    assert first.toDict() == {"q": "a", "n": 1, "note": None, "tags": ["u"]}
    assert type(first.n) is int


def test_further_fields_are_kept():
    assert load_examples([{"q": "a"}, {"q": "b", "note": 1}], "q")[1].note == 1


def test_a_field_may_be_named_like_a_method_of_example():
    examples = load_examples([{"items": "a", "base": "b"}, {"items": "c", "base": "d"}], ["items", "base"])
    assert examples[1].inputs().toDict() == {"items": "c", "base": "d"}


BAD_FILES = [
    ("d.jsonl", '{"q": "a"}\n{"q": "b"', r"d\.jsonl, line 2: not valid JSON \(.* at column \d+\)"),
    ("d.jsonl", '{"q": "a"}\n\n["b"]', r"d\.jsonl, line 3: expected an object .*, got an array"),
    ("d.jsonl", '{"q": "a"}\nnull', r"line 2: .* got null"),
    ("d.jsonl", '{"q": "a"}\n3', r"line 2: .* got a number"),
    ("d.jsonl", '{"q": "a", "q": "b"}', r"line 1: field 'q' occurs twice"),
    ("d.jsonl", '{"q": "a", "l": 1}\n{"q": "b"}', r"line 2: no field 'l', which the first row has"),
    ("d.jsonl", '{"q": "a"}\n{"Q": "b"}', r"line 2: no input field 'q'; it has 'Q'"),
    ("d.jsonl", '{"q": "a"}\n{"q": null}', r"line 2: input field 'q' has no value \(None\)"),
    ("d.jsonl", '{"q": "a"}\n{"q": NaN}', r"line 2: input field 'q' has no value \(nan\)"),
    ("d.jsonl", b'{"q": "a"}\n{"q": "\xe9"}', r"line 2: not UTF-8 text \(byte 0xe9\)"),
    ("d.jsonl", " \n\n", r"d\.jsonl: no examples"),
    ("d.jsonl", "[" * 200_000, r"line 1: (maximum recursion|not valid JSON)"),
    ("d.json", "", r"d\.json: no examples"),
    ("d.json", "[]", r"d\.json: no examples"),
    ("d.json", '{"q": "a"}', r"d\.json: expected an array of objects, got an object"),
    ("d.json", '[\n{"q": "a"},\n]', r"d\.json: not valid JSON \(.* at line \d, column \d\)"),
    ("d.json", '[{"q": "a"}, "b"]', r"d\.json, item 2: .* got a string"),
    ("d.csv", "", r"d\.csv: no examples"),
    ("d.csv", "q,l\n", r"d\.csv: no examples"),
    ("d.csv", "q,l,q\na,b,c\n", r"d\.csv, line 1: column 'q' occurs twice"),
    ("d.csv", "q,\na,b\n", r"line 1: column 2 has no name"),
    ("d.csv", 'q,l\n"a\nb",1\nc,2,3\n', r"line 4: 3 cells, the header has 2"),
    ("d.csv", "q,l\na,1\nb\n", r"line 3: no cell for 'l'"),
    ("d.csv", 'q,l\na,1\n"b,2\n', r"line 3: unexpected end of data"),
    ("d.csv", "q,l\na,1\n,2\n", r"line 3: input field 'q' has no value"),
    ("d.txt", "a", r"unknown kind of file '\.txt'; valid are \.jsonl, \.ndjson, \.json, \.csv, \.tsv"),
    ("data", "a", r"unknown kind of file ''; valid are"),
]


@pytest.mark.parametrize(("name", "content", "message"), BAD_FILES)
def test_a_bad_file_is_named_with_its_line_and_field_in_one_line(tmp_path, name, content, message):
    path = write(tmp_path, name, content)
    with pytest.raises(InputError, match=message) as caught:
        load_examples(path, "q")
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_missing_files_and_folders_are_named(tmp_path):
    with pytest.raises(InputError, match=r"none\.jsonl: cannot be read \(No such file"):
        load_examples(tmp_path / "none.jsonl", "q")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(InputError, match=r"folder\.csv: cannot be read \(Is a directory"):
        load_examples(tmp_path / "folder.csv", "q")


@pytest.mark.parametrize(
    ("source", "inputs", "message"),
    [
        ([], "q", "list: no examples"),
        ([{"q": "a"}, "b"], "q", "item 2: expected a dict or a dspy.Example, got str"),
        ([{"q": "a"}, 3], "q", "item 2: expected a dict or a dspy.Example, got int"),
        ([{"q": "a"}], "x", "item 1: no input field 'x'; it has 'q'"),
        ([{"q": "a"}], [], "inputs is empty"),
        ([{"q": "a"}], "q, r", "'q, r' cannot name an input field"),
        ([{"q": "a"}], [3], "3 cannot name an input field"),
        ([{"q": "a"}], None, "item 1: its inputs are not set"),
        ({"q": "a"}, "q", "cannot load examples from dict; give a path, a DataFrame, or a list"),
        (7, "q", "cannot load examples from int"),
        (pd.DataFrame([["a", "b"]], columns=["q", "q"]), "q", "DataFrame: column 'q' occurs twice"),
        (pd.DataFrame([["a"]]), "q", "DataFrame: column 0 is not named by a string"),
        (pd.DataFrame({"q": ["a", None]}), "q", "DataFrame, row 2: input field 'q' has no value (None)"),
        (pd.DataFrame({"q": []}), "q", "DataFrame: no examples"),
    ],
)
def test_a_bad_source_is_named(source, inputs, message):
    with pytest.raises(InputError, match=re.escape(message)):
        load_examples(source, inputs)


@pytest.mark.heavy
def test_a_hundred_thousand_rows_load():
    examples = load_examples([{"q": f"question {i}", "a": str(i)} for i in range(100_000)], "q")
    assert len(examples) == 100_000
    assert examples[-1].a == "99999"


# --- split ---------------------------------------------------------------------------------------------


def texts(part):
    return [example.review for example in part]


def test_a_split_has_the_sizes_asked_for():
    assert [len(p) for p in split(numbered(240))] == [96, 72, 72]
    assert [len(p) for p in split(numbered(10), (0.7, 0.3))] == [7, 3]
    assert [len(p) for p in split(numbered(7), (0.5, 0.25, 0.25))] == [3, 2, 2]
    assert [len(p) for p in split(numbered(10), (5, 3))] == [5, 3]
    assert [len(p) for p in split(numbered(10), [4, 6])] == [4, 6]


def test_a_split_does_not_depend_on_the_order_of_the_data_and_is_pinned_for_ever():
    data = numbered(8)
    expected = [["r3", "r0", "r5"], ["r6", "r4", "r2", "r1", "r7"]]
    for order in (data, data[::-1], data[3:] + data[:3]):
        assert sorted(map(sorted, map(texts, split(order, (3, 5), seed=0)))) == sorted(map(sorted, expected))
    assert list(map(texts, split(data, (3, 5), seed=0))) == expected


def test_another_seed_gives_another_split():
    data = numbered(50)
    assert texts(split(data, seed=1)[0]) != texts(split(data, seed=2)[0])


def test_labels_keep_their_shares_when_stratified():
    data = numbered(200, labels=["positive", "negative", "positive", "positive"])
    for part, n in zip(split(data, (0.4, 0.3, 0.3), stratify="sentiment"), (80, 60, 60), strict=True):
        assert len(part) == n
        assert abs(Counter(e.sentiment for e in part)["positive"] - 0.75 * n) <= 1


def test_stratifying_works_with_labels_that_cannot_be_ordered():
    data = [dspy.Example(q=str(i), label=[None, 1, ["x"], "1"][i % 4]).with_inputs("q") for i in range(40)]
    for part in split(data, (0.5, 0.5), stratify="label"):
        assert Counter(repr(e.label) for e in part) == {"None": 5, "1": 5, "['x']": 5, "'1'": 5}


def test_rare_labels_do_not_gather_in_one_part():
    data = [dspy.Example(q=str(i), label=min(i, 200)).with_inputs("q") for i in range(400)]
    for part in split(data, (0.25, 0.5, 0.25), stratify="label"):
        assert abs(sum(e.label == 200 for e in part) - len(part) / 2) < len(part) / 10


def test_examples_with_equal_inputs_never_land_in_two_parts():
    data = numbered(60) + [
        dspy.Example(review=f"r{i}", sentiment="other").with_inputs("review") for i in range(20)
    ]
    for stratify in (None, "sentiment"):
        parts = split(data, (0.5, 0.25, 0.25), stratify=stratify)
        assert [len(p) for p in parts] == [40, 20, 20]
        for i, part in enumerate(parts):
            others = {text for other in parts[i + 1 :] for text in texts(other)}
            assert not others & set(texts(part))


@pytest.mark.parametrize(
    ("n", "fractions", "message"),
    [
        (2, (0.4, 0.3, 0.3), "part 3 of 3 would be empty: 2 examples with 2 different inputs"),
        (0, (0.5, 0.5), "part 1 of 2 would be empty"),
        (10, (0.5, 0.3), "must add up to 1, (0.5, 0.3) add up to 0.8"),
        (10, (1.0, 0.0), "must be larger than 0"),
        (10, (1.5, -0.5), "must be larger than 0"),
        (10, (), "must be larger than 0, got ()"),
        (10, (float("nan"), 0.5), "must be larger than 0"),
        (10, 0.8, "needs a list of fractions or of whole numbers, got 0.8"),
        (10, ("a", 0.5), "needs a list of fractions"),
        (10, (8, 4), "a split into (8, 4) needs 12 examples, there are 10"),
    ],
)
def test_a_split_that_cannot_be_made_is_refused(n, fractions, message):
    with pytest.raises(InputError, match=re.escape(message)):
        split(numbered(n), fractions)


def test_a_split_of_nothing_but_duplicates_is_refused():
    with pytest.raises(InputError, match="6 examples with 1 different inputs cannot be split into"):
        split(numbered(1) * 6, (0.5, 0.5))


def test_a_split_needs_inputs_and_the_field_to_stratify_by():
    with pytest.raises(
        InputError, match=r"expected a dspy.Example with inputs, got an Example without inputs"
    ):
        split([dspy.Example(q="a"), dspy.Example(q="b")])
    with pytest.raises(
        InputError, match="cannot stratify by 'label': an example has only 'review', 'sentiment'"
    ):
        split(numbered(10), stratify="label")


@given(
    inputs=st.lists(st.integers(0, 60), min_size=1, max_size=60),
    weights=st.lists(st.integers(1, 10), min_size=1, max_size=4),
    seed=st.integers(),
    stratify=st.sampled_from([None, "y"]),
    data=st.data(),
)
def test_parts_are_disjoint_complete_and_the_same_for_any_order(inputs, weights, seed, stratify, data):
    examples = [dspy.Example(x=x, y=x % 3, row=i).with_inputs("x") for i, x in enumerate(inputs)]
    fractions = [weight / sum(weights) for weight in weights]
    shuffled = data.draw(st.permutations(examples))
    try:
        parts = split(examples, fractions, seed=seed, stratify=stratify)
    except InputError:
        with pytest.raises(InputError):
            split(shuffled, fractions, seed=seed, stratify=stratify)
        return
    assert sorted(e.row for part in parts for e in part) == list(range(len(examples)))
    ids = [{example_id(e) for e in part} for part in parts]
    assert sum(map(len, ids)) == len(set.union(*ids))
    again = split(shuffled, fractions, seed=seed, stratify=stratify)
    assert [sorted(e.row for e in part) for part in again] == [sorted(e.row for e in part) for part in parts]
    if len(set(inputs)) == len(inputs):
        assert all(abs(len(p) - f * len(inputs)) < 1 for p, f in zip(parts, fractions, strict=True))


@given(
    labels=st.lists(st.sampled_from("ab"), min_size=20, max_size=80),
    weights=st.lists(st.integers(2, 5), min_size=2, max_size=3),
)
def test_stratified_shares_are_right_within_two_examples(labels, weights):
    examples = [dspy.Example(x=i, y=y).with_inputs("x") for i, y in enumerate(labels)]
    fractions = [weight / sum(weights) for weight in weights]
    for part in split(examples, fractions, stratify="y"):
        for label in "ab":
            expected = labels.count(label) * len(part) / len(labels)
            assert abs(sum(e.y == label for e in part) - expected) <= 2
