"""The embedded model: real answers, in this process and in others."""

from __future__ import annotations

import asyncio
import copy
import json
import os
import pickle
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import cloudpickle
import dspy
import pydantic
import pytest
from dspy import lm15
from dspy.utils import exceptions as dspy_errors

from dspy_nb.core.errors import InputError, ModelNotInstalled
from dspy_nb.core.local import engine as local
from dspy_nb.core.local import server as local_server
from dspy_nb.core.local.engine import LocalEngine, local_lm
from dspy_nb.core.local.server import shared_server

pytestmark = pytest.mark.usefixtures("computed")
needs_model = pytest.mark.local_model
REVIEW = "The soup was cold and the waiter rude."


class Sentiment(dspy.Signature):
    """Say whether a review is positive or negative."""

    review: str = dspy.InputField()
    sentiment: Literal["positive", "negative"] = dspy.OutputField()


class Product(pydantic.BaseModel):
    name: str
    stars: int
    tags: list[str]


class Summary(dspy.Signature):
    """Summarize a review."""

    review: str = dspy.InputField()
    summary: str = dspy.OutputField()
    product: Product = dspy.OutputField()
    price: float | None = dspy.OutputField()


@pytest.fixture(autouse=True)
def _json_adapter():
    with dspy.context(adapter=dspy.JSONAdapter()):
        yield


@pytest.fixture(scope="session")
def lm():
    return local_lm(cache=False, max_tokens=80)


def ask(lm, text, **kwargs):
    return lm(text, **kwargs)


# What comes back.


@needs_model
def test_a_label_takes_one_call_and_two_tokens(lm):
    program = dspy.Predict(Sentiment)
    with dspy.context(lm=lm):
        first, second = program(review=REVIEW), program(review="I loved every minute.")
    assert {first.sentiment, second.sentiment} <= {"positive", "negative"}
    entry = lm.history[-1]
    assert json.loads(entry["outputs"][0]) == {"sentiment": second.sentiment}
    usage = entry["usage"]
    assert usage["completion_tokens"] <= 4
    assert 0 < usage["prompt_tokens_details"]["cached_tokens"] < usage["prompt_tokens"]
    assert entry["response"].finish_reason == "stop"


@needs_model
@pytest.mark.parametrize(
    "program",
    [
        dspy.ChainOfThought(Sentiment),
        pytest.param(dspy.Predict("review -> summary, advice"), marks=pytest.mark.slow),
        pytest.param(
            dspy.Predict("review -> topics: list[str], stars: int, good: bool, score: float"),
            marks=pytest.mark.slow,
        ),
        dspy.Predict(Summary),
    ],
    ids=["reasoning", "two texts", "list and numbers", "nested"],
)
def test_every_kind_of_answer_parses_even_when_the_model_rambles(lm, program):
    for asked in (lm.copy(), lm.copy(temperature=2.0, rollout_id=1)):
        with dspy.context(lm=asked):
            program(review=REVIEW)
        assert [entry["response"].finish_reason for entry in asked.history] == ["stop"]


@needs_model
def test_the_default_adapter_works_at_two_calls_at_most(lm):
    before = len(lm.history)
    with dspy.context(lm=lm, adapter=dspy.ChatAdapter()):
        assert dspy.Predict(Sentiment)(review=REVIEW).sentiment in ("positive", "negative")
    assert len(lm.history) - before <= 2


@needs_model
def test_a_free_text_ends_at_the_stop_word_or_at_the_limit(lm):
    request = lm15.Request(
        model=lm.model,
        messages=[lm15.Message.user("Count: one, two, three, four, five, six.")],
        config=lm15.Config(max_tokens=6, temperature=0.0),
    )
    cut = lm(request)
    assert (cut.finish_reason, cut.usage.output_tokens) == ("length", 6)
    letter = next(char for char in cut.text[1:] if char.isalpha())
    stopped = ask(lm, "Count: one, two, three, four, five, six.", max_tokens=6, stop=[letter])
    assert letter not in stopped[0]


