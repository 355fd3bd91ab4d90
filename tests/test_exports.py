"""The public surface: every name resolves, type checkers see the same ones, and importing stays light."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

import dspy_nb as nb

_HEAVY = (
    "IPython", "ipywidgets", "litellm", "matplotlib", "numpy", "optuna", "pandas", "scipy", "sqlite3", "xllamacpp",
)  # fmt: skip

_WIDGETS = {
    "ABPanel",
    "ProgressPanel",
    "RegistryBrowser",
}  # they need ipywidgets, and whoever asks for them too


def _run(program: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(Path(nb.__file__).parents[1])}
    command = [sys.executable, "-c", program]
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=cwd, env=environment)


_STEPS = {
    "dspy": "import dspy",
    "the package": "import dspy_nb",
    "every name": f"[getattr(dspy_nb, name) for name in {sorted({*nb.__all__} - _WIDGETS)}]",
    "a widget": "dspy_nb.RegistryBrowser",
}


@pytest.fixture(scope="module")
def imported() -> dict[str, set[str]]:
    """The modules that each step adds to those before it, in one new process."""
    told = "print(json.dumps(sorted(sys.modules)))"
    done = _run("\n".join(["import json, sys", told, *(f"{step}; {told}" for step in _STEPS.values())]))
    lists = [set(json.loads(line)) for line in done.stdout.splitlines()]
    return {name: after - before for name, (before, after) in zip(_STEPS, pairwise(lists), strict=True)}


@pytest.mark.parametrize("name", nb.__all__)
def test_every_public_name_resolves(name: str) -> None:
    assert getattr(nb, name) is getattr(nb, name)


def test_the_public_names_are_sorted_and_unique() -> None:
    assert nb.__all__ == sorted(set(nb.__all__))


def test_tab_completion_offers_every_public_name() -> None:
    assert set(nb.__all__) <= set(dir(nb))


def test_a_star_imports_every_public_name() -> None:
    names: dict[str, object] = {}
    exec("from dspy_nb import *", names)
    assert {name: getattr(nb, name) for name in nb.__all__}.items() <= names.items()


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="No dspy_nb attribute optimise"):
        nb.optimise  # noqa: B018


def test_every_public_name_has_a_docstring() -> None:
    undocumented = [n for n in nb.__all__ if callable(getattr(nb, n)) and not getattr(nb, n).__doc__]
    assert undocumented == []


@pytest.mark.heavy
def test_importing_the_package_imports_nothing_but_itself(imported: dict[str, set[str]]) -> None:
    assert imported["the package"] == {"dspy_nb", "lazy_loader"}


@pytest.mark.heavy
@pytest.mark.parametrize("module", _HEAVY)
def test_using_every_public_name_imports_nothing_heavy_that_dspy_does_not(
    module: str, imported: dict[str, set[str]]
) -> None:
    assert module not in imported["the package"] | imported["every name"]


@pytest.mark.heavy
def test_a_widget_brings_its_library_along_at_first_use(imported: dict[str, set[str]]) -> None:
    assert not {name for name in imported["every name"] if name.startswith("dspy_nb.notebook.widgets")}
    assert {"ipywidgets", "dspy_nb.notebook.widgets"} <= imported["a widget"]


@pytest.mark.heavy
def test_the_renderer_of_cards_is_imported_when_one_is_shown(imported: dict[str, set[str]]) -> None:
    assert "dspy_nb.notebook.widgets.registry" in imported["a widget"]
    assert "markdown_it" not in set().union(*imported.values())


@pytest.mark.heavy
def test_importing_has_no_side_effects(tmp_path: Path) -> None:
    program = """
import os, threading
before = dict(os.environ), os.getcwd(), threading.active_count()
import dspy_nb
assert before == (dict(os.environ), os.getcwd(), threading.active_count())
"""
    done = _run(program, cwd=tmp_path)
    assert (done.stdout, done.stderr, list(tmp_path.iterdir())) == ("", "", [])
