"""The entries of a log in one file: less to read, and no second truth."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from dspy_nb.core.errors import Corrupt
from dspy_nb.core.registry.registry import Registry
from dspy_nb.core.storage import log as log_module
from dspy_nb.core.storage.bundle import bundle_of, read_bundle
from dspy_nb.core.storage.log import Log
from dspy_nb.core.storage.objects import open_root
from dspy_nb.core.storage.place import Place, storage_of
from tests.core.storage.test_log import Sum, add
from tests.objects import s3_server
from tests.registry_samples import program

pytestmark = pytest.mark.usefixtures("no_flush")


@pytest.fixture
def root() -> Place:
    return open_root(f"memory://{uuid.uuid4().hex}")


def open_log(root: Place) -> Log[Sum]:
    return Log(root / "models" / "m" / "log", Sum, root)


def filled(root: Place, n: int) -> Log[Sum]:
    log = open_log(root)
    for number in range(n):
        add(log, number)
    return log


def numbers(root: Place) -> list[int]:
    log = open_log(root)
    log.read()
    return [entry.body["add"] for entry in log.entries]


def reads(root: Place, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the names of the files that a log reads which is opened anew."""
    storage, read = storage_of(root), storage_of(root).read
    found: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr(
            storage, "read", lambda place, **more: found.append(Path(str(place)).name) or read(place)
        )
        open_log(root).read()
    return found


def test_a_log_opened_anew_reads_its_bundle_and_what_came_after(
    root: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = filled(root, 20)
    assert reads(root, monkeypatch) == ["m.bundle", *(f"{number:06d}.json" for number in range(17, 21))]
    add(log, 20)
    assert numbers(root) == list(range(21))
    for number in range(21, 30):
        add(log, number)
    assert len(reads(root, monkeypatch)) <= 8
    assert len(read_bundle(bundle_of(root, log.folder))) == 24
    assert numbers(root) == list(range(30))


def test_who_reads_a_log_without_a_bundle_writes_one(root: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(log_module, "write_bundle", lambda *_: None)
        filled(root, 20)
    assert len(reads(root, monkeypatch)) == 21  # as one that an older version wrote
    assert reads(root, monkeypatch) == ["m.bundle"]


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flip(content: bytes) -> bytes:
    return content[:-300] + bytes([content[-300] ^ 1]) + content[-299:]


@pytest.mark.parametrize(
    "damage", [cut, flip, lambda content: b"", lambda content: b"{}", lambda content: b"x\n[]\n"]
)
def test_a_damaged_bundle_changes_nothing(
    root: Place, damage: Callable[[bytes], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    log = filled(root, 16)
    storage_of(root).update(bundle_of(root, log.folder), damage)
    assert len(reads(root, monkeypatch)) == 17
    assert numbers(root) == list(range(16))
    assert add(open_log(root), 16).number == 17


def test_a_bundle_of_another_history_changes_nothing(root: Place) -> None:
    log = filled(root, 16)
    bundle = storage_of(root).read(bundle_of(root, log.folder))
    other = open_root(f"memory://{uuid.uuid4().hex}")
    there = open_log(other)
    for number in range(100, 120):
        add(there, number)
    storage_of(other).update(bundle_of(other, there.folder), bundle)
    assert numbers(other) == list(range(100, 120))


def test_a_stale_bundle_changes_nothing(root: Place) -> None:
    log = filled(root, 8)
    old = storage_of(root).read(bundle_of(root, log.folder))
    for number in range(8, 40):
        add(log, number)
    storage_of(root).update(bundle_of(root, log.folder), old)
    assert numbers(root) == list(range(40))


def test_damage_to_a_log_is_found_beside_its_bundle(root: Place) -> None:
    log, storage = filled(root, 16), storage_of(root)
    place = log.folder / "000005.json"
    content = storage.read(place)
    storage.update(place, content.replace(b'"add": 4', b'"add": 5'))
    with pytest.raises(Corrupt, match=r"000005\.json is torn or was edited"):
        open_log(root).read()
    storage._store.delete(storage._key(place))  # type: ignore[attr-defined]
    with pytest.raises(Corrupt, match=r"000005\.json is missing"):
        open_log(root).read()
    storage.update(place, content)
    assert numbers(root) == list(range(16))


def test_a_disk_has_no_bundles(tmp_path: Path) -> None:
    filled(tmp_path, 20)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["anchors", "models"]


def test_a_bundle_that_cannot_be_written_is_in_nobodys_way(
    root: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, update = storage_of(root), storage_of(root).update

    def refuse(place: Place, new: object) -> None:
        if str(place).endswith(".bundle"):
            raise OSError(13, "Permission denied")
        update(place, new)  # type: ignore[arg-type]

    monkeypatch.setattr(storage, "update", refuse)
    filled(root, 20)
    assert numbers(root) == list(range(20))


def test_check_reads_every_entry_itself(root: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Registry(str(root))
    for _ in range(9):
        registry.register(program(), "m")
    storage, read = registry.root.storage, registry.root.storage.read  # type: ignore[union-attr]
    opened: list[str] = []
    monkeypatch.setattr(
        storage, "read", lambda place, **more: opened.append(str(place)) or read(place, **more)
    )
    assert registry.check() == []
    assert not [path for path in opened if path.endswith(".bundle")]
    assert len({path for path in opened if "/log/" in path}) == 9


@pytest.mark.slow
def test_a_thousand_versions_on_an_s3_server_are_listed_with_twenty_requests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    list_with_few_requests(tmp_path, monkeypatch, versions=1000, requests=20)


@pytest.mark.heavy
def test_versions_on_an_s3_server_are_listed_with_few_requests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    list_with_few_requests(tmp_path, monkeypatch, versions=30, requests=12)


def list_with_few_requests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, versions: int, requests: int
) -> None:
    here = Registry(tmp_path / "registry")
    for _ in range(versions):
        here.register(program(), "m", bump="patch")
    with s3_server() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        here.copy_to("s3://bucket/prefix")
        server.requests.clear()
        assert len(Registry("s3://bucket/prefix").list("m")) == versions
        assert len(server.requests) <= requests
        there = Registry("s3://bucket/prefix")
        for _ in range(12):
            there.promote("m@1.0.0", "staging")
            there.promote("m@1.0.0", "development")
            server.requests.clear()
            assert len(Registry("s3://bucket/prefix").list()) == versions
            assert len(server.requests) <= 20
