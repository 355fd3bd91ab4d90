"""Commands that decide: promote, archive, deploy, roll back; and what shows the decisions."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

import dspy_nb as nb
from dspy_nb.cli.output import echo, json_option, print_result, registry_option
from dspy_nb.cli.registry import open_registry, version_facts

__all__ = ["archive", "deploy", "diff", "history", "promote", "rollback"]

_reason = click.option("--reason", metavar="TEXT", help="Why; it is kept in the history.")
_by = click.option("--by", metavar="NAME", help="Who decides; the user by default.")
_evidence = click.option(
    "--evidence", metavar="FILE", help="JSON of a gate's result, a comparison or an evaluation."
)


@click.command()
@click.argument("ref", metavar="MODEL[@VERSION]")
@click.option("--to", "stage", metavar="STAGE", required=True, help="Such as staging or production.")
@_evidence
@click.option("--force", is_flag=True, help="Override the rules; needs --reason, and the history shows it.")
@_reason
@_by
@registry_option
@json_option
def promote(
    ref: str,
    stage: str,
    evidence: str | None,
    force: bool,
    reason: str | None,
    by: str | None,
    root: str,
    as_json: bool,
) -> None:
    r"""Move a version to another stage.

    The exit status is 1 if a rule says no, such as evidence that is missing.

    \b
    Examples:
      dspy-nb promote sentiment@1.1.0 --to staging
      dspy-nb gate report.json --min-score 0.85 --json > gate.json
      dspy-nb promote sentiment@1.1.0 --to production --evidence gate.json
    """
    from dspy_nb.views.listings import advice_on_promotion

    registry, proof = open_registry(root), _read_evidence(evidence)
    version = registry.promote(ref, stage, evidence=proof, force=force, reason=reason, by=by)
    with contextlib.suppress(nb.RegistryError):  # it is done, whatever the disk says now
        _note(advice_on_promotion(registry.history(version.model_id)))
    print_result(as_json, version_facts(version), lambda: f"{version.ref} is in {version.stage}")


@click.command()
@click.argument("ref", metavar="MODEL[@VERSION]")
@click.option("--keep-latest", metavar="N", type=int, help="With MODEL alone: archive all but the latest N.")
@_reason
@_by
@registry_option
@json_option
def archive(
    ref: str, keep_latest: int | None, reason: str | None, by: str | None, root: str, as_json: bool
) -> None:
    r"""Archive a version, or the old ones of a model.

    What is in production, or live in an environment, is never archived. Neither is what a roll-back would return
    to, unless it is named itself, with a warning.

    \b
    Examples:
      dspy-nb archive sentiment@1.0.0
      dspy-nb archive sentiment --keep-latest 3
    """
    versions = open_registry(root).archive(ref, keep_latest=keep_latest, reason=reason, by=by)
    text = ", ".join(version.ref for version in versions) or "nothing"
    print_result(as_json, [version_facts(version) for version in versions], lambda: f"archived {text}")


@click.command()
@click.argument("ref", metavar="MODEL[@VERSION]")
@click.option("--to", "environment", metavar="ENVIRONMENT", required=True, help="Such as production.")
@_evidence
@_reason
@_by
@registry_option
@json_option
def deploy(
    ref: str,
    environment: str,
    evidence: str | None,
    reason: str | None,
    by: str | None,
    root: str,
    as_json: bool,
) -> None:
    r"""Make a version live in an environment.

    The exit status is 1 if the environment does not accept it.

    \b
    Examples:
      dspy-nb deploy sentiment@1.1.0 --to production --reason "beats 1.0.0 by 6 points"
    """
    where, proof = open_registry(root).environment(environment), _read_evidence(evidence)
    _print_deployment(as_json, environment, where.deploy(ref, by=by, reason=reason, evidence=proof))


@click.command()
@click.argument("environment", metavar="ENVIRONMENT")
@click.option(
    "--steps", metavar="N", type=int, default=1, show_default=True, help="Deployments to take back."
)
@_reason
@_by
@registry_option
@json_option
def rollback(
    environment: str, steps: int, reason: str | None, by: str | None, root: str, as_json: bool
) -> None:
    r"""Make live again what was live before.

    Doing it again goes further back.
    The exit status is 1 if there is nothing to go back to.

    \b
    Examples:
      dspy-nb rollback production --reason "complaints about long answers"
    """
    where = open_registry(root).environment(environment)
    _print_deployment(as_json, environment, where.rollback(by=by, reason=reason, steps=steps))


@click.command()
@click.argument("model_id", metavar="[MODEL]", required=False)
@click.option("--environment", metavar="NAME", help="What was live there, instead of a model's history.")
@registry_option
@json_option
def history(model_id: str | None, environment: str | None, root: str, as_json: bool) -> None:
    r"""Show the history of a model or of an environment.

    \b
    Examples:
      dspy-nb history sentiment
      dspy-nb history --environment production --json
    """
    from dspy_nb.views.listings import Listing

    registry = open_registry(root)
    if (model_id is None) == (environment is None):
        raise nb.InputError("history: give either MODEL or --environment NAME")
    if environment is not None:
        lines = registry.environment(environment).history()
        print_result(as_json, [_facts(line) for line in lines], Listing(lines, environment).report)
    elif model_id is not None:
        entries = registry.history(model_id)
        print_result(as_json, [asdict(item) for item in entries], Listing(entries, model_id).report)


@click.command()
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@click.option(
    "--input",
    "inputs",
    multiple=True,
    metavar="FIELD=VALUE",
    help="Of an input field, to compare the rendered prompts as well; repeatable.",
)
@click.option("--predictor", metavar="PATH", help="Whose prompt, where the programs have several predictors.")
@registry_option
@json_option
def diff(a: str, b: str, inputs: tuple[str, ...], predictor: str | None, root: str, as_json: bool) -> None:
    r"""Show what changed from version A to version B.

    Instructions, demos, fields, options and scores are compared, with --input the exact prompts too.

    \b
    Examples:
      dspy-nb diff sentiment@1.0.0 sentiment@1.1.0
      dspy-nb diff sentiment@production sentiment --input review="Nice and quick."
    """
    from dspy_nb.cli import parsing

    registry = open_registry(root)
    values = parsing.parse_options(inputs, as_text=_text_inputs(registry.get(a))) if inputs else None
    found = registry.diff(a, b, inputs=values, predictor=predictor)
    print_result(as_json, asdict(found), found.report)


def _text_inputs(version: nb.ModelVersion) -> set[str]:
    """Return the input fields of a version that are text."""
    predictors = version.metadata["signature"]["predictors"]
    return {field["name"] for item in predictors for field in item["fields"] if field["type"] == "str"}


def _facts(deployment: nb.Deployment) -> dict[str, Any]:
    return {"ref": deployment.ref, **asdict(deployment)}


def _note(advice: str | None) -> None:
    if advice is not None:
        echo(f"Note: {advice}", err=True)


def _print_deployment(as_json: bool, environment: str, made: nb.Deployment) -> None:
    from dspy_nb.views.listings import advice_on_deployment

    _note(advice_on_deployment(made))
    instead = f", instead of {made.replaced}" if made.replaced else ""
    print_result(as_json, _facts(made), lambda: f"{made.ref} is live in {environment}{instead}")


def _read_evidence(file: str | None) -> Mapping[str, Any] | None:
    """Return evidence from a file of JSON, such as ``--json`` of a gate prints."""
    if file is None:
        return None
    from dspy_nb.core.storage.files import parse_json, read_file

    try:
        found = parse_json(read_file(Path(file)), file)
    except (OSError, nb.Corrupt) as error:
        raise nb.InputError(f"--evidence {file}: {getattr(error, 'strerror', None) or error}") from None
    if not isinstance(found, dict):
        raise nb.InputError(f"--evidence {file}: the file must hold one JSON object")
    return found
