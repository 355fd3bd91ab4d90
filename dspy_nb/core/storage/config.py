"""Settings in TOML: the tables of a registry's ``config.toml``, and whatever else people write by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from dspy_nb.core.arguments import DEEPEST, is_too_deep
from dspy_nb.core.errors import InputError
from dspy_nb.core.storage.files import explain_failure
from dspy_nb.core.storage.place import Place, storage_of
from dspy_nb.core.text import error_text

T = TypeVar("T")


def read_tables(
    config: Place, name: str, check_key: Callable[[str], object], read: Callable[[object, str], T]
) -> dict[str, T]:
    """Return what the tables ``[name.*]`` of ``registry/config.toml`` say, by key; none if it is not there.

    Args:
        config: The file.
        name: Of the table that holds them.
        check_key: Raises InputError for a key that cannot be.
        read: Makes something of a table; it gets the place too, for its message.

    Raises:
        InputError: The file is no TOML, or a table is not valid.
        RegistryError: It cannot be read, or is no plain file.
    """
    with explain_failure(f"read {config}"):
        try:
            content = storage_of(config).read(config, links=True)
        except FileNotFoundError:
            return {}
    tables = parse_toml(content, config).get(name, {})
    if not isinstance(tables, dict):
        raise InputError(f"{config}: {name} is not a table")
    for key in tables:
        try:
            check_key(key)
        except InputError as error:
            raise InputError(f"{config}: {error}") from error
    return {key: read(table, f"{config}: {name}.{key}") for key, table in tables.items()}


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
