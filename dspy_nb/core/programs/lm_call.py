"""One call of a language model, as it is recorded: what was sent, what came back, and what that took."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias

from dspy_nb.core.programs.seams import is_cut_off, is_second_try

Message: TypeAlias = Mapping[str, str]

LONGEST_TEXT: Final = 20_000
"""Characters of a message or an answer that are kept; of a longer one the middle is left out, which is said."""


@dataclass(frozen=True, slots=True)
class LMCall:
    """One call of a language model that ended well, cached or not.

    Attributes:
        messages: What was sent: mappings with ``role`` and ``content``; ``None`` where it is not kept. Equal
            messages, such as the instructions, are one object.
        output: The text of the answer, that of several completions one after the other; ``None`` where there is
            no text, or it is not kept.
        prompt_tokens: Tokens sent, 0 if cached; ``None`` if unknown.
        completion_tokens: Tokens received, likewise.
        usd: Price in US dollars as DSPy estimates it, 0 if cached; ``None`` if unknown.
        cached: Whether the answer came from a cache.
        truncated: Whether the answer was cut off by the limit of tokens (``finish_reason`` "length").
        lm: Name of the language model.
        second_try: Whether DSPy asked a second time, because the first answer was not in the adapter's format.
    """

    messages: tuple[Message, ...] | None
    output: str | None
    prompt_tokens: int | None
    completion_tokens: int | None
    usd: float | None
    cached: bool
    truncated: bool
    lm: str
    second_try: bool = False


def lm_call(entry: Mapping[str, Any], *, cached: bool, keep_text: bool) -> LMCall:
    """Return what an entry of DSPy's history says of a call; within the call, for ``second_try``.

    Args:
        entry: The entry.
        cached: Whether the answer came from a cache.
        keep_text: Whether to keep what was sent and what came back.
    """
    messages, output = (_messages(entry), _output(entry)) if keep_text else (None, None)
    cut_off, second, lm = is_cut_off(entry.get("response")), is_second_try(), str(entry.get("model"))
    if cached:
        return LMCall(messages, output, 0, 0, 0.0, True, cut_off, lm, second)
    usage = entry.get("usage") or {}
    tokens = usage.get("prompt_tokens"), usage.get("completion_tokens")
    return LMCall(messages, output, *tokens, entry.get("cost"), False, cut_off, lm, second)


def pack_messages(results: Iterable[dict[str, Any]]) -> list[Any]:
    """Put in the JSON data of results a number for each message, and return the messages: most occur many times."""
    packed: dict[tuple[str, str], int] = {}
    for result in results:
        for call in result["calls"]:
            if call["messages"] is not None:
                sent = [(message["role"], message["content"]) for message in call["messages"]]
                call["messages"] = [packed.setdefault(message, len(packed)) for message in sent]
    return [{"role": role, "content": content} for role, content in packed]


def unpack_messages(results: Any, messages: Any) -> Any:
    """Return the JSON data of results with the messages that ``pack_messages`` took out.

    Raises:
        LookupError, TypeError: It is no such data.
    """
    return [
        {**result, "calls": [_unpacked(call, messages) for call in result.get("calls", ())]}
        for result in results
    ]


def _unpacked(call: Any, messages: Any) -> Any:
    sent = call["messages"]
    return call if sent is None else {**call, "messages": [messages[number] for number in sent]}


@dataclass(slots=True)
class AnswerCount:
    """Answers of a language model, counted.

    Attributes:
        answers: How many there were, cached ones included.
        truncated: How many were cut off by the limit of tokens.
        second_tries: How many were asked for a second time, in another format.
        limit: The most tokens of an answer that was cut off; 0 if that is not known.
        lms: The language models whose answers were cut off.
    """

    answers: int = 0
    truncated: int = 0
    second_tries: int = 0
    limit: int = 0
    lms: tuple[str, ...] = ()

    def take(self, call: LMCall) -> None:
        """Count an answer."""
        self.answers += 1
        self.second_tries += call.second_try
        if call.truncated:
            self.truncated += 1
            self.limit = max(self.limit, call.completion_tokens or 0)
            if call.lm not in self.lms:
                self.lms = (*self.lms, call.lm)

    def __add__(self, other: AnswerCount) -> AnswerCount:
        """Return both together."""
        return AnswerCount(
            self.answers + other.answers,
            self.truncated + other.truncated,
            self.second_tries + other.second_tries,
            max(self.limit, other.limit),
            tuple(dict.fromkeys((*self.lms, *other.lms))),
        )


def as_cached(call: LMCall) -> LMCall:
    """Return the call as it would have been, had its answer come from a cache."""
    return replace(call, prompt_tokens=0, completion_tokens=0, usd=0.0, cached=True)


class Redaction:
    """Returns a call with each of its texts as ``scrub`` returns it; messages that are one object stay one."""

    def __init__(self, scrub: Callable[[str], str]) -> None:
        self._scrub = scrub
        self._found: dict[int, tuple[Message, Message]] = {}  # holds the first, so that its id stays its own

    def __call__(self, call: LMCall) -> LMCall:
        """Return the call itself where nothing is to be taken out."""
        if call.messages is None and call.output is None:
            return call
        output = None if call.output is None else self._scrub(call.output)
        messages = None if call.messages is None else tuple(map(self._message, call.messages))
        if output == call.output and messages == call.messages:
            return call
        return replace(call, messages=messages, output=output)

    def _message(self, message: Message) -> Message:
        if (known := self._found.get(id(message))) is None:
            content = self._scrub(message["content"])
            changed = message if content == message["content"] else {**message, "content": content}
            known = self._found[id(message)] = message, changed
        return known[1]


def _messages(entry: Mapping[str, Any]) -> tuple[Message, ...]:
    sent = entry.get("messages")
    if not sent:
        return ({"role": "user", "content": _cut(str(entry.get("prompt") or ""))},)
    *before, last = [(str(message.get("role")), _content(message)) for message in sent]
    # All but the last are the same from one example to the next: instructions and demos.
    return (
        *(_shared(*place_and_message) for place_and_message in enumerate(before)),
        {"role": last[0], "content": last[1]},
    )


_MOST_SHARED: Final = 256
_last_of_size: dict[tuple[int, str, int], Message] = {}  # by place, role and length


def _shared(place: int, sent: tuple[str, str]) -> Message:
    """Return the message of before if it is the same: comparing takes a tenth of what a hash takes."""
    role, content = sent
    size = place, role, len(content)
    known = _last_of_size.get(size)
    if known is not None and known["content"] == content:
        return known
    if len(_last_of_size) >= _MOST_SHARED:
        _last_of_size.clear()
    message = _last_of_size[size] = {"role": role, "content": content}
    return message


def _content(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, str):
        return content if len(content) <= LONGEST_TEXT else _cut(content)
    parts = content if isinstance(content, list | tuple) else []
    texts = [_part(part) for part in parts]
    if called := message.get("tool_calls"):
        texts.append(json.dumps(called, ensure_ascii=False, default=str))
    return _cut("\n".join(texts))


def _part(part: Any) -> str:
    """Return the text of a part of a message; of an image or a file, what it is."""
    if isinstance(part, Mapping):
        return str(part["text"]) if isinstance(part.get("text"), str) else f"({part.get('type', 'no text')})"
    return str(part)


def _output(entry: Mapping[str, Any]) -> str | None:
    outputs = entry.get("outputs") or ()
    texts = [text for text in map(_text, outputs) if text is not None]
    return _cut("\n\n".join(texts)) if texts else None


def _text(output: Any) -> str | None:
    if isinstance(output, Mapping):
        called = output.get("tool_calls")
        parts = [output.get("text"), called and json.dumps(called, ensure_ascii=False, default=str)]
        return "\n".join(part for part in parts if part) or None
    return None if output is None else str(output)


def _cut(text: str) -> str:
    if len(text) <= LONGEST_TEXT:
        return text
    half = LONGEST_TEXT // 2
    return f"{text[:half]}\n… ({len(text) - 2 * half:,} characters left out) …\n{text[-half:]}"
