"""The embedded language model: SmolLM2-135M-Instruct on llama.cpp, inside this process.

It needs no API key, so that the demo, the notebooks and the tests run a real model on a fresh machine. Use
it with ``dspy.JSONAdapter``, which sends the signature's JSON schema: decoding is then held to the schema
and every answer parses. With DSPy's default adapter it works too, at two calls an answer: a model of this
size misses the format of ``ChatAdapter``, and DSPy asks again with ``JSONAdapter``.

    dspy.configure(lm=nb.local_lm(), adapter=dspy.JSONAdapter())
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
import itertools
import json
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, ClassVar, Self

import dspy
from dspy import lm15

from dspy_nb.core.errors import InputError, ModelNotInstalled
from dspy_nb.core.local.grammar import TIGHTNESS, Form, answer_form
from dspy_nb.core.local.install import model_name, model_path
from dspy_nb.core.local.recording import RecordedServer, answering_server
from dspy_nb.core.local.server import Completion, LocalServer

_PREFIX = "dspy-nb/"
_MAX_TOKENS = 256
_SAMPLING = ("top_p", "top_k", "frequency_penalty", "presence_penalty")
_ROLES = {"developer": "system"}
# What the model's own chat template says when nobody gives it a system message.
_SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"


def local_lm(
    *,
    temperature: float = 0.0,
    max_tokens: int = _MAX_TOKENS,
    seed: int | None = 0,
    cache: bool = True,
    slots: int | None = None,
) -> dspy.LM:
    """Return the embedded model as a ``dspy.LM``, or the model that ``DSPY_NB_LM`` names.

    Answers are reproducible to the last bit on one machine: they depend on the messages, the options and
    ``seed`` only, not on what ran before or runs beside. At a temperature above 0, ask for different answers
    as everywhere in DSPy, with ``n`` or ``rollout_id``.

    Args:
        temperature: 0 always takes the likeliest token.
        max_tokens: Longest answer, in tokens.
        seed: Of the sampling at a temperature above 0. None samples anew at every call.
        cache: Whether DSPy caches the answers.
        slots: How many calls are computed side by side; others wait their turn. With the default of 1 they
            are computed one after the other, whatever the number of threads, and that is the fastest for
            short answers. Four slots are up to 1.5 times faster for long ones, but not reproducible: a
            neighbour changes the numbers in the last bit, and that changes a word now and then.

    Returns:
        The LM. All with the same ``slots`` share one model in memory (600 MB), loaded at the first call.
        Copies, threads, forked and spawned processes are fine; each process loads its own. With
        ``DSPY_NB_LM=openai/gpt-4o-mini`` a plain ``dspy.LM`` with that name, ``temperature`` and ``cache``.

    Raises:
        InputError: An argument or ``DSPY_NB_LM`` is malformed.
        ModelNotInstalled: The model or llama.cpp's binding is missing; the message says what to run.
    """
    _check("temperature", temperature, (int, float), 0)
    _check("max_tokens", max_tokens, (int,), 1)
    _check("seed", 0 if seed is None else seed, (int,), 0)
    _check("slots", 1 if slots is None else slots, (int,), 1)
    if given := os.environ.get("DSPY_NB_LM"):
        return _named_lm(given, temperature, max_tokens, cache)
    if importlib.util.find_spec("xllamacpp") is None:
        raise ModelNotInstalled('the embedded model runs on xllamacpp: pip install "dspy-nb[local]"')
    engine = LocalEngine(model_name(model_path()), slots or 1)
    return LocalLM(
        _PREFIX + engine.name,
        temperature=temperature,
        max_tokens=max_tokens,
        cache=cache,
        engine=engine,
        async_engine=AsyncLocalEngine(engine.name, engine.slots),
        **({} if seed is None else {"seed": seed}),
    )


def _check(name: str, value: object, kinds: tuple[type, ...], least: int) -> None:
    if type(value) not in kinds or not value >= least:  # type: ignore[operator]
        kind = "a whole number" if kinds == (int,) else "a number"
        raise InputError(f"{name} must be {kind} of at least {least}, not {value!r}")


def _named_lm(name: str, temperature: float, max_tokens: int, cache: bool) -> dspy.LM:
    if not re.fullmatch(r"[^/\s]+/\S+", name):
        raise InputError(f"DSPY_NB_LM={name!r} is not provider/model, as in openai/gpt-4o-mini")
    # 256 tokens are a limit for the embedded model's ramblings, not one to force on another model.
    limit = {} if max_tokens == _MAX_TOKENS else {"max_tokens": max_tokens}
    try:
        return dspy.LM(name, temperature=temperature, cache=cache, **limit)
    except dspy.LMConfigurationError:  # OpenAI's reasoning models take neither
        return dspy.LM(name, cache=cache)


# The rollout that the current LM call asked for, and the numbers of its candidates. DSPy asks an engine for
# one candidate at a time and tells it neither.
_call: ContextVar[tuple[int, Iterator[int]] | None] = ContextVar("dspy_nb_local_call", default=None)


class LocalLM(dspy.LM):
    """A ``dspy.LM`` whose engine learns which rollout and which of ``n`` candidates it is asked for."""

    def __call__(self, prompt: Any = None, *, messages: Any = None, **kwargs: Any) -> Any:
        """Answer as ``dspy.LM`` does."""
        with self._number_rollout(kwargs):
            return super().__call__(prompt, messages=messages, **kwargs)

    async def acall(self, prompt: Any = None, *, messages: Any = None, **kwargs: Any) -> Any:
        """Answer as ``dspy.LM`` does."""
        with self._number_rollout(kwargs):
            return await super().acall(prompt, messages=messages, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        # The history holds classes that DSPy makes on the fly, which cannot be pickled.
        return {**super().__getstate__(), "history": []}

    @contextmanager
    def _number_rollout(self, kwargs: dict[str, Any]) -> Iterator[None]:
        rollout = kwargs.get("rollout_id", self.kwargs.get("rollout_id")) or 0
        token = _call.set((rollout, itertools.count()))
        try:
            yield
        finally:
            _call.reset(token)


class LocalEngine:
    """Answers DSPy's requests with the embedded model; see ``dspy.clients.engines.base``.

    It holds no model itself, so copying, pickling and saving it is cheap: where it lands, it finds the
    process's server or starts it at the first call.
    """

    supports_response_schema = True
    supported_params: ClassVar[frozenset[str]] = frozenset(
        {"temperature", "max_tokens", "stop", "seed", "response_format", *_SAMPLING}
    )

    def __init__(self, name: str, slots: int = 1) -> None:
        self.name = name
        self.slots = slots

    def complete(self, request: lm15.Request) -> lm15.Response:
        """Return the model's answer; waits for its turn and for the answer to be complete.

        Raises:
            lm15.ContextLengthError: Prompt and answer do not fit into 4096 tokens.
            lm15.InvalidRequestError: llama.cpp cannot enforce the schema or takes an option amiss.
            lm15.UnsupportedFeatureError: The request holds anything but text, or tools.
            lm15.UnsupportedModelError: The request names another model.
            lm15.NotConfiguredError: The model is not installed here.
        """
        server = self._server(request)
        prefix, rest = chat_prompt(request)
        options = _options(request, prefix + rest)
        wanted = request.config.response_format
        spent: list[Completion] = []
        for attempt in range(len(TIGHTNESS) if wanted else 1):
            form = Form("", "")
            if wanted is not None:
                form = answer_form(wanted.get("schema", {"type": "object"}), options["max_tokens"], attempt)
            constrained = {**options, "grammar": form.grammar, "stop": [*options["stop"], *form.stop]}
            answer = server.complete(prefix, rest + form.opening, constrained)
            spent.append(answer)
            if not answer.cut_off:
                break
            if answer.answer_tokens < options["max_tokens"]:
                raise lm15.ContextLengthError("the answer does not fit into the context beside its prompt")
        text = form.opening + answer.text + ("" if answer.cut_off else form.closing)
        if wanted and not answer.cut_off and not options["stop"]:
            _require_json(text)
        return lm15.Response(
            id=f"local-{secrets.token_hex(8)}",
            model=request.model,
            message=lm15.Message.assistant(text),
            finish_reason="length" if answer.cut_off else "stop",
            usage=lm15.Usage(
                input_tokens=sum(each.prompt_tokens for each in spent),
                output_tokens=sum(each.answer_tokens for each in spent),
                cache_read_tokens=sum(each.cached_tokens for each in spent),
            ),
        )

    def _server(self, request: lm15.Request) -> LocalServer | RecordedServer:
        if request.model != _PREFIX + self.name:
            raise lm15.UnsupportedModelError(f"this engine serves {_PREFIX + self.name}, not {request.model}")
        try:
            return answering_server(self.name, self.slots)
        except ModelNotInstalled as error:
            raise lm15.NotConfiguredError(str(error)) from error

    def dump_state(self) -> dict[str, Any]:
        """Return what ``load_state`` needs, as JSON; DSPy saves it with a program."""
        return {"name": self.name, "slots": self.slots}

    @classmethod
    def load_state(cls, state: dict[str, Any]) -> Self:
        """Return an engine for the saved state; it looks for the model at its first call."""
        return cls(**state)


class AsyncLocalEngine(LocalEngine):
    """The same engine for ``acall``: a thread waits for the answer, the event loop does not."""

    async def complete(self, request: lm15.Request) -> lm15.Response:
        """Return the model's answer; see ``LocalEngine.complete``."""
        return await asyncio.to_thread(super().complete, request)


