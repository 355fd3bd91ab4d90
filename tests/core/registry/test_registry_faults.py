"""Many writers, crashes, full disks, git, and names and logs that make no sense."""

from __future__ import annotations

import errno
import os
import random
import resource
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from dspy_nb.core.errors import Conflict, Corrupt, RegistryError
from dspy_nb.core.registry.registry import Registry
from dspy_nb.core.storage.log import Log
from tests.children import Children
from tests.properties import tries
from tests.registry_samples import Run, program, stays_in_the_error_tree, tree


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "registry")


# -- many writers, crashes, full disks ---------------------------------------------------------------------


def written(root: Path, n: int) -> Iterator[str]:
    registry = Registry(root)
    for _ in range(n):
        version = registry.register(program(), "m")
        registry.promote(version, "production", force=True, reason="test")
        yield version.version


def write_from_processes(children: Children, root: Path, processes: int, each: int) -> None:
    writers = [children(written, root, each) for _ in range(processes)]
    returned = [version for writer in writers for version in writer.rest()]
    registry = Registry(root)
    versions = registry.list("m")
    assert len(returned) == len(set(returned)) == processes * each
    assert {version.version for version in versions} == set(returned)
    assert [entry.number for entry in registry.history("m")] == list(range(1, 2 * processes * each + 1))
    assert [version.stage for version in versions].count("production") == 1
    assert registry.check() == []


def test_processes_that_register_and_promote_at_once_lose_nothing(tmp_path: Path, children: Children) -> None:
    write_from_processes(children, tmp_path / "registry", processes=4, each=10)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("repetition", range(20))
def test_eight_processes_twenty_times_lose_nothing(
    tmp_path: Path, children: Children, repetition: int
) -> None:
    write_from_processes(children, tmp_path / "registry", processes=8, each=50)


def kill_while_writing(children: Children, root: Path, moments: list[float]) -> None:
    """Let processes register and promote, kill one after the other, each some seconds after it has begun."""
    writers = [children(written, root, 100_000) for _ in moments]
    returned: list[str] = []
    for writer, moment in zip(writers, moments, strict=True):
        returned.append(next(writer))
        time.sleep(moment)
        writer.kill()
    for writer in writers:
        returned += writer
    registry = Registry(root)
    versions = registry.list("m")
    assert set(returned) <= {version.version for version in versions}
    assert len(returned) == len(set(returned))
    history = registry.history("m")
    assert [entry.number for entry in history] == list(range(1, len(history) + 1))
    assert [version.stage for version in versions].count("production") <= 1
    assert {problem.kind for problem in registry.check()} <= {"orphan"}
    for version in versions:
        registry.load(version)
    registry.register(program(), "m")
    assert len(registry.list("m")) == len(versions) + 1


def test_what_was_returned_before_a_kill_is_there_after_it(tmp_path: Path, children: Children) -> None:
    kill_while_writing(children, tmp_path / "registry", [0.05, 0.02])


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", range(40))
def test_what_was_returned_before_many_kills_is_there(tmp_path: Path, children: Children, seed: int) -> None:
    moments = random.Random(seed)
    kill_while_writing(children, tmp_path / "registry", [moments.uniform(0, 0.5) for _ in range(8)])


def test_threads_that_share_a_registry_lose_nothing(registry: Registry) -> None:
    def work() -> None:
        for _ in range(5):
            registry.promote(registry.register(program(), "m"), "staging")
            registry.load("m@staging")
            registry.list("m")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(registry.list("m")) == 20
    assert registry.check() == []


FAILING = ["open", "write", "fsync", "rename", "link", "mkdir"]


@pytest.mark.parametrize("call", FAILING)
@pytest.mark.parametrize("survive", range(0, 12, 2))
def test_whichever_write_fails_nothing_is_half_visible(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, call: str, survive: int
) -> None:
    registry.register(program(), "m")
    before = tree(registry.root)
    real = getattr(os, call)
    left = survive

    def fail(*args: Any, **kwargs: Any) -> Any:
        nonlocal left
        if call == "open" and not (isinstance(args[1], int) and args[1] & os.O_CREAT):
            return real(*args, **kwargs)
        left -= 1
        if left < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        written = True
        try:
            registry.register(program("new"), "m")
        except RegistryError as error:
            written = "the disk is full" not in str(error)
    visible = [version.version for version in Registry(registry.root).list("m")]
    if written or (call == "fsync" and visible == ["1.1.0", "1.0.0"]):
        assert visible == [
            "1.1.0",
            "1.0.0",
        ]  # only the very last flush failed: the entry had its name already
    else:
        assert visible == ["1.0.0"]
        if call != "rename":
            assert tree(registry.root) == before
    assert {problem.kind for problem in registry.check()} <= {"orphan"}
    assert registry.register(program(), "m").version > "1.0.0"


def refused_under_a_limit(root: Path) -> Iterator[str]:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    large = program()
    large.demos = [{"review": "x" * 5000, "sentiment": "y"}]
    registry = Registry(root)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, resource.RLIM_INFINITY))
    try:
        registry.register(large, "m")
    except RegistryError as error:
        yield str(error)


def test_a_file_size_limit_of_the_system_gives_one_line(tmp_path: Path, children: Children) -> None:
    (said,) = children(refused_under_a_limit, tmp_path / "registry").rest()
    assert "File too large" in said
    assert len(said.splitlines()) == 1
    assert Registry(tmp_path / "registry").models() == []


