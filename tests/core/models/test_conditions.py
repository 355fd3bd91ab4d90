"""What decides the prompt and the score is part of a version: adapter, schemas, language model, evidence."""

from __future__ import annotations

import enum
import json
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import dspy
import pydantic
import pytest

from dspy_nb.core.ab.experiment import Experiment
from dspy_nb.core.data.metrics import exact_match
from dspy_nb.core.errors import InputError, Refused, RegistryWarning
from dspy_nb.core.evaluation.evaluate import evaluate
from dspy_nb.core.evidence import accept_evidence
from dspy_nb.core.models import loading
from dspy_nb.core.models.submission import Submission
from dspy_nb.core.optimization.optimize import optimize
from dspy_nb.core.pipeline.gate import QualityGate
from dspy_nb.core.programs.adapters import describe_adapter
from dspy_nb.core.programs.spec import compare_specs, spec_of
from dspy_nb.core.registry.registry import Registry
from tests.scripted import ScriptedEngine, classifier, reviews, scripted_lm

METRIC = exact_match("sentiment")


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "registry")


@pytest.fixture
def lm() -> Iterator[Any]:
    with dspy.context(lm=scripted_lm(name="scripted/one")):
        yield


def warned(call: Any) -> list[str]:
    """Call it, and return what it warned of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    assert all(issubclass(one.category, RegistryWarning) for one in caught)
    assert not any("\n" in str(one.message) for one in caught)
    return [str(one.message) for one in caught]


Change = Callable[[dict[str, Any], dict[str, Any]], object]


@pytest.fixture
def stored_by_an_older_one(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Registers a program with its metadata and its state changed to what an older dspy_nb wrote."""
    as_now = Submission.files

    def register(program: dspy.Module, change: Change) -> None:
        def files(*arguments: Any) -> dict[str, bytes]:
            made = as_now(*arguments)
            metadata, state = json.loads(made["metadata.json"]), json.loads(made["model.json"])
            change(metadata, state)
            return {
                **made,
                "metadata.json": json.dumps(metadata).encode(),
                "model.json": json.dumps(state).encode(),
            }

        with monkeypatch.context() as patch:
            patch.setattr(Submission, "files", files)
            registry.register(program, "m")

    return register


# -- the adapter --------------------------------------------------------------------------------------------------


def test_the_adapter_is_recorded_with_its_options_and_without_secrets(registry: Registry) -> None:
    adapter = dspy.JSONAdapter(use_native_function_calling=False)
    adapter.api_key = "sk-secret"
    with dspy.context(adapter=adapter):
        version = registry.register(classifier(), "m")
    assert version.metadata["adapter"]["class"] == "dspy.adapters.json_adapter.JSONAdapter"
    assert version.metadata["adapter"]["options"]["use_native_function_calling"] is False
    assert "secret" not in (version.path / "metadata.json").read_text()
    two_steps = describe_adapter(dspy.TwoStepAdapter(dspy.LM("openai/small", api_key="sk-secret")))
    assert two_steps["options"]["extraction_model"] == "openai/small"
    assert describe_adapter() == describe_adapter(dspy.ChatAdapter())


@pytest.mark.parametrize(
    ("made", "here", "words"),
    [
        (
            dspy.JSONAdapter(),
            dspy.XMLAdapter(),
            "the adapter JSONAdapter, this is XMLAdapter: its prompts differ",
        ),
        (dspy.JSONAdapter(), None, "the adapter JSONAdapter, this is ChatAdapter: its prompts differ"),
        (None, dspy.JSONAdapter(), "the adapter ChatAdapter, this is JSONAdapter: its prompts differ"),
        (
            dspy.ChatAdapter(use_native_function_calling=True),
            None,
            "the adapter ChatAdapter(use_native_function_calling=True), this is "
            "ChatAdapter(use_native_function_calling=False): its prompts differ",
        ),
    ],
)
def test_another_adapter_is_warned_of_once(registry: Registry, made: Any, here: Any, words: str) -> None:
    with dspy.context(adapter=made):
        registry.register(classifier(), "m")
        assert warned(lambda: registry.load("m")) == []  # the loaded program is kept from here on
    with dspy.context(adapter=here):
        assert warned(lambda: registry.load("m")) == [f"m@1.0.0 was made with {words}"]
        assert warned(lambda: Registry(registry.root).load("m")) == []


