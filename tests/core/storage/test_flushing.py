"""What is flushed before what, what happens when a flush fails, and processes that fork."""

from __future__ import annotations

import errno
import os
import stat
import threading
from pathlib import Path
from typing import Any

import pytest

from dspy_nb.core.errors import RegistryError
from dspy_nb.core.models.stages import ModelState
from dspy_nb.core.registry.registry import Registry
from dspy_nb.core.storage.flushing import Unflushed
from dspy_nb.core.storage.log import Log
from tests.registry_samples import Run, program

needs_proc = pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="no /proc")


def left_open(folder: Path) -> list[str]:
    """Return the files below ``folder`` that this process has open; deleted ones are named so."""
    links = [link for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    return [name for name in map(str, map(Path.readlink, links)) if name.startswith(str(folder))]


@pytest.mark.parametrize("first", [True, False])
def test_an_entry_gets_its_name_only_when_all_that_it_speaks_of_is_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: bool
) -> None:
    registry = Registry(tmp_path / "registry")
    if not first:
        registry.register(Run(), "m")
    flushed: set[int] = set()
    named: list[str] = []
    fsync, link = os.fsync, os.link

    def note(descriptor: int) -> None:
        fsync(descriptor)
        flushed.add(os.fstat(descriptor).st_ino)

    def look(source: str, target: str) -> None:
        versions = [path for path in (tmp_path / "registry/models/m").glob("[0-9]*") if path.is_dir()]
        newest = max(versions, key=lambda path: path.stat().st_ctime_ns)
        needed = [Path(source), newest, newest.parent, *newest.iterdir()]
        assert len(needed) == 3 + 4
        assert {path.stat().st_ino for path in needed} <= flushed
        link(source, target)
        flushed.clear()
        named.append(target)

    monkeypatch.setattr(os, "fsync", note)
    monkeypatch.setattr(os, "link", look)
    registry.register(Run(), "m")
    assert len(named) == 1
    assert Path(named[0]).parent.stat().st_ino in flushed  # the name itself, before the call returns


def test_every_file_is_flushed_and_the_first_failure_is_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync = os.fsync
    calls: list[int] = []
    broken: list[int] = []

    def fail_one(descriptor: int) -> None:
        calls.append(descriptor)
        if descriptor in broken:
            raise OSError(errno.EIO, "broken")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", fail_one)
    for bad in range(12):
        with Unflushed() as unflushed:
            for number in range(12):
                unflushed.create(tmp_path / f"{bad}-{number}", b"content")
            broken[:] = [unflushed._descriptors[bad]]
            calls.clear()
            with pytest.raises(OSError, match="broken"):
                unflushed.flush()
        assert len(calls) == 12


def test_whatever_a_flush_raises_the_threads_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: int) -> None:
        raise KeyboardInterrupt

    for number in range(3):
        with Unflushed() as unflushed:
            for part in range(10):
                unflushed.create(tmp_path / f"{number}-{part}", b"content")
            with monkeypatch.context() as patch:
                patch.setattr(os, "fsync", interrupted)
                with pytest.raises(KeyboardInterrupt):
                    unflushed.flush()
    test_threads_flush_at_once(tmp_path / "after")


def test_threads_flush_at_once(tmp_path: Path) -> None:
    tmp_path.mkdir(exist_ok=True)

    def write(name: str) -> None:
        for number in range(20):
            with Unflushed() as unflushed:
                for part in range(4):
                    unflushed.create(tmp_path / f"{name}-{number}-{part}", b"content")
                unflushed.add_folder(tmp_path)
                unflushed.flush()

    threads = [threading.Thread(target=write, args=(str(index),)) for index in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(list(tmp_path.iterdir())) == 5 * 20 * 4


def is_folder(descriptor: int) -> bool:
    return stat.S_ISDIR(os.fstat(descriptor).st_mode)


@pytest.mark.parametrize("name", ["EINVAL", "ENOTSUP", "ENOSYS", "EBADF", "EACCES", "EPERM"])
@pytest.mark.parametrize("call", ["fsync", "open"])
def test_a_system_that_flushes_no_folders_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, name: str
) -> None:
    real = getattr(os, call)

    def refuse(what: Any, *more: Any) -> Any:
        if is_folder(what) if call == "fsync" else Path(what).is_dir():
            raise OSError(getattr(errno, name), os.strerror(getattr(errno, name)))
        return real(what, *more)

    monkeypatch.setattr(os, call, refuse)
    registry = Registry(tmp_path / "registry")
    registry.register(program(), "m")
    registry.promote("m", "staging")
    registry.environment("e", create=True).deploy("m")
    assert registry.export_version("m", tmp_path / "m.zip").is_file()
    assert Registry(registry.root).check() == []


