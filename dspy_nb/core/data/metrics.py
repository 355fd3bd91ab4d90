"""Metrics: how well a prediction answers an example, in one shape that every optimizer accepts.

DSPy's optimizers call a metric with two, three or five positional arguments. BootstrapFewShot takes any
true value for a success (a ``Prediction`` is always true, and so is 0.1), SIMBA counts a NumPy value as 0,
and all of them let a ``None`` pass until the end. A ``Metric`` takes up to five arguments, returns a ``bool``
or a ``float``, and raises on anything that is no score.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import numbers
import reprlib
import sys
import textwrap
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import dspy

from dspy_nb.core.arguments import returns_later
from dspy_nb.core.data.copying import own_copy
from dspy_nb.core.data.equality import is_gap, same_exactly, same_normalized, same_stripped, words_of_both
from dspy_nb.core.data.typed_values import readings
from dspy_nb.core.errors import InputError, NoField, NoPrediction

_SHAPE = "a function of (gold, pred) and, optionally, (trace, pred_name, pred_trace)"
_MISSING = object()
_BARE = (str, bytes, int, float, list, tuple, set, frozenset)  # a named tuple has fields


class MetricError(InputError):
    """A metric returned something that is no score; the message names the metric and the value."""


@dataclass(frozen=True, repr=False, eq=False)
class Metric:
    """A metric in the one shape: called with a labelled example and a prediction, returns a score.

    Make one with ``exact_match``, ``accuracy``, ``token_f1``, ``partial_credit``, ``parse_metric`` or, from
    a function of your own, ``as_metric``. It can be pickled if its function can.

    Attributes:
        function: What computes the score; where there are fields, that of a field from its two values.
        label: How the metric was made, such as ``exact_match('answer')``, or the function's name.
        fields: The fields that it compares; empty if unknown.
        binary: Whether it says right or wrong (a proportion) or grades (a mean); ``None`` if unknown.
        feedback: Whether it returns ``dspy.Prediction(score=..., feedback=...)``, which GEPA and SIMBA learn
            from, instead of the score alone. To every other optimizer, that is a success.
        required: How many positional arguments the function must be given, 2 to 5.
        arity: How many it can be given; those beyond ``required`` are left out while they are ``None``.
        types: Those that programs declare for a field: see ``declaring``.
    """

    function: Callable[..., Any]
    label: str
    fields: tuple[str, ...] = ()
    binary: bool | None = None
    feedback: bool = False
    required: int = 2
    arity: int = 2
    types: Mapping[str, Sequence[Any]] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        # As functools.wraps does, but without __wrapped__: the function's signature would replace ours.
        named = {name: getattr(self.function, name, None) for name in functools.WRAPPER_ASSIGNMENTS}
        self.__dict__.update({name: value for name, value in named.items() if value is not None})
        self.__dict__["__name__"] = self.name

    @property
    def name(self) -> str:
        """The metric's name without its fields: ``exact_match``."""
        return self.label.partition("(")[0]

    @property
    def source(self) -> str:
        """What tells the metric from another: a function's source code, or how the metric was made.

        What a function closes over, or a partial has bound, is not in it.
        """
        if self.fields:
            return self.label
        function = self.function.func if isinstance(self.function, functools.partial) else self.function
        try:
            code = function if inspect.isroutine(function) else type(function)
            return textwrap.dedent(inspect.getsource(code))
        except (OSError, TypeError):
            return self.label

    @property
    def same(self) -> Callable[[Any, Any], bool]:
        """When two values of a field are the same to it; as in ``accuracy`` where it grades, or is unknown."""
        known = self.fields and self.function in (same_exactly, same_normalized)
        return self.function if known else same_stripped

    def declaring(self, types: Mapping[str, tuple[Any, ...]]) -> Metric:
        """Return the metric for programs that declare these types: a label counts as what they read it as, too.

        The type of the answer alone tells most: a date, a model. It does not tell that "yes" is a boolean.

        Args:
            types: The types of each field, see ``declared_types``.
        """
        telling = {
            name: [kind for kind in types.get(name, ()) if kind not in (str, Any)] for name in self.fields
        }
        return replace(self, types=telling) if any(telling.values()) else self

    def read(self, field: str, label: Any) -> Any:
        """Return a label as the type that the program declares, as far as it can be read so."""
        return next(self._readings(field, label), label)

    def _readings(self, field: str, label: Any) -> Iterator[Any]:
        for kind in self.types.get(field, ()):
            yield from readings(kind, label)

    def __repr__(self) -> str:
        return self.label

    def __call__(
        self,
        gold: dspy.Example,
        pred: Any,
        trace: Any = None,
        pred_name: str | None = None,
        pred_trace: Any = None,
    ) -> Any:
        """Score one prediction; a function of your own gets copies of the two.

        Returns:
            A ``bool`` or a finite ``float``; or, with ``feedback``, a ``dspy.Prediction`` of score and
            feedback if there is feedback to give.

        Raises:
            InputError: The example lacks a field that the metric compares.
            NoField, NoPrediction: The answer lacks it, or has no fields.
            MetricError: The function returned something that is no score.
        """
        extras = [trace, pred_name, pred_trace][: self.arity - 2]
        while len(extras) > self.required - 2 and extras[-1] is None:
            extras.pop()
        if self.fields:
            result: Any = min([self._compare(gold, pred, field) for field in self.fields])
        else:  # a function of the user may write into what it is given
            gold, pred = own_copy(gold), own_copy(pred)
            result = self.function(gold, pred, *extras)
        score = self._score(result)
        if not self.feedback:
            return score
        if isinstance(result, dspy.Prediction) and result.get("feedback") is not None:
            return dspy.Prediction({**result.toDict(), "score": score})
        if not self.fields:
            return score
        return dspy.Prediction(score=score, feedback=_explain(gold, pred, self.fields))

    def _compare(self, gold: Any, pred: Any, field: str) -> bool | float:
        if (expected := _read(gold, field)) is _MISSING:
            raise _no_field(self.label, "the example", gold, field)
        given = _read_answer(pred, field)
        score: bool | float = self.function(expected, given)
        if self.types and score < 1:
            score = max([score, *(self.function(read, given) for read in self._readings(field, expected))])
        return score

    def check(self, examples: Iterable[dspy.Example]) -> None:
        """Refuse examples that lack a field the metric compares, before anything is spent on them.

        A field without a value (``None``, NaN) may be meant, or a gap in the data that no answer can match: a
        warning says how many there are.

        Raises:
            InputError: The message names the field, the example (counted from 1) and what it has.
        """
        empty: dict[str, list[int]] = {}
        for number, example in enumerate(examples, 1):
            for field in self.fields:
                value = _read(example, field)
                if value is _MISSING:
                    raise _no_field(self.label, f"example {number}", example, field)
                if is_gap(value):
                    empty.setdefault(field, []).append(number)
        for field, gaps in empty.items():
            warnings.warn(
                f"metric {self.label}: {len(gaps)} of {number} examples have no value of {field!r} (the first "
                f"is example {gaps[0]}), so that hardly any answer to them counts as right",
                stacklevel=3,
            )

    def _score(self, result: Any) -> bool | float:
        value = result.get("score") if isinstance(result, dspy.Prediction) else result
        if callable(getattr(value, "item", None)):  # a NumPy scalar, which SIMBA would count as 0
            with contextlib.suppress(TypeError, ValueError, RuntimeError):
                value = value.item()
        if isinstance(value, bool) and self.binary is not False:
            return value
        if isinstance(value, numbers.Real) and abs(value) <= sys.float_info.max:  # type: ignore[operator]
            return float(value)
        if inspect.iscoroutine(result):
            result.close()  # or Python warns that nobody awaited it
        raise MetricError(
            f"metric {self.label} returned {_describe_value(result)}; "
            "valid is a bool, a finite number, or dspy.Prediction(score=..., feedback=...)"
        )


