"""The magics of dspy_nb, made from the declared commands: parse a line, run the command.

Names on a line are looked up in the notebook, and ``{x}`` and ``$x`` are expanded as in every magic, so a loop can
write ``--option num_candidates={n}``; braces that hold no expression stay as they are.

IPython's own ``UsageError`` stops a notebook without an error in its output, so tools that run notebooks report
success. Whatever is wrong with a line is therefore an ``InputError``: one line, and the cell fails.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from typing import Any

import click
from click.shell_completion import ShellComplete
from IPython.core.magic import Magics, magics_class, needs_local_scope

from dspy_nb.commands import COMMANDS
from dspy_nb.commands.declaration import SETTINGS, Verb
from dspy_nb.core.errors import InputError
from dspy_nb.notebook.cell import Cell
from dspy_nb.notebook.defaults import DspyNb

_VERBS = {verb.magic: verb.on("notebook") for verb in COMMANDS if verb.magic is not None}

_PATTERN = rf".*%({'|'.join(_VERBS)})\b"
"""What a line up to the cursor looks like, an assignment in front of the magic included."""


@magics_class
class DspyNbMagics(Magics):
    """A magic for each command that has one."""

    shell: Any

    def __init__(self, shell: Any, defaults: DspyNb) -> None:
        super().__init__(shell)
        self.defaults = defaults
        self.magics["line"].update({name: self._magic(verb) for name, verb in _VERBS.items()})

    def _magic(self, verb: Verb) -> Callable[..., Any]:
        @needs_local_scope
        def magic(line: str, local_ns: Mapping[str, Any] | None = None) -> Any:
            line, silent = _without_semicolon(line)
            here = Cell(self.shell, {**self.shell.user_ns, **(local_ns or {})}, silent)
            return self._run(verb, here, _split(line))

        magic.__name__ = magic.__qualname__ = str(verb.magic)
        with self._context(verb, None) as context:
            magic.__doc__ = verb.get_help(context)
        return magic

    def _context(self, verb: Verb, here: Cell | None) -> click.Context:
        return click.Context(
            verb, info_name=f"%{verb.magic}", obj=here, default_map=self.defaults.options(), **SETTINGS
        )

    def _run(self, verb: Verb, here: Cell, line: list[str]) -> Any:
        name = f"%{verb.magic}"
        try:
            with self._context(verb, here) as context:
                verb.parse_args(context, line)
                return verb.invoke(context)
        except click.exceptions.Exit:  # the help was asked for, and printed
            return None
        except click.ClickException as error:
            raise InputError(f"{name}: {error.format_message()} (--help lists the options)") from None

    def complete(self, line: str, symbol: str) -> list[str]:
        """Return what can follow a line, up to the word that is being typed."""
        name, *typed = line[line.rindex("%dspy_") + 1 :].split(" ")
        verb = _VERBS.get(name)
        if verb is None or not typed:
            return []
        here = Cell(self.shell, self.shell.user_ns)
        settings = {"obj": here, "default_map": self.defaults.options(), **SETTINGS}
        found = ShellComplete(verb, settings, f"%{name}", "").get_completions(
            [word for word in typed[:-1] if word], symbol
        )
        return [item.value for item in found]


def _complete(shell: Any, event: Any) -> list[str]:
    """Complete a line: the hook that IPython calls with itself and the line."""
    magics = shell.magics_manager.registry.get(DspyNbMagics.__name__)
    return [] if magics is None else magics.complete(event.text_until_cursor, event.symbol)


def install(ipython: Any) -> None:
    """Register the magics, their defaults and completion; if it is registered already, do nothing."""
    if DspyNbMagics.__name__ in ipython.magics_manager.registry:
        return
    defaults = DspyNb(parent=ipython)
    ipython.configurables.append(defaults)
    ipython.register_magics(DspyNbMagics(ipython, defaults))
    ipython.set_hook("complete_command", _complete, re_key=_PATTERN)


def uninstall(ipython: Any) -> None:
    """Take everything away again."""
    registered = ipython.magics_manager.registry.pop(DspyNbMagics.__name__, None)
    if registered is None:
        return
    for kind, names in registered.magics.items():
        for name in names:
            ipython.magics_manager.magics[kind].pop(name, None)
    ipython.configurables[:] = [
        c for c in ipython.configurables if c is not registered and not isinstance(c, DspyNb)
    ]
    completers = ipython.strdispatchers["complete_command"].regexs
    for pattern in [pattern for pattern in completers if pattern.pattern == _PATTERN]:
        del completers[pattern]


def _without_semicolon(line: str) -> tuple[str, bool]:
    """Return the line without a trailing ``;``, and whether there was one.

    IPython's ``output_can_be_silenced`` would do, but it reads the line as Python after the magic has
    returned, and raises on one that is not: ``--run-dir (draft`` would lose the run.
    """
    stripped = line.rstrip()
    return (stripped[:-1].rstrip(), True) if stripped.endswith(";") else (stripped, False)


def _split(line: str) -> list[str]:
    """Split a line into words; quotes hold words together, a backslash is a character like any other.

    Raises:
        InputError: a quote is not closed.
    """
    lexer = shlex.shlex(line, posix=True, punctuation_chars=False)
    lexer.whitespace_split, lexer.commenters, lexer.escape = True, "", ""
    try:
        return list(lexer)
    except ValueError:
        raise InputError(f"a quotation mark is not closed in: {line.strip()}") from None
