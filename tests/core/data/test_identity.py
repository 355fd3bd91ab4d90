"""The identity of examples and data sets."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import functools
import hashlib
import json
import os
import subprocess
import sys
import threading
import uuid

import dspy
import numpy as np
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspy_nb.core.data.identity import example_id, fingerprint, value_key
from dspy_nb.core.errors import InputError
from tests import ROOT


def example(**fields):
    return dspy.Example(**fields).with_inputs("q")


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


class Person(pydantic.BaseModel):
    name: str
    born: datetime.date | None = None


@dataclasses.dataclass
class Point:
    x: float
    y: float


class Opaque:
    """Has no repr of its own."""

    def __init__(self, value):
        self.value = value


VALUES = [
    None,
    True,
    0,
    1,
    1.0,
    "1",
    "",
    [],
    {},
    [1],
    [1, 2],
    [2, 1],
    {"a": 1},
    {"a": None},
    {1: "a"},
    {"1": "a"},
    {1, 2},
    {1, 3},
    b"ab",
    b"ac",
    float("inf"),
    float("nan"),
    "2024-01-01",
    datetime.date(2024, 1, 1),
    datetime.datetime(2024, 1, 1),
    datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC),
    datetime.time(1, 2),
    Colour.RED,
    Colour.BLUE,
    Person(name="a"),
    Person(name="a", born=datetime.date(2000, 1, 1)),
    Point(1.0, 2.0),
    Point(2.0, 1.0),
    Opaque(1),
    Opaque(2),
    dspy.Example(a=1),
    dspy.Image(url="https://example.com/a.png"),
    dspy.Image(url="https://example.com/b.png"),
    dspy.History(messages=[{"q": "a"}]),
    decimal.Decimal("1.0"),
    uuid.UUID(int=1),
    "\ud800",
    "é",
    "e\u0301",
]


def test_different_values_have_different_identities():
    assert len({value_key(value) for value in VALUES}) == len(VALUES)


def test_equal_values_have_equal_identities_whatever_holds_them():
    assert value_key({"a": 1, "b": [1, 2]}) == value_key({"b": (1, 2), "a": 1})
    assert value_key({3, 1, 2, "x"}) == value_key({"x", 2, 3, 1})
    assert value_key(np.int64(3)) == value_key(3)
    assert value_key(np.float64(0.5)) == value_key(0.5)
    assert value_key(np.array([[1, 2]])) == value_key([[1, 2]])
    assert value_key(Opaque([1])) == value_key(Opaque([1]))


def search(query: str) -> str:
    """Find it."""
    return query


def bound_to(value):
    def inner(query: str) -> str:
        return f"{query} {value}"

    return inner


def with_default(query: str = "a") -> str:
    return query


class Client:
    def __init__(self, address):
        self.address = address

    def search(self, query: str) -> str:
        return query


CALLABLES = [
    search,
    with_default,
    bound_to(1),
    bound_to(2),
    len,
    [].append,
    ["a"].append,
    functools.partial(search, query="a"),
    functools.partial(search, query="b"),
    Client("a").search,
    Client("b").search,
    Client,
    dspy.Tool(search),
    dspy.Tool(search, name="other"),
    dspy.Tool(search, desc="other"),
    dspy.Tool(search, arg_desc={"query": "what to find"}),
    dspy.Tool(Client("a").search),
    {"search": dspy.Tool(search)},
    dspy.Audio(data="AAAA", audio_format="wav"),
    dspy.Audio(data="BBBB", audio_format="wav"),
    dspy.File(file_id="f-1"),
    dspy.File(file_id="f-2"),
    dspy.Code["python"](code="a"),
    dspy.Code["python"](code="b"),
    dspy.Reasoning(content="a"),
    dspy.ToolCalls.from_dict_list([{"name": "search", "args": {"query": "a"}}]),
    dspy.ToolCalls.from_dict_list([{"name": "search", "args": {"query": "b"}}]),
    [dspy.Image(url="https://example.com/a.png")],
]


def test_tools_functions_and_media_are_told_apart():
    assert len({value_key(value) for value in CALLABLES}) == len(CALLABLES)


def test_a_tool_is_what_a_language_model_sees_of_it_and_a_function_what_it_is_bound_to():
    locked = threading.Lock()
    assert value_key(dspy.Tool(lambda query: locked, name="search", desc="d", args={})) == value_key(
        dspy.Tool(search, desc="d", args={})
    )
    assert value_key(bound_to([1])) == value_key(bound_to([1]))
    assert value_key(Client("a").search) == value_key(Client("a").search)


def test_the_identity_of_tools_and_functions_is_the_same_in_every_process():
    code = (
        "import dspy; from dspy_nb.core.data.identity import example_id;"
        "from tests.core.data.test_identity import *;"
        "tools = [dspy.Tool(search), dspy.Tool(lambda a: a, name='same', desc='')];"
        "print(example_id(dspy.Example(tools=tools, f=search, p=CALLABLES[7], g=bound_to(1)).with_inputs("
        "'tools', 'f', 'p', 'g')))"
    )
    seen = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(seen) == 1
    assert len(seen.pop().strip()) == 16


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (threading.Lock(), "lock"),
        (lambda: None, "function"),
        ((n for n in ()), "generator"),
        ([object()], "list"),
        (bound_to(threading.Lock()), "function"),
        (Client(threading.Lock()), "Client"),
        (Client(threading.Lock()).search, "method"),
        (dspy.LM("openai/x"), "LM"),
    ],
)
def test_a_live_object_is_refused_by_the_name_of_its_field(value, kind):
    data = [dspy.Example(q="a", client=value, z=1).with_inputs("q", "client")]
    for identify in (fingerprint, lambda data: example_id(data[0])):
        with pytest.raises(
            InputError, match=rf"field 'client' of an example \({kind}\): cannot hash"
        ) as refused:
            identify(data)
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize("value", [object(), lambda: None, [object()]])
def test_what_has_no_content_is_refused(value):
    with pytest.raises(InputError, match="its repr is a memory address"):
        value_key(value)


def test_what_contains_itself_is_refused():
    loop = []
    loop.append(loop)
    with pytest.raises(InputError, match="contains itself"):
        value_key(loop)


def _in_another_process(code: str, hash_seed: int) -> str:
    environment = {**os.environ, "PYTHONHASHSEED": str(hash_seed)}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout


@pytest.mark.heavy
def test_identities_are_hashes_of_canonical_json_in_every_process():
    data = [example(q=q, tags={"y", "x"}) for q in ("é", "a")]
    code = (
        "import dspy; from dspy_nb.core.data.identity import example_id, fingerprint;"
        "data = [dspy.Example(q=q, tags={'y', 'x'}).with_inputs('q') for q in ('é', 'a')];"
        "print(example_id(data[1]), fingerprint(data), *data[0].tags)"
    )
    # In the other process the same set comes in another order.
    here = f"{example_id(data[1])} {fingerprint(data)}"
    order = "".join(data[0].tags)
    other = next(
        n for n in range(100) if _in_another_process("print(*{'y', 'x'}, sep='')", n).strip() != order
    )
    there, *tags = _in_another_process(code, other).rsplit(maxsplit=2)
    assert "".join(tags) == order[::-1]
    rows = [
        rb'{"fields":{"q":"\u00e9","tags":["$set",["x","y"]]},"inputs":["q"]}',
        rb'{"fields":{"q":"a","tags":["$set",["x","y"]]},"inputs":["q"]}',
    ]
    first = hashlib.sha256(b'{"q":"a"}').hexdigest()[:16]
    digests = sorted(hashlib.sha256(row).digest() for row in rows)
    whole = hashlib.sha256(digests[0] + digests[1]).hexdigest()
    assert here == there == f"{first} {whole}"


def test_an_example_is_known_by_its_inputs_alone():
    assert example_id(example(q="a", label=1)) == example_id(example(label=2, q="a"))
    assert example_id(example(q="a")) != example_id(example(q="b"))
    assert example_id(example(q="a", dspy_split="x")) == example_id(example(q="a"))
    two = dspy.Example(q="a", r="b")
    assert example_id(two.with_inputs("q", "r")) == example_id(two.with_inputs("r", "q"))
    assert example_id(two.with_inputs("q", "r")) != example_id(two.with_inputs("q"))


@pytest.mark.parametrize("value", [{"q": 1}, None, dspy.Example(q=1), dspy.Prediction(q=1)])
def test_an_example_without_inputs_has_no_identity(value):
    with pytest.raises(InputError, match=r"expected a dspy.Example with inputs"):
        example_id(value)


def test_a_fingerprint_tells_what_belongs_to_the_data_from_what_does_not():
    data = [example(q="a", label=1), example(q="b", label=2)]
    same = fingerprint(data)
    assert same == fingerprint(data[::-1])
    assert same == fingerprint([example(label=1, q="a"), example(label=2, q="b")])
    assert same == fingerprint(iter(data))
    assert len(same) == 64
    others = [
        data[:1],
        [*data, data[0]],
        [],
        [example(q="a", label=2), example(q="b", label=1)],
        [example(q="a", label=1), example(q="b", label="2")],
        [example(q="a", labels=1), example(q="b", labels=2)],
        [example(q="a", label=1, note=None), data[1]],
        [dspy.Example(e).with_inputs("q", "label") for e in data],
        [dspy.Example(e.toDict()) for e in data],
    ]
    assert len({fingerprint(other) for other in others} | {same}) == len(others) + 1


def test_a_fingerprint_is_of_examples_only():
    with pytest.raises(InputError, match=r"item 2: expected a dspy.Example, got dict"):
        fingerprint([example(q="a"), {"q": "b"}])


text = st.text("aB1é☃", max_size=5)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=8,
)
rows = st.lists(st.fixed_dictionaries({"q": json_values, "a": json_values}), max_size=6)


@given(rows=rows, data=st.data())
def test_a_fingerprint_ignores_order_and_nothing_else(rows, data):
    examples = [dspy.Example(row).with_inputs("q") for row in rows]
    shuffled = data.draw(st.permutations(examples))
    assert fingerprint(shuffled) == fingerprint(examples)
    backwards = [dspy.Example(dict(reversed(row.items()))).with_inputs("q") for row in rows]
    assert fingerprint(backwards) == fingerprint(examples)
    if examples:
        i = data.draw(st.integers(0, len(examples) - 1))
        changed = examples[i].copy(a=[examples[i].a])
        assert fingerprint([*examples[:i], changed, *examples[i + 1 :]]) != fingerprint(examples)
        assert example_id(changed) == example_id(examples[i])
        assert fingerprint([*examples, examples[i]]) != fingerprint(examples)


names = st.text('aB1é"\\ ', min_size=1, max_size=4)
values = json_values.filter(lambda value: "inf" not in repr(value)) | st.text(max_size=5)


@given(fields=st.dictionaries(names, values, min_size=1, max_size=4), data=st.data())
def test_identities_are_hashes_of_the_json_of_all_fields_together(fields, data):
    inputs = data.draw(st.sets(st.sampled_from(sorted(fields)), min_size=1))
    made = dspy.Example(fields).with_inputs(*inputs)

    def digest(content):
        return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode("ascii"))

    assert example_id(made) == digest({name: fields[name] for name in inputs}).hexdigest()[:16]
    row = digest({"fields": fields, "inputs": sorted(inputs)}).digest()
    assert fingerprint([made]) == hashlib.sha256(row).hexdigest()
