from __future__ import annotations

import io
import json
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from dspy_nb.core.errors import Conflict, Corrupt, InputError, NotFound, Refused
from dspy_nb.core.registry.archive import read_archive
from dspy_nb.core.registry.registry import Registry
from tests.properties import tries
from tests.registry_samples import Run, program, stays_in_the_error_tree

pytestmark = pytest.mark.usefixtures("no_flush")


@pytest.fixture
def here(tmp_path: Path) -> Registry:
    registry = Registry(tmp_path / "here")
    registry.register(Run(), "m", version="1.2.0")
    return registry


@pytest.fixture
def there(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "there")


def rewrite(source: Path, target: Path, change: Callable[[dict[str, bytes]], None]) -> Path:
    """Write a changed copy of an archive whose manifest agrees with its files again."""
    with zipfile.ZipFile(source) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    change(files)
    with zipfile.ZipFile(target, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return target


def test_a_version_travels_as_one_file(here: Registry, there: Registry, tmp_path: Path) -> None:
    path = here.export_version("m", tmp_path)
    assert path == tmp_path / "m-1.2.0.zip"
    here.promote("m", "staging")
    version = there.import_version(path, by="ann")
    original = here.get("m")
    assert (version.ref, version.stage, version.score, version.files) == (
        "m@1.2.0",
        "development",
        original.score,
        original.files,
    )
    assert there.load("m").demos == here.load("m").demos
    (entry,) = there.history("m")
    assert (entry.action, entry.by, entry.reason) == ("register", "ann", "imported from m-1.2.0.zip")
    assert there.check() == []


def test_the_same_version_gives_the_same_bytes(here: Registry, tmp_path: Path) -> None:
    assert (
        here.export_version("m", tmp_path / "a.zip").read_bytes()
        == here.export_version("m", tmp_path / "b.zip").read_bytes()
    )


def test_nothing_is_overwritten(here: Registry, tmp_path: Path) -> None:
    path = here.export_version("m", tmp_path / "m.zip")
    with pytest.raises(Conflict, match="choose another name"):
        here.export_version("m", path)
    with pytest.raises(Conflict, match=r"m@1\.2\.0 exists"):
        here.import_version(path)
    with pytest.raises(NotFound):
        here.export_version("m@9.0.0", tmp_path / "n.zip")


def test_a_changed_version_is_not_exported(here: Registry, tmp_path: Path) -> None:
    (here.get("m").path / "model.json").write_text("{}")
    with pytest.raises(Corrupt):
        here.export_version("m", tmp_path / "m.zip")
    assert not (tmp_path / "m.zip").exists()


def test_what_is_no_archive_is_refused(there: Registry, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no file"):
        there.import_version(tmp_path / "missing.zip")
    (tmp_path / "text.zip").write_text("hello")
    with pytest.raises(Corrupt, match="not a readable zip file"):
        there.import_version(tmp_path / "text.zip")
    with pytest.raises(Corrupt):
        there.import_version(tmp_path)
    with zipfile.ZipFile(tmp_path / "empty.zip", "w"):
        pass
    with pytest.raises(Corrupt, match="not the archive of a version"):
        there.import_version(tmp_path / "empty.zip")


@pytest.mark.parametrize(
    "name", ["../evil", "/etc/evil", "a/b", "model.pkl", "..\\evil", "model.json/", "C:evil"]
)
def test_a_member_that_is_no_file_of_a_version_is_refused(
    here: Registry, there: Registry, tmp_path: Path, name: str
) -> None:
    path = here.export_version("m", tmp_path / "m.zip")
    changed = rewrite(path, tmp_path / "evil.zip", lambda files: files.update({name: b"evil"}))
    with pytest.raises(Corrupt, match="no file of a version"):
        there.import_version(changed)
    assert not there.root.exists()


def test_a_member_that_occurs_twice_is_refused(here: Registry, there: Registry, tmp_path: Path) -> None:
    path = here.export_version("m", tmp_path / "m.zip")
    with warnings.catch_warnings(), zipfile.ZipFile(path, "a") as archive:
        warnings.simplefilter("ignore")
        archive.writestr("model.json", b"{}")
    with pytest.raises(Corrupt, match="no file of a version"):
        there.import_version(path)


def test_a_bomb_is_refused(here: Registry, there: Registry, tmp_path: Path) -> None:
    path = here.export_version("m", tmp_path / "m.zip")
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist() if name != "README.md"}
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("README.md", bytes(80 * 2**20))
        for name, content in files.items():
            archive.writestr(name, content)
    assert (tmp_path / "bomb.zip").stat().st_size < 2**20
    with pytest.raises(Corrupt, match="holds more than"):
        there.import_version(tmp_path / "bomb.zip")


def test_another_compression_is_refused(here: Registry, there: Registry, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "m.zip", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("model.json", b"{}" * 1000)
    with pytest.raises(Corrupt, match="compressed in an unknown way"):
        there.import_version(tmp_path / "m.zip")


def changed_manifest(**values: Any) -> Callable[[dict[str, bytes]], None]:
    def change(files: dict[str, bytes]) -> None:
        files["manifest.json"] = json.dumps({**json.loads(files["manifest.json"]), **values}).encode()

    return change


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda files: files.update({"model.json": b"{}"}), Corrupt),
        (lambda files: files.pop("model.json"), Corrupt),
        (lambda files: files.pop("evaluation.json"), Corrupt),
        (lambda files: files.pop("manifest.json"), Corrupt),
        (changed_manifest(model_id="../evil"), Corrupt),
        (changed_manifest(version="1.2"), Corrupt),
        (changed_manifest(version="9.9.9"), Corrupt),
        (changed_manifest(schema_version=2), Refused),
        (changed_manifest(schema_version=True), Corrupt),
        (changed_manifest(sha256={}), Corrupt),
    ],
)
def test_an_archive_that_disagrees_with_itself_is_refused(
    here: Registry,
    there: Registry,
    tmp_path: Path,
    change: Callable[[dict[str, bytes]], None],
    error: type[Exception],
) -> None:
    path = here.export_version("m", tmp_path / "m.zip")
    with pytest.raises(error):
        there.import_version(rewrite(path, tmp_path / "changed.zip", change))
    assert not there.root.exists()


