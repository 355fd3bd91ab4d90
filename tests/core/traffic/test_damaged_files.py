"""Damaged files of traffic, of experiments and environments: users are answered, and nothing is thrown away."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable, Iterator
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspy_nb.core.errors import Corrupt, NotFound, RegistryError
from dspy_nb.core.registry.registry import Registry
from dspy_nb.core.traffic import file as traffic_file
from dspy_nb.core.traffic.damaged import alone_in
from tests import name_of
from tests.children import Children, meet
from tests.core.traffic.damages import (
    DAMAGES,
    OTHERS,
    empty,
    garbage,
    header,
    middle,
    no_index,
    nothing_but_a_log,
    truncated,
)
from tests.core.traffic.users import USERS, OfExperiment, User
from tests.faults import damage, fail_in_one_line_at_most
from tests.properties import tries


@pytest.fixture(autouse=True)
def fast(no_flush: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traffic_file, "_OTHERS_WRITE_WITHIN_S", 0.001)


@pytest.fixture(params=USERS)
def user(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    made = request.param(tmp_path)
    made.fill(60)
    return made


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("damage", DAMAGES, ids=name_of)
def test_who_serves_goes_on_and_nothing_is_thrown_away(
    user: Any, damage: Callable[[Path], None], restarted: bool
) -> None:
    damage(user.closed())
    kept = [file.read_bytes() for file in user.path.parent.glob(f"{user.path.name}*")]
    if restarted or damage is nothing_but_a_log:  # who had the file open is told that it is gone
        user = user.again()
    user.record(user.ask("after"), True)
    user.record(user.ask("another", request_id="own"), True)
    assert (user.total(), user.counted()) == (2, (2, 2.0))
    (missing,) = user.missing()
    aside = sorted(user.path.parent.glob("*.damaged-*"))[0].name.removesuffix("-wal")
    assert missing.startswith("outcomes before 20")
    assert missing.endswith(f" are in {aside}, which is damaged")
    if damage is no_index:
        assert f"not counted: 60 are in {aside}" in missing
    assert {problem.kind for problem in Registry(user.root).check()} == {"orphan"}
    assert set(kept) <= {file.read_bytes() for file in user.path.parent.glob("*.damaged-*")}


def test_an_outcome_of_a_request_that_is_in_the_damaged_file_is_told_so(user: Any) -> None:
    no_index(user.closed())
    user.ask("after")
    with pytest.raises(
        NotFound, match=r"no request 'before 7' .*was it served here\?; outcomes before .* 60 are"
    ):
        user.record("before 7", True)


def test_how_a_request_of_the_damaged_file_ended_is_not_taken_for_that_of_another(user: Any) -> None:
    def break_the_file() -> str:
        no_index(user.closed())
        user.ask("another")  # number 1 of the new file
        return "break"

    with pytest.raises(TimeoutError):
        user.predict(review=break_the_file)
    assert (user.total(), user.traffic.count("error IS NULL")) == (1, 1)


def test_a_process_that_had_the_file_open_goes_on_with_the_new_one(user: Any) -> None:
    other = user.again()
    other.ask("elsewhere")
    other.counted()
    header(user.closed())
    user.path.with_name(f"{user.path.name}-wal").unlink(missing_ok=True)
    fresh = user.again()
    for process in (fresh, other, user, fresh):
        process.record(process.ask(f"after {id(process)}"), True)
    assert len(user.asides) == 1
    assert {process.total() for process in (user, other, fresh, user.again())} == {4}
    assert user.counted() == other.counted()


def serves_uncounted(user: Any) -> bool:
    """Tell whether users are answered where nothing can be stored; an experiment must not ask its programs then."""
    return isinstance(user, OfExperiment) or user.predict(review="fine").request_id == ""


def ask_together(user: type[User], root: Path, number: int, together: Barrier) -> Iterator[int]:
    os.fsync = lambda _: None
    traffic_file._OTHERS_WRITE_WITHIN_S = 0.001  # type: ignore[misc]
    together.wait()
    view = user(root)
    for again in range(25):
        view.ask(f"{number} {again}")
        yield 1


@pytest.mark.parametrize("damage", [garbage, middle, empty], ids=name_of)
def test_of_many_processes_that_find_the_damage_one_sets_it_aside_and_none_loses_a_request(
    user: Any, children: Children, damage: Callable[[Path], None]
) -> None:
    damage(user.closed())
    together = meet(4)
    writers = [children(ask_together, type(user), user.root, number, together) for number in range(4)]
    assert sum(sum(writer.rest()) for writer in writers) == 100
    assert len(user.asides) == 1
    assert user.again().total() == 100


def test_a_child_that_was_forked_meanwhile_does_not_keep_the_folder_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.open  # what it opens stays open, as in a child
    monkeypatch.setattr(os, "open", lambda *given: os.dup(real(*given)))
    with alone_in(tmp_path):
        pass
    with alone_in(tmp_path):
        pass


def test_a_disk_without_hard_links_gets_its_files_whole(user: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    garbage(user.closed())
    monkeypatch.setattr(os, "link", refuse)
    user.ask("after")
    assert (user.total(), user.again().total(), len(user.asides)) == (1, 1, 1)
    assert not list(user.path.parent.glob(".tmp-*"))


@pytest.mark.parametrize("damage", [garbage, truncated, header, middle, no_index], ids=name_of)
def test_who_only_looks_is_told_and_moves_nothing(user: Any, damage: Callable[[Path], None]) -> None:
    if not isinstance(user, OfExperiment):
        user.view.canary("m@1.1.0", program=user.program)
    damage(user.closed())
    before = user.path.read_bytes()
    for look in user.looks() if damage is not no_index else []:
        with pytest.raises(Corrupt, match=r"\.sqlite3 is not a file of traffic") as caught:
            look()
        assert "\n" not in str(caught.value)
    (problem,) = Registry(user.root).check()
    assert (problem.kind, problem.path) == ("corrupt", user.path)
    assert user.path.read_bytes() == before
    assert user.asides == []


def test_a_file_that_somebody_writes_to_stays_where_it_is(user: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    garbage(user.closed())
    monkeypatch.setattr(traffic_file, "signature_of", lambda _: object())
    with pytest.raises(Corrupt, match=r"\.sqlite3 is not a file of traffic"):
        user.ask("after", request_id="own")
    assert serves_uncounted(user)
    assert user.asides == []


@pytest.mark.parametrize("change", OTHERS, ids=name_of)
def test_what_is_no_damage_is_left_alone_and_named(user: Any, change: Callable[[Path], None]) -> None:
    change(user.closed())
    before = user.path.read_bytes() if user.path.is_file() else None
    calls: list[Callable[[], object]] = [
        lambda: user.again().ask("after", request_id="own"),
        lambda: user.again().record("before 1", True),
        lambda: user.again().counted(),
    ]
    for call in calls:
        with pytest.raises(RegistryError, match=r"\.sqlite3") as caught:
            call()
        assert "\n" not in str(caught.value)
    assert serves_uncounted(user)
    assert user.asides == []
    assert before is None or user.path.read_bytes() == before


def test_a_full_disk_in_the_middle_of_a_record_is_one_line_and_loses_nothing(user: Any) -> None:
    with user.traffic.file.writing() as connection:
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(RegistryError, match=r"cannot write .*\.sqlite3: database or disk is full"):
        for number in range(1000):
            user.ask(f"after {number}", request_id=f"after {number}")
    assert serves_uncounted(user)
    assert user.asides == []
    assert user.again().total() == user.total() >= 60


@pytest.mark.parametrize("kind", USERS)
@tries(0.4)
@given(seed=st.integers(0, 2**32), cut=st.booleans())
def test_whatever_bytes_are_damaged_errors_are_one_line(
    tmp_path_factory: pytest.TempPathFactory, kind: type[User], seed: int, cut: bool
) -> None:
    draws = random.Random(seed)
    user: Any = kind(tmp_path_factory.mktemp("damaged"))
    own = not isinstance(user, OfExperiment)
    if own:
        user.view.canary("m@1.1.0", 0.5, program=user.program)
    ids = [user.ask(f"u{number}") for number in range(20)]
    user.traffic.record_many([(request_id, 1.0) for request_id in ids[::2]])
    damage(user.closed(), draws, cut=cut)
    serving = user.again if draws.random() < 0.5 else lambda: user
    calls: list[Callable[[], object]] = [
        lambda: serving().counted(),
        lambda: serving().record(ids[1], True),
        lambda: serving().ask("u3", request_id="own"),
        *user.looks(),
        lambda: serving().record(ids[3], False),
        lambda: serving().counted(),
        lambda: serving().view.advance_canary() if own else serving().view.set_split(0.6),
        lambda: None if own else serving().view.conclude("enough", force=True),
        lambda: serving().counted(),
        lambda: Registry(user.root).check(),
    ]
    fail_in_one_line_at_most(calls)
    if own:
        assert serving().predict(review="fine").prediction.sentiment == "positive"
