"""How many examples Hypothesis tries; ``pytest --hypothesis-profile`` chooses among fast, ci and full.

No deadline, and nothing is too slow: a busy machine is not a bug. Only the full profile tries other examples each
time; elsewhere a red run is about the change.
"""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, settings

_PATIENT: dict[str, Any] = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}

settings.register_profile("fast", max_examples=20, derandomize=True, **_PATIENT)
settings.register_profile("ci", max_examples=40, derandomize=True, **_PATIENT)
settings.register_profile("full", max_examples=1000, derandomize=False, **_PATIENT)
settings.load_profile("ci")


def tries(times: float, **others: Any) -> settings:
    """Settings for what is dear or has much to find: so many times the examples of the profile."""
    return settings(max_examples=max(1, round(times * settings.default.max_examples)), **others)
