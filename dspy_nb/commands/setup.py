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
    """Download the embedded model and verify it.

    It takes 93 MB, once per user: every environment shares one copy, in DSPY_NB_MODEL_DIR or the user's cache
    folder. A second call finds it there.
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
    """Optimize a small program, from data to registry.

    Executes the quickstart notebook on the embedded model. The executed copy, the registry and the model's
    answers stay in a folder of their own, and a second run there pays for no answer again.
    """
    from dspy_nb.quickstart import run_demo, summary

    result = run_demo(Path(folder), sys.stderr if as_json else sys.stdout)
    print_result(as_json, result, lambda: summary(result))


@click.command()
@json_option
def presets(as_json: bool) -> None:
    """List the configurations for optimize --preset."""
    from dspy_nb.listings import presets_text

    found = nb.list_presets()
    print_result(as_json, [asdict(preset) for preset in found], lambda: presets_text(found))
