"""The life of a model's versions: the legal transitions of stages, and the fold of the model's log."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from dspy_nb.core.doors import Shown
from dspy_nb.core.errors import Corrupt, InputError
from dspy_nb.core.models.names import STAGES, SortKey, check_version, rank, sort_key
from dspy_nb.core.storage.log import Entry

if TYPE_CHECKING:
    from dspy_nb.core.models.version import ModelVersion

__all__ = ["TRANSITIONS", "VERSION_FILES", "HistoryEntry", "ModelState", "Record", "is_summary"]

TRANSITIONS: Final[Mapping[str, tuple[str, ...]]] = {
    "development": ("staging", "deprecated", "archived"),
    "staging": ("production", "development", "deprecated", "archived"),
    "production": ("deprecated",),
    "deprecated": ("production", "staging", "archived"),
    "archived": ("development",),
}
"""Stage -> the stages that may follow it. From deprecated back to production is a roll-back."""

VERSION_FILES: Final = ("model.json", "metadata.json", "README.md", "evaluation.json")
"""What a version folder may hold; only evaluation.json may be missing."""


_SUMMARY_KEYS: Final = {
    "score",
    "interval",
    "score_kind",
    "optimizer",
    "base_model",
    "created_at",
    "parent",
}


@dataclass(slots=True)
class Record:
    """What the log says about one version.

    Attributes:
        version: Its number.
        files: File name -> (sha256 in hex, size in bytes).
        summary: What a list shows: score, interval, score_kind, optimizer, base_model, created_at, parent.
        stage: Its stage now.
        evidence: Everything that was recorded about it, oldest first.
        version_made: What the registry hands out for it, until the record changes.
    """

    version: str
    files: Mapping[str, tuple[str, int]]
    summary: Mapping[str, Any]
    stage: str = "development"
    evidence: list[Mapping[str, Any]] = field(default_factory=list)
    version_made: ModelVersion | None = None


@dataclass(frozen=True, slots=True)
class HistoryEntry(Shown):
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
        alive: Those that are not archived, as (rank, version): all releases come after all prereleases.
        production: The version in production, if any.
        staged: The versions in staging, the one promoted last at the end (a dict for its order).
        history: One line per entry.
    """

    def __init__(self) -> None:
        self.records: dict[str, Record] = {}
        self.ordered: list[tuple[SortKey, str]] = []
        self.alive: list[tuple[tuple[bool, SortKey], str]] = []
        self.production: str | None = None
        self.staged: dict[str, None] = {}
        self.history: list[HistoryEntry] = []
        self._lowered: set[str] = set()

    def taken(self, version: str) -> bool:
        """Return whether the name is taken, also in another case (1.0.0-RC.1 is 1.0.0-rc.1 on some disks)."""
        return version.lower() in self._lowered

    @property
    def latest(self) -> str | None:
        """The highest release that is not archived, else the highest such prerelease, else None."""
        return self.alive[-1][1] if self.alive else None

    def between(self, low: tuple[int, int, int], high: tuple[int, int, int]) -> Iterator[str]:
        """Yield the versions of ``low`` <= version < ``high``, highest first."""
        start, stop = (bisect_left(self.ordered, ((*bound, False, ()), "")) for bound in (low, high))
        return (self.ordered[index][1] for index in range(stop - 1, start - 1, -1))

    def check(self, entry: Entry) -> None:
        """Raise Corrupt if ``entry`` is malformed or cannot follow."""
        if entry.action not in _CHECKS:
            raise _corrupt(entry, f"the action {entry.action!r:.40} is not known")
        check, keys = _CHECKS[entry.action]
        if set(entry.body) != keys:
            raise _corrupt(
                entry, f"it holds {', '.join(sorted(entry.body)):.80} instead of {', '.join(sorted(keys))}"
            )
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
            self._take_evidence(self.records[subjects[0]], evidence)
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
        insort(self.alive, (rank(version), version))
        self._lowered.add(version.lower())

    def _take_evidence(self, record: Record, evidence: Mapping[str, Any]) -> None:
        """Keep the evidence; a later evaluation replaces the score that the version came with."""
        record.evidence.append(evidence)
        if evidence.get("kind") == "evaluation" and evidence.get("score") is not None:
            measured = {"score": evidence["score"], "interval": evidence.get("interval")}
            summary = {**record.summary, **measured, "score_kind": "evaluation"}
            if is_summary(summary):
                record.summary = summary
        record.version_made = None

    def _move(self, version: str, stage: str) -> None:
        record = self.records[version]
        if record.stage == "staging":
            del self.staged[version]
        elif record.stage == "archived":
            insort(self.alive, (rank(version), version))
        if self.production == version:
            self.production = None
        record.stage = stage
        record.version_made = None
        if stage == "staging":
            self.staged[version] = None
        elif stage == "archived":
            del self.alive[bisect_left(self.alive, (rank(version), version))]
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
    if not isinstance(summary, dict) or not is_summary(summary):
        raise _corrupt(entry, "its summary is not as it should be")
    _check_common(entry)


def is_summary(summary: Mapping[str, Any]) -> bool:
    """Return whether a summary has all its keys, each of the right type."""
    interval = summary.get("interval")
    numbers = [summary.get("score"), *(interval if isinstance(interval, list) else [])]
    texts = [summary.get(key) for key in ("score_kind", "optimizer", "parent", "base_model")]
    return (
        set(summary) == _SUMMARY_KEYS
        and all(number is None or (type(number) in (int, float) and abs(number) < 1e15) for number in numbers)
        and (interval is None or (isinstance(interval, list) and len(interval) == 2 and None not in interval))
        and all(isinstance(text, str | None) for text in texts)
        and isinstance(summary.get("created_at"), str)
    )


def _check_promote(state: ModelState, entry: Entry) -> None:
    record = _record(state, entry, entry.body.get("version"))
    stage, demoted = entry.body.get("to"), entry.body.get("demoted")
    if stage not in STAGES or stage == record.stage or entry.body["from"] != record.stage:
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


_CHECKS: Final[Mapping[str, tuple[Callable[[ModelState, Entry], None], set[str]]]] = {
    "register": (_check_register, {"version", "files", "summary", "reason"}),
    "promote": (_check_promote, {"version", "from", "to", "demoted", "evidence", "forced", "reason"}),
    "archive": (_check_archive, {"versions", "reason"}),
    "attach": (_check_attach, {"version", "evidence", "reason"}),
}


def _record(state: ModelState, entry: Entry, version: object) -> Record:
    record = state.records.get(version) if isinstance(version, str) else None
    if record is None:
        raise _corrupt(entry, f"it names the version {version!r}, which was not registered before")
    return record


def _corrupt(entry: Entry, why: str) -> Corrupt:
    return Corrupt(f"log entry {entry.number} cannot be right: {why}: restore the log from git or a backup")
