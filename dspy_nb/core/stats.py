"""The statistics of dspy_nb, pure and without DSPy: everything here takes numbers and returns numbers."""

from __future__ import annotations

from dspy_nb.core.means import bca_interval
from dspy_nb.core.proportions import critical_value, wilson_interval

__all__ = ["bca_interval", "critical_value", "wilson_interval"]
