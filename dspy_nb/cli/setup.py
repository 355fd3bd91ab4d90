"""Commands that only a shell has: the embedded model, the demo, notebooks as steps of a pipeline."""

from __future__ import annotations

from pathlib import Path

import dspy_nb as nb
from dspy_nb.cli.shell import Shell
from dspy_nb.commands import common, words
from dspy_nb.commands.declaration import Kind, argument, command, option
from dspy_nb.commands.surface import Outcome
from dspy_nb.core.text import error_text


@command("install-model")
@option("--force", "Download it again even if a good one is there.", bool)
def install_model(here: Shell, force: bool) -> Outcome:
    r"""Download the embedded model and verify it.

    It takes 93 MB, once per user: every environment shares one copy, in DSPY_NB_MODEL_DIR or the user's cache
    folder. A second call finds it there.

    \b
    Examples:
      dspy-nb install-model
    """
    path = nb.install_model(force=force, progress=here.tell)
    return Outcome(path, {"path": str(path)}, "")


@command("demo")
@option("--dir folder", "Where to put it all.", common.DIRECTORY, default="demo")
def demo(here: Shell, folder: str) -> Outcome:
    r"""Optimize a small program, from data to registry.

    Executes the quickstart notebook on the embedded model. The executed copy, the registry and the model's
    answers stay in a folder of their own, and a second run there pays for no answer again.

    \b
    Examples:
      dspy-nb demo --dir demo
    """
    from dspy_nb.cli.quickstart import run_demo, summary

    result = run_demo(Path(folder), here.stream)
    return Outcome(result, result, lambda: summary(result))


# -- run-notebook -----------------------------------------------------------------------------------------------


@command("run-notebook")
@argument("notebook", common.FILES, "NOTEBOOK")
@option(
    "-p --parameter parameters",
    "A parameter of the notebook: a name that its cell tagged 'parameters' sets; repeatable.",
    Kind("NAME=VALUE"),
    multiple=True,
)
@option(
    "-o --out",
    "The executed copy, kept also if a cell fails; by default NAME.executed.ipynb beside the notebook.",
    common.FILES,
)
def run_notebook(here: Shell, notebook: str, parameters: tuple[str, ...], out: str | None) -> Outcome:
    r"""Execute a notebook as a step of a pipeline.

    It runs from top to bottom in its own folder, with this Python. The exit status is 1 if a cell fails, such
    as a gate that says no, or if a cell was not executed; the line on stderr names the cell and the error.

    \b
    Examples:
      dspy-nb run-notebook pipeline.ipynb
      dspy-nb run-notebook pipeline.ipynb -p model_id=qa-model -p min_score=0.8 -o executed.ipynb
    """
    from dspy_nb.cli import notebooks
    from dspy_nb.views.wording import duration

    source = Path(notebook)
    values = words.parse_options(parameters, as_text=notebooks.text_parameters(source))
    copy = source.with_suffix(".executed.ipynb") if out is None else Path(out)
    cells = notebooks.read_notebook(source, values).cells
    if not copy.parent.is_dir():
        raise nb.InputError(f"--out {copy}: there is no folder {copy.parent}")
    if copy.exists() and copy.samefile(source):
        raise nb.InputError(f"--out {copy} is the notebook itself, which stays as it is")
    try:
        spent_s = notebooks.run_notebook(
            source, copy, folder=source.parent, out=here.stream, parameters=values
        )
    except notebooks.NotebookFailed as error:
        raise nb.Refused(error_text(error)) from error
    n = sum(cell.cell_type == "code" and bool(cell.source.strip()) for cell in cells)
    data = {
        "notebook": str(source),
        "executed": str(copy),
        "parameters": values,
        "code_cells": n,
        "duration_s": round(spent_s, 3),
    }
    return Outcome(copy, data, f"{n} code cells in {duration(spent_s)}: {copy}")
