"""What %load_ext adds to IPython: the magics, their defaults, completion."""

from __future__ import annotations

from typing import Any

from traitlets import Bool, Float, Int, TraitError, Unicode, validate
from traitlets.config import Configurable

__all__ = ["DspyNb", "install", "uninstall"]


class DspyNb(Configurable):
    """Defaults of the magics, set with ``%config DspyNb.<name> = value``."""

    registry = Unicode("registry", help="Folder of the registry.").tag(config=True)
    num_threads = Int(0, min=0, help="Program calls at a time; 0 for DSPy's own setting.").tag(config=True)
    confidence = Float(0.95, help="Confidence of intervals, between 0 and 1.").tag(config=True)
    quiet = Bool(False, help="Show no progress.").tag(config=True)

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


def install(ipython: Any) -> None:
    """Register everything; if it is registered already, do nothing."""
    from dspy_nb.notebook.magics import PATTERN, DspyNbMagics, complete

    if DspyNbMagics.__name__ in ipython.magics_manager.registry:
        return
    defaults = DspyNb(parent=ipython)
    ipython.configurables.append(defaults)
    ipython.register_magics(DspyNbMagics(ipython, defaults))
    ipython.set_hook("complete_command", complete, re_key=PATTERN)


def uninstall(ipython: Any) -> None:
    """Take everything away again."""
    from dspy_nb.notebook.magics import PATTERN, DspyNbMagics

    registered = ipython.magics_manager.registry.pop(DspyNbMagics.__name__, None)
    if registered is None:
        return
    for kind, names in registered.magics.items():
        for name in names:
            ipython.magics_manager.magics[kind].pop(name, None)
    ipython.configurables[:] = [
        c for c in ipython.configurables if c is not registered and not isinstance(c, DspyNb)
    ]
    completers = ipython.strdispatchers["complete_command"].regexs
    for pattern in [pattern for pattern in completers if pattern.pattern == PATTERN]:
        del completers[pattern]
