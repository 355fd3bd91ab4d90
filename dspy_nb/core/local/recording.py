"""Recorded answers of the embedded model, so that tests need not wait for them to be computed.

With one slot an answer is a function of weights, prompt and options (see ``LocalServer``), so one that was written
down stands in for the seconds of computing it. All that is above it stays as it is: calls, usage, DSPy's cache.
Two environment variables turn it on:

    DSPY_NB_LOCAL_ANSWERS   a file of answers; a question that it does not hold is put to the model
    DSPY_NB_LOCAL_ASKED     a folder in which each process writes down what it asked, and the answers
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import astuple, dataclass, replace
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from dspy_nb.core.local.server import PREFIXES, Completion, LocalServer, shared_server

ANSWERS = "DSPY_NB_LOCAL_ANSWERS"
ASKED = "DSPY_NB_LOCAL_ASKED"


@dataclass(frozen=True)
class Asked:
    """A question that was put to the embedded model, and its answer.

    Attributes:
        name: Of the model.
        prefix: See ``LocalServer.complete``.
        rest: Likewise.
        options: Likewise.
        answer: With the ``cached_tokens`` of a prefix that was read before.
        recorded: Whether the answer came from the file.
    """

    name: str
    prefix: str
    rest: str
    options: Mapping[str, Any]
    answer: Completion
    recorded: bool

    @property
    def key(self) -> str:
        """What the answer is found by in the file."""
        return _key(self.name, self.prefix, self.rest, self.options)


class RecordedServer:
    """Stands where a :class:`LocalServer` with one slot stands, and answers from a file what it can.

    Args:
        name: Of the model.
        file: Of the answers; it need not exist.
    """

    def __init__(self, name: str, file: Path) -> None:
        self._name = name
        self._answers = read_answers(file)
        self._lock = threading.Lock()
        self._prefixes: OrderedDict[str, None] = OrderedDict()
        self._noted: set[str] = set()

    def complete(self, prefix: str, rest: str, options: Mapping[str, Any]) -> Completion:
        """Return how the model continues ``prefix + rest``; see ``LocalServer.complete``."""
        if options.get("temperature") and "seed" not in options:
            return self._server().complete(prefix, rest, options)  # drawn anew at every call
        key = _key(self._name, prefix, rest, options)
        with self._lock:
            is_new = self._is_new(prefix)
        found = self._answers.get(key)
        answer = self._server().ask(prefix, rest, options)[0] if found is None else found
        self._note(Asked(self._name, prefix, rest, options, answer, found is not None), key)
        return replace(answer, cached_tokens=0) if is_new else answer

    def _server(self) -> LocalServer:
        return shared_server(self._name, 1)

    def _is_new(self, prefix: str) -> bool:
        """Tell whether a server that had been asked all this would have to read the prefix first."""
        is_new = prefix not in self._prefixes
        self._prefixes[prefix] = None
        self._prefixes.move_to_end(prefix)
        if len(self._prefixes) > PREFIXES:
            self._prefixes.popitem(last=False)
        return is_new

    def _note(self, asked: Asked, key: str) -> None:
        folder = os.environ.get(ASKED)
        with self._lock:
            if folder is None or key in self._noted:
                return
            self._noted.add(key)
        question = [asked.name, asked.prefix, asked.rest, asked.options]
        line = json.dumps([*question, astuple(asked.answer), asked.recorded]) + "\n"
        with Path(folder, f"{os.getpid()}.jsonl").open("a", encoding="utf-8") as file:
            file.write(line)


def answering_server(name: str, slots: int) -> LocalServer | RecordedServer:
    """Return what answers for the model of that name in this process.

    Raises:
        ModelNotInstalled: See ``shared_server``.
    """
    file = os.environ.get(ANSWERS)
    if file and slots == 1:
        return _recorded_server(name, Path(file))
    return shared_server(name, slots)


_recorded_server = cache(RecordedServer)


def read_answers(file: Path) -> dict[str, Completion]:
    """Return the answers in ``file`` by key, none if it does not exist."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return {}
    return {key: Completion(*answer) for key, *answer in map(json.loads, lines)}


def _key(name: str, prefix: str, rest: str, options: Mapping[str, Any]) -> str:
    question = json.dumps([name, _binding_version(), prefix, rest, options], sort_keys=True)
    return hashlib.sha256(question.encode()).hexdigest()[:24]


@cache
def _binding_version() -> str:
    return metadata.version("xllamacpp")
