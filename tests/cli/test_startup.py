"""What only reads and writes a registry starts at once: it imports neither DSPy nor anything as large."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import ROOT
from tests.registry_samples import registry_of

pytestmark = pytest.mark.heavy

_HEAVY = {"IPython", "dspy", "litellm", "matplotlib", "numpy", "openai", "pandas", "scipy", "sqlite3"}
_PROGRAM = f"""
import sys
from dspy_nb.cli.main import main
status = main(sys.argv[1:])
print(status, *sorted(sys.modules.keys() & {_HEAVY}), file=sys.stderr)
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return registry_of(tmp_path_factory.mktemp("startup") / "registry", 2).root


@pytest.mark.parametrize(
    "command",
    [
        "list",
        "list m --json",
        "show m@1.0.0",
        "show m --json",
        "history m",
        "history --environment production",
        "check",
        "promote m@1.1.0 --to staging",
        "deploy m@1.1.0 --to staging",
        "diff m@1.0.0 m@1.1.0",
        "archive m --keep-latest 1",
        "runs",
        "presets",
        "presets light --json",
        "--version",
        "optimize --help",
    ],
)
def test_a_command_that_runs_no_program_imports_no_dspy(command: str, root: Path, tmp_path: Path) -> None:
    words = command.split()
    if words[0] not in ("presets", "--version", "optimize"):
        words += ["--registry", str(root)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "DSPY_NB_CONFIG_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, *words],
        capture_output=True, text=True, check=True, cwd=tmp_path, env=environment,
    )  # fmt: skip
    assert done.stderr.splitlines()[-1] == "0"
