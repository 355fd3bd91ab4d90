"""The demo's data: short reviews with their sentiment, written for this project."""

from __future__ import annotations

from importlib import resources

import dspy

from dspy_nb.core.data.examples import load_examples


def reviews() -> list[dspy.Example]:
    """Return 280 short reviews (input ``review``), half "positive" and half "negative" (label ``sentiment``)."""
    with resources.as_file(resources.files(__name__) / "reviews.jsonl") as path:
        return load_examples(path, inputs=["review"])
