"""Evidence: what a decision about a version rests on, as the logs of a registry keep it.

Each kind is a class, and ``KINDS`` names them all: a new kind is its class and its line in that table. On disk
evidence is an object of JSON with ``schema_version``, ``kind`` and the fields of its class that are known; what
else somebody gave with it is kept beside them.

What is read may come from anybody. A value that is of another type than its field counts as not known, and evidence
of a kind or a schema that only a later version knows is shown, but supports nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from typing import Any, ClassVar, Final, Self

import msgspec

from dspy_nb.core.doors import Shown
from dspy_nb.core.errors import InputError
from dspy_nb.core.storage.files import dump_json, parse_json
from dspy_nb.core.text import one_line, value_text

_SCHEMA_VERSION: Final = 1

Interval = tuple[float | None, float | None]


class Evidence(msgspec.Struct, frozen=True, kw_only=True, repr_omit_defaults=True):
    """What all kinds have; ``None`` is not known.

    Attributes:
        kind_name: Its name in ``KINDS``, on disk and for people.
        answers: What it can answer of that which ``registry/config.toml`` lets a promotion require; nothing means
            that it never speaks for a version.
        ref: The version that it is about.
        program_sha256: Hash of the prompts and demos of the program that it is about.
        base_model: The language models that it was gathered with.
        passed: Whether it is a yes, where a rule has decided that.
        verdict: What was found, in words.
        metric: Name of the metric.
        score: The mean score.
        interval: Of the score; of a comparison, that of the difference.
        confidence: Of the interval.
        n: Examples or requests that counted.
        data_fingerprint: Identity of what it was measured on.
        more: Everything else that is kept with it, as JSON data.
    """

    kind_name: ClassVar[str] = ""
    answers: ClassVar[tuple[str, ...]] = ()

    ref: str | None = None
    program_sha256: str | None = None
    base_model: str | None = None
    passed: bool | None = None
    verdict: str | None = None
    metric: str | None = None
    score: float | None = None
    interval: Interval | None = None
    confidence: float | None = None
    n: int | None = None
    data_fingerprint: str | None = None
    more: dict[str, Any] = {}

    @classmethod
    def of(cls, result: object, **others: object) -> Self:
        """Make evidence of a result: its attributes that are called like a field, and before them ``others``."""
        own = {name: getattr(result, name) for name in _types_of(cls) if hasattr(result, name)}
        return cls(**{name: _known(value) for name, value in (own | others).items()})

    @property
    def kind(self) -> str:
        """The kind, in one word."""
        return self.kind_name

    @property
    def is_yes(self) -> bool:
        """Whether it says yes to the version."""
        return self.passed is True and bool(self.answers)

    @property
    def is_evaluation(self) -> bool:
        """Whether it is as good as an evaluation: it is one, or carries what one measured."""
        measured = None not in (self.n, self.interval, self.data_fingerprint)
        return "evaluation" in self.answers or (bool(self.answers) and measured)

    @property
    def score_interval(self) -> Interval | None:
        """The interval of the score, if it is known."""
        return self.interval

    @property
    def score_n(self) -> int | None:
        """How many examples or requests the score is the mean of."""
        return self.n

    def summary(self) -> str:
        """Return it in a few words."""
        words = [self.kind]
        if self.passed is not None:
            words.append("passed" if self.passed else "said no")
        words += filter(None, (self.verdict, self._figures()))
        if self.n is not None:
            words.append(f"n = {self.n:,}")
        return ", ".join(words)

    def _figures(self) -> str | None:
        if self.score is None or self.interval is None or None in self.interval:
            return None if self.score is None else f"{self.score:.1%}"
        low, high = self.interval
        return f"{self.score:.1%} [{low:.1%}, {high:.1%}]"

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON data: what ``read_evidence`` reads."""
        return {"schema_version": _SCHEMA_VERSION, "kind": self.kind, **self._facts(), **self.more}

    def _facts(self) -> dict[str, Any]:
        facts = {name: getattr(self, name) for name in _types_of(type(self))}
        return {
            name: [*msgspec.to_builtins(value)] if isinstance(value, tuple) else value
            for name, value in facts.items()
            if value is not None
        }


