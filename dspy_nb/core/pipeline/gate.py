"""A quality gate: what an evaluation must show before a version may go on."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

from dspy_nb.core.arguments import number_between, whole_number
from dspy_nb.core.data.equality import same_normalized
from dspy_nb.core.errors import GateFailed, InputError
from dspy_nb.core.evaluation.classification import ClassScore
from dspy_nb.core.evaluation.pairing import paired_difference
from dspy_nb.core.evaluation.scorecard import Evaluation
from dspy_nb.core.evidence import GateCheck, GateResult
from dspy_nb.core.models.version import ModelVersion
from dspy_nb.core.text import value_text

if TYPE_CHECKING:
    from dspy_nb.core.registry.registry import Registry

_MEASURES: Final = ("precision", "recall", "f1")
_CONDITIONS: Final = (
    "min_score", "max_error_rate", "max_latency_p95_ms", "max_usd_per_call", "min_n", "per_class", "not_worse_than"
)  # fmt: skip
_SETTINGS: Final = ("margin", "on")


@dataclass(frozen=True, kw_only=True)
class QualityGate:
    """Conditions on an evaluation; at least one of those that default to nothing.

    An evaluation that was interrupted, or has too many errors to be reliable, never passes; nor does one
    that does not tell what a condition asks for.

    Attributes:
        min_score: The least score, in [0, 1].
        max_error_rate: The largest share of examples without an answer or a score, in [0, 1].
        max_latency_p95_ms: The largest 95th percentile of the latency, over answers not from a cache.
        max_usd_per_call: The largest mean price of a call of the program, over calls not from a cache.
        min_n: The least number of examples with different inputs.
        per_class: The least precision, recall or F1 of labels, as in ``{"positive": {"recall": 0.7}}``.
        not_worse_than: Another evaluation of the same examples, or a reference such as
            ``"sentiment@production"`` whose stored evaluation is one.
        margin: How much less than ``not_worse_than`` still is not worse, in [0, 1].
        on: Whether ``min_score`` and ``not_worse_than`` ask for the lower end of the interval
            (``"interval"``), which a lucky sample cannot give, or for the estimate alone (``"score"``).

    Raises:
        InputError: A condition is not valid, or there is none.
    """

    min_score: float | None = None
    max_error_rate: float | None = None
    max_latency_p95_ms: float | None = None
    max_usd_per_call: float | None = None
    min_n: int | None = None
    per_class: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    not_worse_than: Evaluation | ModelVersion | str | None = None
    margin: float = 0.02
    on: Literal["interval", "score"] = "interval"

    def __post_init__(self) -> None:
        for name, most in (
            ("min_score", 1.0), ("max_error_rate", 1.0), ("margin", 1.0),
            ("max_latency_p95_ms", math.inf), ("max_usd_per_call", math.inf),
        ):  # fmt: skip
            if (value := getattr(self, name)) is not None:
                number_between(name, value, 0, most)
        if self.min_n is not None:
            whole_number("min_n", self.min_n, minimum=1)
        if self.on not in ("interval", "score"):
            raise InputError(f"on must be 'interval' or 'score', got {value_text(self.on)}")
        reference: Any = self.not_worse_than
        if not isinstance(reference, Evaluation | ModelVersion | str | None):
            kind = type(reference).__name__
            raise InputError(f"not_worse_than is an Evaluation or a version of a model, not a {kind}")
        _check_floors(self.per_class)
        if all(getattr(self, name) in (None, {}) for name in _CONDITIONS):
            raise InputError(f"a gate needs at least one condition: {', '.join(_CONDITIONS)}")

    @classmethod
    def parse(cls, conditions: Iterable[str]) -> QualityGate:
        """Make a gate from texts such as ``min_score=0.85``, as a command line gives them.

        The floor of a class is ``per_class.positive.recall=0.7``.

        Raises:
            InputError: One is not valid, or given twice; the message lists what there is.
        """
        values: dict[str, Any] = {}
        floors: dict[str, dict[str, float]] = {}
        for text in conditions:
            name, equals, value = text.rpartition("=")
            table, key = values, name
            if name.startswith("per_class."):
                label, dot, key = name.removeprefix("per_class.").rpartition(".")
                if not dot:
                    raise InputError(f"gate {text!r} must be like per_class.positive.recall=0.7")
                table = floors.setdefault(label, {})
            elif not equals or name not in (*_CONDITIONS, *_SETTINGS) or name == "per_class":
                known = ", ".join((*_CONDITIONS, *_SETTINGS))
                raise InputError(f"gate {text!r} must be like min_score=0.85; there are {known}")
            if key in table:
                raise InputError(f"gate {name!r} is given twice")
            table[key] = value if name in ("not_worse_than", "on") else _number(text, value)
        return cls(**values, per_class=floors)

    def check(
        self, evaluation: Evaluation | ModelVersion, *, registry: Registry | None = None, raises: bool = True
    ) -> GateResult:
        """Check an evaluation, or the one that is stored with a version.

        Args:
            evaluation: What is to pass.
            registry: Where the version is that ``not_worse_than`` refers to.
            raises: Whether a gate that says no is an error.

        Raises:
            GateFailed: The gate says no; ``reasons`` has every reason.
            InputError: There is no evaluation, or no registry for the reference.
            NotFound: There is no such version.
        """
        measured = _measured(evaluation)
        reference = self._reference(registry)
        checks = (
            *_completeness(measured),
            *self._score(measured),
            *self._limits(measured),
            *self._classes(measured),
            *self._compared(measured, reference),
        )
        reasons = tuple(str(check) for check in checks if not check.passed)
        ref = evaluation.ref if isinstance(evaluation, ModelVersion) else None
        result = GateResult.of(measured, passed=not reasons, checks=checks, reasons=reasons, ref=ref)
        if raises and not result.passed:
            raise GateFailed([*reasons])
        return result

    def _reference(self, registry: Registry | None) -> Evaluation | None:
        given = self.not_worse_than
        if isinstance(given, str):
            if registry is None:
                what = f"not_worse_than={value_text(given)}"
                raise InputError(f"{what} needs the registry that has it: check(registry=...)")
            given = registry.get(given)
        return None if given is None else _measured(given)

    def _score(self, evaluation: Evaluation) -> Iterable[GateCheck]:
        if self.min_score is None:
            return
        estimate, low = evaluation.score, evaluation.interval[0]
        if self.on == "score":
            reason = f"score {estimate:.1%} is below {self.min_score:.1%}"
            yield _at_least("min_score", estimate, self.min_score, reason)
        else:
            lowest = f"may be as low as {low:.1%} at {evaluation.confidence:.0%} confidence"
            reason = f"score {estimate:.1%} {lowest}, below {self.min_score:.1%}"
            yield _at_least("min_score", low if evaluation.n else math.nan, self.min_score, reason)

    def _limits(self, evaluation: Evaluation) -> Iterable[GateCheck]:
        rate = evaluation.errors.rate if evaluation.n else None
        latency = None if evaluation.latency is None else evaluation.latency.p95_ms
        price = _usd_per_call(evaluation)
        limits: list[tuple[str, float | None, float | None, str, Callable[[float], str]]] = [
            ("max_error_rate", self.max_error_rate, rate, "error rate", "{:.1%}".format),
            ("max_latency_p95_ms", self.max_latency_p95_ms, latency, "latency p95", "{:,.0f} ms".format),
            ("max_usd_per_call", self.max_usd_per_call, price, "price of a call", "${:.6f}".format),
        ]  # fmt: skip
        for name, limit, value, what, shown in limits:
            if limit is None:
                continue
            if value is None:
                yield GateCheck(name, None, limit, False, f"{what} is not known: {_WHY_UNKNOWN[name]}")
            else:
                reason = f"{what} {shown(value)} is above {shown(limit)}"
                yield _check(name, value, limit, value <= limit, reason)
        if self.min_n is not None:
            n = min(evaluation.n, evaluation.n_distinct)
            reason = f"{n:,} different examples are fewer than {self.min_n:,}"
            yield _check("min_n", n, self.min_n, n >= self.min_n, reason)

    def _classes(self, evaluation: Evaluation) -> Iterable[GateCheck]:
        for label, floors in self.per_class.items():
            found = _class_named(evaluation.per_class, label)
            for measure, floor in floors.items():
                condition, what = f"per_class.{label}.{measure}", f"{measure} of {label!r}"
                cases = 0 if found is None else found.predicted if measure == "precision" else found.support
                if found is None or not cases:
                    known = ", ".join(map(repr, evaluation.per_class)) or "none"
                    seen = "no answer" if found and measure == "precision" else "no example"
                    reason = f"{what} is not known: {seen} has this label; labels are {known}"
                    yield GateCheck(condition, None, floor, False, reason)
                else:
                    value: float = getattr(found, measure)
                    yield _at_least(condition, value, floor, f"{what} {value:.1%} is below {floor:.1%}")

    def _compared(self, evaluation: Evaluation, reference: Evaluation | None) -> Iterable[GateCheck]:
        if reference is None:
            return
        name = "not_worse_than"
        try:
            paired = paired_difference(evaluation, reference)
        except InputError as error:
            yield GateCheck(name, None, -self.margin, False, f"{name} cannot be told: {error}")
            return
        value = paired.difference if self.on == "score" else paired.interval[0]
        what = f"the score differs by {paired.difference:+.1%} from the reference"
        if self.on == "interval":
            counts = f"{paired.n:,} examples, {paired.better:,} better, {paired.worse:,} worse"
            what = f"{what} and may differ by {value:+.1%} ({counts})"
        reason = f"{what}, more than the margin of {self.margin:.1%} below"
        yield _at_least(name, value, -self.margin, reason)


_WHY_UNKNOWN: Final = {
    "max_error_rate": "nothing was finished",
    "max_latency_p95_ms": "every answer came from a cache, or failed",
    "max_usd_per_call": "the model has no known price, or all answers came from a cache",
}


def _at_least(condition: str, value: float, floor: float, reason: str) -> GateCheck:
    if math.isnan(value):
        return GateCheck(condition, None, floor, False, f"{condition} cannot be told: nothing was finished")
    # 0.48 - 0.5 must not miss a margin of 0.02 by the last bit.
    return _check(condition, value, floor, value >= floor - 1e-12, reason)


def _check(condition: str, measured: float, required: float, passed: bool, reason: str) -> GateCheck:
    return GateCheck(condition, measured, required, passed, None if passed else reason)


def _completeness(found: Evaluation) -> Iterable[GateCheck]:
    reason = f"the evaluation is partial: {found.n:,} of {found.n_planned:,} examples were finished"
    yield _check("complete", found.n, found.n_planned, found.complete, reason)
    rate, most = found.errors.rate, found.max_error_rate
    why = f"{rate:.1%} errors are more than {most:.1%}" if found.n else "nothing was finished"
    yield _check("reliable", rate, most, found.reliable, f"the evaluation is not reliable: {why}")


def _usd_per_call(evaluation: Evaluation) -> float | None:
    """Return the mean price of the program's calls that no cache made cheaper; ``None`` if it is not known."""
    used = [r.usage for r in evaluation.results if not (r.error or r.cached or r.usage.cache_hits)]
    prices = [usage.usd for usage in used]
    known = [price for price in prices if price is not None]
    return math.fsum(known) / len(known) if known and len(known) == len(prices) else None


