"""Commands that read a registry."""

from __future__ import annotations

import os
from dataclasses import fields
from typing import Any

import click

import dspy_nb as nb
from dspy_nb.cli.output import echo, json_option, print_result, registry_option

__all__ = ["check", "list_versions", "open_registry", "register", "show", "version_facts"]


@click.command("list")
@click.argument("model_id", metavar="[MODEL]", required=False)
@registry_option
@json_option
def list_versions(model_id: str | None, root: str, as_json: bool) -> int:
    r"""List the versions of one model, or of all.

    A model that cannot be read is named on stderr, with exit status 2; the others are listed.

    \b
    Examples:
      dspy-nb list
      dspy-nb list sentiment --json
    """
    from dspy_nb.views.listings import Listing

    registry = open_registry(root)
    versions, damage = registry.survey() if model_id is None else (registry.list(model_id), [])
    listed = Listing(versions, "Versions", "No versions yet.")
    print_result(as_json, [version_facts(version) for version in versions], listed.report)
    for error in damage:
        echo(f"Error: {error}", err=True)
    return 2 if damage else 0


@click.command()
@click.argument("ref", metavar="MODEL[@VERSION]")
@registry_option
@json_option
def show(ref: str, root: str, as_json: bool) -> None:
    r"""Show the model card of a version, verified.

    MODEL alone is its latest version; VERSION may be exact (1.2.0), a range (^1.1), staging or production.
    With --json, the metadata.

    \b
    Examples:
      dspy-nb show sentiment@production
    """
    from dspy_nb.core.models.version import verified_files

    version = open_registry(root).get(ref)
    card = verified_files(version.path, version.files, version.ref)["README.md"]
    data = {**version.metadata, **version_facts(version)}
    print_result(as_json, data, lambda: card.decode("utf-8").rstrip())


@click.command()
@registry_option
@json_option
def check(root: str, as_json: bool) -> int:
    r"""Verify every log and every hash of a registry.

    Prints what is wrong and what to do about it; the exit status is 1 if anything is.

    \b
    Examples:
      dspy-nb check --registry registry
    """
    problems = open_registry(root).check()
    data = [{"kind": found.kind, "path": str(found.path), "message": found.message} for found in problems]
    print_result(
        as_json, data, lambda: "\n".join(map(str, problems)) or "Everything is as it was registered."
    )
    return 1 if problems else 0


def open_registry(root: str) -> nb.Registry:
    """Return the registry in ``root``, which must exist."""
    if not os.path.isdir(root):  # noqa: PTH112 (it raises nothing)
        raise nb.NotFound(f"there is no registry in {root}: --registry names its folder")
    return nb.Registry(root)


def version_facts(version: nb.ModelVersion) -> dict[str, Any]:
    """Return what ``--json`` says about a version."""
    facts = {field.name: getattr(version, field.name) for field in fields(version) if field.name != "files"}
    return {"ref": version.ref, **facts, "path": str(version.path)}


# -- register ---------------------------------------------------------------------------------------------------


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
    from dspy_nb.cli import parsing

    program = parsing.load_program(program_name)
    made = nb.Registry(root).register(
        program, model_id, version=version, bump=bump, parent=parent, notes=notes, by=by
    )
    print_result(as_json, version_facts(made), lambda: f"Registered {made.ref} in {made.path}")
