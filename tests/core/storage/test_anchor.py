"""What vouches for the end of a log: never ahead of it, never in the way, and not silenced by what is lost."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from dspy_nb.core.errors import Corrupt
from dspy_nb.core.registry.registry import Registry
from dspy_nb.core.storage.anchor import read_anchor
from tests.registry_samples import program, registry_of

pytestmark = pytest.mark.usefixtures("no_flush")


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    """Two models and two environments, with entries that leave no other trace than the log."""
    registry = registry_of(tmp_path / "registry", 2)
    registry.register(program(), "other")
    registry.promote("m@1.1.0", "staging")
    for name in ("e", "live"):
        registry.environment(name, create=True).deploy("m@1.0.0")
        registry.environment(name).deploy("m@1.1.0")
    assert registry.check() == []
    return registry


def found(registry: Registry) -> set[str]:
    return {f"{problem.kind} {problem.path.relative_to(registry.root)}" for problem in registry.check()}


def test_an_anchor_says_how_far_each_log_goes(registry: Registry) -> None:
    last = json.loads((registry.root / "models/m/log/000003.json").read_bytes())
    anchor = read_anchor(registry.root / "anchors/models/m.json")
    assert anchor is not None
    assert (anchor.number, anchor.checksum) == (3, last["checksum"])
    assert sorted(path.name for path in (registry.root / "anchors").rglob("*.json")) == [
        "e.json", "live.json", "m.json", "other.json",
    ]  # fmt: skip


LOSSES: dict[str, tuple[str, str]] = {
    "the last entry of a model": ("models/m/log/000003.json", "corrupt models/m/log"),
    "the last entry of an environment": ("environments/e/log/000002.json", "corrupt environments/e/log"),
    "the log of an environment": ("environments/live/log", "corrupt environments/live/log"),
    "an environment": ("environments/live", "corrupt anchors/environments/live.json"),
    "all environments": ("environments", "corrupt anchors/environments/e.json"),
    "the log of a model": ("models/other/log", "corrupt models/other/log"),
    "a model": ("models/other", "corrupt anchors/models/other.json"),
}


@pytest.mark.parametrize("what", LOSSES)
def test_whatever_is_lost_is_found(registry: Registry, what: str) -> None:
    lost, problem = LOSSES[what]
    path = registry.root / lost
    path.unlink() if path.is_file() else shutil.rmtree(path)
    assert problem in found(registry)
    assert all("\n" not in item.message for item in registry.check())


def test_a_log_without_anchors_that_lost_everything_is_found_by_the_link(registry: Registry) -> None:
    shutil.rmtree(registry.root / "anchors")
    assert registry.check() == []  # as older versions leave it
    shutil.rmtree(registry.root / "environments/e/log")
    assert found(registry) == {"corrupt environments/e/log"}


def test_writing_on_after_a_loss_does_not_hide_it(registry: Registry) -> None:
    (registry.root / "models/m/log/000003.json").unlink()
    for stage in ("staging", "deprecated", "archived"):
        registry.promote("m@1.0.0", stage)
        assert "corrupt models/m/log" in found(registry)
    (problem,) = registry.check()
    assert "entry 3 is not the one that was written there" in problem.message
    (registry.root / "anchors/models/m.json").unlink()  # as the message says
    assert registry.check() == []
    registry.promote("m@1.1.0", "staging")
    assert read_anchor(registry.root / "anchors/models/m.json") is not None


def test_a_torn_entry_of_which_somebody_was_told_is_damage(registry: Registry) -> None:
    path = registry.root / "models/m/log/000003.json"
    path.write_bytes(path.read_bytes()[:40])
    for call in (lambda: registry.get("m"), lambda: registry.promote("m@1.0.0", "staging")):
        with pytest.raises(Corrupt, match="torn or was edited: restore it"):
            call()
    assert found(registry) == {"corrupt models/m/log"}


@pytest.mark.parametrize("anchors", [True, False])
def test_a_torn_entry_of_which_nobody_was_told_is_in_nobodys_way(registry: Registry, anchors: bool) -> None:
    before = [(version.ref, version.stage) for version in registry.list()]
    path = registry.root / "models/m/log/000004.json"
    content = (registry.root / "models/m/log/000003.json").read_bytes()
    path.write_bytes(content[: len(content) // 2])  # as an older version left it on a disk without hard links
    os.utime(path, (1, 1))
    if not anchors:
        shutil.rmtree(registry.root / "anchors")
    fresh = Registry(registry.root)
    assert [(version.ref, version.stage) for version in fresh.list()] == before
    (problem,) = fresh.check()
    assert (problem.kind, problem.path) == ("orphan", path)
    assert fresh.register(program(), "m").version == "1.2.0"
    assert registry.get("m").version == "1.2.0"
    (problem,) = registry.check()
    assert problem.path.name.startswith(".tmp-")


def test_an_anchor_that_is_behind_or_not_there_is_no_finding(registry: Registry) -> None:
    anchor = registry.root / "anchors/models/m.json"
    before = anchor.read_bytes()
    registry.promote("m@1.1.0", "deprecated")
    newest = anchor.read_bytes()
    half = newest[:40] + before[40:]
    for content in (before, b"", bytes(40), half):  # a crash in between, a power cut
        anchor.write_bytes(content)
        assert registry.check() == []
    registry.promote("m@1.0.0", "staging")
    assert anchor.read_bytes() != newest
    assert registry.check() == []


@pytest.mark.parametrize(
    "content", [b"<<<<<<< HEAD\n{}", b"[]", b'{"number": 0, "checksum": ""}', b'{"number": true}']
)
def test_what_is_no_anchor_is_named_left_alone_and_can_be_removed(registry: Registry, content: bytes) -> None:
    anchor = registry.root / "anchors/models/m.json"
    anchor.write_bytes(content)
    with pytest.raises(Corrupt):
        read_anchor(anchor)
    assert found(registry) == {"corrupt anchors/models/m.json"}
    registry.promote("m@1.0.0", "staging")
    assert anchor.read_bytes() == content
    anchor.unlink()
    registry.promote("m@1.0.0", "development")
    assert read_anchor(anchor) is not None
    assert registry.check() == []


def test_strays_beside_the_anchors_are_named(registry: Registry) -> None:
    (registry.root / "anchors/models/.tmp-1").write_text("")
    (registry.root / "anchors/environments/notes.txt").write_text("")
    (registry.root / ".tmp-2").write_text("")
    assert found(registry) == {
        "orphan anchors/models/.tmp-1", "foreign anchors/environments/notes.txt", "orphan .tmp-2",
    }  # fmt: skip


@pytest.mark.parametrize("block", [
    lambda anchors: shutil.rmtree(anchors) or anchors.write_text(""),
    lambda anchors: shutil.rmtree(anchors) or anchors.symlink_to(anchors.parent.parent),
    lambda anchors: (anchors / "models/m.json").unlink() or (anchors / "models/m.json").mkdir(),
], ids=["a file", "a link", "a folder"])  # fmt: skip
def test_an_anchor_that_cannot_be_written_is_in_nobodys_way(
    registry: Registry, block: Callable[[Path], object]
) -> None:
    block(registry.root / "anchors")
    assert registry.promote("m@1.0.0", "staging").stage == "staging"
    assert Registry(registry.root).get("m@1.0.0").stage == "staging"
    assert not (registry.root.parent / "models").exists()
    registry.check()


def test_two_views_that_write_in_turn_leave_an_anchor_that_is_right(registry: Registry) -> None:
    views = [registry, Registry(registry.root)]
    for number in range(6):
        views[number % 2].promote("m@1.0.0", ("staging", "development")[number % 2])
    anchor = read_anchor(registry.root / "anchors/models/m.json")
    assert anchor is not None
    assert anchor.number == 9
    assert registry.check() == []


def test_a_copy_that_shares_its_files_keeps_its_own_anchor(registry: Registry) -> None:
    anchor, copy = registry.root / "anchors/models/m.json", registry.root.parent / "copy.json"
    copy.hardlink_to(anchor)  # as backups do
    before = copy.read_bytes()
    registry.promote("m@1.0.0", "staging")
    assert copy.read_bytes() == before != anchor.read_bytes()
    assert registry.check() == []


def test_an_anchor_of_another_layout_is_written_over_as_a_whole(registry: Registry) -> None:
    anchor = registry.root / "anchors/models/m.json"
    anchor.write_text(json.dumps(json.loads(anchor.read_bytes()), indent=8) + 100 * "\n")
    registry.promote("m@1.0.0", "staging")
    known = read_anchor(anchor)
    assert known is not None
    assert known.number == 4
    assert anchor.read_bytes() == known.to_bytes()


def test_an_anchor_that_a_crash_cut_short_says_nothing_until_the_next_entry(registry: Registry) -> None:
    path = registry.root / "anchors/models/m.json"
    whole = path.read_bytes()
    for length in range(len(whole) - 1):
        for rest in (b"", bytes(20)):
            path.write_bytes(whole[:length] + rest)
            assert read_anchor(path) is None
    path.write_bytes(whole[:40])
    assert registry.check() == []
    registry.promote("m@1.0.0", "staging")
    assert (read_anchor(path).number, registry.check()) == (4, [])