class GateCheck(msgspec.Struct, frozen=True):
    """One condition of a gate.

    Attributes:
        condition: Its name, as in ``QualityGate``; ``complete`` and ``reliable`` are always asked for.
        measured: What was found; ``None`` if it is not known, which never passes.
        required: The least or the most that is allowed.
        passed: Whether the condition holds.
        reason: What is wrong if it does not.
    """

    condition: str
    measured: float | None
    required: float
    passed: bool
    reason: str | None

    def __str__(self) -> str:
        """Return what was found and what is required, or what is wrong."""
        if self.reason is not None:
            return self.reason
        what = {"complete": "examples ", "reliable": "error rate "}.get(self.condition, "")
        bound = "at most" if self.condition == "reliable" or self.condition.startswith("max_") else "at least"
        measured = "unknown" if self.measured is None else f"{self.measured:,.4g}"
        return f"{what}{measured}, {bound} {self.required:,.4g} required"


class GateResult(Evidence, Shown, frozen=True, kw_only=True):
    """What a gate says about an evaluation: evidence by itself.

    Attributes:
        checks: The conditions.
        reasons: Why it says no, one text for each condition that does not hold.
    """

    kind_name: ClassVar[str] = "gate"
    answers: ClassVar[tuple[str, ...]] = ("verdict", "gate")

    checks: tuple[GateCheck, ...] = ()
    reasons: tuple[str, ...] = ()


class EvaluationEvidence(Evidence, frozen=True, kw_only=True):
    """What an evaluation measured; fields as in ``Evaluation``."""

    kind_name: ClassVar[str] = "evaluation"
    answers: ClassVar[tuple[str, ...]] = ("evaluation",)

    errors: int | None = None
    complete: bool | None = None
    reliable: bool | None = None


class _Difference(Evidence, frozen=True, kw_only=True):
    """A version, B, against the one in use, A: better is a yes, unless a rule of its own decided.

    Attributes:
        baseline: Reference or name of A.
        effect: Difference of the scores, B − A; ``interval`` is its interval.
        p_value: Of no difference.
        margin: Largest difference that makes no practical difference.
        method: The test and the interval, in words.
    """

    answers: ClassVar[tuple[str, ...]] = ("verdict", "ab")

    baseline: str | None = None
    effect: float | None = None
    p_value: float | None = None
    margin: float | None = None
    method: str | None = None

    @property
    def is_yes(self) -> bool:
        """Whether it says yes to B."""
        return self.verdict == "B better" if self.passed is None else self.passed

    @property
    def score_interval(self) -> None:
        """Nothing: the interval is that of the difference."""

    def _figures(self) -> str | None:
        if self.score is None or self.interval is None or None in self.interval:
            return None
        return "difference [{:+.3f}, {:+.3f}]".format(*self.interval)


class ComparisonEvidence(_Difference, frozen=True, kw_only=True):
    """What a comparison on labelled data found; ``rule`` says in words what decided, if not that B is better."""

    kind_name: ClassVar[str] = "comparison"

    candidates: int | None = None
    overall_confidence: float | None = None
    rule: str | None = None


class SweepEvidence(_Difference, frozen=True, kw_only=True):
    """What a sweep found of its best cell, B, against the program as it was given, A.

    Attributes:
        cell: Name of the best cell.
        candidates: How many were compared with the leader on the same examples, which it is corrected for.
        overall_confidence: 1 − α of all those comparisons together.
    """

    kind_name: ClassVar[str] = "sweep"

    cell: str | None = None
    candidates: int | None = None
    overall_confidence: float | None = None


class ExperimentEvidence(_Difference, frozen=True, kw_only=True):
    """What an experiment on live traffic found, and why and how a person ended it."""

    kind_name: ClassVar[str] = "experiment"

    experiment: str | None = None
    blocked: tuple[str, ...] | None = None
    forced: bool | None = None
    reason: str | None = None


class CanaryEvidence(_Difference, frozen=True, kw_only=True):
    """What a canary had found when it took a step; ``n_b`` are the outcomes of the candidate alone."""

    kind_name: ClassVar[str] = "canary"

    n_b: int | None = None
    baseline_score: float | None = None
    share: float | None = None
    missing: tuple[str, ...] | None = None

    @property
    def score_n(self) -> int | None:
        """How many outcomes the score of the candidate is the mean of."""
        return self.n if self.n_b is None else self.n_b


class HealthEvidence(Evidence, frozen=True, kw_only=True):
    """A degradation, on which a roll-back rests; fields as in ``ObjectiveHealth``."""

    kind_name: ClassVar[str] = "health"

    objective: str | None = None
    level: float | None = None
    tolerated: float | None = None
    recent: float | None = None
    p_value: float | None = None
    alpha: float | None = None
    alarm_at: int | None = None


