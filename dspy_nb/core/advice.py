"""What the registry allows, but whoever does it should know."""

from __future__ import annotations

from collections.abc import Sequence

from dspy_nb.core.deployment_log import Deployment
from dspy_nb.core.stages import HistoryEntry

__all__ = ["advice_on_deployment", "advice_on_promotion"]


def advice_on_promotion(history: Sequence[HistoryEntry]) -> str | None:
    """Return what to know about the promotion that was just made, ``None`` if nothing.

    Args:
        history: Of the model, the promotion last.
    """
    made = history[-1]
    if made.demoted is None:
        return None
    compared = [
        entry
        for entry in history
        if entry.version == made.version and entry.evidence and entry.evidence.get("kind") == "ab"
    ]
    if compared:
        return None
    return (
        f"{made.version} replaces {made.demoted} in production, and the two were never compared: dspy-nb ab-test, "
        "or %dspy_ab in a notebook, says which is better"
    )


def advice_on_deployment(made: Deployment) -> str | None:
    """Return what to know about the deployment that was just made, ``None`` if nothing."""
    if made.action == "deploy" and not made.rollback_available:
        return "nothing was live there before, so there is nothing to roll back to yet"
    return None
