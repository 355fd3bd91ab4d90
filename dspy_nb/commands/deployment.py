"""Commands that decide: promote, archive, deploy, roll back."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import dspy_nb as nb
from dspy_nb.commands import common
from dspy_nb.commands.common import open_registry, version_facts
from dspy_nb.commands.declaration import argument, command, option
from dspy_nb.commands.surface import Outcome, Surface


@command("promote", magic="dspy_promote")
@common.version_argument
@option("--to stage", "Such as staging or production.", common.STAGES, required=True)
@common.evidence
@common.dry_run
@option("--force", "Override the rules; needs --reason, and the history shows it.", bool)
@common.reason
@common.by
@common.registry
def promote(
    here: Surface, ref: str, stage: str, evidence: str | None, dry_run: bool, root: str, **decision: Any
) -> Outcome:
    r"""Move a version to another stage.

    The exit status is 1 if a rule says no, such as evidence that is missing; --dry-run tells beforehand which ones
    are met, and by what.

    \b
    Examples:
      dspy-nb promote sentiment@1.1.0 --to staging
      dspy-nb gate report.json --min-score 0.85 --json > gate.json
      dspy-nb promote sentiment@1.1.0 --to production --evidence gate.json
      dspy-nb promote sentiment@1.1.0 --to production --dry-run
      %dspy_promote sentiment@1.1.0 --to production --evidence _dspy_evaluation
    """
    from dspy_nb.views.listings import advice_on_promotion

    registry, proof = open_registry(root), None if evidence is None else here.evidence(evidence)
    if dry_run:
        found = registry.requirements(ref, stage, evidence=proof)
        version = registry.get(ref)
        return _requirements(found, version, f"to promote {version.ref} to {stage}")
    version = registry.promote(ref, stage, evidence=proof, **decision)
    with contextlib.suppress(nb.RegistryError):  # it is done, whatever the disk says now
        if advice := advice_on_promotion(registry.history(version.model_id)):
            here.say(f"Note: {advice}")
    return Outcome(version, version_facts(version), f"{version.ref} is in {version.stage}")


@command("archive")
@common.version_argument
@option("--keep-latest", "With MODEL alone: archive all but the latest N.", int)
@common.reason
@common.by
@common.registry
def archive(here: Surface, ref: str, root: str, **decision: Any) -> Outcome:
    r"""Archive a version, or the old ones of a model.

    What is in production, or live in an environment, is never archived. Neither is what a roll-back would return
    to, unless it is named itself, with a warning.

    \b
    Examples:
      dspy-nb archive sentiment@1.0.0
      dspy-nb archive sentiment --keep-latest 3
    """
    versions = open_registry(root).archive(ref, **decision)
    text = ", ".join(version.ref for version in versions) or "nothing"
    return Outcome(versions, [version_facts(version) for version in versions], f"archived {text}")


@command("deploy", magic="dspy_deploy")
@common.version_argument
@option("--to environment", "Such as production.", common.ENVIRONMENTS, metavar="ENVIRONMENT", required=True)
@common.create
@common.evidence
@common.dry_run
@common.reason
@common.by
@common.registry
def deploy(
    here: Surface,
    ref: str,
    environment: str,
    create: bool,
    evidence: str | None,
    dry_run: bool,
    root: str,
    **decision: Any,
) -> Outcome:
    r"""Make a version live in an environment.

    There is development, staging and production; another one is made with --create. The exit status is 1 if the
    environment does not accept the version; --dry-run tells beforehand what it requires.

    \b
    Examples:
      dspy-nb deploy sentiment@1.1.0 --to production --reason "beats 1.0.0 by 6 points"
      dspy-nb deploy sentiment@1.1.0 --to beta --create
      %dspy_deploy sentiment@production --to production
    """
    registry = open_registry(root)
    where = registry.environment(environment, create=create)
    if dry_run:
        version = registry.get(ref)
        return _requirements(where.requirements(ref), version, f"to deploy {version.ref} to {environment}")
    proof = None if evidence is None else here.evidence(evidence)
    return _outcome(here, environment, where.deploy(ref, evidence=proof, **decision))


@command("rollback", magic="dspy_rollback")
@argument("environment", common.ENVIRONMENTS, "ENVIRONMENT")
@option("--steps", "Deployments to take back.", int, default=1)
@common.reason
@common.by
@common.registry
def rollback(here: Surface, environment: str, root: str, **decision: Any) -> Outcome:
    r"""Make live again what was live before.

    Doing it again goes further back.
    The exit status is 1 if there is nothing to go back to.

    \b
    Examples:
      dspy-nb rollback production --reason "complaints about long answers"
      %dspy_rollback production
    """
    where = open_registry(root).environment(environment)
    return _outcome(here, environment, where.rollback(**decision))


def _requirements(found: Sequence[nb.Requirement], version: nb.ModelVersion, what: str) -> Outcome:
    """Return what a decision requires; nothing was done."""
    from dspy_nb.views.listings import Listing

    possible = all(one.met for one in found)
    title = f"What it takes {what}: {'all is met' if possible else 'not all is met'}"
    data = {
        "ref": version.ref,
        "possible": possible,
        "requirements": [one.to_dict() for one in found],
    }
    return Outcome(Listing(found, title), data, status=int(not possible))


def _outcome(here: Surface, environment: str, made: nb.Deployment) -> Outcome:
    from dspy_nb.views.listings import advice_on_deployment

    if advice := advice_on_deployment(made):
        here.say(f"Note: {advice}")
    instead = f", instead of {made.replaced}" if made.replaced else ""
    data: dict[str, Any] = {"ref": made.ref, **made.to_dict()}
    return Outcome(made, data, f"{made.ref} is live in {environment}{instead}")
