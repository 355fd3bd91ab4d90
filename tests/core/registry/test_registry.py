from __future__ import annotations

import os
import shutil
import sys
import warnings
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import dspy
import pytest

from dspy_nb.core.errors import Conflict, Corrupt, InputError, NotFound, Refused, RegistryWarning
from dspy_nb.core.models import conditions, loading
from dspy_nb.core.models.version import verified_files
from dspy_nb.core.registry.registry import Registry
from tests.registry_samples import QA, Run, program, tree

pytestmark = pytest.mark.usefixtures("no_flush")


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "registry")


def test_a_new_registry_is_empty_and_touches_nothing(registry: Registry) -> None:
    assert registry.models() == []
    assert registry.list() == []
    assert registry.check() == []
    assert not registry.root.exists()
    with pytest.raises(NotFound, match="no models yet"):
        registry.get("sentiment")


@pytest.mark.parametrize("root", [None, 5, b"registry"])
def test_a_registry_is_a_folder(root: Any) -> None:
    with pytest.raises(InputError, match="the registry must be a folder, not a"):
        Registry(root)


def test_a_tilde_is_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert Registry("~/registry").root == tmp_path / "registry"
    assert Registry("~nobody-of-that-name").root.name == "~nobody-of-that-name"


def test_versions_count_up_by_what_is_bumped(registry: Registry) -> None:
    bumps = [None, "minor", "patch", "prerelease", "minor", "major"]
    versions = [registry.register(program(), "sentiment", bump=bump).version for bump in bumps]
    assert versions == ["1.0.0", "1.1.0", "1.1.1", "1.1.2-rc.1", "1.2.0", "2.0.0"]
    assert registry.register(program(), "other", bump="prerelease").version == "1.0.0-rc.1"
    assert [version.version for version in registry.list("sentiment")] == versions[::-1]
    assert registry.models() == ["other", "sentiment"]


def test_the_metadata_has_every_field_of_the_design(registry: Registry) -> None:
    first = registry.register(program(), "sentiment")
    version = registry.register(Run(), "sentiment", notes="better prompts")
    metadata = version.metadata
    expected = {
        "model_id": "sentiment",
        "version": "1.1.0",
        "parent": "1.0.0",
        "optimizer": "MIPROv2",
        "base_model": "openai/gpt-4o-mini",
        "num_training_examples": 40,
        "validation_score": 0.9,
        "framework": "dspy",
        "dspy_version": dspy.__version__,
        "seed": 0,
        "datasets": {"train": {"fingerprint": "abc", "n": 40}},
        "metric": "exact_match",
        "schema_version": 1,
        "program_class": "dspy.predict.predict.Predict",
        "notes": "better prompts",
    }
    assert {name: metadata[name] for name in expected} == expected
    assert set(expected) | {
        "created_at",
        "saved_at",
        "hyperparameters",
        "usage",
        "test",
        "duration_s",
    } <= set(metadata)
    assert {"stopped_by", "packages", "git_commit", "signature"} <= set(metadata)
    assert metadata["hyperparameters"] == {"num_candidates": 6, "prompt_model": "openai/x"}
    assert (version.score, version.interval, version.score_kind) == (0.84, (0.79, 0.89), "test")
    assert (version.parent, version.optimizer) == ("1.0.0", "MIPROv2")
    assert version.evaluation == {"score": 0.84, "n": 50}
    assert first.metadata["optimizer"] is None
    assert (first.score, first.parent, first.evaluation) == (None, None, None)
    assert "<ModelVersion: sentiment@1.1.0, development, 84.0% [79.0%, 89.0%], test, MIPROv2," in repr(
        version
    )


def test_a_version_is_read_only(registry: Registry) -> None:
    version = registry.register(program(), "sentiment")
    with pytest.raises(FrozenInstanceError):
        version.stage = "production"  # type: ignore[misc]
    with pytest.raises(TypeError):
        version.metadata["score"] = 1  # type: ignore[index]


def test_the_files_on_disk_are_those_of_the_design(registry: Registry) -> None:
    version = registry.register(Run(), "sentiment")
    assert version.path == registry.root / "models" / "sentiment" / "1.0.0"
    assert tree(registry.root) == [
        ".gitattributes",
        ".gitignore",
        "anchors",
        "anchors/models",
        "anchors/models/sentiment.json",
        "models",
        "models/sentiment",
        "models/sentiment/1.0.0",
        "models/sentiment/1.0.0/README.md",
        "models/sentiment/1.0.0/evaluation.json",
        "models/sentiment/1.0.0/metadata.json",
        "models/sentiment/1.0.0/model.json",
        "models/sentiment/log",
        "models/sentiment/log/000001.json",
    ]
    assert version.size_bytes == sum(path.stat().st_size for path in version.path.iterdir())


