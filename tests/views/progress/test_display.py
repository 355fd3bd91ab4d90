"""Progress: what is shown of a run while it works, and what stays when it has ended."""

from __future__ import annotations

import io
import re
import sys
import threading

import dspy
import pytest
from IPython.utils.capture import capture_output

from dspy_nb.core.data.metrics import exact_match
from dspy_nb.core.events import (
    CandidateScored,
    Completed,
    Evaluated,
    Failed,
    HeldOut,
    Progress,
    Started,
    StepEnded,
    StepStarted,
)
from dspy_nb.core.optimization.optimize import optimize
from dspy_nb.notebook.display import NotebookProgress
from dspy_nb.notebook.listeners import notebook_progress
from dspy_nb.notebook.widgets.progress import ProgressPanel
from dspy_nb.views.documents import Document
from dspy_nb.views.progress import display as progress
from dspy_nb.views.progress import terminal
from dspy_nb.views.progress.call_state import CallState
from dspy_nb.views.progress.display import Display
from dspy_nb.views.progress.run_state import RunState
from dspy_nb.views.progress.states import follow
from dspy_nb.views.progress.terminal import TerminalProgress
from dspy_nb.views.rendering.html import to_html
from tests.moments import Clock
from tests.scripted import classifier, reviews, scripted_lm
from tests.views.test_run import EVIL, read


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    monkeypatch.setattr(terminal, "time", clock)
    monkeypatch.setenv("COLUMNS", "200")
    return clock


def plain(text: str) -> str:
    return re.sub(r"\x1b\[\d+m", "", text)


def scored(
    number: int, score: float, *, full: bool = True, best: bool = False, text: str = ""
) -> CandidateScored:
    return CandidateScored(number, score, 30, full, best, text, 2)


def html(state) -> str:
    return to_html(state.document())


def running(**metrics) -> RunState:
    state = RunState()
    state.add(Started("MIPROv2", 200, {"lm_calls": 150, "seconds": 600.0}))
    state.add(scored(0, 0.5, best=True))
    state.add(scored(1, 0.9, full=False))
    state.add(scored(2, 0.7, best=True))
    numbers = {"lm_calls": 40, "cache_hits": 10, "prompt_tokens": 900, "completion_tokens": 100, "usd": None}
    state.add(
        Progress(50, "scoring a candidate", {**numbers, "best_score": 0.7, "elapsed_s": 10.0, **metrics})
    )
    return state


def test_steps_are_compared_with_an_estimate_that_is_called_an_upper_bound():
    text = read(html(running()))
    assert "50 of at most 200 LM calls answered · at most 40 s left at this rate" in text
    assert "%" not in text.replace("70.0% (first candidate: 50.0%)", "").split("candidate", 1)[0]


def test_best_and_first_scores_are_those_of_candidates_scored_in_full():
    assert "best score70.0% (first candidate: 50.0%)" in read(html(running()))


def test_what_was_used_stands_next_to_its_limit():
    text = read(html(running(errors=3)))
    assert "uncached calls40 of 150" in text
    assert "cache hits10" in text
    assert "tokens1,000" in text
    assert "cost–" in text
    assert "errors3" in text
    assert "time10 s of 600 s" in text


def test_unknown_tokens_are_not_0():
    assert "tokens–" in read(html(running(prompt_tokens=None)))


def test_more_calls_than_estimated_are_called_so():
    state = running()
    state.add(Progress(230, "still at it", {"elapsed_s": 50.0}))
    assert state.eta_s is None
    assert "230 LM calls answered, more than the 200 expected at most" in read(html(state))


def test_without_an_estimate_there_is_no_bar_and_no_time_left():
    state = RunState()
    state.add(Started("KNNFewShot"))
    state.add(Progress(7, "working", {"elapsed_s": 3.0}))
    assert "progressbar" not in html(state)
    assert "7 LM calls answered" in read(html(state))


def test_thousands_of_candidates_leave_the_display_small():
    state = running()
    for number in range(5000):
        state.add(scored(number, 0.6, text="word " * 24))
    assert len(html(state)) < 16_000
    assert "the latest of 5,000 candidates" in read(html(state))


