"""A registry copied whole: to a folder, to object storage and back, half-way, again, and over another one."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from dspy_nb.cli.main import main
from dspy_nb.core.errors import Conflict, Corrupt, InputError, NotFound, RegistryError
from dspy_nb.core.registry.registry import Registry
from dspy_nb.core.storage.disk import DISK
from tests.registry_samples import program, registry_of, tree

pytestmark = pytest.mark.usefixtures("no_flush")


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    """Two models, an environment and a configuration."""
    registry = registry_of(tmp_path / "registry", 3)
    registry.register(program("x"), "other", notes="by hand")
    registry.promote("m@1.0.0", "production", force=True, reason="test")
    registry.environment("production").deploy("m@1.0.0")
    registry.environment("eu", create=True).deploy("m@1.1.0")
    (registry.root / "config.toml").write_text('[environments.eu]\nstages = ["development"]\n')  # type: ignore[union-attr]
    return registry


def same(a: Registry, b: Registry) -> bool:
    """Whether two registries say the same of everything that was ever done in them."""
    told = [
        (
            [(version.ref, version.stage, version.files) for version in found.list()],
            [found.history(name) for name in found.models()],
            [(name, found.environment(name).history()) for name in found.environments()],
            [found.environment(name).restrictions for name in found.environments()],
        )
        for found in (a, b)
    ]
    return told[0] == told[1] and b.check() == []


def test_a_copy_has_every_history_and_the_way_back_gives_the_same_files(
    registry: Registry, tmp_path: Path
) -> None:
    there = Registry(f"memory://{uuid.uuid4().hex}")
    copied = registry.copy_to(there)
    assert copied.to_dict() == {"models": 2, "versions": 4, "environments": 2, "entries": 7, "new": 7}
    assert same(registry, there)
    assert there.load("other").demos == registry.load("other").demos
    there.copy_to(tmp_path / "back")
    assert tree(tmp_path / "back") == tree(registry.root)  # type: ignore[arg-type]


def test_made_again_a_copy_takes_what_is_new(registry: Registry, tmp_path: Path) -> None:
    there = Registry(tmp_path / "copy")
    registry.copy_to(there)
    assert registry.copy_to(there).new == 0
    registry.register(program("new"), "m")
    registry.environment("eu").deploy("m@1.3.0")
    assert registry.copy_to(there).new == 2
    assert same(registry, there)


@pytest.mark.parametrize("fails_at", range(0, 24, 3))
def test_a_copy_that_stopped_half_way_is_sound_and_gone_on_with(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails_at: int
) -> None:
    there, calls = Registry(tmp_path / "copy"), iter(range(1000))

    def fail(real: Callable[..., bool], *arguments: object, **more: object) -> bool:
        if next(calls) >= fails_at:
            raise OSError(5, "Input/output error")
        return real(*arguments, **more)

    with monkeypatch.context() as patch:
        for name in ("create", "add_folder"):
            patch.setattr(DISK, name, partial(fail, getattr(DISK, name)))
        if fails_at < 11:
            with pytest.raises(RegistryError, match="Input/output error"):
                registry.copy_to(there)
    assert {problem.kind for problem in Registry(there.root).check()} <= {"orphan"}  # type: ignore[arg-type]
    registry.copy_to(there)
    assert same(registry, there)


def test_a_copy_never_goes_over_another_history(registry: Registry, tmp_path: Path) -> None:
    there = registry_of(tmp_path / "copy", 1)
    before = tree(there.root)  # type: ignore[arg-type]
    with pytest.raises(Conflict, match=r"another (history|one)"):
        registry.copy_to(there)
    assert [version.ref for version in there.list()] == ["m@1.0.0"]
    assert set(before) <= set(tree(there.root))  # type: ignore[arg-type]
    (there.root / "config.toml").write_text("# another")  # type: ignore[union-attr]
    with pytest.raises(Conflict, match="make them alike first"):
        registry.copy_to(there)


def test_a_damaged_registry_is_not_copied(registry: Registry, tmp_path: Path) -> None:
    (registry.root / "models/m/1.0.0/model.json").write_text("{}")  # type: ignore[union-attr]
    with pytest.raises(Corrupt, match=r"was changed after it was registered"):
        registry.copy_to(tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_a_copy_is_somewhere_else_and_of_something(registry: Registry, tmp_path: Path) -> None:
    for place in (registry.root, registry.root / "models", tmp_path):
        with pytest.raises(InputError, match="no part of it"):
            registry.copy_to(place)  # type: ignore[arg-type]
    with pytest.raises(NotFound, match="nothing to copy"):
        Registry(f"memory://{uuid.uuid4().hex}").copy_to(tmp_path / "copy")


def test_the_command_says_what_it_copied(
    registry: Registry, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["copy", str(registry.root), str(tmp_path / "copy")]) == 0
    said = capsys.readouterr().out
    assert "2 models, 4 versions, 2 environments, 7 log entries, 7 of them new" in said
    assert main(["copy", str(registry.root), str(tmp_path / "copy"), "--json"]) == 0
    assert '"new": 0' in capsys.readouterr().out
    assert main(["copy", str(tmp_path / "nothing"), str(tmp_path / "copy")]) == 2
    assert main(["copy", str(registry.root), "ftp://host/x"]) == 2
