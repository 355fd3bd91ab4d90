"""Optimize, measure, compare and ship DSPy programs without leaving the notebook.

    import dspy_nb as nb

Every public name is imported when it is first used, so that importing the package costs next to nothing and
changes nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what __getattr__ does, for type checkers
    from dspy_nb import plots
    from dspy_nb.core.ab.compare import compare, compare_many
    from dspy_nb.core.ab.comparison import Comparison, Comparisons
    from dspy_nb.core.ab.experiment import Experiment
    from dspy_nb.core.ab.status import ExperimentStatus, FixedTest
    from dspy_nb.core.data.examples import load_examples, split
    from dspy_nb.core.data.identity import fingerprint
    from dspy_nb.core.data.metrics import Metric, accuracy, as_metric, exact_match, partial_credit, token_f1
    from dspy_nb.core.deployment.canary_log import Canary
    from dspy_nb.core.deployment.canary_state import CanaryStatus
    from dspy_nb.core.deployment.environment import Environment
    from dspy_nb.core.deployment.health import HealthReport, ObjectiveHealth
    from dspy_nb.core.deployment.history import Deployment
    from dspy_nb.core.deployment.objectives import MonitorSettings
    from dspy_nb.core.errors import (
        Conflict,
        Corrupt,
        DspyNbError,
        GateFailed,
        InputError,
        ModelNotInstalled,
        NotFound,
        OptimizationFailed,
        Refused,
        RegistryError,
    )
    from dspy_nb.core.evaluation.evaluate import evaluate
    from dspy_nb.core.evaluation.scorecard import Evaluation
    from dspy_nb.core.events import CandidateScored, Completed, Event, Failed, Progress, Started, read_events
    from dspy_nb.core.local.engine import local_lm
    from dspy_nb.core.local.install import install_model
    from dspy_nb.core.models.version import ModelVersion
    from dspy_nb.core.optimization.budget import Budget
    from dspy_nb.core.optimization.optimize import estimate, optimize
    from dspy_nb.core.optimization.presets import Preset, get_preset, list_presets, save_preset
    from dspy_nb.core.optimization.run import OptimizationRun
    from dspy_nb.core.optimization.task import Task
    from dspy_nb.core.pipeline.folder import PipelineResult
    from dspy_nb.core.pipeline.gate import GateResult, QualityGate
    from dspy_nb.core.pipeline.pipeline import PipelineRules, run_pipeline
    from dspy_nb.core.registry.registry import Registry
    from dspy_nb.core.statistics.sample_sizes import Plan, plan
    from dspy_nb.notebook.widgets.ab import ABPanel
    from dspy_nb.notebook.widgets.progress import ProgressPanel
    from dspy_nb.notebook.widgets.registry import RegistryBrowser

__version__ = "0.1.0"

__all__ = [
    "ABPanel",
    "Budget",
    "Canary",
    "CanaryStatus",
    "CandidateScored",
    "Comparison",
    "Comparisons",
    "Completed",
    "Conflict",
    "Corrupt",
    "Deployment",
    "DspyNbError",
    "Environment",
    "Evaluation",
    "Event",
    "Experiment",
    "ExperimentStatus",
    "Failed",
    "FixedTest",
    "GateFailed",
    "GateResult",
    "HealthReport",
    "InputError",
    "Metric",
    "ModelNotInstalled",
    "ModelVersion",
    "MonitorSettings",
    "NotFound",
    "ObjectiveHealth",
    "OptimizationFailed",
    "OptimizationRun",
    "PipelineResult",
    "PipelineRules",
    "Plan",
    "Preset",
    "Progress",
    "ProgressPanel",
    "QualityGate",
    "Refused",
    "Registry",
    "RegistryBrowser",
    "RegistryError",
    "Started",
    "Task",
    "__version__",
    "accuracy",
    "as_metric",
    "compare",
    "compare_many",
    "estimate",
    "evaluate",
    "exact_match",
    "fingerprint",
    "get_preset",
    "install_model",
    "list_presets",
    "load_examples",
    "local_lm",
    "optimize",
    "partial_credit",
    "plan",
    "plots",
    "read_events",
    "run_pipeline",
    "save_preset",
    "split",
    "token_f1",
]

_NAMES = {
    "core.ab.compare": "compare compare_many",
    "core.ab.comparison": "Comparison Comparisons",
    "core.ab.experiment": "Experiment",
    "core.ab.status": "ExperimentStatus FixedTest",
    "core.data.examples": "load_examples split",
    "core.data.identity": "fingerprint",
    "core.data.metrics": "Metric accuracy as_metric exact_match partial_credit token_f1",
    "core.deployment.canary_state": "CanaryStatus",
    "core.deployment.canary_log": "Canary",
    "core.deployment.environment": "Environment",
    "core.deployment.health": "HealthReport ObjectiveHealth",
    "core.deployment.history": "Deployment",
    "core.deployment.objectives": "MonitorSettings",
    "core.errors": "Conflict Corrupt DspyNbError GateFailed InputError ModelNotInstalled NotFound "
    "OptimizationFailed Refused RegistryError",
    "core.evaluation.evaluate": "evaluate",
    "core.evaluation.scorecard": "Evaluation",
    "core.events": "CandidateScored Completed Event Failed Progress Started read_events",
    "core.local.engine": "local_lm",
    "core.local.install": "install_model",
    "core.models.version": "ModelVersion",
    "core.optimization.budget": "Budget",
    "core.optimization.optimize": "estimate optimize",
    "core.optimization.presets": "Preset get_preset list_presets save_preset",
    "core.optimization.run": "OptimizationRun",
    "core.optimization.task": "Task",
    "core.pipeline.folder": "PipelineResult",
    "core.pipeline.gate": "GateResult QualityGate",
    "core.pipeline.pipeline": "PipelineRules run_pipeline",
    "core.registry.registry": "Registry",
    "core.statistics.sample_sizes": "Plan plan",
    "notebook.widgets.ab": "ABPanel",
    "notebook.widgets.progress": "ProgressPanel",
    "notebook.widgets.registry": "RegistryBrowser",
}
_MODULES = {name: module for module, names in _NAMES.items() for name in names.split()}

FRONTS = {
    "text": "dspy_nb.views.documents:to_text",
    "markdown": "dspy_nb.views.documents:to_markdown",
    "html": "dspy_nb.views.documents:to_html",
    "plot": "dspy_nb.plots.runs:plot_run",
}
"""Who answers at the doors of core (``core/doors.py``), as ``module:function``."""


def __getattr__(name: str) -> Any:
    """Import a public name at its first use (PEP 562)."""
    if name == "plots":
        return importlib.import_module(f"{__name__}.plots")
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Return the public names, imported or not, for tab completion."""
    return sorted({*globals(), *__all__})


def load_ipython_extension(ipython: Any) -> None:
    """Register the magics (``%load_ext dspy_nb``)."""
    from dspy_nb.notebook.optimize import load_ipython_extension as load

    load(ipython)


def unload_ipython_extension(ipython: Any) -> None:
    """Take the magics away again (``%unload_ext dspy_nb``)."""
    from dspy_nb.notebook.optimize import unload_ipython_extension as unload

    unload(ipython)
