"""What changed from a version to a newer one as a document: how they score first, then line by line."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dspy_nb.core.registry.diff import VersionDiff
from dspy_nb.core.registry.measured import ClassChange, Measured, Paired, ScoreOf
from dspy_nb.views.documents import (
    Block,
    Cell,
    Changes,
    Details,
    Document,
    Note,
    Score,
    Table,
    Toned,
    document,
)
from dspy_nb.views.wording import UNKNOWN, count, level, moment, percent, points, say_rest

if TYPE_CHECKING:
    from dspy_nb.core.evaluation.pairing import Flip

_MOST_FLIPS = 20
_MOST_CLASSES = 20


@document.register
def _(diff: VersionDiff) -> Document:
    if diff.a == diff.b:
        nothing = f"{diff.a} is compared with itself: no difference"
        return Document("", [Note(nothing)], headline=nothing)
    order = f"{diff.a} is the older, made {moment(diff.made[0])}; {diff.b} the newer, made {moment(diff.made[1])}."
    measured, flips = _measured(diff), _all_flips(diff.measured.paired)
    lines: list[Block] = [
        Changes([(change.sign, change.text) for change in changes], section)
        for section, changes in diff.sections().items()
        if section != "score" or not measured
    ]
    head = Changes([("---", diff.a), ("+++", diff.b)])
    changed = ", ".join(
        f"{count(len(changes), 'line')} of {name}" for name, changes in diff.sections().items()
    )
    return Document(
        "",
        [head, Note(order), *measured, *(lines or [Note("no other difference")]), *flips],
        headline=f"{diff.a} → {diff.b}: {changed or 'no difference'}",
    )


def _measured(diff: VersionDiff) -> list[Block]:
    found = diff.measured
    if found.a.score is None and found.b.score is None:
        return []
    columns = ("score on", f"{diff.a} (older)", f"{diff.b} (newer)", "change")
    blocks: list[Block] = [Table(columns, _scores(found))]
    if found.paired is None:
        return [*blocks, Note(f"Not compared example by example: {found.why_not}.")]
    return [*blocks, *_paired(found.paired)]


def _scores(found: Measured) -> list[tuple[Cell, ...]]:
    a, b, paired = found.a, found.b, found.paired
    rows: list[tuple[Cell, ...]] = []
    same = paired is not None and all(
        one.score is not None and math.isclose(one.score, score, abs_tol=1e-9)
        for one, score in zip((a, b), paired.scores, strict=True)
    )
    if found.change is not None:
        change = _paired_change(paired) if paired is not None and same else _plain_change(found.change)
        rows.append((_kind(a), _score(a), _score(b), change))
    else:
        apart = "not comparable" if a.score is not None and b.score is not None else UNKNOWN
        rows += [(_kind(a), _score(a), UNKNOWN, apart)] if a.score is not None else []
        rows += [(_kind(b), UNKNOWN, _score(b), apart)] if b.score is not None else []
    if paired is not None and not (same and found.change is not None):
        name = "stored evaluations"
        rows.append((name, Score(paired.scores[0]), Score(paired.scores[1]), _paired_change(paired)))
    return rows


def _kind(one: ScoreOf) -> str:
    kinds = {"test": "test data", "validation": "validation data", "evaluation": "evaluation"}
    return kinds.get(one.kind or "", one.kind or UNKNOWN)


def _score(one: ScoreOf) -> Score:
    return Score(one.score, one.interval)


def _plain_change(change: float) -> Toned:
    """Word a change that is not paired; a difference in the tenths of points that are shown is none."""
    size = round(abs(100 * change), 1)
    if not size:
        return Toned("the same")
    return Toned(f"{'better' if change > 0 else 'worse'} by {size} points", "good" if change > 0 else "bad")


def _paired_change(paired: Paired) -> Toned:
    found = paired.difference
    size = 100 * found.difference
    interval = "without an interval" if math.isnan(found.interval[0]) else points(*found.interval)
    tone = {"better": "good", "worse": "bad"}.get(found.verdict, "")
    if not tone:
        return Toned(f"no clear difference: {size:+.1f} points {interval}")
    return Toned(f"{found.verdict} by {abs(size):.1f} points {interval}", tone)


def _paired(paired: Paired) -> list[Block]:
    found = paired.difference
    same = found.n - found.better - found.worse
    told = (
        f"Both answered the same {count(found.n, 'example')}, scored with {paired.metric}: the newer scored "
        f"higher on {found.better:,}, lower on {found.worse:,}, the same on {same:,}. The interval is paired, at "
        f"{level(paired.confidence)}."
    )
    return [Note(told), *_classes(paired)]


def _classes(paired: Paired) -> list[Block]:
    if not paired.classes:
        return []
    rows = [_class(one) for one in paired.classes[:_MOST_CLASSES]]
    before_and_after = ("recall, older", "recall, newer", "F1, older", "F1, newer")
    columns = (paired.field or "class", "examples", *before_and_after, "change of F1")
    caption = say_rest(_MOST_CLASSES, len(paired.classes), "classes")
    return [Table(columns, rows, frozenset(range(1, 6)), caption)]


def _class(one: ClassChange) -> tuple[Cell, ...]:
    before_and_after = [percent(value) for pair in (one.recall, one.f1) for value in pair]
    return one.label, one.support, *before_and_after, _plain_change(one.f1[1] - one.f1[0])


def _all_flips(paired: Paired | None) -> list[Block]:
    if paired is None:
        return []
    did = ("fixed", "broke") if paired.right_or_wrong else ("scored higher", "scored lower")
    up = [flip for flip in paired.flips if flip.difference > 0]
    down = [flip for flip in paired.flips if flip.difference < 0]
    return _flips(did[0], up) + _flips(did[1], down)


def _flips(did: str, flips: Sequence[Flip]) -> list[Block]:
    if not flips:
        return []
    from dspy_nb.views.comparison import flip_cells

    rows = [flip_cells(flip) for flip in flips[:_MOST_FLIPS]]
    caption = say_rest(_MOST_FLIPS, len(flips), "examples")
    table = Table(("input", "expected", "older", "newer"), rows, caption=caption)
    return [Details(f"What the newer {did} ({len(flips):,})", [table])]
