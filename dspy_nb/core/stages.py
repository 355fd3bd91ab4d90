"""The life of a model's versions: the fold of its log, the legal transitions, what a promotion requires."""

from __future__ import annotations

import tomllib
from bisect import bisect_left, insort
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from dspy_nb.core.durable import explained
from dspy_nb.core.errors import Corrupt, InputError, Refused
from dspy_nb.core.log import Entry
from dspy_nb.core.versions import STAGES, SortKey, check_version, sort_key

__all__ = [
    "DEFAULT_REQUIREMENTS",
    "TRANSITIONS",
    "VERSION_FILES",
    "HistoryEntry",
    "ModelState",
    "Record",
    "check_promotion",
    "evidence_dict",
    "load_requirements",
]

TRANSITIONS: Final[Mapping[str, tuple[str, ...]]] = {
    "development": ("staging", "deprecated", "archived"),
    "staging": ("production", "development", "deprecated", "archived"),
    "production": ("deprecated",),
    "deprecated": ("production", "staging", "archived"),
    "archived": ("development",),
}
"""Stage -> the stages that may follow it. From deprecated back to production is a roll-back."""

DEFAULT_REQUIREMENTS: Final[Mapping[str, tuple[str, ...]]] = {"production": ("evaluation", "verdict")}
"""Target stage -> what a promotion to it requires, unless ``registry/config.toml`` says otherwise."""

VERSION_FILES: Final = ("model.json", "metadata.json", "README.md", "evaluation.json")
"""What a version folder may hold; only evaluation.json may be missing."""

_VERDICTS: Final = ("gate", "ab")
_REQUIREMENTS: Final = ("evaluation", "verdict", *_VERDICTS)


