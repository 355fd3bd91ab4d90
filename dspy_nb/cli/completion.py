"""Completion in the shell: the command that prints the script."""

from __future__ import annotations

from typing import Final

import click
from click.shell_completion import get_completion_class

from dspy_nb.commands.declaration import argument, command
from dspy_nb.commands.surface import Outcome, Surface

_SHELLS: Final = ("bash", "zsh", "fish")
_VARIABLE: Final = "_DSPY_NB_COMPLETE"


@command("completion")
@argument("shell", click.Choice(_SHELLS), "SHELL")
def completion(here: Surface, shell: str) -> Outcome:
    r"""Print the script that completes dspy-nb in a shell.

    It completes commands and options, and models, versions and environments from the registry.

    \b
    Examples:
      eval "$(dspy-nb completion bash)"                            in ~/.bashrc
      eval "$(dspy-nb completion zsh)"                             in ~/.zshrc
      dspy-nb completion fish > ~/.config/fish/completions/dspy-nb.fish
    """
    kind = get_completion_class(shell)
    assert kind is not None
    made = kind(click.get_current_context().find_root().command, {}, "dspy-nb", _VARIABLE)
    script = made.source_template % made.source_vars()
    if shell == "bash":  # which would take model@version for three words
        script += "\nCOMP_WORDBREAKS=${COMP_WORDBREAKS//@/}\n"
    return Outcome(script, {"shell": shell, "script": script}, script)
