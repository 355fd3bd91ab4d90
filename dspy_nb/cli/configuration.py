"""What a command takes from the environment and from a file where no flag says it.

A flag wins over the environment, the environment over the file. The file is ``dspy-nb.toml``, or the table
``[tool.dspy_nb]`` of ``pyproject.toml``, in the working directory or above it::

    registry = "registry"                    # what several commands share
    metric = "exact_match:sentiment"

    [optimize]                               # what one command takes; in pyproject.toml [tool.dspy_nb.optimize]
    preset = "production-mipro"
    timeout = 3600

    [optimize.option]
    num_candidates = 6

Its paths are relative to its own folder, and so are the modules that it names.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import click

from dspy_nb.core.arguments import user_path
from dspy_nb.core.errors import InputError
from dspy_nb.core.storage.config import parse_toml

_FILE: Final = "dspy-nb.toml"
_PROJECT: Final = "pyproject.toml"

SHARED: Final = (
    "confidence", "inputs", "lm", "metric", "model_id", "num_threads", "program", "registry", "seed", "test_data",
    "train_data", "val_data",
)  # fmt: skip
"""Options that mean the same in each command that has them, and may stand outside of a command's table."""

_NOT_CONFIGURABLE: Final = ("config", "help")
_PATHS: Final = ("FILE", "DIR", "FILE|NAME")
_MAY_BE_PATHS: Final = (*_PATHS, "NOTEBOOK", "PATH", "REPORT|REF", "REF|FILE")


@dataclass(frozen=True)
class Configuration:
    """A file and what it says.

    Attributes:
        file: The file.
        values: What it says, as TOML has it.
    """

    file: Path
    values: Mapping[str, Any]

    def defaults(self, command: str, commands: Mapping[str, click.Command]) -> dict[str, Any]:
        """Return the defaults of a command by parameter name, as click's ``default_map`` wants them.

        Args:
            command: Its name.
            commands: Every command by name: what the file says about the others is checked too.

        Raises:
            InputError: A key is unknown, or a value is not what its option takes.
        """
        known = {name: options(item) for name, item in commands.items()}
        shared: dict[str, Any] = {}
        own: dict[str, Any] = {}
        for key, value in self.values.items():
            name = _plain(key)
            table = name.replace("_", "-")
            if table in known and isinstance(value, Mapping):
                for inner, item in value.items():
                    option = known[table].get(_plain(inner))
                    if option is None:
                        why = f"dspy-nb {table} has no such option"
                        raise self._wrong(f"{key}.{inner}", why, list(known[table]))
                    if table == command:
                        if option.name in own:
                            raise InputError(f"{self.file}: {key}.{inner} is given twice")
                        own[str(option.name)] = self._converted(option, f"{key}.{inner}", item)
            elif name not in SHARED:
                raise self._wrong(key, "no such key", [*SHARED, *(f"[{item}]" for item in sorted(known))])
            elif (option := known[command].get(name)) is not None:
                shared[str(option.name)] = self._converted(option, key, value)
        return {**shared, **own}

    def _wrong(self, key: str, why: str, valid: list[str]) -> InputError:
        return InputError(f"{self.file}: {key!r}: {why}; valid: {', '.join(valid)}")

    def _converted(self, option: click.Option, key: str, value: Any) -> Any:
        if option.multiple:
            if isinstance(value, Mapping) and "=" in (option.metavar or ""):
                value = [f"{name}={_text(item)}" for name, item in value.items()]
            value = [self._one(option, key, item) for item in (value if isinstance(value, list) else [value])]
        else:
            value = self._one(option, key, value)
        try:
            option.type_cast_value(click.Context(click.Command("dspy-nb")), value)
        except click.BadParameter as error:
            raise InputError(f"{self.file}: {key}: {error.message}") from None
        return value

    def _one(self, option: click.Option, key: str, value: Any) -> Any:
        if option.is_flag:
            if not isinstance(value, bool):
                raise InputError(f"{self.file}: {key}: true or false, not {value!r}")
        elif isinstance(value, bool) or not isinstance(value, str | int | float):
            raise InputError(f"{self.file}: {key}: a text or a number, not {value!r}")
        elif isinstance(value, str) and (option.metavar in _PATHS or ".py:" in value):
            return self._relative(value)
        return value

    def _relative(self, path: str) -> str:
        """Return a path that the file gives, from its own folder, relative to the working directory."""
        folder, here = self.file.parent.resolve(), Path.cwd()
        path = str(user_path(str(self.file), path))
        return path if folder == here or Path(path).is_absolute() else os.path.relpath(folder / path, here)


