"""Options that several commands have, and what words of a registry name."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any, Final

import click
from click.core import ParameterSource

import dspy_nb as nb
from dspy_nb.commands.declaration import Kind, argument, given, name_of, option, option_group
from dspy_nb.commands.surface import Surface
from dspy_nb.commands.words import input_fields
from dspy_nb.core.deployment.serving import LiveIn
from dspy_nb.core.models import names
from dspy_nb.core.models.version import FACTS
from dspy_nb.core.text import did_you_mean


def _registry(ctx: click.Context) -> nb.Registry:
    return nb.Registry(ctx.params.get("root") or (ctx.default_map or {}).get("root") or "registry")


def _references(here: Surface, ctx: click.Context) -> Iterator[str]:
    found = _registry(ctx)
    for model in found.models():
        yield from (f"{model}@{stage}" for stage in ("latest", "production", "staging"))
        yield from (version.ref for version in found.list(model))


def _programs(here: Surface, ctx: click.Context) -> Iterator[str]:
    import dspy

    yield from here.names(lambda value: isinstance(value, dspy.Module))
    with contextlib.suppress(nb.DspyNbError):
        yield from _references(here, ctx)


def _metrics(here: Surface, ctx: click.Context) -> Iterator[str]:
    from dspy_nb.core.data.metrics import METRICS as KNOWN

    yield from (f"{name}:" for name in KNOWN)
    yield from here.names(lambda value: callable(value) and not isinstance(value, type))


def _optimizers(here: Surface, ctx: click.Context) -> Iterable[str]:
    from dspy_nb.core.optimization.optimizers import OPTIMIZERS as KNOWN

    return KNOWN


def _options(here: Surface, ctx: click.Context) -> Iterable[str]:
    from dspy_nb.core.optimization.optimizers import get_optimizer

    preset, name = ctx.params.get("preset"), ctx.params.get("optimizer")
    name = nb.get_preset(preset).optimizer if preset else name or "BootstrapFewShot"
    return sorted(f"{option}=" for option in get_optimizer(name).options())


def _conditions(here: Surface, ctx: click.Context) -> Iterable[str]:
    return [f"{field.name}=" for field in fields(nb.QualityGate) if field.name != "per_class"]


def _experiments(here: Surface, ctx: click.Context) -> Iterable[str]:
    from dspy_nb.core.ab.experiment import experiments

    return experiments(_registry(ctx))


PROGRAMS: Final = Kind("NAME|MODULE:NAME", _programs)
SUBJECTS: Final = Kind("REF|PROGRAM", _programs)
DATA: Final = Kind("FILE|NAME", lambda here, ctx: here.names(lambda value: isinstance(value, list)), "file")
METRICS: Final = Kind("METRIC", _metrics)
OPTIMIZERS: Final = Kind("NAME", _optimizers)
OPTIONS: Final = Kind("NAME=VALUE", _options)
PRESETS: Final = Kind("NAME", lambda here, ctx: [preset.name for preset in nb.list_presets()])
MODELS: Final = Kind("NAME", lambda here, ctx: _registry(ctx).models())
REFERENCES: Final = Kind("REF", _references)
STAGES: Final = Kind("STAGE", lambda here, ctx: names.STAGES)
ENVIRONMENTS: Final = Kind(
    "NAME", lambda here, ctx: sorted({*names.ENVIRONMENTS, *_registry(ctx).environments()})
)
EXPERIMENTS: Final = Kind("NAME", _experiments)
CONDITIONS: Final = Kind("NAME=VALUE", _conditions)
FILES: Final = Kind("FILE", path="file")
DIRECTORY: Final = Kind("DIR", path="dir")
VERSION: Final = Kind("VERSION")
NAME: Final = Kind("NAME")
TEXT: Final = Kind("TEXT")
BUMPS: Final = click.Choice(names.BUMPS)

registry: Final = option(
    "--registry root",
    "Folder of the registry, or its URL.",
    DIRECTORY,
    default="registry",
    envvar="DSPY_NB_REGISTRY",
)
lm: Final = option(
    "--lm",
    "Such as openai/gpt-4o-mini. By default what DSPy is configured with; in a shell $DSPY_NB_LM, and in the end "
    "the embedded model.",
    Kind("MODEL"),
    envvar="DSPY_NB_LM",
)
program: Final = option(
    "--program",
    "A dspy.Module, or a class or function that makes one: a name in the notebook, package.module:name or "
    "file.py:name. Where a version is named, a program of its class.",
    PROGRAMS,
)
metric: Final = option(
    "--metric",
    "exact_match:field, accuracy:field, token_f1:field, partial_credit:field, a function of the notebook, or "
    "module:function. By default the one that a version was optimized by.",
    METRICS,
)
num_threads: Final = option("--num-threads --threads", "Program calls at a time.", int)
scheduler: Final = option(
    "--scheduler executor",
    "Where to ask programs: local, local:4 (workers) or tcp://host:port of Dask; in a notebook also the name of an "
    "executor or client.",
    TEXT,
)
rate_options: Final = option_group(
    option("--requests-per-minute", "At most so many requests to language models a minute.", int),
    option("--tokens-per-minute", "At most so many tokens a minute, sent and received.", int),
)
confidence: Final = option("--confidence", "Of intervals and verdicts.", float, default=0.95)
seed: Final = option("--seed", "For whatever is drawn at random.", int, default=0)
timeout: Final = option("--timeout timeout_s", "Seconds after which an answer is an error.", float)
stop_after: Final = option(
    "--stop-after stop_after_s", "Seconds after which to end, with what is done.", float
)
test_data: Final = option(
    "--test-data --data dataset",
    "Labelled examples that no program has learnt from (a name, .jsonl, .json, .csv, .tsv).",
    DATA,
)
inputs: Final = option(
    "--inputs", "Input fields of files, comma-separated; else the program's own.", Kind("FIELDS")
)
quiet: Final = option("-q --quiet", "Show neither progress nor what it can cost.", bool)
bump: Final = option("--bump", "Which part of the version to raise; minor by default.", BUMPS)
reason: Final = option("--reason", "Why; it is kept in the history.", TEXT)
by: Final = option("--by", "Who decides; the user by default.", NAME)
create: Final = option("--create", "Make the environment, if there is none of that name yet.", bool)
dry_run: Final = option("--dry-run", "Say what is required and what of it is met; nothing is done.", bool)
evidence: Final = option(
    "--evidence",
    "A gate's result, a comparison or an evaluation, or a file with its JSON.",
    Kind("FILE|NAME", path="file"),
)
version_argument: Final = argument("ref", REFERENCES, "MODEL[@VERSION]")


def program_argument(command: Callable[..., Any]) -> Callable[..., Any]:
    """Let a command that has the option ``--program`` take it as its first word as well, which is the same."""

    @functools.wraps(command)
    def merged(here: Surface, first: str | None, **options: Any) -> Any:
        if first is not None:
            if given(("program",)):
                raise nb.InputError(f"the program is given twice: {first} and --program {options['program']}")
            context = click.get_current_context()
            context.set_parameter_source("program", ParameterSource.COMMANDLINE)
            options["program"] = context.params["program"] = first
        return command(here, **options)

    return argument("first", PROGRAMS, "[PROGRAM]", required=False)(merged)


def rate_limit(options: dict[str, Any]) -> nb.RateLimit | None:
    """Take out of the options those of ``rate_options``; return what they stand for.

    Raises:
        InputError: One is no positive whole number.
    """
    limits = {name: options.pop(name) for name in ("requests_per_minute", "tokens_per_minute")}
    return None if set(limits.values()) == {None} else nb.RateLimit(**limits)


def require(options: Mapping[str, Any], needed: Iterable[str]) -> None:
    """Check that parameters of the current command are given.

    Raises:
        UsageError: One is missing; the message names its option.
    """
    for name in needed:
        if options[name] in (None, ()):
            raise click.UsageError(f"Missing option {name_of(name)!r}.", click.get_current_context())


def input_names(inputs: str | None, program: Callable[[], Any]) -> list[str]:
    """Return the names in a comma-separated list, else the input fields of the program."""
    return input_fields(program()) if inputs is None else [name.strip() for name in inputs.split(",")]


def open_registry(root: str) -> nb.Registry:
    """Return the registry in ``root``, which must exist."""
    found = nb.Registry(root)
    if not found.exists():
        raise nb.NotFound(f"there is no registry in {root}: --registry names its folder or URL")
    return found


def version_facts(version: nb.ModelVersion, live: Sequence[LiveIn] | None = None) -> dict[str, Any]:
    """Return what ``--json`` says about a version, and where it is live if that is given."""
    facts = {name: getattr(version, name) for name in FACTS}
    found = {"ref": version.ref, **facts, "path": str(version.path)}
    if live is not None:
        found["live_in"] = [place.environment for place in live if place.share is None]
        found["canary_in"] = {place.environment: place.share for place in live if place.share is not None}
    return found


def note_new_model(here: Surface, version: nb.ModelVersion, found: nb.Registry) -> None:
    """Say that a version began a new model, and whether another one may have been meant."""
    with contextlib.suppress(nb.DspyNbError):  # it is done, whatever the disk says now
        if len(found.list(version.model_id)) == 1:
            others = [name for name in found.folder_names() if name != version.model_id]
            hint = did_you_mean(version.model_id, others)
            here.say(f"Note: {version.model_id} is a new model" + (f"; {hint}?" if hint else ""))


def resolve(
    here: Surface, word: str, option: str, found: nb.Registry
) -> tuple[Any | None, nb.ModelVersion | None]:
    """Return the program that a word names, or the version if it is a reference to one."""
    if here.named(word) is not None or ":" in word:
        return here.program(word, option), None
    if "@" in word or here.offers_files or word in _models_of(found):
        return None, found.get(word)
    return here.program(word, option), None  # which says what is wrong with it


def _models_of(found: nb.Registry) -> Sequence[str]:
    try:
        return found.models()
    except nb.DspyNbError:
        return ()


def own_metric(version: nb.ModelVersion | None) -> str:
    """Return the metric that a version was optimized by, where the command that did it has stored it."""
    metric = None if version is None else (version.metadata.get("command") or {}).get("metric")
    if metric is None:
        known = "" if version is None else f", {version.ref} does not say which"
        raise nb.InputError(f"give --metric, such as exact_match:label{known}")
    return str(metric)


def workers(here: Surface, word: str | None) -> Any:
    """Return what ``--scheduler`` names: an object of the notebook, or what is read as a scheduler."""
    found = None if word is None else here.named(word)
    return word if found is None else found
