"""The shell as a place where commands are typed: words are files and modules, results go to stdout."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import dspy_nb as nb
from dspy_nb.cli.output import as_json_text, echo, keep_elsewhere, show
from dspy_nb.commands import words
from dspy_nb.commands.surface import Outcome, Surface

if TYPE_CHECKING:
    import dspy

    from dspy_nb.core.events import Listener
    from dspy_nb.core.optimization.ending import Voice
    from dspy_nb.views.progress.display import Display


class Shell(Surface):
    """A command line."""

    reads_environment = True
    offers_files = True

    def __init__(self) -> None:
        self._as_json = False

    def begin(self, kept_as: str | None, *, as_json: bool = False, kept: str | None = None) -> None:
        """Note how to print the result."""
        self._as_json = as_json

    def finish(self, outcome: Outcome) -> int:
        """Print what a command found, and return its exit status.

        Raises:
            DspyNbError: A rule said no, or something went wrong at the very end.
        """
        if self._as_json:
            data = outcome.data() if callable(outcome.data) else outcome.data
            echo(as_json_text(data, None if outcome.one_line else 2))
        else:
            text = outcome.value if outcome.text is None else outcome.text
            show([text() if callable(text) else text, *outcome.also, outcome.note, *outcome.below])
        if outcome.failure is not None:
            raise outcome.failure
        if outcome.refusal is not None:
            raise outcome.refusal
        for line in filter(None, outcome.complaint.split("\n")):
            echo(f"Error: {line}", err=True)
        return outcome.status

    def program(self, word: str, option: str) -> Any:
        """Return the program of a module or file."""
        return words.load_program(word)

    def metric(self, word: str, option: str) -> Any:
        """Return a metric, or a function of a module or file."""
        return words.load_metric(word)

    def examples(self, word: str, option: str, inputs: Callable[[], Sequence[str]]) -> Sequence[dspy.Example]:
        """Return the examples of a file."""
        return nb.load_examples(word, list(inputs()))

    def evidence(self, word: str) -> Any:
        """Return the evidence in a file of JSON, such as ``--json`` of a gate prints."""
        return words.load_evidence(word)

    def lm_settings(self, lm: str | None) -> Mapping[str, Any]:
        """Return the settings for ``--lm``; none where the program's module has made its own."""
        import dspy

        named = os.environ.get("DSPY_NB_LM")
        if lm is not None and lm != named:
            return {"lm": words.load_lm(lm)}
        if dspy.settings.lm is not None and not named:
            return {}
        return {"lm": nb.local_lm(), "adapter": dspy.settings.adapter or dspy.JSONAdapter()}

    def progress(self, *, quiet: bool = False, background: bool = False) -> Display:
        """Return bars on stderr, if that is a terminal."""
        from dspy_nb.views.progress.listeners import shell_progress

        return shell_progress(quiet)

    def voice(self, model_id: str | None, registry: str) -> Voice:
        """Return how to say in commands what can be done with a run."""
        from dspy_nb.commands.voice import ShellVoice

        registers = model_id is not None
        return ShellVoice(
            model_id=model_id, registry=registry, registers=registers, registers_stopped=registers
        )

    @property
    def watched(self) -> bool:
        """Whether stderr is a terminal."""
        return sys.stderr.isatty()

    def announce(self, cost: str) -> list[Listener]:
        """Return a listener that prints it when the call begins: what is wrong before is an error of one line."""
        said: list[str] = []

        def listen(event: object) -> None:
            if not said:
                said.append(cost)
                echo(cost, err=True)

        return [listen]

    def say(self, text: str) -> None:
        """Print on stderr."""
        echo(text, err=True)

    def tell(self, line: str) -> None:
        """Print a line of what goes on: on stdout, unless that is for JSON."""
        echo(line, err=self._as_json)

    @property
    def stream(self) -> IO[str]:
        """Where what goes on is printed."""
        return sys.stderr if self._as_json else sys.stdout

    def look(self, data: Any, sentence: str) -> None:
        """Print on stdout."""
        echo(as_json_text(data, None) if self._as_json else sentence)

    def rescue(self, write: Callable[[Path], object], name: str, what: str) -> None:
        """Write it to a temporary folder and say where."""
        keep_elsewhere(write, name, what)
