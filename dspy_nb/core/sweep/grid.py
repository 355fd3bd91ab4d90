"""The cells of a sweep, made of what varies; what is wrong with one is found before anything is spent."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

import dspy

from dspy_nb.core.data.identity import count_shared, example_id
from dspy_nb.core.data.metrics import Metric, as_metric
from dspy_nb.core.doors import Shown
from dspy_nb.core.errors import InputError
from dspy_nb.core.optimization.estimates import calls_per_run
from dspy_nb.core.optimization.optimize import estimate
from dspy_nb.core.optimization.optimizers import get_optimizer
from dspy_nb.core.optimization.run import readable
from dspy_nb.core.optimization.task import Task, check_data
from dspy_nb.core.programs.calls import declared_types
from dspy_nb.core.supervision.budget import Budget
from dspy_nb.core.sweep.models import Model, find_models
from dspy_nb.core.text import one_line, value_text

AXES: Final = ("optimizer", "preset", "options", "lm", "seed")
"""What may vary from cell to cell, in the order in which the cells are made and named."""
AS_GIVEN: Final = "as given"
_MOST_CELLS: Final = 1000


@dataclass(frozen=True, eq=False)
class Cell:
    """One setting of a sweep.

    Attributes:
        number: From 1, in the order of the grid.
        name: Unlike that of any other cell.
        settings: What it has of each axis of the grid, as JSON data.
        model: Its language model.
        task: What to optimize; ``None`` for the program as it was given.
        calls: LM calls that it takes at most.
        least: LM calls below which it cannot begin.
    """

    number: int
    name: str
    settings: Mapping[str, Any]
    model: Model
    task: Task | None
    calls: int
    least: int


@dataclass(frozen=True)
class SweepEstimate(Shown):
    """LM calls that a sweep makes at most, cache hits included.

    Attributes:
        cells: Names of its cells.
        lm_calls: Of the cells, each to its end.
        comparison: Of the comparison of the finalists.
        budget: The limits in force.
    """

    cells: tuple[str, ...]
    lm_calls: int
    comparison: int
    budget: Budget


@dataclass(frozen=True, eq=False)
class Grid:
    """A sweep, checked and ready to begin.

    Attributes:
        cells: At least one.
        program: The program as it was given.
        metric: What scores an answer.
        valset: Labelled examples that cells are compared on; empty where nothing is optimized.
        testset: Those that no cell sees.
        calls_per_run: LM calls of one call of the program, at most.
    """

    cells: tuple[Cell, ...]
    program: dspy.Module
    metric: Metric
    valset: Sequence[dspy.Example]
    testset: Sequence[dspy.Example]
    calls_per_run: int

    @property
    def calls(self) -> int:
        """LM calls that all cells take at most, each to its end."""
        return sum(cell.calls for cell in self.cells)

    def estimate(self, finalists: int, budget: Budget) -> SweepEstimate:
        """Return what it takes at most, if so many finalists are wanted."""
        names = tuple(cell.name for cell in self.cells)
        return SweepEstimate(names, self.calls, self.comparison_calls(self.finalists(finalists)), budget)

    def comparison_calls(self, finalists: int) -> int:
        """Return the LM calls that comparing so many cells takes at most, and the program as it was given."""
        arms = min(finalists, len(self.cells)) + 1 if self.optimizes else len(self.cells)
        return arms * len({example_id(example) for example in self.testset}) * self.calls_per_run

    def finalists(self, wanted: int) -> int:
        """Return how many cells are compared: the best on each model, or all where nothing is optimized."""
        models = len({cell.model.name for cell in self.cells})
        return max(wanted, models) if self.optimizes else len(self.cells)

    @property
    def optimizes(self) -> bool:
        """Whether any cell does."""
        return any(cell.task is not None for cell in self.cells)


def make_grid(program: Any, over: Any, arguments: Mapping[str, Any]) -> Grid:
    """Return the cells of a sweep.

    Args:
        program: A program or a task.
        over: What varies: an axis of ``AXES`` to its values.
        arguments: Attributes of a task, by name, if a program was given.

    Raises:
        InputError: Something is wrong with it, in one line.
    """
    axes = _check_axes(over)
    for name in axes.keys() & {name for name, value in arguments.items() if value is not None}:
        raise InputError(f"{name} is given twice: in over, and as {name}={value_text(arguments[name], 80)}")
    base = _base(program, arguments, others="optimizer" in axes or "preset" in axes)
    given = base.pop("program")
    if not isinstance(given, dspy.Module):
        raise InputError(f"program must be a dspy.Module instance or a Task, got {value_text(given, 80)}")
    models = find_models(axes.get("lm"), given)
    fixed = {name: base.pop(name) for name in ("optimizer", "preset", "options", "seed")}
    optimizing = any(fixed[name] is not None for name in ("optimizer", "preset", "options")) or any(
        name in axes for name in ("optimizer", "preset", "options")
    )
    if "seed" in axes and not optimizing:
        raise InputError("over: a seed changes nothing where nothing is optimized; give an optimizer too")
    testset, metric = base.pop("testset"), _metric(base["metric"], given)
    if not testset:
        raise InputError("a sweep needs a testset, which no cell sees, to compare the finalists on")
    testset = tuple(check_data("testset", testset, given, metric))
    valset: tuple[Any, ...] = ()
    if optimizing:
        if not base["valset"]:
            raise InputError("a sweep needs a valset to compare its cells on; dspy_nb.split() makes one")
        valset = tuple(check_data("valset", base["valset"], given, metric))
    calls = calls_per_run(given)
    cells: list[Cell] = []
    choices = [[(name, value) for value in axes[name]] for name in AXES if name in axes and name != "lm"]
    for combination in itertools.product(*choices):
        chosen = {**fixed, **dict(combination)}
        as_given = not optimizing or ("optimizer" in axes and chosen["optimizer"] is None)
        for model in models:
            name = _name(dict(combination), model, len(models) > 1, as_given)
            if any(cell.name == name for cell in cells):
                if as_given:  # it has neither options nor a seed
                    continue
                raise InputError(f"over: {name} is there twice")
            cells.append(_cell(len(cells) + 1, name, chosen, model, base, as_given, valset, calls))
    if optimizing:
        _check_unseen(testset, [*(base["trainset"] or ()), *valset])
    return Grid(tuple(cells), given, metric, valset, testset, calls)


def _check_unseen(testset: Sequence[dspy.Example], seen: Sequence[dspy.Example]) -> None:
    if shared := count_shared(testset, seen):
        raise InputError(
            f"{shared:,} of the {len(testset):,} examples of the testset are in the trainset or the valset too, "
            "and no cell may see them; dspy_nb.split() makes sets that share none"
        )


def _check_axes(over: Any) -> dict[str, list[Any]]:
    if not isinstance(over, Mapping) or not over:
        what = "over must be a dict of what varies to lists of values"
        raise InputError(f"{what}, such as {{'lm': [...], 'seed': [0, 1]}}, got {value_text(over, 80)}")
    axes: dict[str, list[Any]] = {}
    for name, values in over.items():
        if name not in AXES:
            raise InputError(f"over: there is no axis {value_text(name, 80)}; valid: {', '.join(AXES)}")
        if isinstance(values, str | Mapping) or not isinstance(values, Sequence):
            raise InputError(f"over: {name} must be a list of values, got {value_text(values, 80)}")
        if not values:
            raise InputError(f"over: {name} is an empty list")
        axes[name] = list(values)
    for option in axes.get("options", ()):
        if not isinstance(option, Mapping):
            raise InputError(f"over: options must be a list of dicts, got {value_text(option, 80)} in it")
    for name in axes.get("optimizer", ()):
        if name is not None:
            get_optimizer(name)
    for name, values in axes.items():
        texts = [repr(value) for value in values]
        if name != "lm" and (twice := next((text for text in texts if texts.count(text) > 1), None)):
            raise InputError(f"over: {name} has {one_line(twice, 80)} twice")
    cells = 1
    for values in axes.values():
        cells *= len(values)
    if cells > _MOST_CELLS:
        raise InputError(f"over: {cells:,} cells are more than {_MOST_CELLS:,}")
    return axes


def _base(program: Any, arguments: Mapping[str, Any], others: bool) -> dict[str, Any]:
    """Return the attributes of the task that all cells are made of; ``others`` says that optimizers vary."""
    plain = {
        field.name: field.default
        for field in fields(Task)
        if field.init and field.name not in ("program", "budget", "race")
    }
    given = {name: value for name, value in arguments.items() if value is not None}
    if not isinstance(program, Task):
        return {"program": program, **plain, **given}
    if given:
        name = next(iter(given))
        raise InputError(
            f"a task has its own {name}: dataclasses.replace(task, {name}=...) makes another task"
        )
    if program.method.combines:
        raise InputError(f"a sweep cannot run {program.optimizer}: it takes several programs")
    own = {name: getattr(program, name) for name in plain}
    if others:  # the options are those of its own optimizer
        own |= {"optimizer": None, "preset": None, "options": None}
    else:
        own["race"] = program.race
    return {"program": program.program, **own}


def _metric(metric: Any, program: dspy.Module) -> Metric:
    if metric is None:
        raise InputError("a sweep needs a metric, e.g. dspy_nb.exact_match('field')")
    return as_metric(metric).declaring(declared_types(program))


def _cell(
    number: int,
    name: str,
    chosen: Mapping[str, Any],
    model: Model,
    base: Mapping[str, Any],
    as_given: bool,
    valset: Sequence[Any],
    calls: int,
) -> Cell:
    settings = {axis: readable(value) for axis, value in chosen.items() if value is not None}
    if as_given:
        most = len(valset) * calls
        return Cell(number, name, {"optimizer": None, "lm": model.name}, model, None, most, most)
    try:
        task = Task(model.program, **{**base, **_without_conflict(chosen)})
        if task.method.combines:
            raise InputError(f"a sweep cannot run {task.optimizer}: it takes several programs")
        with dspy.context(lm=model.lm):
            cost = estimate(task)
    except InputError as error:
        raise InputError(f"{name}: {error}") from None
    settings |= {"optimizer": task.optimizer, "lm": model.name}
    return Cell(number, name, settings, model, task, cost.lm_calls, cost.scoring + 1)


def _without_conflict(chosen: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in chosen.items() if value is not None}


def _name(combination: Mapping[str, Any], model: Model, several: bool, as_given: bool) -> str:
    parts: list[str] = []
    if as_given:
        parts = [AS_GIVEN] if combination else []
    else:
        for axis, value in combination.items():
            if axis == "seed":
                parts.append(f"seed {value}")
            elif axis == "options":
                pairs = (f"{key}={one_line(item, 40)}" for key, item in value.items())
                parts.append(", ".join(pairs) or "no options")
            else:
                parts.append(get_optimizer(value).name if axis == "optimizer" else one_line(value, 80))
    if several or not parts:
        parts.append(model.name)
    return " · ".join(parts).replace("@", " ")
