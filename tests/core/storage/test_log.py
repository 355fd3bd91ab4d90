from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
import threading
import time
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from dspy_nb.core.errors import Corrupt, InputError, Refused, RegistryError
from dspy_nb.core.storage import disk
from dspy_nb.core.storage import files as durable
from dspy_nb.core.storage import log as log_module
from dspy_nb.core.storage.entry import Entry
from dspy_nb.core.storage.log import Log
from tests.children import Children
from tests.moments import HANG_S
from tests.properties import tries
from tests.registry_samples import stays_in_the_error_tree


class Sum:
    """The simplest state: it adds numbers, and refuses what is no number."""

    def __init__(self) -> None:
        self.total = 0
        self.numbers: list[int] = []
        self.added: list[int] = []

    def check(self, entry: Entry) -> None:
        if type(entry.body.get("add")) is not int:
            raise Corrupt("not a number")

    def apply(self, entry: Entry) -> None:
        self.total += entry.body["add"]
        self.numbers.append(entry.number)
        self.added.append(entry.body["add"])

    def kept(self) -> object:
        return self.total, self.numbers, self.added

    def take_up(self, kept: msgspec.Raw) -> None:
        self.total, self.numbers, self.added = msgspec.msgpack.decode(
            kept, type=tuple[int, list[int], list[int]]
        )


def open_log(folder: Path) -> Log[Sum]:
    return Log(folder, Sum)


def add(log: Log[Sum], number: int) -> Entry:
    entry = log.append(lambda _: {"add": number}, "add", by="me")
    assert entry is not None
    return entry


def reseal(path: Path, change: dict[str, object]) -> None:
    """Rewrite an entry with changed values and a checksum that is right."""
    values = {**json.loads(path.read_bytes()), **change}
    values.pop("checksum")
    sealed = json.dumps(values).encode().removesuffix(b"}")
    path.write_bytes(sealed + b',\n "checksum": "' + hashlib.sha256(sealed).hexdigest().encode() + b'"\n}\n')


def test_a_log_that_does_not_exist_is_empty_and_stays_unwritten(tmp_path: Path) -> None:
    log = open_log(tmp_path / "log")
    assert log.read().total == 0
    assert log.checksums == ()
    assert not (tmp_path / "log").exists()


def test_entries_are_numbered_chained_and_read_back_the_same(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    written = [add(log, number) for number in range(5)]
    assert [entry.number for entry in written] == [1, 2, 3, 4, 5]
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"00000{n}.json" for n in range(1, 6)]
    reader = open_log(tmp_path)
    assert reader.read().total == 10
    assert reader.checksums == tuple(entry.checksum for entry in written)
    assert json.loads((tmp_path / "000003.json").read_bytes())["previous"] == written[1].checksum


def test_a_reader_takes_in_what_another_writer_appended(tmp_path: Path) -> None:
    reader, writer = open_log(tmp_path), open_log(tmp_path)
    add(writer, 1)
    assert reader.read().total == 1
    add(writer, 2)
    assert reader.read().total == 3
    add(reader, 4)
    assert writer.read().total == 7


