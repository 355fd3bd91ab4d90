"""How cells race: by successive halving, so that hopeless settings get little of the budget.

Source: Jamieson and Talwalkar (2016), "Non-stochastic best arm identification and hyperparameter optimization",
AISTATS 51, 240-248: each rung gets an equal share of the budget, and its better half goes on to the next. Here the
halves are told apart by the validation scores of the best programs so far, and a program that is clearly worse than
the leader, example by example, goes with the worse half. What races saves is spent on those that are left. The race
only looks at validation examples, so whatever it drops, the comparison on the test examples is fair to the others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from dspy_nb.core.evaluation.scorecard import Evaluation
from dspy_nb.core.supervision.racing import mean_and_deviation

FINALISTS: Final = 3
_STANDARD_ERRORS: Final = 2.0
_LEAST_EXAMPLES: Final = 16


def rungs(cells: int, finalists: int) -> list[int]:
    """Return how many cells each rung has: 12 cells and 3 finalists are [12, 6, 3]."""
    sizes = [cells]
    while sizes[-1] > finalists:
        sizes.append(max(finalists, math.ceil(sizes[-1] / 2)))
    return sizes


def clearly_worse(one: Evaluation | None, leader: Evaluation | None) -> bool:
    """Tell whether a program is worse than the leader by more than two standard errors, paired by example."""
    if one is None or leader is None or one.n != leader.n or one.n < _LEAST_EXAMPLES:
        return False
    pairs = zip(one.results, leader.results, strict=True)
    differences = [float(a.score or 0) - float(b.score or 0) for a, b in pairs]
    mean, deviation = mean_and_deviation(differences)
    return mean + _STANDARD_ERRORS * deviation / math.sqrt(len(differences)) < 0


def going_on(
    scores: Sequence[float | None],
    models: Sequence[str],
    worse: Sequence[bool],
    size: int,
    least: int,
) -> list[int]:
    """Return the places of those that go on, the best first; of equals the earlier one.

    The best on each model always does, for a cheaper model is not chosen for its score alone.

    Args:
        scores: On the validation examples; ``None`` for one that has failed and never goes on.
        models: The language model of each.
        worse: Which are clearly worse than the leader.
        size: How many go on, those with the best of each model included.
        least: How many go on at the least, clearly worse or not.
    """
    alive = [place for place, score in enumerate(scores) if score is not None]
    ranked = sorted(alive, key=lambda place: (-(scores[place] or 0.0), place))
    first: dict[str, int] = {}
    for place in ranked:
        first.setdefault(models[place], place)
    kept = set(first.values())
    for place in ranked:
        if len(kept) < min(size, len(ranked)) and (not worse[place] or len(kept) < least):
            kept.add(place)
    return [place for place in ranked if place in kept]
