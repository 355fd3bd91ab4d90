"""What the README shows works: a newcomer's path through it, command by command; its lists are complete."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path

import nbformat

import dspy_nb as nb
from dspy_nb.cli.main import cli, main
from dspy_nb.core.optimization.optimizers import OPTIMIZERS
from tests import ROOT
from tests.children import Children
from tests.scripted import scripted_lm

_README = (ROOT / "README.md").read_text(encoding="utf-8")
_BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", _README, flags=re.MULTILINE | re.DOTALL)


def _documents() -> str:
    """Return the README and what the notebooks explain."""
    notebooks = [nbformat.read(path, as_version=4) for path in sorted(ROOT.glob("notebooks/*.ipynb"))]
    cells = [cell.source for one in notebooks for cell in one.cells if cell.cell_type == "markdown"]
    return "\n".join([_README, *cells])


def follow_the_readme(folder: Path) -> None:
    """Do what the README says, from top to bottom, in one folder: Python, then magics, then the shell."""
    from IPython.core.interactiveshell import InteractiveShell

    os.chdir(folder)
    os.environ["IPYTHONDIR"] = str(folder / "ipython")
    nb.local_lm = lambda: scripted_lm(cache=True)
    shell = InteractiveShell()
    for language, text in _BLOCKS:
        if language in ("python", "ipython"):
            shell.run_cell(text, store_history=True).raise_error()
        elif language == "sh":
            for line in text.splitlines():
                command = shlex.split(line, comments=True)
                if (
                    command[0] == "dspy-nb" and command[1] != "install-model"
                ):  # that takes a minute and the network
                    assert main(command[1:]) == 0, line


def test_a_newcomer_can_take_every_command_as_it_is_written(tmp_path: Path, children: Children) -> None:
    languages = [language for language, _ in _BLOCKS]
    assert languages == ["sh", "python", "ipython", "sh", "sh"]
    children(follow_the_readme, tmp_path).rest()
    assert [version.ref for version in nb.Registry(tmp_path / "registry").list()] == ["sentiment@1.0.0"]


def test_every_target_of_make_that_is_named_is_there() -> None:
    named = {line.split()[1] for line in _README.splitlines() if line.startswith("make ")}
    named |= set(re.findall(r"`make (\w+)`", _README))
    assert {"demo", "test", "gallery"} <= named
    for target in named:
        subprocess.run(["make", "--dry-run", target], cwd=ROOT, check=True, capture_output=True)


def test_the_readme_is_read_in_a_few_minutes() -> None:
    assert _README.count("\n") < 150


def test_every_command_is_named_and_explained_somewhere() -> None:
    documents = _documents()
    assert [name for name in cli.commands if f"`dspy-nb {name}`" not in documents] == []


def test_every_optimizer_and_preset_is_named_and_explained_somewhere() -> None:
    documents = _documents()
    names = [*OPTIMIZERS, *(preset.name for preset in nb.list_presets())]
    assert [name for name in names if f"`{name}`" not in documents] == []


def test_the_links_of_the_documents_lead_somewhere() -> None:
    for document in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"):
        text = (ROOT / document).read_text(encoding="utf-8")
        targets = [target for target in re.findall(r"\]\(([^)#]+)", text) if not target.startswith("http")]
        assert [target for target in targets if not (ROOT / target).exists()] == []


def test_every_test_that_the_security_page_names_is_there() -> None:
    page = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    files = {path.name for path in (ROOT / "tests").rglob("test_*.py")}
    named = {Path(name).name for name in re.findall(r"[\w/]*test_\w+\.py", page)}
    assert len(named) > 8
    assert named <= files
