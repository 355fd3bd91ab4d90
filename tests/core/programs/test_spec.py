from __future__ import annotations

import copy
import json
from datetime import date
from typing import Any, Literal

import dspy
import pydantic
import pytest

from dspy_nb.core.errors import Corrupt, InputError, Refused
from dspy_nb.core.programs.spec import (
    base_model,
    check_spec,
    compare_specs,
    parameters_of,
    parts_of,
    rebuild,
    rebuild_predictor,
    spec_of,
)
from dspy_nb.core.programs.state import check_state, dump_state, load_state
from dspy_nb.core.storage.files import dump_json
from tests.registry_samples import stays_in_the_error_tree


class Answer(pydantic.BaseModel):
    text: str


class Two(dspy.Module):
    def __init__(self, first: str = "question -> query", second: str = "query -> answer") -> None:
        super().__init__()
        self.steps = [dspy.Predict(first)]
        self.by_name = {"last": dspy.ChainOfThought(second)}

    def forward(self, question: str) -> dspy.Prediction:
        return self.by_name["last"](query=self.steps[0](question=question).query)


class Careful(dspy.Predict):
    """A predictor of a class of its own."""


def prompt(predictor: dspy.Predict) -> list[dict[str, Any]]:
    inputs = dict.fromkeys(predictor.signature.input_fields, "?")
    return dspy.ChatAdapter().format(predictor.signature, predictor.demos, inputs)


def stored(program: dspy.Module) -> tuple[dict[str, Any], dict[str, Any]]:
    """The spec and the state as they are after a trip through JSON."""
    spec = json.loads(dump_json(spec_of(program), "spec"))
    state = json.loads(dump_json(dump_state(program), "state"))
    check_spec(spec, "here")
    check_state(state, spec, "here")
    return spec, state


class Sentiment(dspy.Signature):
    """Say how the reviewer feels."""

    review: str = dspy.InputField(desc="a short review")
    words: list[str] = dspy.InputField()
    sentiment: Literal["good", "bad"] = dspy.OutputField(desc="the feeling")
    score: float | None = dspy.OutputField()


@pytest.mark.parametrize(
    "program",
    [
        dspy.Predict("question -> answer"),
        dspy.Predict(Sentiment, temperature=0.3, max_tokens=50),
        dspy.ChainOfThought(Sentiment),
        dspy.ChainOfThought("a, b: int -> c: dict[str, int]", n=2, temperature=0.9),
    ],
)
def test_a_program_of_one_plain_predictor_comes_back_from_its_spec_alone(program: dspy.Module) -> None:
    (predictor,) = program.predictors()
    predictor.signature = predictor.signature.with_instructions("Optimized.\nTwo lines.")
    predictor.demos = [dspy.Example(review="nice", words=["a"], sentiment="good", score=1.0, augmented=True)]
    spec, state = stored(program)
    loaded = rebuild(spec, "m@1.0.0")
    load_state(loaded, state)
    (again,) = loaded.predictors()
    assert type(loaded) is type(program)
    assert prompt(again) == prompt(predictor)
    assert again.config == predictor.config
    assert dump_state(loaded) == state
    assert spec_of(loaded) == spec


def test_what_dspy_itself_loads_from_the_state_is_the_same_program(tmp_path: Any) -> None:
    program = Two()
    program.steps[0].demos = [{"question": "?", "query": "q"}]
    (tmp_path / "model.json").write_bytes(dump_json(dump_state(program), "state"))
    other = Two()
    other.load(tmp_path / "model.json")
    assert other.steps[0].demos == program.steps[0].demos


def test_every_predictor_of_nested_modules_lists_and_dicts_is_in_the_spec() -> None:
    spec, state = stored(Two())
    assert [item["path"] for item in spec["predictors"]] == ["steps[0]", "by_name['last'].predict"]
    assert set(state) == {"steps[0]", "by_name['last'].predict", "metadata"}
    assert "program of class" in spec["obstacle"]
    with pytest.raises(Refused, match=r"program=\.\.\."):
        rebuild(spec, "m@1.0.0")


def test_the_paths_are_those_of_dspy() -> None:
    program = Two()
    assert [item["path"] for item in spec_of(program)["predictors"]] == [
        name for name, _ in program.named_parameters()
    ]


def test_a_frozen_sub_module_is_stored_and_loaded_although_dspy_leaves_it_out() -> None:
    program = Two()
    program.by_name["last"].predict.demos = [{"query": "q", "answer": "a"}]
    program.by_name["last"]._compiled = True
    assert [name for name, _ in program.named_parameters()] == ["steps[0]"]
    _, state = stored(program)
    other = Two()
    other.by_name["last"]._compiled = True
    load_state(other, state)
    assert other.by_name["last"].predict.demos == [{"query": "q", "answer": "a"}]


