"""The embedded language model: SmolLM2-135M-Instruct on llama.cpp, inside this process.

It needs no API key, so that the demo, the notebooks and the tests run a real model on a fresh machine. Give
it a JSON schema, which ``dspy.JSONAdapter`` does: without one a model of this size misses DSPy's format.

    dspy.configure(lm=nb.local_lm(), adapter=dspy.JSONAdapter())
"""

from __future__ import annotations

import asyncio
import atexit
import hashlib
import importlib.util
import os
import re
import secrets
import threading
from collections import Counter
from typing import Any, ClassVar

import dspy
from dspy import lm15

from dspy_nb.core.errors import InputError, ModelNotInstalled
from dspy_nb.core.local_install import install_model, model_name, model_path

__all__ = ["LocalEngine", "install_model", "local_lm", "model_path"]

_PREFIX = "dspy-nb/"
_CONTEXT = 4096  # tokens per slot, prompt and answer together
_SLOTS = 4


def local_lm(
    *,
    temperature: float = 0.0,
    max_tokens: int = 256,
    seed: int = 0,
    cache: bool = True,
    slots: int | None = None,
) -> dspy.LM:
    """Return the embedded model as a ``dspy.LM``, or the model that ``DSPY_NB_LM`` names.

    Args:
        temperature: 0 always takes the likeliest token.
        max_tokens: longest answer, in tokens.
        seed: of the sampling at a temperature above 0.
        cache: whether DSPy caches the answers.
        slots: how many calls are decoded side by side; more wait their turn. Default 4.

    Raises:
        InputError: if an argument or ``DSPY_NB_LM`` is malformed.
        ModelNotInstalled: if the model or llama.cpp's binding is missing; the message says what to run.
    """
    if given := os.environ.get("DSPY_NB_LM"):
        if not re.fullmatch(r"[^/\s]+/\S+", given):
            raise InputError(f"DSPY_NB_LM={given!r} is not provider/model, as in openai/gpt-4o-mini")
        return dspy.LM(given, temperature=temperature, max_tokens=max_tokens, cache=cache)
    if importlib.util.find_spec("xllamacpp") is None:
        raise ModelNotInstalled('the embedded model runs on xllamacpp: pip install "dspy-nb[local]"')
    engine = LocalEngine(model_name(model_path()), slots or _SLOTS)
    return dspy.LM(
        _PREFIX + engine.name,
        temperature=temperature,
        max_tokens=max_tokens,
        seed=seed,
        cache=cache,
        engine=engine,
        async_engine=_AsyncLocalEngine(engine),
    )