def test_an_explicit_version_is_taken_once(registry: Registry) -> None:
    assert registry.register(program(), "sentiment", version="2.3.4").ref == "sentiment@2.3.4"
    with pytest.raises(Conflict, match=r"sentiment@2\.3\.4 exists"):
        registry.register(program(), "sentiment", version="2.3.4")
    with pytest.raises(InputError, match="not both"):
        registry.register(program(), "sentiment", version="3.0.0", bump="minor")
    registry.register(program(), "sentiment", version="3.0.0-rc.1")
    with pytest.raises(Conflict):
        registry.register(program(), "sentiment", version="3.0.0-RC.1")
    assert registry.register(program(), "sentiment").version == "3.0.0"


def test_references_name_versions_ranges_and_stages(registry: Registry) -> None:
    for version in ("1.0.0", "1.1.0", "1.1.5", "1.2.0", "2.0.0", "3.0.0-rc.1"):
        registry.register(program(), "m", version=version)
    for ref, expected in {
        "m": "2.0.0",
        "m@latest": "2.0.0",
        "m@1.1.0": "1.1.0",
        "m@^1.1": "1.2.0",
        "m@~1.1": "1.1.5",
        "m@3.0.0-rc.1": "3.0.0-rc.1",
    }.items():
        assert registry.get(ref).version == expected
    assert registry.latest("m").version == "2.0.0"
    for missing in ("m@9.0.0", "m@^3", "m@production", "m@staging"):
        with pytest.raises(NotFound, match=r"newest of m are 3\.0\.0-rc\.1, 2\.0\.0"):
            registry.get(missing)
    with pytest.raises(NotFound, match="there are m"):
        registry.get("n")
    assert registry.production("m") is None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"what": 7}, "int"),
        ({"model_id": "../evil"}, "model id"),
        ({"model_id": "nul"}, "reserved"),
        ({"version": "one"}, "version"),
        ({"bump": "big"}, "major, minor"),
        ({"notes": 3}, "notes must be text"),
        ({"by": 3}, "by must be text"),
        ({"parent": ["1.0.0"]}, "parent must be text"),
        ({"metadata": [1]}, "metadata must be a dict, not a list"),
        ({"notes": "x" * 2**26}, r"bytes, most of them in .*: a version may have"),
        ({"metadata": {"version": "9"}}, "the registry sets it"),
        ({"metadata": {"validation_score": "high"}}, "validation_score"),
        ({"metadata": {"validation_score": float("nan")}}, "JSON"),
        ({"metadata": {"test": {"score": "high"}}}, "test score"),
        ({"metadata": {"test": {"score": 0.5, "interval": [0.1]}}}, "score"),
        ({"metadata": {"usage": 3}}, "usage"),
        ({"metadata": {"hyperparameters": {"x": {1, 2}}}}, "set"),
        ({"evaluation": [1]}, "evaluation must be a dict"),
        ({"evaluation": {"x": object()}}, "object"),
    ],
)
def test_wrong_input_is_refused_before_anything_is_written(
    registry: Registry, arguments: dict[str, Any], words: str
) -> None:
    with pytest.raises(InputError, match=words) as caught:
        registry.register(**{"what": program(), "model_id": "m", **arguments})
    assert "\n" not in str(caught.value)
    assert not registry.root.exists()


def test_a_program_whose_state_is_no_json_is_refused_before_anything_is_written(registry: Registry) -> None:
    made = program()
    made.demos = [{"review": {1}, "sentiment": object()}]
    with pytest.raises(InputError, match="state of the program"):
        registry.register(made, "m")
    assert not registry.root.exists()


def test_models_that_differ_only_in_case_are_refused(registry: Registry) -> None:
    registry.register(program(), "QA")
    with pytest.raises(Conflict, match="only in case"):
        registry.register(program(), "qa")


def test_no_key_and_no_endpoint_ever_lands_in_the_registry(registry: Registry) -> None:
    made = dspy.Predict("a -> b", api_key="sk-config")
    made.lm = dspy.LM("openai/gpt-4o-mini", api_key="sk-lm", api_base="http://internal/v1")
    hyperparameters = {"teacher_settings": {"lm": {"api_key": "sk-meta", "api_base": "http://internal"}}}
    version = registry.register(made, "m", metadata={"hyperparameters": hyperparameters})
    everything = b"".join(path.read_bytes() for path in registry.root.rglob("*") if path.is_file())
    assert b"sk-" not in everything
    assert b"http://internal" not in everything
    assert version.base_model == "openai/gpt-4o-mini"