def test_a_root_that_is_a_file_gives_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    registry = Registry(tmp_path / "file")
    for call in (registry.list, registry.models, lambda: registry.register(program(), "m"), registry.check):
        with pytest.raises(RegistryError) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_a_folder_left_by_a_crash_is_not_seen_and_its_number_is_not_used_again(registry: Registry) -> None:
    registry.register(program(), "m")
    orphan = registry.root / "models" / "m" / "1.1.0"
    orphan.mkdir()
    (orphan / "model.json").write_text("{}")
    assert [version.version for version in registry.list("m")] == ["1.0.0"]
    assert registry.register(program(), "m").version == "1.2.0"
    with pytest.raises(Conflict, match="not in the log"):
        registry.register(program(), "m", version="1.1.0")
    assert [(problem.kind, problem.path) for problem in registry.check()] == [("orphan", orphan)]


def git(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "commit.gpgsign=false"]
    return subprocess.run(
        ["git", *identity, *arguments], cwd=folder, capture_output=True, text=True, check=False
    )


@pytest.fixture
def repository(tmp_path: Path) -> Registry:
    git(tmp_path, "init", "-q", "-b", "main")
    git(tmp_path, "config", "core.autocrlf", "true")
    registry = Registry(tmp_path / "registry")
    for model in ("a", "b"):
        registry.register(Run(), model)
    commit(registry, "start")
    return registry


def commit(registry: Registry, message: str) -> None:
    git(registry.root.parent, "add", "-A")
    assert git(registry.root.parent, "commit", "-q", "-m", message).returncode == 0


def test_branches_that_register_different_models_merge(repository: Registry) -> None:
    folder = repository.root.parent
    git(folder, "checkout", "-q", "-b", "left")
    repository.register(Run(), "a")
    commit(repository, "left")
    git(folder, "checkout", "-q", "main")
    assert [version.version for version in repository.list("a")] == ["1.0.0"]
    git(folder, "checkout", "-q", "-b", "right")
    repository.promote("b", "staging")
    repository.register(program(), "c")
    commit(repository, "right")
    assert git(folder, "merge", "-q", "left", "-m", "both").returncode == 0
    assert [version.version for version in repository.list("a")] == ["1.1.0", "1.0.0"]
    assert repository.get("b").stage == "staging"
    assert repository.models() == ["a", "b", "c"]
    assert repository.check() == []


def test_branches_that_promote_the_same_model_conflict_visibly(repository: Registry) -> None:
    folder = repository.root.parent
    for branch in ("left", "right"):
        git(folder, "checkout", "-q", "-b", branch, "main")
        repository.promote("a", "staging", by=branch)
        commit(repository, branch)
    merged = git(folder, "merge", "left", "-m", "both")
    assert merged.returncode != 0
    assert "CONFLICT" in merged.stdout
    assert "log/000002.json" in merged.stdout
    with pytest.raises(Corrupt, match="torn or was edited"):
        repository.get("a")
    git(folder, "checkout", "--ours", "registry/models/a/log/000002.json")
    assert repository.history("a")[-1].by == "right"
    (problem,) = repository.check()
    assert problem.path == repository.root / "anchors/models/a.json"
    git(folder, "checkout", "--ours", str(problem.path))
    assert repository.check() == []


@tries(1.5, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    model_id=st.text(max_size=12) | st.sampled_from(["../m", "m/../..", "m@", "m\x00"]),
    version=st.none() | st.text(max_size=12),
    wanted=st.text(max_size=12),
)
def test_any_names_stay_in_the_error_tree_and_in_the_registry(
    tmp_path: Path, no_flush: None, model_id: str, version: str | None, wanted: str
) -> None:
    registry = Registry(tmp_path / "registry")
    for call in (
        lambda: registry.register(program(), model_id, version=version),
        lambda: registry.get(model_id),
        lambda: registry.get(f"{model_id}@{wanted}"),
        lambda: registry.promote(f"{model_id}@{wanted}", wanted),
        lambda: registry.archive(wanted, keep_latest=1),
        lambda: registry.list(wanted),
        lambda: registry.history(wanted),
    ):
        stays_in_the_error_tree(call)
    assert {path.name for path in tmp_path.iterdir()} <= {"registry"}
    assert {path.name for path in registry.root.glob("*")} <= {
        "models",
        "anchors",
        ".gitignore",
        ".gitattributes",
    }


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(-1e6, 1e6) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


class Anything:
    """A state that takes every entry, so that a log can be filled with nonsense."""

    def check(self, entry: object) -> None:
        pass

    def apply(self, entry: object) -> None:
        pass


entry_keys = st.sampled_from(
    ["version", "versions", "files", "summary", "to", "demoted", "evidence", "forced", "reason"]
)


@tries(1.5, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    action=st.sampled_from(["register", "promote", "archive", "attach", "explode"]),
    body=st.dictionaries(
        entry_keys, json_values | st.sampled_from(["1.0.0", "production", ["1.0.0"]]), max_size=6
    ),
)
def test_any_log_entry_stays_in_the_error_tree(
    tmp_path: Path, no_flush: None, action: str, body: dict[str, Any]
) -> None:
    root = tmp_path / "registry"
    if not (root / "models" / "m").exists():
        Registry(root).register(program(), "m")
    (root / "models/m/log/000002.json").unlink(missing_ok=True)
    Log(root / "models/m/log", Anything).append(lambda _: body, action)
    registry = Registry(root)
    for call in (
        registry.list,
        lambda: registry.history("m"),
        lambda: registry.load("m@1.0.0"),
        registry.check,
    ):
        stays_in_the_error_tree(call)
