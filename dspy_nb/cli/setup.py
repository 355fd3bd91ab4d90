"""Commands around the toolkit itself: the embedded model, the demo, the presets."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path

import click

import dspy_nb as nb
from dspy_nb.cli.output import echo, json_option, print_result
from dspy_nb.core.text import error_text

__all__ = ["demo", "install_model", "presets", "run_notebook"]


@click.command("install-model")
@click.option("--force", is_flag=True, help="Download it again even if a good one is there.")
@json_option
def install_model(force: bool, as_json: bool) -> None:
    r"""Download the embedded model and verify it.

    It takes 93 MB, once per user: every environment shares one copy, in DSPY_NB_MODEL_DIR or the user's cache
    folder. A second call finds it there.

    \b
    Examples:
      dspy-nb install-model
    """
    path = nb.install_model(force=force, progress=lambda line: echo(line, err=as_json))
    if as_json:
        print_result(True, {"path": str(path)}, str)


@click.command()
@click.option(
    "--dir", "folder", default="demo", show_default=True, metavar="DIR", help="Where to put it all."
)
@json_option
def demo(folder: str, as_json: bool) -> None:
    r"""Optimize a small program, from data to registry.

    Executes the quickstart notebook on the embedded model. The executed copy, the registry and the model's
    answers stay in a folder of their own, and a second run there pays for no answer again.

    \b
    Examples:
      dspy-nb demo --dir demo
    """
    from dspy_nb.cli.quickstart import run_demo, summary

    result = run_demo(Path(folder), sys.stderr if as_json else sys.stdout)
    print_result(as_json, result, lambda: summary(result))


@click.command()
@click.argument("name", metavar="[PRESET]", required=False)
@click.option("--save", metavar="NAME", help="Save a preset of your own.")
@click.option("--optimizer", metavar="NAME", help="With --save: the optimizer.")
@click.option(
    "--option", "options", multiple=True, metavar="NAME=VALUE", help="With --save: an option; repeatable."
)
@click.option("--description", metavar="TEXT", help="With --save: what it is.")
@click.option("--recommended-for", multiple=True, metavar="TEXT", help="With --save; repeatable.")
@json_option
def presets(
    name: str | None,
    save: str | None,
    optimizer: str | None,
    options: tuple[str, ...],
    description: str | None,
    recommended_for: tuple[str, ...],
    as_json: bool,
) -> None:
    r"""List the configurations for optimize --preset.

    With a name, show that one; with --save, keep one of your own in your configuration folder.

    \b
    Examples:
      dspy-nb presets
      dspy-nb presets --save mine --optimizer MIPROv2 --option num_candidates=8 --description "fits our budget"
    """
    from dspy_nb.cli import parsing
    from dspy_nb.views.listings import Listing

    if save is not None:
        if name is not None:
            raise nb.InputError(f"presets: give either {name!r} to show or --save to save, not both")
        if optimizer is None:
            raise nb.InputError("presets: --save needs --optimizer NAME")
        made = nb.Preset(save, optimizer, parsing.parse_options(options), description or "", recommended_for)
        file = nb.save_preset(made)
        print_result(as_json, {**asdict(nb.get_preset(save)), "file": str(file)}, lambda: f"Saved in {file}")
        return
    if optimizer or options or description or recommended_for:
        raise nb.InputError("presets: --optimizer, --option, --description, --recommended-for go with --save")
    if name is not None:
        found = nb.get_preset(name)
        print_result(as_json, asdict(found), found.report)
        return
    every = nb.list_presets()
    print_result(as_json, [asdict(preset) for preset in every], Listing(every).report)


# -- run-notebook -----------------------------------------------------------------------------------------------


@click.command("run-notebook")
@click.argument("notebook", metavar="NOTEBOOK")
@click.option(
    "-p",
    "--parameter",
    "parameters",
    multiple=True,
    metavar="NAME=VALUE",
    help="A parameter of the notebook: a name that its cell tagged 'parameters' sets; repeatable.",
)
@click.option(
    "-o",
    "--out",
    metavar="FILE",
    help="The executed copy, kept also if a cell fails; by default NAME.executed.ipynb beside the notebook.",
)
@json_option
def run_notebook(notebook: str, parameters: tuple[str, ...], out: str | None, as_json: bool) -> int:
    r"""Execute a notebook as a step of a pipeline.

    It runs from top to bottom in its own folder, with this Python. The exit status is 1 if a cell fails, such
    as a gate that says no, or if a cell was not executed; the line on stderr names the cell and the error.

    \b
    Examples:
      dspy-nb run-notebook pipeline.ipynb
      dspy-nb run-notebook pipeline.ipynb -p model_id=qa-model -p min_score=0.8 -o executed.ipynb
    """
    from dspy_nb.cli import notebooks, parsing
    from dspy_nb.views.wording import duration

    source = Path(notebook)
    values = parsing.parse_options(parameters, as_text=notebooks.text_parameters(source))
    copy = source.with_suffix(".executed.ipynb") if out is None else Path(out)
    cells = notebooks.read_notebook(source, values).cells
    if not copy.parent.is_dir():
        raise nb.InputError(f"--out {copy}: there is no folder {copy.parent}")
    if copy.exists() and copy.samefile(source):
        raise nb.InputError(f"--out {copy} is the notebook itself, which stays as it is")
    stream = sys.stderr if as_json else sys.stdout
    try:
        spent_s = notebooks.run_notebook(source, copy, folder=source.parent, out=stream, parameters=values)
    except notebooks.NotebookFailed as error:
        echo(f"Error: {error_text(error)}", err=True)
        return 1
    n = sum(cell.cell_type == "code" and bool(cell.source.strip()) for cell in cells)
    data = {
        "notebook": str(source),
        "executed": str(copy),
        "parameters": values,
        "code_cells": n,
        "duration_s": round(spent_s, 3),
    }
    print_result(as_json, data, lambda: f"{n} code cells in {duration(spent_s)}: {copy}")
    return 0
