"""Telling others of a degradation: the log of the process, a function of the caller, a web address.

Each is tried once, and none of them can do harm: what fails is logged.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Final

from dspy_nb.core.health import HealthReport
from dspy_nb.core.objectives import MonitorSettings

__all__ = ["send_alerts"]

logger = logging.getLogger(__name__)

_ANSWERS_READ: Final = 1024


def send_alerts(
    report: HealthReport, settings: MonitorSettings, on_alert: Callable[[HealthReport], object] | None
) -> None:
    """Log a degradation, call ``on_alert`` with the report, and post it to the webhook."""
    logger.warning("quality monitor: %s", report.sentence())
    if on_alert is not None:
        try:
            on_alert(report)
        except Exception:
            logger.exception("quality monitor: on_alert failed")
    if settings.webhook is not None:
        try:
            _post(settings.webhook, report, settings.timeout_s)
        except Exception as error:
            logger.error(
                "quality monitor: the webhook was not reached: %s", " ".join(str(error).split())[:200]
            )


def _post(address: str, report: HealthReport, timeout_s: float) -> None:
    """Post the report: its sentence as ``text``, which chat systems show, and everything else."""
    from urllib.request import Request, urlopen

    body = {"text": report.sentence(), **report.to_dict(bins=False)}
    content = json.dumps(body, allow_nan=False).encode()
    request = Request(address, content, {"Content-Type": "application/json"}, method="POST")
    with urlopen(request, timeout=timeout_s) as answer:
        answer.read(_ANSWERS_READ)
