"""Commands around the toolkit itself: the embedded model, the demo, the presets."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path

import click

import dspy_nb as nb
from dspy_nb.commands.output import json_option, print_result

__all__ = ["demo", "install_model", "presets"]


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
    path = nb.install_model(force=force, progress=lambda line: click.echo(line, err=as_json))
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
    from dspy_nb.quickstart import run_demo, summary

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
    from dspy_nb import parsing
    from dspy_nb.listings import presets_text

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
        print_result(as_json, asdict(found), lambda: presets_text([found]))
        return
    every = nb.list_presets()
    print_result(as_json, [asdict(preset) for preset in every], lambda: presets_text(every))
