"""The command ``sweep``: which optimizer, which model, and is the cheap one good enough?"""

from __future__ import annotations

import ast
import contextlib
import functools
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import click

import dspy_nb as nb
from dspy_nb.commands import common, words
from dspy_nb.commands.declaration import Kind, command, given, name_of, option
from dspy_nb.commands.surface import Outcome, Surface
from dspy_nb.commands.tasks import BUDGET

_AXES: Final = Kind("AXIS=VALUE,...", lambda here, ctx: ["optimizer=", "lm=", "preset=", "options=", "seed="])
_PRICES: Final = Kind("MODEL=IN,OUT")
_TABLES: Final = ("over", "prices")


@command("sweep", magic="dspy_sweep", kept_as="_dspy_sweep")
@common.program_argument
@common.program
@option(
    "--over",
    "What varies, such as optimizer=MIPROv2,COPRO or lm=openai/gpt-4o,openai/gpt-4o-mini or seed=0,1; repeatable. "
    "Of optimizers, none is the program as it is.",
    _AXES,
    multiple=True,
)
@option(
    "--grid",
    "A TOML file with these options, the table [over], and [prices]; a name in .toml will do.",
    common.FILES,
)
@option("--train-data --train trainset", "Examples to learn from.", common.DATA)
@option("--val-data --val valset", "Examples that cells are compared on.", common.DATA)
@option("--test-data --test testset", "Examples that no cell sees; the finalists answer them.", common.DATA)
@common.inputs
@common.metric
@option("--optimizer", "Of all cells, if it does not vary.", common.OPTIMIZERS)
@option("--option options", "Of the optimizer; repeatable.", common.OPTIONS, multiple=True)
@option("--preset", "Of all cells, if it does not vary.", common.PRESETS)
@option("--budget-calls lm_calls", "Stop all of it after so many LM calls.", int)
@option("--budget-seconds --timeout seconds", "Stop after so many seconds.", float)
@option("--budget-tokens tokens", "Stop after so many tokens.", int)
@option("--budget-usd usd", "Stop after so many US dollars.", float)
@option("--budget-call-seconds call_seconds", "A request that takes longer is an error.", float)
@common.seed
@common.num_threads
@common.lm
@option("--recompile", "Accept a program that was compiled before.", bool)
@option("--finalists", "How many cells answer the test examples.", int, default=3)
@option("--no-race", "Let every cell run to its end.", bool)
@common.confidence
@option(
    "--price prices",
    "US dollars for a million tokens sent, and received, such as openai/gpt-4o=2.5,10; repeatable.",
    _PRICES,
    multiple=True,
)
@option("--run-dir", "Keep every LM answer, to go on later without paying twice.", common.DIRECTORY)
@option("--dry-run", "Check everything and say how many LM calls it can take.", bool)
@option("--save-as model_id", "Register the best cell as this model.", common.MODELS)
@option(
    "--cheapest",
    "With --save-as: not the best but the cheapest that is not worse by so much, such as 0.02.",
    float,
)
@common.bump
@common.registry
@common.quiet
def sweep(
    here: Surface,
    *,
    over: tuple[str, ...],
    grid: str | None,
    prices: tuple[str, ...],
    dry_run: bool,
    no_race: bool,
    run_dir: str | None,
    finalists: int,
    confidence: float,
    model_id: str | None,
    cheapest: float | None,
    bump: str | None,
    root: str,
    quiet: bool,
    **options: Any,
) -> Outcome:
    r"""Try optimizers, models and seeds against each other.

    Each combination of what varies is a cell, an optimization of its own. All share one budget and one cache, and
    race for the budget on the validation examples. The finalists answer the test examples, which none has seen: the
    best of them, and the cheapest that is not worse, come with intervals that hold together. Without an optimizer
    the program is compared as it is on each model. A notebook returns the result, and keeps the last one as
    _dspy_sweep.

    \b
    Examples:
      dspy-nb sweep sweep.toml --run-dir runs/sweep --save-as sentiment
      dspy-nb sweep --program app.py:classifier --metric exact_match:label --train-data train.jsonl \
          --val-data val.jsonl --test-data test.jsonl --over optimizer=none,MIPROv2 \
          --over lm=openai/gpt-4o,openai/gpt-4o-mini --over seed=0,1 --budget-calls 5000
      dspy-nb sweep --program app.py:classifier --metric exact_match:label --test-data test.jsonl \
          --over lm=openai/gpt-4o,openai/gpt-4o-mini
      %dspy_sweep program --train train --val val --test test --metric exact_match:label --over seed=0,1,2
    """
    import dspy

    from dspy_nb.core.sweep.grid import make_grid
    from dspy_nb.views.listings import short_path
    from dspy_nb.views.sweep import describe_sweep

    if (alone := given(("bump", "cheapest"))) and model_id is None:
        raise nb.InputError(f"{next(iter(alone.values()))} goes with --save-as MODEL")
    if grid is None and str(options["program"]).endswith(".toml"):  # as in: sweep sweep.toml
        grid, options["program"] = options["program"], None
    own = {
        "prices": prices, "no_race": no_race, "run_dir": run_dir, "finalists": finalists, "confidence": confidence,
        "model_id": model_id, "cheapest": cheapest, "bump": bump,
    }  # fmt: skip
    settings = {**options, **own}
    axes, priced = _read_grid(grid, settings) if grid is not None else ({}, {})
    axes |= _axes(here, over)
    priced |= _prices(settings["prices"])
    common.require(settings, ("program", "testset", "metric"))
    if not axes:
        raise nb.InputError(
            "sweep needs --over AXIS=VALUE,VALUE or --grid FILE: what varies from cell to cell"
        )
    for name, values in axes.items():
        if isinstance(values, list):  # what else it is, is said of it later
            axes[name] = [_value(here, name, value) for value in values]
    if "lm" in axes and "lm" in given():
        raise nb.InputError("--lm does not go with --over lm=: it says which models there are")
    if "seed" in axes and "seed" not in given():
        settings["seed"] = None
    program = here.program(settings["program"], name_of("program"))
    fields = functools.partial(common.input_names, settings["inputs"], lambda: program)
    arguments: dict[str, Any] = {
        name: here.examples(settings[name], name_of(name), fields)
        for name in ("trainset", "valset", "testset")
        if settings[name] is not None
    }
    chosen = settings["options"]
    arguments |= {
        "metric": here.metric(settings["metric"], "--metric"),
        "options": (chosen if isinstance(chosen, dict) else here.options(chosen)) or None,
        **{name: settings[name] for name in ("optimizer", "preset", "seed", "num_threads")},
        "recompile": settings["recompile"] or None,
    }
    if settings["model_id"] is not None:
        nb.Registry(root).check_registrable(program, settings["model_id"])
    budget = nb.Budget(**{name: settings[name] for name in BUDGET})
    models = {} if "lm" in axes else here.lm_settings(settings["lm"])
    with dspy.context(**models):
        expected = make_grid(program, axes, arguments).estimate(settings["finalists"], budget)
        if dry_run:
            data = {name: getattr(expected, name) for name in ("cells", "lm_calls", "comparison")}
            return Outcome(expected, data, describe_sweep(expected), aside=True)
        listeners = [] if quiet else here.announce(describe_sweep(expected))
        with here.progress(quiet=quiet) as progress:
            result = nb.sweep(
                program,
                over=axes,
                **arguments,
                budget=budget,
                race=None if settings["no_race"] else "auto",
                finalists=settings["finalists"],
                confidence=settings["confidence"],
                prices=priced or None,
                run_dir=settings["run_dir"],
                on_event=[*listeners, progress],
                stop=progress.stop,
            )
    here.hold(result)
    version, why = _register(here, result, settings, root)
    known = "" if version is None else f"Registered {version.ref} in {short_path(version.path)}"
    status = 1 if why and not here.keeps_results else 0
    facts = {**result.to_dict(), "model": None if version is None else version.ref}
    return Outcome(result, facts, note=known or ("" if status else why), status=status, complaint=why)


