"""sweep(): optimizers, language models and seeds under one budget, and a fair comparison of the best."""

from __future__ import annotations

import math
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import dspy

from dspy_nb.core.arguments import number_between, probability, whole_number
from dspy_nb.core.audience import Audience
from dspy_nb.core.data.identity import fingerprint
from dspy_nb.core.errors import DspyNbError, InputError, OptimizationFailed, failure_text
from dspy_nb.core.event_log import EventLog
from dspy_nb.core.events import Listener, warn_of
from dspy_nb.core.execution.workers import Workers, check_travels, open_workers
from dspy_nb.core.optimization.replay import RunDirectory, describe_program, describe_schemas, text_hash
from dspy_nb.core.optimization.task import Task
from dspy_nb.core.programs.adapters import describe_adapter
from dspy_nb.core.programs.interrupts import Interrupts
from dspy_nb.core.programs.lms import used_lms
from dspy_nb.core.programs.rate_limit import RateLimit, check_rate_limit, limited
from dspy_nb.core.supervision.budget import Budget
from dspy_nb.core.sweep import race as racing
from dspy_nb.core.sweep.answers import Prices, SharedAnswers
from dspy_nb.core.sweep.entries import Entry, Runner
from dspy_nb.core.sweep.finals import Arm, Finals, compare_finalists, merge
from dspy_nb.core.sweep.grid import AS_GIVEN, Grid, make_grid
from dspy_nb.core.sweep.ledger import Ledger, interruptible
from dspy_nb.core.sweep.report import make_result
from dspy_nb.core.sweep.result import SweepResult
from dspy_nb.core.sweep_events import CellEnded, CellStarted, SweepEnded, SweepStarted
from dspy_nb.core.text import value_text