class _Unknown(Evidence, frozen=True, kw_only=True):
    """Evidence of a later version; its kind and its schema are in ``more``."""

    @property
    def kind(self) -> str:
        """The kind, as it was given."""
        return one_line(self.more.get("kind"), 80)

    def to_dict(self) -> dict[str, Any]:
        """Return what was read."""
        return {**self.more, **self._facts()}


KINDS: Final[dict[str, type[Evidence]]] = {
    kind.kind_name: kind
    for kind in (
        EvaluationEvidence, GateResult, ComparisonEvidence, SweepEvidence, ExperimentEvidence, CanaryEvidence,
        HealthEvidence,
    )
}  # fmt: skip
"""Every kind of evidence, by its name on disk."""


def accept_evidence(given: object) -> Evidence:
    """Return evidence that somebody gives for a version.

    Args:
        given: Evidence, an object with ``to_evidence()``, or a dict as ``to_dict`` returns; without a
            ``schema_version`` its kind may be ``ab`` too.

    Raises:
        InputError: It is none of these, its kind is not known or never speaks for a version, or a value is wrong.
    """
    convert = getattr(given, "to_evidence", None)
    found = convert() if callable(convert) else given
    if isinstance(found, Mapping):
        found = _read(parse_json(dump_json(found, "the evidence"), "the evidence"), strict=True)
    kinds = ", ".join(kind for kind, made in KINDS.items() if made.answers)
    if not isinstance(found, Evidence):
        valid = f"a gate result, a comparison, an evaluation, or a dict with a kind of {kinds}"
        raise InputError(f"evidence is not valid: give {valid}")
    if not found.answers:
        raise InputError(f"evidence is not valid: its kind is {found.kind}, not one of {kinds}")
    return found


def read_evidence(stored: Mapping[str, Any] | None) -> Evidence | None:
    """Return the evidence that ``write_evidence``, or any older version, stored; this never fails."""
    return None if stored is None else _read(stored, strict=False)


def write_evidence(evidence: Evidence | None) -> dict[str, Any] | None:
    """Return evidence as JSON data, to be stored."""
    return None if evidence is None else evidence.to_dict()


def _read(values: Mapping[str, Any], *, strict: bool) -> Evidence:
    """Return evidence from JSON data; a value of the wrong type is an InputError if ``strict``, else not known."""
    schema, kind = values.get("schema_version"), values.get("kind")
    if schema is None:
        kind = _current_kind(values)
    elif strict and schema != _SCHEMA_VERSION:
        words = f"its schema version is {value_text(schema, 40)}, this reads {_SCHEMA_VERSION}"
        raise InputError(f"evidence is not valid: {words}")
    made: type[Evidence] = _Unknown
    if isinstance(kind, str) and schema in (None, _SCHEMA_VERSION):
        made = KINDS.get(kind, _Unknown)
    types, head = _types_of(made), () if made is _Unknown else ("schema_version", "kind")
    known = {name: value for name, value in values.items() if name in types}
    more = {name: value for name, value in values.items() if name not in types and name not in head}
    if "passed" in known and (known["passed"] is None or not strict):
        known["passed"] = known["passed"] is True  # whatever else it is, it is no yes
    try:
        return msgspec.convert({**known, "more": more}, made)
    except msgspec.ValidationError as error:
        if strict:
            what = str(error).replace("`", "").replace(" | ", " or ").replace("Expected", "expected")
            raise InputError(f"evidence is not valid: {what}") from None
    more |= {name: value for name, value in known.items() if not _fits(value, types[name])}
    return msgspec.convert({name: known[name] for name in known if name not in more} | {"more": more}, made)


def _fits(value: object, kind: Any) -> bool:
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError:
        return False
    return True


@cache
def _types_of(kind: type[Evidence]) -> dict[str, Any]:
    """Return the types of a kind's fields, by name."""
    return {field.name: field.type for field in msgspec.structs.fields(kind) if field.name != "more"}


def _current_kind(values: Mapping[str, Any]) -> object:
    """Return the kind of evidence without a schema version, from a time when three kinds were called ``ab``."""
    kind = values.get("kind")
    if kind == "ab":
        return "experiment" if "experiment" in values else "canary" if "share" in values else "comparison"
    return "health" if kind == "monitor" else kind


def _known(value: Any) -> Any:
    """Return a value as JSON knows it: a number that is not finite is not known."""
    if isinstance(value, tuple):
        return tuple(map(_known, value))
    return None if isinstance(value, float) and not math.isfinite(value) else value
