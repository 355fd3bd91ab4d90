"""The panel of a run: what it draws, how often, from which thread, and what it leaves behind."""

from __future__ import annotations

import re
import threading

import dspy
import pytest
from IPython.utils.capture import capture_output
from ipywidgets.widgets.widget import _instances

from dspy_nb.core.data.metrics import exact_match
from dspy_nb.core.events import CandidateScored, Completed, Failed, Progress, Started
from dspy_nb.core.optimization.optimize import optimize
from dspy_nb.core.supervision.candidates import Prompt
from dspy_nb.notebook.widgets.live import deliver_at_once
from dspy_nb.notebook.widgets.progress import ProgressPanel
from dspy_nb.views.progress import display as progress
from dspy_nb.views.progress.charts import ScoreTrail, score_svg, score_text
from tests.moments import Clock
from tests.scripted import ScriptedEngine, classifier, reviews, scripted_lm
from tests.views.progress.test_display import scored
from tests.views.test_run import EVIL, read

WIDGET = "application/vnd.jupyter.widget-view+json"


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


pytestmark = pytest.mark.usefixtures("ipython")


@pytest.fixture
def panel(clock):
    """A panel, each of whose events comes a second after the other."""

    class Paced(ProgressPanel):
        def __call__(self, event):
            clock.now += 1
            super().__call__(event)

    with capture_output() as captured:
        made = Paced()
        made.captured = captured
        yield made


def values(panel) -> list[str]:
    """The HTML that the panel shows, output by output, without its styles."""
    outputs = panel._progress, panel._candidates
    return [
        re.sub("<style>.*?</style>", "", output._data["text/html"], flags=re.DOTALL) for output in outputs
    ]


def shown(panel) -> str:
    return read("".join(values(panel)))


def rows(panel) -> list[str]:
    """The candidates from the top to the bottom."""
    return [read(row) for row in re.findall("<summary.*?</summary>", values(panel)[1], flags=re.DOTALL)]


def button(panel):
    return panel._button.button


def test_it_shows_phase_bar_scores_usage_limits_and_memory(panel):
    panel(Started("MIPROv2", 200, {"lm_calls": 150}))
    panel(scored(0, 0.5, best=True))
    panel(scored(1, 0.7, best=True))
    numbers = {"lm_calls": 40, "cache_hits": 10, "prompt_tokens": 900, "completion_tokens": 100, "errors": 2}
    panel(Progress(50, "scoring", {**numbers, "best_score": 0.7, "baseline_score": 0.4, "elapsed_s": 10.0}))
    text = shown(panel)
    for part in (
        "MIPROv2: scoring", "50 of at most 200 LM calls answered · at most 40 s left at this rate",
        "best score70.0% (before: 40.0%)", "uncached calls40 of 150", "cache hits10", "tokens1,000", "errors2",
        " MB", "Stop or interrupting the kernel (■ in the toolbar) keeps the best so far.",
    ):  # fmt: skip
        assert part in text
    assert 'role="progressbar"' in "".join(values(panel))


def test_the_button_stops_the_run_and_says_that_it_does(panel):
    panel(Started("MIPROv2", 200))
    assert not panel.stop.is_set()
    button(panel).click()
    assert panel.stop.is_set()
    assert button(panel).disabled
    assert button(panel).description == "Stopping…"


def test_the_button_tells_also_of_a_stop_from_elsewhere(panel):
    panel(Started("MIPROv2", 200))
    panel.stop.set()
    panel(Progress(1, "working"))
    assert button(panel).disabled


def test_stopping_an_optimization_keeps_the_best_so_far(clock):
    engine = ScriptedEngine()
    with capture_output(), dspy.context(lm=scripted_lm(engine)):
        panel = ProgressPanel()
        engine.on_call = lambda number: button(panel).click() if number == 40 else None
        run = optimize(
            classifier(),
            trainset=reviews(10, "train"),
            valset=reviews(10, "val"),
            metric=exact_match("sentiment"),
            optimizer="BootstrapFewShotWithRandomSearch",
            num_threads=2,
            on_event=panel,
            stop=panel.stop,
        )
    assert run.stopped_by == "stop"
    assert run.candidates
    assert engine.calls < 60
    assert "stopped on request" in panel._progress._data["text/plain"]