@pytest.mark.parametrize(
    ("program", "words"),
    [
        (dspy.Predict("question -> answer: Answer"), "Answer"),
        (dspy.Predict("question -> answer", api_base="http://evil"), "api_base"),
        (Careful("question -> answer"), "Careful"),
        (Two(), "Two"),
    ],
)
def test_a_program_that_needs_its_class_says_why(program: dspy.Module, words: str) -> None:
    assert words in spec_of(program)["obstacle"]


def test_a_constraint_or_a_default_needs_the_class() -> None:
    class Bounded(dspy.Signature):
        question: str = dspy.InputField()
        answer: int = dspy.OutputField(ge=0)

    class Defaulted(dspy.Signature):
        question: str = dspy.InputField(default="why?")
        answer: str = dspy.OutputField()

    for signature in (Bounded, Defaulted):
        assert "default or a constraint" in spec_of(dspy.Predict(signature))["obstacle"]


def test_an_option_that_says_where_calls_go_is_never_stored() -> None:
    program = dspy.Predict("question -> answer", api_base="http://evil", api_key="sk-1", temperature=0.5)
    assert spec_of(program)["predictors"][0]["options"] == {"temperature": 0.5}


def test_the_language_model_is_left_out_of_the_state_and_kept_by_the_program() -> None:
    program = dspy.Predict("question -> answer")
    program.lm = lm = dspy.LM("openai/gpt-4o-mini", api_base="http://x/v1", api_key="sk-secret")
    spec, state = stored(program)
    assert state["lm"] is None
    assert "secret" not in json.dumps([spec, state])
    assert program.lm is lm
    assert base_model(program) == "openai/gpt-4o-mini"
    load_state(program, state)
    assert program.lm is lm


def test_a_language_model_with_an_engine_of_its_own_does_not_hinder() -> None:
    class Engine:
        def complete(self, request: object) -> None:
            raise AssertionError("never called")

    program = dspy.Predict("question -> answer")
    program.lm = dspy.LM("scripted/x", engine=Engine())
    assert dump_state(program)["lm"] is None