def test_the_adapter_of_a_run_is_the_one_that_it_ran_with(registry: Registry, lm: None) -> None:
    with dspy.context(adapter=dspy.JSONAdapter()):
        run = optimize(classifier(), trainset=reviews(8), metric=METRIC, optimizer="LabeledFewShot")
    assert registry.register(run, "m").metadata["adapter"]["class"].endswith("JSONAdapter")


def test_a_version_that_does_not_say_its_adapter_is_loaded_without_a_word(
    registry: Registry, stored_by_an_older_one: Callable[..., None]
) -> None:
    stored_by_an_older_one(classifier(), lambda metadata, state: metadata.pop("adapter"))
    with dspy.context(adapter=dspy.JSONAdapter()):
        assert warned(lambda: registry.load("m")) == []


def test_serving_under_another_adapter_is_warned_of(registry: Registry, lm: None) -> None:
    registry.register(classifier(), "m")
    environment = registry.environment("development")
    environment.deploy("m@1.0.0")
    assert warned(lambda: environment.predict(review="it is good")) == []
    with dspy.context(adapter=dspy.JSONAdapter()):
        (message,) = warned(lambda: environment.predict(review="it is good"))
        assert "m@1.0.0 was made with the adapter ChatAdapter, this is JSONAdapter" in message
        assert warned(lambda: environment.load()) == []


def test_an_experiment_under_another_adapter_or_language_model_is_warned_of(
    registry: Registry, lm: None
) -> None:
    registry.register(classifier(), "m")
    experiment = Experiment("try", a="m@1.0.0", b=classifier(), registry=registry)
    assert warned(lambda: experiment.predict(unit="u", review="it is good")) == []
    with dspy.context(adapter=dspy.JSONAdapter(), lm=scripted_lm(name="scripted/two")):
        messages = warned(lambda: experiment.predict(unit="u", review="it is good"))
        assert warned(lambda: experiment.predict(unit="u", review="it is good")) == []
    assert [message.partition(", this is ")[2] for message in messages] == [
        "JSONAdapter: its prompts differ",
        "scripted/two: its scores may be others",
    ]
    experiment.close()


# -- the language model -------------------------------------------------------------------------------------------


def test_another_language_model_is_warned_of_at_load_and_at_serving(registry: Registry, lm: None) -> None:
    registry.register(classifier(), "m")
    registry.register(classifier(), "m")
    environment = registry.environment("development")
    environment.deploy("m@1.1.0")
    environment.load()
    words = "was made with the language model scripted/one, this is scripted/two: its scores may be others"
    with dspy.context(lm=scripted_lm(name="scripted/two")):
        (message,) = warned(lambda: registry.load("m@1.0.0"))
        assert f"m@1.0.0 {words}" in message
        (message,) = warned(lambda: environment.predict(review="it is good"))
        assert f"m@1.1.0 {words}" in message
        assert warned(lambda: environment.predict(review="it is good")) == []


def test_a_program_with_a_language_model_of_its_own_is_held_to_that(registry: Registry) -> None:
    program = classifier()
    program.lm = scripted_lm(name="scripted/own")
    registry.register(program, "m")
    with dspy.context(lm=scripted_lm(name="scripted/two")):
        assert warned(lambda: registry.load("m", program=program)) == []
        assert len(warned(lambda: registry.load("m"))) == 1