def sweep(
    program: dspy.Module | Task,
    *,
    over: Mapping[str, Sequence[Any]],
    trainset: Sequence[dspy.Example] | None = None,
    metric: Callable[..., Any] | None = None,
    valset: Sequence[dspy.Example] | None = None,
    testset: Sequence[dspy.Example] | None = None,
    optimizer: str | None = None,
    options: Mapping[str, Any] | None = None,
    preset: str | None = None,
    seed: int | None = None,
    num_threads: int | None = None,
    executor: Workers | None = None,
    recompile: bool | None = None,
    budget: Budget | None = None,
    rate_limit: RateLimit | None = None,
    race: str | None = "auto",
    finalists: int = racing.FINALISTS,
    confidence: float = 0.95,
    prices: Prices | None = None,
    run_dir: str | Path | None = None,
    on_event: Listener | Sequence[Listener] | None = None,
    stop: threading.Event | None = None,
    progress: bool | None = None,
) -> SweepResult:
    """Try settings against each other: which optimizer, which language model, and is the cheap one good enough?

    Every combination of what ``over`` holds is a cell: an optimization of its own, with a lineage of its own, that
    never sees the testset. All cells share one budget, to the call, and one cache of answers: what one has asked is
    free for the others. They race for the budget by successive halving on the valset. The best program of each
    finalist, and the program as it was given, on the first of the models, then answer the testset; the leader on
    the valset is the baseline of that comparison, which is corrected for their number: the chance that any finalist
    is falsely told to be better or worse is at most 1 − ``confidence`` (Holm 1979, see ``compare_many``), and so is
    the chance that any is falsely told not to be worse (Bonferroni, see ``SweepResult.cheapest``).

    With a program, and no optimizer to vary or given, nothing is optimized: ``over={"lm": [...]}`` then answers on
    the testset alone whether a cheaper model will do. The first of them is what the others are compared with.

    Everything that can be wrong is found before the first LM call. A cell that fails is a row with its reason. An
    interrupt (Ctrl-C, or ``stop``) and the budget keep what there is; if the finalists were not compared by then,
    the result says so.

    Args:
        program: What to optimize; or a :class:`Task`, which has the arguments up to ``recompile``, and of whose own
            budget and rate limit the sweep makes its own if it gets none.
        over: What varies, to a list of values: "optimizer" (names, ``None`` for the program as it is), "preset",
            "options" (dicts), "lm" (``dspy.LM`` objects, or names) and "seed". Where it varies the language model,
            predictors have none of their own.
        trainset: see :class:`Task`, as for the others up to ``recompile``.
        metric: what to improve.
        valset: labelled examples that cells are compared on; needed where anything is optimized.
        testset: labelled examples that no cell sees, so none of the trainset or valset; needed.
        optimizer: of all cells, if it does not vary.
        options: likewise.
        preset: likewise.
        seed: likewise; also of the order of the test examples.
        num_threads: program calls at a time; the cells run one after the other.
        executor: where programs are asked, see :class:`Task`; for the comparison of the finalists too.
        recompile: accept a program that an optimizer has compiled before.
        budget: limits of the whole sweep, the comparison of the finalists included.
        rate_limit: the most requests and tokens a minute of all cells together, see :class:`RateLimit`.
        race: "halving", ``None`` to let every cell run to its end, or "auto": halving where there are more cells
            than finalists.
        finalists: how many cells are compared on the testset, the best on each language model among them, so at
            least as many as there are models. Where nothing is optimized, all are.
        confidence: 1 − α of all that is said of the finalists together.
        prices: by name of the model, US dollars for a million tokens sent, and for a million received. They win
            over those that DSPy knows.
        run_dir: directory that keeps every LM answer: the same call after a crash or a stop pays for none twice,
            and ends with the same table. The result is written there as ``result.json``, the events as
            ``events.jsonl``.
        on_event: one or several listeners for events, those of the calls within included.
        stop: an event that ends the sweep when set.
        progress: whether to show how it goes, in a notebook with a Stop button, in a terminal as a bar on stderr;
            by default where there is either, see ``optimize``.

    Raises:
        InputError: something is wrong with the arguments.
        OptimizationFailed: every cell failed, or no finalist answered any test example.
    """
    given = {
        "trainset": trainset, "metric": metric, "valset": valset, "testset": testset, "optimizer": optimizer,
        "options": options, "preset": preset, "seed": seed, "num_threads": num_threads, "recompile": recompile,
    }  # fmt: skip
    events = Audience(on_event, progress, stop)
    if race not in ("auto", "halving", None):
        raise InputError(f"race must be 'auto', 'halving' or None, got {value_text(race, 80)}")
    finalists = whole_number("finalists", finalists, minimum=1)
    confidence = probability("confidence", confidence)
    prices = _check_prices(prices)
    if isinstance(program, Task):
        budget, num_threads = budget or program.budget, program.num_threads
        executor = program.executor if executor is None else executor
        rate_limit = rate_limit or program.rate_limit
    budget = _check_limits(budget)
    check_rate_limit(rate_limit)
    grid = make_grid(program, over, given)
    finalists = grid.finalists(finalists)
    sizes = racing.rungs(len(grid.cells), finalists) if race is not None else [len(grid.cells)]
    reserve = 0 if budget.lm_calls is None else grid.comparison_calls(finalists)
    ledger = Ledger(budget, reserve, events.stop)
    _check_budget(grid, ledger)
    _check_priced(prices, grid)
    with tempfile.TemporaryDirectory() as nowhere, open_workers(executor) as opened:
        for model in {id(cell.model): cell.model for cell in grid.cells}.values():
            check_travels(opened, model.program, grid.metric, lm=model.lm)
        manifest = _manifest(grid, over, sizes, finalists, confidence)
        directory = RunDirectory(nowhere if run_dir is None else run_dir, manifest)
        log = None if run_dir is None else EventLog(directory.event_log)
        if log is not None:
            log.open()
            events.listeners.insert(0, log)
        try:
            with events, limited(rate_limit):
                work = _Sweep(
                    grid, ledger, sizes, finalists, confidence, num_threads, opened, directory, prices, events
                )
                events.send(
                    SweepStarted(
                        tuple(cell.name for cell in grid.cells), tuple(sizes) if grid.optimizes else (),
                        budget.limits(), "" if run_dir is None else str(run_dir),
                    )
                )  # fmt: skip
                result = work.run(tuple(over))
                if run_dir is not None:
                    try:
                        result.save(directory.path / "result.json")
                    except InputError as error:  # what was paid for is not lost with it
                        warn_of(str(error))
                calls, duration_s = result.usage.lm_calls, result.duration_s
                events.send(SweepEnded(result.best_name, str(result), calls, duration_s, result.stopped_by))
        finally:
            for side in (log, directory):
                if side is not None:
                    side.close()
    for warning in result.warnings:
        warn_of(warning)
    return result


