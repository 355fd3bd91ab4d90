"""Many processes in one registry, some killed at random moments, and a reader that trusts none of its code.

Each operation has a name of its own, its reason in the log. What a process was told is done is there, once; what it
was told is refused is not; beyond that there is at most what was under way in a process that was killed.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from dspy_nb.core.errors import Conflict, Refused
from dspy_nb.core.registry.registry import Registry
from tests.children import Children
from tests.objects import Server, s3_server
from tests.registry_samples import program

Told = tuple[str, bool]
"""The name of an operation, and whether it was done: else it was refused."""

Read = Callable[[str], dict[str, bytes]]
"""Returns the name and content of each file in a folder of a registry, by its own means."""


def operate(url: str, environment: dict[str, str], name: str, operations: range) -> Iterator[Told]:
    """Do operations that are drawn at random, and tell what became of each."""
    os.environ.update(environment)
    registry, draw = Registry(url), random.Random(name)
    live = registry.environment("team", create=True)
    calls: list[Callable[[str], object]] = [
        lambda reason: registry.register(program(reason), "m", notes=reason),
        lambda reason: registry.promote(some(), "production", force=True, reason=reason),
        lambda reason: registry.promote(some(), "staging", force=True, reason=reason),
        lambda reason: live.deploy(some(), reason=reason),
        lambda reason: live.rollback(reason=reason),
    ]

    def some() -> str:
        return draw.choice(registry.list("m")).ref

    for number in operations:
        reason = f"{name}.{number}"
        try:
            draw.choice(calls)(reason)
        except (Conflict, Refused):
            yield reason, False
        else:
            yield reason, True


@dataclass
class Contention:
    """What became of processes that contend for one registry.

    Attributes:
        done: The operations that they were told are done.
        refused: Those that were refused.
        killed: The names of the processes that were killed.
        seconds: How long all of it took.
    """

    done: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    killed: list[str] = field(default_factory=list)
    seconds: float = 0.0


def contend(
    children: Children, url: str, environment: dict[str, str], processes: int, each: int, kills: int
) -> Contention:
    """Let processes operate at once; one that is killed has a successor, which does what is left."""
    registry, found = Registry(url), Contention()
    for number in range(3):
        registry.register(program(str(number)), "m", notes=f"first.{number}")
        found.done.append(f"first.{number}")

    def supervise(number: int) -> list[Told]:
        moments, told, left = random.Random(number), [], each
        for life in range((kills + processes - 1 - number) // processes):
            if not left:
                return told
            name = f"{number}-{life}"
            child = children(operate, url, environment, name, range(each - left, each))
            for _ in range(moments.randrange(left)):
                told.append(next(child))
            time.sleep(moments.uniform(0, 0.05))
            child.kill()
            told += child
            found.killed.append(name)
            left = each - len(told)
        name = f"{number}-last"
        return told + children(operate, url, environment, name, range(each - left, each)).rest()

    begun = time.perf_counter()
    with ThreadPoolExecutor(processes) as pool:
        for told in pool.map(supervise, range(processes)):
            for name, is_done in told:
                (found.done if is_done else found.refused).append(name)
    found.seconds = time.perf_counter() - begun
    return found


def entries_of(files: dict[str, bytes]) -> list[dict[str, Any]]:
    """Return the entries of a log: numbered without a gap, each sealed, each naming the one before it."""
    found: list[dict[str, Any]] = []
    for number, name in enumerate(sorted(files), 1):
        sealed, _, seal = files[name].rpartition(b',\n "checksum": "')
        entry = json.loads(files[name])
        assert name == f"{number:06d}.json"
        assert entry["number"] == number
        assert entry["checksum"] == seal.decode().rstrip('"\n}') == hashlib.sha256(sealed).hexdigest()
        assert entry["previous"] == (found[-1]["checksum"] if found else "")
        found.append(entry)
    return found


def verify(read: Read, url: str, what: Contention) -> None:
    """Hold the files of a registry against what the processes were told."""
    model, live = (entries_of(read(folder)) for folder in ("models/m/log", "environments/team/log"))
    written = Counter(entry["reason"] for entry in (*model, *live))
    assert [name for name in what.done if written[name] != 1] == []
    assert [name for name in what.refused if name in written] == []
    assert set(written.values()) == {1}
    under_way = written.keys() - {*what.done}
    owners = Counter(name.rpartition(".")[0] for name in under_way)
    assert owners.keys() <= {*what.killed}
    assert set(owners.values()) <= {1}

    stages: dict[str, str] = {}
    for entry in model:
        if entry["action"] == "register":
            assert entry["version"] not in stages
            stages[entry["version"]] = "development"
            files = read(f"models/m/{entry['version']}")
            assert {name: hashlib.sha256(content).hexdigest() for name, content in files.items()} == {
                name: facts["sha256"] for name, facts in entry["files"].items()
            }
        else:
            assert stages[entry["version"]] == entry["from"]
            if entry["to"] == "production":
                before = [version for version, stage in stages.items() if stage == "production"]
                assert before == ([entry["demoted"]] if entry["demoted"] else [])
                stages.update(dict.fromkeys(before, "deprecated"))
            stages[entry["version"]] = entry["to"]
    assert [*stages.values()].count("production") <= 1

    stack: list[str] = []
    for entry in live:
        ref = f"m@{entry['version']}"
        assert entry["replaced"] == (stack[-1] if stack else None)
        assert entry["version"] in stages
        if entry["action"] == "deploy":
            stack.append(ref)
        else:
            del stack[-entry["steps"] :]
            assert stack[-1] == ref

    registry = Registry(url)
    assert {version.version: version.stage for version in registry.list("m")} == stages
    current = registry.environment("team").current
    assert (current.ref if current else None) == (stack[-1] if stack else None)
    assert {problem.kind for problem in registry.check()} <= {"orphan", "stale"}
    print(
        f"{len(what.done)} done, {len(what.refused)} refused, {len(what.killed)} processes killed, "
        f"{len(under_way)} under way in these; {len(stages)} versions, {len(model)} + {len(live)} entries, "
        f"{what.seconds:.1f} s"
    )


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with s3_server() as found:
        yield found


def on_a_disk(children: Children, tmp_path: Path, **size: int) -> None:
    root = tmp_path / "registry"

    def read(folder: str) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in (root / folder).iterdir() if path.name[0] != "."}

    verify(read, str(root), contend(children, str(root), {}, **size))


def on_a_server(
    children: Children, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **size: int
) -> None:
    import boto3

    prefix = uuid.uuid4().hex
    for name, value in (server.environment | {"XDG_DATA_HOME": str(tmp_path)}).items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3")

    def read(folder: str) -> dict[str, bytes]:
        below = f"{prefix}/{folder}/"
        pages = client.get_paginator("list_objects_v2").paginate(Bucket="bucket", Prefix=below)
        keys = [found["Key"] for page in pages for found in page.get("Contents", ())]
        return {
            key.removeprefix(below): client.get_object(Bucket="bucket", Key=key)["Body"].read()
            for key in keys
        }

    url = f"s3://bucket/{prefix}"
    verify(read, url, contend(children, url, server.environment, **size))


def test_processes_that_are_killed_lose_and_double_nothing_on_a_disk(
    children: Children, tmp_path: Path
) -> None:
    on_a_disk(children, tmp_path, processes=3, each=8, kills=2)


@pytest.mark.heavy
def test_processes_that_are_killed_lose_and_double_nothing_on_an_s3_server(
    children: Children, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_a_server(children, server, tmp_path, monkeypatch, processes=3, each=8, kills=2)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_ten_processes_do_fifty_operations_each_on_a_disk(children: Children, tmp_path: Path) -> None:
    on_a_disk(children, tmp_path, processes=10, each=50, kills=20)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_ten_processes_do_fifty_operations_each_on_an_s3_server(
    children: Children, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_a_server(children, server, tmp_path, monkeypatch, processes=10, each=50, kills=20)
