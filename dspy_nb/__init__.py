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

__version__ = "0.1.0"

__all__ = [
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
    "QualityGate",
    "Refused",
    "Registry",
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
    "budget": "Budget",
    "canary_log": "Canary",
    "canary_state": "CanaryStatus",
    "comparison": "compare compare_many",
    "comparison_result": "Comparison Comparisons",
    "data": "fingerprint load_examples split",
    "deployment": "Deployment Environment",
    "errors": "Conflict Corrupt DspyNbError GateFailed InputError ModelNotInstalled NotFound "
    "OptimizationFailed Refused RegistryError",
    "evaluation": "Evaluation evaluate",
    "events": "CandidateScored Completed Event Failed Progress Started read_events",
    "experiment": "Experiment",
    "experiment_status": "ExperimentStatus FixedTest",
    "gate": "GateResult QualityGate",
    "health": "HealthReport ObjectiveHealth",
    "local": "local_lm",
    "local_install": "install_model",
    "metrics": "Metric accuracy as_metric exact_match partial_credit token_f1",
    "model_version": "ModelVersion",
    "objectives": "MonitorSettings",
    "optimization": "estimate optimize",
    "pipeline": "PipelineRules PipelineTask run_pipeline",
    "pipeline_folder": "PipelineResult",
    "planning": "Plan plan",
    "presets": "Preset get_preset list_presets save_preset",
    "registry": "Registry",
    "run": "OptimizationRun",
}
_MODULES = {name: module for module, names in _NAMES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    """Import a public name at its first use (PEP 562)."""
    if name == "plots":
        return importlib.import_module(f"{__name__}.plots")
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.core.{_MODULES[name]}"), name)
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
