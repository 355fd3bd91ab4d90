"""What one call has said so far: the fold of its events, and how every surface reads it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal, NamedTuple

from dspy_nb.core.events import Event, Failed
from dspy_nb.views.documents import Bar, Block, Document
from dspy_nb.views.wording import excerpt


class Meter(NamedTuple):
    """How far a call is, for a bar in a terminal; ``bound`` says that the total is an upper bound."""

    title: str
    done: int
    total: int | None
    unit: str
    remark: str = ""
    bound: bool = False


class CallState:
    """What is known of one call; each kind of call has a subclass. By itself: nothing has been said yet.

    Attributes:
        keeps: What an end by the user keeps, in words.
        status: How the call is.
        failed: Why it failed, on one line, if it has.
    """

    keeps: ClassVar[str] = "what is done so far"

    def __init__(self) -> None:
        self.status: Literal["running", "completed", "stopped", "failed"] = "running"
        self.failed = ""

    def add(self, event: Event) -> None:
        """Take in an event; what comes from a call within this one, and says nothing of it, is left out."""
        if isinstance(event, Failed):
            self.status, self.failed = "failed", excerpt(event.error, 200) or "no reason given"

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
        """That of its bar, as documents name it."""
        return {"running": "", "completed": "good", "stopped": "warn", "failed": "bad"}[self.status]

    def text(self) -> str:
        """Return everything in one line."""
        return self.headline

    def document(self) -> Document:
        """Return everything, to be shown as it stands."""
        return Document(self.headline, self.blocks)
