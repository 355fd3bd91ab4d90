"""What to do when a run has ended: one line, over what was found, what ended it, and where it was started."""

from __future__ import annotations

import re
from dataclasses import replace

import dspy
import pytest

from dspy_nb.commands.voice import MagicVoice, ShellVoice
from dspy_nb.core.data.metrics import exact_match
from dspy_nb.core.event_log import read_events
from dspy_nb.core.events import Completed, HeldOut
from dspy_nb.core.optimization.ending import Ending, Voice, advise
from dspy_nb.core.optimization.optimize import optimize
from dspy_nb.core.optimization.optimizers import another_optimizer
from dspy_nb.core.registry.registry import Registry
from dspy_nb.core.supervision.budget import Budget
from tests.scripted import classifier, reviews, scripted_lm

SETS = {"train": 20, "val": 20, "test": 40}
REGISTER = 'nb.Registry("registry").register(my_run, "my-model")'


def held(verdict: str, before: float | None, after: float | None, **more) -> HeldOut:
    """Return what was found on held-out examples, with the right or wrong answers that the scores are made of."""
    n = more.pop("n", 40)
    difference = after - before if verdict and None not in (before, after) else None
    change = round((difference or 0.0) * n)
    return HeldOut(
        before, after, (0.0, 1.0), (0.0, 1.0), n, n, verdict, difference,
        None if difference is None else (difference - 0.1, difference + 0.1),
        **{"gained": 4 + max(change, 0), "lost": 4 + max(-change, 0), **more},
    )  # fmt: skip


def end(held_out: HeldOut | None, **more) -> Ending:
    facts = {"score": 0.7, "baseline": 0.6, "candidate_scores": (0.6, 0.7), "calls": 400, **more}
    return Ending(**{"optimizer": "COPRO", "sets": SETS, "held_out": held_out, **facts})


BETTER, WORSE = held("better", 0.5, 0.8), held("worse", 0.8, 0.5)
NONE, TIE = held("no clear difference", 0.5, 0.55), held("no clear difference", 0.5, 0.5)
UNKNOWN = held("", 0.5, None)


@pytest.mark.parametrize(
    ("ending", "words"),
    [
        (end(BETTER), f"Register it: {re.escape(REGISTER)}$"),
        (end(WORSE), r'Keep the program as it was; another optimizer \(optimizer="MIPROv2"\) may do better'),
        (end(NONE), r"Hold out about \d[\d,]*0 more examples, to tell whether the gain is more than chance"),
        (end(TIE), r'Try another optimizer \(optimizer="MIPROv2"\), or hold out about 590 more .* of 5 points'),
        (end(held("no clear difference", 0.5, 0.501, n=3000)), r"Try another optimizer \(optimizer=\"MIPROv2\"\)$"),
        (end(held("no clear difference", 0.5, 0.45)), "Keep the program as it was, which scored higher so far"),
        (end(held("no clear difference", 0.5, 0.5, gained=0, lost=0)), "The new prompt changes no score: try"),
        (end(TIE, changed=False), "The search found nothing better than the program as it was given: try"),
        (end(TIE, candidate_scores=(0.6, 0.6, 0.6)), "All candidates scored the same"),
        (end(held("no clear difference", 1.0, 1.0)), "nothing to gain on these examples, for both"),
        (end(held("no clear difference", 0.0, 0.0)), r"No answer was right.*my_run\.test_after\.worst\(\)$"),
        (end(replace(TIE, errors=(0, 12))), r"12 of 40 held-out .* \(30%\): my_run\.test_after\.worst\(\)$"),
        (end(replace(WORSE, errors=(0, 40))), "Look at the errors first"),
        (end(replace(BETTER, errors=(0, 4))), "Register it: .*; look at the errors first, for 4 of 40"),
        (end(replace(TIE, errors=(0, 1))), "Try another optimizer"),
        (end(replace(TIE, errors=(0, 4), validation=True)), r"4 of 40 validation .* \(10%\): my_run\.errors$"),
        (end(held("", None, 0.7), optimizer="Ensemble"), r"Compare it .*: nb\.compare\(program, my_run\.program, "),
        (end(None), r"Hold out about \d+0 labelled examples \(testset=\)"),
        (end(None, score=0.65, baseline=None), r"Hold out about 30 labelled examples \(testset=\)"),
        (end(None, score=1.0, baseline=0.0), "Hold out about 30 labelled examples"),
        (end(None, score=0.601, baseline=0.6), "Hold out about 2,000 labelled examples"),
        (end(None, score=1.0, baseline=1.0), "nothing to gain on these examples"),
        (end(None, score=0.6), "The search found nothing better than the program as it was given"),
        (end(None, candidate_scores=(0.7, 0.7)), "All candidates scored the same"),
        (end(None, errors=40), r"Look at the errors first, for 40 calls failed \(10%\): my_run\.errors$"),
        (end(None, score=None, candidate_scores=()), r"nb\.evaluate\(my_run\.program, examples, metric\)$"),
        (end(BETTER, optimizer="KNNFewShot"), r"Use it as my_run\.program: no registry takes"),
    ],
)  # fmt: skip
def test_the_next_step_fits_what_was_found(ending, words):
    said = advise(ending, Voice("my_run"))
    assert re.search(words, said), said
    assert "\n" not in said


