"""What the magics share: parsing a line, finding names in the notebook, reading option values.

IPython's own ``UsageError`` stops a notebook without an error in its output, so tools that run notebooks
report success. Whatever is wrong with a line is therefore an ``InputError``: one line, and the cell fails.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import keyword
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from IPython.core.error import UsageError
from IPython.core.magic_arguments import argument

from dspy_nb.core.data.metrics import METRICS, parse_metric
from dspy_nb.core.data.rows import FORMATS
from dspy_nb.core.errors import InputError
from dspy_nb.core.text import visible

__all__ = [
    "check_name", "find", "find_metric", "given_options", "help_option", "options_from", "parse", "say",
    "without_semicolon",
]  # fmt: skip


class _HelpWanted(Exception):
    pass


class _Help(argparse.Action):
    def __call__(self, *args: Any, **kwargs: Any) -> None:
        raise _HelpWanted


def say(text: str) -> None:
    """Print to the cell."""
    print(visible(text))  # noqa: T201


def help_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a magic with ``-h``/``--help``, which IPython's parser lacks."""
    add: Any = argument  # untyped in IPython
    decorated: Callable[..., Any] = add("-h", "--help", action=_Help, nargs=0, help="show this help")(
        function
    )
    return decorated


def without_semicolon(line: str) -> tuple[str, bool]:
    """Return the line without a trailing ``;``, and whether there was one.

    IPython's ``output_can_be_silenced`` would do, but it reads the line as Python after the magic has
    returned, and raises on one that is not: ``--run-dir (draft`` would lose the run.
    """
    stripped = line.rstrip()
    return (stripped[:-1].rstrip(), True) if stripped.endswith(";") else (stripped, False)


def _words(line: str) -> list[str]:
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


def parse(magic: Any, line: str) -> argparse.Namespace | None:
    """Parse a line with the parser that ``@magic_arguments`` made for ``magic``.

    Returns:
        The arguments; ``None`` if the line asks for help, which is then printed.

    Raises:
        InputError: the line is not valid; the message names what is wrong.
    """
    parser: argparse.ArgumentParser = magic.parser
    parser.allow_abbrev = False
    try:
        arguments, unknown = parser.parse_known_args(_words(line))
    except _HelpWanted:
        say(parser.format_help())
        return None
    except UsageError as error:
        raise InputError(f"%{parser.prog}: {error} (--help lists the arguments)") from None
    if unknown:
        known = [text for action in parser._actions for text in action.option_strings]
        hint = did_you_mean(unknown[0], known)
        raise InputError(
            f"%{parser.prog}: unknown argument {unknown[0]!r}{hint} (--help lists the arguments)"
        )
    return arguments


def check_name(name: str) -> None:
    """Check that a result can be stored under ``name``.

    Raises:
        InputError: it is no Python name.
    """
    if not name.isidentifier() or keyword.iskeyword(name):
        raise InputError(f"-o {name!r}: not a name that Python allows")


def find(name: str, namespace: Mapping[str, Any], what: str) -> Any:
    """Return the object of that name, or of that dotted name, in the notebook.

    Args:
        name: such as ``train`` or ``data.train``.
        namespace: names and objects.
        what: what the name stands for, for the message.

    Raises:
        InputError: there is none; the message lists names like it.
    """
    first, *rest = name.split(".")
    file = "; a file is loaded by dspy_nb.load_examples" if name.lower().endswith(FORMATS) else ""
    if first not in namespace:
        names = [known for known in namespace if not known.startswith("_")]
        raise InputError(f"{what}: the notebook has no name {first!r}{file or did_you_mean(first, names)}")
    found = namespace[first]
    for attribute in rest:
        if not hasattr(found, attribute):
            known = [known for known in dir(found) if not known.startswith("_")]
            raise InputError(
                f"{what}: {first} has no attribute {attribute!r}{file or did_you_mean(attribute, known)}"
            )
        found = getattr(found, attribute)
    return found


def find_metric(text: str, namespace: Mapping[str, Any]) -> Any:
    """Return the metric that ``exact_match:field``, or a name in the notebook, stands for.

    Raises:
        InputError: there is none.
    """
    if ":" in text or (text in METRICS and text not in namespace):
        return parse_metric(text)
    return find(text, namespace, "--metric")


def given_options(arguments: argparse.Namespace, names: Iterable[str]) -> list[str]:
    """Return which of these arguments the line gives, spelled as on the line."""
    return [name.replace("_", "-") for name in names if getattr(arguments, name)]


def options_from(pairs: Sequence[str], namespace: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that ``name=value`` pairs stand for.

    A value is a Python literal (``6``, ``0.5``, ``None``, ``[1, 2]``), else a name in the notebook, else text.

    Raises:
        InputError: a pair has no ``=``, or a name occurs twice.
    """
    options: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise InputError(f"option {pair!r} must be name=value, such as num_candidates=6")
        if name in options:
            raise InputError(f"option {name!r} is given twice")
        options[name] = _value(text, namespace)
    return options


def _value(text: str, namespace: Mapping[str, Any]) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return namespace.get(text, text)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a hint at names like ``name``, ``""`` if there are none."""
    near = difflib.get_close_matches(name, list(known), n=3)
    return f"; did you mean {' or '.join(near)}?" if near else ""
