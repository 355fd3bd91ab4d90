"""Canaries and the monitor under random decisions, kills, many processes, and logs that make no sense."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st
from hypothesis.stateful import invariant, rule

import dspy_nb.core.deployment.environment as environment_module
from dspy_nb.core.deployment.canary_log import CanaryRules
from dspy_nb.core.deployment.environment import Environment
from dspy_nb.core.deployment.history import EnvironmentState
from dspy_nb.core.deployment.objectives import MonitorSettings
from dspy_nb.core.deployment.releases import link_target, read_link
from dspy_nb.core.errors import Corrupt, Refused
from dspy_nb.core.registry.registry import Registry
from dspy_nb.core.storage.entry import Entry
from dspy_nb.core.storage.log import Log
from dspy_nb.views.listings import Listing
from dspy_nb.views.rendering.html import to_html
from dspy_nb.views.rendering.text import to_text
from tests.children import Children
from tests.properties import tries
from tests.registry_samples import VERSIONS, TwoViews, registry_of

VIEWS = st.integers(0, 1)


class DecideAtRandom(TwoViews):
    """Against what a person could keep on paper."""

    def __init__(self) -> None:
        super().__init__()
        self.canary: str | None = None
        self.actions: list[str] = []
        self.units = 0

    def _attempt(self, call: Callable[[], object], action: str | None) -> bool:
        """Make a call that must write an entry of that action, or be refused if that is None."""
        if action is None:
            with pytest.raises(Refused):
                call()
            return False
        call()
        self.actions.append(action)
        return True

    def _note(self) -> None:
        self.ever.append(self.live[-1])

    @rule(view=VIEWS, version=st.sampled_from(VERSIONS), blue_green=st.booleans())
    def deploy(self, view: int, version: str, blue_green: bool) -> None:
        environment = self.views[view]
        possible = self.canary is None and self.live[-1:] != [version]
        call: Callable[[], object] = lambda: environment.deploy(version)  # noqa: E731
        if blue_green:
            call = lambda: environment.prepare(version).switch()  # noqa: E731
        if self._attempt(call, "deploy" if possible else None):
            self.live.append(version)
            self._note()

    @rule(view=VIEWS, steps=st.integers(1, 3))
    def roll_back(self, view: int, steps: int) -> None:
        if self.canary is not None:
            action = "canary-abort" if steps == 1 else None
        else:
            action = "rollback" if steps < len(self.live) else None
        if self._attempt(lambda: self.views[view].rollback(steps=steps), action):
            if action == "rollback":
                del self.live[-steps:]
            self.canary = None
            self._note()

    @rule(view=VIEWS, version=st.sampled_from(VERSIONS))
    def start_canary(self, view: int, version: str) -> None:
        possible = self.canary is None and self.live and self.live[-1] != version
        call = lambda: self.views[view].canary(version, 0.5, steps=(0.75, 1.0), margin=0.4)  # noqa: E731
        if self._attempt(call, "canary-start" if possible else None):
            self.canary = version
            self._note()

    @rule(view=VIEWS)
    def abort(self, view: int) -> None:
        if self._attempt(self.views[view].abort_canary, "canary-abort" if self.canary else None):
            self.canary = None
            self._note()

    @rule(view=VIEWS, good=st.booleans(), n=st.sampled_from([1, 100]))
    def users_come(self, view: int, good: bool, n: int) -> None:
        """Outcomes that the candidate is as good, or as bad as can be, and the step that they call for."""
        if not self.live:
            return
        environment = self.views[view]
        environment._advance_at = float("inf")
        for _ in range(n):
            self.units += 1
            unit = f"u{self.units}"
            request = environment.observe(unit=unit)
            is_b = environment.traffic.count("request_id = ? AND is_b", (request,)) == 1
            environment.record(request, good or not is_b)
        status = environment.advance_canary()
        assert (status is None) == (self.canary is None)
        if status is None or status.made is None:
            return
        self.actions.append(status.made.action)
        assert status.made.action == f"canary-{status.decision}"
        if status.decision == "finish":
            assert self.canary is not None
            self.live.append(self.canary)
        if status.decision in ("finish", "rollback"):
            self.canary = None
        self._note()

    @rule()
    def start_again(self) -> None:
        self.views[0].traffic.close()
        self.views[0] = Registry(self.views[0].registry.root).environment("e", create=True)

    @invariant()
    def both_views_agree_with_the_paper(self) -> None:
        for view in self.views:
            current, history = view.current, view.history()
            running = view.read(lambda state: state.canary)
            assert (current.ref if current else None) == (self.live[-1] if self.live else None)
            assert (running.candidate if running else None) == self.canary
            assert [line.action for line in history] == self.actions
            assert [line.ref for line in history] == self.ever
            assert [line.number for line in history] == list(range(1, len(self.ever) + 1))
        if self.live:
            assert self.views[0].history()[-1].rollback_available == (len(self.live) > 1 or bool(self.canary))
            assert read_link(self.views[0].folder) == link_target(self.live[-1])
        assert self.views[0].registry.check() == []
        for render in (to_text, to_html):
            assert all(ref in render(Listing(self.views[0].history())) for ref in self.ever)


TestDecideAtRandom = DecideAtRandom.TestCase
TestDecideAtRandom.settings = tries(
    0.08, stateful_step_count=25, suppress_health_check=[HealthCheck.too_slow]
)


def served(root: Path, name: str, n: int) -> Iterator[str]:
    """Serve in a process of its own, and look at the canary after every request."""
    os.fsync = lambda _: None
    environment_module._ADVANCE_EVERY_S = 0.0
    environment = Registry(root).environment("e", create=True)
    yield "ready"
    for number in range(n):
        environment.observe(True, unit=f"{name} {number}")
        if environment.read(lambda state: state.canary is None):
            break


def test_processes_that_are_killed_in_the_middle_leave_a_canary_that_goes_on(
    tmp_path: Path, no_flush: None, children: Children
) -> None:
    registry = registry_of(tmp_path / "registry")
    environment = registry.environment("e", create=True)
    environment.deploy(VERSIONS[0])
    plan = (*(0.5 + step / 100 for step in range(1, 50)), 1.0)  # steps all the time
    environment.canary(VERSIONS[1], 0.5, steps=plan, margin=0.9, min_requests=1)
    draws = random.Random(7)
    seen = -1
    for kill in range(4):
        server = children(served, registry.root, f"life {kill}", 100_000)
        assert next(server) == "ready"
        until = len(environment.history()) + draws.randint(1, 6)
        while len(environment.history()) < until and server.running:
            pass
        server.kill()
        assert list(server) == []  # it has ended
        history = environment.history()
        assert [line.number for line in history] == list(range(1, len(history) + 1))
        shares = [line.share for line in history[1:]]
        assert shares == [0.5, *plan][: len(shares)]
        assert [problem for problem in registry.check() if problem.kind != "orphan"] == []
        if (status := environment.canary_status()) is not None:
            assert status.baseline.n + status.candidate.n > seen
            seen = status.baseline.n + status.candidate.n
    children(served, registry.root, "the last", 100_000).rest()
    assert environment.history()[-1].action == "canary-finish"
    assert environment.current is not None
    assert environment.current.ref == VERSIONS[1]


def test_processes_that_serve_together_take_each_step_once(
    tmp_path: Path, no_flush: None, children: Children
) -> None:
    registry = registry_of(tmp_path / "registry")
    environment = registry.environment("e", create=True)
    environment.deploy(VERSIONS[0])
    environment.canary(VERSIONS[1], 0.5, steps=(0.6, 0.7, 0.8, 0.9, 1.0), margin=0.9, min_requests=5)
    servers = [children(served, registry.root, f"process {number}", 2000) for number in range(3)]
    for server in servers:
        server.rest()
        assert server.errors == ""
    shares = [line.share for line in environment.history()[1:]]
    assert shares == [0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
    rows = environment.traffic.count("1")
    assert rows == environment.traffic.count("outcome = 1")
    assert registry.check() == []


@pytest.mark.parametrize("content", [b"", b"not a database at all, but long enough to be looked at" * 30])
def test_a_broken_file_of_traffic_is_one_line(tmp_path: Path, no_flush: None, content: bytes) -> None:
    registry = registry_of(tmp_path / "registry")
    environment = registry.environment("e", create=True)
    environment.deploy(VERSIONS[0])
    environment.traffic.path.write_bytes(content)
    if content:
        with pytest.raises(Corrupt, match=r"traffic.sqlite3 is not a file of traffic") as caught:
            environment.check_health(MonitorSettings(level=0.9))
        assert "\n" not in str(caught.value)
    else:  # an empty file is one that SQLite has just created
        assert environment.check_health(MonitorSettings(level=0.9)).verdict == "too early"


# -- logs that make no sense ------------------------------------------------------------------------------------

BODY: dict[str, Any] = {
    "model_id": "m",
    "version": "1.0.0",
    "replaced": "m@1.0.0",
    "steps": None,
    "evidence": None,
    "reason": None,
    "candidate": "m@1.1.0",
    "share": 0.05,
    "rules": CanaryRules().to_dict(),
}


@pytest.mark.parametrize(
    ("action", "change"),
    [
        ("canary-start", {"share": 0.06}),
        ("canary-start", {"candidate": "m@1.0.0"}),
        ("canary-start", {"candidate": "../x"}),
        ("canary-start", {"candidate": None}),
        ("canary-start", {"version": "1.1.0"}),
        ("canary-start", {"replaced": "m@1.2.0"}),
        ("canary-start", {"steps": 1}),
        ("canary-start", {"rules": None}),
        ("canary-start", {"rules": {}}),
        ("canary-start", {"rules": {**CanaryRules().to_dict(), "plan": []}}),
        ("canary-start", {"rules": {**CanaryRules().to_dict(), "plan": [0.05, "x"]}}),
        ("canary-start", {"rules": {**CanaryRules().to_dict(), "margin": None}}),
        ("canary-step", {"share": 0.25, "rules": None}),
        ("canary-abort", {"share": 0, "rules": None}),
        ("canary-stop", {}),
    ],
)
def test_an_entry_that_cannot_follow_is_corrupt(
    tmp_path: Path, no_flush: None, action: str, change: dict[str, Any]
) -> None:
    environment = registry_of(tmp_path / "registry").environment("e", create=True)
    environment.deploy(VERSIONS[0])
    write(environment, action, {**BODY, **change})
    with pytest.raises(Corrupt, match="log entry 2 cannot be right"):
        environment.history()


@pytest.mark.parametrize(
    ("action", "change"),
    [
        ("deploy", {}),
        ("canary-start", {"rules": CanaryRules().to_dict(), "share": 0.05}),
        ("canary-step", {"share": 0.5}),
        ("canary-step", {"share": 0.25, "candidate": "m@1.2.0"}),
        ("canary-step", {"share": 0.25, "version": "1.1.0"}),
        ("canary-finish", {"share": 1.0, "version": "1.1.0"}),  # there are steps to come
        ("canary-rollback", {"share": 0.25}),
        ("canary-abort", {"share": 0, "version": "1.1.0"}),
    ],
)
def test_an_entry_that_cannot_follow_a_canary_is_corrupt(
    tmp_path: Path, no_flush: None, action: str, change: dict[str, Any]
) -> None:
    environment = registry_of(tmp_path / "registry").environment("e", create=True)
    environment.deploy(VERSIONS[0])
    environment.canary(VERSIONS[1])
    body = {**BODY, "rules": None, **change}
    if action == "deploy":
        body = {key: body[key] for key in ("model_id", "replaced", "steps", "evidence", "reason")}
        body["version"] = "1.2.0"
    write(environment, action, body)
    with pytest.raises(Corrupt, match="log entry 3 cannot be right"):
        environment.history()


@given(
    action=st.sampled_from(["canary-start", "canary-step", "canary-finish", "canary-abort", "deploy"]),
    body=st.fixed_dictionaries({
        key: st.one_of(st.just(value), st.none(), st.integers(), st.floats(), st.text(), st.just([]))
        for key, value in BODY.items()
    }),
    running=st.booleans(),
)  # fmt: skip
def test_no_entry_whatever_is_in_it_leaves_the_error_tree(
    action: str, body: dict[str, Any], running: bool
) -> None:
    state = EnvironmentState()
    deploy = {key: BODY[key] for key in ("model_id", "version", "steps", "evidence", "reason")}
    state.apply(Entry(1, "deploy", "now", "ann", {**deploy, "replaced": None}, ""))
    if running:
        state.apply(Entry(2, "canary-start", "now", "ann", BODY, ""))
    entry = Entry(2 + running, action, "now", "ann", body, "")
    try:
        state.check(entry)
    except Corrupt as error:
        assert "\n" not in str(error)  # noqa: PT017
        return
    state.apply(entry)
    assert state.history[-1].action == action


class Anything:
    """A state that accepts every entry."""

    def check(self, entry: object) -> None:
        pass

    def apply(self, entry: object) -> None:
        pass


def write(environment: Environment, action: str, body: dict[str, Any]) -> None:
    """Append an entry as somebody who does not know the rules would."""
    Log(environment.folder / "log", Anything).append(lambda _: body, action)