class _Sweep:
    """One sweep at work."""

    def __init__(
        self,
        grid: Grid,
        ledger: Ledger,
        sizes: Sequence[int],
        finalists: int,
        confidence: float,
        num_threads: int | None,
        executor: Executor | None,
        directory: RunDirectory,
        prices: Prices,
        events: Audience,
    ) -> None:
        self._grid, self._ledger, self._sizes, self._finalists = grid, ledger, sizes, finalists
        self._confidence, self._num_threads, self._events = confidence, num_threads, events
        self._executor = executor
        ((setting, cache),) = directory.settings().items()
        self._answers = SharedAnswers(cache, prices)
        self._settings = {setting: self._answers}
        self._entries = [Entry(cell) for cell in grid.cells]
        self._runner = Runner(grid, ledger, self._settings, num_threads, executor, events.send)
        self._interrupts = Interrupts(ledger.stop)

    def run(self, axes: tuple[str, ...]) -> SweepResult:
        """Race, compare the finalists, and return what was found."""
        finals: Finals | str = "it ended before the finalists were compared"
        with self._interrupts.watched():
            with interruptible(self._ledger.stop), self._interrupts.breaking_off():
                self._race()
            programs = [entry for entry in self._entries if entry.program is not None]
            if not programs and not self._ledger.stop.is_set():
                reasons = "; ".join(f"{entry.cell.name}: {entry.reason}" for entry in self._entries[:3])
                raise OptimizationFailed(f"no cell came to a program: {reasons}")
            arms: list[Arm] = []
            if programs and not self._ledger.stop.is_set():
                arms = self._arms()
                with interruptible(self._ledger.stop), self._interrupts.breaking_off():
                    finals = self._compare(arms)
            stopped = None
            if self._ledger.stop.is_set():
                stopped = "interrupt" if self._interrupts.happened else "stop"
            return make_result(
                self._grid, self._entries, finals, axes=axes, ledger=self._ledger, answers=self._answers,
                confidence=self._confidence, sizes=self._sizes, stopped=stopped,
            )  # fmt: skip

    def _race(self) -> None:
        alive, last = list(self._entries), len(self._sizes) - 1
        for rung in range(last + 1):
            waiting = [entry for entry in alive if not entry.over]
            for place, entry in enumerate(waiting):
                if self._ledger.stop.is_set():
                    return
                self._advance(entry, (last - rung + 1) * (len(waiting) - place), 0.5 ** (last - rung))
            if rung < last:
                where = f"rung {rung + 1} of {last + 1}"
                alive = self._halve(alive, self._sizes[rung + 1], where)

    def _advance(self, entry: Entry, parts: int, fraction: float) -> None:
        cell = entry.cell
        most = None
        if fraction < 1:
            most = max(math.ceil(cell.calls * fraction) - entry.usage.lm_calls, 1)
        share = self._ledger.share(parts, most)
        left = self._ledger.left()
        if isinstance(share, Budget) and share.lm_calls is not None and share.lm_calls < cell.least:
            reach = cell.least if isinstance(left, str) or left.lm_calls is None else left.lm_calls
            share = Budget(**{**vars(share), "lm_calls": min(cell.least, reach)})
        limit = share.lm_calls if isinstance(share, Budget) else 0
        self._events.send(CellStarted(cell.name, entry.rung + 1, limit))
        self._runner.advance(entry, share)
        self._tell(entry)

    def _tell(self, entry: Entry) -> None:
        used = {**self._ledger.used.to_dict(), "elapsed_s": round(self._ledger.seconds, 3)}
        facts = entry.status, entry.reason, entry.score, entry.usage.lm_calls, used
        self._events.send(CellEnded(entry.cell.name, *facts))

    def _halve(self, alive: list[Entry], size: int, where: str) -> list[Entry]:
        """Drop the worse half of the entries."""
        kept = self._best(alive, size, least=min(2, self._finalists))
        for entry in alive:
            if entry not in kept and entry.status != "failed":
                entry.status = "dropped"
                behind = bool(kept) and racing.clearly_worse(entry.evaluation, kept[0].evaluation)
                why = "clearly worse than the leader" if behind else "others were ahead"
                entry.reason = f"after {where}, {why}"
                self._tell(entry)
        return kept

    def _best(self, entries: Sequence[Entry], size: int, least: int) -> list[Entry]:
        """Return the best entries that have a program, the leader first."""
        able = [entry for entry in entries if entry.program is not None] or [
            entry for entry in self._entries if entry.program is not None
        ]
        scores = [-1.0 if entry.score is None else entry.score for entry in able]
        leader = max(able, key=lambda entry: -1.0 if entry.score is None else entry.score, default=None)
        worse = [
            leader is not None and racing.clearly_worse(entry.evaluation, leader.evaluation) for entry in able
        ]
        places = racing.going_on(scores, [entry.cell.model.name for entry in able], worse, size, least)
        return [able[place] for place in places]

    def _arms(self) -> list[Arm]:
        """Return the finalists, the leader first, and the program as it was given."""
        if self._grid.optimizes:
            alive = [entry for entry in self._entries if entry.status == "done"]
            found = self._best(alive, self._finalists, least=min(2, self._finalists))
        else:
            found = self._entries
        arms = [Arm(one.cell.name, one.program, one.cell.model, (one.cell.number,)) for one in found]
        first = self._grid.cells[0].model
        cells = [cell for cell in self._grid.cells if cell.task is None and cell.model is first]
        given = Arm(cells[0].name if cells else AS_GIVEN, first.program, first, (0,))
        return merge([*arms, given])

    def _compare(self, arms: Sequence[Arm]) -> Finals | str:
        by_number = {entry.cell.number: entry for entry in self._entries}
        rates = []
        for arm in arms:
            known = by_number[arm.cells[0]].evaluation if arm.cells[0] else None
            calls = 0 if known is None else known.usage.lm_calls + known.usage.cache_hits
            rates.append(calls / known.n if known is not None and calls else float(self._grid.calls_per_run))
        self._events.send(CellStarted("", len(self._sizes) + 1))
        try:
            finals = compare_finalists(
                arms, rates, self._grid, self._ledger, self._answers, self._settings,
                confidence=self._confidence, num_threads=self._num_threads, executor=self._executor,
                seed=_seed(self._grid), send=self._events.send,
            )  # fmt: skip
        except DspyNbError as failure:
            return f"the finalists could not be compared: {failure_text(failure)}"
        if isinstance(finals, Finals) and all(one.errors.count == one.n for one in finals.evaluations):
            first = next(iter(finals.evaluations[0].errors.messages), "")
            raise OptimizationFailed(f"no finalist answered any test example: {first}")
        return finals


