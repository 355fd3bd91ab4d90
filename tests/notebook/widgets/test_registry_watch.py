"""Looking at a registry again and again: what is new, what is damaged, and what is left alone."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

import pytest

from dspy_nb.core.deployment.serving import LiveIn
from dspy_nb.core.registry.registry import Registry
from dspy_nb.core.storage.disk import DISK
from dspy_nb.core.storage.place import storage_of
from dspy_nb.notebook.widgets.registry_watch import Contents, RegistryWatch
from tests.registry_samples import program, registry_of


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    monkeypatch.setattr(os, "fsync", lambda _: None)
    made = Registry(tmp_path / "registry")
    for model in ("a", "b"):
        made.register(program(), model)
    made.promote("b", "staging")
    made.promote("b", "production", force=True, reason="a test")
    made.environment("production").deploy("b@1.0.0")
    return made


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that were read."""
    names: list[str] = []
    read = DISK.read

    def counted(path: str, **more: bool) -> bytes:
        names.append(str(path))
        return read(path, **more)

    monkeypatch.setattr(DISK, "read", counted)
    return names


def refs(found: Contents | None) -> list[str]:
    assert found is not None
    return [version.ref for version in found.versions]


def first_entry(registry: Registry, kind: str, name: str) -> Path:
    return registry.root / kind / name / "log" / "000001.json"


def tear(entry: Path) -> bytes:
    content = entry.read_bytes()
    entry.write_bytes(content[: len(content) // 2])
    return content


def test_a_look_finds_something_only_where_something_was_written(registry: Registry) -> None:
    watch = RegistryWatch(registry)
    found = watch.look()
    assert refs(found) == ["a@1.0.0", "b@1.0.0"]
    assert found is not None
    assert found.live == {"b@1.0.0": [LiveIn("production")]}
    assert found.damage == []
    assert watch.look() is None
    Registry(registry.root).promote("a", "staging")
    assert watch.look() is not None
    assert watch.look() is None


def test_a_torn_log_does_not_hide_the_other_models(registry: Registry) -> None:
    watch = RegistryWatch(registry)
    watch.look()
    entry = first_entry(registry, "models", "a")
    content = tear(entry)
    found = watch.look()
    assert refs(found) == ["b@1.0.0"]
    assert found is not None
    assert found.damage == [f"model a: {entry} is torn or was edited: restore it from git or a backup"]
    entry.write_bytes(content)
    found = watch.look()
    assert refs(found) == ["a@1.0.0", "b@1.0.0"]
    assert found is not None
    assert found.damage == []


def test_a_damaged_log_is_not_read_again_until_its_folder_changes(
    registry: Registry, reads: list[str]
) -> None:
    entry = first_entry(registry, "models", "a")
    tear(entry)
    watch = RegistryWatch(registry)
    watch.look()
    watch.look()
    reads.clear()
    for _ in range(5):
        assert watch.look() is None
    assert str(entry) not in reads
    entry.write_bytes(b"{}")
    watch.look()
    assert str(entry) in reads


def test_a_registry_on_object_storage_is_looked_at_again(no_flush: None) -> None:
    registry = registry_of(f"memory://{uuid.uuid4().hex}", 1)
    watch = RegistryWatch(Registry(str(registry.root)))
    assert refs(watch.look()) == ["m@1.0.0"]
    assert watch.look() is None
    registry.environment("eu", create=True).deploy("m@1.0.0")
    found = watch.look()
    assert found is not None
    assert found.live == {"m@1.0.0": [LiveIn("eu")]}
    log = registry.root / "models" / "m" / "log"
    storage_of(log).update(log / "000001.json", b"{}")
    for look in range(2):
        found = RegistryWatch(Registry(str(registry.root))).look() if look else watch.look()
        assert found is not None
        assert "torn or was edited" in found.damage[0]


def test_a_log_that_is_repaired_right_after_it_was_read_is_found_sound(registry: Registry) -> None:
    entry = first_entry(registry, "models", "a")
    content = tear(entry)
    watch = RegistryWatch(registry)
    assert refs(watch.look()) == ["b@1.0.0"]
    entry.write_bytes(content)
    assert refs(watch.look()) == ["a@1.0.0", "b@1.0.0"]


def test_damage_to_an_environment_is_told_as_well(registry: Registry) -> None:
    entry = first_entry(registry, "environments", "production")
    tear(entry)
    found = RegistryWatch(registry).look()
    assert refs(found) == ["a@1.0.0", "b@1.0.0"]
    assert found is not None
    assert found.live == {}
    assert found.damage == [
        f"environment production: {entry} is torn or was edited: restore it from git or a backup"
    ]


def test_what_is_live_is_told_although_its_model_is_damaged(registry: Registry) -> None:
    tear(first_entry(registry, "models", "b"))
    found = RegistryWatch(Registry(registry.root)).look()
    assert refs(found) == ["a@1.0.0"]
    assert found is not None
    assert found.live == {"b@1.0.0": [LiveIn("production")]}


def test_a_root_that_is_no_folder_is_damage_too(tmp_path: Path) -> None:
    (tmp_path / "registry").mkdir()
    (tmp_path / "registry" / "models").write_text("")
    watch = RegistryWatch(Registry(tmp_path / "registry"))
    found = watch.look()
    assert found is not None
    assert found.versions == []
    assert len(found.damage) == 1
    assert watch.look() is None


def test_folders_in_which_nothing_is_decided_yet_are_passed_over(registry: Registry) -> None:
    (registry.root / "models" / "c" / "log").mkdir(parents=True)
    (registry.root / "environments" / "staging" / "log").mkdir(parents=True)
    found = RegistryWatch(registry).look()
    assert refs(found) == ["a@1.0.0", "b@1.0.0"]
    assert found is not None
    assert found.damage == []
