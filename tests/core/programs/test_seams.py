"""The seams into DSPy's internals: each test fails when a version of DSPy takes one away."""

from __future__ import annotations

import contextlib
import io
import logging
import random
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import cloudpickle
import dspy
import pytest
from dspy.clients.cache import Cache
from dspy.lm15 import RateLimitError, Request
from dspy.utils import BaseCallback

from dspy_nb.core.data.identity import input_names
from dspy_nb.core.programs import quiet, seams
from dspy_nb.core.programs.meter import Meter, watch_requests
from tests.scripted import ScriptedEngine, classifier, reviews, scripted_lm


def test_an_example_knows_which_fields_are_inputs() -> None:
    example = dspy.Example(review="good", sentiment="positive")
    assert input_names(example) is None
    assert input_names(example.with_inputs("review")) == {"review"}
    assert input_names(example.with_inputs()) == set()


def test_an_optimizer_marks_its_result_and_refuses_one_that_is_marked() -> None:
    program = classifier()
    assert not seams.is_compiled(program)
    compiled = dspy.LabeledFewShot(k=1).compile(program, trainset=reviews(2))
    seams.mark_compiled(compiled, True)
    assert seams.is_compiled(compiled)
    optimizer = dspy.BootstrapFewShot(metric=lambda *_: True, max_bootstrapped_demos=1, max_labeled_demos=0)
    with dspy.context(lm=scripted_lm()):
        with pytest.raises(AssertionError, match="uncompiled"):
            optimizer.compile(compiled, trainset=reviews(2))
        seams.mark_compiled(compiled, False)
        assert seams.is_compiled(optimizer.compile(compiled, trainset=reviews(2)))


def test_parameters_are_what_named_parameters_lists() -> None:
    program = dspy.ChainOfThought("question -> answer")
    assert [seams.is_parameter(value) for _, value in program.named_parameters()] == [True]
    assert not seams.is_parameter(program)
    assert not seams.is_parameter("text")


def test_a_field_says_its_role_its_description_and_whether_its_type_was_declared() -> None:
    fields = dspy.Signature("question, count: int -> answer").fields
    assert [seams.role_of(field) for field in fields.values()] == ["input", "input", "output"]
    assert [seams.is_untyped(field) for field in fields.values()] == [True, False, False]  # inputs only
    described = dspy.InputField(desc="what is asked", **seams.untyped())
    assert (seams.description_of(described), seams.is_untyped(described)) == ("what is asked", True)
    assert not seams.is_untyped(dspy.OutputField(desc="what is said"))


def test_a_saved_program_holds_the_same_versions_as_ours(tmp_path: Path) -> None:
    program = classifier()
    program.save(tmp_path / "program.json")
    loaded = classifier()
    loaded.load(tmp_path / "program.json")
    assert loaded.metadata["dependency_versions"] == seams.dependency_versions()
    assert {"python", "dspy"} <= set(seams.dependency_versions())


def test_the_default_settings_are_those_that_are_in_force_where_nothing_is_configured() -> None:
    defaults = seams.default_settings()
    assert {"lm", "adapter", "callbacks", "usage_tracker", "trace", "num_threads"} <= set(defaults)
    assert dspy.settings.get("num_threads") == defaults["num_threads"]
    defaults["num_threads"] = -1
    assert seams.default_settings()["num_threads"] != -1


def test_callbacks_can_ask_which_call_they_are_within() -> None:
    class Calls(dspy.utils.BaseCallback):
        def __init__(self) -> None:
            self.outer: list[str | None] = []
            self.ids: list[str] = []

        def on_module_start(self, call_id, instance, inputs) -> None:
            self.ids.append(call_id)
            self.outer.append(seams.current_call())

        def on_lm_start(self, call_id, instance, inputs) -> None:
            self.outer.append(seams.current_call())

    calls = Calls()
    with dspy.context(lm=scripted_lm(), callbacks=[calls], adapter=dspy.JSONAdapter()):
        classifier()(review="it is good")
    assert calls.outer[0] is None
    assert calls.ids[0] in calls.outer
    assert seams.current_call() is None


def test_the_engine_of_a_language_model_is_known_without_making_one() -> None:
    engine = ScriptedEngine()
    assert seams.engine_as_given(scripted_lm(engine)) is engine
    assert seams.engine_as_given(dspy.LM("openai/gpt-4o-mini")) != seams.engine_as_given(scripted_lm(engine))


