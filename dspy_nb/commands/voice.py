"""How a command says what can be done with a run: in a shell as commands, on a line of a notebook as options."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from dspy_nb.core.optimization.ending import Voice


@dataclass(frozen=True)
class MagicVoice(Voice):
    """Says it to somebody who typed a magic: objects have names, arguments of a call are options of the line."""

    @property
    def again(self) -> str:
        """The line that goes on where a run with a run directory has ended."""
        return f"the same line with --run-dir {_word(self.run_dir)}"

    def argument(self, name: str, value: str | None = None) -> str:
        """Return an argument of optimize() as an option."""
        option = f"--{name.removesuffix('set').replace('_', '-')}"
        return option if value is None else f"{option} {_word(value)}"


@dataclass(frozen=True)
class ShellVoice(MagicVoice):
    """Says it in commands: a run is gone with the command that made it, unless that registers it."""

    @property
    def _at(self) -> str:
        return "" if self.registry == "registry" else f" --registry {_word(self.registry)}"

    @property
    def _version(self) -> str:
        return _word(self.ref or self.model_id or "my-model")

    @property
    def register(self) -> str:
        """What registers the run, which takes another one: from the answers in its directory, if it has one."""
        kept = "" if self.run_dir is None else f" --run-dir {_word(self.run_dir)}"
        return f"dspy-nb optimize ...{kept} --save-as {_word(self.model_id or 'my-model')}{self._at}"

    @property
    def deploy(self) -> str:
        """What deploys the version that it is, or will be."""
        return f"dspy-nb deploy {self._version} --to staging{self._at}"

    @property
    def score(self) -> str:
        """What scores the version that it is, or another run."""
        if self.ref is None and not self.registers:
            return "dspy-nb optimize ... --test-data FILE"
        return f"dspy-nb evaluate --model {self._version} --test-data FILE{self._at}"

    @property
    def compare(self) -> str:
        """What scores it, for another program to be scored as well."""
        return self.score

    @property
    def answers(self) -> str:
        """What shows the answers of the version that it is, or of the program as it was."""
        if self.ref is None and not self.registers:
            return "dspy-nb evaluate --program PROGRAM --test-data FILE --report report.json"
        return f"{self.score} --report report.json"

    @property
    def errors(self) -> str:
        """Where the errors of a run are."""
        return "the table of errors in this report"

    @property
    def again(self) -> str:
        """The command that goes on where a run with a run directory has ended."""
        return f"dspy-nb optimize ... --run-dir {_word(self.run_dir)}"


def _word(text: str | None) -> str:
    return shlex.quote(text or "")
