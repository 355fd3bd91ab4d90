"""What was live in an environment, and when: the fold of its log, and what goes into it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from dspy_nb.core.errors import Conflict, Corrupt, InputError, Refused
from dspy_nb.core.log import Entry
from dspy_nb.core.versions import check_model_id, check_version

__all__ = ["Deployment", "EnvironmentState", "decide_deployment", "decide_rollback"]

_KEYS: Final = {"model_id", "version", "replaced", "steps", "evidence", "reason"}


@dataclass(frozen=True, slots=True)
class Deployment:
    """One line of an environment's history.

    Attributes:
        number: Number of the log entry: 1, 2, 3, ... without a gap.
        action: ``deploy`` or ``rollback``.
        model_id: The model that is live from here on.
        version: Its version.
        replaced: The reference of what was live before; None for the first one.
        at: When, ISO 8601 in UTC.
        by: Who.
        reason: Why, as given.
        evidence: What the decision rested on.
        rollback_available: Whether there was something to roll back to after it.
    """

    number: int
    action: str
    model_id: str
    version: str
    replaced: str | None
    at: str
    by: str
    reason: str | None
    evidence: Mapping[str, Any] | None
    rollback_available: bool

    @property
    def ref(self) -> str:
        """The exact reference, such as ``sentiment@1.2.0``."""
        return f"{self.model_id}@{self.version}"


class EnvironmentState:
    """What the log of an environment folds into.

    A deployment goes on top of ``live``; a roll-back takes what is on top away. So a roll-back never returns to
    what was rolled back, and rolling back again goes further back.

    Attributes:
        live: References of what a roll-back can reach, oldest first; the last one is live.
        history: One line per entry.
    """

    def __init__(self) -> None:
        self.live: list[str] = []
        self.history: list[Deployment] = []

    def check(self, entry: Entry) -> None:
        """Raise Corrupt if ``entry`` is malformed or cannot follow."""
        body = entry.body
        if entry.action not in ("deploy", "rollback") or set(body) != _KEYS:
            raise _corrupt(entry, "it is no deployment")
        try:
            ref = f"{check_model_id(body['model_id'])}@{check_version(body['version'])}"
        except InputError as error:
            raise _corrupt(entry, str(error)) from error
        if body["replaced"] != (self.live[-1] if self.live else None):
            raise _corrupt(entry, "it does not replace what was live before")
        steps = body["steps"]
        if entry.action == "deploy":
            possible = steps is None and body["replaced"] != ref
        else:
            possible = type(steps) is int and 0 < steps < len(self.live) and self.live[-1 - steps] == ref
        if not possible:
            raise _corrupt(entry, f"{ref} cannot follow {body['replaced']}")
        if not isinstance(body["reason"], str | None) or not isinstance(body["evidence"], dict | None):
            raise _corrupt(entry, "its reason or its evidence is of the wrong type")

    def apply(self, entry: Entry) -> None:
        """Take in an entry that has passed ``check``."""
        body = entry.body
        if entry.action == "deploy":
            self.live.append(f"{body['model_id']}@{body['version']}")
        else:
            del self.live[-body["steps"] :]
        self.history.append(
            Deployment(
                number=entry.number,
                action=entry.action,
                model_id=body["model_id"],
                version=body["version"],
                replaced=body["replaced"],
                at=entry.at,
                by=entry.by,
                reason=body["reason"],
                evidence=body["evidence"],
                rollback_available=len(self.live) > 1,
            )
        )

    def expect(self, number: int, environment: str) -> None:
        """Raise Conflict if entries were added after entry ``number``."""
        if len(self.history) != number:
            live = self.live[-1] if self.live else "nothing"
            raise Conflict(f"{environment} was changed meanwhile, {live} is live there now: look again")


def decide_deployment(
    state: EnvironmentState,
    environment: str,
    ref: str,
    evidence: Mapping[str, Any] | None,
    reason: str | None,
) -> dict[str, Any]:
    """Return the body of the log entry that makes ``ref`` live.

    Raises:
        Refused: It is live already.
    """
    replaced = state.live[-1] if state.live else None
    if replaced == ref:
        raise Refused(f"{ref} is live in {environment} already")
    return _body(ref, replaced, None, evidence, reason)


def decide_rollback(
    state: EnvironmentState, environment: str, steps: int, reason: str | None
) -> dict[str, Any]:
    """Return the body of the log entry that rolls back.

    Raises:
        Refused: Nothing was live that far back.
    """
    back = len(state.live) - 1
    if steps > back:
        if not state.live:
            raise Refused(f"{environment} cannot be rolled back: nothing was ever deployed there")
        further = f"only {back} step{'' if back == 1 else 's'} back" if back > 0 else "nothing further back"
        raise Refused(f"{environment} cannot be rolled back from {state.live[-1]}: there is {further}")
    return _body(state.live[-1 - steps], state.live[-1], steps, None, reason)


def _body(
    ref: str, replaced: str | None, steps: int | None, evidence: Mapping[str, Any] | None, reason: str | None
) -> dict[str, Any]:
    model_id, _, version = ref.partition("@")
    return {
        "model_id": model_id,
        "version": version,
        "replaced": replaced,
        "steps": steps,
        "evidence": evidence,
        "reason": reason,
    }


def _corrupt(entry: Entry, why: str) -> Corrupt:
    return Corrupt(f"log entry {entry.number} cannot be right: {why}: restore the log from git or a backup")
