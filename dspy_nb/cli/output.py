"""What commands share: options, and how a result is printed."""

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

__all__ = [
    "OutputClosed",
    "as_json_text",
    "echo",
    "json_option",
    "keep_elsewhere",
    "lm_option",
    "print_result",
    "registry_option",
    "write_late",
]

json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")

lm_option = click.option(
    "--lm",
    metavar="MODEL",
    envvar="DSPY_NB_LM",
    help="Such as openai/gpt-4o-mini; see dspy-nb optimize --help.",
)

registry_option = click.option(
    "--registry",
    "root",
    default="registry",
    envvar="DSPY_NB_REGISTRY",
    show_default=True,
    show_envvar=True,
    metavar="DIR",
    help="Folder of the registry.",
)


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


def write_late(write: Callable[[Path], object], target: Path) -> nb.DspyNbError | None:
    """Write a file of results that were paid for; where that fails, keep it elsewhere and say where.

    Args:
        write: Writes it to a path.
        target: Where it belongs.

    Returns:
        What to raise when everything else is done, ``None`` if it was written.
    """
    try:
        write(target)
        return None
    except (nb.DspyNbError, OSError, UnicodeError) as error:
        failure = error if isinstance(error, nb.DspyNbError) else nb.InputError(f"{target}: {error}")
    keep_elsewhere(write, target.name, f"Not written to {target}; it")
    return failure


def keep_elsewhere(write: Callable[[Path], object], name: str, what: str) -> None:
    """Keep what was paid for in a file of this name in a temporary folder, if that can be done, and say where."""
    with contextlib.suppress(nb.DspyNbError, OSError, UnicodeError):
        kept = Path(tempfile.mkdtemp(prefix="dspy-nb-")) / name
        write(kept)
        echo(f"{what} is kept in {kept}", err=True)


def print_result(as_json: bool, data: Any, text: Callable[[], str]) -> None:
    """Print a result on stdout.

    Args:
        as_json: Whether to print ``data``, for machines.
        data: What JSON can hold.
        text: Makes the text for a person.
    """
    echo(as_json_text(data) if as_json else text())
