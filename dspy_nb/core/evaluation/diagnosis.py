"""What stands out in the answers behind a score, counted from what was recorded, with the examples behind it.

Each rule has a threshold of its own, so that a handful of examples, or classes that are unbalanced by nature, give
no finding.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, Final, Protocol

from dspy_nb.core.data.equality import is_gap
from dspy_nb.core.evaluation.labels import is_categorical, label_text
from dspy_nb.core.execution.attempts import Failure
from dspy_nb.core.programs.lm_call import AnswerCount, LMCall
from dspy_nb.core.text import excerpt

_FEW: Final = 3  # of answers with the same fault that are no coincidence
_ENOUGH: Final = 10  # answers from which on their distribution says something
_COMMON: Final = 0.75  # share of the answers that are one and the same
_EXCESS: Final = 0.2  # by which it exceeds the share that should be so
_CHANCE: Final = 0.01  # of such an excess, were it only luck
_SHARE: Final = 0.1  # of all answers with a fault that is worth a line
_LONGEST_KEY: Final = 1000  # characters by which answers are compared
_EXPLAINS_0: Final = ("metric", "missing_field", "empty_field", "spelling", "one_class", "same_answer")
_MOST_EXAMPLES: Final = 1000
_CUT: Final = "cut off by the limit of tokens"


@dataclass(frozen=True)
class Finding:
    """One thing that stands out.

    Attributes:
        kind: "errors", "metric", "truncated", "second_try", "missing_field", "empty_field", "spelling",
            "one_class", "same_answer", "all_wrong" or "same_scores".
        text: What it is, and what helps, on one line.
        count: How many answers (or LM calls, or candidates) it is about.
        of: Out of how many.
        examples: Places in the data set (``ExampleResult.index``) of the examples behind it, ascending;
            the first 1,000.
        where: Of a comparison, the arm: "A" or "B"; of an optimization, "before", "after" (held-out examples) or
            "search".
    """

    kind: str
    text: str
    count: int
    of: int
    examples: tuple[int, ...] = ()
    where: str = ""


class _Result(Protocol):
    """What is asked of the result of an example: that which an ``ExampleResult`` says under these names."""

    @property
    def index(self) -> int: ...
    @property
    def example_id(self) -> str: ...
    @property
    def expected(self) -> dict[str, Any]: ...
    @property
    def predicted(self) -> dict[str, Any]: ...
    @property
    def score(self) -> bool | float | None: ...
    @property
    def scores(self) -> dict[str, bool | float | None]: ...
    @property
    def error(self) -> Failure | None: ...
    @property
    def calls(self) -> tuple[LMCall, ...]: ...


def diagnose(results: Sequence[_Result]) -> tuple[Finding, ...]:
    """Return what stands out in the results of one program, the most serious first."""
    answered = [result for result in results if result.predicted]
    found: list[Finding] = []
    rules = (_errors, results), (_metric_errors, answered), (_calls, results), (_fields, answered)
    for rule, about in (*rules, (_all_wrong, answered)):
        # Values of somebody's own class may fail at anything; the answers must not be lost because of that.
        with contextlib.suppress(Exception):
            found += rule(about)
    explained = any(finding.kind in _EXPLAINS_0 for finding in found)
    return tuple(finding for finding in found if not (finding.kind == "all_wrong" and explained))


def under(finding: Finding, where: str, title: str) -> Finding:
    """Return the finding as one of several programs, whose title goes before its text."""
    return replace(finding, where=where, text=f"{title}: {finding.text}")


# -- what failed ------------------------------------------------------------------------------------------------

_HELP: Final = {
    "AdapterParseError": "the answers are not in the format that was asked for; look at them, or try another "
    "adapter, such as dspy.configure(adapter=dspy.JSONAdapter())",
    "ContextWindowExceededError": "the prompts are too long for the language model",
    "LMRateLimitError": "fewer at a time help: num_threads=…",
    "Timeout": "give more time: timeout_s=…",
}


def _errors(results: Sequence[_Result]) -> Iterator[Finding]:
    failed = [result for result in results if result.error and not result.predicted]
    if not failed:
        return
    kind, count = Counter(result.error.kind for result in failed if result.error).most_common(1)[0]
    if count < max(_FEW, _SHARE * len(results), len(failed) / 2):
        return
    same = [result for result in failed if result.error and result.error.kind == kind]
    assert same[0].error is not None
    text = f"{_n_of(count, results)} failed with {_say_error(kind, same[0].error.message)}"
    yield _finding("errors", text, same, len(results))


def diagnose_errors(kinds: Mapping[str, int], first: Mapping[str, str]) -> tuple[Finding, ...]:
    """Return what stands out in errors of which only their number is known.

    Args:
        kinds: How many there were of each type.
        first: The first message of each type.
    """
    count = sum(kinds.values())
    kind = max(kinds, key=lambda name: kinds[name], default="")
    if count < _FEW or kinds[kind] < count / 2:
        return ()
    text = f"{n_of(kinds[kind], count, 'errors')} are {_say_error(kind, first.get(kind, ''))}"
    return (Finding("errors", text, kinds[kind], count),)


def _say_error(kind: str, message: str) -> str:
    text = f"{kind}: {excerpt(message, 120)}"
    return f"{text} ({_HELP[kind]})" if kind in _HELP else text


def _metric_errors(answered: Sequence[_Result]) -> Iterator[Finding]:
    for name in dict.fromkeys(name for result in answered for name in result.scores):
        failed = [result for result in answered if result.scores.get(name, 0) is None]
        if failed:
            reasons = [result.error for result in failed if result.error]
            why = f" ({reasons[0].kind}: {excerpt(reasons[0].message, 120)})" if reasons else ""
            count = n_of(len(failed), len(answered), "answers")
            yield _finding(
                "metric", f"metric {name} failed on {count}, which count as wrong{why}", failed, len(answered)
            )


# -- what the language model did --------------------------------------------------------------------------------


def _calls(results: Sequence[_Result]) -> Iterator[Finding]:
    asked = [result for result in results if result.calls]
    answers = AnswerCount()
    for result in asked:
        for call in result.calls:
            answers.take(call)
    cut = [result for result in asked if any(call.truncated for call in result.calls)]
    if cut:
        text = _say_cut_off(f"on {_n_of(len(cut), asked)}", answers)
        yield _finding("truncated", text, cut, len(asked))
    again = [result for result in asked if any(call.second_try for call in result.calls)]
    if len(again) >= _is_often(len(asked)):
        text = _say_second_try(f"on {_n_of(len(again), asked)}", answers)
        places = {result.index for result in cut}
        if sum(result.index in places for result in again) * 2 > len(again):
            text += f"; most of these answers were {_CUT}, so raise that first"
        yield _finding("second_try", text, again, len(asked))


def diagnose_answers(count: AnswerCount) -> tuple[Finding, ...]:
    """Return what stands out in the answers of a language model where only their number is known."""
    findings, all_answers = [], f"{count.answers:,} LM calls"
    if count.truncated:
        text = _say_cut_off(f"on {count.truncated:,} of {all_answers}", count)
        findings.append(Finding("truncated", text, count.truncated, count.answers))
    if count.second_tries >= _is_often(count.answers):
        text = _say_second_try(f"on {count.second_tries:,} of {all_answers}", count)
        findings.append(Finding("second_try", text, count.second_tries, count.answers))
    return tuple(findings)


def _is_often(n: int) -> float:
    """Return how many of ``n`` second tries are more than a slip."""
    return max(2, n / 20)


def _say_cut_off(on: str, count: AnswerCount) -> str:
    of = f" of {', '.join(count.lms[:3])}" if count.lms else ""
    at = f" after {count.limit:,} tokens" if count.limit else ""
    more = f"max_tokens={2 * count.limit}" if count.limit else "a larger max_tokens"
    return f"{on} the answer{of} was {_CUT}{at}; give the LM {more}"


def _say_second_try(on: str, count: AnswerCount) -> str:
    calls, first = count.answers, count.answers - count.second_tries
    doubled = ", twice as many" if calls == 2 * first else ""
    return (
        f"{on} the answer was not in the adapter's format, so DSPy asked again with JSONAdapter: "
        f"{calls:,} LM calls instead of {first:,}{doubled}; dspy.configure(adapter=dspy.JSONAdapter()) asks once"
    )


# -- what the answers say ---------------------------------------------------------------------------------------


def _fields(answered: Sequence[_Result]) -> Iterator[Finding]:
    expected = dict.fromkeys(name for result in answered for name in result.expected)
    predicted = dict.fromkeys(name for result in answered for name in result.predicted)
    compared = _compared(answered, expected)
    pairs = [(name, name) for name in expected if name in predicted]
    right = any(_is_right(result) for result in answered)
    missing = [name for name in compared or expected if name not in predicted]
    enough = _FEW if compared or not pairs else _ENOUGH  # what no metric compares need not be in an answer
    if missing and not right and len(answered) >= enough:
        has, names = ", ".join(map(repr, predicted)), " and ".join(map(repr, missing))
        text = f"no answer has the field {names}, which the examples have; the answers have {has}"
        yield _finding("missing_field", text, answered, len(answered))
    if not pairs and len(expected) == 1:  # a metric of one's own may compare fields of different names
        others = [name for name in predicted if name != "reasoning"]
        pairs = [(next(iter(expected)), others[0])] if len(others) == 1 else []
    yield from _spelling(answered, pairs, compared)
    for label, name in pairs:
        yield from _empty(answered, name, label)
        yield from _one_answer(answered, label, name)
    for name in predicted:
        if name not in {name for _, name in pairs}:
            yield from _empty(answered, name, None)
            yield from _one_text(answered, name)


def _compared(answered: Sequence[_Result], expected: Collection[str]) -> list[str]:
    """Return the fields that the first metric compares, as its label says; none if it does not."""
    label = next((name for result in answered[:1] for name in result.scores), "")
    return [name for name in re.findall(r"'([^']+)'", label.partition("(")[2]) if name in expected]


def _empty(answered: Sequence[_Result], name: str, label: str | None) -> Iterator[Finding]:
    """A field that always comes without a value, although there is a label; without labels, always as ``''``."""
    some = [r for r in answered if label is None or not _is_empty(r.expected.get(label))]
    if label is None:
        empty = [r for r in some if isinstance(value := r.predicted.get(name, 0), str) and not value.strip()]
    else:
        empty = [r for r in some if _is_empty(r.predicted.get(name))]
    if len(empty) >= _FEW and len(empty) >= 0.9 * len(some):
        text = f"the field {name!r} is empty in {n_of(len(empty), len(some), 'answers')}"
        yield _finding("empty_field", text, empty, len(some))


def _spelling(
    answered: Sequence[_Result], pairs: Sequence[tuple[str, str]], compared: Sequence[str]
) -> Iterator[Finding]:
    """Answers that count as wrong, and would be right but for case, white space or a final stop."""
    judged = [pair for pair in pairs if pair[0] in compared] or pairs
    if not judged:
        return
    alike = {pair: [r for r in answered if _is_near(r, *pair)] for pair in judged}
    wrong = [result for result in answered if result.score is not None and not _is_right(result)]
    if compared or len(judged) == 1:
        everywhere = [set(map(id, alike[pair])) for pair in judged]
        near = [r for r in wrong if all(id(r) in one for one in everywhere) and _differs(r, judged)]
        names = [name for _, name in judged]
    else:  # it is not known which field counts: one that is never exactly equal, and often nearly
        names, near = [], []
        for label, name in judged:
            exact = not all(_differs(r, [(label, name)]) for r in answered)
            close = [r for r in alike[label, name] if not _is_right(r)]
            if not exact and len(close) == len(alike[label, name]) >= len(answered) / 2:
                names, near = [name], close
    if len(near) < max(_FEW, _SHARE * len(answered)):
        return
    pair = next(pair for pair in judged if pair[1] in names)
    first = next((r for r in near if _differs(r, [pair])), near[0])
    example = f"{_say(first.predicted.get(pair[1]))} for {_say(first.expected.get(pair[0]))}"
    text = (
        f"{n_of(len(near), len(answered), 'answers')} count as wrong although only case, white space or "
        f"punctuation differs in {' and '.join(map(repr, names))} ({example}); "
        f"nb.exact_match({names[0]!r}) looks past case and white space"
    )
    yield _finding("spelling", text, near, len(answered))


def _one_answer(answered: Sequence[_Result], label: str, name: str) -> Iterator[Finding]:
    """Nearly all answers are the same, and far more than should be.

    That is at least three quarters, at least 20 points above the share for which it is right, and a difference
    that luck gives in at most one of 100 cases (Chernoff's bound of the binomial tail).
    """
    rows = [r for r in answered if not is_gap(r.expected.get(label)) and not _is_empty(r.predicted.get(name))]
    if len(rows) < _ENOUGH:
        return
    top, count = Counter(_key(r.predicted[name]) for r in rows).most_common(1)[0]
    given = [r for r in rows if _key(r.predicted[name]) == top]
    # Also where the metric says so: it may read labels in another way.
    due = {id(r) for r in rows if _key(r.expected[label]) == top} | {id(r) for r in given if _is_right(r)}
    share, should = count / len(rows), len(due) / len(rows)
    if (
        share < _COMMON
        or share - should < _EXCESS
        or len(rows) * _divergence(share, should) < -math.log(_CHANCE)
    ):
        return
    classes = is_categorical([r.expected[label] for r in rows])
    wrong = [r for r in given if id(r) not in due]
    says = f"{_say(given[0].predicted[name])} ({name})"
    right = f"{len(due):,}" if due else "none"
    text = (
        f"{n_of(count, len(rows), 'answers')} are {says}, although that is right for {right} of {len(rows):,}"
    )
    yield _finding("one_class" if classes else "same_answer", text, wrong or given, len(rows), count)


def _one_text(answered: Sequence[_Result], name: str) -> Iterator[Finding]:
    """A text that is the same for every example, whatever its inputs, where no label tells what it should be."""
    values = [result.predicted.get(name) for result in answered]
    if len({result.example_id for result in answered}) < _ENOUGH or not all(
        isinstance(v, str) for v in values
    ):
        return
    if str(values[0]).strip() and len(set(map(_key, values))) == 1:
        text = f"the field {name!r} is the same in all {len(values):,} answers: {_say(values[0])}"
        yield _finding("same_answer", text, answered, len(answered))


def _all_wrong(answered: Sequence[_Result]) -> Iterator[Finding]:
    scores = [result.score for result in answered if result.score is not None]
    if len(scores) == len(answered) >= _ENOUGH and not any(scores):
        text = (
            f"all {len(answered):,} answers score 0; look at some: the metric may compare something else than "
            "what the program says"
        )
        yield _finding("all_wrong", text, answered, len(answered))


def _divergence(p: float, q: float) -> float:
    """Return the Kullback-Leibler divergence of one coin from another, in nats."""
    terms = ((p, q), (1 - p, 1 - q))
    return sum(a * (math.log(a / b) if b > 0 else math.inf) for a, b in terms if a > 0)


# -- candidates of a search -------------------------------------------------------------------------------------


def diagnose_candidates(scored: Sequence[tuple[float, int]]) -> tuple[Finding, ...]:
    """Return what stands out in the scores of candidates.

    Args:
        scored: Score and number of examples of each candidate that was scored on all of them, the program as it
            was given among them.
    """
    scores = [score for score, n in scored if n >= _FEW]
    n = len(scores)
    if n < 2 or len(set(scores)) > 1 or (n < _FEW and 0 < scores[0] < 1):
        return ()
    if scores[0] >= 1:
        why = "the program is right on all these examples as it was given; it takes harder ones to learn from"
    elif scores[0] <= 0:
        why = "there is nothing to learn from; look whether metric and answers speak of the same"
    else:
        why = "nothing tells them apart; more examples, or another optimizer, may"
    return (Finding("same_scores", f"all {n:,} candidates score {scores[0]:.1%}: {why}", n, n),)


# -- words ------------------------------------------------------------------------------------------------------


def _finding(kind: str, text: str, results: Iterable[_Result], of: int, count: int | None = None) -> Finding:
    listed = list(results)
    places = tuple(sorted({result.index for result in listed})[:_MOST_EXAMPLES])
    return Finding(kind, text, len(listed) if count is None else count, of, places)


def _n_of(count: int, results: Sequence[_Result]) -> str:
    repeated = len({result.index for result in results}) < len(results)
    return n_of(count, len(results), "attempts" if repeated else "examples")


def n_of(count: int, of: int, what: str) -> str:
    """Return ``3 of 40 answers``, or ``all 40 answers``."""
    return f"all {of:,} {what}" if count == of > 1 else f"{count:,} of {of:,} {what}"


def _is_right(result: _Result) -> bool:
    return result.score is not None and result.score >= 1


def _differs(result: _Result, pairs: Iterable[tuple[str, str]]) -> bool:
    def raw(value: Any) -> tuple[str, str]:
        value = value.value if isinstance(value, Enum) else value
        return type(value).__name__, str(value)

    return any(raw(result.expected.get(label)) != raw(result.predicted.get(name)) for label, name in pairs)


def _is_near(result: _Result, label: str, name: str) -> bool:
    expected, predicted = result.expected.get(label), result.predicted.get(name)
    if _is_empty(expected) or _is_empty(predicted):
        return False
    return _key(expected).strip(_MARKS) == _key(predicted).strip(_MARKS)


_MARKS: Final = " .!?,;:'\"`*()[]"


def _key(value: Any) -> str:
    """Return what is the same for values that differ only in case, white space and type."""
    return " ".join(label_text(value)[:_LONGEST_KEY].casefold().split())


def _is_empty(value: Any) -> bool:
    if isinstance(value, str):
        return not value.strip()
    return value is None or (isinstance(value, list | tuple | set | Mapping) and not value)


def _say(value: Any) -> str:
    value = value.value if isinstance(value, Enum) else value
    return repr(excerpt(value, 60)) if isinstance(value, str) else excerpt(label_text(value), 60)
