"""Optimizations, comparisons and sweeps on workers: as in threads, with the budget held to the call."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from pathlib import Path
from typing import Any

import dspy
import pytest

import dspy_nb as nb
from dspy_nb.core.errors import InputError, OptimizationFailed
from dspy_nb.core.events import CandidateScored
from tests.scripted import classifier, reviews, scripted_lm
from tests.travelling import TravellingEngine, travelling_lm

pytestmark = pytest.mark.heavy

SENTIMENT = nb.exact_match("sentiment")


@pytest.fixture(scope="module")
def pool(forkserver: Any) -> Iterator[Executor]:
    with ProcessPoolExecutor(2, mp_context=forkserver) as pool:
        yield pool


@pytest.fixture
def engine(tmp_path: Path) -> TravellingEngine:
    return TravellingEngine(tmp_path / "calls")


def search(
    engine: TravellingEngine, executor: Any, program: dspy.Module | None = None, **more: Any
) -> nb.OptimizationRun:
    """Let random search find four demos or fewer; some candidates are better than others."""
    task = {
        "trainset": reviews(12, "train"),
        "valset": reviews(24, "val"),
        "testset": reviews(16, "test"),
        "metric": SENTIMENT,
        "optimizer": "BootstrapFewShotWithRandomSearch",
        "options": {"num_candidate_programs": 3, "max_bootstrapped_demos": 2, "max_labeled_demos": 2},
        "num_threads": 3,
        "race": None,
        **more,
    }
    with dspy.context(lm=travelling_lm(engine, cache="run_dir" in more)):
        return nb.optimize(program or classifier(), executor=executor, **task)


def facts(run: nb.OptimizationRun) -> tuple[Any, ...]:
    """What must be the same wherever candidates are scored."""
    held_out = [one and (one.score, one.n) for one in (run.test_before, run.test_after)]
    scores = [(candidate.score, candidate.n, candidate.full) for candidate in run.candidates]
    return run.program.dump_state(), scores, run.score, held_out, run.usage, run.stopped_by, run.skipped


@pytest.mark.parametrize("race", [None, "exact"])
def test_a_search_on_workers_ends_with_the_same_program_and_counts(
    pool: Executor, tmp_path: Path, race: str | None
) -> None:
    here, there = TravellingEngine(tmp_path / "here"), TravellingEngine(tmp_path / "there")
    scored: list[CandidateScored] = []
    a = search(here, None, race=race)
    b = search(
        there,
        pool,
        race=race,
        on_event=lambda e: scored.append(e) if isinstance(e, CandidateScored) else None,
    )
    assert facts(a) == facts(b)
    assert here.asked == there.asked == a.usage.lm_calls
    assert len(scored) == len(b.candidates)
    assert b.candidates[0].scored[0].answer["sentiment"] in ("positive", "negative")


@pytest.mark.parametrize("limit", [60, 101, 150])
def test_a_budget_is_held_to_the_call_on_workers(
    pool: Executor, engine: TravellingEngine, limit: int
) -> None:
    run = search(engine, pool, budget=nb.Budget(lm_calls=limit))
    assert (engine.asked, run.usage.lm_calls, run.stopped_by) == (limit, limit, "lm_calls")


def test_a_budget_in_tokens_is_exceeded_by_no_more_than_the_calls_in_flight(
    pool: Executor, engine: TravellingEngine
) -> None:
    run = search(engine, pool, budget=nb.Budget(tokens=1500))  # 15 a call
    assert run.stopped_by == "tokens"
    assert run.usage.tokens is not None
    assert run.usage.tokens <= 1500 + 2 * 3 * 15
    assert run.usage.lm_calls == engine.asked


def test_a_run_that_was_stopped_on_workers_goes_on_there_and_here_and_pays_for_nothing_twice(
    pool: Executor, engine: TravellingEngine, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    search(engine, pool, run_dir=folder, budget=nb.Budget(lm_calls=90))
    assert engine.asked == 90
    there = search(engine, pool, run_dir=folder)
    all_calls = engine.asked
    assert there.usage.lm_calls == all_calls - 90
    here = search(engine, None, run_dir=folder)
    assert engine.asked == all_calls
    assert here.usage.lm_calls == 0
    assert here.program.dump_state() == there.program.dump_state()


def test_a_worker_that_is_killed_costs_nothing_but_what_it_was_at(forkserver: Any, tmp_path: Path) -> None:
    engine = TravellingEngine(tmp_path / "calls", kills="val 7 is")
    with (
        ProcessPoolExecutor(2, mp_context=forkserver) as pool,
        pytest.warns(UserWarning, match="a worker was lost .* what it was at is done again"),
    ):
        run = search(engine, pool)
    here = search(TravellingEngine(tmp_path / "here"), None)
    assert facts(run) == facts(here)
    assert run.errors.count == 0
    assert engine.asked >= here.usage.lm_calls


class KillsItsWorker(dspy.Module):
    """A classifier that ends its process at one review of the validation set, each time."""

    def __init__(self) -> None:
        super().__init__()
        self.classify = classifier()
        self.home = os.getpid()

    def forward(self, review: str) -> dspy.Prediction:
        if "val 7 is" in review and os.getpid() != self.home:
            os._exit(1)
        return self.classify(review=review)


@pytest.mark.filterwarnings("ignore:a worker was lost")
def test_an_example_that_kills_its_workers_is_an_error_of_the_search(
    forkserver: Any, engine: TravellingEngine
) -> None:
    with ProcessPoolExecutor(2, mp_context=forkserver) as pool:
        run = search(engine, pool, KillsItsWorker(), valset=reviews(10, "val"), testset=(), num_threads=1)
    assert run.errors.kinds == {"WorkerLost": len(run.candidates)}
    assert all(candidate.n == 10 for candidate in run.candidates)


def test_what_ends_a_search_in_threads_ends_it_on_workers(pool: Executor, engine: TravellingEngine) -> None:
    with pytest.raises(InputError, match="metric too_much returned 5; a score is between 0 and 1"):
        search(engine, pool, metric=too_much, testset=())
    with pytest.raises(OptimizationFailed, match="most calls fail"):
        search(engine, pool, metric=breaks, testset=())


def too_much(gold, pred, trace=None):
    return 5


def breaks(gold, pred, trace=None):
    raise RuntimeError("down")


def test_a_language_model_that_cannot_travel_is_refused_by_name_before_anything_is_spent(
    pool: Executor,
) -> None:
    lm = scripted_lm()  # its engine holds a lock
    task = nb.Task(
        classifier(),
        trainset=reviews(8, "train"),
        valset=reviews(8, "val"),
        metric=SENTIMENT,
        optimizer="BootstrapFewShotWithRandomSearch",
        executor=pool,
    )
    refused = pytest.raises(InputError, match=r"^the language model scripted/model cannot travel")
    with dspy.context(lm=lm):
        with refused:
            nb.optimize(task)
        with refused:
            nb.compare(classifier(), classifier(), reviews(8), SENTIMENT, executor=pool)
        with refused:
            nb.evaluate(classifier(), reviews(8), SENTIMENT, executor=pool)
        with refused:
            nb.sweep(classifier(), over={"lm": [lm]}, testset=reviews(8), metric=SENTIMENT, executor=pool)
    assert lm.engine.calls == 0


def with_demo() -> dspy.Predict:
    program = classifier()
    program.demos = [dspy.Example(review="it is good", sentiment="positive")]
    return program


@pytest.mark.parametrize("sequential", [True, False])
def test_a_comparison_on_workers_comes_to_the_same_verdict(
    pool: Executor, engine: TravellingEngine, sequential: bool
) -> None:
    arms = classifier(), with_demo(), reviews(80), SENTIMENT
    more: dict[str, Any] = {"sequential": sequential, "num_threads": 2}
    with dspy.context(lm=travelling_lm(engine)):
        here = nb.compare(*arms, **more)
        before = engine.asked
        there = nb.compare(*arms, executor=pool, **more)
    assert there.verdict == here.verdict == "B better"
    assert there.n_at_verdict == here.n_at_verdict
    assert there.a.usage.lm_calls + there.b.usage.lm_calls <= engine.asked - before
    if not sequential:
        assert (there.effect, there.interval, engine.asked) == (here.effect, here.interval, 320)


def test_two_programs_that_ask_alike_pay_once_on_workers_too(
    pool: Executor, engine: TravellingEngine
) -> None:
    with dspy.context(lm=travelling_lm(engine, name=f"scripted/{os.getpid()}", cache=True)):
        found = nb.compare(
            classifier(), classifier(), reviews(32, "alike"), SENTIMENT, executor=pool, sequential=False
        )
    assert found.verdict == "inconclusive"
    assert engine.asked == 32


def test_a_sweep_on_workers_ends_with_the_same_table(pool: Executor, tmp_path: Path) -> None:
    def sweep(executor: Any, name: str) -> tuple[Any, int]:
        engines = [TravellingEngine(tmp_path / f"{name}{number}") for number in range(2)]
        result = nb.sweep(
            classifier(),
            over={
                "optimizer": [None, "BootstrapFewShotWithRandomSearch"],
                "lm": [
                    travelling_lm(engine, f"scripted/{i}", cache=True) for i, engine in enumerate(engines)
                ],
            },
            options={"num_candidate_programs": 3},
            trainset=reviews(8, "train"),
            valset=reviews(10, "val"),
            testset=reviews(12, "test"),
            metric=SENTIMENT,
            num_threads=2,
            race=None,
            executor=executor,
        )
        return result, sum(engine.asked for engine in engines)

    here, asked_here = sweep(None, "here")
    there, asked_there = sweep(pool, "there")
    assert asked_there == there.usage.lm_calls == asked_here
    assert there.usage == here.usage
    columns = ["cell", "status", "validation_score", "score", "verdict"]
    assert there.to_frame()[columns].equals(here.to_frame()[columns])


def test_who_wants_more_than_scores_of_its_candidates_asks_them_here_and_says_so(
    pool: Executor, engine: TravellingEngine
) -> None:
    with pytest.warns(UserWarning, match="SIMBA asks its candidates in threads of this process"):
        run = search(
            engine,
            pool,
            optimizer="SIMBA",
            options={"bsize": 8, "num_candidates": 2, "max_steps": 1, "max_demos": 1},
            valset=(),
        )
    assert run.test_after is not None
    assert run.usage.lm_calls == engine.asked
