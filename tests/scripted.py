"""A scripted language model: fast, exact and deterministic, for tests that count calls.

It answers in the format it is asked for (ChatAdapter's markers or a JSON object). The field ``sentiment`` is
right for reviews with "good" or "bad" in them, except that without demos it is wrong on some; every other
field is a text that depends on the prompt alone.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path

import dspy
from dspy.lm15 import Message, Request, Response, Usage


class ScriptedEngine:
    """Counts its calls; can be slow, and can fail.

    Args:
        delay_s: how long each call takes.
        failing: gets the number of the call, from 1, and the request; what it returns is raised.
    """

    def __init__(
        self,
        delay_s: float = 0.0,
        failing: Callable[[int, Request], BaseException | None] = lambda number, request: None,
    ) -> None:
        self.calls = 0
        self.delay_s = delay_s
        self.failing = failing
        self.on_call: Callable[[int], None] = lambda number: None
        self._lock = threading.Lock()

    def __deepcopy__(self, memo):
        return self

    def complete(self, request: Request) -> Response:
        with self._lock:
            self.calls += 1
            number = self.calls
        self.on_call(number)
        if self.delay_s:
            time.sleep(self.delay_s)
        if error := self.failing(number, request):
            raise error
        parts = request.messages[-1].parts  # images and files beside the text
        prompt = "\n".join(text for part in parts if (text := getattr(part, "text", None)))
        text = _answer(prompt, len(request.messages) > 1, str(request.system), number)
        return Response(
            id=f"scripted-{number}",
            model=request.model,
            message=Message.assistant(text),
            finish_reason="stop",
            usage=Usage(input_tokens=10, output_tokens=5, total_tokens=15),
        )


def _answer(prompt: str, has_demos: bool, system: str, number: int) -> str:
    as_json = "JSON object" in prompt.rsplit("\n\n", 1)[-1]
    tail = prompt.rsplit("Respond with", 1)[-1]
    if as_json:
        names = re.findall(r"`(\w+)`", tail)
    else:
        names = [name for name in re.findall(r"`\[\[ ## (\w+) ## \]\]`", tail) if name != "completed"]
    fields = {name: _value(name, prompt, has_demos, system) for name in names}
    if as_json:
        return json.dumps(fields)
    return "\n\n".join(f"[[ ## {k} ## ]]\n{v}" for k, v in {**fields, "completed": ""}.items())


def _value(name: str, prompt: str, has_demos: bool, system: str) -> str:
    digest = hashlib.sha256((system + prompt + name).encode()).hexdigest()
    if name != "sentiment":
        return f"{name} {digest[:8]}"
    review = prompt.split("[[ ## review ## ]]")[-1].split("Respond with")[0]
    right = "positive" if "good" in review else "negative"
    wrong = "negative" if "good" in review else "positive"
    fooled = int(hashlib.sha256(review.encode()).hexdigest(), 16) % 10 < 4
    return wrong if fooled and not has_demos else right


def scripted_lm(engine: ScriptedEngine | None = None, name: str = "scripted/model", **kwargs) -> dspy.LM:
    """A language model on a scripted engine; not cached unless said so."""
    return dspy.LM(name, engine=engine or ScriptedEngine(), **{"cache": False, **kwargs})


def reviews(n: int, tag: str = "item") -> list[dspy.Example]:
    """n labelled reviews, alternately negative and positive."""
    return [
        dspy.Example(
            review=f"{tag} {i} is {'good' if i % 2 else 'bad'}", sentiment="positive" if i % 2 else "negative"
        ).with_inputs("review")
        for i in range(n)
    ]


def write_reviews(path: Path, n: int, tag: str = "item") -> None:
    """Write n labelled reviews as JSONL."""
    path.write_text("\n".join(json.dumps(example.toDict()) for example in reviews(n, tag)))


def classifier() -> dspy.Predict:
    """A program that says whether a review is positive."""
    return dspy.Predict(dspy.Signature("review -> sentiment", "Classify the review."))
