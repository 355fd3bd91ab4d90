"""Environments under random deployments, many threads and processes, crashes, and logs that make no sense."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dspy
import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st
from hypothesis.stateful import invariant, rule

from dspy_nb.core.deployment.environment import Environment
from dspy_nb.core.deployment.releases import link_target, read_link
from dspy_nb.core.errors import Refused
from dspy_nb.core.registry.registry import Registry
from dspy_nb.core.storage.log import Log
from tests.children import Child, Children
from tests.moments import HANG_S
from tests.properties import tries
from tests.registry_samples import VERSIONS, TwoViews, registry_of, stays_in_the_error_tree


class DeployAndRollBack(TwoViews):
    """Against a list that a person could keep on paper."""

    def _attempt(self, call: Callable[[], object], after: list[str] | None) -> None:
        """Make a call that must lead to ``after``, or be refused if that is None."""
        if after is None:
            with pytest.raises(Refused):
                call()
            return
        call()
        self.live = after
        self.ever.append(after[-1])

    @rule(view=st.integers(0, 1), version=st.sampled_from(VERSIONS), blue_green=st.booleans())
    def deploy(self, view: int, version: str, blue_green: bool) -> None:
        environment = self.views[view]
        after = None if self.live[-1:] == [version] else [*self.live, version]
        if blue_green:
            self._attempt(lambda: environment.prepare(version).switch(), after)
        else:
            self._attempt(lambda: environment.deploy(version), after)

    @rule(view=st.integers(0, 1), steps=st.integers(1, 3))
    def roll_back(self, view: int, steps: int) -> None:
        after = self.live[:-steps] or None
        self._attempt(lambda: self.views[view].rollback(steps=steps), after)

    @rule()
    def start_again(self) -> None:
        self.views[0] = Registry(self.views[0].registry.root).environment("e", create=True)

    @invariant()
    def both_views_agree_with_the_list(self) -> None:
        for view in self.views:
            current = view.current
            assert (current.ref if current else None) == (self.live[-1] if self.live else None)
            assert [line.ref for line in view.history()] == self.ever
            assert [line.number for line in view.history()] == list(range(1, len(self.ever) + 1))
        if self.live:
            assert self.views[0].history()[-1].rollback_available == (len(self.live) > 1)
            assert read_link(self.views[0].folder) == link_target(self.live[-1])
        assert self.views[0].registry.check() == []


TestDeployAndRollBack = DeployAndRollBack.TestCase
TestDeployAndRollBack.settings = tries(0.08, stateful_step_count=20)


def test_threads_that_load_never_see_a_mixture_while_versions_are_deployed(
    tmp_path: Path, no_flush: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dspy_nb.core.deployment.environment._LOOK_EVERY_S", 0.0)  # the hardest case
    registry = registry_of(tmp_path / "registry")
    serving, deploying = (
        registry.environment("e", create=True),
        Registry(registry.root).environment("e", create=True),
    )
    deploying.deploy(VERSIONS[0])
    done, first_seen, change_seen = threading.Event(), threading.Event(), threading.Event()
    seen: set[str] = set()
    wrong: list[object] = []

    def serve() -> None:
        try:
            while not done.is_set():
                loaded = serving.load()
                assert isinstance(loaded, dspy.Predict)
                number = loaded.signature.instructions.split()[1].rstrip(".")
                seen.add(number)
                first_seen.set()
                if len(seen) > 1:
                    change_seen.set()
                if loaded.demos[0]["review"] != f"demo {number}":
                    wrong.append(loaded)
        except BaseException as error:
            wrong.append(error)
            raise

    threads = [threading.Thread(target=serve) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert first_seen.wait(HANG_S)
    for number in range(1, 101):
        deploying.deploy(VERSIONS[number % len(VERSIONS)])
        if number == 50:
            assert change_seen.wait(HANG_S)
    done.set()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert len(seen) > 1
    last = serving.load()
    assert isinstance(last, dspy.Predict)
    assert last.signature.instructions == "Version 0."


def deployed(root: Path, n: int, by: str) -> Iterator[int]:
    environment = Registry(root).environment("e", create=True)
    for number in range(n):
        try:
            made = environment.deploy(f"m@1.{number % 4}.0", by=by)
        except Refused:  # the other one deployed it just now
            continue
        yield made.number


def deployers(children: Children, root: Path, processes: int, each: int) -> list[Child]:
    return [children(deployed, root, each, str(name)) for name in range(processes)]


def deploy_from_processes(children: Children, root: Path, processes: int, each: int) -> None:
    registry = registry_of(root)
    running = deployers(children, root, processes, each)
    returned = [number for process in running for number in process.rest()]
    environment = registry.environment("e", create=True)
    assert sorted(returned) == list(range(1, len(environment.history()) + 1))
    assert read_link(environment.folder) == link_target(environment.history()[-1].ref)
    assert registry.check() == []


def test_processes_that_deploy_at_once_lose_nothing_and_leave_the_link_right(
    tmp_path: Path, children: Children
) -> None:
    deploy_from_processes(children, tmp_path / "registry", processes=3, each=15)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("repetition", range(10))
def test_eight_processes_that_deploy_at_once_lose_nothing(
    tmp_path: Path, children: Children, repetition: int
) -> None:
    deploy_from_processes(children, tmp_path / "registry", processes=8, each=50)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("lines", [1 + repetition % 13 for repetition in range(30)])
def test_whatever_moment_a_process_is_killed_at_what_was_deployed_is_live(
    tmp_path: Path, children: Children, lines: int
) -> None:
    registry = registry_of(tmp_path / "registry")
    running = deployers(children, registry.root, 2, 1000)
    returned = []
    for process in running:
        returned += [next(process) for _ in range(lines)]
        process.kill()
    for process in running:
        returned += process
    environment = registry.environment("e", create=True)
    numbers = [line.number for line in environment.history()]
    assert numbers == list(range(1, len(numbers) + 1))
    assert set(returned) <= set(numbers)
    assert {problem.kind for problem in registry.check()} <= {"orphan", "stale"}
    environment.load()
    environment.relink()
    assert {problem.kind for problem in registry.check()} <= {"orphan"}


def die_before_the_link(root: Path) -> None:
    Path.symlink_to = lambda *args, **kwargs: os.kill(os.getpid(), signal.SIGKILL)
    Registry(root).environment("e", create=True).deploy("m@1.1.0")


@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL")
def test_a_kill_between_the_log_entry_and_the_link_loses_nothing(tmp_path: Path, children: Children) -> None:
    registry = registry_of(tmp_path / "registry")
    environment = registry.environment("e", create=True)
    environment.deploy("m@1.0.0")
    assert children(die_before_the_link, registry.root).status == -signal.SIGKILL
    assert environment.current is not None
    assert environment.current.ref == "m@1.1.0"
    assert read_link(environment.folder) == link_target("m@1.0.0")
    assert [problem.kind for problem in registry.check()] == ["stale"]
    environment.deploy("m@1.2.0")
    assert registry.check() == []


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
keys = ["model_id", "version", "replaced", "steps", "evidence", "reason"]
likely = st.sampled_from(["m", "1.0.0", "1.1.0", "m@1.0.0", None, 1, "../m"])


class Anything:
    """A state that takes every entry, so that a log can be filled with nonsense."""

    def check(self, entry: object) -> None:
        pass

    def apply(self, entry: object) -> None:
        pass


@tries(1.5, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    action=st.sampled_from(["deploy", "rollback", "explode"]),
    body=st.fixed_dictionaries(dict.fromkeys(keys, likely | json_values))
    | st.dictionaries(st.sampled_from(keys), json_values),
)
def test_any_log_entry_stays_in_the_error_tree(
    tmp_path: Path, no_flush: None, action: str, body: dict[str, Any]
) -> None:
    root = tmp_path / "registry"
    if not root.exists():
        registry_of(root).environment("e", create=True).deploy("m@1.0.0")
    (root / "environments/e/log/000002.json").unlink(missing_ok=True)
    Log(root / "environments/e/log", Anything).append(lambda _: body, action)
    registry = Registry(root)
    environment = registry.environment("e", create=True)
    for call in (
        lambda: environment.current,
        environment.history,
        environment.load,
        environment.rollback,
        registry.check,
    ):
        stays_in_the_error_tree(call)


@tries(1, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.text(max_size=12) | st.sampled_from(["../e", "e/../..", "e\x00", ".", "con.x"]))
def test_any_name_stays_in_the_error_tree_and_in_the_registry(
    tmp_path: Path, no_flush: None, name: str
) -> None:
    root = tmp_path / "registry"
    registry = Registry(root) if root.exists() else registry_of(root)

    def deploy() -> Environment:
        environment = registry.environment(name)
        environment.deploy("m@1.0.0")
        return environment

    stays_in_the_error_tree(deploy)
    assert {path.name for path in tmp_path.iterdir()} == {"registry"}
    known = {"models", "environments", "anchors", ".gitignore", ".gitattributes"}
    assert {path.name for path in root.iterdir()} <= known
