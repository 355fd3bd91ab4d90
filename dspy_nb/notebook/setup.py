"""What %load_ext adds to IPython besides the magics: defaults, the display of results, completion."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from traitlets import Bool, Float, Int, TraitError, Unicode, validate
from traitlets.config import Configurable

from dspy_nb.core.ab.comparison import Comparison, Comparisons
from dspy_nb.core.ab.status import ExperimentStatus
from dspy_nb.core.deployment.canary_state import CanaryStatus
from dspy_nb.core.deployment.health import HealthReport
from dspy_nb.core.deployment.history import Deployment
from dspy_nb.core.evaluation.evaluate import Evaluation
from dspy_nb.core.evidence import GateResult
from dspy_nb.core.models.version import ModelVersion
from dspy_nb.core.optimization.estimates import Estimate
from dspy_nb.core.optimization.presets import Preset
from dspy_nb.core.optimization.run import OptimizationRun
from dspy_nb.core.pipeline.folder import PipelineResult
from dspy_nb.core.registry.diff import VersionDiff
from dspy_nb.core.statistics.sample_sizes import Plan
from dspy_nb.notebook.completion import PATTERN, completer
from dspy_nb.views.comparison import comparison_html, comparison_text
from dspy_nb.views.evaluation import evaluation_html
from dspy_nb.views.experiment import experiment_html, experiment_text
from dspy_nb.views.listings import (
    deployments_html,
    deployments_text,
    presets_html,
    presets_text,
    versions_html,
    versions_text,
)
from dspy_nb.views.monitor import canary_html, canary_text, health_html, health_text
from dspy_nb.views.pipeline import pipeline_html, pipeline_text
from dspy_nb.views.run import estimate_text, run_html, run_text

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


# Results know nothing of notebooks; these show them there, in text and in HTML.
_VIEWS: dict[type, tuple[Callable[[Any], str], Callable[[Any], str] | None]] = {
    OptimizationRun: (run_text, run_html),
    Evaluation: (Evaluation.report, evaluation_html),
    PipelineResult: (pipeline_text, pipeline_html),
    Comparison: (comparison_text, comparison_html),
    Comparisons: (comparison_text, comparison_html),
    ExperimentStatus: (experiment_text, experiment_html),
    Estimate: (estimate_text, None),
    GateResult: (GateResult.report, None),
    Plan: (str, None),
    VersionDiff: (str, VersionDiff.to_html),
    Deployment: (lambda made: deployments_text([made]), lambda made: deployments_html([made])),
    ModelVersion: (lambda version: versions_text([version]), lambda version: versions_html([version])),
    HealthReport: (health_text, health_html),
    CanaryStatus: (canary_text, canary_html),
    Preset: (lambda preset: presets_text([preset]), lambda preset: presets_html([preset])),
}


def install(ipython: Any, *magics: type) -> None:
    """Register everything; if it is registered already, do nothing."""
    if magics[0].__name__ in ipython.magics_manager.registry:
        return
    defaults = DspyNb(parent=ipython)
    ipython.configurables.append(defaults)
    for kind in magics:
        ipython.register_magics(kind(ipython, defaults))
    formatters = ipython.display_formatter.formatters
    for shown, (text, html) in _VIEWS.items():
        formatters["text/plain"].for_type(shown, _printer(text))
        if html is not None:
            formatters["text/html"].for_type(shown, html)
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
    formatters = ipython.display_formatter.formatters
    for shown in _VIEWS:
        for name in ("text/plain", "text/html"):
            formatters[name].type_printers.pop(shown, None)
    completers = ipython.strdispatchers["complete_command"].regexs
    for pattern in [pattern for pattern in completers if pattern.pattern == PATTERN]:
        del completers[pattern]


def _printer(text: Callable[[Any], str]) -> Callable[[Any, Any, bool], None]:
    def show(value: Any, printer: Any, cycle: bool) -> None:
        # Within a list or a dict a report would be out of place.
        printer.text(text(value) if len(printer.stack) == 1 else repr(value))

    return show
