"""What commands share: options, and how a result is printed."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import click

__all__ = ["json_option", "lm_option", "print_result", "registry_option"]

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


def print_result(as_json: bool, data: Any, text: Callable[[], str]) -> None:
    """Print a result on stdout.

    Args:
        as_json: Whether to print ``data``, for machines.
        data: What JSON can hold.
        text: Makes the text for a person.
    """
    click.echo(json.dumps(data, indent=2, ensure_ascii=False) if as_json else text())
