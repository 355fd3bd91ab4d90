"""Tests, in the rooms of what they test."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
"""The repository."""


def name_of(value: object) -> str:
    """Return a name for a parameter of a test that is the same in every process."""
    if isinstance(value, set | frozenset):
        return f"{type(value).__name__} of {sorted(map(repr, value))}"
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))
