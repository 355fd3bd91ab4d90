"""What a person reads of a sweep, while it works and in the end."""

from dspy_nb.core.events import CandidateScored, Compared, Progress, Standing, Started
from dspy_nb.core.sweep_events import CellEnded, CellStarted, SweepEnded, SweepStarted
from dspy_nb.views.progress.call_state import CallState
from dspy_nb.views.progress.states import follow
from dspy_nb.views.progress.sweep import SweepState
from dspy_nb.views.rendering.html import to_html
from dspy_nb.views.rendering.markdown import to_markdown
from dspy_nb.views.rendering.text import to_text
from tests.core.sweep.samples import result


def one_line(text):
    return " ".join(text.split())


def test_the_best_and_the_cheapest_come_first():
    text = one_line(to_text(result()))
    assert text.startswith("Sweep: best is MIPROv2 · big")
    assert "Best: MIPROv2 · big, 85.0% [77.0%, 91.0%], $5 for 1,000 calls." in text
    assert (
        "Cheapest that is at most 2 points worse: MIPROv2 · small, $1 for 1,000 calls, -0.5 points, at worst -1.8."
        in text
    )
    assert "Against the program as given (as given · big) the best is better: +25.0 points" in text
    assert "failed: the model <is> down" in text


def test_where_nothing_is_optimized_the_first_model_is_what_the_others_are_compared_with():
    text = one_line(to_text(result(n_validation=0, rungs=())))
    assert "It is the first of them, and no other one is shown to be better." in text
    assert "validation" not in text.split("What each cell took")[0]


def test_without_prices_and_without_finals_nothing_is_claimed():
    assert "tokens a call" in one_line(to_text(result(usd=False)))
    text = one_line(to_text(result(finals=False)))
    assert "Which cell is best is not known" in text
    assert "ended by stop" in text
    assert "Cheapest" not in text


def test_names_are_escaped():
    for shown in (to_html(result()), to_markdown(result())):
        assert "<b>" not in shown
        assert "COPRO" in shown


def test_one_panel_shows_all_cells_and_the_one_under_way():
    state = CallState()
    for event in (
        SweepStarted(("one", "two"), (2,), {"lm_calls": 100}),
        CellStarted("one", 1, 50),
        Started("COPRO", 40, {"lm_calls": 50}),
        Progress(10, "scoring", {"lm_calls": 10}),
        CandidateScored(0, 0.5, 10, True, True),
    ):
        state = follow(state, event)
    assert isinstance(state, SweepState)
    text = to_text(state.document())
    assert "one   under way" in text
    assert "two   waiting" in text
    assert "10 of at most 100 LM calls" in text
    assert state.innermost is state
    for event in (
        CellEnded("one", "failed", "the model is down", None, 12, {"lm_calls": 12}),
        CellStarted("", 2),
        Compared(3, 10, "two", (Standing("one", 3),)),
    ):
        state = follow(state, event)
    assert "failed: the model is down" in to_text(state.document())
    assert "comparing the finalists" in state.headline
    state = follow(state, SweepEnded("two", "best is two", 90, 3.0))
    assert state.status == "completed"
    assert state.headline == "Sweep: best is two"
    assert state.lines[-1] == "best: two"
    assert "90 of at most 100 LM calls" in to_text(state.document())
