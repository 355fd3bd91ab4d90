"""Rules of the repository that no single module can keep: imports, notebooks, what may be committed."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import nbformat
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests import ROOT


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


_FORBIDDEN = {
    "core/example.py": [
        "import IPython\n",
        "from IPython.display import HTML\n",
        "import ipywidgets as widgets\n",
        "import matplotlib.pyplot as plt\n",
        "from .. import notebook\n",
        "from ..notebook.widgets import progress\n",
        "from dspy_nb.views import run\n",
        "def draw():\n    import matplotlib\n",
        "import dspy_nb as nb\n",
    ],
    "core/evaluation/example.py": [
        "from dspy_nb.core.models import names\n",
        "from dspy_nb.core.ab import duel\n",
    ],
    "core/models/example.py": ["from dspy_nb.core.traffic import store\n"],
    "core/traffic/example.py": ["from dspy_nb.core.deployment import history\n"],
    "core/statistics/example.py": ["from dspy_nb.core.data import rows\n"],
    "core/storage/example.py": ["from dspy_nb.core.registry import registry\n"],
    "cli/example.py": ["from dspy_nb.notebook import listeners\n"],
    "notebook/example.py": ["from dspy_nb.cli import shell\n"],
    "plots/example.py": ["from IPython.display import display\n"],
    "views/example.py": ["from dspy_nb.plots import figures\n", "import click\n"],
}
_ALLOWED = {
    "notebook/example.py": ["import IPython\n", "from dspy_nb.plots import figures\n"],
    "cli/example.py": ["import click\n", "from dspy_nb.core.registry import registry\n"],
    "views/example.py": ["from dspy_nb.core.ab import duel\n"],
}


def _contract(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache", "--no-logo"]
    environment = os.environ | {"PYTHONPATH": str(folder), "COLUMNS": "500"}
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=environment)


def _as_modules(imports: dict[str, list[str]]) -> list[tuple[str, str]]:
    """Return (file, source), each import in a file of its own."""
    return [
        (file.replace(".py", f"_{number}.py"), source)
        for file, sources in imports.items()
        for number, source in enumerate(sources)
    ]


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What import-linter says of the package with every forbidden import in it, and some allowed ones."""
    folder = tmp_path_factory.mktemp("house")
    shutil.copy(ROOT / "pyproject.toml", folder)
    shutil.copytree(ROOT / "dspy_nb", folder / "dspy_nb", ignore=shutil.ignore_patterns("__pycache__"))
    for file, source in _as_modules(_FORBIDDEN):
        (folder / "dspy_nb" / file).write_text(source)
    for file, source in _as_modules(_ALLOWED):
        (folder / "dspy_nb" / file.replace("example", "allowed")).write_text(source)
    done = _contract(folder)
    assert done.returncode == 1, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(("file", "source"), _as_modules(_FORBIDDEN))
def test_an_import_against_the_direction_of_the_house_is_found(file: str, source: str, broken: str) -> None:
    module = "dspy_nb." + file.removesuffix(".py").replace("/", ".")
    assert re.search(rf"{re.escape(module)}\b", broken), source


@pytest.mark.parametrize(("file", "source"), _as_modules(_ALLOWED))
def test_an_import_in_the_direction_of_the_house_is_allowed(file: str, source: str, broken: str) -> None:
    module = "dspy_nb." + file.removesuffix(".py").replace("/", ".").replace("example", "allowed")
    assert not re.search(rf"{re.escape(module)}\b", broken), source


def test_the_house_keeps_its_contract() -> None:
    done = _contract(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


_PUBLIC_DSPY = {"dspy", "dspy.lm15", "dspy.teleprompt", "dspy.utils"}
_INTERNALS = {
    "ACTIVE_CALL_ID", "DEFAULT_CONFIG", "IS_TYPE_UNDEFINED", "__dspy_field_type", "_compiled", "_engine_spec",
    "_input_keys",
}  # fmt: skip


def _seams(source: str) -> list[str]:
    """Return what a module uses of DSPy's internals."""
    found: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append(node.module or "")
        elif isinstance(node, ast.Attribute):
            found.append(node.attr)
        elif isinstance(node, ast.Name):
            found.append(node.id)
        elif isinstance(node, ast.Constant):
            found.append(str(node.value))
    return [
        name
        for name in found
        if name in _INTERNALS or (re.fullmatch(r"dspy(\.\w+)+", name) and name not in _PUBLIC_DSPY)
    ]


def test_the_seams_into_dspy_stand_in_one_room() -> None:
    room, below = ROOT / "dspy_nb/core/programs", ROOT / "dspy_nb/core/data/identity.py"
    files = [file for file in (ROOT / "dspy_nb").rglob("*.py") if file.parent != room and file != below]
    assert {str(file): found for file in files if (found := _seams(file.read_text("utf-8")))} == {}
    assert _seams(below.read_text("utf-8")) == ["_input_keys"]
    assert _seams((room / "seams.py").read_text("utf-8"))


def test_no_room_and_no_file_is_too_large() -> None:
    files = sorted((ROOT / "dspy_nb").rglob("*.py"))
    long = {
        str(file.relative_to(ROOT)): n for file in files if (n := file.read_text("utf-8").count("\n")) > 450
    }
    assert long == {}
    rooms = Counter(file.parent for file in files if file.name != "__init__.py")
    assert {str(room.relative_to(ROOT)): n for room, n in rooms.items() if n > 16} == {}


_NOT_IMPORTED = {
    "dask": "distributed needs the one of its own version",
    "ipykernel": "notebooks are executed in a process of it, and 7.0.0 breaks widgets",
    "optuna": "DSPy's MIPROv2 imports it, after the money is spent",
}


def test_every_library_that_is_imported_is_declared_and_every_declared_one_is_imported() -> None:
    imported: set[str] = set()
    for file in (ROOT / "dspy_nb").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                imported.add(node.module.partition(".")[0])
    libraries = imported - sys.stdlib_module_names - {"dspy_nb"}
    distributions = packages_distributions()
    provided = {name: {canonicalize_name(d) for d in distributions.get(name, [name])} for name in libraries}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    texts = [*project["dependencies"], *extras["local"], *extras["distributed"], *extras["object-store"]]
    declared = {canonicalize_name(Requirement(text).name) for text in texts}
    assert {name for name, found in provided.items() if not found & declared} == set()
    assert declared - set().union(*provided.values()) == set(_NOT_IMPORTED)


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
