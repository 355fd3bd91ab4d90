"""Rules of the repository that no single module can keep: imports, notebooks, what may be committed."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]


def _tracked() -> list[Path]:
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("not a git repository")
    return [ROOT / name for name in done.stdout.split("\0") if name and (ROOT / name).is_file()]


def _lines(paths: list[Path]) -> Iterator[tuple[str, str]]:
    for path in paths:
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(text.splitlines(), 1):
            yield f"{path.relative_to(ROOT)}:{number}", line


# -- imports ------------------------------------------------------------------------------------------------


def _ruff_codes(file: str, source: str) -> set[str]:
    command = [sys.executable, "-m", "ruff", "check", "--output-format=json", f"--stdin-filename={file}", "-"]
    done = subprocess.run(command, input=source, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stderr
    return {finding["code"] for finding in json.loads(done.stdout)}


@pytest.mark.parametrize(
    "source",
    [
        "import IPython\n",
        "from IPython.display import HTML\n",
        "import ipywidgets as widgets\n",
        "import matplotlib.pyplot as plt\n",
        "from .. import magics\n",
        "from ..widgets import progress\n",
        "from dspy_nb import report\n",
        "def draw():\n    import matplotlib\n",
    ],
)
def test_the_core_may_not_import_a_front_end(source: str) -> None:
    assert "TID251" in _ruff_codes("dspy_nb/core/example.py", source)


def test_front_ends_may_import_front_ends() -> None:
    for file in ("dspy_nb/magics.py", "dspy_nb/report.py", "dspy_nb/widgets/example.py"):
        assert "TID251" not in _ruff_codes(file, "import IPython\n")


def test_no_exception_to_the_rule_hides_in_the_core() -> None:
    hidden = [
        where for where, line in _lines(sorted((ROOT / "dspy_nb/core").rglob("*.py"))) if "TID251" in line
    ]
    assert hidden == []


# -- notebooks ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.name)
def test_notebooks_are_valid_and_committed_without_output(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code
    assert all(not cell.outputs and cell.execution_count is None for cell in code)
    assert "widgets" not in notebook.metadata


# -- what may be committed ----------------------------------------------------------------------------------


def test_no_file_names_a_path_of_a_machine_or_a_package_index() -> None:
    homes = "|".join(("root", "home", "work", "Users"))
    forbidden = re.compile(rf"(?:^|[^.\w-])/(?:{homes})/|index[-_]url|find[-_]links")
    assert [where for where, line in _lines(_tracked()) if forbidden.search(line)] == []


def test_there_is_no_lock_file() -> None:
    lock = re.compile(r"\.lock$|^pylock|package-lock")
    assert [path.name for path in _tracked() if lock.search(path.name)] == []


def test_constraints_are_names_and_versions_of_everything_that_is_needed() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = {}
    for line in lines:
        if line.startswith("#"):
            continue
        match = re.fullmatch(r"([a-z0-9-]+)==([0-9][0-9a-z.]*)", line)
        assert match, line
        pins[match[1]] = match[2]
    assert list(pins) == sorted(pins)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    del extras["bench"]  # in a venv of its own, and not what CI runs
    for texts in (project["dependencies"], *extras.values()):
        for requirement in map(Requirement, texts):
            name = canonicalize_name(requirement.name)
            assert name == "dspy-nb" or pins[name] in requirement.specifier, str(requirement)
