"""Files of traffic that version 1 of the schema wrote, with one for experiments and one for environments.

``version_1`` holds them as SQL, and beside each what the dspy_nb that wrote it said of it.
"""

from __future__ import annotations

import json
import re
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from dspy_nb.core.ab.experiment import Experiment
from dspy_nb.core.deployment.environment import Environment
from dspy_nb.core.deployment.objectives import MonitorSettings
from dspy_nb.core.errors import InputError, RegistryError
from dspy_nb.core.registry.registry import Registry
from dspy_nb.core.traffic import file as traffic_file
from dspy_nb.core.traffic.schema import VERSION
from dspy_nb.core.traffic.store import Traffic
from tests.children import Children, meet
from tests.core.traffic.damages import no_index
from tests.registry_samples import EVALUATION, registry_of

_FOLDER = Path(__file__).parent / "version_1"
_SETTINGS = MonitorSettings(level=0.9, max_error_rate=0.5, max_latency_ms=100)
_SAYS_WHEN = ("at", "live_since", "started_at", "evidence")

pytestmark = pytest.mark.usefixtures("no_flush")


def restore(name: str, path: Path, **replaced: str) -> None:
    text = (_FOLDER / f"{name}.sql").read_text(encoding="utf-8")
    for old, new in replaced.items():
        text = text.replace(old, new)
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(text)
        connection.execute("PRAGMA journal_mode = WAL")


