"""What people see of races: candidates that were given up, what that saved, and what it may save."""

from __future__ import annotations

import dspy
import pytest

import dspy_nb as nb
from benchmarks.population import RANDOM_SEARCH, Proposer, setting
from dspy_nb.commands.optimize import _facts
from dspy_nb.core.events import Event
from dspy_nb.views.progress.run_state import RunState, candidate_title
from dspy_nb.views.rendering.html import to_html
from dspy_nb.views.rendering.markdown import to_markdown
from dspy_nb.views.rendering.text import to_text


@pytest.fixture(scope="module", params=["exact", "paired"])
def raced(request: pytest.FixtureRequest) -> tuple[nb.OptimizationRun, RunState]:
    events: list[Event] = []
    with dspy.context(lm=dspy.LM("scripted/proposer", engine=Proposer(), cache=False)):
        run = nb.optimize(
            **setting(60, 1), **RANDOM_SEARCH, race=request.param, num_threads=1, on_event=events.append
        )
    state = RunState()
    for event in events:
        state.add(event)
    return run, state


def test_report_and_panel_say_what_races_saved_and_which_candidates_were_given_up(
    raced: tuple[nb.OptimizationRun, RunState],
) -> None:
    run, state = raced
    given_up = max((c for c in run.candidates if c.abandoned is not None), key=lambda c: c.score)
    known = given_up.abandoned
    assert known is not None
    assert run.raced == 16 * 60 > run.skipped > 0
    saved = f"{run.skipped:,} of {run.raced:,} answers"
    bound = "at most" if run.plan.race == "exact" else "very probably at most"
    title = f"given up after {known.n} of 60, {bound} {known.interval[1]:.1%}"
    for shown in (to_text(run), to_markdown(run), to_html(run), to_text(state.document())):
        assert saved in shown
    event = state.best_few[given_up.number]
    for shown in (to_text(given_up), to_html(given_up), candidate_title(event)):
        assert title in shown
    assert f"{known.score:.1%} [{known.interval[0]:.1%}, {known.interval[1]:.1%}]" in to_text(run)
    assert f"{known.n} of 60, given up" in to_text(run)


def test_the_command_line_gives_the_same_as_json(raced: tuple[nb.OptimizationRun, RunState]) -> None:
    run, _ = raced
    facts = _facts(run, None)
    assert facts["race"] == {"rule": run.plan.race, "skipped": run.skipped, "raced": run.raced}
    given_up = [one for one in facts["candidates"] if one["abandoned"]]
    assert sum(one["abandoned"]["skipped"] for one in given_up) == run.skipped
    assert facts["fewest_lm_calls"] < facts["estimated_lm_calls"]
