"""An experiment whose file is damaged goes on: the same units in the same arms, and it says what it misses."""

from __future__ import annotations

import contextlib
import os
import random
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspy_nb.core.ab.experiment import Experiment
from dspy_nb.core.errors import Corrupt, NotFound, RegistryError
from dspy_nb.core.registry.registry import Registry
from dspy_nb.core.storage import sqlite
from dspy_nb.views.documents import to_text
from tests import name_of
from tests.faults import damage, fail_in_one_line_at_most
from tests.properties import tries


def a(x: str) -> str:
    return "a"


def b(x: str) -> str:
    return "b"


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "_OTHERS_WRITE_WITHIN_S", 0.001)


@pytest.fixture
def experiment(tmp_path: Path) -> Experiment:
    made = Experiment("t", a, b, split=0.5, salt="pepper", registry=tmp_path)
    for number in range(60):
        _, request_id = made.predict(f"u{number}", x="?")
        made.record(request_id, success=True)
    return made


def path_of(experiment: Experiment) -> Path:
    """Close the file, so that all that it holds is in one, and return it."""
    experiment.close()
    return experiment.registry.root / "experiments" / "t.sqlite3"


def garbage(path: Path) -> None:
    path.write_bytes(b"not a database at all, but long enough to be looked at" * 100)


