"""The finalists on the test examples, which no cell has seen: who is better, and who is not worse.

The leader was chosen on other examples, so it may be the baseline of tests that are none the worse for the choice.
All answer all examples, and one look is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import dspy

from dspy_nb.core.ab.compare import compare_many
from dspy_nb.core.ab.comparison import Comparison, Comparisons
from dspy_nb.core.data.identity import example_id
from dspy_nb.core.evaluation.evaluate import evaluate
from dspy_nb.core.evaluation.pairing import paired_difference
from dspy_nb.core.evaluation.scorecard import Evaluation
from dspy_nb.core.events import Event
from dspy_nb.core.programs.state import program_digest
from dspy_nb.core.supervision.guard import StopRun
from dspy_nb.core.sweep.answers import Account, SharedAnswers
from dspy_nb.core.sweep.grid import Grid
from dspy_nb.core.sweep.ledger import Ledger, Limits
from dspy_nb.core.sweep.models import Model

_FEWEST = 10  # examples; fewer say nothing


@dataclass(frozen=True, eq=False)
class Arm:
    """A finalist: a program on a model, of one or several cells that ended alike.

    Attributes:
        name: That of the first of its cells, or of the program as it was given.
        program: The program.
        model: Its language model.
        cells: Numbers of its cells.
    """

    name: str
    program: Any
    model: Model
    cells: tuple[int, ...]


@dataclass(frozen=True)
class Gap:
    """How far an arm is from the best one.

    Attributes:
        difference: Its score less that of the best one.
        interval: Of the difference, paired.
        confidence: Of the interval, such that all those of the sweep hold together.
    """

    difference: float
    interval: tuple[float, float]
    confidence: float


@dataclass(frozen=True)
class Finals:
    """What came of the finalists.

    Attributes:
        arms: The leader first.
        evaluations: Of each arm, on the same examples.
        comparisons: Of the others with the leader; ``None`` if there is no other.
        best: Place of the best arm: the leader, unless another one is shown to be better.
        gaps: Of each arm to the best one.
        accounts: What the answers of each arm took.
    """

    arms: tuple[Arm, ...]
    evaluations: tuple[Evaluation, ...]
    comparisons: Comparisons | None
    best: int
    gaps: tuple[Gap, ...]
    accounts: tuple[Account, ...]


def merge(arms: Sequence[Arm]) -> list[Arm]:
    """Return the arms without those that are another one's program on the same model."""
    merged: dict[tuple[str, str], Arm] = {}
    for arm in arms:
        try:
            what = program_digest(arm.program)
        except Exception:  # its state is no JSON
            what = str(id(arm.program))
        key = what, arm.model.name
        first = merged.get(key)
        merged[key] = arm if first is None else replace(first, cells=(*first.cells, *arm.cells))
    return list(merged.values())