def test_answers_go_to_the_cache_that_a_setting_names_and_others_where_they_went(tmp_path: Path) -> None:
    setting = "dspy_nb_cache"
    seams.route_cache(setting)
    routed = dspy.cache
    seams.route_cache(setting)
    assert dspy.cache is routed
    engine = ScriptedEngine()
    lm = scripted_lm(engine, "scripted/seams", cache=True)
    cache = seams.answer_cache(tmp_path / "cache")
    with dspy.context(lm=lm, **{setting: cache}):
        classifier()(review="it is good")
        classifier()(review="it is good")
    asked = engine.calls
    with dspy.context(lm=lm):
        classifier()(review="it is good")
    assert engine.calls == 2 * asked, "the usual cache holds nothing of a run's own"
    fresh = seams.answer_cache(tmp_path / "cache")
    with dspy.context(lm=lm, **{setting: fresh}):
        classifier()(review="it is good")
    assert engine.calls == 2 * asked, "what the folder holds is found by another process too"
    assert list((tmp_path / "cache").iterdir())


@pytest.mark.parametrize("shards", [4, 16])
def test_an_answer_is_found_where_an_earlier_version_put_it(tmp_path: Path, shards: int) -> None:
    request = {"model": "m", "prompt": "p"}
    if shards == 16:
        earlier = Cache(
            enable_disk_cache=True,
            enable_memory_cache=False,
            disk_cache_dir=str(tmp_path),
            restrict_pickle=True,
        )
    else:
        earlier = seams.answer_cache(tmp_path)
    for number in range(20):
        earlier.put({**request, "number": number}, f"answer {number}")
    now = seams.answer_cache(tmp_path)
    found = [now.get({**request, "number": number}) for number in range(20)]
    assert found == [f"answer {number}" for number in range(20)]
    assert len(list(tmp_path.glob("*/cache.db"))) == shards


def test_a_cache_knows_what_its_answers_took(tmp_path: Path) -> None:
    kept: dict[str, object] = {}
    seams.route_cache("dspy_nb_cache")
    cache = seams.answer_cache(tmp_path / "cache")
    put = cache.put

    def remember(request: dict, value: object, *args: object, **kwargs: object) -> None:
        kept[cache.cache_key(request, *args)] = value
        put(request, value, *args, **kwargs)

    cache.put = remember
    with dspy.context(
        lm=scripted_lm(ScriptedEngine(), "scripted/what", cache=True, n=2), dspy_nb_cache=cache
    ):
        classifier()(review="it is good")
    (key,) = kept
    for one in (cache, seams.answer_cache(tmp_path / "cache")):
        assert seams.what_it_took(one, key) == (2, 20, 10, None)
    answer = SimpleNamespace(
        usage={"prompt_tokens": 7, "completion_tokens": 3},
        choices=["a"],
        _hidden_params={"response_cost": 0.5},
    )
    cache.memory_cache["litellm"] = answer  # an answer as litellm gives it
    assert seams.what_it_took(cache, "litellm") == (1, 7, 3, 0.5)


def test_nothing_but_plain_types_is_unpickled_from_a_cache(tmp_path: Path) -> None:
    cache = seams.answer_cache(tmp_path / "cache")
    cache.disk_cache["key"] = Path("not plain")
    with pytest.raises(Exception, match=r"(?i)restrict|allow|pickle|forbidden"):
        seams.answer_cache(tmp_path / "cache").disk_cache["key"]


def test_the_random_optimizer_of_optuna_draws_with_the_seed_of_the_settings() -> None:
    from dspy.teleprompt import teleprompt_optuna

    seams.seed_optuna("dspy_nb_seed")
    seams.seed_optuna("dspy_nb_seed")

    def draws(seed: int | None) -> list[int]:
        with dspy.context(dspy_nb_seed=seed):
            study = teleprompt_optuna._import_optuna().create_study(direction="maximize")
        return [study.ask().suggest_int("seed", 0, 10**6) for _ in range(5)]

    assert draws(3) == draws(3) != draws(4)