def _register(
    here: Surface, result: nb.SweepResult, settings: Mapping[str, Any], root: str
) -> tuple[nb.ModelVersion | None, str]:
    """Register the cell that is wanted; return the version, or why there is none."""
    model_id, margin = settings["model_id"], settings["cheapest"]
    if model_id is None:
        return None, ""
    if result.stopped_by in ("interrupt", "stop"):
        return None, "not registered, because the sweep was interrupted"
    if result.best_name is None or (margin is not None and not result.finalists):
        return None, "not registered: the finalists were not compared"
    cell = result.best if margin is None else result.cheapest(margin)
    try:
        found = nb.Registry(root)
        version = found.register(cell, model_id, bump=settings["bump"])
    except nb.DspyNbError:
        here.rescue(cell.program.save, "program.json", "Not registered; the program of the best cell")
        raise
    common.note_new_model(here, version, found)
    return version, ""


# -- what varies ------------------------------------------------------------------------------------------------


def _axes(here: Surface, texts: Iterable[str]) -> dict[str, list[Any]]:
    """Return what ``axis=value,value`` stand for."""
    axes: dict[str, list[Any]] = {}
    for text in texts:
        name, equals, values = text.partition("=")
        if not (equals and name and values):
            raise nb.InputError(f"--over {text!r} is not axis=value,value, as in seed=0,1")
        if name in axes:
            raise nb.InputError(f"--over {name}= is given twice")
        whole = _literal(values) if values[0] in "[{" else None
        axes[name] = whole if isinstance(whole, list) else [whole] if whole is not None else values.split(",")
    return axes


