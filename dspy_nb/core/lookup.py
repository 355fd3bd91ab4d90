"""Which version a reference means, given the state of a model."""

from __future__ import annotations

from dspy_nb.core.errors import NotFound
from dspy_nb.core.stages import ModelState, Record
from dspy_nb.core.versions import Reference, matches

__all__ = ["find", "latest_version"]


def find(reference: Reference, state: ModelState) -> Record:
    """Return the record that ``reference`` means now.

    Archived versions answer to their exact number only.

    Raises:
        NotFound: There is none; the message names the newest versions.
    """
    if reference.version is not None:
        version = reference.version if reference.version in state.records else None
    elif reference.bounds is not None:
        inside = reversed(state.between(*reference.bounds))
        usable = (item for item in inside if state.records[item].stage != "archived")
        version = next((item for item in usable if matches(reference.bounds, item)), None)
    elif reference.stage == "production":
        version = state.production
    elif reference.stage == "staging":
        version = state.staged[-1] if state.staged else None
    else:
        version = latest_version(state)
    if version is None:
        newest = ", ".join(item for _, item in reversed(state.ordered[-5:]))
        raise NotFound(f"no version {reference.text!r}: the newest of {reference.model_id} are {newest}")
    return state.records[version]


def latest_version(state: ModelState) -> str | None:
    """Return the highest release that is not archived, else the highest such prerelease, else None."""
    prerelease: str | None = None
    for key, version in reversed(state.ordered):
        if state.records[version].stage != "archived":
            if key[3]:
                return version
            prerelease = prerelease or version
    return prerelease
