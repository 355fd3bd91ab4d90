"""Options that several commands have, and what words of a registry name."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Final

import click

import dspy_nb as nb
from dspy_nb.commands.declaration import Kind, argument, option, typed
from dspy_nb.commands.surface import Surface

__all__ = [
    "BUMPS", "CONDITIONS", "DATA", "DIRECTORY", "ENVIRONMENTS", "EXPERIMENTS", "FILES", "METRICS", "MODELS",
    "OPTIMIZERS", "OPTIONS", "PRESETS", "PROGRAMS", "REFERENCES", "STAGES", "by", "confidence", "evidence",
    "inputs", "lm", "num_threads", "open_registry", "own_metric", "program_argument", "quiet", "reason",
    "registry", "require", "resolve", "split_fields", "stop_after", "test_data", "version_facts",
]  # fmt: skip


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


PROGRAMS: Final = Kind(_programs)
DATA: Final = Kind(lambda here, ctx: here.names(lambda value: isinstance(value, list)), "file")
METRICS: Final = Kind(_metrics)
OPTIMIZERS: Final = Kind(_optimizers)
OPTIONS: Final = Kind(_options)
PRESETS: Final = Kind(lambda here, ctx: [preset.name for preset in nb.list_presets()])
MODELS: Final = Kind(lambda here, ctx: _registry(ctx).models())
REFERENCES: Final = Kind(_references)
STAGES: Final = Kind(lambda here, ctx: ("development", "staging", "production", "deprecated", "archived"))
ENVIRONMENTS: Final = Kind(
    lambda here, ctx: sorted({"development", "staging", "production", *_registry(ctx).environments()})
)
EXPERIMENTS: Final = Kind(_experiments)
CONDITIONS: Final = Kind(_conditions)
FILES: Final = Kind(path="file")
DIRECTORY: Final = Kind(path="dir")
BUMPS: Final = click.Choice(["major", "minor", "patch", "prerelease"])

registry: Final = option(
    "--registry",
    "root",
    type=DIRECTORY,
    default="registry",
    envvar="DSPY_NB_REGISTRY",
    show_default=True,
    metavar="DIR",
    help="Folder of the registry.",
)
lm: Final = option(
    "--lm",
    metavar="MODEL",
    envvar="DSPY_NB_LM",
    help="Such as openai/gpt-4o-mini. By default what DSPy is configured with; in a shell $DSPY_NB_LM, and in the "
    "end the embedded model.",
)
num_threads: Final = option(
    "--num-threads", "--threads", "num_threads", type=int, metavar="N", help="Program calls at a time."
)
confidence: Final = option(
    "--confidence",
    type=float,
    default=0.95,
    show_default=True,
    metavar="C",
    help="Of intervals and verdicts.",
)
stop_after: Final = option(
    "--stop-after",
    type=float,
    metavar="S",
    means="stop_after_s",
    help="End after so many seconds, with what is done.",
)
test_data: Final = option(
    "--test-data",
    "--data",
    "test_data",
    type=DATA,
    metavar="FILE|NAME",
    means="dataset",
    help="Labelled examples that no program has learnt from (a name, .jsonl, .json, .csv, .tsv).",
)
inputs: Final = option(
    "--inputs",
    metavar="FIELDS",
    help="Input fields of the files, comma-separated; by default the program's own.",
)
quiet: Final = option("-q", "--quiet", is_flag=True, help="Show no progress.")
reason: Final = option("--reason", metavar="TEXT", help="Why; it is kept in the history.")
by: Final = option("--by", metavar="NAME", help="Who decides; the user by default.")
evidence: Final = option(
    "--evidence",
    type=FILES,
    metavar="FILE|NAME",
    help="A gate's result, a comparison or an evaluation, or a file with its JSON.",
)


def program_argument(command: Callable[..., Any]) -> Callable[..., Any]:
    """Let a command that has the option ``--program`` take it as its first word as well."""

    @functools.wraps(command)
    def merged(here: Surface, first: str | None, **options: Any) -> Any:
        if first is not None and options["program"] is not None:
            raise nb.InputError(f"the program is given twice: {first} and --program {options['program']}")
        return command(here, **{**options, "program": options["program"] if first is None else first})

    return argument("first", metavar="[PROGRAM]", required=False, type=PROGRAMS)(merged)


def require(options: Mapping[str, Any], names: Iterable[str]) -> None:
    """Check that parameters of the current command are given.

    Raises:
        UsageError: One is missing; the message names its option.
    """
    context = click.get_current_context()
    known = {param.name: param for param in context.command.params}
    for name in names:
        if options[name] in (None, ()):
            raise click.UsageError(f"Missing option {typed(known[name])!r}.", context)


def split_fields(text: str) -> list[str]:
    """Return the names in a comma-separated list."""
    return [name.strip() for name in text.split(",")]


def open_registry(root: str) -> nb.Registry:
    """Return the registry in ``root``, which must exist."""
    if not os.path.isdir(Path(root).expanduser()):  # noqa: PTH112 (it raises nothing)
        raise nb.NotFound(f"there is no registry in {root}: --registry names its folder")
    return nb.Registry(root)


def version_facts(version: nb.ModelVersion) -> dict[str, Any]:
    """Return what ``--json`` says about a version."""
    facts = {field.name: getattr(version, field.name) for field in fields(version) if field.name != "files"}
    return {"ref": version.ref, **facts, "path": str(version.path)}


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
