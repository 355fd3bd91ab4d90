"""What Python calls show where they are made: on a terminal, in IPython on one, with output to a file."""

from __future__ import annotations

import fcntl
import os
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from tests import ROOT

pytestmark = pytest.mark.heavy

_SCRIPT = """
import dspy
import dspy_nb as nb
from tests.scripted import classifier, reviews, scripted_lm
dspy.configure(lm=scripted_lm())
sets = {"trainset": reviews(6, "train"), "valset": reviews(6, "val")}
metric = nb.exact_match("sentiment")
budget = nb.Budget(lm_calls=500)
run = nb.optimize(classifier(), **sets, metric=metric, preset="light", num_threads=2, budget=budget)
print("candidates:", len(run.candidates), flush=True)
"""
_ANSI = re.compile(r"\x1b\[[\d;?]*[A-Za-z]")


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "script.py"
    path.write_text(_SCRIPT)
    return path


def environment(**more: str) -> dict[str, str]:
    unset = {"COLUMNS", "DSPY_NB_PROGRESS", "NO_COLOR", "TQDM_DISABLE"}
    kept = {name: value for name, value in os.environ.items() if name not in unset}
    return {**kept, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "", "TERM": "xterm", **more}


def on_terminal(*command: str, width: int, folder: Path, typed: str = "", **more: str) -> list[str]:
    """Run a command on a terminal of that width; return what was on its lines one after the other."""
    outside, inside = os.openpty()
    fcntl.ioctl(inside, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
    process = subprocess.Popen(
        [sys.executable, *command], stdin=inside, stdout=inside, stderr=inside, cwd=folder, env=environment(**more),
        start_new_session=True,
    )  # fmt: skip
    os.close(inside)
    os.write(outside, typed.encode())
    written = b""
    try:
        while more_of_it := os.read(outside, 65536):
            written += more_of_it
    except OSError:  # Linux's way to say that the other side is closed
        pass
    finally:
        os.close(outside)
    assert process.wait() == 0, written.decode()
    return [shown for line in written.decode().split("\r\n") for shown in line.split("\r") if shown.strip()]


@pytest.mark.parametrize("width", [60, pytest.param(100, marks=pytest.mark.slow)])
def test_a_script_on_a_terminal_shows_a_bar_that_fits(script, width):
    lines = on_terminal(str(script), width=width, folder=script.parent)
    *bars, said = lines
    assert said.startswith("candidates: ")
    shown = [_ANSI.sub("", bar) for bar in bars]
    assert shown[0].startswith("BootstrapFewShot")
    assert all(len(bar) < width for bar in shown)
    assert re.search(r"completed.*\|█{10,}\| \d+ (LM )?calls, best \d+\.\d%", shown[-1])
    assert bars[-1].startswith("\x1b[3")


def test_no_color_and_the_environment_variable_are_heeded(script):
    lines = on_terminal(str(script), width=100, folder=script.parent, NO_COLOR="1")
    assert not any("\x1b" in line for line in lines)
    (said,) = on_terminal(str(script), width=100, folder=script.parent, DSPY_NB_PROGRESS="off")
    assert said.startswith("candidates: ")


def test_in_ipython_on_a_terminal_there_is_a_bar_too(script):
    command = "-m", "IPython", "--no-banner", "--simple-prompt", "--no-confirm-exit"
    typed = f"%run {script.name}\nexit\n"
    lines = on_terminal(*command, width=100, folder=script.parent, typed=typed, IPYTHONDIR=str(script.parent))
    assert any("completed" in line and "█" in line for line in lines), lines
    assert any(line.startswith("candidates: ") for line in lines)


def test_with_output_to_a_file_it_is_quiet(script):
    file = script.parent / "out.txt"
    with file.open("w") as out:
        command = [sys.executable, str(script)]
        subprocess.run(command, stdout=out, stderr=out, cwd=script.parent, env=environment(), check=True)
    (said,) = file.read_text().splitlines()
    assert said.startswith("candidates: ")
