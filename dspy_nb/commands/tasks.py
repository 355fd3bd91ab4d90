"""What ``optimize`` and ``pipeline`` share: the options of an optimization, and the task that they stand for."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import dspy_nb as nb
from dspy_nb.commands import common, words
from dspy_nb.commands.declaration import given, name_of, option
from dspy_nb.commands.surface import Surface

__all__ = ["Wanted", "model_options", "reading_task", "task_options"]

_BUDGET: Final = {
    "lm_calls": "budget_calls",
    "seconds": "budget_seconds",
    "tokens": "budget_tokens",
    "usd": "budget_usd",
    "call_seconds": "budget_call_seconds",
}
_DATA: Final = {"train": "train_data", "val": "val_data", "test": "test_data"}

_OPTIONS: Final = (
    option(
        "--program",
        type=common.PROGRAMS,
        metavar="NAME|MODULE:NAME",
        help="A dspy.Module, or a class or function that makes one: a name in the notebook, package.module:name or "
        "file.py:name.",
    ),
    option(
        "--train-data",
        "--train",
        "train_data",
        type=common.DATA,
        metavar="FILE|NAME",
        means="trainset",
        help="Examples to learn from (a name, .jsonl, .json, .csv, .tsv).",
    ),
    option(
        "--val-data",
        "--val",
        "val_data",
        type=common.DATA,
        metavar="FILE|NAME",
        means="valset",
        help="Examples to compare candidates on.",
    ),
    option(
        "--test-data",
        "--test",
        "test_data",
        type=common.DATA,
        metavar="FILE|NAME",
        means="testset",
        help="Examples that the search never sees, scored before and after.",
    ),
    common.inputs,
    option(
        "--metric",
        type=common.METRICS,
        metavar="METRIC",
        help="exact_match:field, accuracy:field, token_f1:field, partial_credit:field, a function of the notebook, "
        "or module:function.",
    ),
    option(
        "--optimizer",
        type=common.OPTIMIZERS,
        metavar="NAME",
        help="Such as MIPROv2; BootstrapFewShot by default.",
    ),
    option(
        "--option",
        "options",
        type=common.OPTIONS,
        multiple=True,
        metavar="NAME=VALUE",
        help="Of the optimizer: a literal, else what has that name in the notebook, else text; repeatable.",
    ),
    option(
        "--preset",
        type=common.PRESETS,
        metavar="NAME",
        help="A named configuration, see presets; an --option wins over it.",
    ),
    option("--budget-calls", type=int, means="lm_calls", metavar="N", help="Stop after so many LM calls."),
    option(
        "--budget-seconds",
        "--timeout",
        type=float,
        means="seconds",
        metavar="S",
        help="Stop after so many seconds.",
    ),
    option("--budget-tokens", type=int, means="tokens", metavar="N", help="Stop after so many tokens."),
    option("--budget-usd", type=float, means="usd", metavar="X", help="Stop after so many US dollars."),
    option(
        "--budget-call-seconds",
        type=float,
        means="call_seconds",
        metavar="S",
        help="A request that takes longer is an error.",
    ),
    option("--seed", type=int, default=0, show_default=True, help="For whatever is drawn at random."),
    common.num_threads,
    common.lm,
    option("--recompile", is_flag=True, help="Accept a program that was compiled before."),
    option(
        "--like",
        type=common.REFERENCES,
        metavar="REF",
        help="Repeat what made this version: program, data, metric, optimizer, options, seed, budget, threads; "
        "other options override.",
    ),
    option("--allow-changed-data", is_flag=True, help="With --like: also if a data file is not what it was."),
)
model_options: Final = (
    option(
        "--model-id",
        "--save-as",
        "model_id",
        type=common.MODELS,
        metavar="NAME",
        help="Register the optimized program as this model.",
    ),
    option("--bump", type=common.BUMPS, help="Which part of the version to raise; minor by default."),
)


def task_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options that describe an optimization, and the program as an argument as well."""
    for one in reversed((*_OPTIONS, *model_options)):
        command = one(command)
    return common.program_argument(command)


@dataclass(frozen=True)
class Wanted:
    """What the options of a command describe.

    Attributes:
        task: The optimization.
        estimate: What it may take.
        model_id: The model to register it as, if given.
        command: What to store with a version so that ``--like`` can repeat it, besides what a run knows.
    """

    task: nb.Task
    estimate: Any
    model_id: str | None
    command: Mapping[str, Any]


