"""The command ``presets``."""

from __future__ import annotations

from dataclasses import asdict

import dspy_nb as nb
from dspy_nb.commands import common
from dspy_nb.commands.declaration import argument, command, given, option
from dspy_nb.commands.surface import Outcome, Surface


@command("presets", magic="dspy_presets")
@argument("name", common.PRESETS, "[PRESET]", required=False)
@option("--save", "Save a preset of your own.", common.NAME)
@option("--optimizer", "With --save: the optimizer.", common.OPTIMIZERS)
@option("--option options", "With --save: an option; repeatable.", common.OPTIONS, multiple=True)
@option("--description", "With --save: what it is.", common.TEXT)
@option("--recommended-for", "With --save; repeatable.", common.TEXT, multiple=True)
def presets(
    here: Surface,
    name: str | None,
    save: str | None,
    optimizer: str | None,
    options: tuple[str, ...],
    description: str | None,
    recommended_for: tuple[str, ...],
) -> Outcome:
    r"""List the configurations for optimize --preset.

    With a name, show that one; with --save, keep one of your own in your configuration folder.

    \b
    Examples:
      dspy-nb presets
      dspy-nb presets --save mine --optimizer MIPROv2 --option num_candidates=8 --description "fits our budget"
      %dspy_presets light
    """
    from dspy_nb.views.listings import Listing, short_path

    if save is not None:
        if name is not None:
            raise nb.InputError(f"give either {name!r} to show or --save to save, not both")
        if optimizer is None:
            raise nb.InputError("--save needs --optimizer NAME")
        made = nb.Preset(save, optimizer, here.options(options), description or "", recommended_for)
        file = nb.save_preset(made)
        saved = nb.get_preset(save)
        return Outcome(saved, {**asdict(saved), "file": str(file)}, "", note=f"Saved in {short_path(file)}")
    if unused := given(("optimizer", "options", "description", "recommended_for")):
        raise nb.InputError(f"{next(iter(unused.values()))} goes with --save NAME")
    if name is not None:
        found = nb.get_preset(name)
        return Outcome(found, asdict(found))
    every = nb.list_presets()
    return Outcome(Listing(every), [asdict(preset) for preset in every])
