"""Who hears of a call: which calls show how they go, where, and what ends them."""

from __future__ import annotations

import io
import sys
import threading
from collections.abc import Iterator

import dspy
import pytest

import dspy_nb as nb
from dspy_nb.core.audience import Audience
from dspy_nb.core.events import Evaluated
from dspy_nb.views.progress.display import Display
from dspy_nb.views.progress.terminal import TerminalProgress
from tests.moments import interrupting
from tests.scripted import ScriptedEngine, classifier, reviews, scripted_lm

METRIC = nb.exact_match("sentiment")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def on_terminal(monkeypatch):
    """Makes stderr a terminal of 200 columns; within the test, for pytest puts its own there when one begins."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.delenv("DSPY_NB_PROGRESS", raising=False)

    def begin() -> Terminal:
        terminal = Terminal()
        monkeypatch.setattr(sys, "stderr", terminal)
        return terminal

    return begin


def ends(terminal: io.StringIO) -> list[str]:
    """The lines that are left standing."""
    lines = terminal.getvalue().split("\n")[:-1]
    return [line.rsplit("\r", 1)[-1].strip() for line in lines]


def _optimize(**more):
    sets = {"trainset": reviews(6, "train"), "valset": reviews(6, "val"), "testset": reviews(20, "test")}
    return nb.optimize(classifier(), **sets, metric=METRIC, preset="light", num_threads=2, **more)


def _pipeline(**more):
    sets = {"trainset": reviews(6, "train"), "testset": reviews(20, "test")}
    task = nb.Task(program=classifier(), **sets, metric=METRIC, optimizer="LabeledFewShot", options={"k": 2})
    rules = nb.PipelineRules(gate=nb.QualityGate(min_score=0.1))
    return nb.run_pipeline(task, "m", rules, registry=nb.Registry("registry"), folder="out", **more)


CALLS = {
    "optimize": _optimize,
    "evaluate": lambda **more: nb.evaluate(classifier(), reviews(12), METRIC, **more),
    "compare": lambda **more: nb.compare(classifier(), classifier(), reviews(12), METRIC, **more),
    "compare_many": lambda **more: nb.compare_many(
        classifier(), [classifier()] * 2, reviews(12), METRIC, **more
    ),
    "run_pipeline": _pipeline,
}
_BEGINNINGS = {
    "optimize": ["BootstrapFewShotWithRandomSearch completed"],
    "evaluate": ["evaluate |"],
    "compare": ["A/B: "],
    "compare_many": ["A/B: "],
}


@pytest.mark.usefixtures("engine", "workplace")
@pytest.mark.parametrize("name", CALLS)
def test_in_a_terminal_each_call_shows_one_bar_and_false_none(name, on_terminal):
    stderr = on_terminal()
    CALLS[name]()
    found = ends(stderr)
    if name == "run_pipeline":
        assert [line.split(":")[0].split(" ")[0] for line in found if "|" not in line][::2] == [
            "optimize", "evaluate", "gate", "staging", "ab-test", "production"
        ]  # fmt: skip
        assert [line.split(" ")[0] for line in found if "|" in line] == ["LabeledFewShot"]
    else:
        assert len(found) == len(_BEGINNINGS[name])
        assert all(map(str.startswith, found, _BEGINNINGS[name]))
    before = stderr.getvalue()
    if name != "run_pipeline":
        CALLS[name](progress=False)
        assert stderr.getvalue() == before


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize(
    ("said", "progress", "tty", "shown"),
    [
        ("", None, True, True), ("", None, False, False), ("", True, False, True),
        ("auto", None, False, False),
        ("0", None, True, False), ("Off", None, True, False), (" no ", None, True, False),
        ("off", True, True, True), ("1", None, False, True), ("on", False, True, False),
        ("what?", False, True, False),
    ],
)  # fmt: skip
def test_the_call_decides_then_the_environment_then_the_place(
    said, progress, tty, shown, on_terminal, monkeypatch
):
    stderr = on_terminal()
    monkeypatch.setenv("DSPY_NB_PROGRESS", said)
    stream = stderr if tty else io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    nb.evaluate(classifier(), reviews(4), METRIC, progress=progress)
    assert bool(stream.getvalue()) is shown
    if not tty and shown:  # lines, for a log: the beginning and the end
        first, *_, last = stream.getvalue().splitlines()
        assert first == "Evaluated 0 of 4 examples, 0.0 s"
        assert last.startswith("Evaluated 4 of 4 examples")
        assert "\r" not in stream.getvalue()


@pytest.mark.usefixtures("on_terminal")
def test_a_setting_that_is_none_is_an_error_of_one_line_before_anything_is_spent(monkeypatch, engine):
    monkeypatch.setenv("DSPY_NB_PROGRESS", "loud")
    for call in (CALLS["evaluate"], CALLS["optimize"], CALLS["compare"]):
        with pytest.raises(nb.InputError, match=r"^DSPY_NB_PROGRESS must be on, off or auto, got 'loud'$"):
            call()
    with pytest.raises(nb.InputError, match=r"^progress must be True, False or None, got 'yes'$"):
        CALLS["evaluate"](progress="yes")
    assert engine.calls == 0


@pytest.mark.usefixtures("engine")
def test_a_display_among_the_listeners_is_the_only_one(on_terminal):
    stderr = on_terminal()
    heard: list[object] = []
    nb.evaluate(classifier(), reviews(4), METRIC, on_event=[heard.append, Display()])
    assert not stderr.getvalue()
    nb.evaluate(classifier(), reviews(4), METRIC, on_event=[TerminalProgress()])
    nb.evaluate(classifier(), reviews(4), METRIC, on_event=heard.append)
    assert len(ends(stderr)) == 2
    assert isinstance(heard[-1], Evaluated)


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("outside", [None, False])
def test_a_call_within_a_metric_shows_nothing_of_its_own(outside, on_terminal):
    stderr = on_terminal()

    def judge(example, prediction, trace=None):
        return nb.evaluate(classifier(), reviews(2, "judge"), METRIC).score >= 0

    nb.evaluate(classifier(), reviews(3), judge, progress=outside)
    sets = {"trainset": reviews(4, "train"), "valset": reviews(4, "val")}
    nb.optimize(classifier(), **sets, metric=judge, preset="light", num_threads=2, progress=outside)
    assert len(ends(stderr)) == (2 if outside is None else 0)


@pytest.mark.usefixtures("engine")
def test_a_display_that_fails_harms_no_call(on_terminal, monkeypatch, caplog):
    on_terminal()
    monkeypatch.setattr(TerminalProgress, "_show", lambda self: 1 / 0)
    assert nb.evaluate(classifier(), reviews(4), METRIC).complete
    monkeypatch.setitem(nb.FRONTS, "progress", "dspy_nb.nowhere:nothing")
    assert nb.evaluate(classifier(), reviews(4), METRIC).complete
    assert _optimize(background=True).wait().status == "completed"
    assert "cannot be shown" in caplog.text


def test_the_stop_of_the_caller_and_that_of_the_display_both_end_the_call(on_terminal, engine):
    stderr = on_terminal()
    for ending in ("caller", "display"):
        stop = threading.Event()
        audience = Audience(None, None, stop)
        (display,) = audience.listeners
        (stop if ending == "caller" else display.stop).set()
        assert audience.stop.is_set()
        assert stop.is_set() is (ending == "caller")
    stop.set()
    assert nb.evaluate(classifier(), reviews(4), METRIC, stop=stop).n == 0
    assert ends(stderr)[-1].startswith("evaluation stopped |")
    assert engine.calls == 0


@pytest.mark.usefixtures("engine")
def test_in_the_background_a_terminal_shows_nothing_unless_it_is_asked_to(on_terminal):
    stderr = on_terminal()
    assert _optimize(background=True).wait().status == "completed"
    assert not stderr.getvalue()
    assert _optimize(background=True, progress=True).wait().status == "completed"
    assert "completed" in ends(stderr)[-1]


def _evaluate_on_a_terminal() -> Iterator[str]:
    sys.stderr = Terminal()
    with dspy.context(lm=scripted_lm()):
        nb.evaluate(classifier(), reviews(2), METRIC)
    yield sys.stderr.getvalue()


@pytest.mark.heavy
def test_a_process_of_a_pool_shows_nothing(children):
    assert children(_evaluate_on_a_terminal).rest() == [""]


@pytest.mark.usefixtures("engine")
def test_an_interrupt_leaves_a_red_line_that_says_so(on_terminal, monkeypatch):
    stderr = on_terminal()
    monkeypatch.setenv("NO_COLOR", "")
    engine = ScriptedEngine()
    with interrupting(3) as engine.on_call, dspy.context(lm=scripted_lm(engine)):
        found = nb.evaluate(classifier(), reviews(8), METRIC, num_threads=1)
    assert not found.complete
    assert ends(stderr)[-1].startswith("\x1b[31mevaluation interrupted |")


def test_an_evaluation_says_the_interval_of_its_score_and_how_many_answers_were_cached():
    lm = scripted_lm(ScriptedEngine(), cache=True)
    for cached in (0, 6):
        heard: list[Evaluated] = []
        with dspy.context(lm=lm):
            found = nb.evaluate(
                classifier(), reviews(6, "cached?"), METRIC, num_threads=2, on_event=heard.append
            )
        first, last = heard[0], heard[-1]
        assert (first.interval, first.at_once, last.interval) == (None, 2, found.interval)
        assert (last.cached, last.interrupted) == (cached, False)
