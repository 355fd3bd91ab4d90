"""The line of a terminal: whatever its width, what stands in it is whole."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspy_nb.core.events import (
    CandidateScored,
    Compared,
    Completed,
    Evaluated,
    Event,
    Failed,
    Progress,
    Standing,
    Started,
)
from dspy_nb.views.progress.call_state import CallState
from dspy_nb.views.progress.line import Form, Line, lay_out
from dspy_nb.views.progress.states import follow
from dspy_nb.views.rendering.terminal import width_of
from dspy_nb.views.wording import roughly, time_left

WIDTHS = (40, 60, 80, 100, 200)


def line(width: int, *events: Event, ascii_only: bool = False) -> Line:
    state = CallState()
    for event in events:
        state = follow(state, event)
    meter = state.meter
    assert meter is not None
    return lay_out(meter.title, meter.share, meter.parts, width, ascii_only=ascii_only)


def a_run(
    budget: dict[str, float], optimizer: str = "MIPROv2", step: int = 50, total: int = 200
) -> list[Event]:
    spent = {
        "lm_calls": 40,
        "cache_hits": 10,
        "prompt_tokens": 12_000,
        "completion_tokens": 345,
        "usd": 0.0312,
    }
    metrics = {**spent, "best_score": 0.7, "baseline_score": 0.5, "elapsed_s": 65.0, "errors": 3}
    return [
        Started(optimizer, total, budget),
        CandidateScored(0, 0.5, 30, True, True),
        CandidateScored(1, 0.7, 30, True, True),
        Progress(step, "scoring 200 held-out examples, before", metrics),
    ]


def test_what_there_is_room_for_is_said_and_what_matters_most_stays():
    shown = {width: line(width, *a_run({"lm_calls": 150})) for width in WIDTHS}
    assert str(shown[40]) == "MIPROv2, 50/≤200, best 70.0%"
    assert shown[60].right == "| 50/≤200, best 70.0%, budget 27%"
    assert shown[80].right == "| 50 of ≤200 calls, best 70.0%, budget 40 of 150, 3 errors"
    assert shown[100].right == "| 50 of ≤200 calls, ≤4 min left, best 70.0%, budget 40 of 150, 3 errors"
    assert str(shown[200]).startswith("MIPROv2: scoring 200 held-out examples, before |")
    assert "50 of at most 200 LM calls, 1 min 05 s, at most 4 min left, best" in shown[200].right
    for width in WIDTHS:
        assert len(str(shown[width])) < width
        assert not shown[width].bar if width < 60 else len(shown[width].bar) >= 10


@pytest.mark.parametrize(
    ("budget", "said"),
    [
        ({"usd": 0.5}, "budget $0.0312 of $0.5000"),
        ({"tokens": 1_000_000}, "budget 12,345 of 1,000,000 tokens"),
        ({"seconds": 600.0}, "budget 65 of 600 s"),
        ({"lm_calls": 150, "usd": 0.5, "seconds": 70.0}, "budget 65 of 70 s"),
    ],
)
def test_every_kind_of_budget_is_whole_at_100_columns(budget, said):
    assert said in str(line(100, *a_run(budget)))
    assert re.search(r"budget \d+%", str(line(60, *a_run(budget))))


@pytest.mark.parametrize("width", WIDTHS)
def test_long_names_and_huge_counts_leave_whole_numbers(width):
    events = a_run({"lm_calls": 10**9}, "BootstrapFewShotWithRandomSearch", 123_456_789, 987_654_321)
    shown = str(line(width, *events))
    assert len(shown) < width
    assert "123,456,789" in shown
    assert set(re.findall(r"[\d,]{7,}\d", shown)) <= {"123,456,789", "987,654,321", "1,000,000,000"}


def test_a_failure_says_as_much_of_its_reason_as_there_is_room_for():
    events = [
        *a_run({}),
        Failed("OptimizationFailed: every call failed: 401 Unauthorized, the key is not valid"),
    ]
    assert str(line(200, *events)).startswith("MIPROv2 failed: OptimizationFailed: every call failed: 401")
    assert line(80, *events).left == "MIPROv2 failed: OptimizationFailed: every call failed: 401… |"
    assert str(line(40, *events)) == "MIPROv2 failed: OptimizationFailed…"


@pytest.mark.parametrize(
    ("stopped_by", "how"), [(None, "completed"), ("lm_calls", "stopped"), ("interrupt", "interrupted")]
)
def test_the_last_line_says_how_it_ended_and_the_result_however_long_the_name(stopped_by, how):
    events = a_run({"lm_calls": 150}, "BootstrapFewShotWithRandomSearch")
    for width in WIDTHS:
        shown = str(line(width, *events, Completed(0.7, 185.0, stopped_by)))
        assert how in shown
        assert "70.0%" in shown


def test_an_evaluation_says_its_score_with_the_interval_and_what_is_left():
    begun = Evaluated(0, 400, at_once=8)
    on_its_way = Evaluated(100, 400, 2, 0.55, 60.0, interval=(0.45, 0.64), at_once=8)
    assert "left" not in str(line(200, begun, Evaluated(8, 400, 0, 0.5, 5.0, at_once=8)))
    parts = "100 of 400 examples, 1 min 00 s, about 3 min left, score 55.0% [45.0%, 64.0%], 2 errors"
    assert str(line(200, begun, on_its_way)).endswith(f"| {parts}")
    assert line(60, begun, on_its_way).right == "| 100/400, score 55.0% [45.0%, 64.0%], 2 errors"
    last = Evaluated(120, 400, 2, 0.55, 60.0, over=True, interrupted=True)
    assert str(line(80, begun, on_its_way, last)).startswith("evaluation interrupted |")


def test_answers_from_a_cache_make_no_rate():
    assert time_left(0.5, 500, 500, 500) is None
    assert time_left(10.0, 510, 500, 490) == pytest.approx(490.0)
    assert time_left(0.0, 5, 0, 5) is None
    begun, then = Evaluated(0, 1000, at_once=4), Evaluated(510, 1000, 0, 0.5, 10.0, cached=500, at_once=4)
    assert "at most 8 min left" in str(line(200, begun, then))


def test_a_comparison_ends_with_its_verdict():
    standing = Standing("B", 60, "B better", 60, 0.2, (0.05, 0.35), (14, 2))
    events = [Compared(0, 200, "A", (Standing("B"),)), Compared(60, 200, "A", (standing,), 0.0, 9.0, True)]
    assert str(line(200, *events)).startswith("A/B: A (A) and B (B): B better after 60 examples |")
    assert str(line(60, *events)).startswith("compare: B better |")


def test_a_guess_of_a_duration_is_coarse():
    guesses = [0.4, 5.0, 31.0, 55.0, 56.0, 200.0, 3599.0, 4900.0, 36_001.0, 400_000.0]
    said = ["5 s", "5 s", "35 s", "55 s", "1 min", "3 min", "1 h", "1 h 20 min", "10 h", "111 h"]
    assert [roughly(seconds) for seconds in guesses] == said


_TEXTS = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=30)
_PARTS = st.lists(st.lists(st.builds(Form, _TEXTS, st.integers(0, 9)), max_size=3), max_size=6)


@given(
    st.lists(st.builds(Form, _TEXTS, st.integers(0, 9)), min_size=1, max_size=3),
    st.none() | st.floats(-0.5, 1.5),
    _PARTS,
    st.integers(1, 250),
    st.booleans(),
)
def test_no_line_is_longer_than_the_terminal_and_nothing_in_it_is_half(
    title, share, parts, width, ascii_only
):
    found = lay_out(title, share, parts, width, ascii_only=ascii_only)
    shown = str(found)
    assert width_of(shown) < width or not shown
    assert not ascii_only or shown.isascii()
    assert not found.bar or (width >= 60 and len(found.bar) >= 10)
    if not ascii_only:
        whole = [form.text for part in (title, *parts) for form in part]
        rest = found.left + found.right
        for text in sorted(whole, key=len, reverse=True):
            rest = rest.replace(text, "")
        assert not set(rest) - set(" ,|…")
