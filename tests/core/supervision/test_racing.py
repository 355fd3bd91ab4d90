"""Racing: what it saves, and that the exact rule ends with the same program."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any, Literal

import dspy
import pytest
from hypothesis import given
from hypothesis import strategies as st

import dspy_nb as nb
from benchmarks.population import MIPRO, RANDOM_SEARCH, Proposer, questions, setting
from dspy_nb import demo
from dspy_nb.core.errors import InputError
from dspy_nb.core.events import CandidateScored, Event
from dspy_nb.core.supervision import racing as racing_rules
from dspy_nb.core.supervision.candidates import Prompt
from dspy_nb.core.supervision.racing import RULES, Race, Racing
from tests.scripted import scripted_lm


def search(method: Any, race: str | None, seed: int = 0, val: int = 60, threads: int = 1, **more: Any) -> Any:
    """Return a run on a population of candidates, and how many answers it took."""
    task = setting(val, seed)
    with dspy.context(lm=dspy.LM("scripted/proposer", engine=Proposer(), cache=False)):
        run = nb.optimize(**task, **method, race=race, num_threads=threads, seed=seed, **more)
    return run, task["program"].counter.n


# -- the rules --------------------------------------------------------------------------------------------------


def answers(scores: list[float]) -> Any:
    def execute(ask: Any, data: Any) -> list[Any]:
        return [ask(item) for item in data]

    def ask(example: int) -> Any:
        return dspy.Prediction(), scores[example]

    return execute, ask, range(len(scores))


scores = st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=1, max_size=40)


@given(st.data(), scores)
def test_the_exact_rule_gives_up_only_what_is_below_the_best_and_says_so_of_it(
    data: st.DataObject, best: list[float]
) -> None:
    n = len(best)
    own = data.draw(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=n, max_size=n))
    order = data.draw(st.permutations(range(n)))
    race = Race("exact", order, best)
    found = [score for _, score in race.run(*answers(own))]
    if race.result is None:
        assert found == own
    else:
        assert sum(own) < sum(best)
        assert sum(found) / n == pytest.approx(race.result.score)
        assert race.result.score < sum(best) / n
        low, high = race.result.interval
        assert low - 1e-9 <= sum(own) / n <= high + 1e-9 < sum(best) / n + 1e-9
        assert race.result.n + race.result.skipped == n


@given(st.data(), st.lists(st.sampled_from([0.0, 1.0]), min_size=21, max_size=60))
def test_the_paired_rule_never_gives_up_what_does_better_so_far(
    data: st.DataObject, best: list[float]
) -> None:
    n = len(best)
    own = data.draw(st.lists(st.sampled_from([0.0, 1.0]), min_size=n, max_size=n))
    race = Race("paired", range(n), best)
    found = [score for _, score in race.run(*answers(own))]
    if race.result is not None:
        assert race.result.n >= 20
        assert sum(own[: race.result.n]) < sum(best[: race.result.n])
        assert 0 <= sum(found) / n < sum(best) / n


def test_the_paired_verdict_does_not_depend_on_which_answer_comes_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(racing_rules, "_PATIENCE_S", 0.0)
    best, own = [1.0] * 40, [0.0] * 20 + [1.0] * 20

    def backwards(ask: Any, data: Any) -> list[Any]:
        return [ask(item) for item in reversed(data)][::-1]

    forwards, late = Race("paired", range(40), best), Race("paired", range(40), best)
    execute, ask, data = answers(own)
    forwards.run(execute, ask, data)
    found = late.run(backwards, ask, data)
    assert forwards.result is not None
    assert forwards.result.n == 20
    assert late.result is None  # all had answered by then, and what is known is not thrown away
    assert [score for _, score in found] == own


def test_what_earlier_candidates_failed_on_is_asked_first_by_the_exact_rule() -> None:
    examples, racing = exact_races(10)
    first = racing.begin("1", examples)
    assert first is not None
    first.run(*_on(examples, [1.0] * 5 + [0.0] + [1.0] * 4))
    assert racing.end("1") is None
    asked: list[int] = []
    second = racing.begin("2", examples)
    assert second is not None
    second.run(*_on(examples, [0.0] * 10, asked))
    assert asked == [5, asked[1]]  # of two wrong answers the better one is out of reach
    assert racing.skipped == 0
    abandoned = racing.end("2")
    assert abandoned is not None
    assert (abandoned.n, racing.skipped) == (2, 8)


@given(st.lists(st.lists(st.sampled_from([0.0, 0.25, 1.0]), min_size=6, max_size=6), min_size=1, max_size=8))
def test_the_first_of_the_best_is_the_same_with_the_exact_rule_also_where_candidates_tie(
    population: list[list[float]],
) -> None:
    examples, racing = exact_races(6)
    reported = []
    for number, own in enumerate(population):
        race = racing.begin(str(number), examples)
        assert race is not None
        found = race.run(*_on(examples, own))
        racing.end(str(number))
        reported.append(round(100 * sum(score for _, score in found) / 6, 2))  # as dspy.Evaluate does
    scores = [round(100 * sum(own) / 6, 2) for own in population]
    assert reported.index(max(reported)) == scores.index(max(scores))


def test_an_answer_that_comes_late_and_once_more_changes_no_race_that_is_over() -> None:
    examples, racing = exact_races(4)
    race = racing.begin("1", examples)
    assert race is not None
    race.run(*_on(examples, [1.0, 0.0, 1.0, 1.0]))
    race.take(1, 1.0)  # DSPy asks again what takes long
    assert race.scores == {0: 1.0, 1: 0.0, 2: 1.0, 3: 1.0}
    racing.end("1")
    assert racing.answers == 4


def test_what_fails_counts_as_wrong_in_a_race_too() -> None:
    race = Race("exact", range(4), [1.0] * 4)

    def execute(ask: Any, data: Any) -> list[Any]:
        found = []
        for item in data:
            try:
                found.append(ask(item))
            except ValueError:
                found.append(None)
        return found

    def ask(example: int) -> Any:
        raise ValueError(example)

    found = race.run(execute, ask, range(4))
    assert race.result is not None
    assert (race.result.n, race.result.skipped, race.result.interval) == (1, 3, (0.0, 0.75))
    assert found[0] is None


def exact_races(n: int) -> tuple[list[Any], Racing]:
    """Return questions, and the races on them within an optimizer that can race."""
    examples = questions(0, n)
    racing = Racing("exact", examples, n, seed=0, optimizers=["X"])
    racing.enter_optimizer("X")
    return examples, racing


def _on(examples: list[Any], scores: list[float], asked: list[int] | None = None) -> Any:
    def ask(example: Any) -> Any:
        if asked is not None:
            asked.append(examples.index(example))
        return dspy.Prediction(), scores[examples.index(example)]

    return (lambda call, data: [call(item) for item in data]), ask, examples


def test_other_examples_and_optimizers_that_cannot_race_are_scored_as_ever() -> None:
    examples, racing = exact_races(4)
    assert racing.begin("1", examples[:3]) is None
    assert racing.begin("1", questions(0, 4)) is None
    racing.enter_optimizer("GEPA")
    assert racing.begin("1", examples) is None
    racing.leave_optimizer()
    assert racing.begin("1", examples) is not None


# -- through DSPy's optimizers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 8])
@pytest.mark.heavy
def test_the_exact_rule_ends_with_the_same_program_for_fewer_answers(threads: int) -> None:
    saved = []
    for seed in range(3):
        usual, all_answers = search(RANDOM_SEARCH, None, seed, threads=threads)
        raced, fewer = search(RANDOM_SEARCH, "exact", seed, threads=threads)
        assert raced.program.identity == usual.program.identity
        assert raced.score == usual.score
        assert all_answers == fewer + raced.skipped
        saved.append(fewer / all_answers)
    assert sum(saved) / len(saved) < 0.8


@pytest.mark.heavy
@pytest.mark.parametrize("method", [RANDOM_SEARCH, MIPRO], ids=["random search", "MIPROv2"])
def test_the_paired_rule_asks_less_and_lists_what_it_gave_up_with_an_interval(method: Any) -> None:
    events: list[Event] = []
    run, fewer = search(method, "paired", seed=1, val=100, on_event=events.append)
    _, everything = search(method, None, seed=1, val=100)
    assert fewer < 0.8 * everything
    best = max(one.score for one in run.candidates if one.full)
    given_up = [one for one in run.candidates if one.abandoned is not None]
    assert given_up
    assert all(one.score < best and not one.full for one in given_up)
    assert all(one.abandoned.interval[0] <= one.score <= one.abandoned.interval[1] for one in given_up)
    told = [event for event in events if isinstance(event, CandidateScored) and event.abandoned]
    assert {event.candidate for event in told} >= {one.number for one in given_up}
    assert run.score == best


@pytest.mark.heavy
def test_a_race_with_one_thread_and_with_eight_gives_up_the_same_candidates() -> None:
    one, _ = search(RANDOM_SEARCH, "paired", threads=1, val=100)
    many, _ = search(RANDOM_SEARCH, "paired", threads=8, val=100)
    # What had answered everything before it was given up is known in full, and that depends on the threads.
    both = {c.number: c.abandoned for c in many.candidates if c.abandoned is not None}
    assert {n: (a.n, a.score) for n, a in both.items()}.items() <= {
        c.number: (c.abandoned.n, c.abandoned.score) for c in one.candidates if c.abandoned is not None
    }.items()
    assert one.program.identity == many.program.identity


@pytest.mark.parametrize("race", RULES)
def test_a_metric_that_leaves_0_to_1_ends_the_search_before_a_race_counts_on_it(race: str) -> None:
    def generous(gold: Any, pred: Any, trace: Any = None) -> bool:
        return 3 if gold.question == "7" else pred.answer == "yes"  # type: ignore[return-value]

    with (
        dspy.context(lm=scripted_lm()),
        pytest.raises(InputError, match="generous returned 3; a score is between 0 and 1"),
    ):
        nb.optimize(**{**setting(40, 0), "metric": generous}, **RANDOM_SEARCH, race=race, num_threads=1)


def test_a_stop_in_the_middle_of_a_race_keeps_the_best_candidate_and_records_no_half_of_another() -> None:
    stop, seen = threading.Event(), 0

    def metric(gold: Any, pred: Any, trace: Any = None) -> bool:
        nonlocal seen
        seen += 1
        if seen == 100:
            stop.set()
        return bool(pred.answer == "yes")

    task = {**setting(40, 0), "metric": metric}
    with dspy.context(lm=scripted_lm()):
        run = nb.optimize(**task, **RANDOM_SEARCH, race="exact", num_threads=1, stop=stop)
    assert run.stopped_by == "stop"
    assert run.origin == "candidate"
    assert all(one.full or one.abandoned is not None for one in run.candidates)


def test_a_search_that_is_resumed_in_its_directory_asks_nothing_again(tmp_path: Path) -> None:
    examples = [
        dspy.Example(
            review=f"{word} {i}", sentiment="positive" if word == "good" else "negative"
        ).with_inputs("review")
        for i in range(12)
        for word in ("good", "bad")
    ]

    def once() -> Any:
        with dspy.context(lm=scripted_lm()):
            return nb.optimize(
                dspy.Predict("review -> sentiment"),
                trainset=examples[:12],
                valset=examples[12:],
                metric=nb.exact_match("sentiment"),
                optimizer="BootstrapFewShotWithRandomSearch",
                options={"num_candidate_programs": 3, "max_bootstrapped_demos": 1, "max_labeled_demos": 2},
                run_dir=tmp_path / "run",
            )

    first, again = once(), once()
    assert first.raced == again.raced > 0
    assert again.usage.lm_calls == 0
    assert again.score == first.score


@pytest.mark.heavy
@pytest.mark.parametrize("optimizer", ["COPRO", "BootstrapFewShotWithOptuna", "BetterTogether"])
def test_every_optimizer_that_compares_candidates_on_a_set_can_race(optimizer: str) -> None:
    options = {
        "COPRO": {"breadth": 3, "depth": 2},
        "BootstrapFewShotWithOptuna": {
            "num_candidate_programs": 4, "max_bootstrapped_demos": 2, "max_labeled_demos": 2,
        },
        "BetterTogether": {
            "steps": {
                "p": {
                    "optimizer": "BootstrapFewShotWithRandomSearch",
                    "options": {"num_candidate_programs": 2, "max_bootstrapped_demos": 1, "max_labeled_demos": 2},
                }
            }
        },
    }[optimizer]  # fmt: skip
    examples = [
        dspy.Example(
            review=f"{word} {i}", sentiment="positive" if word == "good" else "negative"
        ).with_inputs("review")
        for i in range(12)
        for word in ("good", "bad")
    ]
    with dspy.context(lm=scripted_lm()):
        run = nb.optimize(
            dspy.Predict("review -> sentiment"),
            trainset=examples[:12],
            valset=examples[12:],
            metric=nb.exact_match("sentiment"),
            optimizer=optimizer,
            options=options,
            race="exact",
            num_threads=1,
        )
    assert run.stopped_by is None
    assert run.plan.race == "exact"
    assert run.score is not None


class Sentiment(dspy.Signature):
    """Decide whether the review is positive or negative."""

    review: str = dspy.InputField()
    sentiment: Literal["positive", "negative"] = dspy.OutputField()


@pytest.mark.local_model
def test_the_quickstart_ends_with_the_same_program_for_fewer_answers_of_the_embedded_model() -> None:
    train, val, _ = nb.split(demo.reviews(), (60, 40, 100), seed=0, stratify="sentiment")
    runs = []
    for race in (None, "exact"):
        with dspy.context(lm=nb.local_lm(cache=False), adapter=dspy.JSONAdapter()):
            run = nb.optimize(
                dspy.Predict(Sentiment),
                trainset=train,
                valset=val,
                metric=nb.exact_match("sentiment"),
                preset="light",
                race=race,
                num_threads=4,
            )
        runs.append(run)
    usual, raced = runs
    assert Prompt.of(raced.program).key == Prompt.of(usual.program).key
    assert raced.score == usual.score
    assert raced.usage.lm_calls == usual.usage.lm_calls - raced.skipped
    assert raced.skipped > 0


# -- what is asked for ------------------------------------------------------------------------------------------


def task(**more: Any) -> nb.Task:
    return nb.Task(**{**setting(40, 0), **RANDOM_SEARCH, **more})


def test_it_races_by_itself_only_where_that_leaves_the_result_as_it_is() -> None:
    assert task().rule == "exact"
    assert task(**MIPRO).rule is None
    assert task(race=None).rule is None
    assert task(**MIPRO, race="paired").rule == "paired"


def test_the_estimate_says_what_a_race_can_save() -> None:
    raced, usual = task().estimate, task(race=None).estimate
    assert raced.lm_calls == usual.lm_calls
    assert usual.fewest - raced.fewest == 15 * 39
    assert str(usual).startswith(f"at most {usual.lm_calls:,} LM calls")
    assert str(raced).startswith(f"between {raced.fewest:,} and {raced.lm_calls:,} LM calls")
    assert str(raced).endswith("a race saves up to 585")


@pytest.mark.parametrize("optimizer", ["GEPA", "SIMBA", "BootstrapFewShot", "LabeledFewShot"])
def test_an_optimizer_that_cannot_race_says_why_and_which_can(optimizer: str) -> None:
    options = {"GEPA": {"max_metric_calls": 50}}.get(optimizer, {})
    with pytest.raises(InputError, match=f"{optimizer} cannot race: it .*; those that can: .*MIPROv2"):
        task(optimizer=optimizer, options=options, race="paired")


def test_a_rule_that_there_is_none_of_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(InputError, match="race must be 'exact', 'paired', 'auto' or None, got 'fast'"):
        task(race="fast")
    assert RULES == ("exact", "paired")  # what commands/tasks.py offers
