"""The runs that are known here as rows of a table: how each of them is, and what can be done with it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from dspy_nb.core.registry.runs import KnownRun, known_runs
from dspy_nb.core.text import excerpt
from dspy_nb.views.documents import Cell, Toned
from dspy_nb.views.ending import describe_change, verdict_colour
from dspy_nb.views.listings import Kind, Listing, add_kind, short_path
from dspy_nb.views.wording import UNKNOWN, describe_ending, format_or_dash, moment, percent

_COLUMNS: Final = ("no", "run", "state", "score", "what can be done", "LM calls", "began (UTC)")

_SPARE: Final = ("began (UTC)", "LM calls")

_ARROW: Final = "\N{NO-BREAK SPACE}→ "  # a narrow column breaks after it, and never within
_OVER: Final = ("completed", "stopped")


def runs(
    *folders: str | Path, registry: str | Path = "registry", names: Mapping[str, Any] | None = None
) -> Listing[KnownRun]:
    """List the optimizations that are known here, and what can be done with each; nothing is written.

    They are the runs of this process, in the foreground and in the background, as long as anybody holds them, and
    those of run directories: finished, stopped, going on, killed, or damaged. ``runs()[2]`` is number 2, with
    ``attach()`` (show how it goes), ``stop()``, ``register(model_id)``, ``resume()`` and ``run``.

    Args:
        folders: Where to look for run directories, three folders deep; by default the current folder, and
            wherever this process has put some.
        registry: Folder of the registry in which to look for what was registered from them.
        names: The names by which to call runs of this process; by default those of the notebook or the script.

    Raises:
        InputError: A folder that was named is none.
    """
    found = known_runs(folders or None, registry=registry, names=names)
    where = ", ".join(map(str, folders)) or "this process or below the current folder"
    return Listing(found, nothing=f"No runs of {where}." if not folders else f"No runs in {where}.")


def _list_run(run: KnownRun) -> tuple[Cell, ...]:
    """Return what a row says of a run."""
    state = describe_state(run)
    if run.versions or run.status in _OVER:
        state += f"; registered as {', '.join(run.versions)}" if run.versions else "; not registered"
    calls, began = format_or_dash(run.lm_calls), moment(run.began_at) or UNKNOWN
    return str(run.number), _called(run), state, _score_of(run), what_to_do(run), calls, began


def _score_of(run: KnownRun) -> Cell:
    """Return what a run came to: on held-out examples where there are some, for a search flatters."""
    if run.held_out is not None:
        colour = verdict_colour(run.held_out)
        said = describe_change(run.held_out).replace(" -> ", _ARROW)
        return Toned(said, "" if colour == "warn" else colour)
    if run.score is None:
        return UNKNOWN
    before = "" if run.baseline_score is None else f"{percent(run.baseline_score)}{_ARROW}"
    return f"search {before}{percent(run.score)}"


def describe_state(run: KnownRun) -> str:
    """Return how a run is, in words."""
    problem = f": {excerpt(run.problem, 60)}" if run.problem else ""
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
        if run.status == "damaged" or run.run_dir is None or (run.status == "completed" and run.versions):
            return ""
        return f"nb.optimize(..., run_dir={_short(run)!r})"
    if run.status == "running":
        return f"{it}.attach() or %dspy_runs --attach {run.number}; {it}.stop()"
    ways = []
    gained = run.held_out is None or run.held_out.verdict not in ("worse", "unchanged")
    if run.status in _OVER and not run.versions and run.run.origin != "given" and gained:
        ways.append(f"{it}.register('MODEL')")
    if run.status in ("stopped", "failed"):
        ways.append(f"{it}.resume()" if run.run_dir else "give run_dir= the next time, to go on")
    return "; ".join(ways)


def _note_on(runs: Iterable[KnownRun]) -> str:
    """Return what is to be said of the runs of other processes, "" if there are none."""
    if not any("run_dir=" in what_to_do(run) for run in runs if run.run is None):
        return ""
    return (
        "The same call as before, with its run_dir, goes on where that ended and pays for no answer twice; of a "
        "run that completed it gives the program again, to be registered."
    )


_LIMITS: Final = ("lm_calls", "seconds", "tokens", "usd")


def _called(run: KnownRun) -> str:
    parts = [run.name, run.optimizer, "" if run.run_dir is None else _short(run)]
    return " · ".join(filter(None, parts)) or UNKNOWN


def _short(run: KnownRun) -> str:
    """Return the run directory as short as it can be said from here."""
    assert run.run_dir is not None
    return short_path(run.run_dir)


def _standing(run: KnownRun) -> tuple[bool, str]:
    """Return how much a run matters where not all can be shown: those that go on do most, then the newest."""
    return run.status == "running", run.began_at


add_kind(
    KnownRun,
    Kind("Runs", _COLUMNS, _list_run, frozenset([0, 5]), 50, standing=_standing, note=_note_on, spare=_SPARE),
)
