"""Evidence as it is stored: every kind comes back as it was, old logs still read, what is not known is no yes."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, get_args

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspy_nb.core.errors import InputError
from dspy_nb.core.evidence import (
    KINDS,
    CanaryEvidence,
    ComparisonEvidence,
    EvaluationEvidence,
    Evidence,
    ExperimentEvidence,
    GateCheck,
    GateResult,
    HealthEvidence,
    accept_evidence,
    read_evidence,
    write_evidence,
)
from tests import ROOT
from tests.registry_samples import EVALUATION, GATE

FIELDS = {field.name for kind in KINDS.values() for field in msgspec.structs.fields(kind)}
RESERVED = {"schema_version", "kind"}

scalars = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text() | st.floats(-1e9, 1e9)
anything = st.recursive(
    scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=4
)


def values_of(annotation: Any) -> st.SearchStrategy[Any]:
    """Values of a field, as its type says."""
    if annotation is float:
        return st.floats(-1e9, 1e9)
    if annotation is GateCheck:
        known = values_of(float)
        return st.builds(GateCheck, st.text(), st.none() | known, known, st.booleans(), st.none() | st.text())
    arguments = get_args(annotation)
    if arguments and arguments[-1] is Ellipsis:
        return st.lists(values_of(arguments[0]), max_size=3).map(tuple)
    if annotation in (str, int, bool, type(None)):
        return st.from_type(annotation)
    if getattr(annotation, "__origin__", None) is tuple:
        return st.tuples(*map(values_of, arguments))
    return st.one_of(*map(values_of, arguments))


@st.composite
def evidence(draw: st.DrawFn) -> Evidence:
    kind = draw(st.sampled_from([*KINDS.values()]))
    fields = {field.name: field.type for field in msgspec.structs.fields(kind) if field.name != "more"}
    known = draw(st.fixed_dictionaries({}, optional={name: values_of(fields[name]) for name in fields}))
    others = st.text().filter(lambda name: name not in FIELDS - {"more"} | RESERVED)
    return kind(**known, more=draw(st.dictionaries(others, anything, max_size=2)))


@given(evidence())
def test_every_kind_comes_back_as_it_was_written(made: Evidence) -> None:
    stored = json.loads(json.dumps(write_evidence(made), allow_nan=False))
    assert (stored["schema_version"], stored["kind"]) == (1, made.kind)
    assert read_evidence(stored) == made
    if made.answers:
        assert accept_evidence(stored) == made
    assert made.summary().startswith(made.kind)


keys = st.sampled_from(sorted(FIELDS)) | st.text(max_size=3)
stored_by_anybody = st.builds(
    lambda kind, values: {"kind": kind, **values},
    st.sampled_from([*KINDS, "ab", "monitor", "race", None, 7]),
    st.dictionaries(keys, anything, max_size=6),
)


@given(stored_by_anybody)
def test_whatever_a_log_holds_is_read_and_what_is_read_stays_the_same(stored: dict[str, Any]) -> None:
    found = read_evidence(stored)
    assert found is not None
    assert read_evidence(json.loads(json.dumps(found.to_dict()))) == found
    assert "\n" not in found.kind
    assert isinstance(found.summary(), str)
    said = stored["passed"] is True if "passed" in stored else stored.get("verdict") == "B better"
    assert said or not found.is_yes
    assert found.to_dict().keys() >= {name for name, value in stored.items() if value is not None}


@pytest.mark.parametrize(
    ("stored", "kind", "yes"),
    [
        ({"kind": "ab", "verdict": "B better", "baseline": "m@1.0.0"}, ComparisonEvidence, True),
        ({"kind": "ab", "verdict": "inconclusive", "passed": True}, ComparisonEvidence, True),
        ({"kind": "ab", "verdict": "B better", "passed": None}, ComparisonEvidence, False),
        ({"kind": "ab", "verdict": "B better", "passed": "yes"}, ComparisonEvidence, False),
        ({"kind": "ab", "verdict": "B better", "experiment": "e"}, ExperimentEvidence, True),
        ({"kind": "ab", "verdict": "no practical difference", "share": 0.25, "passed": True}, CanaryEvidence, True),
        ({"kind": "monitor", "verdict": "quality degraded", "alpha": 0.05}, HealthEvidence, False),
        (GATE, GateResult, True),
        ({**GATE, "passed": 1}, GateResult, False),
        (EVALUATION, EvaluationEvidence, False),
    ],
)  # fmt: skip
def test_evidence_of_logs_without_a_schema_version_still_reads(
    stored: dict[str, Any], kind: type[Evidence], yes: bool
) -> None:
    found = read_evidence(stored)
    assert type(found) is kind
    assert found.is_yes is yes
    written = {name: value for name, value in found.to_dict().items() if value != []} | {"passed": yes}
    assert written == {**stored, "schema_version": 1, "kind": found.kind, "passed": yes}


def test_all_evidence_of_the_example_registry_reads() -> None:
    found = []
    for path in sorted((ROOT / "registry").glob("*/*/log/*.json")):
        stored = json.loads(path.read_text(encoding="utf-8")).get("evidence")
        if stored is not None:
            made = read_evidence(stored)
            assert made is not None
            found.append(made.summary())
            assert made.to_dict() == {"schema_version": 1, **stored}
    assert found == [
        "gate, passed, 71.7% [63.0%, 79.0%], n = 120",
        "gate, said no, 50.0% [41.2%, 58.8%], n = 120",
        "gate, passed, 71.7% [63.0%, 79.0%], n = 120",
    ]


@pytest.mark.parametrize(
    "stored",
    [
        {"schema_version": 1, "kind": "race", "passed": True, "verdict": "B better", "n": 9, "track": [1]},
        {"schema_version": 2, "kind": "gate", "passed": True, "n": "of another type"},
        {"schema_version": "x", "kind": "comparison", "verdict": "B better"},
        {"schema_version": 1, "kind": ["gate"], "passed": True},
        {"schema_version": 1, "kind": "ab", "passed": True},
        {},
    ],
)
def test_what_only_a_later_version_knows_is_shown_and_never_a_yes(stored: dict[str, Any]) -> None:
    found = read_evidence(stored)
    assert found is not None
    assert (found.is_yes, found.is_evaluation, found.answers) == (False, False, ())
    assert found.to_dict() == stored
    assert found.summary().startswith(str(stored.get("kind")))
    with pytest.raises(InputError, match="evidence is not valid"):
        accept_evidence(stored)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            7,
            "give a gate result, a comparison, an evaluation, or a dict with a kind of evaluation, gate, comp",
        ),
        ([GATE], "give a gate result"),
        (None, "give a gate result"),
        ({}, "its kind is None, not one of evaluation, gate, comparison, sweep, experiment, canary$"),
        ({"kind": "hope\nagain"}, "its kind is hope again, not one of"),
        ({"kind": "monitor"}, "its kind is health, not one of"),
        ({**GATE, "schema_version": 9}, "its schema version is 9, this reads 1"),
        ({**GATE, "passed": "yes"}, r"expected bool or null, got str - at \$.passed"),
        ({**GATE, "n": 5.5}, r"expected int or null, got float - at \$.n"),
        ({**GATE, "score": "0.9"}, r"expected float or null, got str - at \$.score"),
        ({**GATE, "interval": [0.5]}, r"expected array of length 2, got 1 - at \$.interval"),
        ({**GATE, "interval": ["low", 1]}, r"expected float or null, got str - at \$.interval\[0\]"),
        ({**GATE, "score": math.nan}, "the evidence cannot be stored as JSON"),
        ({**GATE, "notes": object()}, "the evidence cannot be stored as JSON"),
    ],
)
def test_what_is_wrong_with_evidence_that_is_given_is_said_in_one_line(given: Any, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        accept_evidence(given)
    assert "\n" not in str(caught.value)


def test_numbers_of_numpy_and_tuples_may_be_given() -> None:
    found = accept_evidence({**EVALUATION, "score": np.float64(0.5), "n": np.int64(3), "interval": (0, 1)})
    assert (found.score, found.n, found.interval) == (0.5, 3, (0.0, 1.0))


def test_a_number_that_is_not_finite_is_not_known() -> None:
    class Result:
        score, interval, n = math.nan, (math.nan, math.inf), 3

    assert EvaluationEvidence.of(Result(), confidence=-math.inf) == EvaluationEvidence(
        n=3, interval=(None, None)
    )


def test_evidence_cannot_be_changed() -> None:
    found = accept_evidence(GATE)
    with pytest.raises(AttributeError):
        found.passed = False  # type: ignore[misc]
    assert found.passed


def test_the_file_that_the_command_line_prints_is_the_evidence_that_it_takes(tmp_path: Path) -> None:
    made = ComparisonEvidence(ref="m@1.0.0", verdict="B better", n=3, interval=(0.1, 0.2))
    path = tmp_path / "gate.json"
    path.write_text(json.dumps(made.to_dict()))
    assert accept_evidence(json.loads(path.read_text())) == made
