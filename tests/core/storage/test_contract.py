"""What a registry needs of where it is: the same tests for a disk, this process's memory, and an S3 server."""

from __future__ import annotations

import os
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dspy_nb.core.errors import Corrupt, InputError, RegistryError
from dspy_nb.core.registry.registry import Registry
from dspy_nb.core.storage.flushing import Unflushed
from dspy_nb.core.storage.log import Log
from dspy_nb.core.storage.objects import local_folder, open_root
from dspy_nb.core.storage.place import Address, Place, storage_of
from tests.children import Children
from tests.core.storage.test_log import Sum, add
from tests.objects import Server, s3_server
from tests.registry_samples import program

pytestmark = pytest.mark.usefixtures("no_flush")


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with s3_server() as found:
        yield found


@pytest.fixture(params=["disk", "memory", pytest.param("s3", marks=pytest.mark.heavy)])
def url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where a registry may be: a name that nobody has used."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    if request.param == "disk":
        return str(tmp_path / "registry")
    if request.param == "memory":
        return f"memory://{uuid.uuid4().hex}"
    for name, value in request.getfixturevalue("server").environment.items():
        monkeypatch.setenv(name, value)
    return f"s3://bucket/{uuid.uuid4().hex}"


@pytest.fixture
def root(url: str) -> Place:
    return open_root(url)


def create(place: Place, content: bytes) -> bool:
    with Unflushed() as unflushed:
        return storage_of(place).create(str(place), content, unflushed)


def all_at_once(calls: list[Callable[[], Any]]) -> list[Any]:
    """Return what calls return that begin together, each in a thread."""
    start, found = threading.Barrier(len(calls)), [None] * len(calls)

    def run(number: int) -> None:
        start.wait()
        found[number] = calls[number]()

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


class TestContract:
    def test_what_is_created_is_read_listed_and_never_replaced(self, root: Place) -> None:
        storage, place = storage_of(root), root / "a" / "b" / "1.json"
        assert storage.list(root / "a") == {}
        assert (storage.stat(place), storage.exists(place), storage.exists(root / "a")) == (
            None,
            False,
            False,
        )
        with pytest.raises(FileNotFoundError):
            storage.read(place)
        assert create(place, b"one")
        assert not create(place, b"two")
        assert storage.read(place) == b"one"
        assert list(storage.list(root / "a")) == ["b"]
        (listed,) = storage.list(root / "a" / "b").items()
        assert listed in [("1.json", storage.stat(place)), ("1.json", ())]
        assert storage.exists(place)
        assert storage.exists(root / "a")
        assert not storage.exists(root / "a" / "b" / "1")

    def test_of_sixteen_writers_one_gets_a_name_and_the_others_are_told(self, root: Place) -> None:
        place = root / "a" / "1.json"
        won = all_at_once([lambda n=n: create(place, b"%d" % n) for n in range(16)])
        assert won.count(True) == 1
        assert storage_of(root).read(place) == b"%d" % won.index(True)
        assert list(storage_of(root).list(root / "a")) == ["1.json"]

    def test_of_sixteen_writers_one_gets_a_folder_with_all_of_its_files(self, root: Place) -> None:
        folder, storage = root / "models" / "1.0.0", storage_of(root)

        def write(number: int) -> bool:
            with Unflushed() as unflushed:
                return storage.add_folder(folder, dict.fromkeys("abc", b"%d" % number), unflushed)

        won = all_at_once([lambda n=n: write(n) for n in range(16)])
        assert won.count(True) == 1
        assert {name: storage.read(folder / name) for name in storage.list(folder)} == dict.fromkeys(
            "abc", b"%d" % won.index(True)
        )
        assert list(storage.list(root / "models")) == ["1.0.0"]

    def test_what_nobody_relies_on_is_written_anew(self, root: Place) -> None:
        place, storage = root / "anchors" / "models" / "m.json", storage_of(root)
        seen: list[bytes] = []
        for new in (b"long content", None, b"short"):
            storage.update(place, lambda old, new=new: seen.append(old) or new)  # type: ignore[func-returns-value]
        assert seen == [b"", b"long content", b"long content"]
        assert storage.read(place) == b"short"

    def test_what_is_larger_than_any_file_of_a_registry_is_not_read(
        self, root: Place, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        create(root / "large", b"12345")
        for module in ("files", "objects"):
            monkeypatch.setattr(sys.modules[f"dspy_nb.core.storage.{module}"], "LARGEST_FILE", 4)
        with pytest.raises(Corrupt, match="more than the registry ever writes"):
            storage_of(root).read(root / "large")

    def test_sixteen_writers_of_one_log_lose_nothing_and_readers_see_it_grow(self, root: Place) -> None:
        folder, over = root / "models" / "m" / "log", threading.Event()
        seen: list[list[int]] = []

        each = 3 if isinstance(root, Path) else 1  # moto takes its time

        def write() -> list[int]:
            log = Log(folder, Sum, root)
            return [add(log, 1).number for _ in range(each)]

        def read() -> None:
            log = Log(folder, Sum, root)
            while not over.is_set():
                seen.append([*log.read().numbers])
                seen.append([*Log(folder, Sum, root).read().numbers])

        reader = threading.Thread(target=read)
        reader.start()
        numbers = all_at_once([write] * 16)
        over.set()
        reader.join()
        assert sorted(number for each in numbers for number in each) == list(range(1, 16 * each + 1))
        assert Log(folder, Sum, root).read().total == 16 * each
        assert all(found == list(range(1, len(found) + 1)) for found in seen)
        assert [len(found) for found in seen] == sorted(len(found) for found in seen)

    def test_the_whole_life_of_a_version_is_the_same_anywhere(self, url: str, tmp_path: Path) -> None:
        registry = Registry(url)
        registry.register(program("1"), "m")
        registry.register(program("2"), "m", notes="the second")
        registry.promote("m@1.0.0", "staging")
        registry.promote("m@1.0.0", "production", force=True, reason="test")
        live = registry.environment("eu", create=True)
        live.deploy("m@1.0.0")
        live.deploy("m@1.1.0")
        live.rollback()
        for found in (registry, Registry(url)):
            assert [(v.version, v.stage) for v in found.list("m")] == [
                ("1.1.0", "development"), ("1.0.0", "production"),
            ]  # fmt: skip
            assert found.models() == ["m"]
            assert found.environments() == ["eu"]
            assert found.environment("eu").current == found.get("m@1.0.0")
            assert found.load("m@production").demos == program("1").demos
            assert found.get("m").metadata["notes"] == "the second"
            assert [line.number for line in found.history("m")] == [1, 2, 3, 4]
            assert found.check() == []
        other = Registry(f"memory://{uuid.uuid4().hex}")
        assert other.import_version(registry.export_version("m@1.1.0", tmp_path)).ref == "m@1.1.0"

    def test_a_killed_writer_leaves_what_it_was_told_is_written_and_nothing_half(
        self, url: str, request: pytest.FixtureRequest, children: Children
    ) -> None:
        if url.startswith("memory:"):
            pytest.skip("what is in the memory of a process ends with it")
        environment = request.getfixturevalue("server").environment if url.startswith("s3:") else {}
        writers = [children(written, url, environment) for _ in range(3)]
        told = [next(writer) for writer in writers]
        for writer in writers:
            writer.kill()
            told += writer
        registry = Registry(url)
        versions = [version.version for version in registry.list("m")]
        assert len(set(told)) == len(told)
        assert set(told) <= set(versions)
        numbers = [line.number for line in registry.history("m")]
        assert numbers == list(range(1, len(numbers) + 1))
        assert [version.stage for version in registry.list("m")].count("production") <= 1
        assert [problem for problem in registry.check() if problem.kind != "orphan"] == []
        for version in versions:
            registry.load(f"m@{version}")
        assert registry.register(program(), "m").version not in versions


def written(url: str, environment: dict[str, str]) -> Iterator[str]:
    os.environ.update(environment)
    registry = Registry(url)
    while True:
        version = registry.register(program(), "m")
        registry.promote(version, "production", force=True, reason="test")
        yield version.version


class Lost:
    """A store whose next ``put`` fails: before it has done anything, or after, when its answer is lost."""

    def __init__(self, store: Any, *, done: bool) -> None:
        self.store, self.done, self.armed = store, done, True

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)

    def put(self, *arguments: Any, **options: Any) -> Any:
        from obstore.exceptions import GenericError

        if not self.armed:
            return self.store.put(*arguments, **options)
        self.armed = False
        if self.done:
            self.store.put(*arguments, **options)
        raise GenericError("Generic S3 error: the connection was closed\n\nDebug source: ...")


