"""The life of a model's versions: the legal transitions of stages, and the fold of the model's log."""

from __future__ import annotations

import contextlib
from bisect import bisect_left, insort
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeAlias

import msgspec

from dspy_nb.core.doors import Shown
from dspy_nb.core.errors import InputError
from dspy_nb.core.evidence import EvaluationEvidence, Evidence, read_evidence, write_evidence
from dspy_nb.core.models.names import SortKey, Stage, check_version, sort_key
from dspy_nb.core.storage.entry import Change, Entry, check_change
from dspy_nb.core.storage.shapes import fit

if TYPE_CHECKING:
    from dspy_nb.core.models.version import ModelVersion

TRANSITIONS: Final[Mapping[str, tuple[str, ...]]] = {
    "development": ("staging", "deprecated", "archived"),
    "staging": ("production", "development", "deprecated", "archived"),
    "production": ("deprecated",),
    "deprecated": ("production", "staging", "archived"),
    "archived": ("development",),
}
"""Stage -> the stages that may follow it. From deprecated back to production is a roll-back."""


@dataclass(slots=True)
class Record:
    """What the log says about one version.

    Attributes:
        version: Its number.
        files: File name -> (sha256 in hex, size in bytes).
        summary: What a list shows: score, interval, score_kind, optimizer, base_model, created_at, parent.
        stage: Its stage now.
        proofs: All evidence that was recorded about it, as the log holds it, oldest first.
        version_made: What the registry hands out for it, until the record changes.
    """

    version: str
    files: Mapping[str, tuple[str, int]]
    summary: Mapping[str, Any]
    stage: str = "development"
    proofs: list[Mapping[str, Any]] = field(default_factory=list)
    version_made: ModelVersion | None = None

    @property
    def evidence(self) -> list[Evidence]:
        """Everything that was recorded about it, oldest first."""
        return [*filter(None, map(read_evidence, self.proofs))]


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
    evidence: Evidence | None
    forced: bool

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON data."""
        return {**asdict(self), "evidence": write_evidence(self.evidence)}


_Line: TypeAlias = tuple[
    int, str, str | None, tuple[str, ...], str | None, str | None, str | None, str, str, str | None,
    Mapping[str, Any] | None, bool,
]  # fmt: skip
"""What a ``HistoryEntry`` is made of, with the evidence as the log holds it."""

_Record: TypeAlias = tuple[str, dict[str, tuple[str, int]], dict[str, Any], str, list[Mapping[str, Any]]]

_KEPT: Final = msgspec.msgpack.Decoder(tuple[list[_Record], str | None, list[str], msgspec.Raw])


class ModelState:
    """What a model's log folds into.

    What only some ask for is made when it is asked for: a log of thousands is folded for most of them in vain.

    Attributes:
        records: Version -> its record.
        production: The version in production, if any.
        staged: The versions in staging, the one promoted last at the end (a dict for its order).
    """

    def __init__(self) -> None:
        self.records: dict[str, Record] = {}
        self.production: str | None = None
        self.staged: dict[str, None] = {}
        self._lowered: set[str] = set()
        self._ordered: list[tuple[SortKey, str]] = []
        self._unordered: list[tuple[SortKey, str]] = []
        self._history: list[HistoryEntry] = []
        self._lines: list[_Line] = []  # of the history
        self._older: msgspec.Raw | None = None  # those before, as a snapshot holds them

    @property
    def ordered(self) -> list[tuple[SortKey, str]]:
        """The versions in semver order, lowest first, as (sort key, version)."""
        if len(self._unordered) == 1:
            insort(self._ordered, self._unordered[0])
        elif self._unordered:
            self._ordered += self._unordered
            self._ordered.sort()
        self._unordered.clear()
        return self._ordered

    @property
    def history(self) -> list[HistoryEntry]:
        """One line per entry."""
        for line in self._all_lines()[len(self._history) :]:
            self._history.append(HistoryEntry(*line[:10], read_evidence(line[10]), line[11]))
        return self._history

    def _all_lines(self) -> list[_Line]:
        if self._older is not None:
            self._lines[:0] = msgspec.msgpack.decode(self._older, type=list[_Line])
            self._older = None
        return self._lines

    def kept(self) -> object:
        """Return all of it as data."""
        records = [
            (one.version, one.files, one.summary, one.stage, one.proofs) for one in self.records.values()
        ]
        return records, self.production, [*self.staged], self._all_lines()

    def take_up(self, kept: msgspec.Raw) -> None:
        """Become the state that said what is kept."""
        records, self.production, staged, older = _KEPT.decode(kept)
        self.records = {record[0]: Record(*record) for record in records}
        self.staged = dict.fromkeys(staged)
        self._older = older.copy()
        self._lowered = {version.lower() for version in self.records}
        self._unordered = [(sort_key(version), version) for version in self.records]

    @property
    def alive(self) -> list[str]:
        """The versions that are not archived, lowest first: all releases come after all prereleases."""
        alive = [item for item in self.ordered if self.records[item[1]].stage != "archived"]
        return [version for released in (False, True) for key, version in alive if key[3] is released]

    @property
    def latest(self) -> str | None:
        """The highest release that is not archived, else the highest such prerelease, else None."""
        prerelease = None
        for key, version in reversed(self.ordered):
            if self.records[version].stage != "archived":
                if key[3]:
                    return version
                prerelease = prerelease or version
        return prerelease

    def is_taken(self, version: str) -> bool:
        """Return whether the name is taken, also in another case (1.0.0-RC.1 is 1.0.0-rc.1 on some disks)."""
        return version.lower() in self._lowered

    def between(self, low: tuple[int, int, int], high: tuple[int, int, int]) -> Iterator[str]:
        """Yield the versions of ``low`` <= version < ``high``, highest first."""
        start, stop = (bisect_left(self.ordered, ((*bound, False, ()), "")) for bound in (low, high))
        return (self.ordered[index][1] for index in range(stop - 1, start - 1, -1))

    def check(self, entry: Entry) -> None:
        """Raise Corrupt if ``entry`` is malformed or cannot follow."""
        check_change(entry, _CHANGES, self)

    def apply(self, entry: Entry) -> None:
        """Take in an entry that has passed ``check``."""
        body = entry.body
        subjects = _subjects(entry)
        stages_before = {self.records[item].stage for item in subjects if item in self.records}
        to_stage = body.get("to") or {"register": "development", "archive": "archived"}.get(entry.action)
        demoted = body.get("demoted")
        proof = body.get("evidence")
        if entry.action == "register":
            self._add(subjects[0], body)
        elif to_stage is not None:
            for version in subjects:
                self._move(version, to_stage)
            if demoted is not None:
                self._move(demoted, "deprecated")
                self.production = subjects[0]
        if proof is not None:
            self._take_evidence(self.records[subjects[0]], proof)
        self._lines.append(
            (
                entry.number,
                entry.action,
                subjects[0] if len(subjects) == 1 else None,
                subjects if demoted is None else (*subjects, demoted),
                stages_before.pop() if to_stage and len(stages_before) == 1 else None,
                to_stage,
                demoted,
                entry.by,
                entry.at,
                body.get("reason"),
                proof,
                body.get("forced", False),
            )
        )

    def _add(self, version: str, body: Mapping[str, Any]) -> None:
        files = {name: (info["sha256"], info["size"]) for name, info in body["files"].items()}
        self.records[version] = Record(version, files, body["summary"])
        self._unordered.append((sort_key(version), version))
        self._lowered.add(version.lower())

    def _take_evidence(self, record: Record, proof: Mapping[str, Any]) -> None:
        """Keep the evidence; a later evaluation replaces the score that the version came with."""
        record.proofs.append(proof)
        evidence = read_evidence(proof)
        if isinstance(evidence, EvaluationEvidence) and evidence.score is not None:
            interval = None if evidence.interval is None else [*evidence.interval]
            measured = {"score": evidence.score, "interval": interval}
            summary = {**record.summary, **measured, "score_kind": "evaluation"}
            with contextlib.suppress(InputError):
                fit(summary, Summary)
                record.summary = summary
        record.version_made = None

    def _move(self, version: str, stage: str) -> None:
        record = self.records[version]
        if record.stage == "staging":
            del self.staged[version]
        if self.production == version:
            self.production = None
        record.stage = stage
        record.version_made = None
        if stage == "staging":
            self.staged[version] = None
        elif stage == "production":
            self.production = version


class _File(msgspec.Struct):
    sha256: str
    size: int


class _Files(msgspec.Struct, forbid_unknown_fields=True):
    model: _File = msgspec.field(name="model.json")
    metadata: _File = msgspec.field(name="metadata.json")
    card: _File = msgspec.field(name="README.md")
    evaluation: _File | msgspec.UnsetType = msgspec.field(name="evaluation.json", default=msgspec.UNSET)


_Score = Annotated[float, msgspec.Meta(gt=-1e15, lt=1e15)]

VERSION_FILES: Final = _Files.__struct_encode_fields__
"""What a version folder may hold; only evaluation.json may be missing."""


class Summary(msgspec.Struct, forbid_unknown_fields=True):
    """What a list shows of a version."""

    score: _Score | None
    interval: tuple[_Score, _Score] | None
    score_kind: str | None
    optimizer: str | None
    base_model: str | None
    created_at: str
    parent: str | None


class _Change(Change):
    reason: str | None


class _Register(_Change):
    version: str
    files: _Files
    summary: Summary

    def problem(self, state: ModelState, action: str) -> str | None:
        check_version(self.version)
        return f"it registers {self.version} a second time" if state.is_taken(self.version) else None


class _Promote(_Change):
    version: str
    before: str = msgspec.field(name="from")
    to: Stage
    demoted: str | None
    evidence: dict[str, Any] | None
    forced: bool

    def problem(self, state: ModelState, action: str) -> str | None:
        stage = _stage_of(state, self.version)
        if self.to == stage or self.before != stage:
            return f"it promotes {self.version} from {stage} to {self.to!r}"
        if self.demoted != (state.production if self.to == "production" else None):
            return f"it demotes {self.demoted}, but {state.production} is in production"
        return None


class _Archive(_Change):
    versions: list[str]

    def problem(self, state: ModelState, action: str) -> str | None:
        if not self.versions:
            return "it archives nothing"
        for version in self.versions:
            if (stage := _stage_of(state, version)) in ("production", "archived"):
                return f"it archives {version}, which is in {stage}"
        return "it archives a version twice" if len(set(self.versions)) < len(self.versions) else None


class _Attach(_Change):
    version: str
    evidence: dict[str, Any]

    def problem(self, state: ModelState, action: str) -> str | None:
        _stage_of(state, self.version)
        return None


_CHANGES: Final[Mapping[str, type[Change]]] = {
    "register": _Register, "promote": _Promote, "archive": _Archive, "attach": _Attach
}  # fmt: skip


def _subjects(entry: Entry) -> tuple[str, ...]:
    """Return the versions that an entry is about."""
    return tuple(entry.body.get("versions") or [entry.body["version"]])


def _stage_of(state: ModelState, version: str) -> str:
    if version not in state.records:
        raise InputError(f"it names the version {version!r}, which was not registered before")
    return state.records[version].stage
