"""How text reaches stdout and stderr, and what becomes of a result that cannot be written."""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

import dspy_nb as nb
from dspy_nb.core.text import json_text, visible


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
        try:
            click.echo(visible(text), file=sys.stderr if err else sys.stdout)
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