def test_deciding_nothing_writes_nothing(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    assert log.append(lambda _: None, "add") is None
    assert log.checksums == ()


def test_a_decision_that_raises_writes_nothing(tmp_path: Path) -> None:
    log = open_log(tmp_path)

    def refuse(_: Sum) -> dict[str, object]:
        raise Refused("no")

    with pytest.raises(Refused):
        log.append(refuse, "add")
    assert log.read().numbers == []


def test_an_entry_that_the_state_refuses_is_never_written(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    with pytest.raises(Corrupt):
        log.append(lambda _: {"add": "seven"}, "add")
    with pytest.raises(InputError, match="cannot be stored as JSON"):
        log.append(lambda _: {"add": 1, "what": {1, 2}}, "add")
    with pytest.raises(InputError, match="cannot be stored as JSON"):
        log.append(lambda _: {"add": 1, "what": float("nan")}, "add")
    assert list(tmp_path.iterdir()) == []


def test_whoever_loses_the_race_decides_again_on_the_new_state(tmp_path: Path) -> None:
    slow, fast = open_log(tmp_path), open_log(tmp_path)
    seen: list[int] = []

    def decide(state: Sum) -> dict[str, int]:
        seen.append(state.total)
        if len(seen) == 1:
            add(fast, 100)
        return {"add": state.total + 1}

    entry = slow.append(decide, "add")
    assert entry is not None
    assert (entry.number, seen) == (2, [0, 100])
    assert slow.read().total == 201


def test_threads_that_append_through_one_log_lose_nothing(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    threads = [threading.Thread(target=lambda: [add(log, 1) for _ in range(10)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert open_log(tmp_path).read().numbers == list(range(1, 41))


def append(folder: Path) -> None:
    log = open_log(folder)
    for _ in range(25):
        add(log, 1)


def test_processes_that_append_at_once_lose_nothing(tmp_path: Path, children: Children) -> None:
    writers = [children(append, tmp_path / "log") for _ in range(4)]
    assert [writer.status for writer in writers] == [0] * 4
    assert open_log(tmp_path / "log").read().numbers == list(range(1, 101))
    assert not [path for path in (tmp_path / "log").iterdir() if path.name.startswith(".tmp-")]


def test_every_flipped_byte_of_an_entry_is_found(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    add(log, 1)
    path = tmp_path / "000001.json"
    content = path.read_bytes()
    with path.open("r+b", buffering=0) as file:
        for position, byte in enumerate(content):
            os.pwrite(file.fileno(), bytes([byte ^ 1 << position % 8]), position)
            os.utime(path, (1, 1))  # long complete: nobody waits for the rest of it
            with pytest.raises(Corrupt):
                open_log(tmp_path).read()
            os.pwrite(file.fileno(), bytes([byte]), position)


def tear(path: Path, length: int, fill: bytes = b"") -> None:
    """Leave the beginning of an entry, as a process did that was killed long ago."""
    path.write_bytes(path.read_bytes()[:length] + fill)
    os.utime(path, (1, 1))


LENGTHS = [0, 1, 2, 20, 21, 40, -1, -2, -3, -4, -10, -68, -69, -70, -75, -80, -84, -85, -90]


@pytest.mark.parametrize("fill", [b"", bytes(7)], ids=["cut", "zeros"])
@pytest.mark.parametrize("length", LENGTHS)
def test_a_torn_last_entry_is_absent_and_the_next_one_takes_its_place(
    tmp_path: Path, length: int, fill: bytes
) -> None:
    log = open_log(tmp_path)
    add(log, 1)
    add(log, 2)
    tear(tmp_path / "000002.json", length, fill)
    reader = open_log(tmp_path)
    assert (reader.read().total, log.read().total) == (1, 1)
    assert reader.torn == str(tmp_path / "000002.json")
    assert add(reader, 30).number == 2
    assert (reader.torn, log.read().total, open_log(tmp_path).read().total) == (None, 31, 31)
    (aside,) = (path for path in tmp_path.iterdir() if path.name.startswith(".tmp-"))
    assert aside.stat().st_mtime == 1


def test_a_torn_entry_with_others_after_it_is_damage(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    for number in range(3):
        add(log, number)
    tear(tmp_path / "000002.json", 40)
    for call in (open_log(tmp_path).read, lambda: add(open_log(tmp_path), 1)):
        with pytest.raises(Corrupt, match="torn or was edited"):
            call()


def test_a_torn_entry_that_nobody_can_lock_is_left_to_a_person(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(_: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    add(open_log(tmp_path), 1)
    tear(tmp_path / "000001.json", 40)
    monkeypatch.setattr(disk, "_lock", no_locks)
    with pytest.raises(Corrupt, match=r"No locks available.*: remove it"):
        add(open_log(tmp_path), 1)


def test_an_entry_that_still_grows_is_not_moved_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add(open_log(tmp_path), 1)
    path = tmp_path / "000001.json"
    content = path.read_bytes()
    path.write_bytes(content[:40])
    waited: list[float] = []

    def wait(seconds: float) -> None:
        waited.append(seconds)
        path.write_bytes(content if len(waited) == 9 else content[: 40 + len(waited)])

    monkeypatch.setattr(disk, "_TORN_AFTER_S", HANG_S)
    monkeypatch.setattr(time, "sleep", wait)
    assert open_log(tmp_path).read().total == 0  # readers do not wait: nobody was told of it
    assert add(open_log(tmp_path), 2).number == 2
    assert open_log(tmp_path).read().total == 3
    assert len(waited) >= 9


def test_of_two_who_move_a_torn_entry_away_the_slower_one_leaves_what_took_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(open_log(tmp_path), 1)
    tear(tmp_path / "000001.json", 40)
    real = disk._lock

    def late(descriptor: int) -> None:
        monkeypatch.setattr(disk, "_lock", real)
        assert add(open_log(tmp_path), 10).number == 1
        real(descriptor)

    monkeypatch.setattr(disk, "_lock", late)
    assert add(open_log(tmp_path), 20).number == 2
    assert open_log(tmp_path).read().total == 30


def test_a_missing_entry_is_found(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    for number in range(4):
        add(log, number)
    (tmp_path / "000002.json").unlink()
    with pytest.raises(Corrupt, match=r"000002\.json is missing"):
        open_log(tmp_path).read()


def test_a_renamed_entry_is_found(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    add(log, 1)
    add(log, 2)
    shutil.copy(tmp_path / "000001.json", tmp_path / "000003.json")
    with pytest.raises(Corrupt, match="renamed or copied"):
        log.read()


def test_two_mixed_histories_are_found(tmp_path: Path) -> None:
    for name in ("a", "b"):
        log = open_log(tmp_path / name)
        add(log, ord(name))
        add(log, 2)
    shutil.copy(tmp_path / "a" / "000001.json", tmp_path / "b" / "000001.json")
    with pytest.raises(Corrupt, match="two histories were mixed"):
        open_log(tmp_path / "b").read()


def test_an_entry_of_a_newer_dspy_nb_asks_for_an_upgrade(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    add(log, 1)
    reseal(tmp_path / "000001.json", {"schema_version": 2})
    with pytest.raises(Refused, match="upgrade"):
        open_log(tmp_path).read()


def test_another_history_in_the_same_folder_is_read_afresh(tmp_path: Path) -> None:
    reader = open_log(tmp_path / "log")
    for name, numbers in (("a", [1, 2, 3]), ("b", [10, 20])):
        log = open_log(tmp_path / name)
        for number in numbers:
            add(log, number)
    for name, total in (("a", 6), ("b", 30), ("a", 6)):  # as git does when it checks out a branch
        shutil.rmtree(tmp_path / "log", ignore_errors=True)
        shutil.copytree(tmp_path / name, tmp_path / "log")
        assert reader.read().total == total
    shutil.rmtree(tmp_path / "log")
    assert reader.read().total == 0


def test_files_that_are_no_entries_are_ignored(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    add(log, 1)
    for name in (".tmp-123", "000002.json.orig", "0000002.json", "000000.json", "notes.txt", "2.json"):
        (tmp_path / name).write_text("foreign")
    assert open_log(tmp_path).read().total == 1
    assert add(log, 2).number == 2


def test_a_link_in_the_place_of_an_entry_is_refused(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    add(log, 1)
    (tmp_path / "000002.json").symlink_to(tmp_path / "000001.json")
    with pytest.raises(Corrupt, match="link"):
        log.read()


def test_file_systems_without_hard_links_work_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "no links here")

    with_links = open_log(tmp_path)
    add(with_links, 1)
    with monkeypatch.context() as patch:
        patch.setattr(os, "link", no_links)
        append_from_threads(tmp_path)
    assert add(with_links, 1).number == 32
    assert open_log(tmp_path).read().numbers == list(range(1, 33))
    assert {path.is_dir() for path in tmp_path.iterdir()} == {True, False}
    assert not list(tmp_path.glob(".tmp-*"))


def append_from_threads(tmp_path: Path) -> None:
    a, b = open_log(tmp_path), open_log(tmp_path)
    threads = [threading.Thread(target=lambda log=log: [add(log, 1) for _ in range(15)]) for log in (a, b)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@pytest.mark.parametrize("damage", ["edited", "cut"])
def test_an_entry_that_is_a_folder_is_verified_like_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError(errno.EPERM, "no")))
    add(open_log(tmp_path), 1)
    inside = tmp_path / "000001.json/entry.json"
    inside.write_bytes(inside.read_bytes().replace(b'"add": 1', b'"add": 2') if damage == "edited" else b"{")
    with pytest.raises(Corrupt, match="torn or was edited"):
        open_log(tmp_path).read()


@pytest.mark.parametrize("call", ["open", "write", "fsync", "link"])
@pytest.mark.parametrize(
    ("number", "words"),
    [(errno.ENOSPC, "the disk is full"), (errno.EROFS, "read-only"), (errno.EACCES, "permission denied")],
)
def test_a_write_that_fails_says_why_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int, words: str
) -> None:
    log = open_log(tmp_path)
    add(log, 1)
    real = getattr(os, call)

    def fail(*args: object, **kwargs: object) -> object:
        if call == "open" and not (isinstance(args[1], int) and args[1] & os.O_CREAT):
            return real(*args, **kwargs)
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with pytest.raises(RegistryError, match=words):
            add(log, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["000001.json"]
    assert add(log, 2).number == 2


def test_a_short_write_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(durable.os, "write", lambda descriptor, data: real(descriptor, bytes(data[:7])))
    assert add(open_log(tmp_path), 1).number == 1
    assert open_log(tmp_path).read().total == 1


def test_a_log_in_a_folder_that_is_a_file_gives_one_line(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("")
    with pytest.raises(RegistryError, match="cannot read"):
        open_log(tmp_path / "log").read()
    with pytest.raises(RegistryError):
        add(open_log(tmp_path / "log"), 1)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(
    change=st.dictionaries(st.sampled_from(["number", "previous", "action", "at", "by", "add"]), json_values)
)
def test_entries_with_a_right_checksum_and_wrong_values_stay_in_the_error_tree(
    change: dict[str, object],
) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        add(open_log(folder), 1)
        reseal(folder / "000001.json", change)
        stays_in_the_error_tree(open_log(folder).read)


@given(content=st.binary(max_size=200))
def test_any_bytes_as_an_entry_stay_in_the_error_tree(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "000001.json").write_bytes(content)
        log = open_log(folder)
        stays_in_the_error_tree(log.read)
        assert log.checksums == ()


class LogMachine(RuleBasedStateMachine):
    """Several processes (one Log each) on one folder, with crashes, restarts and lost caches."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.logs = [open_log(self.folder / "log") for _ in range(3)]
        self.model: list[int] = []

    def teardown(self) -> None:
        shutil.rmtree(self.folder)

    @rule(who=st.integers(0, 2), number=st.integers(-5, 5))
    def append(self, who: int, number: int) -> None:
        entry = add(self.logs[who], number)
        self.model.append(number)
        assert entry.number == len(self.model)

    @rule(who=st.integers(0, 2), other=st.integers(0, 2), number=st.integers(-5, 5))
    def append_while_another_is_deciding(self, who: int, other: int, number: int) -> None:
        raced = False

        def decide(state: Sum) -> dict[str, int]:
            nonlocal raced
            if not raced:
                raced = True
                add(open_log(self.folder / "log") if other == who else self.logs[other], 1)
                self.model.append(1)
            return {"add": number}

        entry = self.logs[who].append(decide, "add")
        self.model.append(number)
        assert entry is not None
        assert entry.number == len(self.model)

    @rule(who=st.integers(0, 2))
    def refuse(self, who: int) -> None:
        with pytest.raises(Corrupt):
            self.logs[who].append(lambda _: {"add": None}, "add")

    @rule(content=st.binary(max_size=20))
    def crash_in_the_middle_of_a_write(self, content: bytes) -> None:
        (self.folder / "log").mkdir(exist_ok=True)
        (self.folder / "log" / f".tmp-{hashlib.sha256(content).hexdigest()}").write_bytes(content)

    @rule(who=st.integers(0, 2))
    def restart(self, who: int) -> None:
        self.logs[who] = open_log(self.folder / "log")

    @rule(who=st.integers(0, 2))
    def read(self, who: int) -> None:
        state = self.logs[who].read()
        assert state.total == sum(self.model)
        assert state.numbers == list(range(1, len(self.model) + 1))

    @invariant()
    def the_disk_holds_the_whole_history(self) -> None:
        fresh = open_log(self.folder / "log")
        fresh.read()
        assert fresh.state.added == self.model


TestLogMachine = LogMachine.TestCase
TestLogMachine.settings = tries(0.25, stateful_step_count=15)


def test_patience_has_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_module, "_PATIENCE_S", 0.0)
    log = open_log(tmp_path)
    monkeypatch.setattr(disk.DISK, "create", lambda *_: False)
    with pytest.raises(RegistryError, match="try again"):
        add(log, 1)
