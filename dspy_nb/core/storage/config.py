"""Settings in TOML: the tables of a registry's ``config.toml``, and whatever else people write by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dspy_nb.core.arguments import DEEPEST, is_too_deep
from dspy_nb.core.errors import InputError
from dspy_nb.core.storage.files import explained, read_file
from dspy_nb.core.text import error_text

__all__ = ["parse_toml", "read_table"]


def read_table(config: Path, name: str) -> dict[str, Any]:
    """Return a table of ``registry/config.toml``, empty if the file or the table is not there.

    Raises:
        InputError: The file is no TOML, or ``name`` is not a table.
        RegistryError: It cannot be read, or is no plain file.
    """
    with explained(f"read {config}"):
        try:
            content = read_file(config, links=True)
        except FileNotFoundError:
            return {}
    table = parse_toml(content, config).get(name, {})
    if not isinstance(table, dict):
        raise InputError(f"{config}: {name} is not a table")
    return table


def parse_toml(content: bytes, path: object) -> dict[str, Any]:
    """Return what TOML says.

    Raises:
        InputError: It is none, or nested too deep; the message names ``path``.
    """
    import tomllib

    try:
        values = tomllib.loads(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not valid TOML: it is not UTF-8 text") from error
    except (ValueError, RecursionError) as error:  # also for a number of too many digits
        raise InputError(f"{path} is not valid TOML: {error_text(error)}") from error
    if is_too_deep(values):
        raise InputError(f"{path} is nested deeper than {DEEPEST} levels")
    return values
