"""What a promotion requires and what it writes: the rules, as functions of the state of a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import msgspec

from dspy_nb.core.errors import InputError, NotFound
from dspy_nb.core.evidence import KINDS, Evidence, write_evidence
from dspy_nb.core.models.names import STAGES, Reference, matches
from dspy_nb.core.models.requirements import Requirement, require
from dspy_nb.core.models.stages import TRANSITIONS, ModelState, Record
from dspy_nb.core.storage.config import read_tables
from dspy_nb.core.storage.place import Place
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
    live: Mapping[str, str],
) -> dict[str, Any]:
    """Return the body of the log entry that promotes a version; arguments as for ``promotion_requirements``.

    Raises:
        NotFound: There is no such version.
        Refused: A rule says no.
    """
    record = find_record(reference, state)
    require(promotion_requirements(state, reference, stage, requirements, evidence, live), force=force)
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
        require(promotion_requirements(state, reference, "archived", (), None, live))
        return {"versions": [record.version], "reason": reason}
    newest_first = state.alive[::-1]
    spared = ("production",) if staging else ("production", "staging")
    chosen = [
        version
        for version in newest_first[keep_latest:]
        if state.records[version].stage not in spared and f"{model_id}@{version}" not in {*live, *next_live}
    ]
    return {"versions": chosen, "reason": reason} if chosen else None


def promotion_requirements(
    state: ModelState,
    reference: Reference,
    stage: str,
    requirements: Sequence[str],
    evidence: Evidence | None,
    live: Mapping[str, str],
) -> list[Requirement]:
    """Return what the promotion of a version to ``stage`` requires: what ``decide_promotion`` refuses it for.

    Args:
        state: The model.
        reference: The version.
        stage: Where to.
        requirements: What evidence the stage requires, as ``load_requirements`` says.
        evidence: What is given now, beside all that was recorded earlier.
        live: Reference of each version that is served -> an environment that does.

    Raises:
        NotFound: There is no such version.
    """
    record = find_record(reference, state)
    ref = f"{reference.model_id}@{record.version}"
    if record.stage == stage:
        there = f"{ref} is in {stage} already"
        return [Requirement("another stage", False, f"it is in {stage} already", there, can_be_forced=False)]
    legal = TRANSITIONS[record.stage]
    refusal = f"{ref} cannot go from {record.stage} to {stage}, but to {' or '.join(legal)}"
    order = stage in legal
    may = f"{record.stage} may be followed by {' or '.join(legal)}"
    found = [Requirement(f"a way from {record.stage} to {stage}", order, may, None if order else refusal)]
    if stage == "archived":
        where = live.get(ref)
        text = f"it is live in {where}" if where else "it is live nowhere"
        refusal = f"{ref} is live in {where}: deploy another version there before it is archived"
        found.append(Requirement("not live", where is None, text, refusal if where else None))
    known = [*record.evidence, *([evidence] if evidence else [])]
    return found + [_look_for(requirement, record, ref, stage, known) for requirement in requirements]


def _look_for(
    requirement: str, record: Record, ref: str, stage: str, known: Sequence[Evidence]
) -> Requirement:
    """Look for one kind of evidence; of verdicts the latest decides, also a no after a yes."""
    if requirement == "evaluation":
        measured = [item for item in known if item.is_evaluation]
        if measured:
            return Requirement("an evaluation", True, measured[-1].summary())
        if "evaluation.json" in record.files:
            return Requirement("an evaluation", True, "the one that is stored with the version")
        refusal = f"{stage} needs an evaluation of {ref}: attach(ref, evaluation) first"
        return Requirement("an evaluation", False, "there is none", refusal)
    wanted = "gate or A/B verdict" if requirement == "verdict" else f"{requirement} verdict"
    verdicts = [item for item in known if requirement in item.answers]
    if verdicts and verdicts[-1].is_yes:
        return Requirement(f"a passed {wanted}", True, verdicts[-1].summary())
    no = f"the latest {verdicts[-1].kind} said no" if verdicts else None
    refusal = f"{stage} needs a passed {wanted} for {ref}: {no or 'give it as evidence=, or attach it first'}"
    return Requirement(f"a passed {wanted}", False, no or "there is none", refusal)


def load_requirements(config: Place) -> dict[str, tuple[str, ...]]:
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