MetricLike: TypeAlias = "Metric | Callable[..., Any] | dspy.Module | str"


def exact_match(*fields: str, normalize: bool = True) -> Metric:
    """Make the metric that is true if every one of the fields has the value it should have.

    Args:
        fields: The fields to compare.
        normalize: Compare text regardless of case, runs of white space and Unicode composition, and a
            number or a boolean with its text (``4`` and ``"4"``). Otherwise values must be equal. What JSON
            cannot hold (a date, an enum, a model) is compared with what its type reads in either case.
    """
    if normalize:
        return _field_metric("exact_match", fields, same_normalized, binary=True)
    return _field_metric("exact_match", fields, same_exactly, binary=True, options=", normalize=False")


def accuracy(field: str) -> Metric:
    """Make the metric that is true if the field is right, regardless of case and outer white space."""
    return _field_metric("accuracy", (field,), same_stripped, binary=True)


def token_f1(field: str) -> Metric:
    """Make the metric that grades a text by the F1 of its set of lower-case words; 0 if either is empty."""
    return _field_metric("token_f1", (field,), _f1)


def partial_credit(field: str) -> Metric:
    """Make the metric that is 1 on a match as in ``accuracy``, else the share of common words.

    The share is the number of words in both texts, over the larger of their two sets of words.
    """
    return _field_metric("partial_credit", (field,), _credit)