@pytest.mark.parametrize(
    ("event", "headline", "colour"),
    [
        (Completed(0.7, 12.3), "MIPROv2 completed after 12 s", "warn"),
        (
            Completed(0.7, 12.3, "lm_calls"),
            "MIPROv2 stopped by the budget of 150 LM calls after 12 s",
            "warn",
        ),
        (Completed(0.7, 12.3, "interrupt"), "MIPROv2 interrupted after 12 s", "bad"),
        (Failed("OptimizationFailed: no luck"), "MIPROv2 failed: OptimizationFailed: no luck", "bad"),
    ],
)
def test_the_end_is_said_in_words_and_in_colour(event, headline, colour):
    state = running()
    state.add(event)
    assert read(html(state)).startswith(headline)
    assert f'class="bar {colour}"' in html(state)
    assert state.text().startswith(headline)
    assert "left at this rate" not in html(state)


SCORES = (0.5, 0.55, (0.35, 0.65), (0.4, 0.7), 40, 40)
ENDS = [
    ("better", "Better on held-out examples: 50.0% -> 55.0%", "good"),
    ("worse", "Worse on held-out examples: 50.0% -> 55.0%", "bad"),
    ("no clear difference", "No clear difference on held-out examples: 50.0% -> 55.0%", "warn"),
    ("unchanged", "Unchanged on held-out examples: 50.0% -> 55.0%", "warn"),
    ("", "Held-out examples, scored in part: 50.0% -> 55.0%", "warn"),
]


@pytest.mark.parametrize(("verdict", "first", "colour"), ENDS)
@pytest.mark.parametrize("stopped_by", [None, "lm_calls"])
def test_the_verdict_on_held_out_examples_comes_first_and_colours_the_bar(verdict, first, colour, stopped_by):
    state, change = running(), (0.05, (-0.1, 0.2)) if verdict else (None, None)
    held = HeldOut(*SCORES, verdict, *change, gained=6, lost=4)
    state.add(Completed(0.7, 12.3, stopped_by, held_out=held, next_step=f"Register it: {EVIL}"))
    shown = read(html(state))
    assert shown.startswith(first)
    assert state.text().startswith(first)
    assert f'class="bar {colour}"' in html(state)
    assert ("stopped by the budget" if stopped_by else "MIPROv2 completed") in shown
    assert f"Next: Register it: {EVIL}" in shown
    assert "<script" not in html(state)
    assert shown.index("Next: ") < shown.index("LM calls answered") < shown.index("best search score")
    if verdict in ("better", "worse", "no clear difference"):
        assert (
            "Before 50.0% [35.0%, 65.0%], after 55.0% [40.0%, 70.0%]: its score changed by +5.0 points "
            "(95% interval -10.0 to +20.0) on 40 examples; 6 scored higher than before, 4 lower."
        ) in shown
    if verdict:
        forms = [form.text for part in state.meter.parts for form in part]
        assert f"held-out 50.0% -> 55.0%, {verdict}" in forms
    assert read(to_html(Document("", state.blocks))).startswith(first)  # within a pipeline


def test_without_held_out_examples_a_search_score_is_said_to_flatter():
    state = running(baseline_score=0.4)
    state.add(Completed(0.7, 12.3))
    said = (
        "Nothing was held out: 40.0% -> 70.0% is the best of 3 scores on examples that the search saw, which"
    )
    assert f"MIPROv2 completed after 12 s{said} flatters" in read(html(state))
    nothing = RunState()
    nothing.add(Completed(None, 1.0))
    assert "Nothing was held out, and nothing was scored." in read(html(nothing))


def test_markup_in_instructions_phases_and_errors_is_not_run():
    state = RunState()
    state.add(Started(EVIL, 10, {}))
    state.add(scored(0, 0.5, text=EVIL))
    state.add(Progress(1, EVIL, {}))
    assert read(html(state)).count(EVIL) == 3
    state.add(Failed(EVIL))
    assert EVIL in read(html(state))
    assert "<script" not in html(state)


def test_a_notebook_has_one_display_that_is_updated_in_place(ipython, clock):
    with capture_output() as captured:
        display = NotebookProgress()
        for event in (Started("COPRO", 20), Progress(1, "first"), Completed(0.5, 1.0)):
            clock.now += 1
            display(event)
    bundles = [output.data for output in captured.outputs if output.data["text/plain"]]  # not the prompts
    assert [bundle["text/plain"].split(";")[0] for bundle in bundles] == [
        "COPRO: starting", "COPRO: first", "COPRO completed after 1.0 s"
    ]  # fmt: skip
    assert all(read(bundle["text/html"]) for bundle in bundles)


