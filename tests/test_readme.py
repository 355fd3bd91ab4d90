"""What the README shows works: its Python runs from top to bottom, its lists are complete."""

from __future__ import annotations

import os
import re
from pathlib import Path

import dspy_nb as nb
from dspy_nb.cli.main import cli
from dspy_nb.core.optimization.optimizers import OPTIMIZERS
from tests import ROOT
from tests.children import Children
from tests.scripted import scripted_lm

_README = (ROOT / "README.md").read_text(encoding="utf-8")


def run_with_a_scripted_model(python: str, folder: Path) -> None:
    os.chdir(folder)
    nb.local_lm = lambda: scripted_lm(cache=True)
    exec(python, {"__name__": "__main__"})


def test_the_python_of_the_readme_runs_from_top_to_bottom(tmp_path: Path, children: Children) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```$", _README, flags=re.MULTILINE | re.DOTALL)
    assert len(blocks) > 3
    children(run_with_a_scripted_model, "\n".join(blocks), tmp_path).rest()
    assert [version.ref for version in nb.Registry(tmp_path / "registry").list()] == ["sentiment@1.0.0"]


def test_the_readme_has_every_command() -> None:
    assert [name for name in cli.commands if f"`dspy-nb {name}`" not in _README] == []


def test_the_readme_has_every_optimizer_and_preset() -> None:
    names = [*OPTIMIZERS, *(preset.name for preset in nb.list_presets())]
    assert [name for name in names if f"`{name}`" not in _README] == []


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
