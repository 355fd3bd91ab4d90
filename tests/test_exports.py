"""The public surface: every name resolves, type checkers see the same ones, and importing stays light."""

from __future__ import annotations

import ast
import importlib
import json
import os
import subprocess
import sys
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


def _modules_after(statement: str) -> set[str]:
    done = _run(f"{statement}; import json, sys; print(json.dumps(sorted(sys.modules)))")
    return set(json.loads(done.stdout))


@pytest.fixture(scope="module")
def modules_of_dspy() -> set[str]:
    return _modules_after("import dspy")


@pytest.fixture(scope="module")
def modules_with_every_name() -> set[str]:
    names = sorted({*nb.__all__} - _WIDGETS)
    return _modules_after(f"import dspy, dspy_nb; [getattr(dspy_nb, name) for name in {names}]")


@pytest.mark.parametrize("name", nb.__all__)
def test_every_public_name_resolves(name: str) -> None:
    assert getattr(nb, name) is getattr(nb, name)


def test_the_public_names_are_sorted_and_unique() -> None:
    assert nb.__all__ == sorted(set(nb.__all__))


def test_tab_completion_offers_every_public_name() -> None:
    assert set(nb.__all__) <= set(dir(nb))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'dspy_nb' has no attribute 'optimise'"):
        nb.optimise  # noqa: B018


def test_type_checkers_see_the_names_that_are_imported_at_run_time() -> None:
    tree = ast.parse(Path(nb.__file__).read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    declared = {
        alias.name: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert set(declared) | {"__version__"} == set(nb.__all__)
    for name, module in declared.items():
        assert module is not None
        assert getattr(importlib.import_module(module), name) is getattr(nb, name)


def test_every_public_name_has_a_docstring() -> None:
    undocumented = [n for n in nb.__all__ if callable(getattr(nb, n)) and not getattr(nb, n).__doc__]
    assert undocumented == []


def test_importing_the_package_imports_nothing_but_itself(modules_of_dspy: set[str]) -> None:
    added = _modules_after("import dspy, dspy_nb") - modules_of_dspy
    assert added == {"dspy_nb"}


@pytest.mark.parametrize("module", _HEAVY)
def test_using_every_public_name_imports_nothing_heavy_that_dspy_does_not(
    module: str, modules_of_dspy: set[str], modules_with_every_name: set[str]
) -> None:
    assert module not in modules_with_every_name - modules_of_dspy


def test_a_widget_brings_its_library_along_at_first_use(modules_with_every_name: set[str]) -> None:
    assert "dspy_nb.widgets" not in modules_with_every_name
    assert "ipywidgets" in _modules_after("from dspy_nb import RegistryBrowser")


def test_importing_has_no_side_effects(tmp_path: Path) -> None:
    program = """
import os, threading
before = dict(os.environ), os.getcwd(), threading.active_count()
import dspy_nb
assert before == (dict(os.environ), os.getcwd(), threading.active_count())
"""
    done = _run(program, cwd=tmp_path)
    assert (done.stdout, done.stderr, list(tmp_path.iterdir())) == ("", "", [])
