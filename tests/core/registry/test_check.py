from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from dspy_nb.core.registry.registry import Registry
from tests.registry_samples import Run, registry_of

pytestmark = pytest.mark.usefixtures("no_flush")


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    registry = Registry(tmp_path / "registry")
    for model in ("a", "b"):
        registry.register(Run(), model)
    registry.register(Run(), "a")
    return registry


def found(registry: Registry) -> list[tuple[str, str]]:
    return [(problem.kind, str(problem.path.relative_to(registry.root))) for problem in registry.check()]


def test_a_sound_registry_has_no_problems(registry: Registry) -> None:
    (registry.root / "environments").mkdir()  # what others keep beside the models is theirs
    assert registry.check() == []


def test_every_kind_of_damage_is_named_with_what_to_do(registry: Registry) -> None:
    models = registry.root / "models"
    (models / "a" / "1.0.0" / "model.json").write_text("{}")
    shutil.rmtree(models / "a" / "1.1.0")
    (models / "a" / "2.0.0").mkdir()
    (models / "a" / ".staging-1").mkdir()
    (models / "a" / "notes.txt").write_text("")
    (models / "a" / "log" / ".tmp-1").write_text("")
    (models / "a" / "log" / "000002.json.orig").write_text("")
    (models / "b" / "log" / "000001.json").write_text("{}")
    (models / "nul").mkdir()
    assert found(registry) == [
        ("corrupt", "models/a/1.0.0"),
        ("corrupt", "models/a/1.1.0"),
        ("orphan", "models/a/.staging-1"),
        ("orphan", "models/a/2.0.0"),
        ("foreign", "models/a/notes.txt"),
        ("orphan", "models/a/log/.tmp-1"),
        ("foreign", "models/a/log/000002.json.orig"),
        ("corrupt", "models/b/log"),
        ("foreign", "models/nul"),
    ]
    for problem in registry.check():
        assert str(problem).startswith(f"{problem.kind}: ")
        assert "\n" not in problem.message
        assert "restore" in problem.message or "remove" in problem.message


def test_a_folder_copied_to_another_model_is_found(registry: Registry) -> None:
    shutil.copytree(registry.root / "models" / "b", registry.root / "models" / "c")
    (problem,) = registry.check()
    assert "copied or renamed" in problem.message


def test_models_that_differ_only_in_case_are_found(registry: Registry) -> None:
    shutil.copytree(registry.root / "models" / "b", registry.root / "models" / "B")
    if len(list((registry.root / "models").iterdir())) == 3:  # the disk knows case
        assert any("differ only in case" in problem.message for problem in registry.check())


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ("environments.prodution", "did you mean production?"),
        ("monitor.Staging", "did you mean staging?"),
        ("environments.production-eu", None),
        ("environments.edge", None),
        ("environments.beta", None),
    ],
)
def test_a_table_for_an_environment_that_is_mistyped_is_found(
    tmp_path: Path, no_flush: None, table: str, told: str | None
) -> None:
    registry = registry_of(tmp_path / "registry", 1)
    registry.environment("beta", create=True).deploy("m")
    (registry.root / "config.toml").write_text(f"[{table}]\n")
    found = [str(problem) for problem in registry.check()]
    assert len(found) == (told is not None)
    assert all(told in problem for problem in found)