def _seed(grid: Grid) -> int:
    return next((cell.task.seed for cell in grid.cells if cell.task is not None), 0)


def _check_limits(budget: Any) -> Budget:
    if not isinstance(budget, Budget | None):
        found = value_text(budget, 80)
        raise InputError(f"budget must be a dspy_nb.Budget, e.g. Budget(lm_calls=500), got {found}")
    return budget or Budget()


def _check_budget(grid: Grid, ledger: Ledger) -> None:
    """Check that the budget reaches for every cell to begin, and for the comparison.

    Raises:
        InputError: It does not, or a budget in dollars cannot be enforced.
    """
    budget, least = ledger.budget, sum(cell.least for cell in grid.cells)
    if budget.lm_calls is not None and budget.lm_calls < ledger.reserve + least:
        raise InputError(
            f"a budget of {budget.lm_calls:,} LM calls is too small for this sweep: its cells need at least "
            f"{least:,} to begin with, and the comparison of the finalists {ledger.reserve:,}"
        )
    if budget.usd is not None:
        for cell in grid.cells:
            if not isinstance(getattr(cell.model.lm, "engine", ""), str):
                raise InputError(
                    f"a budget in usd needs models with known prices, {cell.model.name} has none; use lm_calls"
                )


def _check_prices(prices: Any) -> dict[str, tuple[float, float]]:
    if prices is None:
        return {}
    wanted = "prices must be a dict of model names to US dollars for a million tokens (sent, received)"
    if not isinstance(prices, Mapping):
        raise InputError(f"{wanted}, got {value_text(prices, 80)}")
    found = {}
    for name, pair in prices.items():
        if not isinstance(pair, Sequence) or isinstance(pair, str) or len(pair) != 2:
            raise InputError(f"{wanted}, got {value_text(pair, 80)} for {value_text(name, 80)}")
        sent, received = (number_between(f"prices of {name}", one, 0, 1e9) for one in pair)
        found[str(name)] = sent, received
    return found


def _check_priced(prices: Prices, grid: Grid) -> None:
    lms = [cell.model.lm for cell in grid.cells]
    names = {str(lm.model) for lm in (*lms, *used_lms(grid.program, lms[0]))}
    for name in prices.keys() - names:
        raise InputError(f"prices: no model of this sweep is {name}; there are {', '.join(sorted(names))}")


def _manifest(
    grid: Grid, over: Mapping[str, Any], sizes: Sequence[int], finalists: int, confidence: float
) -> dict[str, Any]:
    """Return what the sweep is, for its directory."""
    first = next((cell.task for cell in grid.cells if cell.task is not None), None)
    sets = {
        "valset": grid.valset,
        "testset": grid.testset,
        "trainset": () if first is None else first.trainset,
    }
    return {
        "sweep": sorted(over),
        "cells": [[cell.name, dict(cell.settings), cell.model.description] for cell in grid.cells],
        "program": describe_program(grid.program),
        "schemas": describe_schemas(grid.program),
        "adapter": dict(describe_adapter()),
        "metric": {"name": repr(grid.metric), "source": text_hash(grid.metric.source)},
        "race": [list(sizes), finalists, confidence],
        **{name: fingerprint(examples) if examples else None for name, examples in sets.items()},
    }