@needs_model
def test_an_async_call_gives_the_same_answer(lm):
    program = dspy.Predict(Sentiment)
    with dspy.context(lm=lm):
        assert asyncio.run(program.acall(review=REVIEW)).sentiment == program(review=REVIEW).sentiment


@needs_model
@pytest.mark.parametrize("module", ["propose", "copro"])
def test_the_prompts_that_optimizers_write_their_instructions_with_are_answered(lm, module):
    from dspy.propose.grounded_proposer import generate_instruction_class
    from dspy.teleprompt.copro_optimizer import BasicGenerateInstruction

    if module == "propose":
        program = generate_instruction_class()
        inputs = dict.fromkeys(program.signature.input_fields, "Classify short reviews.")
    else:
        program = dspy.Predict(BasicGenerateInstruction, n=2)
        inputs = {"basic_instruction": "Classify short reviews."}
    with dspy.context(lm=lm.copy(temperature=1.4, max_tokens=48)):
        answer = program(**inputs)
    assert all(isinstance(answer[name], str) for name in program.signature.output_fields)


# Reproducible.


@needs_model
def test_an_answer_does_not_depend_on_what_ran_before_or_runs_beside_it(lm):
    systems = [f"You are {who}. Be brief." for who in ("a cook", "a pilot", "a nurse")]
    questions = [(system, f"What is {what}?") for what in ("bread", "rain") for system in systems]

    def answer(question):
        system, text = question
        messages = [lm15.Message.user(text)]
        config = lm15.Config(max_tokens=6, temperature=0.0)
        return lm(lm15.Request(model=lm.model, system=system, messages=messages, config=config)).text

    alone = [answer(question) for question in questions]
    shuffled = questions[::3] + questions[1::3] + questions[2::3]
    with ThreadPoolExecutor(3) as pool:
        together = dict(zip(shuffled, pool.map(answer, shuffled), strict=True))
    assert [together[question] for question in questions] == alone


@needs_model
def test_candidates_and_rollouts_differ_and_come_out_the_same_again(lm):
    def draw(**kwargs):
        return ask(lm, "Name an animal.", temperature=1.4, max_tokens=8, **kwargs)

    candidates = draw(n=4)
    assert len(set(candidates)) == 4
    assert draw(n=4) == candidates
    assert draw() == candidates[:1]
    assert len({*draw(rollout_id=1), *draw(rollout_id=2), *draw(seed=1), candidates[0]}) == 4
    assert lm.copy(rollout_id=2)("Name an animal.", temperature=1.4, max_tokens=8) == draw(rollout_id=2)


@needs_model
def test_without_a_seed_every_call_samples_anew(lm):
    unseeded = lm.copy(seed=None)
    assert len({ask(unseeded, "Name an animal.", temperature=1.4, max_tokens=8)[0] for _ in range(3)}) > 1


@needs_model
def test_greedy_answers_ignore_the_seed(lm):
    assert ask(lm, "Name an animal.", max_tokens=6, seed=1) == ask(
        lm, "Name an animal.", max_tokens=6, seed=2
    )


# What cannot be answered is said in DSPy's terms.


@needs_model
def test_a_prompt_that_is_too_long_is_a_context_window_error(lm):
    with pytest.raises(dspy_errors.ContextWindowExceededError, match="4096"):
        ask(lm, "word " * 5000)
    with pytest.raises(dspy_errors.ContextWindowExceededError, match="4096"):
        ask(lm, "word " * 5000)  # again: the first one left nothing behind that is trusted


