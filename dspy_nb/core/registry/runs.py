"""Which runs there are: those of this process, and those that run directories tell of; what became of each."""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from dspy_nb.core.arguments import user_path
from dspy_nb.core.doors import Shown, through
from dspy_nb.core.errors import DspyNbError, InputError, failure_text
from dspy_nb.core.events import Listener
from dspy_nb.core.models.version import ModelVersion
from dspy_nb.core.optimization.known import directories_of_this_process, runs_of_this_process
from dspy_nb.core.registry.registry import Registry
from dspy_nb.core.registry.traces import Trace, find_traces, read_trace

if TYPE_CHECKING:
    from dspy_nb.core.optimization.run import OptimizationRun
    from dspy_nb.core.supervision.budget import Budget

_DEPTH: Final = 3  # folders below the one that is looked into
_MOST_PARTS: Final = 1_000  # of a list or a dictionary that a run is looked for in


@dataclass(frozen=True)
class KnownRun(Trace, Shown):
    """One optimization that is known here, as it was when it was listed: what there is of it, and what it is here.

    Attributes:
        number: its place in the list.
        name: what it is called in the notebook or the script, such as ``run`` or ``results['a']``; "" if nothing.
        versions: what was registered from it or from an earlier run in its directory, such as ``sentiment@1.2.0``.
        run: the run itself, if somebody in this process still holds it.
        registry: where it is registered.
    """

    number: int = 0
    name: str = ""
    versions: tuple[str, ...] = ()
    run: OptimizationRun | None = field(default=None, repr=False, compare=False)
    registry: Registry | None = field(default=None, repr=False, compare=False)

    def attach(self) -> None:
        """Show the run in the cell that runs now, as its first panel does; Stop there stops it.

        Raises:
            InputError: It is not of this process, or nobody holds it any more.
        """
        through("watch", self._here("attach"))

    def stop(self) -> None:
        """Stop the run at the next LM call; it keeps the best candidate so far.

        Raises:
            InputError: It does not go on in this process.
        """
        if self._here("stop").status != "running":
            raise InputError(f"run {self.number} is over: it {_ENDED[self.status]}")
        self._here("stop").stop()

    def register(self, model_id: str, **options: Any) -> ModelVersion:
        """Register what the run made.

        Args:
            model_id: The model.
            options: As for ``Registry.register``.

        Raises:
            InputError: It goes on, has no result, or is not of this process: the same call with its run directory
                makes it again without paying twice.
            RegistryError: It cannot be written.
        """
        return (self.registry or Registry()).register(self._here("register"), model_id, **options)

    def resume(
        self,
        *,
        budget: Budget | None = None,
        on_event: Listener | Sequence[Listener] | None = None,
        background: bool = False,
    ) -> OptimizationRun:
        """Make the same call again, in the same run directory: it goes on where it ended, and pays nothing twice.

        Args:
            budget: Limits of what is still to be done; by default those of the run.
            on_event: As for ``optimize``.
            background: Return at once.

        Raises:
            InputError: It goes on, has no run directory, or is not of this process, so that program and data are
                not known: make the same call with ``run_dir``.
        """
        from dspy_nb.core.optimization.optimize import optimize

        run = self._here("resume")
        if run.status == "running":
            raise InputError(f"run {self.number} goes on: there is nothing to resume")
        if self.run_dir is None or run.task is None:
            raise InputError(f"run {self.number} has no run_dir, so none of its answers were kept")
        return optimize(
            run.task, budget=budget, run_dir=self.run_dir, on_event=on_event, background=background
        )

    def _here(self, what: str) -> OptimizationRun:
        if self.run is not None:
            return self.run
        if self.status == "running":
            raise InputError(f"{what}: run {self.number} goes on in another process: interrupt it there")
        again = f"; the same call with run_dir={str(self.run_dir)!r} makes it again, without paying twice"
        raise InputError(f"{what}: run {self.number} is not of this process{again if self.run_dir else ''}")


_ENDED: Final = {"completed": "completed", "stopped": "was stopped", "failed": "failed"}