def said(name: str) -> Any:
    return json.loads((_FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def a(x: str) -> str:
    return f"a {x}"


def b(x: str) -> str:
    return f"b {x}"


def experiment_of(name: str, root: Path) -> Experiment:
    return Experiment(name, a, b, registry=root, clock=lambda: 1_790_000_100.0)


def environment_of(root: Path) -> Environment:
    """Return the environment whose traffic was stored: with a canary that is at its first step."""
    environment = registry_of(root, 2).environment("staging")
    environment.deploy("m@1.0.0", evidence=EVALUATION)
    canary = environment.canary("m@1.1.0", 0.4, steps=(0.8, 1.0), margin=0.4, min_requests=5)
    restore("environment", environment.traffic.path, **{said("environment")["started_at"]: canary.started_at})
    environment.traffic.clock = lambda: 1_790_000_100.0
    return environment


def without_times(value: Any) -> Any:
    """Return JSON data without what says when something was deployed or looked at."""
    if isinstance(value, dict):
        return {key: without_times(item) for key, item in value.items() if key not in _SAYS_WHEN}
    return [without_times(item) for item in value] if isinstance(value, list) else value


def as_json(value: dict[str, Any]) -> Any:
    return without_times(json.loads(json.dumps(value)))


def version_of(path: Path) -> int:
    with closing(sqlite3.connect(path)) as connection:
        return int(connection.execute("PRAGMA user_version").fetchone()[0])


@pytest.mark.parametrize("name", ["running", "concluded"])
def test_an_experiment_says_what_it_said_before(tmp_path: Path, name: str) -> None:
    restore(name, path := tmp_path / "experiments" / f"{name}.sqlite3")
    experiment = experiment_of(name, tmp_path)
    assert as_json(experiment.status().to_dict()) == without_times(said(name))
    experiment.close()
    assert version_of(path) == VERSION
    assert as_json(experiment_of(name, tmp_path).status().to_dict()) == without_times(said(name))


def test_an_experiment_goes_on_with_its_units_and_requests(tmp_path: Path) -> None:
    restore("running", tmp_path / "experiments" / "running.sqlite3")
    with closing(sqlite3.connect(tmp_path / "experiments" / "running.sqlite3")) as connection:
        rows = connection.execute("SELECT unit, is_b FROM events WHERE first").fetchall()
    experiment = experiment_of("running", tmp_path)
    before = experiment.status()
    assert len(rows) == 24
    for unit, is_b in rows:
        assert experiment.predict(unit, x="?")[0] == ("b ?" if is_b else "a ?")
    assert experiment.status().n == before.n
    assert experiment.predict("user 0", request_id="own 0", x="?")[1] == "own 0"
    with pytest.raises(InputError, match="request 'own 0' is one of unit 'user 0'"):
        experiment.predict("user 1", request_id="own 0", x="?")
    assert experiment.status().total == before.total + 24
    with experiment._traffic.file.reading() as connection:
        query = "SELECT request_id FROM events WHERE outcome IS NULL AND chance IS NOT NULL ORDER BY number"
        (open_one,) = connection.execute(f"{query} LIMIT 1").fetchone()
    experiment.record(open_one, success=True)
    assert experiment.status().n > before.n


def test_an_environment_says_what_it_said_before_and_goes_on(tmp_path: Path) -> None:
    environment = environment_of(tmp_path)
    for _ in range(2):
        status, report = environment.canary_status(), environment.check_health(_SETTINGS)
        assert status is not None
        expected = said("environment")
        assert as_json(status.to_dict()) == without_times(expected["canary"])
        assert as_json(report.to_dict()) == without_times(expected["health"])
        environment = Registry(environment.registry.root).environment("staging")  # from what is stored by now
        environment.traffic.clock = lambda: 1_790_000_100.0
    assert version_of(environment.traffic.path) == VERSION
    environment.record("r25", True)
    for unit in ("user 0", "somebody new"):
        environment.observe(True, unit=unit)
    with pytest.raises(InputError, match=r"has the outcome 0\.5 already"):
        environment.record("graded", True)
    assert environment.traffic.count("chance IS NOT NULL AND unit = 'user 0'") == 1
    after = environment.check_health(_SETTINGS)["quality"]
    assert after.n > report["quality"].n
    read_again = Registry(environment.registry.root).environment("staging")
    with read_again.traffic.file.writing() as connection:
        connection.execute("DELETE FROM tests")
    read_again.traffic.clock = environment.traffic.clock
    anew = read_again.check_health(_SETTINGS)["quality"]
    assert (anew.n, anew.observed, anew.bins) == (after.n, after.observed, after.bins)
    assert anew.p_value == pytest.approx(after.p_value)


def opened_by(path: Path, together: Any) -> Any:
    traffic = Traffic(path)
    together.wait()
    yield traffic.count("1")


def test_processes_that_open_an_old_file_at_once_bring_it_forward_once(
    tmp_path: Path, children: Children
) -> None:
    restore("running", path := tmp_path / "t.sqlite3")
    together = meet(4)
    readers = [children(opened_by, path, together) for _ in range(4)]
    assert [list(reader.rest()) for reader in readers] == [[30]] * 4


@pytest.mark.parametrize("name", ["running", "environment"])
def test_a_damaged_old_file_is_set_aside_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(traffic_file, "_OTHERS_WRITE_WITHIN_S", 0.001)
    if name == "running":
        restore(name, path := tmp_path / "experiments" / "running.sqlite3")
        no_index(path)
        damaged = path.read_bytes()
        experiment = experiment_of(name, tmp_path)
        assert experiment.split == 0.6  # what it still tells goes into the new one
        experiment.predict("user", x="?")
        assert experiment.status().total == 1
    else:
        environment = environment_of(tmp_path)
        no_index(path := environment.traffic.path)
        damaged = path.read_bytes()
        environment.observe(True)
        assert environment.traffic.count("1") == 1
    (aside,) = path.parent.glob("*.damaged-*Z")
    assert aside.read_bytes() == damaged


def test_a_file_of_version_1_that_is_something_else_is_refused(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "t.sqlite3")) as connection:
        connection.executescript("CREATE TABLE events (x); PRAGMA user_version = 1")
    with pytest.raises(RegistryError, match=r"t\.sqlite3 is not a file of traffic: no such column"):
        Traffic(tmp_path / "t.sqlite3").count("1")
    with closing(sqlite3.connect(tmp_path / "t.sqlite3")) as connection:
        assert re.match(
            "CREATE TABLE events", connection.execute("SELECT sql FROM sqlite_master").fetchone()[0]
        )
