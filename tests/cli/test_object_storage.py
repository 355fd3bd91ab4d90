"""A registry on object storage, wherever one is named: in a shell, in its environment, in a notebook."""

from __future__ import annotations

import json
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest

from dspy_nb.cli.main import main
from dspy_nb.core.errors import InputError
from dspy_nb.core.registry.registry import Registry
from tests.objects import s3_server
from tests.registry_samples import program, registry_of


@pytest.fixture(autouse=True)
def url(workplace: Path, no_flush: None, monkeypatch: pytest.MonkeyPatch) -> str:
    """A registry with three versions."""
    monkeypatch.setenv("XDG_DATA_HOME", str(workplace / "data"))
    return str(registry_of(f"memory://{uuid.uuid4().hex}", 3).root)


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 2) -> str:
    """Return the one line that a command says on stderr."""
    assert main(arguments) == status
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize("by_environment", [False, True])
def test_each_command_takes_a_url(
    url: str, by_environment: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if by_environment:
        monkeypatch.setenv("DSPY_NB_REGISTRY", url)

    def say(*arguments: str) -> str:
        assert main([*arguments, *([] if by_environment else ["--registry", url])]) == 0
        return capsys.readouterr().out

    say("promote", "m@1.1.0", "--to", "staging")
    say("deploy", "m@1.1.0", "--to", "eu", "--create")
    say("deploy", "m@1.0.0", "--to", "eu", "--reason", "try")
    assert "m@1.1.0" in say("rollback", "eu")
    say("archive", "m@1.0.0")
    listed = json.loads(say("list", "--json"))
    assert [(line["ref"], line["stage"], line["live_in"]) for line in listed] == [
        ("m@1.2.0", "development", []), ("m@1.1.0", "staging", ["eu"]), ("m@1.0.0", "archived", []),
    ]  # fmt: skip
    assert listed[0]["path"] == f"{url}/models/m/1.2.0"
    assert "Version 1." in say("show", "m@1.1.0")
    assert len(json.loads(say("history", "m", "--json"))) == 5
    assert "Version 2." in say("diff", "m@1.1.0", "m@1.2.0")
    assert say("check") == "Everything is as it was registered.\n"


def test_the_magics_take_a_url(url: str, magics: Any) -> None:
    magics.run_line_magic("config", f"DspyNb.registry = {url!r}")
    try:
        assert magics.run_line_magic("dspy_promote", "m@1.1.0 --to staging").stage == "staging"
        assert magics.run_line_magic("dspy_deploy", "m@1.1.0 --to staging").ref == "m@1.1.0"
        shown = magics.run_line_magic("dspy_registry", "")
        assert f"Registry: {url}" in shown.report()
        assert len(magics.run_line_magic("dspy_registry", f"--registry {url} m")) == 3
    finally:
        magics.run_line_magic("config", "DspyNb.registry = 'registry'")


def test_what_is_in_no_registry_is_said_of_a_url_too(capsys: pytest.CaptureFixture[str]) -> None:
    said = refusal(capsys, "list", "--registry", "memory://empty/place")
    assert said == "Error: there is no registry in memory://empty/place: --registry names its folder or URL"


def test_a_command_says_which_extra_is_missing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [*sys.modules]:
        if name.partition(".")[0] == "obstore":
            monkeypatch.setitem(sys.modules, name, None)
    said = refusal(capsys, "list", "--registry", "s3://team/registry")
    assert said == (
        "Error: a registry at s3:// needs the extra object-store: pip install 'dspy-nb[object-store]'"
    )


@pytest.mark.parametrize(
    ("endpoint", "words"),
    [
        ("nonsense", "AWS_ENDPOINT_URL is 'nonsense': write it as https://host"),
        (
            "http://127.0.0.1:9",
            "AWS_ENDPOINT_URL is http://127.0.0.1:9, without encryption: AWS_ALLOW_HTTP=true",
        ),
    ],
)
def test_an_endpoint_that_cannot_be_is_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, endpoint: str, words: str
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.delenv("AWS_ALLOW_HTTP", raising=False)
    assert words in refusal(capsys, "check", "--registry", "s3://team/registry")


@pytest.mark.heavy
def test_what_cannot_be_reached_is_an_input_error_before_anything_is_spent(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    there = "s3://no-such-bucket/registry"
    with s3_server() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        words = "The specified bucket does not exist"
        assert refusal(capsys, "list", "--registry", there) == (
            f"Error: the registry {there} cannot be reached: {words}"
        )
        for call in (
            lambda: Registry(there).check_registrable(program(), "m"),
            lambda: Registry(there).register(program(), "m"),
            lambda: Registry("registry").copy_to(there),
        ):
            registry_of("registry", 0 if Path("registry").exists() else 1)
            with pytest.raises(InputError, match=f"the registry {there} cannot be written: {words}"):
                call()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    said = refusal(capsys, "list", "--registry", there)
    assert said == f"Error: the registry {there} cannot be reached: HTTP error: error sending request"


class Overwriting:
    """A store that takes no notice of conditions, as some servers do."""

    def __init__(self, store: Any) -> None:
        self.store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)

    def put(self, key: str, content: bytes, mode: str = "overwrite", **options: Any) -> Any:
        return self.store.put(key, content, **options)


def test_a_server_that_overwrites_holds_no_registry() -> None:
    registry = Registry(f"memory://{uuid.uuid4().hex}")
    registry.root.storage._store = Overwriting(registry.root.storage._store)  # type: ignore[union-attr]
    for call in (registry.register, registry.check_registrable):
        with pytest.raises(InputError, match="its server overwrites what is there"):
            call(program(), "m")
    assert registry.models() == []
