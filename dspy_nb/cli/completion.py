"""Completion in the shell: the command that prints the script, and what the registry can add to it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

import click
from click.shell_completion import CompletionItem, get_completion_class

from dspy_nb.cli.output import json_option, print_result

__all__ = ["complete_values", "completion"]

_SHELLS: Final = ("bash", "zsh", "fish")
_VARIABLE: Final = "_DSPY_NB_COMPLETE"


@click.command()
@click.argument("shell", metavar="SHELL", type=click.Choice(_SHELLS))
@json_option
def completion(shell: str, as_json: bool) -> None:
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
    print_result(as_json, {"shell": shell, "script": script}, lambda: script)


class _Completed(click.types.StringParamType):
    """Text whose values the shell can complete."""

    def __init__(self, values: Callable[[str], Iterable[str]]) -> None:
        self._values = values

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Return the values that begin with what was typed; nothing where they cannot be read."""
        try:
            values = list(self._values(str(ctx.params.get("root") or "registry")))
        except Exception:  # whatever it is, typing goes on
            return []
        return [CompletionItem(value) for value in values if value.startswith(incomplete)]


class _File(click.types.StringParamType):
    """Text that is the name of a file or of a folder."""

    def __init__(self, kind: str) -> None:
        self._kind = kind

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Leave it to the shell."""
        return [CompletionItem(incomplete, type=self._kind)]


def _models(root: str) -> Iterable[str]:
    from dspy_nb.core.registry.registry import Registry

    return Registry(root).models()


def _references(root: str) -> Iterable[str]:
    from dspy_nb.core.registry.registry import Registry

    registry = Registry(root)
    for model in registry.models():
        yield from (f"{model}@{stage}" for stage in ("latest", "production", "staging"))
        yield from (version.ref for version in registry.list(model))


def _environments(root: str) -> Iterable[str]:
    from dspy_nb.core.registry.registry import Registry

    return sorted({"development", "staging", "production", *Registry(root).environments()})


def _optimizers(root: str) -> Iterable[str]:
    from dspy_nb.core.optimization.optimizers import OPTIMIZERS

    return OPTIMIZERS


def _presets(root: str) -> Iterable[str]:
    from dspy_nb.core.optimization.presets import list_presets

    return [preset.name for preset in list_presets()]


_VALUES: Final[dict[str, Callable[[str], Iterable[str]]]] = {
    "a": _references,
    "b": _references,
    "baseline": _references,
    "environment": _environments,
    "like": _references,
    "model": _references,
    "model_a": _references,
    "model_b": _references,
    "model_id": _models,
    "name": _presets,
    "optimizer": _optimizers,
    "preset": _presets,
    "ref": _references,
}
_FILES: Final = {"FILE": "file", "DIR": "dir", "NOTEBOOK": "file", "REPORT|REF": "file"}


def complete_values(command: click.Command) -> None:
    """Let the shell complete the values of a command's plain text parameters: models, files and the like."""
    for param in command.params:
        if type(param.type) is not click.types.StringParamType:
            continue
        if param.name in _VALUES:
            param.type = _Completed(_VALUES[param.name])
        elif param.metavar in _FILES:
            param.type = _File(_FILES[param.metavar])
