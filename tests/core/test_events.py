import errno
import logging
import math
import os
import socket
import threading
from dataclasses import dataclass
from pathlib import Path

import pytest

from dspy_nb.core import events
from dspy_nb.core.errors import InputError
from dspy_nb.core.event_log import EventLog, read_events
from dspy_nb.core.events import (
    Broadcaster,
    CandidateScored,
    Compared,
    Completed,
    Evaluated,
    Event,
    Failed,
    HeldOut,
    Progress,
    Standing,
    Started,
    StepEnded,
    StepStarted,
)
from tests.moments import HANG_S, Clock

EVENTS = [
    Started("MIPROv2", 120, {"lm_calls": 500}),
    Progress(3, "scoring", {"lm_calls": 3, "usd": None}),
    CandidateScored(0, 0.5, 10, True, True, "Classify.", 2),
    Completed(0.8, 1.5, "seconds"),
    Completed(
        0.8,
        1.5,
        held_out=HeldOut(0.5, 0.6, (0.4, 0.6), (0.5, 0.7), 40, 40, "better", 0.1, (0.02, 0.2)),
        next_step="Register it",
    ),
    Failed("it broke"),
    Evaluated(3, 10, 1, 2 / 3, 1.5, interval=(0.2, 0.9), cached=1, at_once=8),
    Compared(
        4, 40, "old", (Standing("new", 4, effect=0.5, interval=(-0.25, 1.0), wins=(2, 0)),), 0.02, 3.5, True
    ),
    StepStarted("gate", "runs/m-001"),
    StepEnded("gate", "refused", "score 40% is below 85%", 0.5, over=True),
]


def test_a_log_gives_back_the_events_that_were_written(tmp_path):
    log = EventLog(tmp_path / "deep" / "events.jsonl")
    for event in EVENTS:
        log(event)
    log.close()
    assert read_events(log.path) == EVENTS


def test_a_log_of_an_earlier_version_and_one_of_a_later_are_read(tmp_path):
    path = tmp_path / "events.jsonl"
    path.write_text(
        '{"event": "Started", "optimizer": "COPRO", "total_steps": 9, "budget": {"lm_calls": 5}}\n'
        '{"event": "Progress", "step": 3, "message": "m", "metrics": {"usd": null}, "timestamp": "t"}\n'
        '{"event": "CandidateScored", "candidate": 0, "score": NaN, "n": 3, "full": true, "best": false, '
        '"instruction": "Say.", "demos": 1, "timestamp": "t"}\n'
        '{"event": "Completed", "score": 1, "duration_s": 2, "stopped_by": null, "timestamp": "t", "new": [1]}\n'
    )
    started, progress, scored, completed = read_events(path)
    assert started == Started("COPRO", 9, {"lm_calls": 5}, timestamp=started.timestamp)
    assert isinstance(started.budget["lm_calls"], int)
    assert progress.metrics == {"usd": None}
    assert math.isnan(scored.score)
    assert completed == Completed(1.0, 2.0, timestamp="t")


def test_another_kind_of_call_brings_its_own_events(tmp_path, monkeypatch):
    monkeypatch.setitem(events.EVENT_KINDS, "Swept", Event)  # and taken away again at the end

    @dataclass(frozen=True)
    class Swept(Event):
        done: int
        best: str = ""

    log, sent = EventLog(tmp_path / "events.jsonl"), Swept(3, "temperature=0.2")
    with Broadcaster([log]) as broadcaster:
        broadcaster.send(sent)
    log.close()
    assert read_events(log.path) == [sent]


def test_what_only_listeners_get_is_in_no_log(tmp_path):
    path = [(1, 0.5, -1.0, 1.0)]
    log = EventLog(tmp_path / "events.jsonl")
    log(Compared(1, 2, "old", (Standing("new", 1, path=path, flips=[object()]),)))
    log(CandidateScored(0, 0.5, 10, True, True, prompt=object()))
    log.close()
    compared, scored = read_events(log.path)
    assert (compared.candidates[0].path, compared.candidates[0].flips, scored.prompt) == ((), (), None)


def test_each_event_is_in_the_file_before_the_next_one_comes(tmp_path):
    log = EventLog(tmp_path / "events.jsonl")
    log(EVENTS[0])
    assert read_events(log.path) == EVENTS[:1]
    log.close()


def test_a_line_that_a_crash_cut_short_is_left_out_and_written_over(tmp_path):
    path = tmp_path / "events.jsonl"
    log = EventLog(path)
    log(EVENTS[0])
    log.close()
    with path.open("a") as file:
        file.write('{"event": "Progress", "st')
    assert read_events(path) == EVENTS[:1]
    log = EventLog(path)
    log(EVENTS[1])
    log.close()
    assert read_events(path) == EVENTS[:2]


def test_a_log_that_cannot_be_read_is_an_error_that_names_the_line(tmp_path):
    path = tmp_path / "events.jsonl"
    path.write_text('{"event": "Nonsense"}\n{"event": "Failed", "error": "x", "timestamp": "t"}\n')
    with pytest.raises(InputError, match="line 1: not an event"):
        read_events(path)
    with pytest.raises(InputError, match="cannot read the event log"):
        read_events(tmp_path / "missing.jsonl")


def test_a_broken_listener_is_logged_once_and_the_others_get_everything(caplog):
    seen = []

    def broken(event):
        raise RuntimeError("no")

    events = Broadcaster([broken, seen.append])
    with caplog.at_level(logging.WARNING):
        for event in EVENTS:
            events.send(event)
    assert seen == EVENTS
    assert len(caplog.records) == 1


def test_nobody_hears_of_a_call_that_has_ended():
    seen = []
    with Broadcaster(seen.append) as events:
        events.send(EVENTS[0])
    events.send(EVENTS[1])
    events.update(lambda: EVENTS[1])
    assert seen == EVENTS[:1]