@pytest.mark.parametrize("stopped_by", ["stop", "interrupt", "lm_calls", "seconds", "tokens", "usd"])
@pytest.mark.parametrize("found", [None, UNKNOWN, NONE, BETTER])
@pytest.mark.parametrize("run_dir", [None, "runs/a"])
def test_after_a_stop_it_is_the_line_that_registers_and_the_one_that_goes_on(stopped_by, found, run_dir):
    said = advise(end(found, stopped_by=stopped_by, origin="candidate"), Voice("my_run", run_dir=run_dir))
    assert REGISTER in said
    assert ('the same call with run_dir="runs/a" goes on from there' in said) == (run_dir is not None)
    assert ("run_dir= would have kept the answers" in said) == (run_dir is None)


def test_what_is_worse_or_has_not_changed_is_not_to_be_registered():
    for stopped_by in (None, "stop", "lm_calls", "errors"):
        for ending in (
            end(WORSE, stopped_by=stopped_by),
            end(UNKNOWN, stopped_by=stopped_by, origin="given"),
        ):
            assert "register(" not in advise(ending, Voice("my_run"))


@pytest.mark.parametrize("stopped_by", ["errors", "metric", "failure"])
def test_after_a_failure_it_is_a_look_at_what_failed(stopped_by):
    said = advise(end(UNKNOWN, stopped_by=stopped_by, origin="candidate"), Voice("my_run"))
    assert said == f"See what failed: my_run.errors; register what there is: {REGISTER}"


def test_it_is_said_in_the_words_of_where_the_run_was_started():
    lines = {
        'Register it: import dspy_nb as nb; nb.Registry("kept").register(r, "m")': Voice(
            "r", package="", model_id="m", registry="kept"
        ),
        'Register it: nb.Registry("registry").register(r, "my-model")': MagicVoice("r"),
        "Register it: dspy-nb optimize ... --save-as my-model": ShellVoice(),
        "Register it: dspy-nb optimize ... --run-dir 'a b' --save-as my-model": ShellVoice(run_dir="a b"),
        "Compare it with what is live, or deploy it: "
        "dspy-nb deploy m@1.0.0 --to staging --registry kept": ShellVoice(ref="m@1.0.0", registry="kept"),
        "Compare it with what is live, or deploy it: "
        'nb.Registry("registry").environment("staging").deploy("m@1.0.0")': Voice(ref="m@1.0.0"),
        "Compare it with what is live, or deploy it once it is registered: "
        'nb.Registry("registry").environment("staging").deploy("m")': MagicVoice(
            model_id="m", registers=True
        ),
    }
    assert [advise(end(BETTER), voice) for voice in lines.values()] == list(lines)
    assert "--optimizer MIPROv2" in advise(end(WORSE), MagicVoice())
    assert "(--test)" in advise(end(None), ShellVoice())
    stopped = end(UNKNOWN, stopped_by="interrupt", origin="candidate")
    assert "the same line with --run-dir runs/a goes on" in advise(stopped, MagicVoice(run_dir="runs/a"))
    assert "register(run" in advise(stopped, MagicVoice(model_id="m", registers=True))
    assert "register(run" not in advise(
        stopped, ShellVoice(model_id="m", registers=True, registers_stopped=True)
    )
    assert advise(end(BETTER), Voice(silent=True)) == ""