@pytest.mark.parametrize("end", [Completed(0.7, 3.0), Completed(0.7, 3.0, "stop"), Failed("no luck")])
def test_the_end_leaves_html_and_text_and_no_widget(panel, end):
    before = set(_instances)
    panel(Started("MIPROv2", 200))
    panel(scored(0, 0.5, best=True))
    button_, how, prompts = [output.data for output in panel.captured.outputs[:3]]
    assert button_[WIDGET]
    assert button_["text/html"] == button_["text/plain"] == ""
    assert {*how, *prompts} == {"text/html", "text/plain"}
    panel(end)
    button_, static, prompts = [output.data for output in panel.captured.outputs[-3:]]
    assert set(button_.values()) == set(prompts.values()) == {""}
    assert "Candidate 0: 50.0% on 30 examples" in read(static["text/html"])
    assert "after a reload" not in read(static["text/html"]).lower()
    assert set(_instances) == before


def test_a_run_that_ends_before_anything_is_shown_is_static_at_once(panel):
    panel(Failed("no luck"))
    assert [set(output.data) for output in panel.captured.outputs] == [{"text/html", "text/plain"}]


def test_what_a_page_that_is_loaded_anew_shows_says_how_to_stop_and_when_it_was_so(panel):
    panel(Started("MIPROv2", 200, timestamp="2026-11-30T03:17:08.123+00:00"))
    how = "After a reload of the page this stays as it is: interrupt the kernel to stop, %dspy_runs then says how"
    assert how in shown(panel)
    assert "As of 03:17:08 UTC." in shown(panel)
    assert how in panel._progress._data["text/plain"]


def test_a_run_in_the_background_is_stopped_by_what_reaches_it(clock):
    with capture_output():
        panel = ProgressPanel()
        panel.show()
        thread = threading.Thread(target=panel, args=(Started("MIPROv2", 200),))
        thread.start()
        thread.join()
    assert "Stop keeps the best so far." in shown(panel)
    assert "%dspy_runs in another cell shows the run again and stops it" in shown(panel)
    assert "interrupt" not in shown(panel)


def test_it_is_drawn_at_most_four_times_a_second_and_at_the_end(clock):
    with capture_output() as captured:
        panel = ProgressPanel()
        for step in range(1000):
            panel(Started("MIPROv2", 200) if step == 0 else Progress(step, f"step {step}"))
            clock.now += 0.01
        panel(Completed(None, 10.0))
    assert 36 <= panel.redraws <= 41
    assert len(captured.outputs) <= 3 + 41 + 2  # the outputs, their updates, the end


@pytest.mark.heavy
def test_thousands_of_candidates_leave_five_rows_with_a_notice_and_a_small_chart(panel):
    panel(Started("MIPROv2", 200))
    for number in range(3000):
        panel(scored(number, (number * 37 % 1000) / 1000, best=False, text="word " * 40))
    assert len(rows(panel)) == 5
    assert "99.9%" in rows(panel)[0]
    assert "(best)" in rows(panel)[0]
    assert "best candidates so far" in shown(panel)
    assert sum(map(len, values(panel))) < 40_000


def test_the_prompts_are_drawn_again_only_when_others_are_the_best(panel):
    panel(Started("MIPROv2", 200))
    for number in range(6):
        panel(scored(number, 0.9 - number / 10))
    drawn = panel._candidates._data
    for number in range(6, 40):
        panel(scored(number, number / 1000))
        panel(Progress(number, "on"))
    assert panel._candidates._data is drawn  # what is open stays open
    panel(scored(40, 0.95, best=True))
    assert panel._candidates._data is not drawn
    assert rows(panel)[0].startswith("40 (best)")