@pytest.mark.parametrize("kind", ["evaluation", "gate"])
def test_evidence_of_another_language_model_is_warned_of_at_deployment_and_serving(
    registry: Registry, kind: str
) -> None:
    registry.register(classifier(), "m")
    with dspy.context(lm=scripted_lm(name="scripted/strong")):
        evidence: Any = evaluate(registry.load("m"), reviews(20), METRIC)
    if kind == "gate":
        evidence = QualityGate(min_score=0.01).check(evidence)
    assert accept_evidence(evidence).base_model == "scripted/strong"
    registry.attach("m@1.0.0", evidence)
    environment = registry.environment("development")
    words = (
        "the evidence for m@1.0.0 was gathered with the language model scripted/strong, this is scripted/weak"
    )
    with dspy.context(lm=scripted_lm(name="scripted/weak")):
        (message,) = warned(lambda: environment.deploy("m@1.0.0"))
        assert words in message
        assert warned(lambda: environment.predict(review="it is good")) == []  # said already
    with dspy.context(lm=scripted_lm(name="scripted/weaker")):
        (message,) = warned(lambda: environment.predict(review="it is good"))
        assert f"{words}er" in message


# -- what types are made of ---------------------------------------------------------------------------------------


def made(members: dict[str, str], **fields: Any) -> type[dspy.Module]:
    """A class as a module defines it: the same names each time, with other members and fields."""
    mood = enum.Enum("Mood", members, module="app")
    inner = pydantic.create_model("Inner", __module__="app", mood=(mood, ...), **fields)
    outer = pydantic.create_model("Outer", __module__="app", inner=(list[inner], ...))
    signature = {"text": (str, dspy.InputField()), "mood": (mood, dspy.OutputField())}
    signature["found"] = (outer | None, dspy.OutputField())

    class Program(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.answer = dspy.Predict(dspy.Signature(signature, "Answer."))

        def forward(self, text: str) -> dspy.Prediction:
            return self.answer(text=text)

    return Program


SAME = {"GOOD": "good", "BAD": "bad"}


@pytest.mark.parametrize(
    ("members", "fields", "field"),
    [
        ({"GOOD": "good", "BAD": "awful"}, {"n": (int, ...)}, "'mood'"),
        ({**SAME, "NONE": "none"}, {"n": (int, ...)}, "'mood'"),
        (SAME, {"n": (str, ...)}, "'found'"),
        (SAME, {"m": (int, ...)}, "'found'"),
        (SAME, {"n": (int, 0)}, "'found'"),
        (SAME, {"n": (int, pydantic.Field(ge=0))}, "'found'"),
        (SAME, {"n": (int, pydantic.Field(description="how many"))}, "'found'"),
    ],
)
def test_a_type_that_is_made_of_other_parts_now_is_refused_by_the_name_of_its_field(
    registry: Registry, members: dict[str, str], fields: dict[str, Any], field: str
) -> None:
    registry.register(made(SAME, n=(int, ...))(), "m")
    registry.load("m", program=made(SAME, n=(int, ...)))
    with pytest.raises(
        Refused, match=rf"m@1\.0\.0 does not fit .* the type of field {field} \(answer\)"
    ) as refused:
        registry.load("m", program=made(members, **fields))
    assert "\n" not in str(refused.value)


def test_a_constraint_of_a_field_counts_and_a_plain_type_needs_no_schema() -> None:
    def bounded(most: int) -> dspy.Predict:
        return dspy.Predict(
            dspy.Signature({"q": (str, dspy.InputField()), "n": (int, dspy.OutputField(le=most))})
        )

    with pytest.raises(Refused, match="'n'"):
        compare_specs(spec_of(bounded(5)), spec_of(bounded(6)), "m@1.0.0")
    compare_specs(spec_of(bounded(5)), spec_of(bounded(5)), "m@1.0.0")
    plain = spec_of(
        dspy.Predict(
            "q: list[str] -> a: Literal['x', 'y']",
        )
    )
    assert {field["schema"] for item in plain["predictors"] for field in item["fields"]} == {None}


def test_another_pydantic_is_no_reason_to_refuse(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    registry.register(made(SAME, n=(int, ...))(), "m")
    versions = loading.package_versions()
    monkeypatch.setattr(loading, "package_versions", lambda: {**versions, "pydantic": "3.0.0"})
    other = made(SAME, n=(str, ...))
    (message,) = warned(lambda: registry.load("m", program=other))
    assert "this is pydantic 3.0.0" in message
    assert "'found'" in message
    assert warned(lambda: registry.load("m", program=made(SAME, n=(int, ...)))) == []


def test_a_version_without_schemas_is_loaded_as_before(
    registry: Registry, stored_by_an_older_one: Callable[..., None]
) -> None:
    def change(metadata: dict[str, Any], state: dict[str, Any]) -> None:
        for item in metadata["signature"]["predictors"]:
            for field in item["fields"]:
                field.pop("schema")

    stored_by_an_older_one(made(SAME, n=(int, ...))(), change)
    registry.load("m", program=made({"OTHER": "other"}))


# -- predictors at any depth --------------------------------------------------------------------------------------


class Deep(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.experts = {"en": [dspy.Predict("q -> a")], "de": {"x": (dspy.ChainOfThought("q -> a"),)}}
        self.top = dspy.Predict("q -> a")

    def forward(self, q: str) -> dspy.Prediction:
        return self.top(q=self.experts["en"][0](q=q).a)


def test_predictors_at_any_depth_are_stored_loaded_and_told_apart(registry: Registry) -> None:
    program = Deep()
    expert = program.experts["en"][0]
    expert.signature = expert.signature.with_instructions("KEEP")
    expert.lm = scripted_lm(name="scripted/deep")
    version = registry.register(program, "m")
    assert [item["path"] for item in version.metadata["signature"]["predictors"]] == [
        "experts['en'][0]",
        "experts['de']['x'][0].predict",
        "top",
    ]
    assert "scripted/deep" in version.metadata["base_model"]
    assert registry.load("m", program=Deep).experts["en"][0].signature.instructions == "KEEP"
    registry.register(Deep(), "m")
    assert "instructions experts['en'][0]" in registry.diff("m@1.0.0", "m@1.1.0").sections()


def test_a_version_that_was_stored_without_them_is_loaded_and_leaves_them_as_they_are(
    registry: Registry, stored_by_an_older_one: Callable[..., None]
) -> None:
    def change(metadata: dict[str, Any], state: dict[str, Any]) -> None:
        signature = metadata["signature"]
        signature["predictors"] = [item for item in signature["predictors"] if item["path"] == "top"]
        del metadata["adapter"]
        for path in [path for path in state if path not in ("top", "metadata")]:
            del state[path]

    stored_by_an_older_one(Deep(), change)
    given = Deep()
    given.experts["en"][0].demos = [{"q": "own", "a": "own"}]
    loaded = registry.load("m", program=given)
    assert loaded.experts["en"][0].demos == [{"q": "own", "a": "own"}]


# -- the run directory --------------------------------------------------------------------------------------------


class Answer(pydantic.BaseModel):
    sentiment: Literal["positive", "negative"]


def test_a_run_directory_is_that_of_its_adapter_and_its_schemas(tmp_path: Path) -> None:
    def run(adapter: Any = None) -> int:
        engine = ScriptedEngine()
        with dspy.context(lm=scripted_lm(engine, cache=True), adapter=adapter):
            optimize(classifier(), trainset=reviews(8), metric=METRIC, run_dir=tmp_path / "run")
        return engine.calls

    assert run() > 0
    assert run() == 0
    assert run(dspy.ChatAdapter()) == 0
    with pytest.raises(InputError, match="belongs to another run: adapter changed"):
        run(dspy.JSONAdapter())
    file = tmp_path / "run" / "manifest.json"
    manifest = json.loads(file.read_text())
    assert manifest["schemas"] == [{"self": {"review": None, "sentiment": None}}]
    for name in ("adapter", "schemas"):
        del manifest[name]
    file.write_text(json.dumps(manifest))
    assert run() == 0  # a directory of an older version goes on