def truncated(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 3)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def no_index(path: Path) -> None:
    """Damage what finds requests by their id: facts and splits can still be read."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        query = "SELECT rootpage FROM sqlite_master WHERE name IN ('sqlite_autoindex_events_1', 'units')"
        roots = [row[0] for row in connection.execute(query)]
    with path.open("rb+") as file:
        for root in roots:
            file.seek(4096 * (root - 1))
            file.write(b"\xff" * 4096)


DAMAGES = [garbage, truncated, empty, no_index]


@pytest.mark.parametrize("damage", DAMAGES, ids=name_of)
@pytest.mark.parametrize("restarted", [False, True])
def test_users_are_answered_by_the_same_arm_and_the_status_says_what_it_misses(
    tmp_path: Path, experiment: Experiment, damage: Callable[[Path], None], restarted: bool
) -> None:
    before = [experiment.predict(f"u{number}", x="?")[0] for number in range(20)]
    damage(path_of(experiment))
    if restarted:
        experiment = Experiment("t", a, b, split=0.5, salt="pepper", registry=tmp_path)
    after = []
    for number in range(20):
        answer, request_id = experiment.predict(f"u{number}", x="?")
        experiment.record(request_id, success=True)
        after.append(answer)
    assert after == before
    status = experiment.status()
    assert status.total == status.n == 20
    assert status.warnings[0].startswith("outcomes before 20")
    if damage is no_index:
        assert "not counted: 60 are in t.sqlite3.damaged-" in status.warnings[0]
    assert "which is damaged" in to_text(status).replace("\n", " ")
    assert experiment.definition.salt == "pepper"


@pytest.mark.parametrize("ended", [False, True])
def test_what_is_left_of_a_damaged_file_goes_into_the_new_one(
    tmp_path: Path, experiment: Experiment, ended: bool
) -> None:
    experiment.set_split(0.8)
    if ended:
        experiment.conclude("enough", force=True)
    no_index(path_of(experiment))
    restarted = Experiment("t", a, b, registry=tmp_path)
    restarted.predict("new", x="?")
    assert (restarted.definition.salt, restarted.split) == ("pepper", 0.8)
    assert (restarted.conclusion is not None) == ended


def test_a_process_that_had_the_file_open_goes_on_with_the_new_one(
    tmp_path: Path, experiment: Experiment
) -> None:
    other = Experiment("t", a, b, registry=tmp_path)
    other.predict("u0", x="?")
    other.status()
    path = path_of(experiment)
    garbage(path)
    path.with_name(f"{path.name}-wal").unlink()
    experiment.predict("u1", x="?")
    other.predict("u2", x="?")
    assert other.status().total == experiment.status().total == 2


def test_how_a_request_of_the_damaged_file_ended_is_not_taken_for_that_of_another(
    tmp_path: Path,
) -> None:
    experiment: Experiment

    def breaks(x: str) -> str:
        if x == "break":
            no_index(path_of(experiment))
            experiment.predict("another", x="?")  # number 1 of the new file
            raise TimeoutError("too slow")
        return "fine"

    experiment = Experiment("t", breaks, breaks, registry=tmp_path)
    with pytest.raises(TimeoutError):
        experiment.predict("u", x="break")
    status = experiment.status()
    assert (status.total, status.a.errors + status.b.errors) == (1, 0)


def test_an_outcome_of_a_request_that_is_in_the_damaged_file_is_told_so(experiment: Experiment) -> None:
    _, request_id = experiment.predict("late", x="?")
    no_index(path_of(experiment))
    experiment.predict("u", x="?")
    with pytest.raises(NotFound, match=r"was it assigned here\?; outcomes before .* t\.sqlite3\.damaged-"):
        experiment.record(request_id, success=True)


@pytest.mark.parametrize("damage", [garbage, truncated, no_index], ids=name_of)
def test_who_only_looks_is_told_and_moves_nothing(
    experiment: Experiment, damage: Callable[[Path], None]
) -> None:
    path = path_of(experiment)
    damage(path)
    before = path.read_bytes()
    looks: list[Callable[[], object]] = [
        lambda: Experiment.open("t", registry=path.parent.parent),
        lambda: Experiment("t", registry=path.parent.parent),
        lambda: experiment.split,
    ]
    for look in looks if damage is not no_index else []:
        with pytest.raises(Corrupt, match=r"t\.sqlite3 is not a file of traffic") as caught:
            look()
        assert "\n" not in str(caught.value)
    (problem,) = Registry(path.parent.parent).check()
    assert (problem.kind, problem.path) == ("corrupt", path)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("definition", "[]"), ("definition", "{}"), ("definition", None), ("conclusion", "{}"),
        ("conclusion", "3"), ("conclusion", "{"), ("checkpoint", "{}"), ("checkpoint", "3"),
    ],
)  # fmt: skip
def test_a_fact_that_makes_no_sense_is_one_line(experiment: Experiment, name: str, value: str | None) -> None:
    root = path_of(experiment).parent.parent
    with contextlib.closing(sqlite3.connect(path_of(experiment))) as connection, connection:
        if value is None:  # the right fields, of other types
            query = "UPDATE facts SET value = json_set(value, '$.confidence', 'high') WHERE name = ?"
            connection.execute(query, (name,))
        else:
            connection.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))
    with pytest.raises(RegistryError) as caught:
        Experiment("t", registry=root).status()
    assert "\n" not in str(caught.value)
    assert "t.sqlite3" in str(caught.value)


@tries(0.4)
@given(seed=st.integers(0, 2**32), cut=st.booleans())
def test_whatever_bytes_are_damaged_errors_are_one_line(
    tmp_path_factory: pytest.TempPathFactory, seed: int, cut: bool
) -> None:
    draws = random.Random(seed)
    root = tmp_path_factory.mktemp("damaged")
    made = Experiment("t", a, b, split=0.5, registry=root)
    ids = [made.predict(f"u{number}", x="?")[1] for number in range(20)]
    made.record_many([(request_id, 1.0) for request_id in ids[::2]])
    path = path_of(made)
    damage(path, draws, cut=cut)
    calls: list[Callable[[], object]] = [
        lambda: made.status(),
        lambda: made.record(ids[1], success=True),
        lambda: Experiment.open("t", registry=root).status(),
        lambda: made.predict("u3", x="?"),
        lambda: made.set_split(0.6),
        lambda: Experiment("t", a, b, registry=root).predict("u4", x="?"),
        lambda: made.conclude("enough", force=True),
        lambda: made.status(),
        lambda: Registry(root).check(),
    ]
    fail_in_one_line_at_most(calls)
