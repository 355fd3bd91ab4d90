"""What ``optimize`` and ``pipeline`` share: the options of an optimization, and the task that they stand for."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click

import dspy_nb as nb
from dspy_nb.commands import common, words
from dspy_nb.commands.declaration import given, name_of, option, option_group
from dspy_nb.commands.surface import Surface

BUDGET: Final = ("lm_calls", "seconds", "tokens", "usd", "call_seconds")
_SETS: Final = ("trainset", "valset", "testset")
_STORED: Final = {"trainset": "train_data", "valset": "val_data", "testset": "test_data"}
"""The names that versions store the files of the sets under."""

task_options: Final = option_group(
    common.program_argument,
    common.program,
    option(
        "--train-data --train trainset",
        "Examples to learn from (a name, .jsonl, .json, .csv, .tsv).",
        common.DATA,
    ),
    option("--val-data --val valset", "Examples to compare candidates on.", common.DATA),
    option(
        "--test-data --test testset",
        "Examples that the search never sees, scored before and after.",
        common.DATA,
    ),
    common.inputs,
    common.metric,
    option("--optimizer", "Such as MIPROv2; BootstrapFewShot by default.", common.OPTIMIZERS),
    option(
        "--option options",
        "Of the optimizer: a literal, else what has that name in the notebook, else text; repeatable.",
        common.OPTIONS,
        multiple=True,
    ),
    option("--preset", "A named configuration, see presets; an --option wins over it.", common.PRESETS),
    option("--budget-calls lm_calls", "Stop after so many LM calls.", int),
    option("--budget-seconds --timeout seconds", "Stop after so many seconds.", float),
    option("--budget-tokens tokens", "Stop after so many tokens.", int),
    option("--budget-usd usd", "Stop after so many US dollars.", float),
    option("--budget-call-seconds call_seconds", "A request that takes longer is an error.", float),
    common.seed,
    common.num_threads,
    common.lm,
    option(
        "--race",
        "When to ask a candidate no further: it cannot win, or very probably will not. By default exact where that "
        "changes no result.",
        click.Choice(["exact", "paired", "off"]),
    ),
    option("--recompile", "Accept a program that was compiled before.", bool),
    option(
        "--like",
        "Repeat what made this version: program, data, metric, optimizer, options, seed, budget, threads; other "
        "options override.",
        common.REFERENCES,
    ),
    option("--allow-changed-data", "With --like: also if a data file is not what it was.", bool),
    option("--model-id --save-as model_id", "Register the optimized program as this model.", common.MODELS),
    common.bump,
)
"""The options that describe an optimization, and the program as an argument as well."""


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
    fields = functools.partial(common.input_names, settings["inputs"], lambda: program)
    sets: dict[str, Any] = {
        name: here.examples(settings[name], name_of(name), fields)
        for name in _SETS
        if settings[name] is not None
    }
    if not settings["allow_changed_data"]:
        for name, expected in fingerprints.items():
            if nb.fingerprint(sets[name]) != expected:
                raise nb.InputError(
                    f"{settings[name]} is not what it was for {settings['like']}: --allow-changed-data uses it all "
                    f"the same, {name_of(name)} names another file"
                )
    metric, model_id, own = settings["metric"], settings["model_id"], settings["options"]
    if model_id is not None:
        nb.Registry(root).check_registrable(program, model_id)
    with dspy.context(**here.lm_settings(settings["lm"])):
        task = nb.Task(
            program,
            **sets,
            metric=None if metric is None else here.metric(metric, "--metric"),
            options=own if isinstance(own, dict) else here.options(own),
            budget=nb.Budget(**{name: settings[name] for name in BUDGET}),
            **{name: settings[name] for name in ("optimizer", "preset", "seed", "num_threads", "recompile")},
            race={None: "auto", "off": None}.get(settings["race"], settings["race"]),
        )
        command = {
            "program": _portable(settings["program"]),
            **{stored: _portable(settings[name]) for name, stored in _STORED.items()},
            "inputs": settings["inputs"],
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
        **{name: command.get(name) for name in ("program", "inputs", "metric", "lm")},
        **{name: command.get(stored) for name, stored in _STORED.items()},
        "recompile": command.get("recompile", False),
        "optimizer": metadata["optimizer"],
        "seed": metadata.get("seed") or 0,
        "num_threads": metadata.get("num_threads"),
        "race": (metadata["race"] or "off") if "race" in metadata else None,
        "model_id": version.model_id,
        **{name: budget.get(name) for name in BUDGET},
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
        f"{name}set": data["fingerprint"]
        for name, data in (metadata.get("datasets") or {}).items()
        if f"{name}set" not in there and settings.get(f"{name}set") is not None
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