@pytest.mark.parametrize("done", [True, False])
def test_whether_a_request_that_failed_was_carried_out_is_looked_up(done: bool) -> None:
    root = open_root(f"memory://{uuid.uuid4().hex}")
    assert isinstance(root, Address)
    root.storage._store = Lost(root.storage._store, done=done)  # type: ignore[attr-defined]
    log = Log(root / "log", Sum)
    if done:
        assert add(log, 1).number == 1
    else:
        with pytest.raises(RegistryError, match=r"the connection was closed$"):
            add(log, 1)
        assert log.read().numbers == []
    assert add(log, 2).number == 1 + done


def test_what_was_torn_on_object_storage_is_damage() -> None:
    root = open_root(f"memory://{uuid.uuid4().hex}")
    add(Log(root / "log", Sum), 1)
    create(root / "log" / "000002.json", storage_of(root).read(root / "log" / "000001.json")[:40])
    with pytest.raises(Corrupt, match="torn or was edited"):
        Log(root / "log", Sum).read()


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("s3:/team/registry", r"is s3://bucket/prefix, got 's3:/team/registry'"),
        ("S3:team", r"is s3://bucket/prefix, got 'S3:team'"),
        (
            "ftp://host/registry",
            r"cannot be at ftp:// : use a folder, or one of s3://, gs://, az://, memory://",
        ),
        ("file:///tmp/registry", "cannot be at file://"),
        ("s3://", "is s3://bucket/prefix"),
        ("s3://key:secret@bucket/prefix", "without keys"),
        ("s3://bucket/../other", "is s3://bucket/prefix"),
        ("s3://bucket/a//b", "is s3://bucket/prefix"),
        ("s3://bucket/a?b=c", "is s3://bucket/prefix"),
        ("az://container/prefix", "cannot be opened"),
    ],
)
def test_a_url_that_is_none_of_a_registry_is_refused_in_one_line(
    url: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME", raising=False)
    with pytest.raises(InputError, match=words) as caught:
        Registry(url)
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_without_the_extra_a_url_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [*sys.modules]:
        if name.partition(".")[0] == "obstore":
            monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InputError, match=r"pip install 'dspy-nb\[object-store\]'"):
        Registry("s3://bucket/prefix")


def test_the_traffic_of_a_registry_on_object_storage_stays_on_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    registry = Registry("s3://bucket/team")
    assert registry.local == tmp_path / "dspy-nb/registries/s3%3A%2F%2Fbucket%2Fteam"
    assert local_folder(tmp_path) == tmp_path
