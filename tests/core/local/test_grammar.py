"""The form that the embedded model fills in for a JSON schema."""

from __future__ import annotations

import itertools
import json
from typing import Any, Literal

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspy_nb.core.local.grammar import TIGHTNESS, answer_form


class Point(pydantic.BaseModel):
    label: str
    x: float
    children: list[Point]


def schema_of(**fields: Any) -> dict[str, Any]:
    model = pydantic.create_model("Answer", **{name: (kind, ...) for name, kind in fields.items()})
    return model.model_json_schema()


def json_rules(grammar: str) -> list[dict[str, Any]]:
    """Every JSON schema in the grammar."""
    return [json.loads(line.partition("%json ")[2]) for line in grammar.splitlines() if "%json " in line]


def walk(node: Any):
    if isinstance(node, dict):
        yield node
        for value in node.values():
            yield from walk(value)
    elif isinstance(node, list):
        for value in node:
            yield from walk(value)


def test_a_single_label_leaves_only_the_label_to_write():
    form = answer_form(schema_of(sentiment=Literal["good", "bad"]), 64)
    assert form.opening == '{\n  "sentiment": "'
    assert (form.stop, form.closing) == (('"',), '"\n}')
    assert '("good" | "bad")' in form.grammar
    assert json.loads(form.opening + "good" + form.closing) == {"sentiment": "good"}


def test_a_label_with_a_quote_in_it_is_left_to_the_schema():
    form = answer_form(schema_of(answer=Literal['a "b"', "c"]), 64)
    assert form.stop == ()
    assert json_rules(form.grammar)[0]["enum"] == ['a "b"', "c"]


@pytest.mark.parametrize("label", ["Ü", "a\\b", "two words", "tab\t"])
def test_unusual_labels_make_valid_json(label):
    form = answer_form(schema_of(answer=Literal[label, "other"]), 64)
    literal = form.grammar.split("start: (")[1].split(" | ")[0]
    assert json.loads(form.opening + json.loads(literal) + form.closing) == {"answer": label}


def test_fields_come_in_order_with_everything_between_them_fixed():
    form = answer_form(schema_of(reasoning=str, sentiment=Literal["good", "bad"], stars=int), 128)
    assert form.opening == '{\n  "reasoning":'
    start = form.grammar.splitlines()[1]
    assert start == (r'start: " " value0 ",\n  \"sentiment\": " value1 ",\n  \"stars\": " value2 "\n}"')
    text, label, number = json_rules(form.grammar)
    assert text["maxLength"] >= 100
    assert label["enum"] == ["good", "bad"]
    assert number["minimum"] < 0 < number["maximum"]


def test_limits_of_the_schema_are_kept_where_they_are_tighter():
    schema = {
        "type": "object",
        "properties": {
            "code": {"type": "string", "minLength": 90, "maxLength": 99},
            "year": {"type": "integer", "minimum": 1900, "maximum": 2100},
            "pair": {"type": "array", "minItems": 20, "maxItems": 30, "items": {"type": "boolean"}},
            "share": {"type": "number", "exclusiveMinimum": 0, "maximum": 1, "multipleOf": 0.5},
        },
    }
    code, year, pair, share = json_rules(answer_form(schema, 64).grammar)
    assert (code["minLength"], code["maxLength"]) == (90, 90)
    assert (year["minimum"], year["maximum"]) == (1900, 2100)
    assert (pair["minItems"], pair["maxItems"]) == (20, 20)
    assert (share["exclusiveMinimum"], share["maximum"], share["multipleOf"]) == (0, 1, 0.5)


def test_an_object_of_unknown_shape_still_ends():
    form = answer_form({"type": "object"}, 64)
    (schema,) = json_rules(form.grammar)
    assert (form.opening, form.closing) == ("", "")
    assert schema["maxProperties"] <= 10
    assert all("maxLength" in node for node in walk(schema) if node.get("type") == "string")


def test_recursive_definitions_come_along_with_every_rule():
    rules = json_rules(answer_form(schema_of(first=Point, second=list[Point]), 256).grammar)
    assert all("Point" in rule["$defs"] for rule in rules)


SCALARS = st.sampled_from([{"type": kind} for kind in ("string", "integer", "number", "boolean", "null")])
SCHEMAS = st.recursive(
    SCALARS | st.just({"enum": ["a", "b"]}),
    lambda inner: (
        st.builds(lambda items: {"type": "array", "items": items}, inner)
        | st.builds(lambda options: {"anyOf": options}, st.lists(inner, min_size=1, max_size=3))
        | st.builds(
            lambda properties: {"type": "object", "properties": properties, "required": list(properties)},
            st.dictionaries(st.sampled_from("abcd"), inner, min_size=1, max_size=3),
        )
    ),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from("wxyz"), SCHEMAS, min_size=1), st.integers(16, 2000))
def test_everything_that_could_go_on_for_ever_has_an_end(properties, max_tokens):
    schema = {"type": "object", "properties": properties}
    sizes = []
    for attempt in range(len(TIGHTNESS)):
        nodes = list(walk(json_rules(answer_form(schema, max_tokens, attempt).grammar)))
        strings = [node["maxLength"] for node in nodes if node.get("type") == "string"]
        lists = [node["maxItems"] for node in nodes if node.get("type") == "array"]
        assert all("maximum" in node for node in nodes if node.get("type") in ("integer", "number"))
        sizes.append((max(strings, default=0), max(lists, default=0)))
    assert all(lists >= next_lists for (_, lists), (_, next_lists) in itertools.pairwise(sizes))


@given(st.integers(1, 5), st.integers(64, 2000))
def test_all_the_texts_together_fit_into_the_tokens(fields, max_tokens):
    schema = schema_of(**{f"field{number}": str for number in range(fields)})
    per_token, _ = TIGHTNESS[0]
    longest = sum(rule["maxLength"] for rule in json_rules(answer_form(schema, max_tokens).grammar))
    assert longest <= max_tokens * per_token
