"""Random types: a value is its own JSON form, and no other one's."""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import functools
import pathlib
from decimal import Decimal

import pydantic
from hypothesis import given
from hypothesis import strategies as st

from dspy_nb.core.data.equality import same_exactly, same_normalized, same_stripped
from dspy_nb.core.data.typed_values import is_json

Mood = enum.Enum("Mood", {"GOOD": "fine", "BAD": "poor"})
Level = enum.IntEnum("Level", {"LOW": 1, "HIGH": 2})
WORDS = st.sampled_from(
    ["ant", "bee", "red fox", "owl"]
)  # no two are one by any rule, and none spells a number
ZONES = st.sampled_from([dt.UTC, dt.timezone(dt.timedelta(hours=5, minutes=30))])
FROM, TO = dt.datetime(1900, 1, 1), dt.datetime(2100, 1, 1)

SCALARS = {
    str: WORDS,
    int: st.integers(-3, 3),
    float: st.floats(allow_nan=False, allow_infinity=False),
    bool: st.booleans(),
    dt.date: st.dates(FROM.date(), TO.date()),
    dt.datetime: st.datetimes(FROM, TO, timezones=ZONES),
    dt.time: st.times(),
    dt.timedelta: st.timedeltas(dt.timedelta(0), dt.timedelta(days=9999)),
    Decimal: st.decimals(-100, 100, places=2),
    pydantic.UUID4: st.uuids(version=4),
    bytes: WORDS.map(str.encode),
    pathlib.Path: WORDS.map(pathlib.Path),
    Mood: st.sampled_from(Mood),
    Level: st.sampled_from(Level),
}


def containers(inner):
    """Return how to nest types, each a pair of annotation and strategy of its values."""

    def made(drawn, how):
        fields = {f"field_{place}": kind for place, (kind, _) in enumerate(drawn)}
        if how == "model":
            last = [*fields][-1]
            kinds = {name: (kind, ...) for name, kind in fields.items()}
            made_type = pydantic.create_model("Made", **{**kinds, last: (fields[last] | None, None)})
        else:
            made_type = dataclasses.make_dataclass("Made", list(fields.items()))
        values = {name: values for name, (_, values) in zip(fields, drawn, strict=True)}
        return made_type, st.builds(made_type, **values)

    return st.one_of(
        inner.map(lambda one: (list[one[0]], st.lists(one[1], max_size=3))),
        inner.map(lambda one: (tuple[one[0], ...], st.lists(one[1], max_size=3).map(tuple))),
        inner.map(lambda one: (dict[str, one[0]], st.dictionaries(WORDS, one[1], max_size=3))),
        inner.map(lambda one: (one[0] | None, st.none() | one[1])),
        st.sampled_from([dt.date, Mood, str, Level]).map(
            lambda kind: (set[kind], st.sets(SCALARS[kind], max_size=3))
        ),
        st.sampled_from([dt.date, int, Mood]).map(
            lambda kind: (dict[kind, str], st.dictionaries(SCALARS[kind], WORDS, max_size=3))
        ),
        *(
            st.lists(inner, min_size=1, max_size=3).map(functools.partial(made, how=how))
            for how in ("model", "dataclass")
        ),
    )


TYPES = st.recursive(st.sampled_from(list(SCALARS.items())), containers, max_leaves=4)


@given(st.data())
def test_a_value_is_its_json_form_and_another_value_is_not(data) -> None:
    kind, values = data.draw(TYPES)
    value, other = data.draw(values), data.draw(values)
    adapter = pydantic.TypeAdapter(kind)
    form, text = adapter.dump_python(value, mode="json"), adapter.dump_json(value).decode()
    others = adapter.dump_python(other, mode="json")
    for same in (same_exactly, same_stripped, same_normalized):
        assert same(value, value)
        assert same(form, value)
        assert same(value, form)
        assert same(others, value) == same(value, others) == (other == value)
        assert same(other, value) == (other == value)
    # A text is its own JSON form without the quotes, and null may be a text.
    if not isinstance(value, str | bytes | pathlib.Path | enum.Enum | None):
        assert same_normalized(text, value)
        assert same_normalized(value, text)
    if not is_json(value) and not isinstance(value, bytes | pathlib.Path | enum.Enum):
        assert same_exactly(text, value)


@given(st.sampled_from([dt.date, dt.datetime, dt.time, dt.timedelta, Decimal, pydantic.UUID4]), st.data())
def test_a_single_value_is_its_text(kind, data) -> None:
    value, other = data.draw(SCALARS[kind]), data.draw(SCALARS[kind])
    for spell in (str, getattr(kind, "isoformat", str)):
        assert same_exactly(spell(value), value)
        assert same_normalized(value, f" {spell(value)}\n")
        assert same_normalized(spell(other), value) == (other == value)


ANYTHING = st.recursive(
    st.one_of(
        st.none(), st.text(), st.integers(), st.floats(), st.booleans(), st.binary(), *SCALARS.values()
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@given(ANYTHING, ANYTHING)
def test_any_two_values_compare_the_same_both_ways_and_never_raise(one, other) -> None:
    for same in (same_exactly, same_stripped, same_normalized):
        assert same(one, other) is same(other, one)
