"""Files beside a run never destroy its result: refused before anything is spent, or missed and said."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import signal
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dspy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspy_nb.core.data.metrics import exact_match
from dspy_nb.core.errors import InputError
from dspy_nb.core.event_log import read_events
from dspy_nb.core.events import Completed
from dspy_nb.core.optimization.optimize import optimize
from dspy_nb.core.optimization.run import OptimizationRun
from tests import name_of
from tests.children import Children
from tests.properties import tries
from tests.scripted import ScriptedEngine, classifier, reviews, scripted_lm


def run(engine: ScriptedEngine | None = None, **changes: Any) -> OptimizationRun:
    with dspy.context(lm=scripted_lm(engine or ScriptedEngine())):
        return optimize(
            classifier(),
            trainset=reviews(6, "train"),
            valset=reviews(4, "val"),
            metric=exact_match("sentiment"),
            optimizer="BootstrapFewShotWithRandomSearch",
            options={"num_candidate_programs": 2},
            num_threads=2,
            **changes,
        )


# -- a full disk ------------------------------------------------------------------------------------------------


def run_on_a_full_disk(log: Path, most: int) -> Iterator[Any]:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    made = run(log_file=log)
    yield made.score, len(made.candidates), made.stopped_by


@pytest.mark.parametrize("most", [0, 100, 700])
def test_a_full_disk_under_the_log_file_takes_events_and_not_the_run(
    tmp_path: Path, children: Children, most: int
) -> None:
    log = tmp_path / "events.jsonl"
    ((score, candidates, stopped_by),) = children(run_on_a_full_disk, log, most).rest()
    assert (candidates, stopped_by) == (5, None)
    assert score is not None
    assert all(line.endswith("}") for line in log.read_text().splitlines())


# -- a cache that breaks while it is used -----------------------------------------------------------------------


@pytest.mark.parametrize("method", ["get", "set", "__contains__", "delete"], ids=name_of)
@pytest.mark.parametrize(
    "error",
    [
        sqlite3.DatabaseError("malformed"),
        OSError(28, "No space left on device"),
        RecursionError(),
        KeyError(1),
    ],
    ids=name_of,
)
def test_a_cache_that_breaks_is_missed_and_the_run_goes_on(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    method: str,
    error: Exception,
) -> None:
    from diskcache import FanoutCache

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(FanoutCache, method, fail)
    engine = ScriptedEngine()
    made = run(engine, run_dir=tmp_path / "run")
    assert made.stopped_by is None
    assert made.errors.count == 0
    assert engine.calls == made.usage.lm_calls
    said = [text for text in caplog.messages if "cache: an answer cannot be kept or read: " in text]
    counted = [text for text in caplog.messages if "answers are not kept, or could not be read" in text]
    assert bool(said) == bool(counted) == (method in ("get", "set"))
    assert len(said) <= 2  # threads


def test_a_cache_that_somebody_else_holds_up_is_not_waited_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from diskcache import FanoutCache

    tried = []
    monkeypatch.setattr(FanoutCache, "set", lambda *_, **__: tried.append(1))
    assert run(run_dir=tmp_path / "run", seed=1).stopped_by is None
    assert 1 <= len(tried) <= 2  # threads


# -- a directory that is damaged --------------------------------------------------------------------------------


def refused(folder: Path, words: str) -> None:
    engine = ScriptedEngine()
    with pytest.raises(InputError, match=words) as caught:
        run(engine, run_dir=folder)
    assert engine.calls == 0
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        b"", b"[]", b"3", b"null", b'"text"', b"\xff\xfe", b"{" * 100_000, b"[" * 100_000, b'{"a": ' * 50_000,
        b"1" * 10_000,
    ],
    ids=name_of,
)  # fmt: skip
def test_a_manifest_that_is_none_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "manifest.json").write_bytes(content)
    refused(tmp_path, r"manifest\.json is damaged; use a new run_dir")


@pytest.mark.parametrize("value", [None, 3, "x", [], {}, True], ids=name_of)
def test_a_manifest_of_other_types_is_one_of_another_run(tmp_path: Path, value: object) -> None:
    run(run_dir=tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps(dict.fromkeys(manifest, value)))
    refused(tmp_path, "belongs to another run|is damaged")


@pytest.mark.parametrize(
    "place", [".", "manifest.json", "cache", "cache/003", "cache/003/cache.db", "events.jsonl"]
)
@pytest.mark.parametrize("kind", ["file", "folder", "fifo"])
def test_what_stands_where_something_else_belongs_is_refused(tmp_path: Path, place: str, kind: str) -> None:
    path = tmp_path / "run" / place
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "folder":
        if place in (".", "cache", "cache/003"):
            pytest.skip("a folder belongs there")
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path.write_text("no database, no events and no folder, but long enough to be looked at" * 100)
    refused(tmp_path / "run", "run_dir|log file")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "run"
    run(run_dir=folder)
    return folder


shares = st.floats(0, 1, exclude_max=True)  # of files whose number and size are not the same in every run


@tries(0.3)
@given(
    which=shares, cut=st.none() | shares, flips=st.lists(st.tuples(shares, st.integers(0, 255)), min_size=1)
)
def test_whatever_is_damaged_in_a_run_directory_the_call_is_refused_or_gives_the_run(
    finished: Path,
    tmp_path_factory: pytest.TempPathFactory,
    which: float,
    cut: float | None,
    flips: list[tuple[float, int]],
) -> None:
    folder = tmp_path_factory.mktemp("damaged") / "run"
    shutil.copytree(finished, folder)
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.endswith("-shm"))
    file = files[int(which * len(files))]
    content = bytearray(file.read_bytes())
    if cut is not None:
        del content[int(cut * len(content)) :]
    elif content:
        for place, byte in flips:
            content[int(place * len(content))] = byte
    file.write_bytes(content)
    with contextlib.suppress(InputError):
        made = run(run_dir=folder)
        assert made.stopped_by is None
        assert made.errors.count == 0
        assert isinstance(read_events(folder / "events.jsonl")[-1], Completed)
