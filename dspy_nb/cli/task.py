"""What ``optimize`` and ``pipeline`` share: the options of an optimization, and the task that they stand for."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
from click.core import ParameterSource

import dspy_nb as nb
from dspy_nb.cli.output import echo

if TYPE_CHECKING:
    from dspy_nb.core.optimization.estimates import Estimate

__all__ = ["Task", "lm_settings", "read_task", "run_listener", "task_options"]

_BUDGET: Final = {
    "lm_calls": "budget_calls",
    "seconds": "budget_seconds",
    "tokens": "budget_tokens",
    "usd": "budget_usd",
    "call_seconds": "budget_call_seconds",
}
_DATA: Final = {"train": "train_data", "val": "val_data", "test": "test_data"}

_OPTIONS: Final = (
    click.option(
        "--program",
        "program_name",
        metavar="MODULE:NAME",
        help="A dspy.Module, or a class or function that makes one: package.module:name or file.py:name.",
    ),
    click.option("--train-data", metavar="FILE", help="Examples to learn from (.jsonl, .json, .csv, .tsv)."),
    click.option("--val-data", metavar="FILE", help="Examples to compare candidates on."),
    click.option(
        "--test-data", metavar="FILE", help="Examples that the search never sees, scored before and after."
    ),
    click.option(
        "--inputs", metavar="FIELDS", help="Input fields, comma-separated; by default the program's own."
    ),
    click.option(
        "--metric",
        "metric_name",
        metavar="METRIC",
        help="exact_match:field, accuracy:field, token_f1:field, partial_credit:field, or module:function.",
    ),
    click.option("--optimizer", metavar="NAME", help="Such as MIPROv2; BootstrapFewShot by default."),
    click.option(
        "--option", "options", multiple=True, metavar="NAME=VALUE", help="Of the optimizer; repeatable."
    ),
    click.option("--preset", metavar="NAME", help="See dspy-nb presets; an --option wins over it."),
    click.option("--budget-calls", type=int, metavar="N", help="Stop after so many LM calls."),
    click.option(
        "--budget-seconds", "--timeout", type=float, metavar="S", help="Stop after so many seconds."
    ),
    click.option("--budget-tokens", type=int, metavar="N", help="Stop after so many tokens."),
    click.option("--budget-usd", type=float, metavar="X", help="Stop after so many US dollars."),
    click.option(
        "--budget-call-seconds", type=float, metavar="S", help="A request that takes longer is an error."
    ),
    click.option("--seed", type=int, default=0, show_default=True, help="For whatever is drawn at random."),
    click.option("--num-threads", type=int, metavar="N", help="Program calls at a time."),
    click.option(
        "--lm",
        metavar="MODEL",
        envvar="DSPY_NB_LM",
        help="Such as openai/gpt-4o-mini; else $DSPY_NB_LM, else what the program's module configured, else the "
        "embedded model.",
    ),
    click.option("--recompile", is_flag=True, help="Accept a program that was compiled before."),
    click.option(
        "--like",
        metavar="REF",
        help="Repeat what made this version: program, data, metric, optimizer, options, seed, budget, threads; "
        "other flags override.",
    ),
    click.option(
        "--allow-changed-data", is_flag=True, help="With --like: also if a data file is not what it was."
    ),
)


def task_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options that describe an optimization."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@dataclass(frozen=True)
class Task:
    """An optimization that a command line describes.

    Attributes:
        program: The program.
        arguments: Of ``estimate`` and, with what follows, of ``optimize``.
        budget: Its limits.
        seed: For whatever is drawn at random.
        num_threads: Program calls at a time, if given.
        lm: The language model, if given.
        model_id: The model to register it as, if given.
        command: What to store with a version so that ``--like`` can repeat it, besides what a run knows.
    """

    program: Any
    arguments: Mapping[str, Any]
    budget: nb.Budget
    seed: int
    num_threads: int | None
    lm: str | None
    model_id: str | None
    command: Mapping[str, Any]


def read_task(given: Mapping[str, Any], *, registry: str) -> Task:
    """Return what the options of the current command describe.

    Args:
        given: The options by parameter name; those of ``task_options`` and ``model_id``.
        registry: Folder of the registry, for ``--like``.

    Raises:
        InputError: Something is missing or wrong, or a data file has changed since ``--like``.
    """
    from dspy_nb.cli import parsing

    settings: dict[str, Any] = dict(given)
    fingerprints: dict[str, str] = {}
    if given["like"] is not None:
        settings, fingerprints = _repeated(given, registry)
    elif given["allow_changed_data"]:
        raise nb.InputError("--allow-changed-data goes with --like")
    if settings["program_name"] is None:
        raise click.UsageError("Missing option '--program'.", click.get_current_context())
    program = parsing.load_program(settings["program_name"])
    inputs = settings["inputs"]
    names = parsing.input_fields(program) if inputs is None else [name.strip() for name in inputs.split(",")]
    sets = {
        name: None if settings[option] is None else nb.load_examples(settings[option], names)
        for name, option in _DATA.items()
    }
    if not given["allow_changed_data"]:
        for name, expected in fingerprints.items():
            if nb.fingerprint(sets[name] or []) != expected:
                raise nb.InputError(
                    f"{settings[_DATA[name]]} is not what it was for {given['like']}: --allow-changed-data uses "
                    f"it all the same, --{name}-data names another file"
                )
    if settings["model_id"] is not None:
        _check_registrable(program, settings["model_id"], registry)
    metric, options = settings["metric_name"], settings["options"]
    return Task(
        program=program,
        arguments={
            "metric": None if metric is None else parsing.load_metric(metric),
            "optimizer": settings["optimizer"],
            "options": parsing.parse_options(options) if isinstance(options, tuple) else options,
            "preset": settings["preset"],
            "recompile": settings["recompile"],
            **{f"{name}set": examples for name, examples in sets.items()},
        },
        budget=nb.Budget(**{name: settings[option] for name, option in _BUDGET.items()}),
        seed=settings["seed"],
        num_threads=settings["num_threads"],
        lm=settings["lm"],
        model_id=settings["model_id"],
        command={
            "program": _portable(settings["program_name"]),
            **{option: _portable(settings[option]) for option in _DATA.values()},
            "inputs": inputs,
            "metric": None if metric is None else _portable(metric),
            "lm": settings["lm"],
            "recompile": settings["recompile"],
        },
    )


def _repeated(given: Mapping[str, Any], root: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the options that made the version ``--like``, those on the command line over them.

    Also the fingerprints of the data sets whose files are taken from it.
    """
    from dspy_nb.cli import parsing

    version = nb.Registry(root).get(given["like"])
    metadata = version.metadata
    if metadata.get("optimizer") is None:
        raise nb.InputError(f"{version.ref} was not made by an optimization: there is nothing to repeat")
    command, budget = metadata.get("command") or {}, metadata.get("budget") or {}
    stored = {
        "program_name": command.get("program"),
        **{option: command.get(option) for option in _DATA.values()},
        "inputs": command.get("inputs"),
        "metric_name": command.get("metric"),
        "lm": command.get("lm"),
        "recompile": command.get("recompile", False),
        "optimizer": metadata["optimizer"],
        "seed": metadata.get("seed") or 0,
        "num_threads": metadata.get("num_threads"),
        "model_id": version.model_id,
        **{option: budget.get(name) for name, option in _BUDGET.items()},
    }
    flags = {name for name in given if _is_flag(name)}
    settings = {**given, **{name: value for name, value in stored.items() if name not in flags}}
    changed = {"optimizer", "preset"} & flags
    if not changed:  # another optimizer has other options, and a preset brings its own
        own = parsing.parse_options(given["options"]) if "options" in flags else {}
        settings |= {"preset": None, "options": {**_stored_options(metadata), **own}}
    elif "options" not in flags:
        settings["options"] = ()
    if "preset" in flags and "optimizer" not in flags:
        settings["optimizer"] = None
    if "optimizer" in flags and "preset" not in flags:
        settings["preset"] = None
    if settings["program_name"] is None:
        raise nb.InputError(f"{version.ref} does not say where its program comes from: give --program")
    fingerprints = {
        name: data["fingerprint"]
        for name, data in (metadata.get("datasets") or {}).items()
        if name in _DATA and _DATA[name] not in flags and settings[_DATA[name]] is not None
    }
    return settings, fingerprints