def test_a_call_that_raises_says_so_last():
    seen = []
    with pytest.raises(ZeroDivisionError), Broadcaster([seen.append]):
        raise ZeroDivisionError("a\nb")
    assert [event.error for event in seen] == ["ZeroDivisionError: a b"]


def test_updates_are_a_few_a_second_and_one_at_a_time(monkeypatch):
    clock, seen = Clock(), []
    monkeypatch.setattr(events, "time", clock)
    broadcaster = Broadcaster(seen.append)
    for step in range(1000):
        broadcaster.update(lambda step=step: Progress(step, "at it"))
        clock.now += 0.01
    assert 36 <= len(seen) <= 41

    def slow(event):
        clock.now += 1
        thread = threading.Thread(target=broadcaster.update, args=(lambda: EVENTS[0],))
        thread.start()
        thread.join(HANG_S)  # it does not wait for its turn
        assert not thread.is_alive()
        seen.append(event)

    broadcaster.listeners = [slow]
    broadcaster.update(lambda: EVENTS[1])
    assert seen[-1] is EVENTS[1]


@pytest.mark.parametrize("wrong", [3, [print, 3], "print"])
def test_a_listener_is_something_to_call(wrong):
    with pytest.raises(InputError, match="on_event must be a function of an event, or a list of such, got"):
        Broadcaster(wrong)


def test_an_interrupt_in_a_listener_is_not_swallowed():
    def interrupted(event):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Broadcaster([interrupted]).send(EVENTS[0])


# -- files that are none, and files that fail -------------------------------------------------------------------


def make(kind, path):
    """Make something that no log can be written to."""
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            os.chdir(path.parent)  # the whole path would be too long for a socket
            server.bind(path.name)
    elif kind == "in a file":
        path.parent.joinpath("file").write_text("")
        return path.parent / "file" / "events.jsonl"
    elif kind == "another text":
        path.write_text("the only copy of my notes")
    elif kind == "a report":
        path.write_text('{"schema_version": 1}\n')
    elif kind == "zeros":
        with path.open("wb") as file:
            file.truncate(10 * 2**30)
    elif kind == "long name":
        return path.with_name("x" * 300)
    elif kind == "no name":
        return path.with_name("\ud800")
    elif kind.startswith("/"):
        return Path(kind)
    return path


NO_LOGS = [
    "folder", "fifo", "socket", "in a file", "another text", "a report", "zeros", "long name", "no name",
    "/dev/zero", "/dev/null", "/dev/full",
]  # fmt: skip


@pytest.mark.parametrize("kind", NO_LOGS)
def test_a_log_that_can_be_none_is_refused_in_one_line_and_left_alone(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    path = make(kind, tmp_path / "events.jsonl")
    before = path.read_bytes() if kind in ("another text", "a report") else None
    with pytest.raises(InputError, match="log") as caught:
        EventLog(path).open()
    assert "\n" not in str(caught.value)
    assert before is None or path.read_bytes() == before


@pytest.mark.parametrize("kind", ["fifo", "zeros", "/dev/zero", "folder"])
def test_an_event_log_that_is_none_cannot_be_read(tmp_path, kind):
    with pytest.raises(InputError, match="event"):
        read_events(make(kind, tmp_path / "events.jsonl"))


@pytest.mark.parametrize("line", [b"\xff\n", b"[" * 100_000 + b"\n", b"[]\n", b'{"event": []}\n'])
def test_a_line_that_is_no_event_is_named(tmp_path, line):
    path = tmp_path / "events.jsonl"
    path.write_bytes(line + b'{"event": "Failed", "error": "x", "timestamp": "t"}\n')
    with pytest.raises(InputError, match="line 1: not an event"):
        read_events(path)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EROFS, errno.EDQUOT])
def test_what_cannot_be_written_is_counted_said_once_and_leaves_whole_lines(
    tmp_path, monkeypatch, caplog, code
):
    log = EventLog(tmp_path / "events.jsonl")
    log.open()
    log(EVENTS[0])
    real = os.write

    def write(descriptor, data):
        if os.fstat(descriptor).st_size > 200:
            raise OSError(code, os.strerror(code))
        return real(descriptor, data[:150])  # a part fits

    monkeypatch.setattr(os, "write", write)
    for _ in range(3):
        log(EVENTS[2])
    monkeypatch.undo()
    log(EVENTS[3])
    log.close()
    assert read_events(log.path) == [EVENTS[0], EVENTS[3]]
    assert log.lost == 3
    first, last = caplog.messages
    assert f"{log.path}: an event is not in it: " in first
    assert "3 events are not in it" in last


@pytest.mark.parametrize("change", ["deleted", "renamed", "truncated", "folder"])
def test_a_log_that_is_taken_away_meanwhile_is_begun_anew(tmp_path, change):
    log = EventLog(tmp_path / "logs" / "events.jsonl")
    log(EVENTS[0])
    if change == "deleted":
        log.path.unlink()
    elif change == "renamed":
        log.path.rename(tmp_path / "events.jsonl.1")
    elif change == "truncated":
        os.truncate(log.path, 0)
    else:
        log.path.parent.rename(tmp_path / "old")
    log(EVENTS[1])
    log.close()
    assert read_events(log.path) == EVENTS[1:2]
    assert log.lost == 0


def test_a_log_whose_place_is_taken_meanwhile_harms_nobody(tmp_path, caplog):
    log = EventLog(tmp_path / "events.jsonl")
    log(EVENTS[0])
    log.path.unlink()
    log.path.mkdir()
    log(EVENTS[1])
    log(EVENTS[2])
    log.close()
    assert log.lost == 2
    assert "Is a directory" in caplog.text
