"""What the quality monitor holds an environment to: its settings, and the level that a version was deployed on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Self

from dspy_nb.core.arguments import number_between, probability, whole_number
from dspy_nb.core.deployment.webhook import check_webhook
from dspy_nb.core.errors import InputError
from dspy_nb.core.evidence import Evidence
from dspy_nb.core.models.names import check_environment
from dspy_nb.core.statistics.proportions import wilson_interval
from dspy_nb.core.storage.config import read_tables
from dspy_nb.core.storage.place import Place
from dspy_nb.core.text import value_text

if TYPE_CHECKING:
    from dspy_nb.core.models.catalogue import Catalogue
    from dspy_nb.core.statistics.degradation import DegradationTest
    from dspy_nb.core.traffic.reading import Units
    from dspy_nb.core.traffic.store import Traffic


@dataclass(frozen=True, slots=True)
class MonitorSettings:
    """What is watched in an environment, and what happens when it is no longer met.

    Attributes:
        level: The mean outcome that is promised, in (0, 1); by default the score that the live version was deployed
            or promoted on, with its uncertainty.
        margin: How far below the level (below the lower end of its interval, where it has one) the mean outcome may
            lie before that is a degradation.
        false_alarm: Chance that a deployment without a degradation ever raises an alarm, over its whole life and
            all objectives together.
        max_latency_ms: Latency that ``latency_share`` of the requests must keep within; None for any.
        latency_share: That share: .95 makes the latency one of the 95th percentile.
        max_error_rate: Share of the requests that may fail; None for any.
        min_requests: Requests below which an objective that is met is called "too early" instead of healthy.
        wait_s: How long a request waits for its outcome before it is left out, in seconds.
        rollback: Whether a degradation rolls back by itself.
        webhook: Address that gets each alert as JSON by POST, until it has answered with 2xx; None for none.
        timeout_s: How long that, or a call of ``on_alert``, may take from beginning to end.
    """

    level: float | None = None
    margin: float = 0.02
    false_alarm: float = 0.05
    max_latency_ms: float | None = None
    latency_share: float = 0.95
    max_error_rate: float | None = None
    min_requests: int = 50
    wait_s: float = 3600.0
    rollback: bool = False
    webhook: str | None = field(default=None, repr=False)  # it may hold a secret
    timeout_s: float = 5.0

    def __post_init__(self) -> None:
        """Check every value.

        Raises:
            InputError: One is not valid; the message names it.
        """
        for name in ("level", "max_error_rate"):
            if getattr(self, name) is not None:
                probability(name, getattr(self, name))
        for name in ("false_alarm", "latency_share"):
            probability(name, getattr(self, name))
        number_between("margin", self.margin, 0, 1)
        if self.max_latency_ms is not None:
            number_between("max_latency_ms", self.max_latency_ms, 0, math.inf, ends=False)
        whole_number("min_requests", self.min_requests)
        number_between("wait_s", self.wait_s, 0, math.inf)
        number_between("timeout_s", self.timeout_s, 0, 600, ends=False)
        if not isinstance(self.rollback, bool):
            raise InputError(f"rollback must be true or false, got {value_text(self.rollback, 80)}")
        if self.webhook is not None:
            check_webhook(self.webhook)

    @classmethod
    def from_table(cls, table: object, where: str) -> Self:
        """Return settings from a table of TOML.

        Raises:
            InputError: A key is not known, or a value not valid.
        """
        known = [field.name for field in fields(cls)]
        if not isinstance(table, Mapping):
            raise InputError(f"{where} must be a table of {', '.join(known)}")
        if unknown := sorted(set(table) - set(known)):
            raise InputError(f"{where}: {unknown[0]!r} is none of {', '.join(known)}")
        try:
            return cls(**table)
        except InputError as error:
            raise InputError(f"{where}: {error}") from error


def load_settings(config: Place, environment: str) -> MonitorSettings:
    """Read ``[monitor.<environment>]`` of ``registry/config.toml``; without it the defaults hold.

    Raises:
        InputError: It is no TOML, or the table of any environment is not valid.
        RegistryError: It cannot be read.
    """
    found = read_tables(config, "monitor", check_environment, MonitorSettings.from_table)
    return found.get(environment, MonitorSettings())


@dataclass(frozen=True, slots=True)
class Level:
    """The mean outcome that a version was deployed on.

    Attributes:
        score: The score.
        low: Lower end of its interval; the score itself where it was given as exact.
        source: Where it comes from, in words.
    """

    score: float
    low: float
    source: str


def level_of(registry: Catalogue, ref: str, deployed_on: Evidence | None) -> Level | None:
    """Return the level that a version was deployed on, None if nothing says.

    The evidence of the deployment comes first, then the latest evidence in the history of the version, then its own
    score. A validation score does not count: the search has seen it, so it flatters.
    """
    if (found := _from_evidence(deployed_on, "the evidence of its deployment")) is not None:
        return found
    model_id, _, number = ref.partition("@")
    for entry in reversed(registry.history(model_id)):
        if number in entry.versions and (
            found := _from_evidence(entry.evidence, f"the evidence of {entry.action} {entry.number}")
        ):
            return found
    version = registry.get(ref)
    if version.score is None or version.score_kind not in ("test", "evaluation"):
        return None
    low = version.interval[0] if version.interval else version.score
    return Level(version.score, low, f"its {version.score_kind} score")


def _from_evidence(evidence: Evidence | None, source: str) -> Level | None:
    """Return the level that evidence holds, if it speaks for the version at all."""
    if evidence is None or not evidence.answers or evidence.score is None or not 0 <= evidence.score <= 1:
        return None
    score, n = evidence.score, evidence.score_n
    count = n if n is not None and n > 0 else None
    low = (evidence.score_interval or (None,))[0]
    if low is None:
        low = score if count is None else wilson_interval(min(round(score * count), count), count)[0]
    return Level(score, max(min(low, score), 0.0), source)


@dataclass(frozen=True, slots=True)
class Objective:
    """Something that a share of the requests must meet, or a mean that outcomes must keep up.

    Attributes:
        name: ``quality``, ``latency`` or ``errors``.
        meaning: What its mean is, in words.
        level: The mean that is promised.
        tolerated: The mean below which it is a degradation, in (0, 1).
        alpha: Chance that it ever raises a false alarm.
        value: SQL: what it tests of a request.
        ready: SQL: whether that is known.
    """

    name: str
    meaning: str
    level: float
    tolerated: float
    alpha: float
    value: str
    ready: str


def objectives_of(settings: MonitorSettings, level: Level | None) -> tuple[Objective, ...]:
    """Return what is watched; the chance of a false alarm is divided equally.

    The tolerated mean outcome is the lower end of the level's interval less the margin: with 95 % intervals the
    statement about false alarms is wrong for at most 2.5 % of the versions, those that were lucky when their level
    was measured. A level that is given counts as exact.
    """
    made: list[Objective] = []
    if level is not None and (tolerated := level.low - settings.margin) > 0:
        limits = level.score, min(tolerated, 0.9999), 0.0
        made.append(Objective("quality", "mean outcome", *limits, "outcome", "outcome IS NOT NULL"))
    if settings.max_latency_ms is not None:
        limit = round(settings.max_latency_ms * 1000)
        value = (
            "CASE WHEN finished AND error IS NULL AND NOT cached AND latency_us IS NOT NULL "
            f"THEN latency_us <= {limit} END"
        )
        share = settings.latency_share
        words = f"answered within {settings.max_latency_ms:,g} ms"
        made.append(Objective("latency", words, share, share, 0.0, value, "finished"))
    if (errors := error_objective(settings)) is not None:
        made.append(errors)
    return tuple(replace(objective, alpha=settings.false_alarm / len(made)) for objective in made)


def error_objective(settings: MonitorSettings) -> Objective | None:
    """Return the objective that a canary's candidate is held to beside the comparison, if there is one."""
    if settings.max_error_rate is None:
        return None
    share, value = 1 - settings.max_error_rate, "CASE WHEN finished THEN error IS NULL END"
    limits = share, share, settings.false_alarm
    return Objective("errors", "answered without an error", *limits, value, "finished")


def run_test(
    traffic: Traffic, name: str, objective: Objective, which: str, values: tuple[Any, ...], wait_s: float
) -> DegradationTest:
    """Let the test of an objective read what is new, and return it.

    It is another test where what is tolerated is another: it then begins with the first request again. The other
    arguments are those of ``read_on``; ``name`` is that of what is tested, such as ``deployment 7``.
    """
    from dspy_nb.core.statistics.degradation import DegradationTest  # it needs numpy, as does
    from dspy_nb.core.traffic.reading import read_on

    def update(state: dict[str, Any] | None, units: Units) -> dict[str, Any]:
        test = DegradationTest(objective.tolerated, objective.alpha)
        if state is not None:
            test = DegradationTest.from_state(state)
        test.update_many(units.value)
        return test.to_state()

    key = f"{name}, {objective.name}: {objective.value} >= {objective.tolerated!r} at {objective.alpha!r}"
    state = read_on(traffic, key, which, values, objective.value, objective.ready, wait_s, update)
    return DegradationTest.from_state(state)