def _measured(given: Any) -> Evaluation:
    """Return an evaluation that was given, or the one that is stored with a version."""
    if isinstance(given, Evaluation):
        return given
    if not isinstance(given, ModelVersion):
        raise InputError(f"a gate checks an Evaluation or a version of a model, not a {type(given).__name__}")
    data = given.evaluation
    if data is None:
        raise InputError(f"{given.ref} has no stored evaluation: register it with one, or give an Evaluation")
    return Evaluation.from_dict(dict(data), source=f"the evaluation of {given.ref}")


def _class_named(classes: Mapping[str, ClassScore], label: str) -> ClassScore | None:
    """Return the class with this label, however it is spelled if no other one could be meant."""
    alike = [label] if label in classes else [name for name in classes if same_normalized(name, label)]
    return classes[alike[0]] if len(alike) == 1 else None


def _check_floors(per_class: Any) -> None:
    example = "such as {'positive': {'recall': 0.7}}"
    if not isinstance(per_class, Mapping):
        raise InputError(f"per_class must be a dict {example}, not a {type(per_class).__name__}")
    for label, floors in per_class.items():
        if not isinstance(label, str) or not isinstance(floors, Mapping) or not floors:
            raise InputError(f"per_class[{label!r}] must be a dict of floors, {example}")
        for measure, floor in floors.items():
            if measure not in _MEASURES:
                raise InputError(f"per_class[{label!r}]: there is no {measure!r}, but {', '.join(_MEASURES)}")
            number_between(f"per_class[{label!r}][{measure!r}]", floor, 0, 1)


def _number(text: str, value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        raise InputError(f"gate {text!r}: {value!r} is not a number") from None
    return int(number) if number.is_integer() else number
