"""A disk that fails, or a process that dies, at any system call: the answer agrees with what is there then."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from dspy_nb.core.errors import RegistryError
from dspy_nb.core.registry.registry import Registry
from tests.faults import ERRNOS, Faults, Killed
from tests.properties import tries
from tests.registry_samples import program, registry_of

pytestmark = pytest.mark.usefixtures("no_flush")

OPERATIONS: dict[str, Callable[[Registry], object]] = {
    "register": lambda registry: registry.register(program("new"), "m"),
    "register the first": lambda registry: registry.register(program("new"), "other"),
    "promote": lambda registry: registry.promote("m@1.3.0", "staging"),
    "archive": lambda registry: registry.archive("m@1.2.0"),
    "deploy": lambda registry: registry.environment("e", create=True).deploy("m@1.3.0"),
    "deploy the first": lambda registry: registry.environment("other", create=True).deploy("m@1.3.0"),
    "canary": lambda registry: registry.environment("e", create=True).canary("m@1.3.0"),
    "roll back": lambda registry: registry.environment("e", create=True).rollback(),
}
NO_LINKS = OSError(errno.EOPNOTSUPP, "no links here")


def no_links(*_: object, **__: object) -> None:
    raise NO_LINKS


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry with four versions of one model and two deployments."""
    root = tmp_path_factory.mktemp("sample") / "registry"
    environment = registry_of(root).environment("e", create=True)
    environment.deploy("m@1.0.0")
    environment.deploy("m@1.1.0")
    return root


def seen(root: Path) -> list[Any]:
    """Return what a registry that is opened now holds."""
    registry = Registry(root)
    versions = [(version.ref, version.stage) for version in registry.list()]
    lines = [
        (line.action, line.ref)
        for name in ("e", "other")
        for line in registry.environment(name, create=True).history()
    ]
    return [versions, lines]


def attempt(root: Path, what: str, faults: Faults, *, links: bool = True) -> str:
    """Return what a new process would say of an operation: done, not done, or that it is killed."""
    registry = Registry(root)
    with pytest.MonkeyPatch.context() as patch:
        if not links:
            patch.setattr(os, "link", no_links)
        faults.install(patch)
        try:
            OPERATIONS[what](registry)
        except Killed:
            return "killed"
        except RegistryError as error:
            said = str(error)
        else:
            return "done"
    assert "\n" not in said
    return "done" if "is written" in said else "not done"


def check(root: Path) -> None:
    """Nothing is broken, and whatever is left over is named."""
    problems = Registry(root).check()
    assert {problem.kind for problem in problems} <= {"orphan", "stale"}, problems
    left = {path for kind in (".tmp-*", ".staging-*") for path in root.rglob(kind)}
    assert {path for path in left if path.parent not in left} <= {problem.path for problem in problems}


class Case:
    """One operation on a copy of the sample; ``calls`` are those that it makes where nothing fails."""

    def __init__(self, sample: Path, folder: Path, what: str, links: bool) -> None:
        self.sample, self.root, self.what, self.links = sample, folder / "registry", what, links
        self.before = seen(sample)
        clean = Faults(self.copy())
        assert attempt(self.root, what, clean, links=links) == "done"
        self.calls, self.after = clean.made, seen(self.root)
        assert self.after != self.before
        assert Registry(self.root).check() == []

    def copy(self) -> Path:
        shutil.rmtree(self.root, ignore_errors=True)
        shutil.copytree(self.sample, self.root, symlinks=True)
        return self.root

    def hold(self, at: int, number: int = 0, **how: bool) -> None:
        """Let one call fail, and see whether the answer agrees with the disk; then try again."""
        answer = attempt(self.copy(), self.what, Faults(self.root, at, number, **how), links=self.links)
        found = seen(self.root)
        wanted = {"done": [self.after], "not done": [self.before], "killed": [self.before, self.after]}[
            answer
        ]
        assert found in wanted, (self.what, at, self.calls[at], number, how, answer)
        check(self.root)
        if found == self.before:
            assert attempt(self.root, self.what, Faults(self.root), links=self.links) == "done"
            check(self.root)


@pytest.fixture(scope="module")
def case(sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Case]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield cache(lambda what, links=True: Case(sample, tmp_path_factory.mktemp("case"), what, links))


@tries(3, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    what=st.sampled_from(sorted(OPERATIONS)),
    place=st.floats(0, 1, exclude_max=True),
    error=st.sampled_from(sorted(ERRNOS)),
    lost=st.booleans(),
)
def test_whichever_call_fails_the_answer_agrees_with_the_disk(
    case: Callable[..., Case], what: str, place: float, error: str, lost: bool
) -> None:
    found = case(what)
    found.hold(int(place * len(found.calls)), ERRNOS[error], lost=lost)


@tries(2, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    what=st.sampled_from(sorted(OPERATIONS)),
    place=st.floats(0, 1, exclude_max=True),
    links=st.booleans(),
    torn=st.booleans(),
)
def test_at_whichever_call_a_process_is_killed_nothing_is_half_there(
    case: Callable[..., Case], what: str, place: float, links: bool, torn: bool
) -> None:
    found = case(what, links)
    found.hold(int(place * len(found.calls)), torn=torn)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("what", sorted(OPERATIONS))
def test_every_call_with_every_errno(case: Callable[..., Case], what: str) -> None:
    for links in (True, False):
        found = case(what, links)
        for at in range(len(found.calls)):
            for number in ERRNOS.values():
                found.hold(at, number)
            found.hold(at, errno.EIO, lost=True)
            found.hold(at)
            found.hold(at, torn=True)


@pytest.mark.parametrize("what", sorted(OPERATIONS))
def test_a_disk_that_reads_nothing_any_more_once_the_entry_is_written_does_not_undo_it(
    case: Callable[..., Case], monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    found = case(what)
    root, real = found.copy(), os.link
    registry = Registry(root)

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    def link(*arguments: Any) -> None:
        real(*arguments)
        for name in ("open", "read", "stat", "lstat", "listdir", "scandir"):
            monkeypatch.setattr(os, name, fail)

    monkeypatch.setattr(os, "link", link)
    OPERATIONS[what](registry)
    monkeypatch.undo()
    assert seen(root) == found.after
