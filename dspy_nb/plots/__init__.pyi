"""The list of the figures, for Python, where lazy-loader reads it, and for type checkers."""

from .comparisons import plot_arms as plot_arms
from .comparisons import plot_comparison as plot_comparison
from .comparisons import plot_effects as plot_effects
from .comparisons import plot_experiment as plot_experiment
from .comparisons import plot_flips as plot_flips
from .comparisons import plot_sequence as plot_sequence
from .evaluation import plot_classes as plot_classes
from .evaluation import plot_confusion as plot_confusion
from .evaluation import plot_evaluation as plot_evaluation
from .evaluation import plot_latency as plot_latency
from .evaluation import plot_slices as plot_slices
from .registry import plot_health as plot_health
from .registry import plot_history as plot_history
from .runs import plot_candidates as plot_candidates
from .runs import plot_held_out as plot_held_out
from .runs import plot_run as plot_run
from .sweeps import plot_sweep as plot_sweep
