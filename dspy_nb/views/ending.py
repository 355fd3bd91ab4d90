"""How the end of a run is worded: the verdict on held-out examples first, and what to do next."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from dspy_nb.core.events import HeldOut
from dspy_nb.views.documents import Score
from dspy_nb.views.wording import UNKNOWN, capitalize, count, describe_ending, level, percent

if TYPE_CHECKING:
    from dspy_nb.core.optimization.run import OptimizationRun

_COLOURS: Final = {"better": "good", "worse": "bad"}


def verdict_colour(held: HeldOut | None) -> str:
    """Return the colour of a run's end: green only for what is clearly better where it counts, red for worse."""
    return "warn" if held is None else _COLOURS.get(held.verdict, "warn")


def describe_change(held: HeldOut) -> str:
    """Return ``held-out 50.0% -> 50.0%, no clear difference``."""
    scores = f"{'validation' if held.validation else 'held-out'} {_scores(held)}"
    if held.verdict:
        return f"{scores}, {held.verdict}"
    return f"{scores}, scored in part" if None not in (held.before, held.after) else scores


def describe_verdict(held: HeldOut) -> str:
    """Return ``No clear difference on held-out examples: 50.0% -> 50.0%``."""
    where = "validation examples that the search did not use" if held.validation else "held-out examples"
    if held.verdict:
        return f"{capitalize(held.verdict)} on {where}: {_scores(held)}"
    if held.before is None and held.after is None:
        return f"Not scored on {where}"
    if held.after is None:
        return f"Not scored on {where} after the search, before: {percent(held.before or 0.0)}"
    if held.before is None:
        return f"{percent(held.after)} on {where}; there is no score before"
    return f"{capitalize(where)}, scored in part: {_scores(held)}"


def describe_evidence(held: HeldOut) -> str:
    """Return the scores and their difference with intervals, and on how many examples; "" without a verdict."""
    if held.difference is None or held.interval is None or held.verdict == "unchanged":
        return ""
    before, after = Score(held.before, held.before_interval), Score(held.after, held.after_interval)
    low, high = (f"{100 * end:+.1f}" for end in held.interval)
    change = f"{100 * held.difference:+.1f} points ({level(held.confidence)} interval {low} to {high})"
    return (
        f"Before {before}, after {after}: its score changed by {change} on {count(held.n, 'example')}; "
        f"{held.gained:,} scored higher than before, {held.lost:,} lower."
    )


def describe_flattery(score: float | None, before: float | None, candidates: int) -> str:
    """Return what to think of a score where nothing was held out; "" where there is none."""
    if score is None:
        return "Nothing was held out, and nothing was scored."
    change = percent(score) if before is None else f"{percent(before)} -> {percent(score)}"
    best = f"the best of {candidates:,} scores on" if candidates > 1 else "a score on"
    return f"Nothing was held out: {change} is {best} examples that the search saw, which flatters."


def describe_end(run: OptimizationRun) -> str:
    """Return in one line what a run came to."""
    held, ended = run.held_out, describe_ending(run.stopped_by, run.plan.budget.limits())
    if held is None:
        said = describe_flattery(run.score, run.baseline_score, len(run.candidates))
    else:
        said = f"{describe_verdict(held)}."
    return said if run.stopped_by is None else f"{capitalize(ended)}. {said}"


def say_next(step: str) -> str:
    """Return what to do next as it is said, on a line of its own."""
    return f"Next: {step}"


def _scores(held: HeldOut) -> str:
    return " -> ".join(UNKNOWN if score is None else percent(score) for score in (held.before, held.after))
