"""A cell as a place where commands are typed: words are names of the notebook first, then files and modules."""

from __future__ import annotations

import keyword
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dspy_nb as nb
from dspy_nb.commands import words
from dspy_nb.commands.surface import Outcome, Surface
from dspy_nb.core.doors import Shown
from dspy_nb.core.errors import InputError
from dspy_nb.core.text import did_you_mean, visible

if TYPE_CHECKING:
    from dspy_nb.core.events import Listener
    from dspy_nb.core.models.version import ModelVersion
    from dspy_nb.core.optimization.ending import Voice
    from dspy_nb.views.listings import Live
    from dspy_nb.views.progress.display import Display


class Cell(Surface):
    """A line of a cell.

    Args:
        shell: IPython.
        namespace: What has a name there.
        silent: Whether the line ends with ``;``: nothing is shown.
    """

    keeps_results = True

    def __init__(self, shell: Any, namespace: Mapping[str, Any], silent: bool = False) -> None:
        self._shell, self._namespace, self._silent = shell, namespace, silent
        self._assigned = ""
        self._kept: str | None = None
        self._kept_as: str | None = None

    def begin(self, kept_as: str | None, *, as_json: bool = False, kept: str | None = None) -> None:
        """Note under which names to keep the result.

        Raises:
            InputError: It is no name.
        """
        if kept is not None and (not kept.isidentifier() or keyword.iskeyword(kept)):
            raise InputError(f"-o {kept!r}: not a name that Python allows")
        self._kept, self._kept_as = kept, kept_as

    def finish(self, outcome: Outcome) -> Any:
        """Show what a command found, and return it.

        Raises:
            DspyNbError: A rule said no, or something went wrong at the very end: the cell fails.
        """
        from IPython.display import display

        from dspy_nb.notebook.assigned import is_displayed

        if outcome.aside:
            self._kept_as = None
        self.hold(outcome.value)
        failure = outcome.failure or outcome.refusal
        if not self._silent:
            for shown in (*outcome.also, *([outcome.value] if failure is not None else [])):
                display(shown)
        displayed = is_displayed()
        if isinstance(outcome.value, Shown) and outcome.line and not (self._silent or displayed or failure):
            self.say(str(outcome.value))
        if outcome.note:
            self.say(outcome.note)
        for shown in outcome.below:
            self.say(shown.report())
        if failure is not None:
            raise failure
        return None if self._silent and displayed else outcome.value

    # -- what words stand for ------------------------------------------------------------------------------

    def named(self, word: str) -> Any:
        """Return the object of that name, or of that dotted name; ``None`` if there is none."""
        first, *rest = word.split(".")
        found = self._namespace.get(first)
        for attribute in rest:
            found = getattr(found, attribute, None)
        return found

    def names(self, fits: Callable[[Any], bool]) -> list[str]:
        """Return the names of what fits."""
        return sorted(
            name for name, value in self._namespace.items() if not name.startswith("_") and fits(value)
        )

    def program(self, word: str, option: str) -> Any:
        """Return what has that name, else the program of a module or file."""
        found = self._find(word, option) if ":" not in word else self.named(word)
        return words.load_program(word) if found is None else found

    def metric(self, word: str, option: str) -> Any:
        """Return ``exact_match:field`` and its like, else what has that name, else a function of a module."""
        from dspy_nb.core.data.metrics import METRICS

        if ":" in word or (word in METRICS and self.named(word) is None):
            return words.load_metric(word)
        return self._find(word, option)

    def examples(self, word: str, option: str, inputs: Callable[[], Sequence[str]]) -> Any:
        """Return what has that name, else the examples of a file."""
        if self.named(word) is None and Path(word).expanduser().is_file():
            return nb.load_examples(word, list(inputs()))
        return self._find(word, option)

    def evidence(self, word: str) -> Any:
        """Return what has that name, else the evidence in a file of JSON."""
        if self.named(word) is None and Path(word).expanduser().is_file():
            return words.load_evidence(word)
        return self._find(word, "--evidence")

    def options(self, texts: Sequence[str]) -> dict[str, Any]:
        """Return what ``name=value`` stand for; a value may be a name of the notebook."""
        return words.parse_options(texts, named=self._namespace)

    def _find(self, word: str, option: str) -> Any:
        first, *rest = word.split(".")
        if first not in self._namespace:
            names = [known for known in self._namespace if not known.startswith("_")]
            raise InputError(f"{option}: the notebook has no name {first!r}{_hint(word, first, names)}")
        found = self._namespace[first]
        for attribute in rest:
            if not hasattr(found, attribute):
                names = [known for known in dir(found) if not known.startswith("_")]
                hint = _hint(word, attribute, names)
                raise InputError(f"{option}: {first} has no attribute {attribute!r}{hint}")
            found = getattr(found, attribute)
        return found

    # -- what is used, said and kept -----------------------------------------------------------------------

    def lm_settings(self, lm: str | None) -> Mapping[str, Any]:
        """Return the settings for ``--lm``; none without it: the notebook has configured DSPy."""
        return {} if lm is None else {"lm": words.load_lm(lm)}

    def progress(self, *, quiet: bool = False, background: bool = False) -> Display:
        """Return a panel in a kernel, a bar in a terminal."""
        from dspy_nb.notebook.listeners import notebook_progress

        return notebook_progress(quiet=quiet, background=background)

    def voice(self, model_id: str | None, registry: str) -> Voice:
        """Return how to say with the names of the notebook what can be done with a run."""
        from dspy_nb.commands.voice import MagicVoice
        from dspy_nb.notebook.assigned import called

        self._assigned, package = called()
        return MagicVoice(
            self._kept or self._assigned or self._kept_as or "run",
            package,
            model_id=model_id,
            registry=registry,
            registers=model_id is not None,
        )

    def shows_ends(self, quiet: bool) -> bool:
        """Whether a panel shows them, or the value of the cell, which is its report."""
        panel = getattr(self._shell, "kernel", None) is not None and not quiet
        return panel or not (self._silent or self._assigned)

    def announce(self, cost: str) -> list[Listener]:
        """Print it at once: a call in the background begins in another thread, which has no cell."""
        self.say(cost)
        return []

    def say(self, text: str) -> None:
        """Print to the cell."""
        print(visible(text))  # noqa: T201

    def hold(self, value: Any) -> None:
        """Keep the value under its names."""
        self._shell.user_ns.update(dict.fromkeys(filter(None, (self._kept, self._kept_as)), value))

    def rescue(self, write: Callable[[Path], object], name: str, what: str) -> None:
        """Say under which name it is kept."""
        self.say(f"{what} is kept as {self._kept_as}")

    def listing(
        self,
        versions: Sequence[ModelVersion],
        title: str,
        registry: nb.Registry,
        model: str,
        columns: Sequence[str] | None = None,
        live: Live | None = None,
    ) -> Any:
        """Return a list that a notebook with a front end shows as a browser."""
        from dspy_nb.notebook.widgets.browsable import Browsable

        return Browsable(versions, title, registry, model, columns=columns, live=live)


def _hint(word: str, name: str, known: Iterable[str]) -> str:
    """Return a hint for a word with an unknown name in it: that it is no file either, or what may be meant."""
    from dspy_nb.core.data.rows import FORMATS

    if word.lower().endswith(tuple(FORMATS)):
        return "; there is no such file either"
    meant = did_you_mean(name, known)
    return f"; {meant}?" if meant else ""