@pytest.mark.parametrize(
    ("folders", "number"), [(True, errno.EIO), (True, errno.ENOSPC), (False, errno.EINVAL)]
)
def test_a_flush_that_failed_is_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folders: bool, number: int
) -> None:
    real = os.fsync

    def fail(descriptor: int) -> None:
        if is_folder(descriptor) is folders:
            raise OSError(number, os.strerror(number))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fail)
    registry = Registry(tmp_path / "registry")
    with pytest.raises(
        RegistryError, match=os.strerror(number) if number != errno.ENOSPC else "disk is full"
    ):
        registry.register(program(), "m")
    assert Registry(registry.root).models() == []


def test_nothing_to_flush_is_flushed(tmp_path: Path) -> None:
    Unflushed().flush()


@needs_proc
@pytest.mark.parametrize("call", ["write", "fsync", "link"])
def test_a_write_that_fails_leaves_no_file_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    registry = Registry(tmp_path / "registry")
    registry.register(program(), "m")
    log = Log(tmp_path / "registry/models/m/log", ModelState)

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        for attempt in (
            lambda: registry.register(program(), "m"),
            lambda: registry.promote("m", "staging"),
            lambda: log.append(lambda _: {"versions": ["1.0.0"], "reason": None}, "archive"),
        ):
            with pytest.raises(RegistryError, match="the disk is full"):
                attempt()
    assert left_open(tmp_path) == []
    with pytest.raises(RegistryError, match="exists"):
        registry.register(program(), "m", version="1.0.0")
    assert left_open(tmp_path) == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_the_child_of_a_fork_registers_as_well(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "registry")
    registry.register(program(), "m")  # the threads run from here on
    child = os.fork()
    if child == 0:
        status = 1
        try:
            registry.register(program(), "m")
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    assert [version.version for version in registry.list("m")] == ["1.1.0", "1.0.0"]
    assert registry.check() == []


@pytest.mark.parametrize(
    ("number", "words"), [(errno.EROFS, "the file system is read-only"), (errno.EACCES, "permission denied")]
)
def test_in_a_folder_that_cannot_be_written_everything_says_so_and_reading_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, words: str
) -> None:
    registry = Registry(tmp_path / "registry")
    for _ in range(3):
        registry.register(program(), "m")
    environment = registry.environment("e", create=True)
    environment.deploy("m@1.0.0")
    environment.deploy("m@1.1.0")
    before = sorted(tmp_path.rglob("*"))
    real_open = os.open

    def no_writing(path: object, flags: int, *more: int) -> int:
        if flags & (os.O_CREAT | os.O_WRONLY | os.O_RDWR):
            raise OSError(number, os.strerror(number))
        return real_open(path, flags, *more)  # type: ignore[call-overload, no-any-return]

    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "open", no_writing)
    for name in ("mkdir", "link", "rename", "replace", "symlink"):
        monkeypatch.setattr(os, name, refuse)
    for attempt in (
        lambda: registry.register(program(), "m"),
        lambda: registry.register(program(), "new"),
        lambda: registry.promote("m", "staging"),
        lambda: registry.archive("m@1.2.0"),
        lambda: environment.deploy("m@1.0.0"),
        environment.rollback,
        lambda: registry.environment("new", create=True).deploy("m"),
    ):
        with pytest.raises(RegistryError, match=words) as caught:
            attempt()
        assert "\n" not in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before
    assert Registry(registry.root).check() == []
    assert registry.get("m").version == "1.2.0"
    assert registry.load("m") is not None
    assert environment.current is not None
    assert environment.current.version == "1.1.0"
