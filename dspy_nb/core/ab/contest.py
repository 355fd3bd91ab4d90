"""The contest itself: ask the baseline and its candidates, count, and judge."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import dspy

from dspy_nb.core.ab.comparison import Comparisons
from dspy_nb.core.ab.duel import A, B, Duel, DuelJobs, DuelWork, examples_compared
from dspy_nb.core.ab.judging import Terms, comparison_of, findings
from dspy_nb.core.data.identity import fingerprint
from dspy_nb.core.data.metrics import Metric
from dspy_nb.core.errors import InputError
from dspy_nb.core.evaluation.evaluate import evaluation_of
from dspy_nb.core.evaluation.scorecard import Evaluation
from dspy_nb.core.evaluation.side_effects import watch
from dspy_nb.core.events import Broadcaster, Compared
from dspy_nb.core.execution import threads
from dspy_nb.core.execution.attempts import is_asynchronous
from dspy_nb.core.execution.executors import run_on
from dspy_nb.core.execution.opening import Opening
from dspy_nb.core.execution.workers import Workers, open_workers
from dspy_nb.core.programs.interrupts import Interrupts
from dspy_nb.core.programs.lms import are_confusable, name_lms, used_lms, without_cache
from dspy_nb.core.programs.rate_limit import limited


@dataclass(frozen=True)
class Contest:
    """What was asked for, checked."""

    examples: list[dspy.Example]
    metrics: dict[str, Metric]
    terms: Terms
    order: list[int]  # places in the data set, as drawn
    num_threads: int | None
    timeout_s: float | None
    adapter: Any
    stop: threading.Event
    executor: Workers | None
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Entrant:
    """A program, what it is called, and the LM that it has instead of the usual one."""

    program: Any
    name: str
    lm: Any


def fight(contest: Contest, entrants: Sequence[Entrant], events: Broadcaster) -> Comparisons:
    """Ask, count, and judge; an interrupt ends the asking, and what was answered is judged.

    The first of the entrants is the baseline, the others are its candidates.

    Raises:
        InputError: The programs cannot be compared, and nothing was spent; or the metric returns no score.
        NoPrediction, NoField: The first answers of a program were none, or lack what the metric compares.
    """
    work, warnings = _work(contest, entrants)
    warnings = (*warnings, *contest.warnings)
    terms = replace(contest.terms, candidates=len(entrants) - 1)
    binary = next(iter(contest.metrics.values())).binary
    drawn = [contest.examples[index] for index in contest.order]
    duels = [
        Duel(terms.planned, binary, terms.level, terms.margin, sequential=terms.sequential, examples=drawn)
        for _ in entrants[1:]
    ]
    jobs = DuelJobs(drawn, duels)
    interrupts = Interrupts(contest.stop)
    started = time.perf_counter()

    def standing(over: bool = False) -> Compared:
        candidates = tuple(duel.standing(one.name) for one, duel in zip(entrants[1:], duels, strict=True))
        facts = entrants[0].name, candidates, terms.margin, time.perf_counter() - started, over
        done, happened = examples_compared(duels), interrupts.happened
        return Compared(done, terms.planned, *facts, interrupted=happened, waited_s=waited())

    opening = Opening([one.name for one in entrants])
    warn_of_changes = watch([one.program for one in entrants])
    with (
        events,
        limited(None) as waited,
        interrupts.watched(),
    ):  # from here on an interrupt loses nothing: it ends what is under way
        with (
            contextlib.suppress(KeyboardInterrupt),
            interrupts.breaking_off(),
            open_workers(contest.executor) as executor,
        ):
            events.send(standing())
            run: Callable[..., Any] = threads.run
            if executor is not None:
                run = partial(run_on, executor, together=jobs.together, early=terms.sequential)
            run(
                work,
                jobs,
                num_threads=contest.num_threads,
                timeout_s=contest.timeout_s,
                stop=contest.stop,
                progress=lambda tally: events.update(standing),
                landed=jobs.land,
                opening=opening,
            )
        with contextlib.suppress(KeyboardInterrupt):
            warn_of_changes()
        bad = next((duel.bad_metric for duel in duels if duel.bad_metric is not None), None)
        if bad is not None:
            raise InputError(f"{next(iter(contest.metrics))} is no metric to compare by: {bad}")
        if opening.error is not None:
            raise opening.error
        duration_s = time.perf_counter() - started
        data = fingerprint(contest.examples)
        comparisons = []
        for one, duel, finding in zip(entrants[1:], duels, findings(duels, terms), strict=True):
            scores = (
                _evaluation(contest, entrants[0], duel, A, data),
                _evaluation(contest, one, duel, B, data),
            )
            names = entrants[0].name, one.name
            comparisons.append(comparison_of(duel, finding, scores, names, terms, warnings, duration_s))
        found = Comparisons(
            comparisons=tuple(comparisons),
            baseline=entrants[0].name,
            confidence=terms.confidence,
            margin=terms.margin,
            sequential=terms.sequential,
            metric=next(iter(contest.metrics)),
            n_planned=terms.planned,
            seed=terms.seed,
            warnings=warnings,
            duration_s=duration_s,
        )
        with contextlib.suppress(KeyboardInterrupt):
            texts = tuple(finding.text for finding in found.findings)
            last = standing(over=True)
            judged = tuple(  # without looks in between, a verdict is known only now
                replace(one, verdict=judgement.verdict, n_at_verdict=judgement.n_at_verdict)
                for one, judgement in zip(last.candidates, comparisons, strict=True)
            )
            events.send(replace(last, candidates=judged, findings=texts))
        return found


def _work(contest: Contest, entrants: Sequence[Entrant]) -> tuple[DuelWork, tuple[str, ...]]:
    """Return what asks the programs, and what a reader must know of it."""
    warnings: tuple[str, ...] = ()
    if len({is_asynchronous(one.program) for one in entrants}) > 1:
        raise InputError(
            "one of the programs has only aforward and another one has not; give all of them a forward"
        )
    programs = [one.program for one in entrants]
    settings: list[dict[str, Any]] = [{} if one.lm is None else {"lm": one.lm} for one in entrants]
    models = [model for one in entrants for model in used_lms(one.program, one.lm)]
    if are_confusable(models, models):
        # The cache would hand the answers of the one to the other.
        programs, settings = map(
            list, zip(*(without_cache(one.program, one.lm) for one in entrants), strict=True)
        )
        warnings = ("two language models have the same name, so the cache was left out for all",)
    shared = {} if contest.adapter is None else {"adapter": contest.adapter}
    turns = contest.timeout_s is None
    work = DuelWork(tuple(programs), tuple(settings), tuple(contest.metrics.values()), shared, turns=turns)
    return work, warnings


def _evaluation(contest: Contest, one: Entrant, duel: Duel, place: int, data: str) -> Evaluation:
    """Return one side's score on the examples that were counted."""
    places = contest.order[: duel.n]
    return evaluation_of(
        one.program,
        [contest.examples[index] for index in places],
        duel.outcomes(place),
        contest.metrics,
        confidence=contest.terms.confidence,
        seed=contest.terms.seed,
        indices=places,
        base_model=name_lms(one.program, one.lm),
        data_fingerprint=data,
        lm=one.lm,
    )
