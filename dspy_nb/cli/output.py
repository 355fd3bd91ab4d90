"""What commands share: options, and how a result is printed."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from typing import Any

import click

from dspy_nb.core.text import json_text, visible

__all__ = [
    "OutputClosed",
    "as_json_text",
    "echo",
    "json_option",
    "lm_option",
    "print_result",
    "registry_option",
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


def print_result(as_json: bool, data: Any, text: Callable[[], str]) -> None:
    """Print a result on stdout.

    Args:
        as_json: Whether to print ``data``, for machines.
        data: What JSON can hold.
        text: Makes the text for a person.
    """
    echo(as_json_text(data) if as_json else text())
