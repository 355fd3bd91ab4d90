"""What an evaluation found: the numbers, the answers behind them, and both as a table and as a file."""

from __future__ import annotations

import functools
import json
import math
import os
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator, TypeAdapter, ValidationError

from dspy_nb.core.arguments import DEEPEST, is_too_deep, user_path
from dspy_nb.core.doors import Shown
from dspy_nb.core.errors import InputError
from dspy_nb.core.evaluation.classification import Classification, ClassScore, Confusion
from dspy_nb.core.evaluation.diagnosis import Finding, diagnose
from dspy_nb.core.evaluation.examples import ExampleResult, ExampleTable, HasExamples
from dspy_nb.core.evidence import EvaluationEvidence
from dspy_nb.core.programs.lm_call import pack_messages, unpack_messages
from dspy_nb.core.programs.usage import Usage
from dspy_nb.core.storage.files import replace_file
from dspy_nb.core.storage.plain import plain
from dspy_nb.core.text import error_text, repaired

if TYPE_CHECKING:
    import pandas as pd

_SCHEMA_VERSION = 1

# JSON has no NaN: it is written as null.
_Mean = Annotated[float, BeforeValidator(lambda value: math.nan if value is None else value)]


@dataclass(frozen=True)
class MetricScore:
    """The score of one metric.

    Attributes:
        name: The metric.
        score: The mean; an example without a score counts as 0. NaN if nothing was finished.
        interval: Of ``score``.
        n: Examples finished, with or without a score.
        correct: How many are right, for a metric that says right or wrong.
        score_without_errors: The mean over the examples that have a score; NaN if none has.
    """

    name: str
    score: _Mean
    interval: tuple[float, float]
    n: int
    correct: int | None
    score_without_errors: _Mean


@dataclass(frozen=True)
class Slice:
    """The examples that share a value.

    Attributes:
        score: Of the first metric, as in ``MetricScore``.
        interval: Of the score.
        n: How many there are.
        errors: How many of them failed.
    """

    score: float
    interval: tuple[float, float]
    n: int
    errors: int


@dataclass(frozen=True)
class Errors:
    """The examples that have no answer or no score.

    Attributes:
        count: How many.
        rate: Their share of the examples finished.
        kinds: How many of each kind, the most frequent first.
        messages: The first few messages.
    """

    count: int = 0
    rate: float = 0.0
    kinds: dict[str, int] = field(default_factory=dict)
    messages: tuple[str, ...] = ()


@dataclass(frozen=True)
class Latency:
    """Milliseconds that the program took, over the answers that did not come from a cache."""

    n: int
    mean_ms: float
    p50_ms: float
    p95_ms: float
    p99_ms: float


