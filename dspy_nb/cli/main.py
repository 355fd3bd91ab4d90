"""The command ``dspy-nb``: what the notebook does, from a shell.

Exit status: 0 done, 1 a gate, a verdict or a rule said no, 2 bad usage or input (one line on stderr says what).
Results go to stdout, as text or with ``--json`` as JSON; progress goes to stderr.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path

import click

import dspy_nb as nb
from dspy_nb.cli.completion import completion
from dspy_nb.cli.configuration import config_option, expand_home, set_variables
from dspy_nb.cli.output import OutputClosed, echo
from dspy_nb.cli.setup import demo, install_model, run_notebook
from dspy_nb.cli.shell import Shell
from dspy_nb.commands import COMMANDS
from dspy_nb.commands.declaration import SETTINGS, Verb
from dspy_nb.core.text import error_text, one_line

_INTERRUPTED = 130  # what shells report of a program that Ctrl-C ended


@click.group(context_settings={**SETTINGS, "obj": Shell()})
@click.version_option(nb.__version__)
def cli() -> None:
    r"""Optimize, measure, compare and ship DSPy programs.

    \b
    dspy-nb demo              the whole loop on a small language model inside this process
    dspy-nb optimize --help   a program of your own
    dspy-nb list              what the registry in this folder holds

    An option may also come from the environment (DSPY_NB_OPTIMIZE_SEED is --seed of optimize) or from a file:
    dspy-nb.toml, or [tool.dspy_nb] in pyproject.toml, in this folder or above. A flag wins over the
    environment, the environment over the file.
    """


cli.help = (cli.help or "").replace("\\b\n", "\b\n")  # a raw docstring has no mark for lines as they are


def add_command(verb: Verb) -> None:
    """Give the shell a declared command."""
    command = verb.on("shell")
    set_variables(command)
    expand_home(command)
    command.params.append(config_option())
    cli.add_command(command)


for declared in (*COMMANDS, completion, demo, install_model, run_notebook):
    if declared.in_shell:
        add_command(declared)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status; ``arguments`` are those of the process by default."""
    if sys.stdout is None:
        return _failed("stdout is closed: redirect it to /dev/null if nobody is to read it", 2)
    stdout = sys.stdout
    if isinstance(stdout, io.TextIOWrapper):
        stdout.reconfigure(errors="replace")  # a terminal that knows Latin-1 only shows ? for the rest
    try:
        status = _run(None if arguments is None else list(arguments))
        sys.stdout.flush()
        return status
    except OutputClosed:
        status = 2
    except SystemExit as error:  # click's own where a pipe is closed, or of a module of the user
        if not error.code:  # the words that a shell completes are said
            raise
        closed = sys.stdout is not stdout  # then click puts something else there
        status = 2 if closed else _failed(f"something ended the command with status {error.code}", 2)
    except OSError as error:
        status = _failed(error_text(error), 2)
    except Exception as error:  # a traceback would end with status 1, as if a rule had said no
        status = _failed(f"{type(error).__name__}: {error_text(error)} ({_last_line(error)})", 2)
    _leave_stdout()
    return status


def _run(arguments: list[str] | None) -> int:
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _warn
            return int(cli.main(arguments, prog_name="dspy-nb", standalone_mode=False) or 0)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return 2
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "dspy-nb"
        return _failed(f"{error.format_message()} (see {command} --help)", 2)
    except click.ClickException as error:
        return _failed(error.format_message(), 2)
    except (nb.GateFailed, nb.Refused) as error:
        return _failed(str(error), 1)
    except nb.DspyNbError as error:
        return _failed(str(error), 2)
    except (click.Abort, KeyboardInterrupt):
        return _failed("interrupted", _INTERRUPTED)


def _last_line(error: BaseException) -> str:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{Path(frame.filename).name}:{frame.lineno}"


def _leave_stdout() -> None:
    """Let what stdout did not take go nowhere, or Python would complain of it at its end."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def _warn(message: Warning | str, *_: object, **__: object) -> None:
    echo(f"Warning: {one_line(message)}", err=True)


def _failed(message: str, status: int) -> int:
    echo(f"Error: {one_line(message)}", err=True)
    return status