def test_a_row_holds_the_whole_prompt(panel):
    program = dspy.Predict(dspy.Signature("review -> sentiment", "Classify. " + "Mind the tone. " * 40))
    program.demos = [dspy.Example(review="fine", sentiment="positive")]
    panel(Started("MIPROv2", 200))
    event = CandidateScored(0, 0.5, 10, True, True, "Classify.", 1, prompt=Prompt.of(program))
    panel(event)
    text = shown(panel)
    assert text.count("Mind the tone.") == 40
    assert "review: fine" in text
    panel(Completed(0.5, 1.0))
    assert read(panel._progress._data["text/html"]).count("Mind the tone.") == 40


def test_markup_in_a_prompt_or_phase_is_not_run(panel):
    program = dspy.Predict(dspy.Signature("review -> sentiment", EVIL))
    program.demos = [dspy.Example(review=EVIL, sentiment=EVIL)]
    panel(Started("MIPROv2", 200))
    panel(CandidateScored(0, 0.5, 10, True, True, EVIL, 1, prompt=Prompt.of(program)))
    panel(Progress(1, EVIL))
    assert shown(panel).count(EVIL) == 5
    assert "<script" not in "".join(values(panel))
    panel(Failed(EVIL))
    assert "<script" not in panel._progress._data["text/html"]


def test_events_from_many_threads_add_up():
    with capture_output():
        panel = ProgressPanel()
        panel(Started("MIPROv2", 200))
        panel._shown_at = 0.0

        def send(first: int) -> None:
            for number in range(first, first + 200):
                panel(scored(number, number % 100 / 100))

        threads = [threading.Thread(target=send, args=(200 * i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        panel(Completed(0.99, 1.0))
    assert panel.state.candidates == 800
    assert max(event.score for event in panel.state.best_few.values()) == 0.99


def test_a_click_keeps_the_way_that_the_front_end_chose():
    class Comm:
        def _reply_subshell_for(self, data, default):
            return "the running cell's"

    class Older:
        pass

    class Clickable:
        def __init__(self, comm):
            self.comm = comm

    comm = Comm()
    assert deliver_at_once(Clickable(comm))
    assert comm._reply_subshell_for({}, "the front end's") == "the front end's"
    assert not deliver_at_once(Clickable(Older()))


# -- the chart ----------------------------------------------------------------------------------------------


def trail(*scores: float, full: bool = True) -> ScoreTrail:
    made = ScoreTrail()
    for number, score in enumerate(scores):
        made.add(number, score, full)
    return made


def test_the_chart_says_in_words_what_it_shows():
    text = score_text(trail(0.5, 0.3, 0.8), 0.4)
    assert text == (
        "Scores of 3 candidates, from 30.0% to 80.0%; the best in full is number 2 with 80.0%; "
        "the program as it was given has 40.0%"
    )
    assert text in score_svg(trail(0.5, 0.3, 0.8), 0.4)


def test_partial_scores_have_another_mark_than_full_ones():
    assert "on some of them" not in read(score_svg(trail(0.5), None))
    assert "× on some of them" in read(score_svg(trail(0.5, full=False), None))


@pytest.mark.parametrize("scores", [(0.0,), (1.0, 1.0), (0.5, 0.5), (-0.2, 1.7), (1e-9, 0.999999)])
def test_every_point_lies_inside_the_chart(scores):
    svg = score_svg(trail(*scores), None)
    dots = svg.split('<path d="')[-1].split('"')[0].split("M")[1:]
    for dot in dots:
        x, y = map(float, dot.removesuffix("h0").split())
        assert 54 <= x <= 750
        assert 12 <= y <= 172


def test_thousands_of_points_are_thinned_out_and_records_stay():
    made = ScoreTrail()
    for number in range(10_000):
        made.add(number, 0.99 if number == 7777 else 0.1 + number % 7 / 10, full=True)
    assert len(made.points) <= 240
    assert made.total == 10_000
    assert made.records[-1].number == 7777
    assert made.points[-1].number == 9999
    assert len(score_svg(made, 0.5)) < 8000