@dataclass(slots=True)
class Record:
    """What the log says about one version; ``files`` maps a name to its sha256 and its size in bytes."""

    version: str
    files: Mapping[str, tuple[str, int]]
    summary: Mapping[str, Any]
    stage: str = "development"
    evidence: list[Mapping[str, Any]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """One line of a model's history.

    Attributes:
        number: Number of the log entry: 1, 2, 3, ... without a gap.
        action: ``register``, ``promote``, ``archive`` or ``attach``.
        version: The version; None for an ``archive`` of several.
        versions: Every version whose stage changed, or that the entry is about.
        from_stage: The stage before; None for ``register`` and ``attach``, or where several differ.
        to_stage: The stage after; None for ``attach``.
        demoted: The version that left production because this one entered it.
        by: Who.
        at: When, ISO 8601 in UTC.
        reason: Why, as given.
        evidence: What the decision rested on.
        forced: Whether a rule was overridden.
    """

    number: int
    action: str
    version: str | None
    versions: tuple[str, ...]
    from_stage: str | None
    to_stage: str | None
    demoted: str | None
    by: str
    at: str
    reason: str | None
    evidence: Mapping[str, Any] | None
    forced: bool


class ModelState:
    """What a model's log folds into.

    Attributes:
        records: Version -> its record.
        ordered: The versions in semver order, lowest first, as (sort key, version).
        production: The version in production, if any.
        staged: The versions in staging, the one promoted last at the end.
        history: One line per entry.
    """

    def __init__(self) -> None:
        self.records: dict[str, Record] = {}
        self.ordered: list[tuple[SortKey, str]] = []
        self.production: str | None = None
        self.staged: list[str] = []
        self.history: list[HistoryEntry] = []
        self._lowered: set[str] = set()

    def taken(self, version: str) -> bool:
        """Return whether the name is taken, also in another case (1.0.0-RC.1 is 1.0.0-rc.1 on some disks)."""
        return version.lower() in self._lowered

    def between(self, low: tuple[int, int, int], high: tuple[int, int, int]) -> list[str]:
        """Return the versions of ``low`` <= version < ``high``, lowest first, without sorting them all."""
        start, stop = (bisect_left(self.ordered, ((*bound, False, ()), "")) for bound in (low, high))
        return [version for _, version in self.ordered[start:stop]]

    def check(self, entry: Entry) -> None:
        """Raise Corrupt if ``entry`` is malformed or cannot follow."""
        try:
            check = _CHECKS[entry.action]
        except KeyError:
            raise _corrupt(entry, f"the action {entry.action!r} is not known") from None
        check(self, entry)

    def apply(self, entry: Entry) -> None:
        """Take in an entry that has passed ``check``."""
        body = entry.body
        subjects: tuple[str, ...] = tuple(body.get("versions") or [body["version"]])
        stages_before = {self.records[item].stage for item in subjects if item in self.records}
        to_stage = {"register": "development", "promote": body.get("to"), "archive": "archived"}.get(
            entry.action
        )
        demoted = body.get("demoted")
        evidence = body.get("evidence")
        if entry.action == "register":
            self._add(subjects[0], body)
        elif to_stage is not None:
            for version in subjects:
                self._move(version, to_stage)
            if demoted is not None:
                self._move(demoted, "deprecated")
                self.production = subjects[0]
        if evidence is not None:
            self.records[subjects[0]].evidence.append(evidence)
        self.history.append(
            HistoryEntry(
                number=entry.number,
                action=entry.action,
                version=subjects[0] if len(subjects) == 1 else None,
                versions=subjects if demoted is None else (*subjects, demoted),
                from_stage=stages_before.pop() if to_stage and len(stages_before) == 1 else None,
                to_stage=to_stage,
                demoted=demoted,
                by=entry.by,
                at=entry.at,
                reason=body.get("reason"),
                evidence=evidence,
                forced=body.get("forced", False),
            )
        )

    def _add(self, version: str, body: Mapping[str, Any]) -> None:
        files = {name: (info["sha256"], info["size"]) for name, info in body["files"].items()}
        self.records[version] = Record(version, files, body["summary"])
        insort(self.ordered, (sort_key(version), version))
        self._lowered.add(version.lower())

    def _move(self, version: str, stage: str) -> None:
        if self.records[version].stage == "staging":
            self.staged.remove(version)
        if self.production == version:
            self.production = None
        self.records[version].stage = stage
        if stage == "staging":
            self.staged.append(version)
        elif stage == "production":
            self.production = version


def _check_register(state: ModelState, entry: Entry) -> None:
    body = entry.body
    version = body.get("version")
    try:
        check_version(version)
    except InputError as error:
        raise _corrupt(entry, str(error)) from error
    if state.taken(str(version)):
        raise _corrupt(entry, f"it registers {version} a second time")
    files = body.get("files")
    if not isinstance(files, dict) or not {"model.json", "metadata.json", "README.md"} <= set(files):
        raise _corrupt(entry, "its list of files is not complete")
    for name, info in files.items():
        if (
            name not in VERSION_FILES
            or not isinstance(info, dict)
            or not isinstance(info.get("sha256"), str)
            or type(info.get("size")) is not int
        ):
            raise _corrupt(entry, f"the file {name!r} is not described as it should be")
    summary = body.get("summary")
    if not isinstance(summary, dict) or not _is_summary(summary):
        raise _corrupt(entry, "its summary is not as it should be")
    _check_common(entry)


def _is_summary(summary: Mapping[str, Any]) -> bool:
    interval = summary.get("interval")
    numbers = [summary.get("score"), *(interval if isinstance(interval, list) else [])]
    texts = [summary.get(key) for key in ("score_kind", "optimizer", "parent", "base_model")]
    return (
        all(number is None or (type(number) in (int, float) and abs(number) < 1e15) for number in numbers)
        and (interval is None or (isinstance(interval, list) and len(interval) == 2 and None not in interval))
        and all(isinstance(text, str | None) for text in texts)
        and isinstance(summary.get("created_at"), str)
    )


def _check_promote(state: ModelState, entry: Entry) -> None:
    record = _record(state, entry, entry.body.get("version"))
    stage, demoted = entry.body.get("to"), entry.body.get("demoted")
    if stage not in STAGES or stage == record.stage:
        raise _corrupt(entry, f"it promotes {record.version} from {record.stage} to {stage!r}")
    if demoted != (state.production if stage == "production" else None):
        raise _corrupt(entry, f"it demotes {demoted}, but {state.production} is in production")
    _check_common(entry)


def _check_archive(state: ModelState, entry: Entry) -> None:
    versions = entry.body.get("versions")
    if not isinstance(versions, list) or not versions:
        raise _corrupt(entry, "it archives nothing")
    for version in versions:
        if _record(state, entry, version).stage in ("production", "archived"):
            raise _corrupt(entry, f"it archives {version}, which is in {state.records[version].stage}")
    if len(set(versions)) < len(versions):
        raise _corrupt(entry, "it archives a version twice")
    _check_common(entry)


def _check_attach(state: ModelState, entry: Entry) -> None:
    _record(state, entry, entry.body.get("version"))
    if not isinstance(entry.body.get("evidence"), dict):
        raise _corrupt(entry, "it attaches nothing")
    _check_common(entry)


def _check_common(entry: Entry) -> None:
    body = entry.body
    if (
        not isinstance(body.get("reason"), str | None)
        or not isinstance(body.get("evidence"), dict | None)
        or not isinstance(body.get("forced", False), bool)
    ):
        raise _corrupt(entry, "reason, evidence or forced is of the wrong type")


_CHECKS: Final[Mapping[str, Callable[[ModelState, Entry], None]]] = {
    "register": _check_register,
    "promote": _check_promote,
    "archive": _check_archive,
    "attach": _check_attach,
}


def _record(state: ModelState, entry: Entry, version: object) -> Record:
    record = state.records.get(version) if isinstance(version, str) else None
    if record is None:
        raise _corrupt(entry, f"it names the version {version!r}, which was not registered before")
    return record


def _corrupt(entry: Entry, why: str) -> Corrupt:
    return Corrupt(f"log entry {entry.number} cannot be right: {why}: restore the log from git or a backup")


def evidence_dict(evidence: object) -> dict[str, Any]:
    """Return evidence as the dict that the log stores.

    Args:
        evidence: A dict, or an object with ``to_evidence() -> dict``, with ``kind`` (``gate``, ``ab`` or
            ``evaluation``) and where known passed or verdict, n, interval, data_fingerprint, metric, score.

    Raises:
        InputError: It is neither, or its kind is not known.
    """
    convert = getattr(evidence, "to_evidence", None)
    values = convert() if callable(convert) else evidence
    if not isinstance(values, Mapping) or values.get("kind") not in ("gate", "ab", "evaluation"):
        raise InputError(
            "evidence is not valid: give a gate result, a comparison, an evaluation, or a dict with "
            "kind = 'gate', 'ab' or 'evaluation'"
        )
    return dict(values)


def check_promotion(
    record: Record, stage: str, requirements: Sequence[str], evidence: Mapping[str, Any] | None
) -> None:
    """Check the order of stages and the evidence that ``stage`` requires.

    Evidence given now counts first, then what was attached or recorded earlier. The latest verdict decides:
    a gate that failed after one that passed is a no.

    Raises:
        Refused: The transition is not legal, or evidence is missing; the message says what to do.
    """
    if stage not in TRANSITIONS[record.stage]:
        raise Refused(
            f"{record.version} cannot go from {record.stage} to {stage}: from {record.stage} it may go to "
            f"{' or '.join(TRANSITIONS[record.stage])} (force=True with a reason overrides)"
        )
    known = [*record.evidence, *([evidence] if evidence else [])]
    for requirement in requirements:
        if requirement == "evaluation":
            if "evaluation.json" not in record.files and not any(map(_is_evaluation, known)):
                raise Refused(
                    f"{stage} needs an evaluation of {record.version}: attach(ref, evaluation) first, "
                    "or register the version with one"
                )
            continue
        kinds = _VERDICTS if requirement == "verdict" else (requirement,)
        verdicts = [item for item in known if item.get("kind") in kinds]
        wanted = (
            "a passed gate or A/B verdict" if requirement == "verdict" else f"a passed {requirement} verdict"
        )
        if not verdicts:
            raise Refused(f"{stage} needs {wanted} for {record.version}: give evidence=, or attach it first")
        if not _passed(verdicts[-1]):
            raise Refused(
                f"{stage} needs {wanted} for {record.version}: the latest {verdicts[-1]['kind']} said no"
            )


def _is_evaluation(evidence: Mapping[str, Any]) -> bool:
    """A verdict that carries what an evaluation measured is as good as the evaluation."""
    return evidence.get("kind") == "evaluation" or all(
        evidence.get(key) is not None for key in ("n", "interval", "data_fingerprint")
    )


def _passed(evidence: Mapping[str, Any]) -> bool:
    """In an A/B comparison the candidate is B."""
    return evidence.get("passed") is True or (
        "passed" not in evidence and evidence.get("verdict") == "B better"
    )


def load_requirements(config: Path) -> dict[str, tuple[str, ...]]:
    """Read what promotions require from ``registry/config.toml``; its absence means the defaults.

    The file says, per target stage, ``[promotion.production]`` and ``require = ["evaluation", "verdict"]``;
    allowed are evaluation, verdict (a gate or an A/B comparison), gate, ab. Other tables are left alone.

    Raises:
        InputError: It is no TOML, or names a stage or requirement that does not exist.
        RegistryError: It cannot be read.
    """
    requirements = dict(DEFAULT_REQUIREMENTS)
    with explained(f"read {config}"):
        try:
            text = config.read_text("utf-8")
        except FileNotFoundError:
            return requirements
        except UnicodeDecodeError as error:
            raise InputError(f"{config} is not UTF-8 text") from error
    try:
        promotion = tomllib.loads(text).get("promotion", {})
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise InputError(f"{config} is not valid TOML: {error}") from error
    if not isinstance(promotion, dict):
        raise InputError(f"{config}: promotion is not a table")
    for stage, table in promotion.items():
        if stage not in STAGES:
            raise InputError(f"{config}: promotion.{stage} is not a stage: use one of {', '.join(STAGES)}")
        wanted = table.get("require") if isinstance(table, dict) and set(table) == {"require"} else None
        if not isinstance(wanted, list) or not all(item in _REQUIREMENTS for item in wanted):
            raise InputError(
                f"{config}: promotion.{stage} must be 'require = [...]' of {', '.join(_REQUIREMENTS)}"
            )
        requirements[stage] = tuple(wanted)
    return requirements