def compare_finalists(
    arms: Sequence[Arm],
    rates: Sequence[float],
    grid: Grid,
    ledger: Ledger,
    answers: SharedAnswers,
    settings: Mapping[str, Any],
    *,
    confidence: float,
    num_threads: int | None,
    seed: int,
    send: Callable[[Event], object],
) -> Finals | str:
    """Return how the finalists compare, or why that is not known.

    If the budget does not reach for all test examples, it is for as many as it reaches for, drawn at random.

    Args:
        arms: The leader first.
        rates: LM calls that one answer of each takes, as far as that is known.
        grid: What they are compared on.
        ledger: What is left.
        answers: The cache, which keeps their accounts.
        settings: DSPy settings.
        confidence: 1 − α of all that is said of them.
        num_threads: Answers under way at once.
        seed: Of the order of the examples.
        send: Gets the events.
    """
    left = ledger.left(final=True)
    if isinstance(left, str):
        return "the budget was used up before the finalists were compared"
    distinct = len({example_id(example) for example in grid.testset})
    planned = distinct
    if left.lm_calls is not None:
        planned = min(planned, int(left.lm_calls / max(sum(rates), 1e-9)))
    if planned < min(_FEWEST, distinct):
        return f"the budget reached for {planned} test examples, too few to compare the finalists on"

    def ask(n: int, limits: Limits | None) -> tuple[list[Evaluation], Comparisons | None]:
        answers.accounts.clear()
        stop: Any = ledger.stop if limits is None else limits
        if len(arms) == 1:
            only = arms[0]
            with dspy.context(lm=only.model.for_arm(only.name)):
                one = evaluate(
                    only.program, grid.testset, grid.metric, num_threads=num_threads, confidence=confidence,
                    seed=seed, stop=stop, on_event=send,
                )  # fmt: skip
            return [one], None
        found = compare_many(
            arms[0].program, [arm.program for arm in arms[1:]], grid.testset, grid.metric, confidence=confidence,
            max_examples=n, sequential=False, num_threads=num_threads, seed=seed, stop=stop, on_event=send,
            lms=[arm.model.for_arm(arm.name) for arm in arms], names=[arm.name for arm in arms],
        )  # fmt: skip
        return [found.comparisons[0].a, *(one.b for one in found)], found

    asked = ledger.held(left, lambda limits: ask(planned, limits), settings)
    if asked is None and not ledger.stop.is_set():  # answers took more calls than others did before
        asked = _with_what_is_there(ask, planned, len(arms), answers, settings)
    if asked is None or not all(one.complete and one.n for one in asked[0]):
        return "it ended before the finalists were compared"
    if asked[1] is not None and not asked[1].complete:
        return "it ended before the finalists were compared"
    evaluations, comparisons = asked
    best, gaps = judge(evaluations, comparisons, confidence)
    accounts = tuple(answers.accounts.get(arm.name, Account()) for arm in arms)
    return Finals(tuple(arms), tuple(evaluations), comparisons, best, gaps, accounts)


def _with_what_is_there(
    ask: Callable[[int, Limits | None], Any],
    planned: int,
    arms: int,
    answers: SharedAnswers,
    settings: Mapping[str, Any],
) -> Any:
    """Compare on the first of the examples, as many as all were asked before the budget was used up."""
    answers.closed = True
    try:
        while arms > 1 and (planned := 3 * planned // 4) >= _FEWEST:
            try:
                with dspy.context(**settings):
                    return ask(planned, None)
            except StopRun:
                continue
        return None
    finally:
        answers.closed = False


def judge(
    evaluations: Sequence[Evaluation], comparisons: Comparisons | None, confidence: float
) -> tuple[int, tuple[Gap, ...]]:
    """Return the place of the best arm, and how far each is from it.

    The best is the leader, which was chosen on other examples, unless one of the K others is shown to be better:
    then it is the one of those with the largest difference. As long as the leader is the best, the intervals of the
    gaps are at 1 − α/K. Another best one was chosen on these very examples, so that any pair may be the one that is
    looked at, and the intervals are at 1 − α/(K (K + 1)/2). A gap that is told to be no worse than a margin is
    one-sided, for which either takes α/2: the chance that any is told so wrongly is at most α.

    Source: Bonferroni's inequality; the verdicts are Holm's, see ``compare_many``. Reading whether something is
    not worse by a margin off a confidence interval: Westlake (1972), "Use of confidence intervals in analysis of
    comparative bioavailability trials", Journal of Pharmaceutical Sciences 61, 1340-1341.
    """
    best, others = 0, len(evaluations) - 1
    if comparisons is not None and (winner := comparisons.winner) is not None:
        best = 1 + comparisons.comparisons.index(winner)
    pairs = max(others if best == 0 else others * (others + 1) // 2, 1)
    level = 1 - (1 - confidence) / pairs
    gaps = []
    for place, one in enumerate(evaluations):
        if place == best:
            gaps.append(Gap(0.0, (0.0, 0.0), level))
            continue
        found = paired_difference(replace(one, confidence=level), evaluations[best])
        gaps.append(Gap(found.difference, found.interval, level))
    return best, tuple(gaps)


def verdict_of(comparison: Comparison | None) -> str:
    """Return in words how an arm stands against the leader."""
    if comparison is None:
        return "leader"
    words = {"B better": "better", "A better": "worse", "inconclusive": "not told apart"}
    return words.get(comparison.verdict, comparison.verdict)
