"""Named configurations: an optimizer and its options under a name that says what they are good for.

Some come with the package; a user's own are kept in ``presets.toml`` in the user's configuration folder
(``DSPY_NB_CONFIG_DIR`` overrides it), where they win over those of the package by name.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import asdict

from dspy_nb.core.arguments import user_path
from dspy_nb.core.doors import Shown
from dspy_nb.core.errors import InputError
from dspy_nb.core.storage.config import parse_toml
from dspy_nb.core.storage.files import replace_file
from dspy_nb.core.storage.shapes import fit
from dspy_nb.core.text import error_text


@dataclass(frozen=True)
class Preset(Shown):
    """An optimizer and its options.

    Attributes:
        name: letters, digits, dots, dashes and underscores.
        optimizer: name of the optimizer.
        options: options by name.
        description: what it is, in one line.
        recommended_for: what it is good for.
        source: "package", or the file it was read from.
    """

    name: str
    optimizer: str
    options: Mapping[str, Any] = field(default_factory=dict)
    description: str = ""
    recommended_for: tuple[str, ...] = ()
    source: str = "package"


def user_presets_file() -> Path:
    """Return the path of the user's own presets; the file need not exist."""
    import platformdirs

    folder = os.environ.get("DSPY_NB_CONFIG_DIR") or platformdirs.user_config_dir("dspy-nb")
    return Path(folder) / "presets.toml"


def list_presets(path: str | Path | None = None) -> list[Preset]:
    """Return all presets: the user's own first, then those of the package that these do not replace.

    Args:
        path: a file of presets to use instead of the user's own.

    Raises:
        InputError: the file is not a valid file of presets; the message names the preset and the key.
    """
    packaged = resources.files(__package__).joinpath("presets.toml").read_bytes()
    own = user_path("the file of presets", path) if path is not None else user_presets_file()
    found: dict[str, Preset] = {}
    try:
        found = _read(own.read_bytes(), str(own))
    except FileNotFoundError:
        if path is not None:
            raise InputError(f"no such file: {path}") from None
    except OSError as error:
        raise InputError(f"cannot read {own}: {error.strerror}") from None
    for name, preset in _read(packaged, "package").items():
        found.setdefault(name, preset)
    return list(found.values())


def get_preset(name: str, path: str | Path | None = None) -> Preset:
    """Return the preset of that name.

    Raises:
        InputError: there is none; the message lists the names.
    """
    presets = {preset.name: preset for preset in list_presets(path)}
    if name not in presets:
        raise InputError(f"unknown preset {name!r}; valid: {', '.join(sorted(presets))}")
    return presets[name]


def save_preset(preset: Preset, path: str | Path | None = None) -> Path:
    """Save a preset among the user's own, in place of one with the same name, and return the file.

    Args:
        preset: its optimizer must exist and its options must be text, numbers, booleans or lists of them.
        path: a file of presets to use instead of the user's own.

    Raises:
        InputError: the preset is not valid, or the file cannot be written.
    """
    import tomli_w

    from dspy_nb.core.optimization.optimizers import get_optimizer

    optimizer = get_optimizer(preset.optimizer)
    if unknown := set(preset.options) - set(optimizer.options()):
        raise InputError(f"preset {preset.name!r}: {optimizer.name} has no option {sorted(unknown)[0]!r}")
    if not preset.name or not preset.name.replace("-", "").replace("_", "").replace(".", "").isalnum():
        raise InputError(f"preset name {preset.name!r}: use letters, digits, dots, dashes and underscores")
    file = user_path("the file of presets", path) if path is not None else user_presets_file()
    try:
        there = parse_toml(file.read_bytes(), file) if file.exists() else {}
        there[preset.name] = {
            "description": preset.description,
            "optimizer": optimizer.name,
            "options": {name: value for name, value in preset.options.items() if value is not None},
            "recommended_for": list(preset.recommended_for),
        }
        text = tomli_w.dumps(there)
        file.parent.mkdir(parents=True, exist_ok=True)
        replace_file(file, text.encode())
    except InputError:
        raise
    except (TypeError, ValueError) as error:
        raise InputError(
            f"preset {preset.name!r}: an option cannot be written to TOML: {error_text(error)}"
        ) from None
    except OSError as error:
        raise InputError(f"cannot write {file}: {error.strerror}") from None
    return file


class _Table(msgspec.Struct, forbid_unknown_fields=True):
    optimizer: str
    options: dict[str, Any] = {}
    description: str = ""
    recommended_for: tuple[str, ...] = ()


def _read(content: bytes, source: str) -> dict[str, Preset]:
    tables = {
        name: fit(table, _Table, f"{source}: preset {name!r}")
        for name, table in parse_toml(content, source).items()
    }
    return {name: Preset(name, source=source, **asdict(table)) for name, table in tables.items()}