def test_a_notebook_is_updated_at_most_four_times_a_second_and_always_at_the_end(ipython, clock):
    with capture_output() as captured:
        display = NotebookProgress()
        display.show()
        display(Started("COPRO", 20))
        for step in range(100):
            clock.now += 0.01
            display(Progress(step, "working"))
        display(Completed(None, 1.0))
    said = [text for output in captured.outputs if (text := output.data["text/plain"])]  # not the prompts
    assert 4 <= len(said) - 1 <= 6
    assert said[-1].startswith("COPRO completed")


def test_a_real_run_in_threads_reaches_the_display(ipython):
    with capture_output() as captured, dspy.context(lm=scripted_lm()):
        optimize(
            classifier(),
            trainset=reviews(10, "train"),
            valset=reviews(10, "val"),
            metric=exact_match("sentiment"),
            preset="light",
            num_threads=4,
            on_event=NotebookProgress(),
        )
    last = [text for output in captured.outputs if (text := output.data["text/plain"])][-1]
    assert last.startswith("BootstrapFewShotWithRandomSearch completed")
    assert "best score 100.0%" in last


def test_a_terminal_bar_says_at_most_and_stays(capsys, clock):
    bar = TerminalProgress()
    bar(Started("MIPROv2", 200, {"lm_calls": 150}))
    clock.now += 1
    bar(Progress(50, "scoring", {"lm_calls": 40, "best_score": 0.7}))
    bar(Completed(0.7, 3.0))
    shown = plain(capsys.readouterr().err)
    assert "50 of at most 200 LM calls" in shown
    assert "best 70.0%, budget 40 of 150" in shown
    assert shown.rstrip("\n").split("\r")[-1].startswith("MIPROv2 completed after 3.0 s")
    assert "%|" not in shown
    assert shown.endswith("\n")


def test_a_failed_terminal_bar_is_left_standing_in_red(capsys, clock):
    bar = TerminalProgress()
    bar(Started("MIPROv2", 200))
    bar(Failed("OptimizationFailed: no luck"))
    last = capsys.readouterr().err.rstrip("\n").split("\r")[-1]
    assert "MIPROv2 failed" in last
    assert "\x1b[31m" in last


def test_a_terminal_bar_without_estimate_or_beyond_it_shows_no_end(capsys, clock):
    bar = TerminalProgress()
    bar(Started("KNNFewShot"))
    bar(Completed(None, 1.0))
    beyond = TerminalProgress()
    beyond(Started("MIPROv2", 5))
    clock.now += 1
    beyond(Progress(8, "scoring"))
    beyond(Completed(None, 1.0))
    shown = capsys.readouterr().err
    assert "?" not in shown
    assert "8 LM calls" in shown


def test_an_evaluation_has_a_bar_that_ends_also_where_it_is_stopped_or_fails(capsys, clock):
    bar = TerminalProgress()
    for last in (Evaluated(4, 10, 2, 0.5, 3.0, over=True), Failed("MetricError: no score")):
        for event in (Evaluated(0, 10), last):
            bar(event)
    first, second = capsys.readouterr().err.rstrip("\n").split("\n")
    assert "evaluation stopped |█████████▋" in first
    assert "4 of 10 examples, 3.0 s, score 50.0%, 2 errors" in first
    assert "\x1b[33m" in first.lower()
    assert "\x1b[31m" in second.lower()


def test_a_call_within_another_has_no_bar_of_its_own(capsys, clock):
    bar = TerminalProgress()
    bar(Started("MIPROv2", 200))
    for done in range(3):
        bar(Evaluated(done, 10))
        clock.now += 1
    bar(Completed(0.5, 3.0))
    shown = capsys.readouterr().err
    assert "evaluate" not in shown
    assert plain(shown.rstrip("\n").split("\r")[-1]).startswith("MIPROv2 completed")


PIPELINE = [
    StepStarted("optimize", "runs/m-001"), Started("COPRO", 20), Progress(1, "first"), Completed(0.5, 1.0),
    StepEnded("optimize", "passed", "registered m@1.0.0", 1.5),
    StepStarted("evaluate"), Evaluated(0, 4), Evaluated(4, 4, 1, 0.75, 2.0, over=True),
    StepEnded("evaluate", "passed", "score 75%", 2.5),
    StepStarted("gate"), StepEnded("gate", "refused", "score 75% is below 85%", over=True),
]  # fmt: skip


