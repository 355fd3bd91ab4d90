"""Commands that read a registry."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import click

import dspy_nb as nb
from dspy_nb.commands.output import json_option, print_result, registry_option

__all__ = ["check", "list_versions", "open_registry", "show", "version_facts"]


@click.command("list")
@click.argument("model_id", metavar="[MODEL]", required=False)
@registry_option
@json_option
def list_versions(model_id: str | None, root: str, as_json: bool) -> None:
    r"""List the versions of one model, or of all.

    \b
    Examples:
      dspy-nb list
      dspy-nb list sentiment --json
    """
    from dspy_nb.listings import versions_text

    versions = open_registry(root).list(model_id)
    print_result(as_json, [version_facts(version) for version in versions], lambda: versions_text(versions))


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
    from dspy_nb.core.model_version import verified_files

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
    if not Path(root).is_dir():
        raise nb.NotFound(f"there is no registry in {root}: --registry names its folder")
    return nb.Registry(root)


def version_facts(version: nb.ModelVersion) -> dict[str, Any]:
    """Return what ``--json`` says about a version."""
    facts = {field.name: getattr(version, field.name) for field in fields(version) if field.name != "files"}
    return {"ref": version.ref, **facts, "path": str(version.path)}
