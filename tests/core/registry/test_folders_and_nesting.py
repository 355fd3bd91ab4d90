"""Folders that are links, files that are nested too deep, options that are empty: one line each."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dspy_nb.cli.main import main
from dspy_nb.core.arguments import DEEPEST, is_too_deep
from dspy_nb.core.data.examples import load_examples
from dspy_nb.core.errors import DspyNbError, InputError, RegistryWarning
from dspy_nb.core.evaluation.scorecard import Evaluation
from dspy_nb.core.event_log import read_events
from dspy_nb.core.optimization.presets import Preset, list_presets, save_preset
from dspy_nb.core.registry.registry import Registry
from dspy_nb.core.storage.files import dump_json, parse_json
from dspy_nb.core.traffic.reading import read_on
from tests.registry_samples import program, registry_of

pytestmark = pytest.mark.usefixtures("no_flush")


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    registry = registry_of(tmp_path / "registry")
    for number in range(3):
        registry.environment("e", create=True).deploy(f"m@1.{number}.0")
    return registry


def says_one_line(call: Callable[[], object], error: type[DspyNbError], words: str) -> None:
    with pytest.raises(error, match=words) as caught:
        call()
    assert "\n" not in str(caught.value)


# -- links ------------------------------------------------------------------------------------------------------

INSIDE = [
    "models",
    "models/m",
    "models/m/log",
    "models/m/1.0.0",
    "environments",
    "environments/e",
    "environments/e/log",
]


@pytest.mark.parametrize("loop", [False, True])
@pytest.mark.parametrize("inside", INSIDE)
def test_a_folder_of_a_registry_that_is_a_link_is_refused_and_nothing_is_written_through_it(
    registry: Registry, tmp_path: Path, inside: str, loop: bool
) -> None:
    place, elsewhere = registry.root / inside, tmp_path / "elsewhere"
    shutil.move(place, elsewhere)
    place.symlink_to(place if loop else elsewhere, target_is_directory=True)
    before = sorted(elsewhere.rglob("*"))
    fresh = Registry(registry.root)
    said = []
    for call in (
        fresh.list, lambda: fresh.load("m@1.0.0"), lambda: fresh.register(program(), "m"),
        lambda: fresh.promote("m@1.0.0", "staging"), lambda: fresh.environment("e", create=True).deploy("m@1.0.0"),
        lambda: fresh.environment("e", create=True).rollback(),
    ):  # fmt: skip
        try:
            call()
        except DspyNbError as error:
            said.append(str(error))
    assert said
    assert all("\n" not in text for text in said)
    if inside != "models/m/1.0.0":  # a new version of it goes beside the link
        assert sorted(elsewhere.rglob("*")) == before
    if not (loop and inside in ("models", "environments")):
        assert any("link" in problem.message for problem in fresh.check())


def test_the_root_may_be_a_link(registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(registry.root)
    linked = Registry(tmp_path / "link")
    linked.register(program(), "m")
    linked.environment("e", create=True).deploy("m@1.3.0")
    assert linked.check() == registry.check() == []


@pytest.mark.parametrize("root", ["loop", "nowhere", "a" * 300, "a\\0b"[:1] + "/" + "b" * 5000])
def test_a_root_that_leads_nowhere_is_one_line(
    workplace: Path, capsys: pytest.CaptureFixture[str], root: str
) -> None:
    Path("loop").symlink_to("loop")
    Path("nowhere").symlink_to("not-there")
    for command in ("list", "check", "show m", "history m", "promote m --to staging", "archive m@1.0.0"):
        assert main([*command.split(), "--registry", root]) == 2
        assert capsys.readouterr().err.count("\n") == 1
    with pytest.raises(DspyNbError):
        Registry(root).register(program(), "m") if root != "nowhere" else Registry("loop").list()


# -- nesting ----------------------------------------------------------------------------------------------------

DEPTHS = [DEEPEST + 1, 400, 100_000]


def nested(depth: int) -> str:
    return '{"a":' * depth + "1" + "}" * depth


def value(depth: int) -> Any:
    found: Any = 1
    for _ in range(depth):
        found = {"a": found}
    return found


def test_what_is_nested_as_deep_as_allowed_is_read_and_written() -> None:
    assert parse_json(dump_json(value(DEEPEST), "it"), "it") == value(DEEPEST)
    assert not is_too_deep([1, "[[", {}, value(DEEPEST - 1)])
    assert is_too_deep([value(DEEPEST)])


@pytest.mark.parametrize("depth", DEPTHS)
def test_a_file_that_is_nested_too_deep_is_one_line(
    workplace: Path, capsys: pytest.CaptureFixture[str], depth: int
) -> None:
    for name in ("rows.json", "rows.jsonl", "report.json", "events.jsonl"):
        Path(name).write_text(f"[{nested(depth)}]" if name == "rows.json" else nested(depth))
    Path("presets.toml").write_text("a = " + "[" * depth + "]" * depth)
    Path("dotted.toml").write_text("a" + ".a" * depth + " = 1")
    deep = "nested deeper|recursion|not an event|not valid TOML"
    for call in (
        lambda: load_examples("rows.json", inputs=["a"]),
        lambda: load_examples("rows.jsonl", inputs=["a"]),
        lambda: Evaluation.load("report.json"),
        lambda: parse_json(Path("report.json").read_bytes(), "report.json"),
        lambda: list_presets("presets.toml"),
    ):
        says_one_line(call, DspyNbError, deep)
    if depth < 10_000:  # a table for each dot
        says_one_line(lambda: list_presets("dotted.toml"), InputError, deep)
        says_one_line(lambda: save_preset(Preset("x", "LabeledFewShot"), "dotted.toml"), InputError, deep)
    assert read_events("events.jsonl") == []  # as any line that a crash cut short
    registry = registry_of("registry", 1)
    for command in ("promote m --to staging --evidence report.json", "gate report.json --min-score 0.5"):
        assert main([*command.split(), "--registry", "registry"]) == 2
        assert capsys.readouterr().err.count("\n") == 1
    registry.check()


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("file", ["anchors/models/m.json", "config.toml"])
def test_a_file_of_a_registry_that_is_nested_too_deep_is_a_problem_of_one_line(
    registry: Registry, depth: int, file: str
) -> None:
    content = nested(depth) if file.endswith("json") else "a = " + "[" * depth + "]" * depth
    (registry.root / file).write_text(content)
    (problem,) = Registry(registry.root).check()
    assert problem.path == registry.root / file
    assert "\n" not in problem.message


@pytest.mark.parametrize("depth", [DEEPEST + 1, 400, 2000])
def test_what_is_nested_too_deep_is_not_registered(registry: Registry, depth: int) -> None:
    shown = program()
    shown.demos = [{"review": value(depth), "sentiment": "good"}]
    evidence = {"kind": "evaluation", "score": 0.5, "more": value(depth)}
    for call in (
        lambda: registry.register(program(), "m", metadata={"usage": value(depth)}),
        lambda: registry.register(program(), "m", evaluation=value(depth)),
        lambda: registry.register(shown, "m"),
        lambda: registry.attach("m@1.0.0", evidence),
        lambda: registry.promote("m@1.0.0", "staging", evidence=evidence),
        lambda: registry.environment("e", create=True).deploy("m@1.0.0", evidence=evidence),
    ):
        says_one_line(call, InputError, "nested deeper|recursion")
    assert Registry(registry.root).check() == []
    assert len(registry.list("m")) == 4


def test_a_state_of_a_test_in_the_traffic_that_is_nested_too_deep_is_made_anew(
    registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    environment = registry.environment("e", create=True)
    environment.observe(success=True)
    with environment.traffic.file.writing() as connection:
        connection.execute("INSERT INTO tests VALUES ('x', 0, ?)", (nested(5000),))
    state = read_on(environment.traffic, "x", "1", (), "outcome", "1", 0.0, lambda state, _: state or {})
    assert state == {}
    assert "the state of 'x' is damaged, so it reads all again" in caplog.text
    environment.traffic.close()


# -- options that are empty, and a roll-back that would be refused -----------------------------------------------


@pytest.mark.parametrize("bump", ["", " ", "Minor", "majorminor", 0, False, [], b"minor"])
def test_a_bump_that_is_none_is_refused_before_anything_is_written(registry: Registry, bump: Any) -> None:
    says_one_line(lambda: registry.register(program(), "m", bump=bump), InputError, "bump .* is not known")
    says_one_line(lambda: registry.register(program(), "new", bump=bump), InputError, "bump .* is not known")
    assert len(registry.list()) == 4


@pytest.mark.parametrize("given", [{"version": ""}, {"parent": ""}, {"version": "", "bump": ""}])
def test_what_is_given_and_empty_is_not_taken_for_what_was_not_given(
    registry: Registry, given: dict[str, str]
) -> None:
    with pytest.raises(DspyNbError):
        registry.register(program(), "m", **given)
    assert len(registry.list()) == 4


def test_archiving_what_a_roll_back_would_return_to_is_said(registry: Registry) -> None:
    assert [version.version for version in registry.archive("m", keep_latest=0)] == ["1.3.0", "1.0.0"]
    with pytest.warns(
        RegistryWarning, match=r"a roll-back of e would return to m@1\.1\.0, and is refused once"
    ):
        registry.archive("m@1.1.0")
    assert registry.get("m@1.1.0").stage == "archived"


@pytest.mark.filterwarnings("default::dspy_nb.core.errors.RegistryWarning")
def test_the_command_line_says_it_as_well(
    registry: Registry, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["archive", "m@1.1.0", "--registry", str(registry.root), "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)[0]["ref"] == "m@1.1.0"
    assert err.startswith("Warning: a roll-back of e would return to m@1.1.0")
    assert err.count("\n") == 1