def _literal(text: str) -> Any:
    for read in (json.loads, ast.literal_eval):
        with contextlib.suppress(ValueError, SyntaxError, MemoryError, RecursionError):
            return read(text)
    return None


def _value(here: Surface, axis: str, value: Any) -> Any:
    """Return what one value of an axis stands for."""
    if not isinstance(value, str):
        return value
    value = value.strip()
    if axis == "optimizer" and value.lower() == "none":
        return None
    if axis == "seed":
        return int(value) if value.isdecimal() else value
    if axis == "lm":
        if value == "local":
            return nb.local_lm()
        named = here.named(value)
        return words.load_lm(value) if named is None else named
    return value


def _prices(texts: Iterable[str]) -> dict[str, tuple[float, ...]]:
    found = {}
    for text in texts:
        model, equals, pair = text.partition("=")
        try:
            found[model] = tuple(map(float, pair.split(",")))
        except ValueError:
            equals = ""
        if not equals:
            raise nb.InputError(f"--price {text!r} is not model=sent,received, as in openai/gpt-4o=2.5,10")
    return found


def _read_grid(file: str, settings: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what a file says of what varies, and of prices; its options go into ``settings`` where none is typed.

    Its keys are the names of the options, and its paths are relative to the working directory.
    """
    from dspy_nb.core.storage.config import parse_toml

    try:
        found = parse_toml(Path(file).expanduser().read_bytes(), file)
    except OSError as error:
        raise nb.InputError(f"--grid {file}: {error.strerror or error}") from None
    context = click.get_current_context()
    options = {
        name.removeprefix("--"): param
        for param in context.command.params
        if isinstance(param, click.Option)
        for name in param.opts
        if name.startswith("--") and param.name in settings
    }
    typed = given()
    for key, value in found.items():
        if key in _TABLES:
            if not isinstance(value, Mapping):
                raise nb.InputError(f"--grid {file}: {key} must be a table")
            continue
        name = key.replace("_", "-")
        if name not in options:
            valid = ", ".join(sorted({*_TABLES, *options}))
            raise nb.InputError(f"--grid {file}: there is no {key!r}; valid: {valid}")
        param = options[name]
        assert param.name is not None
        if param.name in typed and settings[param.name] is not None:
            continue
        try:
            settings[param.name] = value if isinstance(value, dict) else param.type_cast_value(context, value)
        except click.BadParameter as error:
            raise nb.InputError(f"--grid {file}: {key}: {error.message}") from None
    return dict(found.get("over", {})), dict(found.get("prices", {}))
