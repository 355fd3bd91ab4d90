"""Which version a reference means, given the state of a model."""

from __future__ import annotations

from dspy_nb.core.errors import NotFound
from dspy_nb.core.stages import ModelState, Record
from dspy_nb.core.versions import Reference, matches

__all__ = ["find"]


def find(reference: Reference, state: ModelState) -> Record:
    """Return the record that ``reference`` means now.

    Archived versions answer to their exact number only.

    Raises:
        NotFound: There is none; the message names the newest versions.
    """
    if reference.version is not None:
        version = reference.version if reference.version in state.records else None
    elif reference.bounds is not None:
        inside = state.between(*reference.bounds)
        usable = (item for item in inside if state.records[item].stage != "archived")
        version = next((item for item in usable if matches(reference.bounds, item)), None)
    elif reference.stage == "production":
        version = state.production
    elif reference.stage == "staging":
        version = next(reversed(state.staged), None)
    else:
        version = state.latest
    if version is None:
        newest = ", ".join(item for _, item in reversed(state.ordered[-5:]))
        raise NotFound(f"no version {reference.text!r}: the newest of {reference.model_id} are {newest}")
    return state.records[version]
