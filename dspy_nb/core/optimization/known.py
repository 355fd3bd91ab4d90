"""The runs of this process, and where they are kept: as long as there is none, nobody need import what runs one."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from dspy_nb.core.optimization.run import OptimizationRun

_KNOWN: Final[weakref.WeakSet[OptimizationRun]] = weakref.WeakSet()
_DIRECTORIES: Final[dict[Path, None]] = {}


def remember(run: OptimizationRun) -> None:
    """Let :func:`runs_of_this_process` know of a run, for as long as anybody holds it, and of its directory."""
    _KNOWN.add(run)
    if run.plan.run_dir is not None:
        _DIRECTORIES[run.plan.run_dir.absolute()] = None


def runs_of_this_process() -> list[OptimizationRun]:
    """Return the runs that somebody still holds; one that goes on holds itself."""
    return sorted(_KNOWN, key=lambda run: run.began_at)


def directories_of_this_process() -> list[Path]:
    """Return the run directories that runs of this process have had, also of runs that nobody holds any more."""
    return list(_DIRECTORIES)
