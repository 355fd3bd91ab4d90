"""From the entries and the finals of a sweep to its result."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from dspy_nb.core.evaluation.scorecard import Evaluation
from dspy_nb.core.evidence import SweepEvidence
from dspy_nb.core.optimization.run import OptimizationRun
from dspy_nb.core.statistics.verdicts import decide
from dspy_nb.core.sweep.answers import Account, SharedAnswers
from dspy_nb.core.sweep.entries import Entry
from dspy_nb.core.sweep.finals import Finals, verdict_of
from dspy_nb.core.sweep.grid import AS_GIVEN, Grid
from dspy_nb.core.sweep.ledger import Ledger
from dspy_nb.core.sweep.result import Final, SweepCell, SweepResult


def make_result(
    grid: Grid,
    entries: Sequence[Entry],
    finals: Finals | str,
    *,
    axes: tuple[str, ...],
    ledger: Ledger,
    answers: SharedAnswers,
    confidence: float,
    sizes: Sequence[int],
    stopped: str | None,
) -> SweepResult:
    """Return the result.

    Args:
        grid: What was swept over.
        entries: The cells, as they ended.
        finals: What came of the finalists, or why nothing did.
        axes: Names of what varied.
        ledger: What was used.
        answers: The cache.
        confidence: 1 − α of all together.
        sizes: How many cells each rung was to have.
        stopped: "stop" or "interrupt", if it was.
    """
    found = finals if isinstance(finals, Finals) else None
    warnings = [] if found is not None else [f"the scores of the finalists are not known: {finals}"]
    if found is not None and (asked := found.evaluations[0].n) < (known := _distinct(found, grid)):
        warnings.append(f"the budget reached for {asked:,} of the {known:,} test examples")
    if found is not None:
        warnings += [
            f"{arm.name}: {one.errors.count:,} of {one.n:,} answers failed ({next(iter(one.errors.messages), '')})"
            for arm, one in zip(found.arms, found.evaluations, strict=True)
            if one.errors.count
        ]
    limit = ledger.left()
    if stopped is None and isinstance(limit, str) and any(_unfinished(entry) for entry in entries):
        stopped = limit
    cells = _cells(grid, entries, found)
    return SweepResult(
        cells=cells,
        axes=axes,
        given=_given(cells, found),
        best_name=_best(cells, entries, found),
        usage=ledger.used,
        replayed=answers.replayed,
        confidence=confidence,
        metric=grid.metric.label,
        n_validation=len(grid.valset),
        n_test=0 if found is None else found.evaluations[0].n,
        rungs=tuple(sizes) if grid.optimizes else (),
        stopped_by=stopped,
        warnings=tuple(warnings),
        duration_s=ledger.seconds,
        comparisons=None if found is None else found.comparisons,
        evidence=None if found is None else _evidence(found, cells, confidence),
    )


def _distinct(found: Finals, grid: Grid) -> int:
    if found.comparisons is None:
        return len(grid.testset)
    from dspy_nb.core.data.identity import example_id

    return len({example_id(example) for example in grid.testset})


def _unfinished(entry: Entry) -> bool:
    return entry.status == "waiting" or (entry.status == "done" and not entry.over)


def _cells(grid: Grid, entries: Sequence[Entry], found: Finals | None) -> tuple[SweepCell, ...]:
    place_of: dict[int, int] = {}
    if found is not None:
        place_of = {number: place for place, arm in enumerate(found.arms) for number in arm.cells}
        as_given = next((e.cell.number for e in entries if e.cell.name == found.arms[place_of[0]].name), 0)
        place_of.setdefault(as_given, place_of[0])  # it was dropped, and is compared all the same
    cells = [_cell(entry, found, place_of.get(entry.cell.number)) for entry in entries]
    if found is not None and not as_given and found.arms[place_of[0]].cells == (0,):
        first = grid.cells[0].model
        given = SweepCell(
            0, AS_GIVEN, {"lm": first.name}, "finalist", "the program as it was given", program=first.program
        )
        cells.insert(0, _with_final(given, found, place_of[0], None))
    return tuple(cells)


def _cell(entry: Entry, found: Finals | None, place: int | None) -> SweepCell:
    cell = entry.cell
    status = "waiting" if entry.status == "running" else entry.status
    made = SweepCell(
        number=cell.number,
        name=cell.name,
        settings=cell.settings,
        status=status,
        reason=entry.reason or "its turn never came",
        rung=entry.rung,
        validation_score=entry.score,
        usage=entry.usage,
        base_model=cell.model.lm.model,
        run=entry.run,
        program=entry.program,
    )
    return made if found is None or place is None else _with_final(made, found, place, entry.run)


def _with_final(cell: SweepCell, found: Finals, place: int, run: OptimizationRun | None) -> SweepCell:
    arm, evaluation = found.arms[place], found.evaluations[place]
    comparison = None if place == 0 or found.comparisons is None else found.comparisons[place - 1]
    if run is not None:
        run = _with_test(run, evaluation, _given_evaluation(found, place))
    gap = found.gaps[place]
    dropped = cell.status == "dropped"
    return replace(
        cell,
        status=cell.status if dropped else "finalist",
        reason=f"{cell.reason}; compared as the program that was given" if dropped else cell.reason,
        final=Final(
            score=evaluation.score,
            interval=evaluation.interval,
            n=evaluation.n,
            errors=evaluation.errors.count,
            verdict=verdict_of(comparison),
            difference=gap.difference,
            difference_interval=gap.interval,
            difference_confidence=gap.confidence,
            **_costs(found.accounts[place], evaluation.n),
        ),
        like=None if cell.name == arm.name else arm.name,
        program_sha256=evaluation.program_sha256,
        base_model=evaluation.base_model,
        evaluation=evaluation,
        run=run,
    )


def _costs(account: Account, n: int) -> dict[str, Any]:
    asked = account.answers > 0

    def each(value: float | None) -> float | None:
        return None if value is None or not asked else value / n

    return {
        "usd_per_call": each(account.usd),
        "tokens_per_call": each(account.tokens),
        "latency_ms": each(account.ms),
        "prompt_characters": account.characters / n,
    }


def _given_evaluation(found: Finals, place: int) -> Evaluation | None:
    """Return the evaluation of the program as it was given, if it was on the same model."""
    given = _given_place(found)
    same = found.arms[given].model.name == found.arms[place].model.name
    return found.evaluations[given] if same else None


def _given_place(found: Finals) -> int:
    return next(place for place, arm in enumerate(found.arms) if 0 in arm.cells)


def _with_test(run: OptimizationRun, after: Evaluation, before: Evaluation | None) -> OptimizationRun:
    """Return a run with its scores on the test examples."""
    copy = OptimizationRun(run.plan, threading.Event(), None, run.task)
    copy.end(replace(run.result, test_before=before, test_after=after))
    return copy


def _given(cells: Sequence[SweepCell], found: Finals | None) -> str:
    if found is None:
        return next((cell.name for cell in cells if cell.settings.get("optimizer") is None), AS_GIVEN)
    return found.arms[_given_place(found)].name


def _best(cells: Sequence[SweepCell], entries: Sequence[Entry], found: Finals | None) -> str | None:
    if found is not None:
        return found.arms[found.best].name
    able = [entry for entry in entries if entry.program is not None]
    if not able:
        return None
    return max(able, key=lambda entry: -1.0 if entry.score is None else entry.score).cell.name


def _evidence(found: Finals, cells: Sequence[SweepCell], confidence: float) -> SweepEvidence | None:
    """Return what is known of the best arm against the program as it was given."""
    given, best = _given_place(found), found.best
    if given == best or found.comparisons is None:
        return None
    evaluation, gap = found.evaluations[best], found.gaps[given]
    low, high = -gap.interval[1], -gap.interval[0]
    verdict, p_value, level = decide(low, high, 0.0), None, gap.confidence
    if 0 in (given, best):  # one of them is the leader: the test itself compared the two
        one = found.comparisons[max(given, best) - 1]
        turned = {"A better": "B better", "B better": "A better"} if best == 0 else {}
        verdict, p_value, level = turned.get(one.verdict, one.verdict), one.p_value, one.confidence  # type: ignore[assignment]
        low, high = (-one.interval[1], -one.interval[0]) if best == 0 else one.interval
    return SweepEvidence.of(
        evaluation,
        cell=found.arms[best].name,
        baseline=f"{AS_GIVEN} · {found.arms[given].model.name}",
        effect=-gap.difference,
        interval=(low, high),
        confidence=level,
        p_value=p_value,
        verdict=verdict,
        method=found.comparisons[0].method,
        margin=0.0,
        candidates=len(found.comparisons),
        overall_confidence=confidence,
    )
