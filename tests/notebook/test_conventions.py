"""What people may expect of magics and widgets, convention by convention; where its own test is, that is named.

The numbers are those of a survey of magics and widgets that people use (IPython's, ipyparallel, jupysql, tqdm,
itables and others). A convention is either tried here, or ``ELSEWHERE`` says which test tries it.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import dspy
import pytest
from IPython.core.completer import provisionalcompleter
from IPython.utils.capture import capture_output

from dspy_nb.commands import COMMANDS
from dspy_nb.core.errors import DspyNbError
from tests import ROOT
from tests.notebook.test_optimize import OPTIMIZE, Notebook

MAGICS = sorted(verb.magic for verb in COMMANDS if verb.magic is not None)

ELSEWHERE = {
    7: "tests/notebook/test_assigned_results.py",  # a value comes back, and is shown once
    12: "tests/views/test_every_result.py",  # text and escaped HTML of every result
    13: "tests/views/progress/test_display.py",  # bars that end in colours, text where there is no kernel
    14: "tests/notebook/browser/test_reload.py",  # no widget state is needed after a reload
    15: "tests/notebook/browser/test_panel.py",  # Stop works while the cell runs
    17: "tests/views/test_examples.py",  # embedded tables are capped, and say so
    18: "tests/notebook/test_runs.py",  # work in the background, recalled later
}
"""Convention to the file that tries it."""


@pytest.fixture
def notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, magics: object) -> Iterator[Notebook]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DSPY_NB_CONFIG_DIR", str(tmp_path / "config"))
    yield Notebook(magics)  # type: ignore[arg-type]
    DspyNbError.short = True


def test_1_a_plain_import_changes_nothing() -> None:
    code = (
        "import logging, sys, threading, warnings, signal\n"
        "def state(): return (threading.active_count(), list(warnings.filters), len(logging.root.handlers),\n"
        "    signal.getsignal(signal.SIGINT), 'IPython' in sys.modules, 'dspy' in sys.modules)\n"
        "before = state()\nimport dspy_nb\nassert state() == before\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.mark.parametrize("magic", MAGICS)
def test_2_the_help_of_a_magic_lists_its_options(notebook: Notebook, magic: str) -> None:
    text = notebook.shell.find_line_magic(magic).__doc__
    assert text.startswith(f"Usage: %{magic}")
    assert "--help" in text


@pytest.mark.parametrize("magic", MAGICS)
def test_3_asking_for_help_prints_it_and_does_nothing(notebook: Notebook, magic: str) -> None:
    value, printed = notebook.run(f"%{magic} --help")
    assert value is None
    assert printed.startswith(f"Usage: %{magic}")
    assert notebook.engine.calls == 0


def test_4_a_mistake_is_one_line_and_who_wants_to_see_more_can(notebook: Notebook) -> None:
    assert notebook.fail(f"{OPTIMIZE} --seed many").startswith("InputError: ")
    notebook.run("%config DspyNb.short_errors = False")
    with capture_output() as captured, dspy.context(lm=notebook["lm"]):
        assert not notebook.shell.run_cell(f"{OPTIMIZE} --seed many").success
    assert "Traceback (most recent call last)" in captured.stdout
    notebook.run("%config DspyNb.short_errors = True")
    notebook.fail(f"{OPTIMIZE} --seed many")


def test_5_names_in_braces_and_after_dollars_are_expanded(notebook: Notebook) -> None:
    notebook.shell.user_ns["effect"] = 0.2
    assert notebook.run("%dspy_evaluate --plan {effect}") == notebook.run("%dspy_evaluate --plan $effect")


def test_6_objects_are_named_and_found_where_the_cell_can_see_them(notebook: Notebook) -> None:
    line = "%dspy_optimize mine --train train --metric exact_match:sentiment --dry-run"
    cell = f"def inner():\n    mine = program\n    found = {line}\n    return found\ninner().lm_calls"
    value, _ = notebook.run(cell)
    assert value > 0


def test_8_what_is_not_wanted_can_be_silenced(notebook: Notebook) -> None:
    value, printed = notebook.run(
        "%dspy_evaluate program --data test --metric exact_match:sentiment --quiet;"
    )
    assert (value, printed) == (None, "")


def test_9_defaults_are_configured_and_checked(notebook: Notebook) -> None:
    notebook.run("%config DspyNb.confidence = 0.9")
    notebook.run("value = %dspy_evaluate program --data test --metric exact_match:sentiment")
    assert notebook["value"].confidence == 0.9
    notebook.shell.run_cell("%config DspyNb.confidence = 2")
    notebook.run("value = %dspy_evaluate program --data test --metric exact_match:sentiment")
    assert notebook["value"].confidence == 0.9


def test_10_tab_completes_names_and_options(notebook: Notebook) -> None:
    line = "%dspy_optimize program --tr"
    with provisionalcompleter():
        found = [one.text for one in notebook.shell.Completer.completions(line, len(line))]
    assert "--train" in found


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("--trian train", "--trian"),
        ("--optimizer COPRO --preset light", "light"),
        ("--seed 'one", "quotation mark"),
    ],
)
def test_11_what_is_unknown_or_contradicts_is_named(notebook: Notebook, line: str, words: str) -> None:
    assert words in notebook.fail(f"{OPTIMIZE} {line}")


def test_16_what_is_interrupted_keeps_what_it_has_and_says_so(notebook: Notebook) -> None:
    notebook.engine.failing = lambda number, request: KeyboardInterrupt() if number == 20 else None
    _, printed = notebook.run(
        "kept = %dspy_evaluate program --data test --metric exact_match:sentiment --threads 1"
    )
    assert notebook["kept"].complete is False
    assert 0 < notebook["kept"].n < 30
    assert "partial" in printed.lower() or "interrupted" in printed.lower()


def test_every_convention_has_its_test() -> None:
    here = ast.parse(Path(__file__).read_text(encoding="utf-8"))
    functions = [node.name for node in ast.walk(here) if isinstance(node, ast.FunctionDef)]
    tried = {int(number) for name in functions if (number := "".join(re.findall(r"^test_(\d+)_", name)))}
    assert tried | set(ELSEWHERE) == set(range(1, 19))
    assert tried & set(ELSEWHERE) == set()
    assert [path for path in ELSEWHERE.values() if not (ROOT / path).is_file()] == []
