"""The examples behind a number: what came of each, and tables of them to filter."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

from dspy_nb.core.doors import Shown
from dspy_nb.core.errors import InputError
from dspy_nb.core.evaluation.labels import is_categorical, label_text
from dspy_nb.core.execution.attempts import Failure
from dspy_nb.core.programs.lm_call import LMCall
from dspy_nb.core.programs.usage import Usage
from dspy_nb.core.storage.plain import plain
from dspy_nb.core.text import value_text

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class ExampleResult:
    """One example, or one repeat of it.

    Attributes:
        index: Its place in the data set, from 0.
        repeat: Which repeat, from 0.
        example_id: The identity of its inputs, see ``example_id``.
        inputs: What the program was given.
        expected: The labels.
        predicted: The fields of the answer; empty if there is none.
        score: Of the first metric; ``None`` if the program or the metric failed, which counts as 0.
        scores: Of each metric.
        latency_ms: Time that the program took.
        cached: Whether nothing was asked of a language model, because the answers were in DSPy's cache or
            an equal example had just been answered.
        error: Why there is no answer or no score.
        usage: What the program used.
        metric_usage: What the metrics used, where they ask a language model.
        calls: The LM calls of the program that were answered, in the order in which they ended; one that failed
            is counted in ``usage`` alone. Their texts are kept for the first ``PROMPTS_KEPT`` examples, without
            the secrets that are known to the process.
    """

    index: int
    repeat: int
    example_id: str
    inputs: dict[str, Any]
    expected: dict[str, Any]
    predicted: dict[str, Any]
    score: bool | float | None
    scores: dict[str, bool | float | None]
    latency_ms: float
    cached: bool
    error: Failure | None
    usage: Usage
    metric_usage: Usage
    calls: tuple[LMCall, ...] = ()


Flips: TypeAlias = Literal["fixed", "broken", "any"]


@dataclass(frozen=True)
class ExampleTable(Shown):
    """Examples with what one program, or two, made of them; iterates over the rows.

    A row has one result for each program: of an evaluation and of a candidate one; of a comparison A's and B's;
    of an optimization that before and that after.

    Attributes:
        title: What the examples are behind.
        arms: A name for each program; one is "answer".
        rows: Tuples of :class:`ExampleResult`, as long as ``arms``, in the order of the data set.
        total: How many rows there are without the filters.
        filters: What the rows were chosen by, in words.
        field: The field that holds classes, ``None`` if none does.
        note: What a reader must know of where there are no rows, or fewer than there might be.
    """

    title: str
    arms: tuple[str, ...]
    rows: tuple[tuple[ExampleResult, ...], ...]
    total: int
    filters: tuple[str, ...] = ()
    field: str | None = None
    note: str = ""

    @classmethod
    def of(
        cls,
        title: str,
        arms: Mapping[str, Sequence[ExampleResult]],
        *,
        field: str | None = None,
        note: str = "",
    ) -> ExampleTable:
        """Return the table of examples that every arm has a result for.

        Args:
            title: What they are behind.
            arms: A name for each program, and its results.
            field: The field that holds classes; by default the only label, where it holds some.
            note: See the attribute.
        """
        first, *others = arms.values()
        placed = [{(result.index, result.repeat): result for result in results} for results in others]
        rows = tuple(
            (result, *(one[result.index, result.repeat] for one in placed))
            for result in first
            if all((result.index, result.repeat) in one for one in placed)
        )
        return cls(title, tuple(arms), rows, len(rows), (), field or _class_field(rows), note)

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.rows)

    def __iter__(self) -> Iterator[tuple[ExampleResult, ...]]:
        """Go through the rows."""
        return iter(self.rows)

    def where(
        self,
        *,
        wrong: bool = False,
        errors: bool = False,
        label: str | None = None,
        answer: str | None = None,
        flips: Flips | None = None,
    ) -> ExampleTable:
        """Return the rows that fit; see :meth:`HasExamples.examples`."""
        tests: dict[str, Callable[[tuple[ExampleResult, ...]], bool]] = {}
        if wrong:
            tests["wrong"] = is_wrong
        if errors:
            tests["errors"] = has_error
        if label is not None:
            expected = self._class("label", "expected", label)
            tests[f"label {expected}"] = lambda row: expected in self._texts(row, "expected")
        if answer is not None:
            said = self._class("answer", "predicted", answer)
            tests[f"answer {said}"] = lambda row: said in self._texts(row, "predicted")
        if flips is not None:
            if flips not in get_args(Flips):
                raise InputError(f"flips is one of {', '.join(get_args(Flips))}, not {value_text(flips, 40)}")
            if len(self.arms) < 2:
                raise InputError("flips: this is about one program; a comparison of two has flips")
            tests["flips" if flips == "any" else flips] = lambda row: (
                flip_of(row) in (("fixed", "broken") if flips == "any" else (flips,))
            )
        rows = tuple(row for row in self.rows if all(fits(row) for fits in tests.values()))
        return replace(self, rows=rows, filters=(*self.filters, *tests))

    def classes(self, part: Literal["expected", "predicted"] = "expected") -> dict[str, int]:
        """Return the classes and how many rows have each as a label, or as an answer: the most frequent first.

        There are none where no field holds classes.
        """
        return dict(Counter(text for row in self.rows for text in self._texts(row, part)).most_common())

    def _texts(self, row: tuple[ExampleResult, ...], part: str) -> set[str]:
        found = (getattr(result, part) for result in row)
        return {label_text(values[self.field]) for values in found if self.field in values}

    def _class(self, what: str, part: Literal["expected", "predicted"], text: object) -> str:
        """Return the class of that name, as it is written."""
        if self.field is None:
            raise InputError(f"{what}: no field of these examples holds classes")
        known, wanted = self.classes(part), label_text(text)
        for name in (*(name for name in known if name == wanted), *known):
            if name.casefold() == wanted.casefold():
                return name
        listed = ", ".join(sorted(known)[:20]) or "none"
        raise InputError(f"{what}: there is no {value_text(text, 40)}; there are {listed}")

    def to_frame(self) -> pd.DataFrame:
        """Return the rows as a table, with everything in it.

        Of one program, fields are in columns ``input_<field>``, ``expected_<field>`` and ``predicted_<field>``;
        ``truncated`` says whether an answer of a language model was cut off. Of two, inputs and labels have the
        names of their fields, and the columns of a program begin with its arm, in lower case: ``a_<field>``,
        ``a_score``, ``a_error``, ``a_latency_ms``; ``difference`` is the last one.
        """
        import pandas as pd

        return pd.DataFrame([_row(*row) if len(row) == 1 else self._row_of_two(row) for row in self.rows])

    def to_list(self) -> list[dict[str, Any]]:
        """Return the rows as JSON data: a result by the name of its arm."""
        return [dict(zip(self.arms, map(plain, row), strict=True)) for row in self.rows]

    def _row_of_two(self, row: tuple[ExampleResult, ...]) -> dict[str, Any]:
        first = row[0]
        data: dict[str, Any] = {"index": first.index, **first.inputs, **first.expected}
        for name, result in zip(self.arms, row, strict=True):
            arm = name.lower()
            data |= {f"{arm}_{field}": value for field, value in result.predicted.items()}
            data[f"{arm}_score"] = float(result.score or 0)
            data[f"{arm}_error"] = result.error.kind if result.error else None
            data[f"{arm}_latency_ms"] = result.latency_ms
        return {**data, "difference": difference_of(row)}


class HasExamples:
    """A result with examples behind it."""

    __slots__ = ()

    def examples(
        self,
        *,
        wrong: bool = False,
        errors: bool = False,
        label: str | None = None,
        answer: str | None = None,
        flips: Flips | None = None,
    ) -> ExampleTable:
        """Return the examples as a table to search, sort and filter; all filters that are given must fit.

        Args:
            wrong: Those that a program did not answer fully right, errors among them: its score is below 1.
            errors: Those that a program or the metric failed on.
            label: Those of this class.
            answer: Those that a program answered with this class.
            flips: Of two programs: those that the second one "fixed", "broken" those that it did worse, or "any".

        Raises:
            InputError: There is no such class, or there is one program and no flip.
        """
        return self.example_table().where(wrong=wrong, errors=errors, label=label, answer=answer, flips=flips)

    def example_table(self) -> ExampleTable:
        """Return the table with all of them."""
        raise NotImplementedError


def is_wrong(row: Sequence[ExampleResult]) -> bool:
    """Whether a program did not answer fully right."""
    return any(result.score is None or result.score < 1 for result in row)


def has_error(row: Sequence[ExampleResult]) -> bool:
    """Whether a program or the metric failed."""
    return any(result.error is not None for result in row)


def difference_of(row: Sequence[ExampleResult]) -> float:
    """Return the score of the last program less that of the first; no score is 0."""
    return float(row[-1].score or 0) - float(row[0].score or 0)


def flip_of(row: Sequence[ExampleResult]) -> str:
    """Return whether the last program "fixed" what the first one did, or it is "broken" now; else ``""``."""
    difference = difference_of(row)
    return "fixed" if difference > 0 else "broken" if difference < 0 else ""


def _class_field(rows: Sequence[Sequence[ExampleResult]]) -> str | None:
    names = {name for row in rows for name in row[0].expected}
    if len(names) != 1:
        return None
    name = names.pop()
    return name if is_categorical(row[0].expected.get(name) for row in rows) else None


def _row(result: ExampleResult) -> dict[str, Any]:
    row = {"index": result.index, "repeat": result.repeat, "example_id": result.example_id}
    parts = {"input": result.inputs, "expected": result.expected, "predicted": result.predicted}
    for part, values in parts.items():
        row.update({f"{part}_{name}": value for name, value in values.items()})
    row["score"] = result.score
    if len(result.scores) > 1:
        row.update({f"score_{name}": score for name, score in result.scores.items()})
    error = f"{result.error.kind}: {result.error.message}" if result.error else None
    row.update(latency_ms=result.latency_ms, cached=result.cached, error=error)
    truncated = any(call.truncated for call in result.calls)
    return {**row, **result.usage.to_dict(), "truncated": truncated}
