"""Where a command is typed, a shell or a notebook: what a word stands for there, and how a result is shown."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dspy_nb.commands.words import parse_options
from dspy_nb.core.errors import DspyNbError, InputError

if TYPE_CHECKING:
    import dspy

    import dspy_nb as nb
    from dspy_nb.core.events import Listener
    from dspy_nb.core.models.version import ModelVersion
    from dspy_nb.core.optimization.ending import Voice
    from dspy_nb.views.listings import Live
    from dspy_nb.views.progress.display import Display


@dataclass
class Outcome:
    """What a command found.

    Attributes:
        value: The result: what a magic returns, and what is shown.
        data: The result as JSON can hold it, for ``--json``; a function that makes it, where that costs.
        text: The result for a terminal, as text or as what there is a view of; by default ``value``.
        also: What else is shown, such as examples: before the result in a notebook, after it in a terminal.
        note: A sentence to say after it, such as where it was kept.
        below: What else is shown after it, such as what a gate says.
        refusal: Why a rule said no: the exit status is 1, the cell fails.
        status: The exit status where no rule was asked, with ``complaint`` on stderr.
        complaint: See ``status``.
        failure: What went wrong at the very end: shown after the result.
        one_line: Whether the JSON is one line, for a log.
        line: Whether a notebook that does not show the value, as where it is assigned, says it in a line.
        aside: Whether this is not what the command is for, so that it does not take the place of the last result.
    """

    value: Any = None
    data: Any = None
    text: Any = None
    also: Sequence[Any] = ()
    note: str = ""
    below: Sequence[Any] = ()
    refusal: DspyNbError | None = None
    status: int = 0
    complaint: str = ""
    failure: DspyNbError | None = None
    one_line: bool = False
    line: bool = True
    aside: bool = False


class Surface(ABC):
    """Where a command is typed.

    Attributes:
        reads_environment: Whether options may come from environment variables.
        offers_files: Whether it can complete the names of files by itself.
        keeps_results: Whether a result is still there when the command has ended.
    """

    reads_environment = False
    offers_files = False
    keeps_results = False

    @property
    def watched(self) -> bool:
        """Whether somebody looks on while a command works."""
        return True

    @abstractmethod
    def begin(self, kept_as: str | None, *, as_json: bool = False, kept: str | None = None) -> None:
        """Get ready for a command.

        Args:
            kept_as: Name under which a notebook keeps the result of such commands.
            as_json: Whether to print the result as JSON.
            kept: Name under which the user wants to keep this one.
        """

    @abstractmethod
    def finish(self, outcome: Outcome) -> Any:
        """Show what a command found; return the exit status, or the value of the magic."""

    # -- what words stand for ------------------------------------------------------------------------------

    @abstractmethod
    def program(self, word: str, option: str) -> Any:
        """Return the program that a word names.

        Raises:
            InputError: There is none; the message begins with ``option``.
        """

    @abstractmethod
    def metric(self, word: str, option: str) -> Any:
        """Return the metric that ``exact_match:field`` or its like stands for, or that the word names."""

    @abstractmethod
    def examples(self, word: str, option: str, inputs: Callable[[], Sequence[str]]) -> Sequence[dspy.Example]:
        """Return the labelled examples that a word names.

        Args:
            word: What was typed.
            option: For the message of an error.
            inputs: The input fields, if examples are made of a file.
        """

    def options(self, texts: Sequence[str]) -> dict[str, Any]:
        """Return what ``name=value`` stand for."""
        return parse_options(texts)

    @abstractmethod
    def evidence(self, word: str) -> Any:
        """Return the evidence that a word names."""

    def named(self, word: str) -> Any:
        """Return the object of that name, ``None`` where nothing has names."""
        return None

    def names(self, fits: Callable[[Any], bool]) -> list[str]:
        """Return the names of what ``fits``, for completion."""
        return []

    # -- what is used --------------------------------------------------------------------------------------

    @abstractmethod
    def lm_settings(self, lm: str | None) -> Mapping[str, Any]:
        """Return DSPy's settings for the calls of a command, with the language model of that name."""

    @abstractmethod
    def progress(self, *, quiet: bool = False, background: bool = False) -> Display:
        """Return the display of a long call: a listener, and a context for the call."""

    # -- what is said and kept -----------------------------------------------------------------------------

    @abstractmethod
    def voice(self, model_id: str | None, registry: str) -> Voice:
        """Return how to say here what can be done with a run.

        Args:
            model_id: The model that it is registered as when it has ended, if it is.
            registry: Folder of the registry.
        """

    def shows_ends(self, quiet: bool) -> bool:
        """Whether the end of a call is to be read here anyway, so that it need not be said again."""
        return True

    @abstractmethod
    def announce(self, cost: str) -> list[Listener]:
        """Say what a call may cost, at the latest when it begins.

        Returns:
            Listeners to the call, which may be who says it.
        """

    @abstractmethod
    def say(self, text: str) -> None:
        """Say a sentence beside the result."""

    def look(self, data: Any, sentence: str) -> None:  # noqa: B027
        """Say what one look of several found, as JSON or in a sentence; nobody looks on in a notebook."""

    def hold(self, value: Any) -> None:  # noqa: B027
        """Keep what was just paid for, whatever happens next."""

    @abstractmethod
    def rescue(self, write: Callable[[Path], object], name: str, what: str) -> None:
        """Say where what was paid for is, when it could not be put where it belongs.

        Args:
            write: Writes it to a file.
            name: Name of such a file.
            what: The beginning of the sentence, such as ``The run``.
        """

    def write_late(self, write: Callable[[Path], object], target: Path) -> DspyNbError | None:
        """Write a file of results that were paid for, as :func:`write_late`."""
        return write_late(write, target, self.rescue)

    def listing(
        self,
        versions: Sequence[ModelVersion],
        title: str,
        registry: nb.Registry,
        model: str,
        columns: Sequence[str] | None = None,
        live: Live | None = None,
    ) -> Any:
        """Return a list of versions as it is shown here.

        Args:
            versions: The versions.
            title: Of the list.
            registry: Where they are.
            model: Their model; "" for those of all models.
            columns: Names of columns; the usual ones by default.
            live: Where those are live that are, by reference.
        """
        from dspy_nb.views.listings import Listing

        return Listing(versions, title, "No versions yet.", columns=columns, live=live)


def write_late(
    write: Callable[[Path], object],
    target: Path,
    rescue: Callable[[Callable[[Path], object], str, str], None],
) -> DspyNbError | None:
    """Write a file of results that were paid for; where that fails, say where they are.

    Args:
        write: Writes it to a path.
        target: Where it belongs.
        rescue: See :meth:`Surface.rescue`.

    Returns:
        What to raise when everything else is done, ``None`` if it was written.
    """
    try:
        write(target)
        return None
    except (DspyNbError, OSError, UnicodeError) as error:
        failure = error if isinstance(error, DspyNbError) else InputError(f"{target}: {error}")
    rescue(write, target.name, f"Not written to {target}; it")
    return failure