@dataclass(frozen=True)
class Evaluation(Shown, HasExamples):
    """What :func:`dspy_nb.evaluate` found. Every error counts as a failure in ``score``.

    Attributes:
        score: Mean of the first metric, in [0, 1]; an error counts as 0. NaN if nothing was finished.
        interval: Of ``score``, at ``confidence``: Wilson's for a metric that says right or wrong, BCa for
            one that grades; clustered by example where inputs occur more than once.
        n: Examples finished, each repeat counting.
        n_planned: Examples to be evaluated, each repeat counting.
        correct: Number of right answers, ``None`` for a metric that grades.
        score_without_errors: Mean over the examples that have a score.
        errors: What went wrong.
        reliable: False if the share of errors is above ``max_error_rate``, or nothing was finished.
        metrics: The score of each metric.
        classification: Per-class numbers, where a field holds labels.
        latency: ``None`` if every answer came from a cache.
        usage: What the program used. A call that the provider refused is an error and not counted here.
        metric_usage: What metrics that ask a language model used.
        slices: The score by the values of ``by``.
        results: One per example and repeat, in the order of the data set.
        metric: Name of the first metric.
        program: Name of the program's class or function.
        base_model: The language models in use; ``None`` if there is none.
        data_fingerprint: Identity of the data set.
        n_examples: Examples in the data set.
        n_distinct: Examples in the data set that differ in their inputs.
        repeats: Times each example was evaluated.
        by: What the slices are by.
        confidence: Of the intervals.
        max_error_rate: See ``reliable``.
        seed: Of the bootstrap.
        started_at: ISO 8601, UTC.
        duration_s: Wall-clock seconds.
        program_sha256: Hash of the prompts and demos of the program; ``None`` for a function.
        repaired: Answers that held half of a surrogate pair, which no file can hold; it was made text.
    """

    score: _Mean
    interval: tuple[float, float]
    n: int
    n_planned: int
    correct: int | None
    score_without_errors: _Mean
    errors: Errors
    reliable: bool
    metrics: dict[str, MetricScore]
    classification: Classification | None
    latency: Latency | None
    usage: Usage
    metric_usage: Usage
    slices: dict[str, Slice]
    results: tuple[ExampleResult, ...]
    metric: str
    program: str
    base_model: str | None
    data_fingerprint: str
    n_examples: int
    n_distinct: int
    repeats: int
    by: str | None
    confidence: float
    max_error_rate: float
    seed: int
    started_at: str
    duration_s: float
    program_sha256: str | None = None
    repaired: int = 0

    @property
    def complete(self) -> bool:
        """Whether every example was finished: False after an interrupt."""
        return self.n == self.n_planned

    @property
    def accuracy(self) -> float | None:
        """Share of the labels that are right."""
        return self.classification.accuracy if self.classification else None

    @property
    def per_class(self) -> dict[str, ClassScore]:
        """Precision, recall and F1 of each label; empty where no field holds labels."""
        return self.classification.per_class if self.classification else {}

    @property
    def macro(self) -> ClassScore | None:
        """Mean over the labels, each counting the same."""
        return self.classification.macro if self.classification else None

    @property
    def weighted(self) -> ClassScore | None:
        """Mean over the labels, each counting by its support."""
        return self.classification.weighted if self.classification else None

    @property
    def confusion(self) -> Confusion | None:
        """Expected against predicted labels."""
        return self.classification.confusion if self.classification else None

    @functools.cached_property
    def findings(self) -> tuple[Finding, ...]:
        """What stands out in the answers behind the score, such as nearly all being the same; often nothing."""
        return diagnose(self.results)

    def slowest(self, k: int = 5) -> list[ExampleResult]:
        """Return the examples that took longest, cache hits left out."""
        asked = [result for result in self.results if not result.cached]
        return sorted(asked, key=lambda result: -result.latency_ms)[:k]

    def worst(self, k: int = 5) -> list[ExampleResult]:
        """Return the examples with an error, then those with the lowest scores."""
        return sorted(self.results, key=lambda r: (-1 if r.score is None else r.score, r.index))[:k]

    def example_table(self) -> ExampleTable:
        """Return the examples with what came of them."""
        field = None if self.classification is None else self.classification.field
        note = ""
        if len(self.results) < self.n:
            note = "The evaluation was stored without its single examples."
        title = f"{self.program} on {self.n_examples:,} examples, {self.metric}"
        return ExampleTable.of(title, {"answer": self.results}, field=field, note=note)

    def to_frame(self) -> pd.DataFrame:
        """Return the results as a table: one row per example and repeat.

        Fields are in columns ``input_<field>``, ``expected_<field>`` and ``predicted_<field>``; ``truncated`` says
        whether an answer of a language model was cut off.
        """
        return self.example_table().to_frame()

    def to_dict(self, *, results: bool = True) -> dict[str, Any]:
        """Return everything as JSON data; what JSON lacks becomes text, and NaN ``None``.

        The messages of LM calls are listed once, and each call says which of them were sent.

        Args:
            results: Whether to include the single examples.
        """
        data = plain({f.name: getattr(self, f.name) for f in fields(self) if results or f.name != "results"})
        head = {
            "schema_version": _SCHEMA_VERSION,
            "complete": self.complete,
            "findings": plain(self.findings),
        }
        if results:
            head["messages"] = pack_messages(data["results"])
        return {**head, **data}

    def to_evidence(self) -> EvaluationEvidence:
        """Return what a registry stores of it, see ``Registry.attach`` and ``Registry.promote``."""
        return EvaluationEvidence.of(self, errors=self.errors.count)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write everything to a JSON file, which is replaced if it exists, whole or not at all.

        Its folder is made if there is none.

        Raises:
            InputError: The file cannot be written.
        """
        target = user_path("the report", path)
        text = json.dumps(repaired(self.to_dict()), ensure_ascii=False, allow_nan=False)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            replace_file(target, text.encode())
        except OSError as error:
            raise InputError(f"{target} cannot be written: {error.strerror or error}") from None
        return target

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Evaluation:
        """Read what ``save`` wrote.

        Raises:
            InputError: There is no such file, it holds no evaluation, or a newer version wrote it.
        """
        try:
            data = json.loads(user_path("the report", path).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise InputError(f"{os.fspath(path)}: no evaluation can be read ({error_text(error)})") from error
        if is_too_deep(data):
            raise InputError(
                f"{os.fspath(path)}: no evaluation can be read (nested deeper than {DEEPEST} levels)"
            )
        return cls.from_dict(data, source=os.fspath(path))

    @classmethod
    def from_dict(cls, data: Any, *, source: str = "the evaluation") -> Evaluation:
        """Make an evaluation from what ``to_dict`` returned.

        Raises:
            InputError: It is none, or a newer version wrote it; the message names ``source``.
        """
        version = data.get("schema_version") if isinstance(data, dict) else None
        if not isinstance(version, int):
            raise InputError(f"{source}: no evaluation (it has no schema_version)")
        if version > _SCHEMA_VERSION:
            raise InputError(
                f"{source}: schema version {version} is newer than {_SCHEMA_VERSION}, the newest that "
                "this dspy-nb reads; upgrade dspy-nb"
            )
        try:
            if "messages" in data:
                data = {**data, "results": unpack_messages(data["results"], data["messages"])}
        except (LookupError, TypeError, AttributeError):
            raise InputError(f"{source}: no complete evaluation (its LM calls cannot be read)") from None
        try:
            return TypeAdapter(cls).validate_python({"results": (), **data})
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise InputError(f"{source}: no complete evaluation ({where}: {first['msg']})") from error
