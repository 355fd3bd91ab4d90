import errno
import logging
import os
import socket
from pathlib import Path

import pytest

from dspy_nb.core.errors import InputError
from dspy_nb.core.events import (
    Broadcaster,
    CandidateScored,
    Completed,
    EventLog,
    Failed,
    Progress,
    Started,
    read_events,
)

EVENTS = [
    Started("MIPROv2", 120, {"lm_calls": 500}),
    Progress(3, "scoring", {"lm_calls": 3, "usd": None}),
    CandidateScored(0, 0.5, 10, True, True, "Classify.", 2),
    Completed(0.8, 1.5, "seconds"),
    Failed("it broke"),
]


def test_a_log_gives_back_the_events_that_were_written(tmp_path):
    log = EventLog(tmp_path / "deep" / "events.jsonl")
    for event in EVENTS:
        log(event)
    log.close()
    assert read_events(log.path) == EVENTS


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
