"""The types that programs declare for what they answer."""

from __future__ import annotations

from typing import Any

import dspy

from dspy_nb.core.programs.spec import Program, predictors_of

__all__ = ["declared_types"]


def declared_types(*programs: Program) -> dict[str, tuple[Any, ...]]:
    """Return the types of all output fields, by name: usually one; none of functions, which declare nothing."""
    found: dict[str, list[Any]] = {}
    for program in programs:
        if not isinstance(program, dspy.Module):
            continue
        for predictor in predictors_of(program):
            signature = getattr(predictor, "signature", None)
            for name, field in getattr(signature, "output_fields", {}).items():
                types = found.setdefault(name, [])
                if field.annotation not in types:
                    types.append(field.annotation)
    return {name: tuple(types) for name, types in found.items()}
