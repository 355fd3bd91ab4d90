"""The entries of a log in one file: less to read, and no second truth."""

from __future__ import annotations

import shutil
import subprocess
import uuid
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from dspy_nb.core.errors import Corrupt
from dspy_nb.core.registry.registry import Registry
from dspy_nb.core.storage import log as log_module
from dspy_nb.core.storage import snapshot as snapshot_module
from dspy_nb.core.storage.log import Log
from dspy_nb.core.storage.objects import open_root
from dspy_nb.core.storage.place import Place, storage_of
from dspy_nb.core.storage.snapshot import read_snapshot, snapshot_of
from tests.core.storage.test_log import Sum, add
from tests.objects import s3_server
from tests.registry_samples import program

pytestmark = pytest.mark.usefixtures("no_flush")


@pytest.fixture(params=["disk", "memory"])
def root(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """Where a registry may be; a snapshot is written after each eighth entry."""
    monkeypatch.setattr(snapshot_module, "_ON_DISK", (8, 256))
    monkeypatch.setattr(snapshot_module, "_ELSEWHERE", (8, 256))
    if request.param == "disk":
        return open_root(tmp_path / "registry")
    return open_root(f"memory://{uuid.uuid4().hex}")


def open_log(root: Place) -> Log[Sum]:
    return Log(root / "models" / "m" / "log", Sum, root)


def filled(root: Place, n: int, first: int = 0) -> Log[Sum]:
    log = open_log(root)
    for number in range(first, first + n):
        add(log, number)
    return log


def numbers(root: Place) -> list[int]:
    log = open_log(root)
    return log.read().added


def replace(place: Place, content: bytes) -> None:
    """Write a file anew, as another file: what writes in place may leave its time as it was for a moment."""
    if isinstance(place, Path):
        place.unlink(missing_ok=True)
    storage_of(place).update(place, content)


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


def files(first: int, last: int) -> list[str]:
    return [f"{number:06d}.json" for number in range(first, last + 1)]


def test_a_log_opened_anew_reads_its_snapshot_and_what_came_after(
    root: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = filled(root, 20)
    assert reads(root, monkeypatch) == ["m.snapshot", *files(16, 20)]
    add(log, 20)
    assert numbers(root) == list(range(21))
    for number in range(21, 30):
        add(log, number)
    saved = read_snapshot(snapshot_of(root, log.folder))
    assert saved is not None
    assert len(saved.checksums) == 24
    assert reads(root, monkeypatch) == ["m.snapshot", *files(24, 30)]
    fresh = open_log(root)
    fresh.read()
    assert fresh.checksums == log.checksums
    assert add(fresh, 30).number == 31
    assert log.read().total == fresh.read().total == sum(range(31))


def test_who_reads_a_log_without_a_snapshot_leaves_one(root: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(log_module, "write_snapshot", lambda *_: None)
        filled(root, 20)
    assert len(reads(root, monkeypatch)) == 21  # as one that an older version wrote
    assert reads(root, monkeypatch) == ["m.snapshot", "000020.json"]


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flip(content: bytes) -> bytes:
    return content[:-300] + bytes([content[-300] ^ 1]) + content[-299:]


def sealed(rest: bytes) -> bytes:
    return snapshot_module.hashlib.sha256(rest).hexdigest().encode() + b"\n" + rest


def of_another_version(content: bytes) -> bytes:
    values = msgspec.msgpack.decode(content.partition(b"\n")[2])
    return sealed(msgspec.msgpack.encode(["2 of schema 1", *values[1:]]))


@pytest.mark.parametrize(
    "damage",
    [
        cut, flip, of_another_version, lambda _: b"", lambda _: b"{}", lambda _: sealed(b""),
        lambda _: sealed(msgspec.msgpack.encode(["1 of schema 1", 7])),
    ],
)  # fmt: skip
def test_a_snapshot_that_is_torn_or_of_another_version_changes_nothing_and_is_written_anew(
    root: Place, damage: Callable[[bytes], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    log = filled(root, 16)
    place = snapshot_of(root, log.folder)
    replace(place, damage(storage_of(root).read(place)))
    assert reads(root, monkeypatch) == ["m.snapshot", *files(1, 16)]
    assert reads(root, monkeypatch) == ["m.snapshot", "000016.json"]
    assert numbers(root) == list(range(16))
    assert add(open_log(root), 16).number == 17


def test_a_snapshot_of_another_history_changes_nothing(root: Place, tmp_path: Path) -> None:
    content = storage_of(root).read(snapshot_of(root, filled(root, 16).folder))
    other = tmp_path / "other" if isinstance(root, Path) else open_root(f"memory://{uuid.uuid4().hex}")
    replace(snapshot_of(other, filled(other, 20, first=100).folder), content)
    assert numbers(other) == list(range(100, 120))


def test_a_snapshot_whose_signatures_fit_another_history_by_chance_is_thrown_away(root: Place) -> None:
    log = filled(root, 20)
    place = snapshot_of(root, log.folder)
    saved = read_snapshot(place)
    assert saved is not None
    other = filled(open_root(f"memory://{uuid.uuid4().hex}"), 16, first=100)
    snapshot_module.write_snapshot(place, saved.signatures, other.checksums, other.state.kept())
    assert numbers(root) == list(range(20))
    snapshot_module.write_snapshot(place, saved.signatures, saved.checksums, {"another": "state"})
    assert numbers(root) == list(range(20))


def test_a_stale_snapshot_changes_nothing(root: Place) -> None:
    log = filled(root, 8)
    place = snapshot_of(root, log.folder)
    old = storage_of(root).read(place)
    for number in range(8, 40):
        add(log, number)
    replace(place, old)
    assert numbers(root) == list(range(40))


def test_damage_to_a_log_is_found_beside_its_snapshot(root: Place) -> None:
    log, storage = filled(root, 16), storage_of(root)
    place = log.folder / "000005.json"
    content = storage.read(place)
    replace(place, content.replace(b'"add": 4', b'"add": 5'))
    with pytest.raises(Corrupt, match=r"000005\.json is torn or was edited"):
        open_log(root).read()
    if isinstance(place, Path):
        place.unlink()
    else:
        storage._store.delete(storage._key(place))  # type: ignore[attr-defined]
    with pytest.raises(Corrupt, match=r"000005\.json is missing"):
        open_log(root).read()
    replace(place, content)
    assert numbers(root) == list(range(16))


def test_a_snapshot_that_cannot_be_written_is_in_nobodys_way(
    root: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, update = storage_of(root), storage_of(root).update

    def refuse(place: Place, new: bytes) -> None:
        if str(place).endswith(".snapshot"):
            raise OSError(13, "Permission denied")
        update(place, new)

    monkeypatch.setattr(storage, "update", refuse)
    filled(root, 20)
    assert numbers(root) == list(range(20))


def test_check_reads_every_entry_itself(root: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Registry(str(root))
    for _ in range(9):
        registry.register(program(), "m")
    storage, read = storage_of(registry.root), storage_of(registry.root).read
    opened: list[str] = []
    monkeypatch.setattr(
        storage, "read", lambda place, **more: opened.append(str(place)) or read(place, **more)
    )
    assert storage.exists(snapshot_of(root, root / "models" / "m" / "log"))
    assert registry.check() == []
    assert not [path for path in opened if path.endswith(".snapshot")]
    assert len({path for path in opened if "/log/" in path}) == 9


def test_a_registry_says_the_same_with_and_without_a_snapshot(
    root: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = Registry(str(root))
    for number in range(9):
        registry.register(program(str(number)), "m", notes=f"{number}")
    registry.attach("m@1.2.0", {"kind": "evaluation", "score": 0.5, "interval": [0.25, 0.75], "n": 8})
    registry.promote("m@1.1.0", "production", force=True, reason="test")
    registry.archive("m", keep_latest=5)
    for ref in ("m@1.7.0", "m@1.8.0", "m@1.1.0", "m@1.8.0") * 2:
        registry.environment("e", create=True).deploy(ref)
    monkeypatch.setattr(snapshot_module, "_ON_DISK", (1, 1000))
    monkeypatch.setattr(snapshot_module, "_ELSEWHERE", (1, 1000))
    Registry(str(root)).list()
    Registry(str(root)).environment("e").history()
    opened = Registry(str(root))
    for owner in ("models/m", "environments/e"):
        assert read_snapshot(snapshot_of(root, root / owner / "log")) is not None
    assert opened.list() == registry.list()
    assert opened.history("m") == registry.history("m")
    assert opened.environment("e").history() == registry.environment("e").history()
    assert opened.check() == []


def test_git_leaves_snapshots_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot_module, "_ON_DISK", (8, 256))
    filled(tmp_path, 16)
    assert (tmp_path / "snapshots/models/m.snapshot").exists()
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    said = subprocess.run(
        ["git", "status", "--porcelain", "-uall"], cwd=tmp_path, check=True, capture_output=True, text=True
    )
    assert "snapshots" not in said.stdout
    assert "anchors/models/m.json" in said.stdout


def test_a_copied_folder_does_not_believe_the_snapshot_that_came_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot_module, "_ON_DISK", (8, 256))
    filled(tmp_path / "a", 16)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert reads(tmp_path / "b", monkeypatch) == ["m.snapshot", *files(1, 16)]
    assert reads(tmp_path / "b", monkeypatch) == ["m.snapshot", "000016.json"]


@pytest.mark.slow
@pytest.mark.timeout(900)
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