@needs_model
def test_requests_that_the_model_cannot_take_are_refused(lm):
    with pytest.raises(dspy_errors.LMUnsupportedFeatureError, match="max_tokns"):
        lm("hi", max_tokns=3)
    picture = lm15.Message.user([lm15.ImagePart(url="https://example.org/a.png")])
    with pytest.raises(dspy_errors.LMUnsupportedFeatureError, match="text only"):
        lm(lm15.Request(model=lm.model, messages=[picture]))
    question = (lm15.Message.user("hi"),)
    with pytest.raises(dspy_errors.LMUnsupportedFeatureError, match="tools"):
        lm(lm15.Request(model=lm.model, messages=question, tools=[lm15.FunctionTool("now")]))
    impossible = lm15.Config(
        max_tokens=80, temperature=0.0, response_format={"type": "json_schema", "schema": {"type": "odd"}}
    )
    with pytest.raises(dspy_errors.LMInvalidRequestError, match="schema"):
        lm(lm15.Request(model=lm.model, messages=question, config=impossible))
    with pytest.raises(dspy_errors.LMUnsupportedModelError, match="serves"):
        lm.copy(model="dspy-nb/other")("hi")


# One model for all, wherever the LM goes.


@needs_model
def test_copies_share_the_engine_and_pickles_find_the_server_again(lm):
    assert copy.deepcopy(lm)("hi", max_tokens=2) == lm("hi", max_tokens=2)
    for library in (pickle, cloudpickle):
        assert library.loads(library.dumps(lm))("hi", max_tokens=2) == lm("hi", max_tokens=2)
    assert len(local_server._servers) == 1


@needs_model
def test_a_program_is_saved_and_loaded_with_its_lm(lm, tmp_path):
    program = dspy.Predict(Sentiment)
    program.set_lm(lm)
    program.save(tmp_path / "program.json")
    loaded = dspy.Predict(Sentiment)
    loaded.load(tmp_path / "program.json", allow_unsafe_lm_state=True)
    assert isinstance(loaded.lm.engine, LocalEngine)
    assert str(tmp_path.home()) not in (tmp_path / "program.json").read_text()
    assert loaded(review=REVIEW).sentiment == program(review=REVIEW).sentiment


def test_the_server_is_started_once_when_many_threads_come_first(monkeypatch, tmp_path):
    started = []

    class Server:
        def __init__(self, path, slots):
            threading.Event().wait(0.05)
            started.append(path)

    monkeypatch.setattr(local_server, "_servers", {})
    monkeypatch.setattr(local_server, "LocalServer", Server)
    monkeypatch.setenv("DSPY_NB_MODEL_FILE", str(tmp_path / "tiny.gguf"))
    (tmp_path / "tiny.gguf").write_bytes(b"GGUF")
    name = local.model_name(local.model_path())
    with ThreadPoolExecutor(8) as pool:
        servers = set(pool.map(lambda _: shared_server(name, 1), range(8)))
    assert (len(servers), len(started)) == (1, 1)


@needs_model
def test_a_worker_that_dies_leaves_the_server_alive(lm):
    class Killed(BaseException):
        pass

    class Bomb(dspy.utils.BaseCallback):
        def on_lm_end(self, call_id, outputs, exception=None):
            raise Killed

    def work():
        with pytest.raises(Killed), dspy.context(callbacks=[Bomb()]):
            lm("hi", max_tokens=2)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert lm("hi", max_tokens=2)


@needs_model
def test_the_socket_answers_only_on_loopback_and_only_with_the_key(lm):
    lm("hi", max_tokens=1)
    (started,) = local_server._servers.values()
    server = started.result()
    assert server.address.startswith("http://127.0.0.1:")
    body = json.dumps({"prompt": "hi", "max_tokens": 1}).encode()
    for path in ("/completion", "/v1/chat/completions", "/slots", "/props"):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(urllib.request.Request(server.address + path, data=body))
        assert refused.value.code == 401
        refused.value.close()


INTERRUPTED = """
import signal, threading, time
import dspy
import xllamacpp
from dspy_nb.core.local.engine import local_lm
dspy.disable_logging()
before = signal.getsignal(signal.SIGINT)
start = xllamacpp.Server

def interrupted(params):
    server = start(params)
    signal.raise_signal(signal.SIGINT)
    return server

xllamacpp.Server = interrupted
lm = local_lm(cache=False)
try:
    lm("hi", max_tokens=1)
except KeyboardInterrupt:
    print("at the start", bool(lm("hi", max_tokens=1)))
assert signal.getsignal(signal.SIGINT) is before
threading.Timer(0.3, signal.raise_signal, [signal.SIGINT]).start()
try:
    while True:
        lm("Tell me a story.", max_tokens=20)
except KeyboardInterrupt:
    print("in a call", bool(lm("hi", max_tokens=1)))
threading.Thread(target=lm, args=["Tell me a long story."], kwargs={"max_tokens": 40}, daemon=True).start()
time.sleep(0.2)  # and leave while the daemon is being answered
"""

