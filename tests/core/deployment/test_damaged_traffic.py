"""Damaged files of traffic: users are answered, nothing is thrown away, and verdicts say what they miss."""

from __future__ import annotations

import contextlib
import os
import random
import sqlite3
from collections.abc import Callable, Iterator
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import dspy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspy_nb.core.deployment.environment import Environment
from dspy_nb.core.deployment.objectives import MonitorSettings
from dspy_nb.core.errors import Corrupt, DspyNbError, NotFound, RegistryError
from dspy_nb.core.registry.registry import Registry
from dspy_nb.core.storage import sqlite
from dspy_nb.views.documents import to_html, to_text
from tests import name_of
from tests.children import FORKED, Children
from tests.faults import damage, fail_in_one_line_at_most
from tests.properties import tries
from tests.registry_samples import EVALUATION, registry_of
from tests.scripted import scripted_lm

SETTINGS = MonitorSettings(level=0.9, max_error_rate=0.5)


@pytest.fixture(autouse=True)
def fast(no_flush: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "_OTHERS_WRITE_WITHIN_S", 0.001)


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    made = registry_of(tmp_path / "registry", 2).environment("staging")
    made.deploy("m@1.0.0", evidence=EVALUATION)
    for number in range(200):
        made.observe(True, latency_ms=5, request_id=f"before {number}")
    return made


def again(environment: Environment) -> Environment:
    """Return the environment as another process has it."""
    return Registry(environment.registry.root).environment(environment.name)


def answers(environment: Environment) -> str:
    with dspy.context(lm=scripted_lm()):
        prediction, request_id = environment.predict(review="good")
    assert prediction.sentiment == "positive"
    return request_id


def asides(environment: Environment) -> list[Path]:
    return sorted(environment.folder.glob("traffic.sqlite3.damaged-*"))


def closed(environment: Environment) -> Path:
    """Close the file, so that all that it holds is in one, and return it."""
    environment.traffic.close()
    return environment.traffic.path


def garbage(path: Path) -> None:
    path.write_bytes(b"not a database at all, but long enough to be looked at" * 100)


def truncated(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 3)


def header(path: Path) -> None:
    with path.open("rb+") as file:
        file.write(b"\xff" * 16)


def middle(path: Path) -> None:
    size = path.stat().st_size
    with path.open("rb+") as file:
        file.seek(4096)
        file.write(os.urandom(size - 4096))


def empty(path: Path) -> None:
    os.truncate(path, 0)


def empty_beside_its_log(path: Path) -> None:
    """Leave what SQLite would throw away: a log whose file is empty."""
    path.with_name(f"{path.name}-wal").write_bytes(path.read_bytes())
    os.truncate(path, 0)


def nothing_but_a_log(path: Path) -> None:
    """Leave what SQLite would throw away: a log whose file is gone."""
    path.with_name(f"{path.name}-wal").write_bytes(path.read_bytes())
    path.unlink()


DAMAGES = [garbage, truncated, header, middle, empty, empty_beside_its_log, nothing_but_a_log]


@pytest.mark.parametrize("damage", DAMAGES, ids=name_of)
def test_who_serves_goes_on_and_nothing_is_thrown_away(
    environment: Environment, damage: Callable[[Path], None]
) -> None:
    path = closed(environment)
    damage(path)
    kept = sorted(file.read_bytes() for file in environment.folder.glob("traffic.sqlite3*"))
    serving = again(environment)
    request_id = answers(serving)
    serving.record(request_id, True)
    serving.observe(True)
    report = serving.check_health(SETTINGS)
    assert report["quality"].n == 2
    (missing,) = report.missing
    name = asides(environment)[0].name.removesuffix("-wal")
    assert missing.startswith("outcomes before 20")
    assert name in missing
    for said in (report.sentence(), to_text(report).replace("\n", " "), to_html(report)):
        assert name in said
    assert {problem.kind for problem in serving.registry.check()} == {"orphan"}
    assert set(kept) <= {file.read_bytes() for file in asides(environment)}