def find_configuration(file: str | None = None) -> Configuration | None:
    """Return the configuration in ``file``, or the nearest one from the working directory upwards.

    Raises:
        InputError: It cannot be read, or is not valid TOML.
    """
    if file is not None:
        path = user_path("--config", file)
        return Configuration(path, _read(path) or {})
    here = Path.cwd()
    for folder in (here, *here.parents):
        for path in (folder / _FILE, folder / _PROJECT):
            if path.is_file() and (values := _read(path)) is not None:
                return Configuration(path, values)
    return None


def _read(path: Path) -> dict[str, Any] | None:
    """Return what a file says; None for a pyproject.toml that has nothing to say about dspy-nb."""
    try:
        content = path.read_bytes()
        if path.name == _PROJECT and b"dspy_nb" not in content:
            return None  # whatever is wrong with it is no concern of ours
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    values = parse_toml(content, path)
    if path.name == _PROJECT:
        values = values.get("tool", {}).get("dspy_nb")
        if values is not None and not isinstance(values, dict):
            raise InputError(f"{path}: tool.dspy_nb must be a table")
    return values


def options(command: click.Command) -> dict[str, click.Option]:
    """Return the options of a command that can be configured, by each of their names."""
    return {
        _plain(text): option
        for option in command.params
        if isinstance(option, click.Option)
        for text in option.opts
        if text.startswith("--") and _plain(text) not in _NOT_CONFIGURABLE
    }


def set_variables(command: click.Command) -> None:
    """Let each option of a command come from its environment variable, such as DSPY_NB_OPTIMIZE_SEED."""
    for name, option in options(command).items():
        given = option.envvar or []
        variable = f"DSPY_NB_{_plain(command.name or '')}_{name}".upper()
        option.envvar = [*([given] if isinstance(given, str) else given), variable]


def expand_home(command: click.Command) -> None:
    """Let ``~`` at the beginning of a path stand for the user's home, where the shell has left it."""
    for parameter in command.params:
        if parameter.metavar in _MAY_BE_PATHS:
            parameter.callback = partial(_expanded, usual=parameter.callback)


def _expanded(context: click.Context, parameter: click.Parameter, value: Any, usual: Any) -> Any:
    def expand(text: Any) -> Any:
        if not isinstance(text, str) or not text.startswith("~"):
            return text
        return str(user_path(parameter.opts[0], text))

    value = tuple(map(expand, value)) if isinstance(value, tuple) else expand(value)
    return value if usual is None else usual(context, parameter, value)


def config_option() -> click.Option:
    """Return the option ``--config`` of a command; also without it, the nearest file is read."""
    return click.Option(
        ["--config"],
        metavar="FILE",
        envvar="DSPY_NB_CONFIG",
        is_eager=True,
        expose_value=False,
        callback=_configure,
        help="Defaults of the options; else dspy-nb.toml or [tool.dspy_nb] of pyproject.toml, here or above.",
    )


def _configure(context: click.Context, option: click.Parameter, file: str | None) -> None:
    found = find_configuration(file)
    if found is None:
        return
    group = context.find_root().command
    assert isinstance(group, click.Group)
    context.default_map = found.defaults(context.command.name or "", group.commands)
    folder = str(found.file.parent.resolve())
    if folder != os.getcwd() and folder not in sys.path:  # noqa: PTH109 (no Path is made)
        sys.path.append(folder)  # the modules that the file names


def _plain(name: str) -> str:
    return name.lstrip("-").replace("-", "_")


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
