"""The panel of a comparison: what it draws while it works, how often, and what it leaves behind."""

from __future__ import annotations

import itertools
import random
import threading

import dspy
import pytest
from IPython.utils.capture import capture_output
from ipywidgets.widgets.widget import _instances

import dspy_nb as nb
from dspy_nb.core.ab.comparison import Step
from dspy_nb.core.events import Compared, Standing
from dspy_nb.notebook.widgets.progress import ABPanel
from dspy_nb.views.progress import display as progress
from dspy_nb.views.progress.charts import sequence_svg, sequence_text
from dspy_nb.views.progress.comparison import ComparisonState
from dspy_nb.views.rendering.html import to_html
from dspy_nb.views.rendering.text import to_text
from tests.moments import HANG_S, Clock
from tests.notebook.widgets.test_progress import button, values
from tests.views.test_run import EVIL, read

WIDGET = "application/vnd.jupyter.widget-view+json"


pytestmark = pytest.mark.usefixtures("ipython")


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def answers(share: float, word: str = "no"):
    def answer(x: str) -> dspy.Prediction:
        return dspy.Prediction(y="yes" if random.Random(f"{share}{x}").random() < share else word)

    return answer


def examples(n: int, word: str = "example"):
    return [dspy.Example(x=f"{word} {i}", y="yes").with_inputs("x") for i in range(n)]


def watched(clock, panel: ABPanel, share_b: float, n: int, **options):
    """Compare under the eyes of the panel, drawn each time, and return also what it showed.

    After 8 answers, long before the verdict, the new program waits until the panel has shown what they changed.
    """
    seen = []
    asked, shown = itertools.count(1), threading.Event()

    def listen(event):
        clock.now += 1
        panel(event)
        seen.append("".join(values(panel)) or to_html(panel.state.document()))
        if "fixed" in read(seen[-1]):
            shown.set()

    def answer(x: str) -> dspy.Prediction:
        if next(asked) > 8:
            assert shown.wait(HANG_S)
        return answers(share_b)(x)

    found = nb.compare_many(
        answers(0.3), [answer], examples(n, options.pop("word", "example")), nb.exact_match("y"),
        on_event=listen, stop=panel.stop, names=["old", "new"], **options,
    )  # fmt: skip
    return found[0], seen


def test_it_shows_the_interval_what_is_left_and_what_changed_until_the_verdict(clock):
    with capture_output() as captured, ABPanel(["old", "new"], margin=0.02) as panel:
        found, seen = watched(clock, panel, 0.9, 400, margin=0.02)
    assert found.verdict == "B better"
    assert WIDGET in captured.outputs[0].data
    assert "keeps what was compared so far" in captured.outputs[1].data["text/plain"]
    assert 'role="img"' in seen[-1]
    assert "of at most 400 examples compared" in read(seen[-1])
    assert any("fixed" in read(shown) for shown in seen)
    assert panel.state.headline == f"A/B: old (A) and new (B): B better after {found.n_at_verdict} examples"


def test_it_ends_as_static_html_and_text_and_closes_its_widgets(clock):
    before = set(_instances)
    updates = []
    with capture_output(), ABPanel(["old", "new"]) as panel:
        panel._progress._handle.update = lambda bundle, raw: updates.append(bundle)
        watched(clock, panel, 0.9, 300)
    *_, bundle = updates
    assert set(bundle) == {"text/html", "text/plain"}
    assert "B better after" in bundle["text/plain"]
    assert "<svg" in bundle["text/html"]
    assert set(_instances) <= before


def test_the_button_stops_the_comparison_and_keeps_what_was_compared(clock):
    with capture_output(), ABPanel(["old", "new"]) as panel:
        asked = []

        def until_pressed(answer):
            def ask(x):
                asked.append(x)
                if len(asked) > 40:  # some are compared by then
                    panel.stop.wait(HANG_S)
                return answer(x)

            return ask

        def press(event):
            clock.now += 1
            panel(event)
            if event.done > 0:
                button(panel).click()

        found = nb.compare_many(
            until_pressed(answers(0.5)), [until_pressed(answers(0.5, "never"))], examples(5000),
            nb.exact_match("y"), names=["old", "new"], on_event=press, stop=panel.stop, num_threads=2,
        )  # fmt: skip
    assert 0 < found[0].n < 5000
    assert not found.complete
    assert button(panel).disabled
    assert panel.state.headline.endswith("stopped")


def test_it_is_drawn_four_times_a_second_at_most(clock):
    event = Compared(0, 10, "old", (Standing("new"),))
    with capture_output(), ABPanel(["old", "new"]) as panel:
        for _ in range(100):
            clock.now += 0.01
            panel(event)
        assert panel.redraws <= 2 + 4
        threads = [threading.Thread(target=panel, args=(event,)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def test_a_failure_is_said_and_goes_on(ipython):
    with capture_output(), pytest.raises(ZeroDivisionError), ABPanel(["old", "new"]) as panel:
        raise ZeroDivisionError("a\nb")
    assert panel.state.headline.endswith("failed: ZeroDivisionError: a b")


def test_nothing_that_programs_say_becomes_markup(clock):
    with capture_output(), ABPanel([EVIL, EVIL]) as panel:
        _, seen = watched(clock, panel, 0.9, 100, word=EVIL)
    assert EVIL in read(seen[-1])
    assert EVIL not in seen[-1]
    assert EVIL not in to_html(panel.state.document())


def test_several_candidates_are_a_table_with_the_chart_of_the_one_ahead(clock):
    with capture_output(), ABPanel(["old", "x", "y"]) as panel:
        nb.compare_many(
            answers(0.3), [answers(0.35), answers(0.9)], examples(300), nb.exact_match("y"), on_event=panel
        )
    text = to_text(panel.state.document())
    assert "2 candidates against old (A)" in text
    assert "the chart is that of y" in text
    assert "1 better" in text


def test_one_look_has_no_interval_before_its_end(clock):
    with capture_output(), ABPanel(["old", "new"]) as panel:
        _, seen = watched(clock, panel, 0.9, 60, sequential=False, max_examples=60)
    assert "<svg" not in seen[-1]
    assert "60 of at most 60 examples compared" in read(seen[-1])


def test_before_the_first_answer_it_waits():
    state = ComparisonState(["old", "new"], 0.0, 10)
    assert "waiting for the first answers" in to_text(state.document())
    state.add(Compared(0, 10, "old", (Standing("new"),)))
    assert "comparing" in state.headline


@pytest.mark.parametrize("n", [1, 19, 20, 21, 999, 30_000])
def test_the_chart_is_small_and_its_axis_round_whatever_came_in(n):
    path = [Step(i, 0.1, max(-1.0, 0.1 - 3 / i), min(1.0, 0.1 + 3 / i)) for i in range(1, n + 1)]
    svg = sequence_svg(path, 0.02, 40_000)
    assert len(svg) < 20_000
    assert f"after {n:,} example" in sequence_text(path)
    assert "nan" not in svg


def test_a_contradicted_sequence_is_drawn_up_to_there():
    nan = float("nan")
    path = [Step(1, 0.5, -1.0, 1.0), Step(2, 0.5, nan, nan)]
    assert "nan" not in sequence_svg(path, 0.0, 10)
    assert "nan" not in sequence_svg(path[1:], 0.0, 10)
