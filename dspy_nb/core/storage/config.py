"""The settings that are committed with a registry: tables of its ``config.toml``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dspy_nb.core.errors import InputError
from dspy_nb.core.storage.files import explained
from dspy_nb.core.text import error_text

__all__ = ["read_table"]


def read_table(config: Path, name: str) -> dict[str, Any]:
    """Return a table of ``registry/config.toml``, empty if the file or the table is not there.

    Raises:
        InputError: The file is no TOML, or ``name`` is not a table.
        RegistryError: It cannot be read.
    """
    with explained(f"read {config}"):
        try:
            text = config.read_text("utf-8")
        except FileNotFoundError:
            return {}
        except UnicodeDecodeError as error:
            raise InputError(f"{config} is not UTF-8 text") from error
    import tomllib

    try:
        table = tomllib.loads(text).get(name, {})
    except (ValueError, RecursionError) as error:
        raise InputError(f"{config} is not valid TOML: {error_text(error)}") from error
    if not isinstance(table, dict):
        raise InputError(f"{config}: {name} is not a table")
    return table
