"""The magics of the registry, in a real shell."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from IPython.core.completer import provisionalcompleter
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output

from dspy_nb.core.deployment.history import Deployment
from dspy_nb.core.models.version import ModelVersion
from dspy_nb.core.registry.registry import Registry
from tests.registry_samples import GATE, Run, program


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_flush: None, magics: InteractiveShell):
    monkeypatch.chdir(tmp_path)
    registry = Registry("registry")
    for instructions in ("Say it.", "Say it well."):
        registry.register(program(instructions), "m")
    registry.register(Run(), "other")
    magics.user_ns["gate"] = GATE
    return magics


def run(shell: InteractiveShell, cell: str) -> tuple[Any, str]:
    """Run a cell that must succeed; return its value and its text."""
    with capture_output():
        result = shell.run_cell(cell)
    result.raise_error()
    formats, _ = shell.display_formatter.format(result.result)
    if result.result is not None:
        assert '<div class="dspy-nb">' in formats["text/html"] or formats["text/html"].startswith("<h4>")
    return result.result, formats["text/plain"]


def fail(shell: InteractiveShell, cell: str) -> str:
    """Run a cell that must fail, and return the one line that it shows."""
    with capture_output() as captured:
        result = shell.run_cell(cell)
    assert result.error_in_exec is not None
    assert "Traceback" not in captured.stdout
    return [line for line in captured.stdout.splitlines() if line.strip()][-1]


def test_a_version_is_promoted_with_evidence_deployed_and_rolled_back(shell: InteractiveShell) -> None:
    for version in ("1.0.0", "1.1.0"):
        run(shell, f"%dspy_promote m@{version} --to staging;")
        promoted, text = run(shell, f"%dspy_promote m@{version} --to production --evidence gate")
        assert isinstance(promoted, ModelVersion)
        assert f"m@{version}  production" in text
        deployed, text = run(shell, f"%dspy_deploy m@{version} --to production --reason 'it is better'")
        assert isinstance(deployed, Deployment)
        assert f"m@{version}" in text
        assert "it is better" in text
    rolled_back, text = run(shell, "%dspy_rollback production --reason slow")
    assert rolled_back.ref == "m@1.0.0"
    assert "slow" in text
    history, text = run(shell, "%dspy_registry --environment production")
    assert [line.action for line in history] == ["deploy", "deploy", "rollback"]
    assert text.startswith("Live in production")
    decisions, text = run(shell, "%dspy_registry m --history")
    assert len(decisions) == 6
    assert "gate, passed, n = 100" in text
    assert "staging → production; 1.0.0 → deprecated" in text


def test_a_forced_promotion_is_shown_as_such(shell: InteractiveShell) -> None:
    run(shell, '%dspy_promote m --to production --force --reason "the demo needs it"')
    _, text = run(shell, "%dspy_registry m --history")
    assert "promote (FORCED)" in text
    assert "the demo needs it" in text


def test_two_versions_are_compared(shell: InteractiveShell) -> None:
    diff, text = run(shell, "%dspy_registry --diff m@1.0.0 m@1.1.0")
    assert (diff.a, diff.b) == ("m@1.0.0", "m@1.1.0")
    assert "- Say it.\n+ Say it well." in text


def test_the_list_of_versions(shell: InteractiveShell) -> None:
    versions, text = run(shell, "%dspy_registry")
    assert [version.ref for version in versions] == ["m@1.1.0", "m@1.0.0", "other@1.0.0"]
    assert text.startswith("Registry: registry")
    assert [version.ref for version in run(shell, "%dspy_registry m@1.0.0")[0]] == ["m@1.0.0"]
    assert run(shell, "%dspy_registry m;")[0] is None


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("%dspy_promote m", "Missing option '--to'"),
        ("%dspy_promote m --to nowhere", "'nowhere' is not known"),
        ("%dspy_promote m --to production", "cannot go from development"),
        ("%dspy_promote m --to production --force", "force=True needs a reason"),
        ("%dspy_promote m --to staging --evidence nothing", "no name 'nothing'"),
        ("%dspy_promote", "Missing argument 'MODEL[@VERSION]'"),
        ("%dspy_deploy m", "Missing option '--to'"),
        ("%dspy_deploy m --to production", "accepts versions in production"),
        ("%dspy_deploy m --to a/b", "environment 'a/b' is not valid"),
        ("%dspy_deploy gone --to staging", "no model 'gone'"),
        ("%dspy_rollback staging", "nothing was ever deployed"),
        ("%dspy_rollback staging --steps x", "'x' is not a valid integer"),
        ("%dspy_registry --history", "--history needs a model"),
        ("%dspy_registry m --diff m m", "--diff does not go with 'm'"),
        ("%dspy_registry m --history --environment e", "either --history or --environment"),
        ("%dspy_registry --diff m", "Option '--diff' requires 2 arguments"),
    ],
)
def test_a_mistake_is_one_line_and_fails_the_cell(shell: InteractiveShell, line: str, words: str) -> None:
    before = [path for path in Path("registry").rglob("*") if path.is_file()]
    assert words in fail(shell, line)
    assert [path for path in Path("registry").rglob("*") if path.is_file()] == before


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("%dspy_promote ", "m@1.1.0"),
        ("%dspy_promote m --to ", "staging"),
        ("%dspy_deploy m --to ", "production"),
        ("%dspy_rollback ", "edge"),
        ("%dspy_registry --diff ", "other@1.0.0"),
        ("%dspy_registry --environment ", "edge"),
    ],
)
def test_completion_offers_what_there_is(shell: InteractiveShell, line: str, expected: str) -> None:
    Registry("registry").environment("edge", create=True).deploy("m")
    with provisionalcompleter():
        assert expected in [found.text for found in shell.Completer.completions(line, len(line))]
