"""Figures of runs, evaluations, comparisons, experiments, models and environments, for notebooks and reports.

Each function draws into ``ax`` if one is given, else into a figure of its own, and returns the figure; nothing
is shown or kept by pyplot, so a notebook shows what a cell returns, once.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
