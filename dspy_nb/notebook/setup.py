"""What %load_ext adds to IPython besides the magics: defaults and completion."""

from __future__ import annotations

from typing import Any

from traitlets import Bool, Float, Int, TraitError, Unicode, validate
from traitlets.config import Configurable

from dspy_nb.notebook.completion import PATTERN, completer

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


def install(ipython: Any, *magics: type) -> None:
    """Register everything; if it is registered already, do nothing."""
    if magics[0].__name__ in ipython.magics_manager.registry:
        return
    defaults = DspyNb(parent=ipython)
    ipython.configurables.append(defaults)
    for kind in magics:
        ipython.register_magics(kind(ipython, defaults))
    ipython.set_hook("complete_command", completer(ipython), re_key=PATTERN)


def uninstall(ipython: Any, *magics: type) -> None:
    """Take everything away again."""
    registry = ipython.magics_manager.registry
    registered = [registry.pop(kind.__name__) for kind in magics if kind.__name__ in registry]
    if not registered:
        return
    for instance in registered:
        for kind, names in instance.magics.items():
            for name in names:
                ipython.magics_manager.magics[kind].pop(name, None)
    ipython.configurables[:] = [
        c for c in ipython.configurables if c not in registered and not isinstance(c, DspyNb)
    ]
    completers = ipython.strdispatchers["complete_command"].regexs
    for pattern in [pattern for pattern in completers if pattern.pattern == PATTERN]:
        del completers[pattern]