class LocalEngine:
    """Answers DSPy's requests with the embedded model; see ``dspy.clients.engines.base``."""

    supports_response_schema = True
    supported_params: ClassVar[frozenset[str]] = frozenset(
        {"temperature", "top_p", "max_tokens", "stop", "seed", "response_format"}
    )

    def __init__(self, name: str, slots: int = _SLOTS) -> None:
        self.name = name
        self.slots = slots
        self._draws: Counter[bytes] = Counter()
        self._lock = threading.Lock()

    def complete(self, request: lm15.Request) -> lm15.Response:
        """Return the model's answer; blocks until a slot is free and the answer is complete."""
        if request.model != _PREFIX + self.name:
            raise lm15.UnsupportedModelError(f"this engine serves {_PREFIX + self.name}, not {request.model}")
        payload = self._payload(request)
        answer = _server(self.name, self.slots).handle_chat_completions(payload)
        if "error" in answer:
            raise _error(answer["error"])
        choice, usage = answer["choices"][0], answer["usage"]
        return lm15.Response(
            id=answer["id"],
            model=request.model,
            message=lm15.Message.assistant(choice["message"]["content"]),
            finish_reason="length" if choice["finish_reason"] == "length" else "stop",
            usage=lm15.Usage(
                input_tokens=usage["prompt_tokens"],
                output_tokens=usage["completion_tokens"],
                cache_read_tokens=usage["prompt_tokens_details"]["cached_tokens"],
            ),
        )

    def dump_state(self) -> dict[str, Any]:
        """Return what ``load_state`` needs, as JSON; DSPy saves it with a program."""
        return {"name": self.name, "slots": self.slots}

    @classmethod
    def load_state(cls, state: dict[str, Any]) -> LocalEngine:
        """Return an engine for the saved state; it finds the model at its first call."""
        return cls(**state)

    def __deepcopy__(self, memo: dict[int, Any]) -> LocalEngine:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return LocalEngine, (self.name, self.slots)

    def _payload(self, request: lm15.Request) -> dict[str, Any]:
        config = request.config
        messages = [{"role": message.role, "content": _text(message.parts)} for message in request.messages]
        if request.system is not None:
            system = request.system if isinstance(request.system, str) else _text(request.system)
            messages.insert(0, {"role": "system", "content": system})
        payload = {
            "messages": messages,
            "temperature": config.temperature or 0.0,
            "top_p": config.top_p,
            "max_tokens": config.max_tokens,
            "stop": list(config.stop) or None,
            "cache_prompt": True,
        }
        if config.temperature:
            payload["seed"] = self._draw(request)
        if config.response_format is not None:
            if config.response_format["type"] == "json_schema":
                schema = {"schema": config.response_format["schema"]}
                payload["response_format"] = {"type": "json_schema", "json_schema": schema}
            else:
                payload["response_format"] = config.response_format
        return {name: value for name, value in payload.items() if value is not None}

    def _draw(self, request: lm15.Request) -> int:
        """Return a seed for this draw: equal requests in a row differ, a repeated run does not."""
        content = hashlib.sha256(repr(request).encode()).digest()
        with self._lock:
            self._draws[content] += 1
            draw = self._draws[content]
        return int.from_bytes(hashlib.sha256(content + draw.to_bytes(8)).digest()[:4])


class _AsyncLocalEngine:
    """The same engine for ``acall``: a thread waits for the answer, the event loop does not."""

    supports_response_schema = LocalEngine.supports_response_schema
    supported_params = LocalEngine.supported_params

    def __init__(self, engine: LocalEngine) -> None:
        self._engine = engine

    async def complete(self, request: lm15.Request) -> lm15.Response:
        return await asyncio.to_thread(self._engine.complete, request)

    def dump_state(self) -> dict[str, Any]:
        return self._engine.dump_state()

    @classmethod
    def load_state(cls, state: dict[str, Any]) -> _AsyncLocalEngine:
        return cls(LocalEngine.load_state(state))

    def __deepcopy__(self, memo: dict[int, Any]) -> _AsyncLocalEngine:
        return self


_servers: dict[tuple[str, int], Any] = {}
_servers_lock = threading.Lock()


def _server(name: str, slots: int) -> Any:
    with _servers_lock:
        server = _servers.get((name, slots))
        if server is None:
            server = _servers[name, slots] = _start(name, slots)
        return server


def _start(name: str, slots: int) -> Any:
    try:
        path = model_path()
    except ModelNotInstalled as error:
        raise lm15.NotConfiguredError(str(error)) from error
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_parallel = slots
    params.n_ctx = _CONTEXT * slots
    params.verbosity = -1
    params.warmup = False
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.api_keys = [secrets.token_urlsafe(32)]
    params.ui = False
    params.endpoint_slots = False
    return xllamacpp.Server(params)


@atexit.register
def _stop_servers() -> None:
    _servers.clear()


def _text(parts: Any) -> str:
    if not all(isinstance(part, lm15.TextPart) for part in parts):
        raise lm15.UnsupportedFeatureError("the embedded model reads text only")
    return "".join(part.text for part in parts)


def _error(error: dict[str, Any]) -> lm15.LM15Error:
    message = str(error.get("message"))
    if error.get("type") == "exceed_context_size_error":
        return lm15.ContextLengthError(message)
    if error.get("code", 500) < 500:
        return lm15.InvalidRequestError(message)
    return lm15.ServerError(message)