def test_the_meter_hears_of_every_paid_answer_and_of_its_price() -> None:
    usage, prices = [], []
    meter = Meter(lambda *tokens: usage.append(tokens), lambda entry: prices.append(entry["cost"]))
    lm = scripted_lm(ScriptedEngine(), "scripted/meter", cache=True)
    settings = {"usage_tracker": meter, "caller_modules": [meter], "adapter": dspy.JSONAdapter()}
    with dspy.context(lm=lm, **settings):
        classifier()(review="it is good")
        classifier()(review="it is good")  # from the cache: a price, no usage
    assert (usage, prices) == ([(10, 5)], [None, None])


@pytest.mark.parametrize(
    "response",
    [
        SimpleNamespace(finish_reason="length"),
        (SimpleNamespace(finish_reason="stop"), SimpleNamespace(finish_reason="length")),
        {"choices": [{"finish_reason": "stop"}, {"finish_reason": "length"}]},
        SimpleNamespace(choices=[SimpleNamespace(finish_reason="length")]),
        SimpleNamespace(status="incomplete", incomplete_details=SimpleNamespace(reason="max_output_tokens")),
    ],
)
def test_an_answer_that_was_cut_off_is_known_however_the_provider_says_so(response) -> None:
    assert seams.is_cut_off(response)
    assert not any(map(seams.is_cut_off, [None, (), {}, "text", {"choices": [{"finish_reason": "stop"}]}]))


@pytest.mark.parametrize("is_quiet", [True, False])
def test_what_dspy_prints_and_draws_is_kept_out_of_a_quiet_run_only(is_quiet: bool, capfd) -> None:
    quiet.install()
    settings = quiet.QUIET_SETTINGS if is_quiet else {}
    with dspy.context(lm=scripted_lm(), **settings):
        optimizer = dspy.BootstrapFewShotWithRandomSearch(
            metric=lambda *_: True, max_bootstrapped_demos=1, max_labeled_demos=1, num_candidate_programs=1
        )
        optimizer.compile(classifier(), trainset=reviews(3), valset=reviews(3))
    out, err = capfd.readouterr()
    assert bool(out + err) != is_quiet


def test_every_name_that_dspy_prints_through_is_still_there() -> None:
    import importlib

    for name in quiet._MODULES_WITH_BARS:
        assert hasattr(importlib.import_module(name), "tqdm"), name
    for name in quiet._PRINTING_MODULES:
        module = importlib.import_module(name)
        assert "print(" in Path(str(module.__file__)).read_text(encoding="utf-8"), name
    assert callable(importlib.import_module("dspy.clients.base_lm").pretty_print_history)
    with contextlib.redirect_stdout(io.StringIO()):
        assert logging.getLogger("dspy").handlers


def made_of(name: str, role: str, make) -> dspy.Module:
    given, answered = (name, "a") if role == "input" else ("q", name)
    fields = {given: (str, dspy.InputField()), answered: (str, dspy.OutputField())}
    return make(dspy.Signature(fields))


def reaches(name: str, make) -> bool:
    """Tell whether the value of an input called so is in the prompt, and an answer comes back."""
    prompts: list[str] = []
    answer = None
    engine = ScriptedEngine(failing=lambda number, request: prompts.append(str(request.messages)))
    with contextlib.suppress(Exception), dspy.context(lm=scripted_lm(engine)):
        example = dspy.Example({name: "the value", "a": "x"}).with_inputs(name)
        answer = made_of(name, "input", make)(**dict(example.inputs().items()))
    return "the value" in "".join(prompts) and answer is not None


@pytest.mark.parametrize(
    "make", [dspy.Predict, dspy.ChainOfThought, lambda made: dspy.ReAct(made, tools=[], max_iters=0)]
)
def test_inputs_of_reserved_names_are_never_answered_and_others_are(make) -> None:
    reserved = seams.reserved_names(made_of("q", "input", make))
    for name in reserved.inputs | {"dspy_x"}:
        assert not reaches(name, make), name
    for name in ("prediction", "kwargs", "inputs", "items", "base", "augmented", "trace", "n", "temperature"):
        assert name not in reserved.inputs
        assert reaches(name, make), name


@pytest.mark.parametrize("name", sorted(seams.reserved_names(dspy.ReAct("q -> a", tools=[])).outputs))
def test_outputs_of_reserved_names_never_come_back_from_react(name) -> None:
    program = made_of(name, "output", lambda made: dspy.ReAct(made, tools=[], max_iters=0))
    found = None
    with contextlib.suppress(TypeError), dspy.context(lm=scripted_lm()):
        found = program(q="x").get(name)
    assert not isinstance(found, str)


