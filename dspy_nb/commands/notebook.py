"""The command ``dspy-nb run-notebook``."""

from __future__ import annotations

import sys
from pathlib import Path

import click

import dspy_nb as nb
from dspy_nb.commands.output import json_option, print_result

__all__ = ["run_notebook"]


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
    from dspy_nb import notebooks, parsing
    from dspy_nb.wording import duration

    source = Path(notebook)
    values = parsing.parse_options(parameters)
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
        click.echo(f"Error: {' '.join(str(error).split())}", err=True)
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
