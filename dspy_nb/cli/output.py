"""How text reaches stdout and stderr, and what becomes of a result that cannot be written."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TextIO

import click

import dspy_nb as nb
from dspy_nb.core.text import json_text, visible

_WIDTH = 100  # columns of a terminal that does not say
_NARROWEST = 40


class OutputClosed(Exception):
    """Nobody reads stdout any more, as when ``head`` has seen enough."""


def echo(text: str, err: bool = False) -> None:
    """Print text, with what came from outside fit for a terminal.

    A stderr that takes no more is no reason to fail.

    Raises:
        OutputClosed: Nobody reads stdout any more.
        OSError: It cannot be written, as on a full disk.
    """
    with contextlib.suppress(OSError) if err else contextlib.nullcontext():
        _write(visible(text), sys.stderr if err else sys.stdout)


def show(parts: Sequence[Any]) -> None:
    """Print results and texts on stdout: fitted to a terminal and in its colours, plain and whole to anything else.

    There is no colour where ``NO_COLOR`` is set or ``TERM`` is ``dumb``; ``COLUMNS`` sets the width.

    Raises:
        OutputClosed: Nobody reads stdout any more.
        OSError: It cannot be written, as on a full disk.
    """
    from dspy_nb.views.rendering.text import to_text

    terminal = sys.stdout.isatty()
    width = max(shutil.get_terminal_size((_WIDTH, 24)).columns, _NARROWEST) if terminal else None
    colours = terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    texts = (
        visible(part) if isinstance(part, str) else to_text(part, width, colours=colours) for part in parts
    )
    if shown := "\n\n".join(filter(None, texts)):
        _write(shown, sys.stdout)


def _write(text: str, stream: TextIO) -> None:
    try:
        click.echo(text, file=stream)
    except BrokenPipeError as error:  # which click would take for exit status 1
        raise OutputClosed from error


def as_json_text(data: Any, indent: int | None = 2) -> str:
    """Return JSON that prints on stdout, whatever that can encode."""
    encoding = (getattr(sys.stdout, "encoding", None) or "utf-8").lower()
    return json_text(data, indent, ascii_only=not encoding.startswith("utf"))


def keep_elsewhere(write: Callable[[Path], object], name: str, what: str) -> None:
    """Keep what was paid for in a file of this name in a temporary folder, if that can be done, and say where."""
    with contextlib.suppress(nb.DspyNbError, OSError, UnicodeError):
        kept = Path(tempfile.mkdtemp(prefix="dspy-nb-")) / name
        write(kept)
        echo(f"{what} is kept in {kept}", err=True)