def test_what_is_no_program_is_refused() -> None:
    class Empty(dspy.Module):
        pass

    class Bad(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.metadata = dspy.Predict("a -> b")

    patched = dspy.Predict("a -> b")
    patched.forward = lambda **_: None
    for program, words in ((7, "int"), (Empty(), "no predictors"), (Bad(), "metadata"), (patched, "forward")):
        with pytest.raises(InputError, match=words):
            spec_of(program)


def test_demos_that_are_no_text_are_refused_and_sets_and_dates_are_stored_as_they_are_shown() -> None:
    program = dspy.Predict("a -> b")
    program.demos = [{"a": {1}, "b": "x"}]
    demos = json.loads(dump_json(dump_state(program), "the state of the program"))["demos"]
    assert demos == [{"a": [1], "b": "x", "dspy_nb_types": {"a": "set"}}]
    program.demos = [{"a": date(2026, 1, 2), "b": Answer(text="x")}]
    demos = json.loads(dump_json(dump_state(program), "the state"))["demos"]
    assert demos == [{"a": "2026-01-02", "b": {"text": "x"}}]
    program.demos = [{"a": "\ud800", "b": "x"}]
    with pytest.raises(InputError):
        dump_json(dump_state(program), "the state")


@pytest.mark.parametrize(
    ("first", "words"),
    [
        ("question, extra -> query", "'extra' is in the program but not in the version"),
        ("query -> question", "the role of field 'question'"),
        (
            "question: int -> query",
            "the type of field 'question' .* is str in the version but int in the program",
        ),
        ("frage -> query", "'question' is in the version but not in the program"),
        ("question -> query, more", "'more' is in the program but not in the version"),
    ],
)
def test_a_program_with_other_fields_is_refused_by_name(first: str, words: str) -> None:
    with pytest.raises(Refused, match=words):
        compare_specs(spec_of(Two()), spec_of(Two(first=first)), "m@1.0.0")


def test_the_order_of_fields_and_the_set_of_predictors_count_too() -> None:
    swapped = spec_of(dspy.Predict("b, a -> c"))
    with pytest.raises(Refused, match="order"):
        compare_specs(spec_of(dspy.Predict("a, b -> c")), swapped, "m@1.0.0")
    with pytest.raises(Refused, match="predictor 'predict' is in the version but not in the program"):
        compare_specs(spec_of(dspy.ChainOfThought("a -> b")), spec_of(dspy.Predict("a -> b")), "m@1.0.0")
    with pytest.raises(Refused, match="Careful"):
        compare_specs(spec_of(dspy.Predict("a -> b")), spec_of(Careful("a -> b")), "m@1.0.0")


def test_only_the_types_of_fields_count_not_their_texts() -> None:
    tuned = Two()
    tuned.steps[0].signature = tuned.steps[0].signature.with_updated_fields("question", desc="tuned")
    compare_specs(spec_of(tuned), spec_of(Two()), "m@1.0.0")


HARMFUL = [
    lambda s: s.update(config={"api_base": "http://evil"}),
    lambda s: s.update(forward="x"),
    lambda s: s.update(lm={"model": "openai/x", "api_base": "http://evil"}),
    lambda s: s["signature"]["fields"].pop(),
    lambda s: s["signature"]["fields"].append({"prefix": "a", "description": "b"}),
    lambda s: s["signature"].pop("instructions"),
    lambda s: s["signature"].update(instructions=3),
    lambda s: s["signature"]["fields"][0].update(prefix=None),
    lambda s: s.update(demos={"a": 1}),
    lambda s: s.update(demos=["a"]),
    lambda s: s.update(traces="x"),
    lambda s: s.pop("signature"),
    lambda s: s.update(signature=[]),
]


@pytest.mark.parametrize("harm", HARMFUL)
def test_a_state_that_dspy_would_take_without_a_word_is_refused(harm: Any) -> None:
    spec, state = stored(dspy.Predict("question -> answer"))
    harm(state)
    with pytest.raises(Corrupt) as caught:
        check_state(state, spec, "model.json")
    assert "\n" not in str(caught.value)


def test_a_state_with_other_predictors_is_refused() -> None:
    spec, state = stored(Two())
    state["more"] = copy.deepcopy(state["steps[0]"])
    with pytest.raises(Corrupt, match="more"):
        check_state(state, spec, "model.json")
    for nothing in (None, [], "x", {}):
        with pytest.raises(Corrupt):
            check_state(nothing, spec, "model.json")


def test_a_decision_configuration_that_does_not_fit_is_corrupt() -> None:
    program = dspy.Predict("question -> answer")
    _, state = stored(program)
    state["fields"] = {"nonsense": {}}
    with pytest.raises(Corrupt, match="does not load"):
        load_state(program, state)


BROKEN_SPECS = [
    None,
    [],
    {},
    {"kind": "Predict", "obstacle": None, "predictors": []},
    {"kind": "Module", "obstacle": None, "predictors": [{}]},
    {"kind": "Predict", "obstacle": None, "predictors": [{"path": "self"}]},
]


@pytest.mark.parametrize("spec", BROKEN_SPECS)
def test_a_spec_of_another_shape_is_corrupt(spec: Any) -> None:
    with pytest.raises(Corrupt):
        check_spec(spec, "metadata.json")


@pytest.mark.parametrize(
    "change",
    [
        {"options": {"api_base": "http://evil"}},
        {"fields": [{"name": "__class__()", "role": "input", "type": "str", "untyped": False, "desc": ""}]},
        {"fields": [{"name": "a", "role": "both", "type": "str", "untyped": False, "desc": ""}]},
        {"fields": "a"},
        {"path": 1},
    ],
)
def test_a_predictor_spec_that_would_do_harm_is_corrupt(change: dict[str, Any]) -> None:
    spec = spec_of(dspy.Predict("a -> b"))
    spec["predictors"][0].update(change)
    with pytest.raises(Corrupt):
        check_spec(spec, "metadata.json")


@pytest.mark.parametrize(
    "fields",
    [
        [("a", "os.path")],
        [("a", "tuple[...]")],
        [("model_config", "str")],
        [("_hidden", "str")],
        [("a", "str"), ("a", "int")],
        [],
    ],
)
def test_rebuilding_from_strange_fields_stays_in_the_error_tree(fields: list[tuple[str, str]]) -> None:
    described = [{"name": n, "role": "input", "type": t, "untyped": False, "desc": ""} for n, t in fields]
    item = {"path": "self", "kind": "Predict", "obstacle": None, "options": {}, "fields": described}
    stays_in_the_error_tree(lambda: rebuild_predictor(item))


def test_a_chain_of_thought_without_reasoning_is_corrupt() -> None:
    spec = spec_of(dspy.Predict("a -> b")) | {"kind": "ChainOfThought"}
    with pytest.raises(Corrupt, match="reasoning"):
        rebuild(spec, "m@1.0.0")


class Unread(list):
    """A history that is too long to be looked at."""

    def __iter__(self):
        raise AssertionError("it was looked at")


def test_the_parts_of_a_program_are_found_without_a_look_at_its_history() -> None:
    program = Two()
    for part in (program, program.by_name["last"], program.steps[0]):
        part.history = Unread(["a prompt"])
    names = {name: type(part).__name__ for name, part in parts_of(program)}
    assert names == {
        "self": "Two",
        "steps[0]": "Predict",
        "by_name['last']": "ChainOfThought",
        "by_name['last'].predict": "Predict",
    }
    assert [name for name, _ in parameters_of(program)] == ["steps[0]", "by_name['last'].predict"]
    assert dict(parts_of(dspy.Predict("a -> b"))).keys() == {"self"}
