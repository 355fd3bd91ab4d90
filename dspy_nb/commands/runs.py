"""The command ``runs``."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any

import dspy_nb as nb
from dspy_nb.commands import common
from dspy_nb.commands.declaration import Kind, argument, command, option
from dspy_nb.commands.surface import Outcome, Surface

if TYPE_CHECKING:
    from dspy_nb.core.registry.runs import KnownRun


def _numbers(here: Surface, ctx: Any) -> list[str]:
    return [str(run.number) for run in nb.runs() if run.status == "running" and run.run is not None]


_NUMBERS = Kind("N", _numbers)


@command("runs", magic="dspy_runs")
@argument("folders", common.DIRECTORY, "[FOLDER]...", nargs=-1)
@option("--attach", "Show how run number N goes, with a Stop button.", _NUMBERS, only="notebook")
@option("--stop", "Stop run number N; it keeps the best so far.", _NUMBERS, only="notebook")
@common.registry
def runs(
    here: Surface, folders: tuple[str, ...], root: str, attach: str | None = None, stop: str | None = None
) -> Outcome:
    r"""List optimizations, and what can be done with each.

    The list says how each ended, or that it goes on. They are the runs of this kernel and those of the run
    directories in each FOLDER, by default in the current one, down to three folders below. While a run goes on
    in the foreground, a notebook runs no other cell: interrupt the kernel to stop it; what is run in the background
    can be shown again and stopped from here.

    \b
    Examples:
      dspy-nb runs
      dspy-nb runs experiments --json
      %dspy_runs
      %dspy_runs --attach 2
    """
    if attach is not None and stop is not None:
        raise nb.InputError("give either --attach or --stop, not both")
    names = {
        name: here.named(name)
        for name in here.names(lambda value: isinstance(value, nb.OptimizationRun | dict | list | tuple))
    }
    found = nb.runs(*folders, registry=root, names=names)
    if attach is not None:
        _one(found, attach, "--attach").attach()
        return Outcome(aside=True)
    if stop is not None:
        run = _one(found, stop, "--stop")
        run.stop()
        return Outcome(
            aside=True, note=f"Run {run.number} stops at the next LM call, and keeps the best so far."
        )
    return Outcome(found, lambda: [run_facts(run) for run in found])


def _one(found: list[KnownRun], word: str, option: str) -> KnownRun:
    """Return the run with a number of the list.

    Raises:
        InputError: There is none.
    """
    if word.isdecimal() and int(word) < len(found):
        return found[int(word)]
    known = f"0 to {len(found) - 1}" if found else "none"
    raise nb.InputError(f"{option} {word}: there is no such run: %dspy_runs numbers them, {known}")


def run_facts(run: KnownRun) -> dict[str, Any]:
    """Return what ``--json`` says about a run."""
    left_out = ("run", "registry")
    facts = {field.name: getattr(run, field.name) for field in fields(run) if field.name not in left_out}
    return {
        "number": run.number,
        "name": run.name,
        **facts,
        "run_dir": None if run.run_dir is None else str(run.run_dir),
        "held_out": None if run.held_out is None else asdict(run.held_out),
        "budget": dict(run.budget),
        "versions": list(run.versions),
        "run_ids": list(run.run_ids),
    }