def test_loading_gives_the_program_back_without_its_class(registry: Registry) -> None:
    registry.register(program("Be brief."), "m")
    loaded = registry.load("m")
    assert type(loaded) is dspy.Predict
    assert loaded.signature.instructions == "Be brief."
    assert loaded.demos == [{"review": "nice", "sentiment": "good"}]
    assert loaded.lm is None


def test_what_a_caller_does_to_a_loaded_program_stays_with_the_caller(registry: Registry) -> None:
    registry.register(program(), "m")
    for _ in range(2):
        loaded = registry.load("m")
        assert loaded.demos == [{"review": "nice", "sentiment": "good"}]
        loaded.demos[0]["review"] = "spoiled"
        loaded.demos.append({})
        loaded.signature = loaded.signature.with_instructions("spoiled")


class Wants(QA):
    def __init__(self, what: str) -> None:
        super().__init__(what)


def test_a_program_of_a_class_is_loaded_into_a_copy(registry: Registry) -> None:
    made = QA()
    made.answer.predict.demos = [{"question": "?", "reasoning": "r", "answer": "!"}]
    registry.register(made, "qa")
    with pytest.raises(Refused, match=r"without its class: it is a program of class .*QA"):
        registry.load("qa")
    mine = QA()
    loaded = registry.load("qa", program=mine)
    assert loaded.answer.predict.demos == made.answer.predict.demos
    assert mine.answer.predict.demos == []
    assert registry.load("qa", program=QA).answer.predict.demos == made.answer.predict.demos
    with pytest.raises(Refused, match="'context' is in the program but not in the version"):
        registry.load("qa", program=QA("context, question -> answer"))
    with pytest.raises(InputError, match="program="):
        registry.load("qa", program="QA")  # type: ignore[arg-type]
    with pytest.raises(
        InputError, match=r"program=Wants cannot be made without arguments: .*: give an instance"
    ):
        registry.load("qa", program=Wants)


@pytest.mark.parametrize("name", ["model.json", "metadata.json", "README.md", "evaluation.json"])
def test_every_flipped_byte_of_every_file_is_refused(registry: Registry, name: str) -> None:
    version = registry.register(Run(), "m")
    registry.load("m")  # so that it is cached as well
    content = (version.path / name).read_bytes()
    with (version.path / name).open("r+b", buffering=0) as file:
        for position, byte in enumerate(content):
            os.pwrite(file.fileno(), bytes([byte ^ 1 << position % 8]), position)
            with pytest.raises(Corrupt):
                verified_files(version.path, version.files, version.ref)
            if position % 50 == 0:
                with pytest.raises(Corrupt):
                    registry.load("m")
            os.pwrite(file.fileno(), bytes([byte]), position)
    registry.load("m")


@pytest.mark.parametrize("harm", ["missing", "truncated", "extra", "link", "folder", "no version"])
def test_a_version_with_other_files_is_refused(registry: Registry, tmp_path: Path, harm: str) -> None:
    version = registry.register(program(), "m")
    model = version.path / "model.json"
    if harm == "truncated":
        model.write_bytes(model.read_bytes()[:-1])
    elif harm == "extra":
        (version.path / "model.pkl").write_bytes(b"")
    elif harm == "no version":
        shutil.rmtree(version.path)
    else:
        model.rename(tmp_path / "model.json")
        if harm == "link":
            model.symlink_to(tmp_path / "model.json")
        elif harm == "folder":
            model.mkdir()
    with pytest.raises(Corrupt) as caught:
        registry.load("m")
    assert str(version.path) in str(caught.value)
    assert [problem.kind for problem in registry.check()] == ["corrupt"]


def test_another_dspy_version_is_warned_about_once(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conditions, "_warned", set())
    registry.register(program(), "m")
    now = {"python": "9.9.9", "dspy": "9.0.0"}
    monkeypatch.setattr(loading, "package_versions", lambda: now)
    with pytest.warns(RegistryWarning) as caught:
        registry.load("m")
    assert [str(warning.message).split(":")[0] for warning in caught] == [
        f"m@1.0.0 was made with dspy {dspy.__version__}, this is dspy 9.0.0",
        f"m@1.0.0 was made with python {sys.version.split()[0]}, this is python 9.9.9",
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Registry(registry.root).load("m")


def test_to_frame_is_one_row_per_version(registry: Registry) -> None:
    registry.register(Run(), "m")
    registry.register(program(), "m")
    frame = registry.to_frame("m")
    assert list(frame["version"]) == ["1.1.0", "1.0.0"]
    assert frame.loc[1, "score"] == 0.84
    assert "files" not in frame.columns
    assert len(registry.to_frame()) == 2
