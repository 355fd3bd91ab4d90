"""Alerts: stored together with the decision that raised them, and told until somebody has confirmed them.

An alert is told to each of its targets at least once: to the log, and where they are set to the webhook and to
``on_alert``. What was not confirmed, because the receiver failed or the process died, is told by the next look of
any process; an alert that a receiver gets twice has the same id both times.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import platform
import uuid
from collections.abc import Callable
from concurrent.futures import wait
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from dspy_nb.core.deployment.health import HealthReport
from dspy_nb.core.deployment.webhook import post
from dspy_nb.core.errors import RegistryError
from dspy_nb.core.programs.interrupts import begin
from dspy_nb.core.text import error_text

if TYPE_CHECKING:
    from dspy_nb.core.deployment.objectives import MonitorSettings
    from dspy_nb.core.traffic.store import Traffic

logger = logging.getLogger(__name__)

_CLAIM_S: Final = 60.0  # longer than any look takes besides the telling itself
_FAILED: Final = {"webhook": "the webhook was not reached", "on_alert": "on_alert failed"}

_under_way: set[tuple[str, str, str]] = set()
"""What threads of this process are telling: file, alert and target."""


class _Delivery(NamedTuple):
    alert: str
    target: str
    report: str


class Alerts:
    """The alerts of an environment, for one look at it.

    Args:
        traffic: Where they are stored.
        settings: Those of the monitor.
        on_alert: A function that gets the report, if there is one.
    """

    def __init__(
        self, traffic: Traffic, settings: MonitorSettings, on_alert: Callable[[HealthReport], object] | None
    ) -> None:
        self._traffic, self._timeout_s = traffic, settings.timeout_s
        self._claim = _new_claim()
        self._targets: dict[str, Callable[[HealthReport], object]] = {"log": _log}
        if on_alert is not None:
            self._targets["on_alert"] = on_alert
        if (webhook := settings.webhook) is not None:
            self._targets["webhook"] = lambda report: post(webhook, _make_body(report), settings.timeout_s)

    def store(self, report: HealthReport) -> HealthReport:
        """Store an alert of the objectives whose degradation nobody has found before, if there are any.

        Returns:
            The report, with ``alerts`` and ``alert_id`` if there are.
        """
        with self._traffic.file.writing() as connection:
            now = self._traffic.clock()
            new = []
            for item in report.degraded:
                facts = json.dumps(item.to_evidence().to_dict(), allow_nan=False)
                row = (report.deployment, item.name, now, facts)
                if connection.execute("INSERT OR IGNORE INTO alerts VALUES (?, ?, ?, ?)", row).rowcount:
                    new.append(item.name)
            if new:
                report = replace(report, alerts=tuple(new), alert_id=uuid.uuid4().hex)
                until = now + self._timeout_s + _CLAIM_S
                connection.executemany(
                    "INSERT INTO deliveries VALUES (?, ?, ?, ?, ?, ?, NULL)",
                    [(report.alert_id, to, _dump(report), now, self._claim, until) for to in self._targets],
                )
        return report

    def complete(self, report: HealthReport) -> None:
        """Store what was done about an alert of this look, so that its receivers are told that too."""
        with self._traffic.file.writing() as connection:
            query = "UPDATE deliveries SET report = ? WHERE alert = ?"
            connection.execute(query, (_dump(report), report.alert_id))

    def tell(self) -> None:
        """Tell what nobody has confirmed. That may fail, which is logged; it is told again by the next look."""
        if not self._traffic.path.exists():
            return
        failed: set[str] = set()
        try:
            for delivery in self._claim_mine():
                if delivery.target not in failed and not self._deliver(delivery):
                    failed.add(delivery.target)
        except RegistryError as error:
            logger.error("quality monitor: whether there are alerts to be told is not known: %s", error)
        finally:
            with contextlib.suppress(RegistryError), self._traffic.file.writing() as connection:
                connection.execute("UPDATE deliveries SET claim = NULL WHERE claim = ?", (self._claim,))

    def _claim_mine(self) -> list[_Delivery]:
        """Return what this look is to tell: nobody is telling it who is still alive."""
        query = (
            "SELECT alert, target, report, claim, claimed_until FROM deliveries WHERE told_at IS NULL "
            "ORDER BY at, alert, target"
        )
        with self._traffic.file.writing() as connection:
            now = self._traffic.clock()
            mine = [
                _Delivery(alert, target, report)
                for alert, target, report, claim, until in connection.execute(query).fetchall()
                if target in self._targets
                and (claim in (None, self._claim) or until < now or not _is_alive(claim))
                and (str(self._traffic.path), alert, target) not in _under_way
            ]
            until = now + len(mine) * self._timeout_s + _CLAIM_S
            connection.executemany(
                "UPDATE deliveries SET claim = ?, claimed_until = ? WHERE alert = ? AND target = ?",
                [(self._claim, until, delivery.alert, delivery.target) for delivery in mine],
            )
        return mine

    def _deliver(self, delivery: _Delivery) -> bool:
        """Tell an alert to a target; return whether that was confirmed in time."""
        key = (str(self._traffic.path), delivery.alert, delivery.target)

        def work() -> None:
            try:
                report = HealthReport.from_dict(json.loads(delivery.report))
                self._targets[delivery.target](report)
                with self._traffic.file.writing() as connection:
                    query = "UPDATE deliveries SET told_at = ? WHERE alert = ? AND target = ?"
                    connection.execute(query, (self._traffic.clock(), delivery.alert, delivery.target))
            finally:
                _under_way.discard(key)

        # Whatever a receiver hangs in, in the search for its address too, holds up a thread of its own only.
        _under_way.add(key)
        _, told = begin(work, "dspy-nb-alert")
        in_time = bool(wait([told], self._timeout_s).done)
        failure = told.exception() if in_time else None
        if in_time and failure is None:
            return True
        why = f"not done within {self._timeout_s:g} s" if failure is None else _explain(failure)
        what = _FAILED.get(delivery.target, "the log was not written")
        logger.error("quality monitor: %s: %s; the next look tells it again", what, why)
        return False


def _dump(report: HealthReport) -> str:
    return json.dumps(report.to_dict(), allow_nan=False)


def _make_body(report: HealthReport) -> dict[str, Any]:
    """Return what is posted: the sentence as ``text``, which chat systems show, the id, and everything else."""
    return {"text": report.sentence(), "id": report.alert_id, **report.to_dict(bins=False)}


def _explain(error: BaseException) -> str:
    return str(error) if isinstance(error, RegistryError) else error_text(error, 200) or type(error).__name__


def _log(report: HealthReport) -> None:
    logger.warning("quality monitor: %s", report.sentence())


# -- who is telling ---------------------------------------------------------------------------------------------


def _new_claim() -> str:
    import psutil

    return f"{uuid.uuid4().hex} {os.getpid()} {psutil.Process().create_time()} {platform.node()}"


def _is_alive(claim: str) -> bool:
    """Tell whether the process that made a claim may still be there; on another machine it may."""
    import psutil

    _, pid, started, node = claim.split(" ", 3)
    if node != platform.node():
        return True
    try:
        process = psutil.Process(int(pid))
        return str(process.create_time()) == started and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
