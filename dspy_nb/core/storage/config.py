"""The settings that are committed with a registry: tables of its ``config.toml``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dspy_nb.core.errors import InputError
from dspy_nb.core.storage.files import explained, read_file

__all__ = ["read_table"]


def read_table(config: Path, name: str) -> dict[str, Any]:
    """Return a table of ``registry/config.toml``, empty if the file or the table is not there.

    Raises:
        InputError: The file is no TOML, or ``name`` is not a table.
        RegistryError: It cannot be read, or is no plain file.
    """
    with explained(f"read {config}"):
        try:
            text = read_file(config, links=True).decode("utf-8")
        except FileNotFoundError:
            return {}
        except UnicodeDecodeError as error:
            raise InputError(f"{config} is not UTF-8 text") from error
    import tomllib

    try:
        table = tomllib.loads(text).get(name, {})
    except (ValueError, RecursionError) as error:  # also for a number of too many digits
        raise InputError(f"{config} is not valid TOML: {error}") from error
    if not isinstance(table, dict):
        raise InputError(f"{config}: {name} is not a table")
    return table
