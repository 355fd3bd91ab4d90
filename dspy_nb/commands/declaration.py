"""How a command is declared, once for the shell and for the notebook.

A command is a ``click.Command`` whose function gets first where it was typed (a :class:`Surface`) and returns an
:class:`Outcome`. The shell's command and the notebook's magic are both made from it: the same options under the
same names, the same help, the same errors, the same completion. What differs is in the surface: what a word
stands for there, and how a result is shown.
"""

from __future__ import annotations

import contextlib
import copy
import re
from collections.abc import Callable, Iterable
from typing import Any, Final, Literal, TypeVar

import click
from click.core import ParameterSource
from click.shell_completion import CompletionItem

from dspy_nb.commands.surface import Outcome, Surface
from dspy_nb.core.errors import InputError

Where = Literal["shell", "notebook"]
F = TypeVar("F", bound=Callable[..., Any])


class Kind(click.types.StringParamType):
    """What a word names, for completion.

    Args:
        metavar: What it is called in the help.
        values: What there is, in the order in which it is offered.
        path: ``file`` or ``dir`` where a shell offers those.
    """

    def __init__(
        self,
        metavar: str,
        values: Callable[[Surface, click.Context], Iterable[str]] = lambda here, context: (),
        path: str | None = None,
    ) -> None:
        self.metavar, self._values, self._path = metavar, values, path

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Return what begins with what was typed; nothing where that cannot be read."""
        here: Surface = ctx.obj
        found: list[CompletionItem] = []
        with contextlib.suppress(Exception):  # whatever it is, typing goes on
            values = self._values(here, ctx)
            found = [CompletionItem(value) for value in values if value.startswith(incomplete)]
        if not found and self._path is not None and here.offers_files:
            found = [CompletionItem(incomplete, type=self._path)]  # the shell knows what there is
        return found


class _Option(click.Option):
    """An option that may be for one surface only."""

    def __init__(
        self, *names: str, only: Where | None = None, shell_names: tuple[str, ...] = (), **more: Any
    ) -> None:
        super().__init__(names, **more)
        self.only, self.shell_names = only, shell_names

    def on(self, where: Where) -> _Option:
        """Return the option with the names that one surface has."""
        here = copy.copy(self)
        if where == "notebook":
            here.opts = [name for name in self.opts if name not in self.shell_names]
        return here

    def resolve_envvar_value(self, ctx: click.Context) -> str | None:
        """Return what the environment says, where it is asked: a notebook has its own defaults."""
        return super().resolve_envvar_value(ctx) if ctx.obj.reads_environment else None


class _Argument(click.Argument):
    def resolve_envvar_value(self, ctx: click.Context) -> str | None:
        """Return nothing: an argument is typed."""
        return None


SETTINGS: Final[dict[str, Any]] = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
"""Of the contexts of click, wherever a command is typed."""

_METAVARS: Final = {int: "N", float: "X"}


def option(names: str, help: str, type: Any = None, **more: Any) -> Callable[[F], F]:
    """Declare an option.

    Args:
        names: What is typed, the first one first in the help, and if wanted the name of the parameter: best that of
            the argument of core that it gives, for errors about that then name the option.
        help: What it is.
        type: A :class:`Kind`, a type of click, ``int``, ``float``, or ``bool`` for a flag; a text by default.
        more: ``only``, the one surface that has it, or ``shell_names`` of one; else as for ``click.option``.
    """
    if type is bool:
        more["is_flag"] = True
    else:
        more["type"] = type
        more.setdefault("metavar", getattr(type, "metavar", None) or _METAVARS.get(type))
        more.setdefault("show_default", "default" in more)

    def decorate(function: F) -> F:
        params: list[click.Parameter] = vars(function).setdefault("__click_params__", [])
        params.append(_Option(*names.split(), help=help, **more))
        return function

    return decorate


def option_group(*several: Callable[[F], F]) -> Callable[[F], F]:
    """Declare several options at once, in their order."""

    def decorate(function: F) -> F:
        for one in reversed(several):
            function = one(function)
        return function

    return decorate


def argument(name: str, kind: Kind | click.Choice[str], metavar: str = "", **more: Any) -> Callable[[F], F]:
    """Declare a positional argument; ``more`` is as for ``click.argument``."""
    shown = metavar or getattr(kind, "metavar", None)
    return click.argument(name, cls=_Argument, type=kind, metavar=shown, **more)


class Verb(click.Command):
    """A command, for the shell and, where it has the name of a magic, for the notebook.

    Attributes:
        magic: Name of the magic, if there is one.
        in_shell: Whether the shell has it.
        kept_as: Name under which a notebook keeps the last result.
    """

    def __init__(
        self,
        name: str,
        magic: str | None = None,
        in_shell: bool = True,
        kept_as: str | None = None,
        **more: Any,
    ) -> None:
        super().__init__(name, **more)
        self.magic, self.in_shell, self.kept_as = magic, in_shell, kept_as
        self.help = (self.help or "").replace("\\b\n", "\b\n")  # a raw docstring has none
        if kept_as is not None:
            text = "Also keep the result under this name."
            self.params.append(_Option("-o", "--out", "kept", only="notebook", metavar="NAME", help=text))
        if in_shell:
            text = "Print the result as JSON."
            self.params.append(_Option("--json", "as_json", only="shell", is_flag=True, help=text))

    def on(self, where: Where) -> Verb:
        """Return the command as one surface has it."""
        here = copy.copy(self)
        here.params = [
            param.on(where) if isinstance(param, _Option) else param
            for param in self.params
            if getattr(param, "only", None) in (None, where)
        ]
        return here

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Note which words were typed, so that an error can name an option as it was."""
        ctx.meta[_WORDS] = tuple(args)
        try:
            return super().parse_args(ctx, args)
        except click.BadParameter as error:
            if error.param is not None:
                error.param_hint = repr(typed(error.param))
            raise

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command, and show what it found as the surface does."""
        here: Surface = ctx.obj
        names = {param.name for param in self.params}
        shown = {name: ctx.params[name] for name in ("as_json", "kept") if name in names}
        arguments = {name: value for name, value in ctx.params.items() if name not in shown}
        here.begin(self.kept_as, **shown)
        assert self.callback is not None
        try:
            outcome = ctx.invoke(self.callback, here, **arguments)
        except InputError as error:
            raise _named_as_typed(error, ctx) from error.__cause__
        return here.finish(outcome)


_WORDS = "dspy_nb.words"


def command(name: str, **more: Any) -> Callable[[Callable[..., Outcome]], Verb]:
    """Make a command of a function; ``more`` is as for :class:`Verb`."""
    return click.command(name, cls=Verb, **more)


def typed(param: click.Parameter) -> str:
    """Return the name of a parameter as it was typed, or its first one."""
    if not isinstance(param, click.Option):
        shown = param.make_metavar(click.get_current_context())
        return shown[1:].rstrip("].") if shown.startswith("[") else shown
    words = click.get_current_context().meta.get(_WORDS, ())
    for name in param.opts:
        if any(word == name or word.startswith(f"{name}=") for word in words):
            return name
    return next(name for name in param.opts if name.startswith("--"))


def name_of(parameter: str) -> str:
    """Return the name of a parameter of the current command as it was typed, or its first one."""
    context = click.get_current_context()
    if parameter == "program" and context.params.get("first") is not None:
        return "PROGRAM"  # typed as the first word
    return next(typed(param) for param in context.command.params if param.name == parameter)


def given(names: Iterable[str] | None = None) -> dict[str, str]:
    """Return which parameters of the current command were typed, to their names as they were typed.

    Args:
        names: Those to look at; all by default.
    """
    context = click.get_current_context()

    def is_typed(name: str) -> bool:
        value = context.params.get(name)
        absent = value is None or value is False or value == ()
        return not absent and context.get_parameter_source(name) is ParameterSource.COMMANDLINE

    return {
        str(param.name): typed(param)
        for param in context.command.params
        if (names is None or param.name in names) and is_typed(str(param.name))
    }


def _named_as_typed(error: InputError, ctx: click.Context) -> InputError:
    """Return the error with the arguments of core called as on the line: ``trainset is empty`` as ``--train``."""
    message = str(error)
    for param in ctx.command.params:
        shown = name_of(str(param.name))
        follows = r"(\[\d+\])?(: |=| (must|is|has|lacks|cannot|belongs)\b)"
        pattern = rf"^(budget: |rate limit: )?{param.name}(?={follows})"
        message, n = re.subn(pattern, shown, message)
        if n:
            break
        if str(param.name).endswith("set"):
            message = re.sub(rf"\b(an? {param.name})\b", rf"\1 ({shown})", message, count=1)
    if message == str(error):
        return error
    renamed = copy.copy(error)
    renamed.args = (message,)
    return renamed
