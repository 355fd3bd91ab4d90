"""The runs that are known here as rows of a table: how each of them is, and what can be done with it."""

from __future__ import annotations

import os
from typing import Final

from dspy_nb.core.registry.runs import KnownRun
from dspy_nb.views.documents import Cell
from dspy_nb.views.wording import UNKNOWN, describe_ending, excerpt, format_or_dash, moment, percent

RUN_COLUMNS: Final = (
    "no",
    "run",
    "state",
    "score",
    "LM calls",
    "began (UTC)",
    "registered",
    "what can be done",
)


def list_run(run: KnownRun) -> tuple[Cell, ...]:
    """Return what a row says of a run."""
    score = UNKNOWN if run.score is None else percent(run.score)
    if run.score is not None and run.baseline_score is not None:
        score += f" (before: {percent(run.baseline_score)})"
    calls, began = format_or_dash(run.lm_calls), moment(run.began_at) or UNKNOWN
    registered = ", ".join(run.versions) or ("no" if run.status in ("completed", "stopped") else "")
    return (
        str(run.number),
        _called(run),
        describe_state(run),
        score,
        calls,
        began,
        registered,
        what_to_do(run),
    )


def describe_state(run: KnownRun) -> str:
    """Return how a run is, in words."""
    problem = f": {excerpt(run.problem, 120)}" if run.problem else ""
    if run.status == "stopped":
        known = run.stopped_by in run.budget or run.stopped_by not in _LIMITS
        return describe_ending(run.stopped_by, run.budget) if known else f"stopped by {run.stopped_by}"
    return {
        "running": "going on" if run.run is not None else "going on in another process",
        "completed": "completed",
        "failed": f"failed{problem}",
        "lost": "ended without a word: killed, perhaps",
        "silent": "has no log",
        "damaged": f"cannot be read{problem}",
    }[run.status]


def what_to_do(run: KnownRun) -> str:
    """Return the lines that can be typed for a run, the likeliest first."""
    it = f"nb.runs()[{run.number}]"
    if run.run is None:
        if run.status == "running":
            return "interrupt it where it goes on"
        if run.status == "damaged" or run.run_dir is None:
            return ""
        if run.status == "completed" and run.versions:
            return ""
        aim = (
            "gives its program again, to register" if run.status == "completed" else "goes on where it ended"
        )
        return f"the same call with run_dir={_short(run)!r} {aim}, and pays nothing twice"
    if run.status == "running":
        return f"%dspy_runs --attach {run.number}, or {it}.attach(), shows it; --stop {run.number} stops it"
    ways = []
    if run.status in ("completed", "stopped") and not run.versions and run.run.origin != "given":
        ways.append(f"{it}.register('MODEL')")
    if run.status in ("stopped", "failed"):
        ways.append(f"{it}.resume()" if run.run_dir else "give run_dir= the next time, to go on")
    return "; ".join(ways)


_LIMITS: Final = ("lm_calls", "seconds", "tokens", "usd")


def _called(run: KnownRun) -> str:
    parts = [run.name, run.optimizer, "" if run.run_dir is None else _short(run)]
    return " · ".join(filter(None, parts)) or UNKNOWN


def _short(run: KnownRun) -> str:
    """Return the run directory as short as it can be said from here."""
    assert run.run_dir is not None
    here = os.path.relpath(run.run_dir)
    return str(run.run_dir) if here.startswith("..") else here
