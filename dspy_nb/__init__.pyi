"""The list of public names, for Python, where lazy-loader reads it, and for type checkers."""

import typing

from . import plots as plots
from .core.ab.compare import compare as compare
from .core.ab.compare import compare_many as compare_many
from .core.ab.comparison import Comparison as Comparison
from .core.ab.comparison import Comparisons as Comparisons
from .core.ab.experiment import Experiment as Experiment
from .core.ab.status import ExperimentStatus as ExperimentStatus
from .core.ab.status import FixedTest as FixedTest
from .core.data.examples import load_examples as load_examples
from .core.data.examples import split as split
from .core.data.identity import fingerprint as fingerprint
from .core.data.metrics import Metric as Metric
from .core.data.metrics import accuracy as accuracy
from .core.data.metrics import as_metric as as_metric
from .core.data.metrics import exact_match as exact_match
from .core.data.metrics import partial_credit as partial_credit
from .core.data.metrics import token_f1 as token_f1
from .core.deployment.canary_log import Canary as Canary
from .core.deployment.canary_state import CanaryStatus as CanaryStatus
from .core.deployment.environment import Environment as Environment
from .core.deployment.health import HealthReport as HealthReport
from .core.deployment.health import ObjectiveHealth as ObjectiveHealth
from .core.deployment.history import Deployment as Deployment
from .core.deployment.objectives import MonitorSettings as MonitorSettings
from .core.errors import Conflict as Conflict
from .core.errors import Corrupt as Corrupt
from .core.errors import DspyNbError as DspyNbError
from .core.errors import GateFailed as GateFailed
from .core.errors import InputError as InputError
from .core.errors import ModelNotInstalled as ModelNotInstalled
from .core.errors import NotFound as NotFound
from .core.errors import OptimizationFailed as OptimizationFailed
from .core.errors import Refused as Refused
from .core.errors import RegistryError as RegistryError
from .core.evaluation.evaluate import evaluate as evaluate
from .core.evaluation.scorecard import Evaluation as Evaluation
from .core.event_log import read_events as read_events
from .core.events import CandidateScored as CandidateScored
from .core.events import CellEnded as CellEnded
from .core.events import CellStarted as CellStarted
from .core.events import Compared as Compared
from .core.events import Completed as Completed
from .core.events import Evaluated as Evaluated
from .core.events import Event as Event
from .core.events import Failed as Failed
from .core.events import Progress as Progress
from .core.events import Standing as Standing
from .core.events import Started as Started
from .core.events import StepEnded as StepEnded
from .core.events import StepStarted as StepStarted
from .core.events import SweepEnded as SweepEnded
from .core.events import SweepStarted as SweepStarted
from .core.evidence import GateResult as GateResult
from .core.local.engine import local_lm as local_lm
from .core.local.install import install_model as install_model
from .core.models.version import ModelVersion as ModelVersion
from .core.optimization.budget import Budget as Budget
from .core.optimization.optimize import estimate as estimate
from .core.optimization.optimize import optimize as optimize
from .core.optimization.presets import Preset as Preset
from .core.optimization.presets import get_preset as get_preset
from .core.optimization.presets import list_presets as list_presets
from .core.optimization.presets import save_preset as save_preset
from .core.optimization.run import OptimizationRun as OptimizationRun
from .core.optimization.task import Task as Task
from .core.pipeline.folder import PipelineResult as PipelineResult
from .core.pipeline.gate import QualityGate as QualityGate
from .core.pipeline.pipeline import PipelineRules as PipelineRules
from .core.pipeline.pipeline import run_pipeline as run_pipeline
from .core.registry.registry import Registry as Registry
from .core.statistics.sample_sizes import Plan as Plan
from .core.statistics.sample_sizes import plan as plan
from .core.sweep.result import SweepCell as SweepCell
from .core.sweep.result import SweepResult as SweepResult
from .core.sweep.sweep import sweep as sweep
from .notebook.widgets.progress import ABPanel as ABPanel
from .notebook.widgets.progress import ProgressPanel as ProgressPanel
from .notebook.widgets.registry import RegistryBrowser as RegistryBrowser

__version__: str
FRONTS: dict[str, str]

def load_ipython_extension(ipython: typing.Any) -> None: ...
def unload_ipython_extension(ipython: typing.Any) -> None: ...
