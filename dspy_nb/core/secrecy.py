"""What of a language model, a predictor or an option may be written, and what must not: by allow-list.

Of what a language model was made with, only :data:`SAMPLING_OPTIONS` and its name are ever written. Everything
else is one hash, so that another endpoint is another model; credentials are not even in the hash, for they change
while the model stays. Error texts lose the values that a language model was made with: a provider may echo them.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import hashlib
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final
from urllib.parse import parse_qsl, quote, urlsplit

NOT_STORED: Final = "(not stored)"

SAMPLING_OPTIONS: Final = frozenset([
    "temperature", "max_tokens", "max_completion_tokens", "top_p", "top_k", "n", "stop", "seed", "presence_penalty",
    "frequency_penalty", "reasoning_effort", "logprobs", "rollout_id",
])  # fmt: skip
"""What a model or a predictor may be made with and anybody may read: how it draws, never where a call goes."""

_WORDS: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_PLACE: Final = re.compile(r"api_base|base_url|connection_string|extra_body|extra_query|model_list")
_SECRET_WORD: Final = re.compile(
    r"apikeys?|authorization|bearer|cookies?|credentials?|dsn|headers|jwt|pass(code|phrase|wd)|passwords?|pwd|secrets?"
)
_PLAIN_KEY: Final = re.compile(
    r"answer|cache|dict|field|foreign|group|index|input|join|label|metric|num|output|partition|primary|public|"
    r"question|row|sort|text|unique"
)
_PLAIN_TOKEN: Final = re.compile(r"[be]os|cls|end|first|last|mask|next|pad|per|sep|special|stop|unk")
_TRAILING: Final = re.compile(r"b64|base64|id|json|provider|text|value")


def is_secret(name: object) -> bool:
    """Tell whether a name is that of a credential, or says where calls go.

    ``api_key``, ``clientSecret``, ``base_url`` are such; ``max_tokens``, ``primary_key``, ``eos_token`` are none.
    """
    return _is_place(str(name)) or _is_credential(str(name))


@functools.lru_cache(1024)
def _is_place(name: str) -> bool:
    return bool(_PLACE.fullmatch(name.lower().replace("-", "_")))


@functools.lru_cache(1024)
def _is_credential(name: str) -> bool:
    words = [word.lower() for word in _WORDS.findall(name)]
    while len(words) > 1 and _TRAILING.fullmatch(words[-1]):
        words.pop()
    if not words:
        return False
    before, last = words[-2] if len(words) > 1 else "", words[-1]
    if last in ("key", "keys"):
        return bool(before) and not _PLAIN_KEY.fullmatch(before)
    if last == "token":
        return not _PLAIN_TOKEN.fullmatch(before)
    return last == "auth" or any(map(_SECRET_WORD.fullmatch, words))


def without_secrets(value: Any) -> Any:
    """Return JSON data without what stands under the name of a secret, and without the user of a URL."""
    if isinstance(value, str):
        return _USER.sub("", value) if "://" in value else value
    if isinstance(value, Mapping):
        return {
            key: NOT_STORED if is_secret(key) and not isinstance(item, bool | None) else without_secrets(item)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [without_secrets(item) for item in value]
    return value


# -- what a language model was made with ------------------------------------------------------------------------


def sampling_options(options: Mapping[str, Any]) -> dict[str, str]:
    """Return the options that anybody may read, as text."""
    return {name: str(value) for name, value in sorted(options.items()) if _is_sampling(name, value)}


def _is_sampling(name: str, value: object) -> bool:
    values = value if isinstance(value, list | tuple) else [value]
    return name in SAMPLING_OPTIONS and all(
        isinstance(item, bool | int | float | str | None) for item in values
    )


def other_options(options: Mapping[str, Any]) -> str | None:
    """Return one hash of all other options but the credentials, ``None`` if there are none."""
    others = {
        name: _ADDRESS.sub("", _hide_in_urls(str(without_secrets(value))))
        for name, value in sorted(options.items())
        if not _is_sampling(name, value) and not _is_credential(str(name))
    }
    return hashlib.sha256(json.dumps(others).encode()).hexdigest()[:16] if others else None


_ADDRESS: Final = re.compile(r" at 0x[0-9a-fA-F]+")  # of an object, another one in each process
_USER: Final = re.compile(r"(?<=://)[^\s/?#\"'<>]*@")
_IN_QUERY: Final = re.compile(r"(?<=[?&])([\w.-]+)=([^&\s#\"'<>]+)")
_BEARER: Final = re.compile(r"\b(Bearer)\s+(?=\S*\d)[^\s,;\"'<>]{8,}", re.IGNORECASE)


def _hide_in_urls(text: str) -> str:
    def hide(match: re.Match[str]) -> str:
        return f"{match[1]}={_HIDDEN}" if _is_credential(match[1]) or match[1] in _SIGNATURES else match[0]

    # Most texts have nothing of the kind, which shows in a twentieth of the time.
    if "://" in text:
        text = _USER.sub("", text)
    return _IN_QUERY.sub(hide, text) if "=" in text else text


_SIGNATURES: Final = ("code", "key", "sig", "signature")

# -- error texts ------------------------------------------------------------------------------------------------

_HIDDEN: Final = "(hidden)"
_HARMLESS: Final = SAMPLING_OPTIONS | {
    "allowed_openai_params", "api_version", "custom_llm_provider", "drop_params", "modalities", "prompt_cache",
    "response_format", "service_tier", "timeout", "tool_choice", "tools",
}  # fmt: skip
_PLAIN_HEADER: Final = re.compile(r"(?i:accept.*|connection|content-.*|host|user-agent|x-stainless-.*)")
_SHORTEST: Final = 4  # of a value under the name of a credential; what is shorter is in every second text
_SHORTEST_OTHER: Final = 6
_SHORTEST_VARIABLE: Final = 8
_DEPTH: Final = 5
_NOT_ITS_OWN: Final = ("kwargs", "config", "history")


def scrubbed(text: str, error: BaseException | None = None) -> str:
    """Return a text without the secrets that are known to the process.

    These are the values that a language model or a predictor was made with, if the error passed through a call of
    it or if it is the configured one; environment variables that are called like a credential; and in any URL
    ``user:password@`` and the credentials in its query.

    Args:
        text: What the error says.
        error: The error, for the calls that it passed through.
    """
    return _without(_forms({*_of_environment(), *_made_with(error)}), text)


def scrubber(parts: Iterable[Any] = ()) -> Callable[[str], str]:
    """Return what takes the secrets that are known to the process out of many texts, as ``scrubbed`` does.

    Args:
        parts: Language models and predictors, besides the configured one.
    """
    return functools.partial(_without, _forms({*_of_environment(), *_made_with(None, parts)}))


def _of_environment() -> list[str]:
    return [v for name, v in os.environ.items() if len(v) >= _SHORTEST_VARIABLE and _is_credential(name)]


def _forms(values: Iterable[str]) -> list[str]:
    """Return how secrets may be written, the longest first."""
    forms = {
        form
        for value in values
        for form in (value, json.dumps(value)[1:-1], quote(value), quote(value, safe=""))
    }
    return sorted(forms, key=len, reverse=True)


def _without(values: Iterable[str], text: str) -> str:
    for value in values:
        text = text.replace(value, _HIDDEN)
    text = _hide_in_urls(text)
    return _BEARER.sub(rf"\1 {_HIDDEN}", text) if "bearer" in text.lower() else text


def _made_with(error: BaseException | None, parts: Iterable[Any] = ()) -> Iterator[str]:
    dspy: Any = sys.modules.get("dspy")
    if dspy is None:
        return
    found = {id(part): part for part in (dspy.settings.lm, *parts)}
    for variables in _variables_of_frames(error):
        for name, value in list(variables.items()):
            if isinstance(value, dspy.BaseLM | dspy.Predict):
                found[id(value)] = value
            elif name in ("config", "kwargs", "lm_kwargs") and isinstance(value, Mapping):
                yield from _texts(value, False)
    for part in found.values():
        with contextlib.suppress(Exception):  # somebody's own class: what it does not tell cannot be hidden
            model = str(getattr(part, "model", ""))
            own = {name: value for name, value in vars(part).items() if name not in _NOT_ITS_OWN}
            made_with = {**getattr(part, "kwargs", {}), **getattr(part, "config", {})}
            unknown = {key: value for key, value in made_with.items() if key not in _HARMLESS}
            yield from (text for text in (*_texts(unknown, True), *_texts(own, False)) if text not in model)


def _variables_of_frames(error: BaseException | None) -> Iterator[Mapping[str, Any]]:
    """Yield the local variables of each function that the error, or what it was raised from, passed through."""
    errors, seen = [error], set[int]()
    while errors:
        one = errors.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        errors += [one.__cause__, one.__context__, *getattr(one, "exceptions", ())]
        trace = one.__traceback__
        while trace is not None:
            yield trace.tb_frame.f_locals
            trace = trace.tb_next


def _texts(value: Any, every: bool, secret: bool = False, depth: int = _DEPTH) -> Iterator[str]:
    """Yield the texts in a value that are to be hidden: all, or only those under the name of a secret."""
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10**100:
        value = str(value)
    reveal = getattr(value, "get_secret_value", None)  # pydantic.SecretStr
    if callable(reveal):
        yield from _texts(reveal(), True, True, depth - 1)
    elif isinstance(value, str):
        if every or secret:
            shortest = _SHORTEST if secret else _SHORTEST_OTHER
            yield from (piece for piece in _pieces(value) if len(piece) >= shortest)
    elif depth:
        items: Iterable[tuple[Any, Any]] = ()
        if isinstance(value, Mapping):
            items = value.items()
        elif isinstance(value, list | tuple | set | frozenset):
            items = ((None, item) for item in value)
        elif not isinstance(value, type) and not callable(value):
            items, every = getattr(value, "__dict__", {}).items(), False
        for name, item in list(items):
            if isinstance(name, str) and _PLAIN_HEADER.fullmatch(name):
                continue
            named_so = name is not None and _is_credential(str(name))
            yield from _texts(item, every, secret or named_so, depth - 1)


def _pieces(text: str) -> Iterator[str]:
    """Yield a text and the parts of it that are secret by themselves: lines, a token, what JSON or a URL holds."""
    if "://" in text:
        with contextlib.suppress(ValueError):
            url = urlsplit(text)
            user, password = url.username or "", url.password or ""
            yield from (user, password)
            yield base64.b64encode(f"{user}:{password}".encode()).decode() if user else ""
            yield from (value for name, value in parse_qsl(url.query) if name.lower() != "api-version")
        return
    yield text.strip()
    words = text.split()
    yield from words[1:] if len(words) == 2 else ()  # Bearer and a token
    yield from (line.strip() for line in text.splitlines()[1:])
    if text.lstrip().startswith("{"):
        with contextlib.suppress(ValueError, RecursionError):
            yield from _texts(json.loads(text), True)
