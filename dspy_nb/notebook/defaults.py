"""The defaults of the magics."""

from __future__ import annotations

from typing import Any

from traitlets import Bool, Float, Int, TraitError, Unicode, observe, validate
from traitlets.config import Configurable

from dspy_nb.core.errors import DspyNbError


class DspyNb(Configurable):
    """Defaults of the magics, set with ``%config DspyNb.<name> = value``."""

    registry = Unicode("registry", help="Folder of the registry, or its URL.").tag(config=True)
    num_threads = Int(0, min=0, help="Program calls at a time; 0 for DSPy's own setting.").tag(config=True)
    confidence = Float(0.95, help="Confidence of intervals, between 0 and 1.").tag(config=True)
    quiet = Bool(False, help="Show no progress, also of calls in Python.").tag(config=True)

    short_errors = Bool(True, help="Show mistakes as one line; False for the whole traceback.").tag(
        config=True
    )

    @observe("short_errors")
    def _show_errors(self, change: Any) -> None:
        DspyNbError.short = change["new"]

    @validate("confidence")
    def _between_0_and_1(self, proposal: Any) -> Any:
        if not 0 < proposal["value"] < 1:
            raise TraitError(f"confidence must be between 0 and 1, not {proposal['value']}")
        return proposal["value"]

    def options(self) -> dict[str, Any]:
        """Return the defaults by the parameters of the commands."""
        return {
            "root": self.registry,
            "num_threads": self.num_threads or None,
            "confidence": self.confidence,
            "quiet": self.quiet,
        }