def parse_metric(text: str) -> Metric:
    """Make a metric from ``name:field``, or ``exact_match:field,field``, as a command line gives it.

    Raises:
        InputError: There is no such metric, or the fields do not fit; the message lists what is valid.
    """
    name, _, listed = text.partition(":")
    fields = [field.strip() for field in listed.split(",") if field.strip()]
    make = METRICS.get(name.strip())
    if make is None:
        raise InputError(f"no metric {name!r}; valid are {', '.join(METRICS)}, followed by :field")
    if not fields or (len(fields) > 1 and make is not exact_match):
        raise InputError(f"metric {text!r} needs {_describe_fields(make)}")
    return make(*fields)


def as_metric(metric: MetricLike, *, binary: bool | None = None, feedback: bool = False) -> Metric:
    """Turn any metric function that DSPy accepts, and some that it does not, into a ``Metric``.

    Args:
        metric: A ``Metric``, its text (see ``parse_metric``), a function, an object with ``__call__``, or a
            ``dspy.Module`` such as ``dspy.evaluate.SemanticF1``. It takes an example and a prediction, and in
            this order what else it wants of ``trace``, ``pred_name``, ``pred_trace``; a further parameter
            whose default is not ``None`` is an option of its own, and ends the list. It returns a boolean, a
            number (NumPy's too), or a ``dspy.Prediction`` with a ``score``.
        binary: Whether it says right or wrong; by default what its return annotation says, if anything.
        feedback: Hand on the feedback that comes with a score. Only for GEPA and SIMBA.

    Raises:
        InputError: It cannot be called as a metric; the message says what can.
    """
    if isinstance(metric, Metric):
        return replace(metric, feedback=feedback, binary=metric.binary if binary is None else binary)
    if isinstance(metric, str):
        return as_metric(parse_metric(metric), binary=binary, feedback=feedback)
    if any(metric is make for make in METRICS.values()):
        raise InputError(f"{metric.__name__} makes a metric; it needs {_describe_fields(metric)}")
    if not callable(metric):
        raise InputError(f"{_describe_value(metric)} is not a metric; a metric is {_SHAPE}")
    name = _function_name(metric)
    if inspect.isclass(metric):
        raise InputError(f"metric {name} is a class; give an instance of it, or {_SHAPE}")
    called = _adapt_call(metric, name)
    if later := returns_later(called):
        raise InputError(f"metric {name} is {later}; a metric is {_SHAPE}, that returns its score")
    try:
        signature = inspect.signature(called)
    except (TypeError, ValueError):
        raise InputError(f"metric {name} has no signature to check; wrap it in {_SHAPE}") from None
    required, arity = _positions(signature)
    if required > 5 or arity < 2:
        raise InputError(f"metric {name}{signature} cannot be called as a metric; a metric is {_SHAPE}")
    if binary is None:
        returns = signature.return_annotation
        binary = True if returns in (bool, "bool") else False if returns in (float, "float") else None
    return Metric(metric, name, binary=binary, feedback=feedback, required=max(required, 2), arity=arity)


def _adapt_call(metric: Callable[..., Any], name: str) -> Callable[..., Any]:
    """Return what a call of a metric ends up in: a module's ``forward``, for its ``__call__`` takes anything."""
    inner = metric
    while isinstance(inner, functools.partial):
        inner = inner.func
    if not isinstance(inner, dspy.Module):
        return metric
    if not hasattr(type(inner), "forward") and "forward" not in vars(inner):
        has = "has only aforward" if hasattr(type(inner), "aforward") else "has no forward"
        raise InputError(
            f"metric {name} {has}; a metric is called, so give it a forward that returns its score"
        )
    if inner is not metric:
        return metric
    # Asking the module itself logs a warning.
    forward: Callable[..., Any] = object.__getattribute__(inner, "forward")
    return forward


