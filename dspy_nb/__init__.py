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
    from dspy_nb.core.budget import Budget
    from dspy_nb.core.canary_log import Canary
    from dspy_nb.core.canary_state import CanaryStatus
    from dspy_nb.core.comparison import compare, compare_many
    from dspy_nb.core.comparison_result import Comparison, Comparisons
    from dspy_nb.core.data import fingerprint, load_examples, split
    from dspy_nb.core.deployment import Deployment, Environment
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
    from dspy_nb.core.evaluation import Evaluation, evaluate
    from dspy_nb.core.events import CandidateScored, Completed, Event, Failed, Progress, Started, read_events
    from dspy_nb.core.experiment import Experiment
    from dspy_nb.core.experiment_status import ExperimentStatus, FixedTest
    from dspy_nb.core.gate import GateResult, QualityGate
    from dspy_nb.core.health import HealthReport, ObjectiveHealth
    from dspy_nb.core.local import local_lm
    from dspy_nb.core.local_install import install_model
    from dspy_nb.core.metrics import Metric, accuracy, as_metric, exact_match, partial_credit, token_f1
    from dspy_nb.core.model_version import ModelVersion
    from dspy_nb.core.objectives import MonitorSettings
    from dspy_nb.core.optimization import estimate, optimize
    from dspy_nb.core.pipeline import PipelineRules, PipelineTask, run_pipeline
    from dspy_nb.core.pipeline_folder import PipelineResult
    from dspy_nb.core.planning import Plan, plan
    from dspy_nb.core.presets import Preset, get_preset, list_presets, save_preset
    from dspy_nb.core.registry import Registry
    from dspy_nb.core.run import OptimizationRun
    from dspy_nb.widgets.ab import ABPanel
    from dspy_nb.widgets.progress import ProgressPanel
    from dspy_nb.widgets.registry import RegistryBrowser

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
    "PipelineTask",
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
    "core.budget": "Budget",
    "core.canary_log": "Canary",
    "core.canary_state": "CanaryStatus",
    "core.comparison": "compare compare_many",
    "core.comparison_result": "Comparison Comparisons",
    "core.data": "fingerprint load_examples split",
    "core.deployment": "Deployment Environment",
    "core.errors": "Conflict Corrupt DspyNbError GateFailed InputError ModelNotInstalled NotFound "
    "OptimizationFailed Refused RegistryError",
    "core.evaluation": "Evaluation evaluate",
    "core.events": "CandidateScored Completed Event Failed Progress Started read_events",
    "core.experiment": "Experiment",
    "core.experiment_status": "ExperimentStatus FixedTest",
    "core.gate": "GateResult QualityGate",
    "core.health": "HealthReport ObjectiveHealth",
    "core.local": "local_lm",
    "core.local_install": "install_model",
    "core.metrics": "Metric accuracy as_metric exact_match partial_credit token_f1",
    "core.model_version": "ModelVersion",
    "core.objectives": "MonitorSettings",
    "core.optimization": "estimate optimize",
    "core.pipeline": "PipelineRules PipelineTask run_pipeline",
    "core.pipeline_folder": "PipelineResult",
    "core.planning": "Plan plan",
    "core.presets": "Preset get_preset list_presets save_preset",
    "core.registry": "Registry",
    "core.run": "OptimizationRun",
    "widgets.ab": "ABPanel",
    "widgets.progress": "ProgressPanel",
    "widgets.registry": "RegistryBrowser",
}
_MODULES = {name: module for module, names in _NAMES.items() for name in names.split()}


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
    from dspy_nb.magics import load_ipython_extension as load

    load(ipython)


def unload_ipython_extension(ipython: Any) -> None:
    """Take the magics away again (``%unload_ext dspy_nb``)."""
    from dspy_nb.magics import unload_ipython_extension as unload

    unload(ipython)
