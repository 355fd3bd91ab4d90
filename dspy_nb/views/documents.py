"""Results as small documents of tables, facts and notes; ``rendering`` makes text, Markdown and HTML of them.

What is said of a type of result is said in its view, a module of this package that registers one function with
:func:`document`.
"""

from __future__ import annotations

import functools
import importlib
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from dspy_nb.views.wording import UNKNOWN, percent, sentence


@dataclass(frozen=True)
class Score:
    """A mean in [0, 1] with the interval it lies in, if that is known."""

    value: float | None
    interval: tuple[float, float] | None = None

    def __str__(self) -> str:
        """Return ``74.0% [65.1%, 81.3%]``."""
        if self.value is None or math.isnan(self.value):
            return UNKNOWN
        if self.interval is None:
            return percent(self.value)
        return f"{percent(self.value)} [{percent(self.interval[0])}, {percent(self.interval[1])}]"


@dataclass(frozen=True)
class Toned:
    """Text that says what is good or bad; ``tone`` (good, bad, "") colours it."""

    text: str
    tone: str = ""

    def __str__(self) -> str:
        """Return the text."""
        return self.text


Cell: TypeAlias = str | int | Score | Toned | None


@dataclass(frozen=True)
class Table:
    """Rows under column names; ``numbers`` are the columns aligned to the right, ``None`` is not known.

    ``spare`` names columns that a narrow terminal leaves out, the first to go first.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    numbers: frozenset[int] = frozenset()
    caption: str = ""
    spare: Sequence[str] = ()


@dataclass(frozen=True)
class Facts:
    """Names with their values; HTML shows ``tiles`` side by side."""

    items: Sequence[tuple[str, str]]
    tiles: bool = False


@dataclass(frozen=True)
class Bar:
    """How far something is; ``label`` says it in words, and ``state`` (good, bad, warn, "") colours it.

    ``share`` is ``None`` where the end is not known.
    """

    share: float | None
    label: str
    state: str = ""


@dataclass(frozen=True)
class Note:
    """A paragraph; a warning is marked by a word, and by a line beside it."""

    text: str
    warning: bool = False


@dataclass(frozen=True)
class Code:
    """Text whose line breaks and blanks matter."""

    text: str


@dataclass(frozen=True)
class Changes:
    """Lines of a diff, each with its sign: ``-``, ``+``, or a space where nothing changed."""

    lines: Sequence[tuple[str, str]]
    title: str = ""


@dataclass(frozen=True)
class Details:
    """Blocks that HTML folds away under a title; text leaves out what is ``wide``."""

    title: str
    blocks: Sequence[Block]
    wide: bool = False


@dataclass(frozen=True)
class Drawing:
    """Markup that the package itself drew, for HTML alone; ``label`` says elsewhere what it shows."""

    html: str
    label: str


@dataclass(frozen=True)
class Interactive:
    """A part of HTML that a script makes work; text and Markdown have other blocks for it.

    Attributes:
        title: Under which HTML folds it away; "" for not at all.
        draw: Returns the markup, which the package itself drew and which can be read without the script.
        blocks: What stands for it elsewhere.
        assets: Its style sheet and its script, which a document has once.
    """

    title: str
    draw: Callable[[], str]
    blocks: Sequence[Block]
    assets: str


Block: TypeAlias = Table | Facts | Bar | Note | Code | Changes | Details | Drawing | Interactive


@dataclass(frozen=True)
class Document:
    """A title, one line below it, and blocks; what takes a single line is a subtitle alone.

    ``headline`` is what ``print`` says of the result; title and subtitle where it is left out.
    """

    title: str
    blocks: Sequence[Block]
    subtitle: str = ""
    headline: str = ""


def warn(texts: Iterable[str]) -> list[Block]:
    """Return each text as a warning."""
    return [Note(sentence(text), warning=True) for text in texts]


# -- views --------------------------------------------------------------------------------------------------

_VIEWS: Final = {
    "comparison": "Comparison Comparisons",
    "diff": "VersionDiff",
    "evaluation": "Evaluation",
    "examples.blocks": "ExampleTable",
    "experiment": "ExperimentStatus",
    "gate": "GateResult",
    "known_runs": "KnownRun",
    "listings": "Deployment HistoryEntry ModelVersion Preset Requirement",
    "monitor": "CanaryStatus HealthReport",
    "pipeline": "PipelineResult",
    "run": "Candidate Estimate OptimizationRun Plan",
    "sweep": "SweepEstimate SweepResult",
}
"""The views, each with the types that it has a document for: a new type of result is named here."""

_VIEW_OF: Final = {name: view for view, names in _VIEWS.items() for name in names.split()}


def import_view(kind: type) -> None:
    """Import the view of a type of result, if it has one."""
    for base in kind.__mro__:
        if view := _VIEW_OF.get(base.__name__):
            importlib.import_module(f"dspy_nb.views.{view}")


@functools.singledispatch
def document(result: object) -> Document:
    """Return the document of a result; a document is its own.

    A view is imported when the first of its results is shown, so that nobody pays for the others.

    Raises:
        TypeError: There is no view of such a thing.
    """
    import_view(type(result))
    make = document.dispatch(type(result))
    if make is document.dispatch(object):
        raise TypeError(f"there is no view of a {type(result).__name__}")
    return make(result)


@document.register
def _(result: Document) -> Document:
    return result