LEFT_AT_THE_START = """
import threading, time
from dspy_nb.core.local.engine import local_lm
lm = local_lm(cache=False)
threading.Thread(target=lm, args=["hi"], daemon=True).start()
time.sleep({delay})
"""

FORKED = """
import os
import dspy
from dspy_nb.core.local.engine import local_lm
dspy.disable_logging()
lm = local_lm(cache=False)
parents = lm("hi", max_tokens=3)
child = os.fork()
if child == 0:
    print("same", lm("hi", max_tokens=3) == parents, flush=True)
    raise SystemExit(0)
_, status = os.waitpid(child, 0)
print("status", status, lm("hi", max_tokens=3) == parents)
if os.fork() == 0:
    raise SystemExit(3)  # without a call of its own
print("idle", os.waitstatus_to_exitcode(os.wait()[1]))
"""


def run_script(script):
    environment = {**os.environ, "PYTHONWARNINGS": "error,ignore::DeprecationWarning"}
    return subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, env=environment
    )


@needs_model
def test_ctrl_c_while_the_model_is_started_or_asked_leaves_it_usable_and_the_process_ends_without_noise():
    done = run_script(INTERRUPTED)
    assert (done.returncode, done.stdout, done.stderr) == (0, "at the start True\nin a call True\n", "")


@needs_model
@pytest.mark.parametrize("delay", [0.3, pytest.param(0.9, marks=pytest.mark.slow)])
def test_a_process_may_end_while_the_model_is_started(delay):
    done = run_script(LEFT_AT_THE_START.format(delay=delay))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@needs_model
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_loads_its_own_model_and_ends():
    done = run_script(FORKED)
    assert (done.returncode, done.stdout, done.stderr) == (0, "same True\nstatus 0 True\nidle 3\n", "")


# Before any model is loaded.


def test_dspy_nb_lm_names_another_model(monkeypatch):
    monkeypatch.setenv("DSPY_NB_LM", "openai/gpt-4o-mini")
    other = local_lm(temperature=0.3, cache=False)
    assert (type(other), other.model, other.cache) == (dspy.LM, "openai/gpt-4o-mini", False)
    assert (other.kwargs["temperature"], other.kwargs["max_tokens"]) == (0.3, None)
    monkeypatch.setenv("DSPY_NB_LM", "openai/gpt-5-mini")
    assert local_lm().model == "openai/gpt-5-mini"


@pytest.mark.parametrize("value", ["gpt-4o-mini", "openai/", "/gpt", "a b/c", "openai/ gpt"])
def test_a_malformed_dspy_nb_lm_is_named(monkeypatch, value):
    monkeypatch.setenv("DSPY_NB_LM", value)
    with pytest.raises(InputError, match=r"DSPY_NB_LM=.*provider/model") as refused:
        local_lm()
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "wrong",
    [{"temperature": float("nan")}, {"max_tokens": 0}, {"max_tokens": 2.5}, {"slots": "2"}, {"seed": True}],
)
def test_a_wrong_argument_is_named(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        local_lm(**wrong)


def test_a_missing_model_or_binding_is_named_with_the_command_that_helps(monkeypatch, tmp_path):
    monkeypatch.delenv("DSPY_NB_MODEL_FILE", raising=False)
    monkeypatch.setenv("DSPY_NB_MODEL_DIR", str(tmp_path))
    with pytest.raises(ModelNotInstalled, match="dspy-nb install-model"):
        local_lm()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModelNotInstalled, match=r'pip install "dspy-nb\[local\]"'):
        local_lm()
