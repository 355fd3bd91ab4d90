"""What a promotion requires and what it writes: the rules, as functions of the state of a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from dspy_nb.core.errors import InputError, NotFound, Refused
from dspy_nb.core.evidence import KINDS, Evidence, write_evidence
from dspy_nb.core.models.names import STAGES, Reference, matches
from dspy_nb.core.models.stages import TRANSITIONS, ModelState, Record
from dspy_nb.core.storage.config import read_tables
from dspy_nb.core.storage.shapes import fit

DEFAULT_REQUIREMENTS: Final[Mapping[str, tuple[str, ...]]] = {"production": ("evaluation", "verdict")}
"""Target stage -> what a promotion to it requires, unless ``registry/config.toml`` says otherwise."""


def decide_promotion(
    state: ModelState,
    reference: Reference,
    stage: str,
    *,
    requirements: Sequence[str],
    evidence: Evidence | None,
    force: bool,
    reason: str | None,
) -> dict[str, Any]:
    """Return the body of the log entry that promotes a version.

    Raises:
        NotFound: There is no such version.
        Refused: A rule says no.
    """
    record = find_record(reference, state)
    ref = f"{reference.model_id}@{record.version}"
    if record.stage == stage:
        raise Refused(f"{ref} is in {stage} already")
    if not force:
        _check_transition(record, ref, stage)
        _check_evidence(record, ref, stage, requirements, evidence)
    return {
        "version": record.version,
        "from": record.stage,
        "to": stage,
        "demoted": state.production if stage == "production" else None,
        "evidence": write_evidence(evidence),
        "forced": force,
        "reason": reason,
    }


def decide_archive(
    state: ModelState,
    reference: Reference,
    keep_latest: int | None,
    staging: bool,
    reason: str | None,
    live: Mapping[str, str],
    next_live: Mapping[str, str],
) -> dict[str, Any] | None:
    """Return the body of the log entry that archives versions, None if there is nothing to archive.

    Args:
        state: The model.
        reference: One version, or with ``keep_latest`` the model.
        keep_latest: How many versions to keep, counted from the latest one.
        staging: Whether versions in staging may be archived too.
        reason: Why.
        live: Reference of each version that is served -> the environment that does.
        next_live: Reference of each version that a roll-back would make live -> the environment.

    Raises:
        NotFound: There is no such version.
        Refused: The version that was named is in production, or live.
    """
    model_id = reference.model_id
    if keep_latest is None:
        record = find_record(reference, state)
        ref = f"{model_id}@{record.version}"
        _check_transition(record, ref, "archived")
        if ref in live:
            raise Refused(f"{ref} is live in {live[ref]}: deploy another version there before it is archived")
        return {"versions": [record.version], "reason": reason}
    newest_first = [version for _, version in reversed(state.alive)]
    spared = ("production",) if staging else ("production", "staging")
    chosen = [
        version
        for version in newest_first[keep_latest:]
        if state.records[version].stage not in spared and f"{model_id}@{version}" not in {*live, *next_live}
    ]
    return {"versions": chosen, "reason": reason} if chosen else None


def _check_transition(record: Record, ref: str, stage: str) -> None:
    legal = TRANSITIONS[record.stage]
    if stage not in legal:
        raise Refused(f"{ref} cannot go from {record.stage} to {stage}, but to {' or '.join(legal)}")


def _check_evidence(
    record: Record, ref: str, stage: str, requirements: Sequence[str], evidence: Evidence | None
) -> None:
    """Check what ``stage`` requires against the evidence given now and all that was recorded earlier.

    The latest verdict decides: a gate that failed after one that passed is a no.
    """
    known = [*record.evidence, *([evidence] if evidence else [])]
    for requirement in requirements:
        if requirement == "evaluation":
            if "evaluation.json" not in record.files and not any(item.is_evaluation for item in known):
                raise Refused(f"{stage} needs an evaluation of {ref}: attach(ref, evaluation) first")
            continue
        wanted = "gate or A/B verdict" if requirement == "verdict" else f"{requirement} verdict"
        verdicts = [item for item in known if requirement in item.answers]
        if not verdicts or not verdicts[-1].is_yes:
            what = f"{stage} needs a passed {wanted} for {ref}"
            no = f"the latest {verdicts[-1].kind} said no" if verdicts else None
            raise Refused(f"{what}: {no or 'give it as evidence=, or attach it first'}")


def load_requirements(config: Path) -> dict[str, tuple[str, ...]]:
    """Read what promotions require from ``registry/config.toml``; its absence means the defaults.

    The file says, per target stage, ``[promotion.production]`` and ``require = ["evaluation", "verdict"]``;
    allowed is what a kind of evidence answers: evaluation, verdict (a gate or an A/B comparison), gate, ab. Other
    tables are left alone.

    Raises:
        InputError: It is no TOML, or names a stage or requirement that does not exist.
        RegistryError: It cannot be read.
    """
    return {**DEFAULT_REQUIREMENTS, **read_tables(config, "promotion", _check_stage, _read_requirements)}


def _read_requirements(table: object, where: str) -> tuple[str, ...]:
    answers = tuple(dict.fromkeys(answer for kind in KINDS.values() for answer in kind.answers))
    shape: Any = msgspec.defstruct(  # here: most registries have no such table, and each promotion asks
        "Promotion",
        [("require", tuple[Literal[answers], ...])],  # type: ignore[valid-type]
        forbid_unknown_fields=True,
    )
    return tuple(fit(table, shape, where).require)


def _check_stage(stage: str) -> None:
    if stage not in STAGES:
        raise InputError(f"promotion.{stage} is not a stage: use one of {', '.join(STAGES)}")


# -- references -------------------------------------------------------------------------------------------------


def find_record(reference: Reference, state: ModelState) -> Record:
    """Return the record that ``reference`` means now.

    Archived versions answer to their exact number only.

    Raises:
        NotFound: There is none; the message names the newest versions.
    """
    if reference.version is not None:
        version = reference.version if reference.version in state.records else None
    elif reference.bounds is not None:
        inside = state.between(*reference.bounds)
        usable = (item for item in inside if state.records[item].stage != "archived")
        version = next((item for item in usable if matches(reference.bounds, item)), None)
    elif reference.stage == "production":
        version = state.production
    elif reference.stage == "staging":
        version = next(reversed(state.staged), None)
    else:
        version = state.latest
    if version is None:
        newest = ", ".join(item for _, item in reversed(state.ordered[-5:]))
        raise NotFound(f"no version {reference.text!r}: the newest of {reference.model_id} are {newest}")
    return state.records[version]