def test_another_optimizer_is_one_that_fits_and_was_not_tried():
    assert another_optimizer(["COPRO"], ["train", "val"]) == "MIPROv2"
    assert another_optimizer(["MIPROv2"], ["train", "val"]) == "GEPA"
    assert another_optimizer(["BetterTogether", "MIPROv2", "GEPA"], ["train", "val"]) == "SIMBA"
    assert another_optimizer(["BootstrapFewShot"], ["train"]) == "SIMBA"
    assert another_optimizer(["SIMBA", "COPRO"], ["train"]) is None


def run(**arguments):
    """Return a small run, and the event that ended it."""
    events = []
    with dspy.context(lm=scripted_lm(arguments.pop("engine", None))):
        made = optimize(
            classifier(), trainset=reviews(12, "train"), num_threads=2, on_event=events.append,
            **{"metric": exact_match("sentiment"), **arguments},
        )  # fmt: skip
    return made, events[-1]


def test_a_run_says_what_it_changed_where_its_search_never_looked(tmp_path):
    made, ended = run(testset=reviews(30, "test"), log_file=tmp_path / "log.jsonl")
    assert (made.held_out.verdict, made.held_out.n, made.held_out.validation) == ("better", 30, False)
    assert made.held_out.difference == made.improvement.difference
    assert ended == read_events(tmp_path / "log.jsonl")[-1]
    assert ended.held_out == made.held_out
    assert (
        ended.next_step == made.next_step == 'Register it: nb.Registry("registry").register(run, "my-model")'
    )
    version = Registry(tmp_path / "registry").register(made, "sentiment")
    assert version.metadata["improvement"]["verdict"] == "better"
    assert version.metadata["test_before"]["score"] == made.test_before.score
    card = (version.path / "README.md").read_text()
    assert "60.0% -> 100.0%, better" in card


def test_validation_examples_that_the_search_does_not_use_are_held_out_too():
    made, _ = run(valset=reviews(30, "val"))
    assert (made.held_out.verdict, made.held_out.validation) == ("better", True)
    assert (made.held_out.before, made.held_out.after) == (made.baseline_score, made.score)
    made, _ = run(valset=reviews(10, "val"), preset="light")  # which compares candidates on them
    assert made.held_out is None


def test_a_run_that_was_stopped_before_anything_was_scored_has_changed_nothing():
    made, ended = run(testset=reviews(6, "test"), budget=Budget(lm_calls=14))
    assert made.origin == "given"
    assert ended.held_out.verdict == "unchanged"
    assert "There is nothing to register" in ended.next_step
    assert "raise the budget" in ended.next_step
    with dspy.context(lm=scripted_lm()):
        labelled = optimize(classifier(), trainset=reviews(12, "train"), optimizer="LabeledFewShot")
    assert labelled.held_out is None
    assert labelled.next_step.startswith("Score it on examples that it has not seen: nb.evaluate(run.program")


def test_old_logs_have_an_end_without_a_verdict(tmp_path):
    (tmp_path / "log").write_text(
        '{"event": "Completed", "score": 0.5, "duration_s": 1.0, "timestamp": "t"}\n'
    )
    assert read_events(tmp_path / "log") == [Completed(0.5, 1.0, timestamp="t")]