def chat_prompt(request: lm15.Request) -> tuple[str, str]:
    """Return the prompt in the model's chat format, in two parts: all but the last message, and the rest.

    DSPy's calls share the first part, instructions and demonstrations, from one example to the next.
    """
    if request.tools:
        raise lm15.UnsupportedFeatureError("the embedded model cannot call tools", feature="tools")
    system = _SYSTEM if request.system is None else _text(request.system)
    turns = [("system", system)]
    turns += [(_ROLES.get(message.role, message.role), _text(message.parts)) for message in request.messages]
    *before, last = [f"<|im_start|>{role}\n{text}<|im_end|>\n" for role, text in turns]
    return "".join(before), last + "<|im_start|>assistant\n"


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    if not all(isinstance(part, lm15.TextPart) for part in content):
        raise lm15.UnsupportedFeatureError("the embedded model reads text only", feature="messages")
    return "".join(part.text for part in content)


def _options(request: lm15.Request, prompt: str) -> dict[str, Any]:
    config = request.config
    for name in ("logprobs", "probabilities", "reasoning", "extensions"):
        if value := getattr(config, name):
            raise lm15.UnsupportedFeatureError(f"the embedded model has no {name} ({value})", feature=name)
    options = {name: value for name in _SAMPLING if (value := getattr(config, name)) is not None}
    options["temperature"] = config.temperature or 0.0
    options["max_tokens"] = config.max_tokens or _MAX_TOKENS
    options["stop"] = list(config.stop)
    if config.seed is not None:
        # Every rollout and every candidate of one call draws for itself, and draws the same next time.
        rollout, candidates = _call.get() or (0, itertools.repeat(0))
        identity = f"{config.seed} {rollout} {next(candidates)} {prompt}".encode()
        options["seed"] = int.from_bytes(hashlib.sha256(identity).digest()[:4])
    return options


def _require_json(text: str) -> None:
    # llama.cpp drops a grammar that it cannot compile, without a word.
    try:
        json.loads(text)
    except ValueError:
        raise lm15.InvalidRequestError("llama.cpp cannot enforce this JSON schema") from None
