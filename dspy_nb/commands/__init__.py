"""The commands, each declared once for the shell (``dspy-nb ...``) and for the notebook (``%dspy_...``)."""

from __future__ import annotations

from typing import Final

from dspy_nb.commands import (
    ab,
    deployment,
    evaluate,
    monitor,
    optimize,
    pipeline,
    presets,
    registry,
    runs,
    sweep,
)
from dspy_nb.commands.declaration import Verb

COMMANDS: Final[tuple[Verb, ...]] = (
    ab.ab_test,
    deployment.archive,
    deployment.deploy,
    deployment.promote,
    deployment.rollback,
    evaluate.evaluate,
    evaluate.gate,
    monitor.canary,
    monitor.monitor,
    optimize.optimize,
    pipeline.pipeline,
    presets.presets,
    registry.check,
    registry.copy,
    registry.diff,
    registry.history,
    registry.list_versions,
    registry.register,
    registry.registry,
    registry.show,
    runs.runs,
    sweep.sweep,
)
"""Every command that a shell or a notebook has; a new one is added here."""
