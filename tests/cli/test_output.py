"""What the command prints, and how it ends where that cannot be printed: never with a traceback, 1 is for a no."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import dspy
import pytest

import dspy_nb as nb
from dspy_nb.cli import main as command
from dspy_nb.cli.main import main
from dspy_nb.views.rendering.terminal import width_of

NASTY = "a\x1b]0;PWN\x07\x1b[2J \x9b1m \u202e é 😀"
HIDDEN = "\x1b\x07\x9b\u202e"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    program = dspy.Predict("question -> answer")
    program.demos = [{"question": NASTY, "answer": NASTY}]
    registry = nb.Registry("registry")
    registry.register(program, "m", notes=NASTY, by=NASTY, metadata={"optimizer": NASTY, "base_model": NASTY})
    registry.register(dspy.Predict(dspy.Signature("question -> answer", NASTY)), "m", notes=NASTY)
    registry.promote("m@1.0.0", "staging", reason=NASTY)
    (tmp_path / "registry" / "models" / "m" / "2.0.0").mkdir()
    (tmp_path / "registry" / "models" / "m" / "2.0.0" / NASTY.replace("/", "")).touch()
    return tmp_path


COMMANDS = [
    ["list"], ["show", "m@1.0.0"], ["history", "m"], ["diff", "m@1.0.0", "m@1.0.1"], ["check"], ["presets"],
    ["show", "m@1.0.1"], ["show", NASTY], ["promote", "m@1.0.1", NASTY], ["gate", NASTY], ["deploy", "m", NASTY],
]  # fmt: skip


@pytest.mark.parametrize("arguments", COMMANDS, ids=lambda words: words[0])
def test_no_command_prints_a_control(
    folder: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    for line in (arguments, [*arguments, "--json"]):
        main(line)
        shown = capsys.readouterr()
        assert not set(shown.out + shown.err) & set(HIDDEN)
    assert not set((folder / "registry/models/m/1.0.0/README.md").read_text(encoding="utf-8")) & set(HIDDEN)


def test_json_reads_back_as_it_was(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["show", "m@1.0.0", "--json"])
    assert json.loads(capsys.readouterr().out)["notes"] == NASTY


def test_what_nobody_expected_is_one_line_and_status_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Odd(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    for error, words in (
        (ValueError("a\nb\x1b"), r"ValueError: a b\x1b ("),
        (Odd(), "Odd: (no message"),
        (SystemExit(1), "status 1"),
    ):

        def fail(*_: object, error: BaseException = error, **__: object) -> None:
            raise error

        monkeypatch.setattr(command.cli, "main", fail)
        assert main([]) == 2
        shown = capsys.readouterr().err
        assert words in shown
        assert shown.count("\n") == 1


def run(
    arguments: list[str], out: object = subprocess.PIPE, **environment: str
) -> subprocess.CompletedProcess[bytes]:
    everything = os.environ | {"PYTHONPATH": str(Path(nb.__file__).parents[1]), **environment}
    line = [sys.executable, "-m", "dspy_nb", *arguments]
    return subprocess.run(line, stdout=out, stderr=subprocess.PIPE, env=everything, check=False)


@pytest.mark.heavy
def test_what_the_terminal_does_not_know_is_a_question_mark(folder: Path) -> None:
    done = run(["history", "m"], PYTHONIOENCODING="latin-1", PYTHONUTF8="0")
    assert (done.returncode, done.stderr) == (0, b"")
    assert "?" in done.stdout.decode("latin-1")
    data = run(["show", "m@1.0.0", "--json"], PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert json.loads(data.stdout.decode("ascii"))["notes"] == NASTY


@pytest.mark.heavy
def test_output_that_nobody_can_take_is_status_2(folder: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        done = run(["list"], full.fileno())
    assert (done.returncode, done.stderr) == (2, b"Error: [Errno 28] No space left on device\n")
    reading, writing = os.pipe()
    os.close(reading)
    for line in (["list"], ["--help"]):
        done = run(line, writing)
        assert (done.returncode, done.stderr) == (2, b"")
    os.close(writing)


def test_a_closed_stdout_is_told_before_anything_is_done(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    assert main(["list"]) == 2
    assert (
        capsys.readouterr().err
        == "Error: stdout is closed: redirect it to /dev/null if nobody is to read it\n"
    )


DIGITS = "9" * 5000


@pytest.mark.parametrize(
    "line",
    [
        ["gate", "big.json", "--min-score", "0.5"],
        [
            "evaluate",
            "--program",
            "app.py:program",
            "--test-data",
            "big.jsonl",
            "--metric",
            "exact_match:answer",
        ],
        ["list", "--registry", "other"],
    ],
    ids=lambda line: line[0],
)
def test_an_integer_of_5000_digits_is_no_traceback(
    folder: Path, line: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("big.json").write_text(f'{{"schema_version": {DIGITS}}}', encoding="utf-8")
    Path("big.jsonl").write_text(f'{{"question": "q", "answer": {DIGITS}}}\n', encoding="utf-8")
    Path("app.py").write_text("import dspy\nprogram = dspy.Predict('question -> answer')\n", encoding="utf-8")
    log = Path("other/models/m/log")
    log.mkdir(parents=True)
    (log / "000001.json").write_text(f'{{"number": {DIGITS}}}', encoding="utf-8")
    assert main(line) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("Error: ")
    assert shown.count("\n") == 1


# -- terminals -----------------------------------------------------------------------------------------------


def on_a_terminal(monkeypatch: pytest.MonkeyPatch, columns: int, **variables: str) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    for name in ("NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"COLUMNS": str(columns), **variables}.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("columns", [60, 80, 100, 200])
@pytest.mark.parametrize("arguments", [["list"], ["history", "m"], ["show", "m@1.0.0"], ["presets"]])
def test_a_terminal_is_never_too_narrow(
    folder: Path,
    arguments: list[str],
    columns: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    on_a_terminal(monkeypatch, columns)
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert "\x1b[1m" in shown
    text = re.sub(r"\x1b\[\d*m", "", shown)
    assert not set(text) & set(HIDDEN)
    assert [line for line in text.splitlines() if width_of(line) > columns and len(line.split()) > 2] == []


@pytest.mark.parametrize("variables", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_whoever_wants_no_colour_gets_none(
    folder: Path,
    variables: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    on_a_terminal(monkeypatch, 80, **variables)
    for line in (["list"], ["list", "--json"]):
        main(line)
        assert "\x1b" not in capsys.readouterr().out


def test_a_pipe_gets_whole_lines_without_colour(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["list"])
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert "language model" in shown


@pytest.mark.skipif(sys.platform == "win32", reason="no pty")
def test_a_real_terminal_says_its_width(folder: Path) -> None:
    import fcntl
    import pty
    import struct
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 72, 0, 0))
    kept = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "NO_COLOR")}
    command = [sys.executable, "-m", "dspy_nb", "list"]
    done = subprocess.run(command, stdout=theirs, env={**kept, "TERM": "xterm"}, check=True)
    os.close(theirs)
    shown = os.read(ours, 10**6).decode()
    os.close(ours)
    assert done.returncode == 0
    assert "\x1b[1mVersions\x1b[0m" in shown
    assert max(map(width_of, re.sub(r"\x1b\[\d*m", "", shown).splitlines())) <= 72