def forged(here: Registry, tmp_path: Path, name: str, change: Callable[[dict[str, Any]], None]) -> Path:
    """An archive whose manifest is right and whose content was made to do harm."""
    import hashlib

    def forge(files: dict[str, bytes]) -> None:
        values = json.loads(files[name])
        change(values)
        files[name] = json.dumps(values).encode()
        manifest = json.loads(files["manifest.json"])
        manifest["sha256"][name] = hashlib.sha256(files[name]).hexdigest()
        files["manifest.json"] = json.dumps(manifest).encode()

    return rewrite(here.export_version("m", tmp_path / "m.zip"), tmp_path / "forged.zip", forge)


def field_type(text: str) -> Callable[[dict[str, Any]], None]:
    return lambda m: m["signature"]["predictors"][0]["fields"][0].update(type=text)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("model.json", lambda s: s.update(lm={"model": "openai/x", "api_base": "http://evil"})),
        ("model.json", lambda s: s.update(config={"api_base": "http://evil"})),
        ("model.json", lambda s: s["signature"]["fields"].pop()),
        ("metadata.json", lambda m: m.update(signature=None)),
        (
            "metadata.json",
            lambda m: m["signature"]["predictors"][0].update(options={"api_base": "http://evil"}),
        ),
        ("metadata.json", lambda m: m.update(created_at=None)),
        ("metadata.json", lambda m: m.update(optimizer=7)),
        ("metadata.json", lambda m: m.update(test={"score": "high"})),
        ("metadata.json", lambda m: m.update(schema_version=99)),
    ],
)
def test_a_forged_archive_is_refused_before_anything_is_written(
    here: Registry, there: Registry, tmp_path: Path, name: str, change: Callable[[dict[str, Any]], None]
) -> None:
    path = forged(here, tmp_path, name, change)
    with pytest.raises((Corrupt, Refused, InputError)):
        there.import_version(path)
    assert there.models() == []
    assert not list(there.root.glob("models/*/*.*"))


def test_a_forged_field_type_runs_nothing_and_is_refused_at_load(
    here: Registry, there: Registry, tmp_path: Path
) -> None:
    there.import_version(forged(here, tmp_path, "metadata.json", field_type("antigravity.fly")))
    with pytest.raises((Corrupt, Refused)):
        there.load("m")


@tries(1.5, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_bytes_as_an_archive_stay_in_the_error_tree(tmp_path: Path, data: st.DataObject) -> None:
    source = tmp_path / "source.zip"
    if not source.exists():
        registry = Registry(tmp_path / "here")
        registry.register(program(), "m")
        registry.export_version("m", source)
    content = bytearray(source.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, len(content) - 1))
        if data.draw(st.booleans()):
            content[position] = data.draw(st.integers(0, 255))
        else:
            del content[position : position + data.draw(st.integers(1, 50))]
            if not content:
                break
    path = tmp_path / "fuzzed.zip"
    path.write_bytes(bytes(content))
    target = Registry(tmp_path / "there")
    stays_in_the_error_tree(lambda: target.import_version(path))
    assert target.check() == []
    assert {child.name for child in tmp_path.iterdir()} <= {"here", "there", "source.zip", "fuzzed.zip"}


@tries(0.6, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    # zipfile itself cannot write a name that begins with NUL
    names=st.lists(st.text(st.characters(exclude_characters="\0"), min_size=1, max_size=10), max_size=3),
    content=st.binary(max_size=20),
)
def test_any_zip_file_stays_in_the_error_tree(tmp_path: Path, names: list[str], content: bytes) -> None:
    buffer = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w") as archive:
        warnings.simplefilter("ignore")
        for name in names:
            archive.writestr(name.encode("utf-8", "replace").decode(), content)
    path = tmp_path / "some.zip"
    path.write_bytes(buffer.getvalue())
    with pytest.raises(Corrupt) as caught:
        read_archive(path)
    assert "\n" not in str(caught.value)