@pytest.mark.parametrize("name", sorted(seams.DEMO_NAMES))
def test_fields_of_these_names_are_lost_in_bootstrapped_demos(name) -> None:
    program = made_of(name, "output", dspy.Predict)
    optimizer = dspy.BootstrapFewShot(metric=lambda *_: True, max_bootstrapped_demos=1, max_labeled_demos=0)
    kept = False
    with contextlib.suppress(TypeError), dspy.context(lm=scripted_lm()):
        examples = [dspy.Example({"q": "x", name: "y"}).with_inputs("q")]
        kept = any(name in dict(demo) for demo in optimizer.compile(program, trainset=examples).demos)
    assert not kept


def test_gepa_makes_an_answer_a_pair_with_its_trace() -> None:
    from dspy.teleprompt.bootstrap_trace import bootstrap_trace_data

    returned = []

    class Follower(BaseCallback):
        def on_module_end(self, call_id, outputs, exception=None):
            returned.append(outputs)

    with dspy.context(lm=scripted_lm(), callbacks=[Follower()]):
        bootstrap_trace_data(classifier(), reviews(1), metric=lambda *_: True, num_threads=1)
    assert [type(answer) for answer in returned] == [tuple]
    assert isinstance(seams.answer_of(returned[0]), dspy.Prediction)
    assert seams.answer_of("text") == "text"
    assert seams.answer_of(("text", 1)) == ("text", 1)


def test_every_request_of_a_call_is_heard_of_also_those_that_dspy_sends_again() -> None:
    class Requests(Meter):
        def __init__(self) -> None:
            super().__init__(lambda *_: None, lambda *_: None)
            self.sent: list[int] = []
            self.lost: list[int] = []

        def sending(self, completions: int) -> None:
            self.sent.append(completions)

        def failed(self, completions: int) -> None:
            self.lost.append(completions)

    def failing(number: int, request: Request) -> Exception | None:
        return RateLimitError("too many", retry_after=0.0) if number < 3 else None

    watch_requests()
    meter = Requests()
    engine = ScriptedEngine(failing=failing)
    with dspy.context(usage_tracker=meter):
        scripted_lm(engine, num_retries=3)("hello")
    assert (meter.sent, meter.lost) == ([1, 1, 1], [1, 1])
    scripted_lm(engine)("hello")  # outside, nobody listens
    assert len(meter.sent) == 3


@pytest.mark.parametrize("is_quiet", [True, False])
def test_a_predictor_takes_random_numbers_of_the_caller_but_in_a_quiet_run(is_quiet: bool) -> None:
    quiet.install()
    before = random.getstate()
    with dspy.context(**quiet.QUIET_SETTINGS) if is_quiet else contextlib.nullcontext():
        dspy.Predict("question -> answer")
    assert (random.getstate() == before) == is_quiet


def test_a_cache_of_a_worker_gives_back_what_was_put_and_tells_requests_apart() -> None:
    cache = seams.memory_cache()
    cache.put({"model": "m", "prompt": "a", "key": 1}, {"outputs": ["yes"]}, ["key"])
    assert cache.get({"model": "m", "prompt": "a", "key": 2}, ["key"]) == {"outputs": ["yes"]}
    assert cache.get({"model": "m", "prompt": "b", "key": 1}, ["key"]) is None


def test_whether_a_run_knows_an_answer_is_told(tmp_path: Path) -> None:
    cache = seams.answer_cache(tmp_path)
    assert seams.is_empty(cache)
    cache.put({"model": "m"}, {"outputs": ["yes"]})
    assert not seams.is_empty(cache)


def test_a_module_can_be_pickled_with_what_is_in_it(monkeypatch) -> None:
    module = ModuleType("here_only")
    exec("def double(x):\n    return 2 * x", vars(module))
    monkeypatch.setitem(sys.modules, "here_only", module)
    with seams.serialize_by_value([module]):
        packed = cloudpickle.dumps(module.double)
    monkeypatch.delitem(sys.modules, "here_only")
    assert cloudpickle.loads(packed)(4) == 8
