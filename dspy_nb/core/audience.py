"""Who hears of a long call: its listeners, and what shows it where somebody looks on, with a way to stop it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from typing import Any, Final, Self

import dspy

from dspy_nb.core.doors import front
from dspy_nb.core.errors import InputError
from dspy_nb.core.events import Broadcaster, Listener
from dspy_nb.core.programs.interrupts import EitherStop
from dspy_nb.core.text import value_text

logger = logging.getLogger(__name__)

_WITHIN: Final = "dspy_nb_within_a_call"  # a setting of DSPy's, for its threads inherit those


class Audience(Broadcaster):
    """The broadcaster of a call that people make, which shows by default how the call goes.

    What shows it is made at the door ``progress``. Nothing is shown of a call within another one, nor where one of
    the listeners has a true ``shows_progress``. A display that fails is logged, and the call goes on.

    Args:
        on_event: A listener, several of them, or ``None``.
        progress: Whether to show how the call goes; ``None`` where that is up to the place and the user's settings.
        stop: What the caller ends the call with, if anything.
        background: Whether the call goes on while its caller does something else.

    Attributes:
        stop: Ends the call: set when the caller's is, or when the user asks the display to.

    Raises:
        InputError: One of them is not valid, or a setting of the user is not.
    """

    def __init__(
        self,
        on_event: Listener | Sequence[Listener] | None,
        progress: bool | None = None,
        stop: threading.Event | None = None,
        *,
        background: bool = False,
    ) -> None:
        super().__init__(on_event)
        if progress is not None and not isinstance(progress, bool):
            raise InputError(f"progress must be True, False or None, got {value_text(progress, 80)}")
        if stop is not None and not callable(getattr(stop, "is_set", None)):
            raise InputError(f"stop must be a threading.Event, got {type(stop).__name__}")
        self.stop = threading.Event() if stop is None else stop
        self._display: Any = None
        within = progress is None and dspy.settings.get(_WITHIN)
        if (
            progress is False
            or within
            or any(getattr(one, "shows_progress", False) for one in self.listeners)
        ):
            return
        try:
            self._display = front("progress")(progress, background)
        except InputError:
            raise
        except Exception:
            logger.warning("the progress of this call cannot be shown", exc_info=True)
        if self._display is not None:
            self.listeners.append(self._display)
            own = self._display.stop
            self.stop = own if stop is None else EitherStop(own, stop)

    def __enter__(self) -> Self:
        self._within = dspy.context(**{_WITHIN: True})
        self._within.__enter__()
        return super().__enter__()

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        try:
            super().__exit__(kind, error, trace)
        finally:
            self._within.__exit__(None, None, None)

    def show(self) -> None:
        """Begin to show the call in the cell that runs now, where its first event will come from a thread."""
        if self._display is not None:
            try:
                self._display.show()
            except Exception:
                self.listeners.remove(self._display)
                logger.warning("the progress of this call cannot be shown", exc_info=True)