def _positions(signature: inspect.Signature) -> tuple[int, int]:
    """Return how many positional arguments a metric must be given, and how many it can be given."""
    required = arity = 0
    for parameter in signature.parameters.values():
        must = parameter.default is parameter.empty
        if parameter.kind is parameter.VAR_POSITIONAL:
            return required, 5
        if parameter.kind is parameter.KEYWORD_ONLY and must:
            return required, 0  # nothing will ever give it
        if parameter.kind not in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            continue
        if not must and parameter.default is not None and arity >= 2:
            break
        required += must
        arity += 1
    return required, min(arity, 5)


def _function_name(function: Any) -> str:
    function = function.func if isinstance(function, functools.partial) else function
    return getattr(function, "__name__", None) or type(function).__name__


def _describe_fields(make: Callable[..., Metric]) -> str:
    many = "[,field]" if make is exact_match else ""
    return f"the name of {'at least ' if many else ''}one field: {make.__name__}:field{many}"


def _field_metric(
    name: str,
    fields: tuple[str, ...],
    compare: Callable[[Any, Any], bool | float],
    *,
    binary: bool = False,
    options: str = "",
) -> Metric:
    if not fields or not all(isinstance(field, str) and field.isidentifier() for field in fields):
        given = ", ".join(map(_describe_value, fields)) or "none"
        raise InputError(f"{name} needs names of fields, such as {name}('answer'); got {given}")
    label = f"{name}({', '.join(map(repr, fields))}{options})"
    return Metric(compare, label, fields=fields, binary=binary)


def _read_answer(pred: Any, field: str) -> Any:
    """Return what an answer says; one that lacks the field is no wrong answer, but none."""
    if pred is None or (isinstance(pred, _BARE) and not hasattr(pred, "_fields")):
        if field == "output" and pred is not None:  # what evaluate calls the bare answer of a function
            return pred
        raise NoPrediction.of(pred)
    value = _read(pred, field)
    if value is _MISSING:
        names = ", ".join(map(repr, pred.keys())) if hasattr(pred, "keys") else ""
        has = f"it has {names or 'none'}" if hasattr(pred, "keys") else f"it is a {type(pred).__name__}"
        raise NoField(f"no field {field!r} in the answer; {has}")
    return value


def _read(record: Any, field: str) -> Any:
    # Not getattr on an Example: a field may be called items, labels or copy.
    if isinstance(record, dspy.Example | Mapping):
        return record.get(field, _MISSING)
    return getattr(record, field, _MISSING)


def _no_field(label: str, which: str, example: Any, field: str) -> InputError:
    names = ", ".join(map(repr, example.keys())) if hasattr(example, "keys") else "no fields"
    return InputError(f"metric {label}: {which} has no field {field!r}; it has {names}")


def _explain(gold: Any, pred: Any, fields: tuple[str, ...]) -> str:
    pairs = [(name, _read_answer(pred, name), _read(gold, name)) for name in fields]
    return " ".join(f"{name}: got {given!r}, expected {expected!r}." for name, given, expected in pairs)


def _describe_value(value: object) -> str:
    return " ".join(reprlib.repr(value).split())  # a Prediction's repr has several lines


def _f1(gold: Any, pred: Any) -> float:
    expected, given = words_of_both(gold, pred)
    if not expected or not given:
        return 0.0
    # The harmonic mean of precision and recall, 2PR / (P + R), in terms of the three counts.
    return 2 * len(expected & given) / (len(expected) + len(given))


def _credit(gold: Any, pred: Any) -> float:
    if same_stripped(gold, pred):
        return 1.0
    expected, given = words_of_both(gold, pred)
    if not given:
        return 0.0
    return len(expected & given) / max(len(expected), len(given))


METRICS: dict[str, Callable[..., Metric]] = {
    make.__name__: make for make in (exact_match, accuracy, token_f1, partial_credit)
}
"""What makes a metric of fields, by name."""