def _stored_options(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that a version was made with: those given, or all where an older version knows no more."""
    given = metadata.get("given_options")
    options: Mapping[str, Any] = metadata.get("hyperparameters") or {} if given is None else given
    return {name: value for name, value in options.items() if value is not None}


def _is_flag(name: str) -> bool:
    return click.get_current_context().get_parameter_source(name) is ParameterSource.COMMANDLINE


def _portable(text: str | None) -> str | None:
    """Return a path, or what follows one, relative to the working directory where it lies below it."""
    if text is None or not os.path.isabs(text):  # noqa: PTH117 (text, such as file.py:name)
        return text
    path = Path(text)
    return path.relative_to(Path.cwd()).as_posix() if path.is_relative_to(Path.cwd()) else text


def _check_registrable(program: Any, model_id: str, root: str) -> None:
    """Refuse what a registry would refuse, before anything is spent."""
    from dspy_nb.core.models.names import check_model_id
    from dspy_nb.core.models.submission import Submission

    check_model_id(model_id)
    with contextlib.suppress(nb.NotFound):  # it becomes a new model
        nb.Registry(root).list(model_id)
    _check_writable(Path(root))
    if not isinstance(program, list):
        Submission(program, model_id, metadata=None, evaluation=None, notes=None)


def _check_writable(folder: Path) -> None:
    """Refuse a registry that cannot be written: in its folder, or where that would be made."""
    there = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
    if not os.access(there, os.W_OK):
        raise nb.InputError(f"the registry {folder} cannot be written: {there} is read-only")


def lm_settings(lm: str | None) -> dict[str, Any]:
    """Return DSPy's settings for the run; none where the program's module has made its own."""
    import dspy

    named = os.environ.get("DSPY_NB_LM")
    if lm is not None and lm != named:
        if "/" not in lm.strip("/"):
            raise nb.InputError(f"--lm {lm!r} is not provider/model, as in openai/gpt-4o-mini")
        return {"lm": dspy.LM(lm)}
    if dspy.settings.lm is not None and not named:
        return {}
    return {"lm": nb.local_lm(), "adapter": dspy.settings.adapter or dspy.JSONAdapter()}


def run_listener(expected: Estimate, budget: nb.Budget) -> Any:
    """Return a listener that says at the start what the run may cost, and on a terminal how it goes."""
    from dspy_nb.views.progress.display import TerminalProgress
    from dspy_nb.views.run import describe_estimate

    bar = TerminalProgress() if sys.stderr.isatty() else None

    def listen(event: nb.Event) -> None:
        if isinstance(event, nb.Started):
            echo(describe_estimate(expected, budget), err=True)
        if bar is not None:
            bar(event)

    return listen