@pytest.mark.parametrize("bars", [True, False])
def test_a_pipeline_says_a_line_for_each_step_with_one_bar_at_a_time_between(capsys, clock, bars):
    display = TerminalProgress(bars)
    for event in PIPELINE:
        display(event)
    lines = [line.rsplit("\r", 1)[-1] for line in capsys.readouterr().err.rstrip("\n").split("\n")]
    said = ["optimize ... (runs/m-001)", "optimize: passed, registered m@1.0.0", "evaluate ...",
            "evaluate: passed, score 75%", "gate ...", "gate: refused, score 75% is below 85%"]  # fmt: skip
    if bars:
        assert plain(lines[1]).startswith("COPRO completed")
        assert plain(lines[4]).startswith("evaluate |████")
        del lines[4], lines[1]
    assert lines == said


@pytest.mark.parametrize("kind", [NotebookProgress, ProgressPanel])
def test_a_pipeline_is_one_display_of_its_steps_and_the_call_under_way(ipython, clock, kind):
    texts = []
    with capture_output() as captured:
        display = kind()
        for event in PIPELINE:
            display(event)
            texts.append(read(html(display.state)))
    assert "optimizeunder way" in texts[2]
    assert "1 of at most 20 LM calls answered" in texts[2]
    assert "evaluatepassedscore 75%" in texts[-1]
    assert "Pipeline: gate refused" in texts[-1]
    assert captured.outputs[-1].data["text/plain"] == "Pipeline: gate refused"
    assert "application/vnd.jupyter.widget-view+json" not in captured.outputs[-1].data
    assert display.stop.is_set() is False


def test_what_fails_within_a_pipeline_is_told_from_the_pipeline(clock):
    state = CallState()
    for event in (*PIPELINE[:3], Failed("OptimizationFailed: no luck")):
        state = follow(state, event)
    assert (state.status, state.innermost.status) == ("running", "failed")
    state = follow(state, Failed("OptimizationFailed: no luck"))
    assert state.headline == "Pipeline failed: OptimizationFailed: no luck"
    assert follow(state, Evaluated(0, 4)) is not state


def test_each_call_in_a_row_has_a_display_of_its_own(ipython, clock):
    with capture_output() as captured:
        display = NotebookProgress()
        for _ in range(2):
            for event in (Evaluated(0, 3), Evaluated(3, 3, 0, 1.0, 0.5, over=True)):
                display(event)
    texts = [output.data["text/plain"].split(". ")[0] for output in captured.outputs]
    assert [text for text in texts if text] == [
        "Evaluated 0 of 3 examples, 0.0 s",
        "Evaluated 3 of 3 examples, 0.5 s, score 100.0%",
    ] * 2


def test_progress_suits_the_place(monkeypatch, ipython):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    def kind(**options) -> type:
        return type(notebook_progress(**options))

    monkeypatch.setattr("sys.stderr", io.StringIO())
    monkeypatch.setenv("TERM", "xterm")
    assert not notebook_progress()._bars
    monkeypatch.setattr("sys.stderr", Terminal())
    assert kind() is TerminalProgress
    assert notebook_progress()._bars
    assert kind(background=True) is kind(quiet=True) is Display
    ipython.kernel = object()
    assert kind(quiet=True) is Display
    with capture_output() as captured:
        assert kind() is ProgressPanel
        assert not captured.outputs
        assert kind(background=True) is ProgressPanel
        monkeypatch.setitem(sys.modules, "ipywidgets", None)
        for name in ("live", "progress"):
            monkeypatch.delitem(sys.modules, f"dspy_nb.notebook.widgets.{name}")
        assert kind(background=True) is NotebookProgress


def test_events_from_many_threads_add_up(clock, ipython):
    with capture_output():
        display = NotebookProgress()
    lock = threading.Lock()

    def send(first: int) -> None:
        for number in range(first, first + 100):
            with lock:  # as a run does
                display(scored(number, 0.5))

    with capture_output():
        threads = [threading.Thread(target=send, args=(100 * i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert display.state.candidates == 400
