import logging

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
