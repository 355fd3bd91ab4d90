"""The command ``dspy-nb register``."""

from __future__ import annotations

import click

import dspy_nb as nb
from dspy_nb.commands.output import json_option, print_result, registry_option
from dspy_nb.commands.registry import version_facts

__all__ = ["register"]


@click.command()
@click.option(
    "--program",
    "program_name",
    required=True,
    metavar="MODULE:NAME",
    help="A dspy.Module, or a class or function that makes one: package.module:name or file.py:name.",
)
@click.option("--model-id", "--save-as", metavar="NAME", required=True, help="The model to register it as.")
@click.option("--version", metavar="VERSION", help="An exact version, such as 1.2.0 or 1.2.0-rc.1.")
@click.option(
    "--bump",
    type=click.Choice(["major", "minor", "patch", "prerelease"]),
    help="Which part of the version to raise; minor by default.",
)
@click.option("--parent", metavar="VERSION", help="What it was made from; the latest version by default.")
@click.option("--notes", metavar="TEXT", help="What there is to say about it; the model card shows it.")
@click.option("--by", metavar="NAME", help="Who registers; the user by default.")
@registry_option
@json_option
def register(
    program_name: str,
    model_id: str,
    version: str | None,
    bump: str | None,
    parent: str | None,
    notes: str | None,
    by: str | None,
    root: str,
    as_json: bool,
) -> None:
    r"""Register a program as it is.

    It becomes the next version of a model, in the stage development. What was optimized is better registered by
    optimize --save-as, which knows how it was made and how good it is.

    \b
    Examples:
      dspy-nb register --program app.py:classifier --model-id sentiment --notes "written by hand"
      dspy-nb register --program my_package.programs:Classifier --model-id sentiment --bump major
    """
    from dspy_nb import parsing

    program = parsing.load_program(program_name)
    made = nb.Registry(root).register(
        program, model_id, version=version, bump=bump, parent=parent, notes=notes, by=by
    )
    print_result(as_json, version_facts(made), lambda: f"Registered {made.ref} in {made.path}")
