"""Whether the program that is evaluated is the version that the evidence will be about."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import dspy

from dspy_nb.core.durable import dump_json
from dspy_nb.core.errors import InputError
from dspy_nb.core.loading import stored_program
from dspy_nb.core.model_version import ModelVersion
from dspy_nb.core.program_state import dump_state

__all__ = ["check_same_program", "program_digest"]


def check_same_program(program: Any, version: ModelVersion) -> None:
    """Check that a program has the prompts and the demos of a version; its code is not compared.

    Raises:
        InputError: It has others: what it scores says nothing about the version.
        Corrupt: The version's files are not what was registered.
    """
    if not isinstance(program, dspy.Module):
        raise InputError(f"{version.ref} is a dspy.Module, and what is evaluated a {type(program).__name__}")
    text = dump_json(dump_state(program), "the state of the program")
    own, stored = _predictors(json.loads(text)), _predictors(dict(stored_program(version).state))
    different = [path for path in own.keys() | stored.keys() if own.get(path) != stored.get(path)]
    if different:
        raise InputError(
            f"the program is not {version.ref}: it differs in {', '.join(sorted(different))}; "
            f"load it from the registry: load({version.ref!r})"
        )


def program_digest(program: dspy.Module) -> str:
    """Return a hash of the prompts and the demos of a program; its code and its LMs do not count."""
    parts = _predictors(json.loads(dump_json(dump_state(program), "the state of the program")))
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _predictors(state: dict[str, Any]) -> dict[str, Any]:
    """Return, by predictor, what decides its answers."""
    parts = {"self": state} if "signature" in state else state
    return {
        path: {key: part.get(key) for key in ("signature", "demos")}
        for path, part in parts.items()
        if path != "metadata" and isinstance(part, dict)
    }
