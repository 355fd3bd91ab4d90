"""What a run directory says of the last run in it, also where it is damaged, half-written or somebody else's."""

from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from dspy_nb.core.event_log import is_held
from dspy_nb.core.events import Completed, Failed, HeldOut, Progress, Started
from dspy_nb.core.text import one_line

Status = Literal["running", "completed", "stopped", "failed", "lost", "silent", "damaged"]

_TAIL: Final = 32 * 2**20  # a log of a day of work has a third of that
_LARGEST_MANIFEST: Final = 64 * 2**20
_MANIFEST: Final = {"schema_version", "optimizer", "program", "metric"}
_SKIPPED: Final = {"__pycache__", "cache", "node_modules", "site-packages", "venv"}
_MOST_FOLDERS: Final = 5_000


@dataclass(frozen=True)
class Trace:
    """What a run directory says of the last run in it.

    Attributes:
        run_dir: the directory; ``None`` of a run of this process that has none.
        status: "running", as long as a process holds the log; "completed", "stopped" and "failed", as the run said
            itself; "lost" where it did not say how it ended; "silent" where it has no log; "damaged".
        optimizer: name, "" if it is not known.
        run_ids: of all runs in the directory, the oldest first.
        began_at: when the last one began, ISO 8601, "" if it is not known.
        stopped_by: see ``OptimizationRun.stopped_by``.
        problem: why it failed, or what is damaged.
        score: the best score on the examples that candidates are compared on, as a fraction, if known.
        baseline_score: that of the program as it was given, if known.
        held_out: what changed on examples that the search never saw, as far as that is known.
        lm_calls: uncached LM calls so far, if known.
        budget: its limits, by name.
    """

    run_dir: Path | None
    status: Status
    optimizer: str = ""
    run_ids: tuple[str, ...] = ()
    began_at: str = ""
    stopped_by: str | None = None
    problem: str = ""
    score: float | None = None
    baseline_score: float | None = None
    held_out: HeldOut | None = None
    lm_calls: int | None = None
    budget: Mapping[str, float] = field(default_factory=dict)


class _Damaged(Exception):
    """Something is not what a run writes; the text says what."""


def read_trace(folder: Path) -> Trace:
    """Return what a folder says; nothing is written, and whatever is in it raises nothing."""
    optimizer = ""
    try:
        optimizer = _optimizer(folder / "manifest.json")
        return _last_run(folder, optimizer)
    except (_Damaged, OSError) as error:
        why = (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
        return Trace(folder, "damaged", optimizer, problem=one_line(why, 200))


def find_traces(folders: Iterable[Path], depth: int) -> Iterator[tuple[str, Trace]]:
    """Yield run directories, as real paths, with what they say: the folders, and those below down to ``depth``.

    Hidden folders, environments and caches are left out, as is whatever lies beyond 5,000 folders.
    """
    queue = [(folder, depth) for folder in folders]
    seen: set[str] = set()
    for folder, left in queue:
        if (place := os.path.realpath(folder)) in seen or len(seen) >= _MOST_FOLDERS:
            continue
        seen.add(place)
        names = _names(folder)
        if (trace := _trace_in(folder, set(names))) is not None:
            yield place, trace
        elif left:
            queue += [(folder / name, left - 1) for name, is_folder in names.items() if is_folder]


def _names(folder: Path) -> dict[str, bool]:
    """Return what is in a folder, and whether it is one to look into."""
    try:
        with os.scandir(folder) as entries:
            return {
                entry.name: entry.is_dir(follow_symlinks=False)
                and not entry.name.startswith(".")
                and entry.name not in _SKIPPED
                for entry in sorted(entries, key=lambda entry: entry.name)
            }
    except OSError:
        return {}


def _trace_in(folder: Path, names: set[str]) -> Trace | None:
    """Return what a folder says if a run has written there; the files of others have such names as well."""
    if "manifest.json" in names:
        trace = read_trace(folder)
        of_a_run = trace.status != "damaged" or "events.jsonl" in names
        return trace if of_a_run or ("cache" in names and (folder / "cache/cache.db").exists()) else None
    if "events.jsonl" not in names:
        return None
    try:
        began = _read(folder / "events.jsonl", 4096, 0).startswith(b'{"event": "Started"')
    except (_Damaged, OSError):
        return None
    return read_trace(folder) if began else None


def _optimizer(file: Path) -> str:
    """Return the optimizer that a manifest names, "" where there is none."""
    try:
        manifest = json.loads(_read(file, _LARGEST_MANIFEST, 0))
    except FileNotFoundError:
        return ""
    except (ValueError, RecursionError):
        raise _Damaged("manifest.json holds no JSON") from None
    if not isinstance(manifest, dict) or not manifest.keys() >= _MANIFEST:
        raise _Damaged("manifest.json is not that of a run")
    return one_line(manifest["optimizer"], 80)


def _last_run(folder: Path, optimizer: str) -> Trace:
    file = folder / "events.jsonl"
    try:
        held, content = is_held(file), _read(file, _TAIL, os.SEEK_END)  # held or not before what it says
    except FileNotFoundError:
        return Trace(folder, "silent", optimizer)
    lines = content.split(b"\n")[:-1]  # the last one is empty, or cut short by a crash
    began = [number for number, line in enumerate(lines) if _is(line, Started)]
    if not began:
        if content and not _is(content, Started):
            raise _Damaged("events.jsonl holds no events of runs")
        return Trace(folder, "running" if held else "silent", optimizer)
    last = lines[began[-1] :]
    starts = [_event(lines[number], Started) for number in began]
    progress = next(
        (_event(line, Progress) for line in reversed(last) if _is(line, Progress)), Progress(0, "")
    )
    status: Status = "running" if held else "lost"
    stopped_by, problem, held_out, score = None, "", None, _number(progress.metrics.get("best_score"))
    for line in reversed(last):
        if _is(line, Completed):
            ended = _event(line, Completed)
            status, stopped_by = "stopped" if ended.stopped_by else "completed", ended.stopped_by
            held_out, score = ended.held_out, score if ended.score is None else ended.score
            break
        if _is(line, Failed):
            status, problem = "failed", _event(line, Failed).error
            break
    calls = _number(progress.metrics.get("lm_calls"))
    return Trace(
        folder,
        status,
        starts[-1].optimizer or optimizer,
        tuple(start.run_id for start in starts if start.run_id),
        starts[-1].timestamp,
        stopped_by,
        one_line(problem, 200),
        score,
        _number(progress.metrics.get("baseline_score")),
        held_out,
        None if calls is None else int(calls),
        starts[-1].budget,
    )


def _is(line: bytes, kind: type) -> bool:
    return line.startswith(b'{"event": "%s"' % kind.__name__.encode())


def _event(line: bytes, kind: type[Any]) -> Any:
    try:
        return msgspec.convert(json.loads(line), kind)
    except (ValueError, RecursionError):
        raise _Damaged(f"events.jsonl has a {kind.__name__} that is none") from None


def _number(value: object) -> float | None:
    return value if isinstance(value, int | float) and math.isfinite(value) else None


def _read(file: Path, most: int, whence: int) -> bytes:
    """Return the first or the last bytes of an ordinary file; those of a pipe or a device would never come."""
    descriptor = os.open(file, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with os.fdopen(descriptor, "rb") as opened:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise _Damaged(f"{file.name} is no ordinary file")
        if whence == os.SEEK_END and status.st_size > most:
            opened.seek(-most, os.SEEK_END)
        return opened.read(most)