def known_runs(
    folders: Iterable[str | Path] | None = None,
    *,
    registry: Registry | str | Path = "registry",
    names: Mapping[str, Any] | None = None,
) -> list[KnownRun]:
    """Return the runs of this process and then those that run directories tell of, the oldest of each first.

    So a run of this process has the same number wherever else one looks. Nothing is written, and a damaged
    directory is listed as such.

    Args:
        folders: Where to look for run directories, down to three folders below; the current folder by default.
        registry: Where to look for versions that were registered from them.
        names: What has a name; by default the names of the notebook or the script.

    Raises:
        InputError: A folder that was named is none.
    """
    places = [Path()] if folders is None else [_folder(folder) for folder in folders]
    here = runs_of_this_process()
    found = dict(find_traces(places, _DEPTH))
    if folders is None:
        for folder in directories_of_this_process():
            if folder.is_dir() and (place := str(folder.resolve())) not in found:
                found[place] = read_trace(folder)
    else:
        for named in places:  # then say what it is
            if not any(Path(known).is_relative_to(named.resolve()) for known in found):
                problem = "no run directory, and none below it"
                found[str(named.resolve())] = Trace(named, "damaged", problem=problem)
    names = vars(sys.modules["__main__"]) if names is None else names
    called = _called(here, names)
    runs = [_of_process(run, found, called.get(id(run), "")) for run in here]
    others = [KnownRun(**vars(trace)) for trace in found.values()]
    runs += sorted(others, key=lambda run: (run.began_at, str(run.run_dir)))
    return _with_versions(runs, registry if isinstance(registry, Registry) else Registry(registry))


def _folder(folder: str | Path) -> Path:
    path = user_path("a folder of runs", folder, "folder")
    if not os.path.isdir(path):  # noqa: PTH112 (it raises nothing)
        raise InputError(f"there is no folder {path}")
    return path


def _of_process(run: OptimizationRun, found: dict[str, Trace], name: str) -> KnownRun:
    plan, trace = run.plan, None
    if plan.run_dir is not None:
        place = str(plan.run_dir.resolve())
        trace = found.get(place)
        if trace is not None and trace.run_ids[-1:] == (plan.run_id,):
            del found[place]  # it says nothing that the run does not
    over = run.status in ("completed", "stopped")
    said = run.progress
    return KnownRun(
        run_dir=plan.run_dir,
        status=run.status,  # type: ignore[arg-type]
        optimizer=plan.optimizer,
        run_ids=(plan.run_id,),
        began_at=run.began_at,
        stopped_by=run.stopped_by if over else None,
        problem="" if run.failure is None else failure_text(run.failure),
        score=run.score if over else said.get("best_score"),
        baseline_score=run.baseline_score if over else said.get("baseline_score"),
        held_out=run.held_out if over else None,
        lm_calls=run.usage.lm_calls if over else said.get("lm_calls"),
        budget=plan.budget.limits(),
        name=name,
        run=run,
    )


def _called(runs: Iterable[OptimizationRun], names: Mapping[str, Any]) -> dict[int, str]:
    """Return what runs are called, by their ids: a name of their own, else their place in what has one."""
    sought = {id(run) for run in runs}
    called: dict[int, str] = {}
    mine = [(name, value) for name, value in list(names.items()) if not name.startswith("_")]
    for name, value in mine:
        if id(value) in sought:
            called.setdefault(id(value), name)
    for name, value in mine:
        if type(value) in (dict, list, tuple):  # what else there may be could do anything when it is asked
            parts = value.items() if type(value) is dict else enumerate(value)
            for key, part in list(itertools.islice(parts, _MOST_PARTS)):
                if id(part) in sought and isinstance(key, str | int):
                    called.setdefault(id(part), f"{name}[{key!r}]")
    return called


def _with_versions(runs: list[KnownRun], registry: Registry) -> list[KnownRun]:
    """Return the runs with what was registered from them; a registry that cannot be read has nothing to say."""
    sought = {run_id: number for number, run in enumerate(runs) for run_id in run.run_ids}
    made: dict[int, list[str]] = {}
    if sought and registry.exists():
        optimizers, first = {run.optimizer for run in runs}, min(run.began_at for run in runs if run.began_at)
        with contextlib.suppress(DspyNbError):
            for version in registry.survey()[0]:
                if version.optimizer not in optimizers or version.created_at[:19] < first[:19]:
                    continue  # its metadata need not be opened
                with contextlib.suppress(DspyNbError):
                    number = sought.get(str(version.metadata.get("run_id")))
                    if number is not None:
                        made.setdefault(number, []).append(version.ref)
    return [
        replace(run, number=number, registry=registry, versions=tuple(made.get(number, ())))
        for number, run in enumerate(runs)
    ]
