"""Which display suits the place that a call is made in: who answers at the door ``progress``."""

from __future__ import annotations

import multiprocessing
import os
import sys
from typing import TYPE_CHECKING, Any, Final

from dspy_nb.core.doors import front
from dspy_nb.core.errors import InputError
from dspy_nb.core.text import value_text

if TYPE_CHECKING:
    from dspy_nb.views.progress.display import Display

VARIABLE: Final = "DSPY_NB_PROGRESS"

_SAYS: Final[dict[str, bool | None]] = {
    **dict.fromkeys(("on", "1", "true", "yes"), True),
    **dict.fromkeys(("off", "0", "false", "no", "none"), False),
    **dict.fromkeys(("auto", ""), None),
}


def progress_here(wanted: bool | None = None, background: bool = False) -> Display | None:
    """Return the display of a call made in Python, ``None`` where nothing is to be shown.

    Processes that a parent has started, such as those of a pool, show nothing unless they are asked to: they share
    its terminal, or its notebook.

    Args:
        wanted: Whether to show it; ``None`` where that is up to the settings and to the place.
        background: Whether the call goes on while the user types.

    Raises:
        InputError: ``wanted`` is ``None``, and the environment variable is not valid.
    """
    if wanted is None and multiprocessing.parent_process() is not None:
        return None
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    if shell is not None:
        found: Display | None = front("progress in IPython")(wanted, background)
        return found
    return terminal_progress(wanted_by_user() if wanted is None else wanted, background)


def wanted_by_user() -> bool | None:
    """Return what ``DSPY_NB_PROGRESS`` says of calls that do not say it; ``None`` where the place decides.

    Raises:
        InputError: It is not valid.
    """
    said = os.environ.get(VARIABLE, "")
    try:
        return _SAYS[said.strip().lower()]
    except KeyError:
        raise InputError(f"{VARIABLE} must be on, off or auto, got {value_text(said, 80)}") from None


def terminal_progress(wanted: bool | None, background: bool = False) -> Display | None:
    """Return a bar where stderr is a terminal, lines where progress is wanted all the same, else ``None``.

    A bar would be in the way of who types while a call is in the background.
    """
    bars = is_terminal(sys.stderr)
    if not ((bars and not background) if wanted is None else wanted) or sys.stderr is None:
        return None
    from dspy_nb.views.progress.terminal import TerminalProgress

    return TerminalProgress(bars=bars, lines=not bars)


def shell_progress(quiet: bool) -> Display:
    """Return the listener for a command in a shell: bars if stderr is a terminal, else a line for each step.

    Raises:
        InputError: The environment variable is not valid.
    """
    from dspy_nb.views.progress.display import Display
    from dspy_nb.views.progress.terminal import TerminalProgress

    wanted = wanted_by_user()
    if quiet or wanted is False:
        return Display()
    bars = is_terminal(sys.stderr)
    return TerminalProgress(bars=bars, lines=not bars and wanted is True)


def is_terminal(stream: Any) -> bool:
    """Tell whether somebody reads it as it is written, on a terminal where a line can be written anew."""
    try:
        return bool(stream.isatty()) and os.environ.get("TERM") != "dumb"
    except (AttributeError, ValueError):  # none, or closed
        return False
