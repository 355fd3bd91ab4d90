"""Commands that read a registry, and the one that registers a program as it is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import dspy_nb as nb
from dspy_nb.commands import common, words
from dspy_nb.commands.common import open_registry, version_facts
from dspy_nb.commands.declaration import Kind, argument, command, given, name_of, option
from dspy_nb.commands.surface import Outcome, Surface

_columns = option(
    "--columns",
    "Columns of the table, comma-separated: version, stage, live, score, measured, optimizer, model, created, "
    "parent, size.",
    Kind("NAMES", lambda here, ctx: _column_names()),
)


def _column_names() -> Iterable[str]:
    from dspy_nb.views.listings import COLUMNS

    return COLUMNS


def _chosen(columns: str | None) -> list[str] | None:
    """Return the names of the columns that were typed."""
    from dspy_nb.views.listings import check_columns

    return None if columns is None else check_columns(columns)


@command("list")
@argument("model_id", common.MODELS, "[MODEL]", required=False)
@_columns
@common.registry
def list_versions(here: Surface, model_id: str | None, columns: str | None, root: str) -> Outcome:
    r"""List the versions of one model, or of all.

    A model that cannot be read is named on stderr, with exit status 2; the others are listed.

    \b
    Examples:
      dspy-nb list
      dspy-nb list sentiment --json
      dspy-nb list --columns version,stage,live,score
    """
    found, shown = open_registry(root), _chosen(columns)
    versions, damage = found.survey() if model_id is None else (found.list(model_id), [])
    live, broken = found.live()
    damage = [*damage, *broken]
    return Outcome(
        here.listing(versions, "Versions", found, model_id or "", shown, live),
        [version_facts(version, live.get(version.ref, ())) for version in versions],
        status=2 if damage else 0,
        complaint="\n".join(map(str, damage)),
    )


@command("registry", magic="dspy_registry", in_shell=False)
@argument("model", common.MODELS, "[MODEL]", required=False)
@option("--history", "Everything that was ever decided about the model.", bool)
@option("--environment", "What was live there, and what is.", common.ENVIRONMENTS)
@option(
    "--diff compared",
    "What changed between two versions, from the older to the newer.",
    common.REFERENCES,
    nargs=2,
    metavar="A B",
)
@_columns
@common.registry
def registry(
    here: Surface,
    model: str | None,
    history: bool,
    environment: str | None,
    compared: tuple[str, str] | None,
    columns: str | None,
    root: str,
) -> Outcome:
    r"""List the versions in the registry, the newest of each model first; or what was decided.

    MODEL alone is all its versions, MODEL@VERSION is one, such as sentiment@production.

    \b
    Examples:
      %dspy_registry
      %dspy_registry --columns version,stage,live,score
      %dspy_registry sentiment --history
      %dspy_registry --diff sentiment@1.0.0 sentiment@1.1.0
    """
    from dspy_nb.views.listings import Listing, short_path

    typed = list(given(("history", "environment", "compared")).values())
    if len(typed) > 1:
        raise nb.InputError(f"give either {typed[0]} or {typed[1]}, not both")
    if model and typed and not history:
        raise nb.InputError(f"{typed[0]} does not go with {model!r}")
    if typed and columns is not None:
        raise nb.InputError(f"--columns goes with a list of versions, not with {typed[0]}")
    found, shown = nb.Registry(root), _chosen(columns)
    found.exists()  # whether or not: on object storage that says why it cannot be reached
    if compared:
        return Outcome(found.diff(*compared))
    if environment:
        where = found.environment(environment)
        return Outcome(Listing(where.history(), f"Live in {where.name}, the last line now"))
    if history:
        if model is None:
            raise nb.InputError("--history needs a model, or write --environment NAME")
        return Outcome(Listing(found.history(model), f"History of {model}"))
    title = f"Registry: {short_path(found.root)}"
    live, broken = found.live()
    if model and "@" in model:
        return Outcome(Listing([found.get(model)], title, columns=shown, live=live))
    if model:
        return Outcome(here.listing(found.list(model), title, found, model, shown, live))
    versions, damage = found.survey()
    damage = [*damage, *broken]
    if damage:
        return Outcome(Listing(versions, title, columns=shown, live=live), refusal=damage[0])
    return Outcome(here.listing(versions, title, found, "", shown, live))


@command("show")
@common.version_argument
@common.registry
def show(here: Surface, ref: str, root: str) -> Outcome:
    r"""Show the model card of a version, verified.

    MODEL alone is its latest version; VERSION may be exact (1.2.0), a range (^1.1), staging or production.
    With --json, the metadata.

    \b
    Examples:
      dspy-nb show sentiment@production
    """
    from dspy_nb.core.models.version import verified_files
    from dspy_nb.views.card import card_document

    found = open_registry(root)
    version = found.get(ref)
    live = found.live()[0].get(version.ref, ())
    card = verified_files(version.path, version.files, version.ref)["README.md"]
    standing = " · ".join([version.ref, f"stage {version.stage}", *map(str, live)])
    return Outcome(
        version,
        {**version.metadata, **version_facts(version, live)},
        lambda: replace(card_document(card.decode("utf-8", "replace")), subtitle=standing),
    )


@command("check")
@common.registry
def check(here: Surface, root: str) -> Outcome:
    r"""Verify every log and every hash of a registry.

    Prints what is wrong and what to do about it; the exit status is 1 if anything is.

    \b
    Examples:
      dspy-nb check --registry registry
    """
    problems = open_registry(root).check()
    data = [{"kind": found.kind, "path": str(found.path), "message": found.message} for found in problems]
    text = "\n".join(map(str, problems)) or "Everything is as it was registered."
    return Outcome(problems, data, text, status=1 if problems else 0)


@command("copy")
@argument("source", common.DIRECTORY, "REGISTRY")
@argument("target", common.DIRECTORY, "REGISTRY")
def copy(here: Surface, source: str, target: str) -> Outcome:
    r"""Copy a registry with its whole history, verified.

    From the first to the second: each is a folder, or a URL such as s3://bucket/prefix. Made again the copy goes on
    where it stopped, or takes what is new. Traffic and experiments stay behind.

    \b
    Examples:
      dspy-nb copy registry s3://team/registry
      dspy-nb copy s3://team/registry backup --json
    """
    from dspy_nb.views.wording import count

    made = open_registry(source).copy_to(target)
    held = [(made.models, "model"), (made.versions, "version"), (made.environments, "environment")]
    kinds = ", ".join(count(n, what) for n, what in held)
    text = f"{kinds}, {made.entries:,} log entries, {made.new:,} of them new"
    text = f"Copied {source} to {target}, and verified it: {text}"
    return Outcome(made, made.to_dict, text)


@command("history")
@argument("model_id", common.MODELS, "[MODEL]", required=False)
@option("--environment", "What was live there, instead of a model's history.", common.ENVIRONMENTS)
@common.registry
def history(here: Surface, model_id: str | None, environment: str | None, root: str) -> Outcome:
    r"""Show the history of a model or of an environment.

    \b
    Examples:
      dspy-nb history sentiment
      dspy-nb history --environment production --json
    """
    from dspy_nb.views.listings import Listing

    found = open_registry(root)
    if model_id is not None and environment is None:
        entries = found.history(model_id)
        return Outcome(Listing(entries, model_id), [item.to_dict() for item in entries])
    if environment is None or model_id is not None:
        raise nb.InputError("history: give either MODEL or --environment NAME")
    lines = found.environment(environment).history()
    return Outcome(Listing(lines, environment), [{"ref": line.ref, **line.to_dict()} for line in lines])


@command("diff")
@argument("a", common.REFERENCES, "A")
@argument("b", common.REFERENCES, "B")
@option(
    "--input inputs",
    "Of an input field, to compare the rendered prompts as well; repeatable.",
    Kind("FIELD=VALUE"),
    multiple=True,
)
@option("--predictor", "Whose prompt, where the programs have several predictors.", Kind("PATH"))
@common.registry
def diff(here: Surface, a: str, b: str, inputs: tuple[str, ...], predictor: str | None, root: str) -> Outcome:
    r"""Show what changed between two versions.

    From the older to the newer, in whichever order they are named: of one model the lower version is the older, of
    two models the one that was made earlier. Instructions, demos, fields, options and scores are compared, with
    --input the exact prompts too; where both were evaluated on the same examples, also example by example and class
    by class.

    \b
    Examples:
      dspy-nb diff sentiment@1.0.0 sentiment@1.1.0
      dspy-nb diff sentiment@production sentiment --input review="Nice and quick."
    """
    registry = open_registry(root)
    values = words.parse_options(inputs, as_text=_text_inputs(registry.get(a))) if inputs else None
    found = registry.diff(a, b, inputs=values, predictor=predictor)
    return Outcome(found, found.to_dict)


def _text_inputs(version: nb.ModelVersion) -> set[str]:
    """Return the input fields of a version that are text."""
    predictors = version.metadata["signature"]["predictors"]
    return {field["name"] for item in predictors for field in item["fields"] if field["type"] == "str"}


@command("register")
@common.program_argument
@common.program
@option("--model-id --save-as model_id", "The model to register it as.", common.MODELS, required=True)
@option("--version", "An exact version, such as 1.2.0 or 1.2.0-rc.1.", common.VERSION)
@common.bump
@option("--parent", "What it was made from; the latest version by default.", common.VERSION)
@option("--notes", "What there is to say about it; the model card shows it.", common.TEXT)
@common.by
@common.registry
def register(here: Surface, program: str, root: str, **arguments: Any) -> Outcome:
    r"""Register a program as it is.

    It becomes the next version of a model, in the stage development. What was optimized is better registered by
    optimize --save-as, which knows how it was made and how good it is.

    \b
    Examples:
      dspy-nb register --program app.py:classifier --model-id sentiment --notes "written by hand"
      dspy-nb register --program my_package.programs:Classifier --model-id sentiment --bump major
    """
    common.require({"program": program}, ("program",))
    found = nb.Registry(root)
    made = found.register(here.program(program, name_of("program")), **arguments)
    common.note_new_model(here, made, found)
    return Outcome(made, version_facts(made), f"Registered {made.ref} in {made.path}")