def test_how_many_outcomes_are_missing_is_said_where_that_can_be_read(environment: Environment) -> None:
    path = closed(environment)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        (root,) = connection.execute(
            "SELECT rootpage FROM sqlite_master WHERE name = 'sqlite_autoindex_events_1'"
        ).fetchone()
    with path.open("rb+") as file:  # requests can be read, but no longer found by their id
        file.seek(4096 * (root - 1))
        file.write(b"\xff" * 4096)
    serving = again(environment)
    serving.observe(True)
    assert "not counted: 200 are in traffic.sqlite3.damaged-" in serving.check_health(SETTINGS).missing[0]
    with pytest.raises(NotFound, match=r"no request 'before 7' .*was it served here.*200 are in"):
        serving.record("before 7", True)


def test_a_later_deployment_misses_nothing(environment: Environment) -> None:
    garbage(closed(environment))
    again(environment).observe(True)
    environment.deploy("m@1.1.0", evidence=EVALUATION)
    assert again(environment).check_health(SETTINGS).missing == ()


def test_a_canary_says_what_it_misses(environment: Environment) -> None:
    environment.canary("m@1.1.0")
    garbage(closed(environment))
    serving = again(environment)
    answers(serving)
    status = serving.canary_status()
    assert status is not None
    assert "which is damaged" in to_text(status).replace("\n", " ")
    assert status.to_evidence().missing == status.missing


def test_a_process_that_had_the_file_open_goes_on_with_the_new_one(environment: Environment) -> None:
    open_elsewhere = again(environment)
    open_elsewhere.observe(True)
    open_elsewhere.check_health(SETTINGS)
    with environment.traffic.path.open("rb+") as file:
        file.write(b"\xff" * 4096)
    environment.traffic.path.with_name("traffic.sqlite3-wal").unlink()
    fresh = again(environment)
    fresh.observe(True)
    assert len([file for file in asides(environment) if not file.name.endswith(("-wal", "-shm"))]) == 1
    for process in (open_elsewhere, environment, fresh):
        process.observe(True)
    assert again(environment).check_health(SETTINGS)["quality"].n == 4


def observe_together(root: Path, together: Barrier) -> Iterator[int]:
    os.fsync = lambda _: None
    sqlite._OTHERS_WRITE_WITHIN_S = 0.001  # type: ignore[misc]
    environment = Registry(root).environment("staging")
    together.wait()
    for _ in range(25):
        environment.observe(True)
        yield 1


@pytest.mark.parametrize("damage", [garbage, empty], ids=name_of)
def test_of_many_processes_that_find_the_damage_one_sets_it_aside_and_none_loses_a_request(
    environment: Environment, children: Children, damage: Callable[[Path], None]
) -> None:
    damage(closed(environment))
    together = FORKED.Barrier(4)
    writers = [children(observe_together, environment.registry.root, together) for _ in range(4)]
    assert sum(sum(writer.rest()) for writer in writers) == 100
    assert len([file for file in asides(environment) if not file.name.endswith(("-wal", "-shm"))]) == 1
    assert again(environment).traffic.count("1") == 100


@pytest.mark.parametrize("damage", [garbage, truncated, header, middle], ids=name_of)
def test_who_only_looks_is_told_and_moves_nothing(
    environment: Environment, damage: Callable[[Path], None]
) -> None:
    environment.canary("m@1.1.0")
    damage(closed(environment))
    looks: list[Callable[[Environment], object]] = [
        lambda e: e.check_health(SETTINGS), lambda e: e.canary_status(), lambda e: e.advance_canary(),
    ]  # fmt: skip
    for look in looks:
        with pytest.raises(Corrupt, match=r"traffic\.sqlite3 is not a file of traffic") as caught:
            look(again(environment))
        assert "\n" not in str(caught.value)
    (problem,) = environment.registry.check()
    assert (problem.kind, problem.path) == ("corrupt", environment.traffic.path)
    assert asides(environment) == []


