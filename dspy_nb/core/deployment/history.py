"""What was live in an environment, and when: the fold of its log, and what goes into it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, NamedTuple, Self

import msgspec

from dspy_nb.core.deployment.canary_log import ACTIONS, Canary, CanaryRules
from dspy_nb.core.doors import Shown
from dspy_nb.core.errors import Conflict, Refused
from dspy_nb.core.evidence import Evidence, read_evidence, write_evidence
from dspy_nb.core.models.names import check_model_id, check_version
from dspy_nb.core.models.requirements import Requirement, require
from dspy_nb.core.storage.entry import Change, Entry, check_change

MAKES_LIVE: Final = ("deploy", "rollback", "canary-finish")
"""The actions after which another version is live."""


@dataclass(frozen=True, slots=True)
class Deployment(Shown):
    """One line of an environment's history.

    Attributes:
        number: Number of the log entry: 1, 2, 3, ... without a gap.
        action: ``deploy``, ``rollback``, or what became of a canary: ``canary-start``, ``canary-step``,
            ``canary-finish`` (its candidate is live from here on), ``canary-rollback`` (it was worse) or
            ``canary-abort`` (a person took it back).
        model_id: The model that is live from here on.
        version: Its version.
        replaced: The reference of what was live before; None for the first one, the same as now where a canary
            starts, steps up or is taken back.
        at: When, ISO 8601 in UTC.
        by: Who.
        reason: Why, as given.
        evidence: What the decision rested on.
        rollback_available: Whether there was something to roll back to after it.
        candidate: The reference that a canary is about; None otherwise.
        share: The share of the traffic that the candidate gets from here on.
    """

    number: int
    action: str
    model_id: str
    version: str
    replaced: str | None
    at: str
    by: str
    reason: str | None
    evidence: Evidence | None
    rollback_available: bool
    candidate: str | None = None
    share: float | None = None

    @property
    def ref(self) -> str:
        """The exact reference, such as ``sentiment@1.2.0``."""
        return f"{self.model_id}@{self.version}"

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON data."""
        return {**asdict(self), "evidence": write_evidence(self.evidence)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Return the line that ``to_dict`` wrote."""
        return cls(**{**data, "evidence": read_evidence(data["evidence"])})


class Live(NamedTuple):
    """What is live at a moment.

    Attributes:
        ref: The version.
        since: Number of the entry that made it live.
        canary: The canary that is running, if any.
    """

    ref: str
    since: int
    canary: Canary | None


class EnvironmentState:
    """What the log of an environment folds into.

    A deployment goes on top of ``live``; a roll-back takes what is on top away. So a roll-back never returns to
    what was rolled back, and rolling back again goes further back. While a canary runs, nothing is deployed or
    rolled back; its candidate goes on top of ``live`` only when it has got all of the traffic.

    Attributes:
        live: References of what a roll-back can reach, oldest first; the last one is live.
        history: One line per entry.
        canary: The canary that is running, if any.
        since: Number of the entry that made live what is live now; 0 if nothing is.
    """

    def __init__(self) -> None:
        self.live: list[str] = []
        self.history: list[Deployment] = []
        self.canary: Canary | None = None
        self.since = 0
        self._entries: list[Entry] = []

    @property
    def now(self) -> Live | None:
        """What is live, None if nothing is."""
        return Live(self.live[-1], self.since, self.canary) if self.live else None

    def check(self, entry: Entry) -> None:
        """Raise Corrupt if ``entry`` is malformed or cannot follow."""
        check_change(entry, _CHANGES, self)

    def apply(self, entry: Entry) -> None:
        """Take in an entry that has passed ``check``."""
        body = entry.body
        if entry.action in ("deploy", "canary-finish"):
            self.live.append(f"{body['model_id']}@{body['version']}")
        elif entry.action == "rollback":
            del self.live[-body["steps"] :]
        if entry.action in MAKES_LIVE:
            self.since = entry.number
        if entry.action == "canary-start":
            self.canary = Canary.started(entry)
        elif entry.action == "canary-step" and self.canary is not None:
            self.canary = self.canary.after(entry)
        else:
            self.canary = None
        names = ("model_id", "version", "replaced", "reason", "candidate", "share")
        said: dict[str, Any] = {name: body.get(name) for name in names}
        line = Deployment(
            **said,
            number=entry.number,
            action=entry.action,
            at=entry.at,
            by=entry.by,
            evidence=read_evidence(body["evidence"]),
            rollback_available=len(self.live) > 1 or self.canary is not None,
        )
        self.history.append(line)
        self._entries.append(entry)

    def kept(self) -> list[Entry]:
        """Return the entries that it is folded from: nobody looks for a few of thousands of deployments."""
        return self._entries

    def take_up(self, kept: msgspec.Raw) -> None:
        """Fold the entries that are kept."""
        for entry in msgspec.msgpack.decode(kept, type=list[Entry]):
            self.apply(entry)

    def expect(self, number: int, environment: str) -> None:
        """Raise Conflict if entries were added after entry ``number``."""
        if len(self.history) != number:
            live = self.live[-1] if self.live else "nothing"
            raise Conflict(f"{environment} was changed meanwhile, {live} is live there now: look again")


class _Change(Change):
    """What a deployment or a roll-back says, and the beginning of what an entry about a canary says."""

    model_id: str
    version: str
    replaced: str | None
    steps: int | None
    evidence: dict[str, Any] | None
    reason: str | None

    @property
    def ref(self) -> str:
        return f"{self.model_id}@{self.version}"

    def problem(self, state: EnvironmentState, action: str) -> str | None:
        check_model_id(self.model_id)
        check_version(self.version)
        if self.replaced != (state.live[-1] if state.live else None):
            return "it does not replace what was live before"
        return self.obstacle(state, action)

    def obstacle(self, state: EnvironmentState, action: str) -> str | None:
        """Return why it cannot follow, beyond what holds for each action."""
        if state.canary is not None:
            return "a canary was running"
        back = self.steps or 0
        if action == "deploy":
            possible = self.steps is None and self.replaced != self.ref
        else:
            possible = 0 < back < len(state.live) and state.live[-1 - back] == self.ref
        return None if possible else f"{self.ref} cannot follow {self.replaced}"


class _CanaryChange(_Change):
    candidate: str
    share: float
    rules: dict[str, Any] | None

    def obstacle(self, state: EnvironmentState, action: str) -> str | None:
        running, live = state.canary, self.replaced
        if live is None or self.steps is not None:
            return "a canary needs a version that is live"
        if (action == "canary-start") != (running is None) or (self.rules is None) != (running is not None):
            return "no canary was running" if running is None else "a canary was running"
        if running is None:
            model_id, _, version = self.candidate.partition("@")
            check_model_id(model_id)
            check_version(version)
            first = CanaryRules.read(self.rules).shares[0]
            possible = self.candidate != live and self.ref == live and self.share == first
        elif self.candidate != running.candidate:
            possible = False
        elif action == "canary-step":
            possible = self.ref == live and self.share == running.next_share < 1
        elif action == "canary-finish":
            possible = self.ref == self.candidate and self.share == 1 and running.next_share == 1
        else:
            possible = self.ref == live and self.share == 0
        return None if possible else f"{action} of {self.candidate} with share {self.share:g} cannot follow"


_CHANGES: Final[Mapping[str, type[Change]]] = {
    "deploy": _Change,
    "rollback": _Change,
    **dict.fromkeys(ACTIONS, _CanaryChange),
}


def decide_deployment(
    state: EnvironmentState, environment: str, ref: str, evidence: Evidence | None, reason: str | None
) -> dict[str, Any]:
    """Return the body of the log entry that makes ``ref`` live.

    Raises:
        Refused: It is live already, or a canary is running.
    """
    require(deployment_requirements(state, environment, ref))
    return _make_body(state, ref, evidence, reason)


def deployment_requirements(state: EnvironmentState, environment: str, ref: str) -> list[Requirement]:
    """Return what must hold in an environment before ``ref`` is deployed, and whether it does."""
    now, canary = state.now, state.canary
    busy = None if canary is None else _canary_refusal(canary, environment, f"{ref} cannot be deployed")
    running = "none is running" if canary is None else f"one of {canary.candidate} is running"
    live = None if now is None or now.ref != ref else f"{ref} is live in {environment} already"
    shown = f"live there now: {'nothing' if now is None else now.ref}"
    return [
        Requirement("no canary", canary is None, running, busy, can_be_forced=False),
        Requirement("not live there yet", live is None, shown, live, can_be_forced=False),
    ]


def decide_rollback(
    state: EnvironmentState,
    environment: str,
    steps: int,
    reason: str | None,
    evidence: Evidence | None = None,
) -> dict[str, Any]:
    """Return the body of the log entry that rolls back.

    Raises:
        Refused: Nothing was live that far back, or a canary is running.
    """
    _refuse_canary(state, environment, "what is live cannot be rolled back")
    back = len(state.live) - 1
    if steps > back:
        if not state.live:
            raise Refused(f"{environment} cannot be rolled back: nothing was ever deployed there")
        further = f"only {back} step{'' if back == 1 else 's'} back" if back > 0 else "nothing further back"
        raise Refused(f"{environment} cannot be rolled back from {state.live[-1]}: there is {further}")
    return _make_body(state, state.live[-1 - steps], evidence, reason, steps)


def decide_canary(
    state: EnvironmentState,
    environment: str,
    ref: str,
    rules: CanaryRules,
    evidence: Evidence | None,
    reason: str | None,
) -> dict[str, Any]:
    """Return the body of the log entry that starts a canary.

    Raises:
        Refused: Nothing is live that it could be compared with, it is live itself, or a canary is running.
    """
    _refuse_canary(state, environment, f"a canary of {ref} cannot start")
    if not state.live:
        raise Refused(
            f"nothing is live in {environment} to compare {ref} with: deploy() makes the first one live"
        )
    _refuse_live(state, environment, ref)
    canary = {"candidate": ref, "share": rules.shares[0], "rules": rules.to_dict()}
    return _make_body(state, state.live[-1], evidence, reason) | canary


def decide_canary_change(
    state: EnvironmentState, canary: Canary, action: str, evidence: Evidence | None, reason: str | None
) -> dict[str, Any]:
    """Return the body of the log entry that takes a canary, as it was at the decision, further or ends it.

    Raises:
        Conflict: The canary has stepped, or has ended, since.
    """
    if state.canary != canary:
        raise Conflict(f"the canary of {canary.candidate} was changed meanwhile: look again")
    share = {"canary-step": canary.next_share, "canary-finish": 1.0}.get(action, 0.0)
    ref = canary.candidate if share == 1 else state.live[-1]
    after = {"candidate": canary.candidate, "share": share, "rules": None}
    return _make_body(state, ref, evidence, reason) | after


def _refuse_canary(state: EnvironmentState, environment: str, what: str) -> None:
    if state.canary is not None:
        raise Refused(_canary_refusal(state.canary, environment, what))


def _canary_refusal(canary: Canary, environment: str, what: str) -> str:
    running = f"while a canary of {canary.candidate} is running"
    return f"{what} in {environment} {running}: abort_canary() takes it back"


def _refuse_live(state: EnvironmentState, environment: str, ref: str) -> None:
    if state.live and state.live[-1] == ref:
        raise Refused(f"{ref} is live in {environment} already")


def _make_body(
    state: EnvironmentState, ref: str, evidence: Evidence | None, reason: str | None, steps: int | None = None
) -> dict[str, Any]:
    model_id, _, version = ref.partition("@")
    return {
        "model_id": model_id,
        "version": version,
        "replaced": state.live[-1] if state.live else None,
        "steps": steps,
        "evidence": write_evidence(evidence),
        "reason": reason,
    }
