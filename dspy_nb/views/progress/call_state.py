"""What one call has said so far: the fold of its events, and how every surface reads it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal, NamedTuple

from dspy_nb.core.events import Event, Failed
from dspy_nb.core.text import excerpt
from dspy_nb.views.documents import Bar, Block, Document
from dspy_nb.views.progress.line import Form, Part
from dspy_nb.views.wording import duration, roughly


class Meter(NamedTuple):
    """How far a call is, for a line in a terminal; see ``line.lay_out``."""

    title: Part
    share: float | None
    parts: Sequence[Part]


def counted(done: int, total: int | None, unit: str, *, at_most: bool = False) -> Part:
    """Return how many there are, of how many; ``at_most`` says that ``total`` is an upper bound."""
    short = unit.removeprefix("LM ")
    if total is None:
        return [Form(f"{done:,} {unit}", 7), Form(f"{done:,} {short}")]
    if not at_most:
        return [Form(f"{done:,} of {total:,} {unit}", 7), Form(f"{done:,}/{total:,}")]
    forms = f"{done:,} of at most {total:,} {unit}", f"{done:,} of ≤{total:,} {short}", f"{done:,}/≤{total:,}"
    return [Form(text, rank) for text, rank in zip(forms, (7, 4, 0), strict=True)]


def passed(seconds: float) -> Part:
    """Return how long it takes already."""
    return [Form(duration(seconds), 9)] if seconds else []


def waited(seconds: float) -> Part:
    """Return how long requests waited for a rate limit, if they did."""
    text = f"waited {duration(seconds)}"
    return [Form(f"{text} for the rate limit", 7), Form(text, 4)] if round(seconds, 1) else []


def left(seconds: float | None, *, at_most: bool) -> Part:
    """Return how long it will take; nothing where that is not known."""
    if seconds is None:
        return []
    about, sign = ("at most", "≤") if at_most else ("about", "~")
    return [Form(f"{about} {roughly(seconds)} left", 8), Form(f"{sign}{roughly(seconds)} left", 5)]


class CallState:
    """What is known of one call; each kind of call has a subclass. By itself: nothing has been said yet.

    Attributes:
        keeps: What an end by the user keeps, in words.
        status: How the call is.
        failed: Why it failed, on one line, if it has.
        interrupted: Whether an interrupt ended it.
    """

    keeps: ClassVar[str] = "what is done so far"

    def __init__(self) -> None:
        self.status: Literal["running", "completed", "stopped", "failed"] = "running"
        self.failed = ""
        self.interrupted = False

    def add(self, event: Event) -> None:
        """Take in an event; what comes from a call within this one, and says nothing of it, is left out."""
        if isinstance(event, Failed):
            self.status, self.failed = "failed", excerpt(event.error, 200) or "no reason given"
            self.interrupted = event.error == KeyboardInterrupt.__name__

    @property
    def innermost(self) -> CallState:
        """The state of the call that is under way within this one; itself if none is."""
        return self

    @property
    def stage(self) -> object:
        """What a display shows at once when it changes."""
        return id(self), self.status

    @property
    def headline(self) -> str:
        """What is under way, or how it ended, in one line."""
        return f"failed: {self.failed}" if self.failed else "waiting to start"

    @property
    def blocks(self) -> Sequence[Block]:
        """Everything, the bar first."""
        return [Bar(None, "nothing has begun", self.colour)]

    @property
    def meter(self) -> Meter | None:
        """How far it is; ``None`` where no bar can tell."""
        return None

    @property
    def colour(self) -> str:
        """That of its bar, as documents name it: red also after an interrupt, as with every bar."""
        if self.interrupted:
            return "bad"
        return {"running": "", "completed": "good", "stopped": "warn", "failed": "bad"}[self.status]

    def text(self) -> str:
        """Return everything in one line."""
        return self.headline

    def document(self) -> Document:
        """Return everything, to be shown as it stands."""
        return Document(self.headline, self.blocks)
