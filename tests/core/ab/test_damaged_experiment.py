"""An experiment whose file is damaged goes on: the same units in the same arms, and it says what it misses."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from dspy_nb.core.ab.experiment import Experiment
from dspy_nb.core.errors import RegistryError
from dspy_nb.core.traffic import file as traffic_file
from dspy_nb.views.rendering.text import to_text
from tests import name_of
from tests.core.traffic.damages import empty, garbage, no_index, truncated


def a(x: str) -> str:
    return "a"


def b(x: str) -> str:
    return "b"


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traffic_file, "_OTHERS_WRITE_WITHIN_S", 0.001)


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


@pytest.mark.parametrize("damage", [garbage, truncated, empty, no_index], ids=name_of)
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