@contextlib.contextmanager
def reading_task(
    here: Surface, options: Mapping[str, Any], root: str, needed: tuple[str, ...] = ()
) -> Iterator[Wanted]:
    """Read what the options of the current command describe; a context with its language model.

    Args:
        here: Where it was typed.
        options: The options by parameter name: those of ``task_options``.
        root: Folder of the registry, for ``--like`` and for what will be registered.
        needed: Parameters that must be given.

    Raises:
        InputError: Something is missing or wrong, or a data file has changed since ``--like``.
    """
    import dspy

    settings: dict[str, Any] = dict(options)
    fingerprints: dict[str, str] = {}
    if settings["like"] is not None:
        settings, fingerprints = _repeated(settings, root)
    elif settings["allow_changed_data"]:
        raise nb.InputError("--allow-changed-data goes with --like")
    common.require(settings, ("program", *needed))
    program = here.program(settings["program"], name_of("program"))
    fields = settings["inputs"]

    def inputs() -> list[str]:
        return words.input_fields(program) if fields is None else common.split_fields(fields)

    sets = {
        name: here.examples(settings[parameter], name_of(parameter), inputs)
        for name, parameter in _DATA.items()
        if settings[parameter] is not None
    }
    if not settings["allow_changed_data"]:
        for name, expected in fingerprints.items():
            if nb.fingerprint(sets[name]) != expected:
                raise nb.InputError(
                    f"{settings[_DATA[name]]} is not what it was for {settings['like']}: --allow-changed-data uses "
                    f"it all the same, --{name}-data names another file"
                )
    metric, model_id = settings["metric"], settings["model_id"]
    given_options = settings["options"]
    if model_id is not None:
        nb.Registry(root).check_registrable(program, model_id)
    with dspy.context(**here.lm_settings(settings["lm"])):
        task = nb.Task(
            program,
            metric=None if metric is None else here.metric(metric, "--metric"),
            optimizer=settings["optimizer"],
            options=given_options if isinstance(given_options, dict) else here.options(given_options),
            preset=settings["preset"],
            budget=nb.Budget(**{name: settings[parameter] for name, parameter in _BUDGET.items()}),
            seed=settings["seed"],
            num_threads=settings["num_threads"],
            recompile=settings["recompile"],
            **{f"{name}set": examples for name, examples in sets.items()},
        )
        command = {
            "program": _portable(settings["program"]),
            **{parameter: _portable(settings[parameter]) for parameter in _DATA.values()},
            "inputs": fields,
            "metric": _portable(metric),
            "lm": settings["lm"],
            "recompile": settings["recompile"],
        }
        yield Wanted(task, nb.estimate(task), model_id, command)


def _repeated(options: Mapping[str, Any], root: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the options that made the version ``--like``, those on the command line over them.

    Also the fingerprints of the data sets whose files are taken from it.
    """
    version = nb.Registry(root).get(options["like"])
    metadata = version.metadata
    if metadata.get("optimizer") is None:
        raise nb.InputError(f"{version.ref} was not made by an optimization: there is nothing to repeat")
    command, budget = metadata.get("command") or {}, metadata.get("budget") or {}
    stored = {
        **{name: command.get(name) for name in ("program", *_DATA.values(), "inputs", "metric", "lm")},
        "recompile": command.get("recompile", False),
        "optimizer": metadata["optimizer"],
        "seed": metadata.get("seed") or 0,
        "num_threads": metadata.get("num_threads"),
        "model_id": version.model_id,
        **{parameter: budget.get(name) for name, parameter in _BUDGET.items()},
    }
    there = set(given())
    settings = {**options, **{name: value for name, value in stored.items() if name not in there}}
    changed = {"optimizer", "preset"} & there
    if not changed:  # another optimizer has other options, and a preset brings its own
        own = words.parse_options(options["options"]) if "options" in there else {}
        settings |= {"preset": None, "options": {**_stored_options(metadata), **own}}
    elif "options" not in there:
        settings["options"] = ()
    for one, other in (("preset", "optimizer"), ("optimizer", "preset")):
        if one in there and other not in there:
            settings[other] = None
    if settings["program"] is None:
        raise nb.InputError(f"{version.ref} does not say where its program comes from: give --program")
    fingerprints = {
        name: data["fingerprint"]
        for name, data in (metadata.get("datasets") or {}).items()
        if name in _DATA and _DATA[name] not in there and settings[_DATA[name]] is not None
    }
    return settings, fingerprints


def _stored_options(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that a version was made with: those given, or all where an older version knows no more."""
    known = metadata.get("given_options")
    options: Mapping[str, Any] = metadata.get("hyperparameters") or {} if known is None else known
    return {name: value for name, value in options.items() if value is not None}


def _portable(text: str | None) -> str | None:
    """Return a path, or what follows one, relative to the working directory where it lies below it."""
    if text is None or not os.path.isabs(text):  # noqa: PTH117 (text, such as file.py:name)
        return text
    path = Path(text)
    return path.relative_to(Path.cwd()).as_posix() if path.is_relative_to(Path.cwd()) else text
