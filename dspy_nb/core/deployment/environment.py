"""Environments: which version is live where, since when, why, and the way back.

On disk, under the root of the registry::

    environments/<name>/log/      000001.json  000002.json  ...
    environments/<name>/current   a link to the version that is live, for other tools
    environments/<name>/traffic.sqlite3       the requests that it served, if they are counted; git ignores it
    config.toml                   optional: what each environment accepts, and how it is watched

An environment serves one version of one model at a time, as the one link says; several models are several
environments (``production-sentiment``). A stage says what a version is approved for, an environment what runs:
promoting does not deploy, and rolling back does not change a stage. Nothing is locked: the log decides who was
first.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from dspy_nb.core.arguments import check_texts, given_outcome, outcome_of
from dspy_nb.core.deployment.canaries import Canaries
from dspy_nb.core.deployment.history import Deployment, Live
from dspy_nb.core.deployment.restrictions import Restrictions
from dspy_nb.core.deployment.serving import choose_route, find_route
from dspy_nb.core.errors import DspyNbError, NotFound, RegistryError
from dspy_nb.core.models.conditions import Conditions
from dspy_nb.core.models.version import ModelVersion
from dspy_nb.core.traffic.store import Route

if TYPE_CHECKING:
    import dspy

    from dspy_nb.core.deployment.health import HealthReport
    from dspy_nb.core.deployment.objectives import MonitorSettings
    from dspy_nb.core.deployment.releases import Program
    from dspy_nb.core.models.catalogue import Catalogue
    from dspy_nb.core.traffic.serving import Answer, Asked

logger = logging.getLogger(__name__)

_LOOK_EVERY_S: Final = 0.25
"""How long ``load`` serves without looking at the log: well below the second that it promises."""

_ADVANCE_EVERY_S: Final = 1.0
"""How long outcomes come in before a canary is looked at again."""


class Environment(Canaries):
    """Where versions are live: ``development``, ``staging``, ``production`` or one of your own.

    ``Registry.environment`` makes it. Safe to share between threads; creating it writes no file.
    """

    def __init__(self, registry: Catalogue, name: str, *, create: bool = False) -> None:
        """Open the environment ``name`` of ``registry``; ``Registry.environment`` says what is checked."""
        super().__init__(registry, name, create=create)
        self._serving = threading.Lock()
        self._served: _Served | None = None
        self._compared: tuple[Any, Any, Any] = (None, None, None)
        self._advance_at = 0.0

    def load(self, program: Program = None, *, unit: str | None = None) -> dspy.Module:
        """Return the program that is live, for serving: call this for every request.

        The program is kept, and the log is looked at four times a second at most, so this costs next to nothing
        and notices a deployment within a second, whoever made it. Callers share the program: call it, do not
        change it. Whoever holds one goes on with that version until the next ``load``.

        Args:
            program: An instance of the program's class, or better the class, where it has one of its own. Give
                the same object each time: another one loads the program again.
            unit: Who asks, such as a user's id: while a canary is running, its share of the units gets the
                candidate, always the same ones. Without a unit it is the live version.

        Raises:
            NotFound: Nothing is live.
            Refused: The configured language model is not accepted here; or as ``Registry.load`` does.
            Corrupt: The log, or a file of the version, was changed.
        """
        served = self._look(program)
        return served.program_of(choose_route(self.name, served.live, unit))

    def predict(self, program: Program = None, /, *, unit: str | None = None, **inputs: Any) -> Answer:
        """Answer a request with the version that is live for its unit, and store how that went.

        Version, latency and error are stored in the traffic of the environment; ``record`` adds the outcome.
        While a canary is running, its share of the units (of the requests, where they have none) gets the
        candidate. Where the file of traffic cannot be written, that is logged and the request is answered all the
        same.

        Args:
            program: As for ``load``.
            unit: Who asks, such as a user's id.
            inputs: Those of the program.

        Returns:
            ``(prediction, request_id)``.

        Raises:
            NotFound, Refused, Corrupt: As for ``load``.
            InputError: The unit is no valid name, an input is missing or unknown, or the program has only
                ``aforward``; nothing was stored.
            Exception: Whatever the program raises; it counts as an error, with the outcome 0.
        """
        return self._begin(self._look(program), unit, inputs, awaited=False).answer()

    async def apredict(self, program: Program = None, /, *, unit: str | None = None, **inputs: Any) -> Answer:
        """Do what ``predict`` does without holding up the event loop; a program with ``aforward`` is awaited."""
        import asyncio  # the command line needs none

        served = await asyncio.to_thread(self._look, program)
        asked = await asyncio.to_thread(self._begin, served, unit, inputs, awaited=True)
        return await asked.answer_async()

    def _begin(self, served: _Served, unit: str | None, inputs: dict[str, Any], *, awaited: bool) -> Asked:
        """Store a request and return what answers it."""
        from dspy_nb.core.traffic.serving import Asked, check_served  # they need DSPy

        to = choose_route(self.name, served.live, unit, drawn=True)
        program = served.program_of(to)
        check_served([(str(to.ref), program)], inputs, ("unit",), awaited=awaited)
        request_id = ""
        try:
            request_id = self.traffic.begin(to).request_id
        except RegistryError as error:
            logger.error("a request is served but not counted: %s", error)
        on_failure = self._advance_soon if to.is_b else None
        return Asked(self.traffic, request_id, program, {}, inputs, on_failure)

    def observe(
        self,
        success: bool | None = None,
        *,
        value: float | None = None,
        latency_ms: float | None = None,
        error: str | None = None,
        unit: str | None = None,
        version: str | ModelVersion | None = None,
        request_id: str | None = None,
    ) -> str:
        """Store a request that was answered by what ``load`` returned, and what is known of it.

        Args:
            success: Whether the answer was good.
            value: How good it was, from 0 to 1; instead of ``success``.
            latency_ms: How long the answer took, in milliseconds.
            error: Name of the error if there was no answer; its outcome is 0.
            unit: Who asked, as given to ``load``. Needed for the request to count in a canary.
            version: What answered; by default the version that is live for the unit now.
            request_id: An id of your own: the same request again is not counted again.

        Returns:
            The id of the request; an outcome that comes later goes to ``record``.

        Raises:
            NotFound: Nothing is live, or there is no such version.
            InputError: A value is not valid, or the version was never live here; nothing was stored.
            RegistryError: It cannot be written.
        """
        outcome = outcome_of(success, value)
        check_texts(error=error)
        ref = None if version is None else self.registry.get(version).ref
        to = self.read(lambda state: find_route(self.name, state, unit, ref))
        made = self.traffic.add(
            to, outcome=outcome, latency_ms=latency_ms, error=error, request_id=request_id
        )
        self._advance_soon()
        return made

    def record(self, request_id: str, success: bool | None = None, *, value: float | None = None) -> None:
        """Store the outcome of a request, from any process; the same outcome again changes nothing.

        Args:
            request_id: What ``predict`` or ``observe`` returned.
            success: Whether the answer was good.
            value: How good it was, from 0 to 1; instead of ``success``.

        Raises:
            NotFound: There is no such request here.
            InputError: The outcome is not valid, or another one is known; nothing was changed.
            RegistryError: It cannot be written.
        """
        self.traffic.record(request_id, given_outcome(success, value))
        self._advance_soon()

    def _look(self, program: Program) -> _Served:
        """Return what is served, after a look at the log if the last one is some time ago."""
        with self._serving:
            now = time.monotonic()
            served = self._served
            if served is not None and served.given is program and now < served.look_at:
                served.restrictions.check_lm(self.name)
                self._compare(served)
                return served
            live, line = self.read(lambda state: (state.now, state.history[-1] if state.history else None))
            if live is None or line is None:
                raise NotFound(f"nothing is live in {self.name}: deploy a version first")
            restrictions = self.restrictions
            restrictions.check_lm(self.name)
            if served is None or served.given is not program or served.line != line:
                served = self._load_live(live, line, program, restrictions)
            self._served = replace(served, restrictions=restrictions, look_at=now + _LOOK_EVERY_S)
            self._compare(served)
            return self._served

    def _compare(self, served: _Served) -> None:
        """Warn of another adapter or language model than the versions were made with, when either has changed."""
        import dspy

        now = (served.line, dspy.settings.adapter, dspy.settings.lm)
        if all(a is b for a, b in zip(now, self._compared, strict=True)):
            return
        self._compared = now
        for found, program in zip(served.conditions, (served.program, served.candidate), strict=False):
            found.compare(program, stacklevel=5)

    def _load_live(self, live: Live, line: Deployment, program: Program, accepted: Restrictions) -> _Served:
        """Load what is live; a candidate that cannot be loaded here must not be in the way of that."""
        loaded, candidate = self.registry.load(live.ref, program), None
        if live.canary is not None:
            try:
                candidate = self.registry.load(live.canary.candidate, program)
            except DspyNbError:
                logger.exception("%s: the canary is not served by this process", self.name)
                live = live._replace(canary=None)
        refs = [live.ref, *([live.canary.candidate] if live.canary is not None else [])]
        conditions = tuple(self._conditions(self.registry.get(ref), line.evidence) for ref in refs)
        return _Served(line, live, program, loaded, candidate, accepted, conditions, 0.0)

    def check_health(
        self,
        settings: MonitorSettings | None = None,
        *,
        on_alert: Callable[[HealthReport], object] | None = None,
    ) -> HealthReport:
        """Look whether what is live is still as good as what it was deployed on; any process may, at any time.

        Objectives are the mean outcome against the level that the version was deployed on, and where the settings
        say so the share of requests that fail and that take too long. A degradation is told once for each
        deployment and objective, whichever process finds it: to the log, to ``on_alert``, to the webhook. What
        one of them has not taken, because it failed, took longer than ``timeout_s`` or the process died, is told
        again by the next look of any process, with the same ``alert_id``. Where the settings say so it is rolled
        back, unless an automatic roll-back brought the version back.

        Args:
            settings: What to hold it to; by default ``[monitor.<name>]`` of ``registry/config.toml``.
            on_alert: Called with the report when a degradation is found, in a thread of its own.

        Raises:
            NotFound: Nothing is live.
            InputError: The settings are not valid; or there is no objective: no level is known, and no limit of
                latency or errors is set.
            RegistryError: The traffic cannot be read.
        """
        from dspy_nb.core.deployment.monitor import check_health

        return check_health(self, settings, on_alert)

    def _changed(self) -> None:
        with self._serving:
            self._served = None  # this process need not wait for its own deployment

    def _advance_soon(self) -> None:
        """Let a canary go on, at most once a second; whoever records an outcome must not suffer from it."""
        now = time.monotonic()
        if now < self._advance_at:
            return
        self._advance_at = now + _ADVANCE_EVERY_S
        try:
            self.advance_canary()
        except DspyNbError as error:
            logger.error("%s: the canary cannot go on: %s", self.name, error)


@dataclass(frozen=True, slots=True)
class _Served:
    """The programs that are served: since which line of the history, for which argument, until when."""

    line: Deployment
    live: Live
    given: Program
    program: dspy.Module
    candidate: dspy.Module | None
    restrictions: Restrictions
    conditions: tuple[Conditions, ...]
    look_at: float

    def program_of(self, to: Route) -> dspy.Module:
        return self.candidate if to.is_b and self.candidate is not None else self.program
