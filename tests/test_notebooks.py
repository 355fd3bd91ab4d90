"""Executing notebooks: what is kept, what is said, and what is left behind."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest

import dspy_nb
from dspy_nb.cli.notebooks import NotebookFailed, run_notebook

pytestmark = pytest.mark.heavy


def _notebook(path: Path, *sources: str) -> Path:
    cells = [
        nbformat.v4.new_markdown_cell(source) if source.startswith("#") else nbformat.v4.new_code_cell(source)
        for source in sources
    ]
    notebook = nbformat.v4.new_notebook(cells=cells)
    notebook.metadata["kernelspec"] = {"name": "no-such-kernel", "display_name": "x", "language": "python"}
    nbformat.write(notebook, path)
    return path


def test_it_runs_on_this_interpreter_in_the_folder_and_says_what_each_cell_printed(tmp_path: Path) -> None:
    source = _notebook(
        tmp_path / "source.ipynb",
        "# First steps",
        "import sys; print(sys.executable)",
        "import os; print(os.getcwd(), os.environ['FROM_OUTSIDE'])",
        "## Much text",
        "for number in range(100): print('line', number)",
        "",
    )
    before = source.read_bytes()
    out = io.StringIO()
    folder = tmp_path / "folder"
    folder.mkdir()
    copy = folder / "copy.ipynb"
    duration_s = run_notebook(source, copy, folder=folder, environment={"FROM_OUTSIDE": "here"}, out=out)

    said = out.getvalue()
    assert duration_s > 0
    assert said.startswith("[ 1/3] First steps\n")
    assert f"      {sys.executable}\n" in said
    assert f"      {folder} here\n" in said
    assert "[ 3/3] Much text" in said
    assert "line 23\n      ... 76 more lines" in said
    assert source.read_bytes() == before
    executed = nbformat.read(copy, as_version=4)
    assert [cell.execution_count for cell in executed.cells if cell.cell_type == "code"] == [1, 2, 3, None]


def test_a_failing_cell_is_one_line_and_the_copy_shows_it(tmp_path: Path) -> None:
    source = _notebook(
        tmp_path / "source.ipynb",
        "print('before')",
        "from dspy_nb.core.errors import InputError\nraise InputError('no such field')",
        "print('never')",
    )
    copy = tmp_path / "copy.ipynb"
    environment = {"PYTHONPATH": str(Path(dspy_nb.__file__).parents[1])}
    with pytest.raises(
        NotebookFailed, match=r"code cell 2 of 3 \(.*\) failed: InputError: no such field; see .*copy\.ipynb"
    ):
        run_notebook(source, copy, folder=tmp_path, environment=environment, out=io.StringIO())
    printed, failed, never = (cell.outputs for cell in nbformat.read(copy, as_version=4).cells)
    assert "".join(output.text for output in printed) == "before\n"  # in one piece or in two
    assert [output.output_type for output in failed] == ["error"]
    assert never == []


def test_an_interrupt_stops_the_kernel_and_keeps_what_was_executed(tmp_path: Path) -> None:
    source = _notebook(
        tmp_path / "source.ipynb",
        "import os; open('pid', 'w').write(str(os.getpid()))",
        "import time; time.sleep(60)",
    )
    program = f"""
import signal, sys
from pathlib import Path
from dspy_nb.cli.notebooks import run_notebook
signal.signal(signal.SIGINT, signal.default_int_handler)  # which is ignored where tests run in the background
try:
    run_notebook(Path({str(source)!r}), Path("copy.ipynb"), folder=Path("."), out=sys.stderr)
except KeyboardInterrupt:
    print("interrupted")
"""
    environment = os.environ | {"PYTHONPATH": str(Path(dspy_nb.__file__).parents[1])}
    process = subprocess.Popen(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True
    )
    pid = tmp_path / "pid"
    while not (pid.exists() and pid.read_text()) and process.poll() is None:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=60)[0] == "interrupted\n"
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)
    assert (tmp_path / "copy.ipynb").exists()