def test_a_file_that_somebody_writes_to_stays_where_it_is(
    environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    garbage(closed(environment))
    monkeypatch.setattr(sqlite, "signature_of", lambda _: object())
    serving = again(environment)
    assert answers(serving) == ""
    with pytest.raises(Corrupt, match=r"traffic\.sqlite3 is not a file of traffic"):
        serving.observe(True)
    assert asides(environment) == []


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def newer(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 2")


def another_database(path: Path) -> None:
    path.unlink()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE mine (x)")


def no_table(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("DROP TABLE events")


@pytest.mark.parametrize("change", [folder, fifo, newer, another_database, no_table], ids=name_of)
def test_what_is_no_damage_is_left_alone_and_named(
    environment: Environment, change: Callable[[Path], None]
) -> None:
    path = closed(environment)
    change(path)
    before = path.read_bytes() if path.is_file() else None
    calls: list[Callable[[Environment], object]] = [
        lambda e: e.observe(True), lambda e: e.record("before 1", True), lambda e: e.check_health(SETTINGS),
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(RegistryError, match=r"traffic\.sqlite3") as caught:
            call(again(environment))
        assert "\n" not in str(caught.value)
    assert answers(again(environment)) == ""
    assert asides(environment) == []
    assert before is None or path.read_bytes() == before


def test_a_full_disk_in_the_middle_of_a_record_is_one_line_and_loses_nothing(
    environment: Environment,
) -> None:
    with environment.traffic.file.writing() as connection:
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(RegistryError, match=r"cannot write .*traffic\.sqlite3: database or disk is full"):
        for _ in range(1000):
            environment.observe(True)
    assert asides(environment) == []
    counted = environment.traffic.count("1")
    assert answers(environment) == ""
    assert again(environment).traffic.count("1") == counted >= 200


@pytest.mark.parametrize("state", ["{", "[]", "3", '{"n": "x"}', "{}", b"\xff"], ids=name_of)
def test_a_state_that_is_damaged_is_made_of_the_requests_again(
    environment: Environment, state: object
) -> None:
    environment.canary("m@1.1.0")
    expected = environment.check_health(SETTINGS), environment.canary_status()
    with environment.traffic.file.writing() as connection:
        connection.execute("UPDATE tests SET state = CAST(? AS TEXT)", (state,))
    found = environment.check_health(SETTINGS), environment.canary_status()
    assert found[0].objectives == expected[0].objectives
    assert found[1] == expected[1]


@tries(0.5)
@given(seed=st.integers(0, 2**32), cut=st.booleans())
def test_whatever_bytes_are_damaged_users_are_answered_and_errors_are_one_line(
    tmp_path_factory: pytest.TempPathFactory, seed: int, cut: bool
) -> None:
    draws = random.Random(seed)
    root = tmp_path_factory.mktemp("damaged")
    made = registry_of(root / "registry", 2).environment("e")
    made.deploy("m@1.0.0", evidence=EVALUATION)
    made.canary("m@1.1.0", 0.5)
    for number in range(30):
        made.observe(number % 3 > 0, unit=f"u{number}", request_id=f"r{number}")
    with contextlib.suppress(DspyNbError):
        made.check_health(SETTINGS)
    path = closed(made)
    damage(path, draws, cut=cut)
    serving = again(made)
    calls: list[Callable[[], Any]] = [
        lambda: serving.canary_status(),
        lambda: serving.check_health(SETTINGS),
        lambda: serving.record("r3", True),
        lambda: serving.observe(True, unit="u1"),
        lambda: serving.record("r4", False),
        lambda: serving.check_health(SETTINGS),
        lambda: serving.advance_canary(),
        lambda: serving.registry.check(),
    ]
    fail_in_one_line_at_most(calls)
    answers(serving)
