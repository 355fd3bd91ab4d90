"""A language model in a notebook's kernel that answers while the test looks, so that no test depends on a clock.

The kernel asks it from :func:`paced_lm`; the test lets it answer with a :class:`Pace` on the same file. A run that
the test does not look at waits, however fast the machine is; one that it waits for goes on, however slow.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import dspy

from tests.scripted import ScriptedEngine, scripted_lm

if TYPE_CHECKING:
    from tests.browser import Notebook

__all__ = ["Pace", "paced_lm"]

_LOOK_EVERY_S = 0.005
_CALLS_AT_A_LOOK = 4


def paced_lm(file: str) -> dspy.LM:
    """Return a scripted language model that answers as many calls as there are bytes in ``file``."""
    engine, allowed = ScriptedEngine(), Path(file)

    def wait(number: int) -> None:
        while not allowed.exists() or allowed.stat().st_size < number:
            time.sleep(_LOOK_EVERY_S)

    engine.on_call = wait
    return scripted_lm(engine)


class Pace:
    """Lets the language model answer.

    Args:
        notebook: that is looked at.
        file: that its language model looks at.
    """

    def __init__(self, notebook: Notebook, file: Path) -> None:
        self._notebook, self._file = notebook, file

    def answer_until(self, holds: Callable[[], object], what: str) -> None:
        """Wait until ``holds()`` is true, and let a few calls be answered at each look."""

        def holds_by_now() -> object:
            found = holds()
            if not found:
                with self._file.open("ab") as file:
                    file.write(b"." * _CALLS_AT_A_LOOK)
            return found

        self._notebook.wait_until(holds_by_now, what)

    def answer_until_done(self, number: int) -> None:
        """Wait until a cell that was started has ended, and let a few calls be answered at each look."""
        self.answer_until(lambda: self._notebook.is_done(number), f"cell {number} is running")
