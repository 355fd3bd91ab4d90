"""The recorded answers of the embedded model, as a pytest plugin (``-p tests.recorded``) and as a command.

A run with the plugin answers from ``answers.jsonl`` what it holds, and at its end

- names how many questions the file did not hold: those were put to the model (``make record`` writes them),
- puts some of the recorded questions to the model again, others each time: the answers must be the same, or the run
  has failed. On another kind of processor than the one they were recorded on they are compared and counted only,
  since a word may differ there.

``DSPY_NB_LOCAL_ANSWERS=`` (set, and empty) computes everything.
"""

from __future__ import annotations

import json
import os
import platform
import random
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import astuple
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:  # conftest.py says where DSPy's cache is, before anything imports DSPy
    from dspy_nb.core.local.recording import Asked

ANSWERS, ASKED = "DSPY_NB_LOCAL_ANSWERS", "DSPY_NB_LOCAL_ASKED"
FOLDER = Path(__file__).parent
FILE = FOLDER / "answers.jsonl"
_PROCESSOR = FOLDER / "processor.json"
_SAMPLE = 8


def processor() -> dict[str, object]:
    """Return what decides how llama.cpp computes here: the instructions that it may choose from."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return {"machine": platform.machine(), "name": platform.processor(), "flags": []}
    facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = [flag for flag in facts.get("flags", facts.get("Features", "")).split() if _is_wide(flag)]
    return {"machine": platform.machine(), "name": facts.get("model name", ""), "flags": sorted(flags)}


def _is_wide(flag: str) -> bool:
    return flag.startswith(("avx", "fma", "f16c", "amx", "sse4", "bmi2", "asimd", "sve", "i8mm", "bf16"))


def chosen(asked: Iterable[Asked], number: int, seed: int) -> list[Asked]:
    """Return some of the questions that were answered from the file, whatever order they come in."""
    recorded = sorted({each.key: each for each in asked if each.recorded}.items())
    return [each for _, each in random.Random(seed).sample(recorded, min(number, len(recorded)))]


def ask_again(asked: Iterable[Asked], number: int, seed: int) -> list[Asked]:
    """Put some of the recorded questions to the model; return those that it answers differently."""
    from dspy_nb.core.local.server import shared_server

    return [
        each
        for each in chosen(asked, number, seed)
        if shared_server(each.name, 1).ask(each.prefix, each.rest, each.options)[0] != each.answer
    ]


def read_asked(folder: Path) -> Iterator[Asked]:
    """Yield what all processes wrote into ``folder``, in no particular order."""
    from dspy_nb.core.local.recording import Asked
    from dspy_nb.core.local.server import Completion

    for file in folder.glob("*.jsonl"):
        for line in file.read_text(encoding="utf-8").splitlines(keepends=True):
            if line.endswith("\n"):  # not one that a process was killed in
                name, prefix, rest, options, answer, recorded = json.loads(line)
                yield Asked(name, prefix, rest, options, Completion(*answer), recorded)


def write_answers(file: Path, asked: Iterable[Asked]) -> None:
    """Write the answers to what was asked into ``file``, and nothing else."""
    answers = {each.key: astuple(each.answer) for each in asked}
    lines = [json.dumps([key, *answers[key]], ensure_ascii=False) for key in sorted(answers)]
    file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def main(folder: str) -> None:
    """Write down all that was asked in the runs that left their questions in ``folder``."""
    asked = list(read_asked(Path(folder)))
    write_answers(FILE, asked)
    _PROCESSOR.write_text(json.dumps(processor(), indent=2) + "\n", encoding="utf-8")
    print(f"{len({each.key for each in asked})} answers in {FILE.relative_to(FOLDER.parents[1])}")


# -- the plugin ---------------------------------------------------------------------------------------------


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The embedded model computes its answers in this test, whatever was recorded."""
    monkeypatch.delenv(ANSWERS, raising=False)


def pytest_configure(config: pytest.Config) -> None:
    """Let this process, its kernels and its children answer from the file."""
    if hasattr(config, "workerinput") or os.environ.get(ANSWERS) == "":
        return  # xdist's workers inherit the environment
    os.environ.setdefault(ANSWERS, str(FILE))
    if ASKED not in os.environ:
        folder = tempfile.mkdtemp(prefix="dspy-nb-asked-")
        config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
        os.environ[ASKED] = folder


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Ask some questions again, and fail the run if an answer has changed."""
    config = session.config
    if hasattr(config, "workerinput") or not os.environ.get(ASKED):
        return
    asked = list(read_asked(Path(os.environ[ASKED])))
    if not asked:
        return
    new = {each.key for each in asked if not each.recorded}
    used = len({each.key for each in asked} - new)
    lines = [f"{used} answers from {FILE.relative_to(FOLDER.parents[1])}"]
    if new:
        lines.append(
            f"{len(new)} questions are not in it and were put to the model; make record writes them down"
        )
    seed = random.SystemRandom().randrange(2**32)
    number = min(_SAMPLE, used)
    changed = ask_again(asked, number, seed)
    here, there = processor(), json.loads(_PROCESSOR.read_text("utf-8")) if _PROCESSOR.exists() else None
    lines.append(f"{number - len(changed)} of {number} that were asked again (seed {seed}) are the same")
    if changed and here == there:
        lines.append(
            f"CHANGED: {changed[0].rest[-300:]!r} is not answered {changed[0].answer.text!r} any more"
        )
        if exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
    elif number and here != there:
        lines.append("they were recorded on another kind of processor")
    config.stash[_LINES] = lines


_LINES = pytest.StashKey[list[str]]()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say how many answers came from where."""
    if lines := config.stash.get(_LINES, None):
        terminalreporter.section("the embedded model")
        for line in lines:
            terminalreporter.line(line)
